"""The cross-validation folds that nnU-Net makes, which COVID-19-20's methods were tuned on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from covidseg.core.errors import SplitError


def nnunet_folds(case_ids: Iterable[str], folds: int = 5) -> list[tuple[list[str], list[str]]]:
    """(training, validation) case IDs of every fold, as nnU-Net draws them from the IDs alone.

    The same as scikit-learn's ``KFold(folds, shuffle=True, random_state=12345)`` on the sorted IDs
    (nnU-Net, ``generate_crossval_split``); both lists of a fold are sorted.

    Raises
    ------
    SplitError
        Fewer cases than folds, or an ID twice.
    """
    names = sorted(case_ids)
    if len(set(names)) != len(names):
        twice = next(a for a, b in itertools.pairwise(names) if a == b)
        raise SplitError(
            f"case {twice} is there twice", remedy="keep one of the two files of that name"
        )
    if len(names) < folds:
        raise SplitError(
            f"{len(names)} cases cannot make {folds} folds", expected=f"at least {folds} cases"
        )
    # The legacy generator: a newer one would draw other folds from the same seed.
    order = np.random.RandomState(12345).permutation(len(names))
    validation_of = np.array_split(order, folds)
    return [
        (
            [names[i] for i in np.sort(np.setdiff1d(order, held_out))],
            [names[i] for i in np.sort(held_out)],
        )
        for held_out in validation_of
    ]
