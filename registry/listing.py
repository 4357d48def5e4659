"""The datasets as plain values, for programs: what `covidseg datasets --json` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from covidseg.registry.dataset import Dataset, by_layout
from covidseg.registry.datasets import DATASETS
from covidseg.registry.find import FoundDatasets


def listing(found: FoundDatasets | None = None) -> dict[str, dict[str, Any]]:
    """Every dataset's declaration by key, with what was found of it, if anything was looked for."""
    return {key: _one(entry, found) for key, entry in DATASETS.items()}


def _one(entry: Dataset, found: FoundDatasets | None) -> dict[str, Any]:
    declared = {
        "title": entry.title,
        "licence": asdict(entry.licence),
        "citations": [asdict(citation) for citation in entry.citations],
        "homepages": list(entry.homepages),
        "tasks": list(entry.tasks),
        "cases": entry.expected_counts,
        "intensity": entry.intensity,
        "annotations": {
            name: {"labels": annotation.labels, "meaning": annotation.meaning}
            for name, annotation in entry.annotations.items()
        },
        "downloads": [asdict(download) for download in entry.downloads],
        "steps": list(entry.steps),
        "oddities": entry.oddities,
    }
    if found is not None:
        cases = found.of(entry.key)
        declared["found"] = {
            "cases": dict(found.counts(entry.key)),
            "layouts": dict(by_layout(cases)),
            "duplicates": sum(one.dataset == entry.key for one in found.duplicates),
        }
    return declared
