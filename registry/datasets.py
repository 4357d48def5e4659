"""Every dataset of the registry, in the order they are listed. A new one is added here."""

from __future__ import annotations

import difflib

from covidseg.core.errors import ConfigError
from covidseg.registry.covid1920 import Covid1920
from covidseg.registry.covid_ct_seg import CovidCTSeg
from covidseg.registry.dataset import Dataset
from covidseg.registry.mosmed import MosMed
from covidseg.registry.msd import MSDLung
from covidseg.registry.nsclc import NSCLC
from covidseg.registry.semiseg import CovidSemiSeg
from covidseg.registry.structseg import StructSeg

DATASETS: dict[str, Dataset] = {
    dataset.key: dataset
    for dataset in (
        CovidCTSeg(),
        MosMed(),
        StructSeg(),
        NSCLC(),
        MSDLung(),
        Covid1920(),
        CovidSemiSeg(),
    )
}


def dataset(name: str) -> Dataset:
    """The dataset of that key, or known by that name.

    Raises
    ------
    ConfigError
        There is none; the message lists those there are.
    """
    names = {alias: entry for entry in DATASETS.values() for alias in (entry.key, *entry.aliases)}
    found = names.get(name.strip().lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), names, n=1)
        raise ConfigError(
            f"dataset {name!r} is not known",
            expected="one of " + ", ".join(DATASETS),
            remedy=f"did you mean {names[close[0]].key}?" if close else None,
        )
    return found
