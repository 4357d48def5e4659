"""Official and patient-clean results of a task, to stand side by side.

The published splits hold one patient on both sides in some folds. Two readings avoid that:

* a model *trained* on the patient-clean split, whose scores bear the task's name with ``-clean``
  (``task1-infection-clean``); its test part is whole;
* where there is no such model, the official model's scores *without* the test cases whose patient
  its fold was trained on.

Both are called ``patient-clean``; the notes of a table say which one it shows.
"""

from __future__ import annotations

import functools

import pandas as pd

from covidseg.core.errors import ConfigError, SplitError
from covidseg.scoring.tables_values import CLEAN_SUFFIX, base_task, fold_names
from covidseg.splits.load import load_split
from covidseg.splits.tasks import SUBTASKS

OFFICIAL, CLEAN = "official", "patient-clean"


@functools.cache
def leaking_cases(task: str) -> dict[tuple[str, str, str, str], str]:
    """Test cases whose patient or scan the official split also trains on, by name alone.

    Maps ``(part, fold, dataset, case_id)`` to the training case that is the same patient; ``fold``
    is text, ``""`` without folds. Empty for tasks whose case names are not published.
    """
    folds = max((subtask.folds for subtask in SUBTASKS if subtask.name == task), default=0)
    names = {str(fold): f"{task}-fold{fold}" for fold in range(folds)} or {"": task}
    leaks = {}
    for fold, name in names.items():
        try:
            faults = load_split(name).faults
        except (SplitError, ConfigError):
            continue
        for leak in faults:
            if leak.second.part.startswith("test"):
                place, case = leak.second.part, leak.second.case
                leaks[(place, fold, case.dataset, case.case_id)] = leak.first.case.case_id
    return leaks


def with_variants(scores: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Scores with a column ``variant`` and the task's base name, and notes for the reader.

    Official rows that a leak touches come a second time as ``patient-clean`` without the leaking
    cases, unless the same algorithm has scores of the ``-clean`` task. A column ``filtered`` tells
    the two apart: what was left out of the ones is not missing because the others have it.
    """
    clean_run = scores["task"].str.endswith(CLEAN_SUFFIX)
    official = scores[~clean_run].assign(variant=OFFICIAL, filtered=False)
    pieces = [official]
    notes = []
    if clean_run.any():
        trained = scores[clean_run].assign(variant=CLEAN, filtered=False)
        trained["task"] = trained["task"].map(base_task)
        pieces.append(trained)
        notes.append("patient-clean: models trained on the split without its leaks.")
    retrained = {
        (base_task(task), algorithm)
        for task, algorithm in scores.loc[clean_run, ["task", "algorithm"]].itertuples(index=False)
    }
    filtered: dict[str, list[str]] = {}
    for (task, algorithm), rows in official.groupby(["task", "algorithm"], sort=True):
        leaks = leaking_cases(task)
        if (task, algorithm) in retrained or not leaks:
            continue
        folds = fold_names(rows["fold"])
        places = list(zip(rows["part"], folds, rows["dataset"], rows["case_id"], strict=True))
        met = sorted({place for place in places if place in leaks})
        if not met:
            continue
        kept = [place not in leaks for place in places]
        pieces.append(rows[kept].assign(variant=CLEAN, filtered=True))
        cases = "; ".join(
            f"{f'fold {place[1]}, ' if place[1] else ''}{place[3]} (trained on {leaks[place]})"
            for place in met
        )
        filtered.setdefault(cases, []).append(str(algorithm))
    for cases, algorithms in filtered.items():
        notes.append(
            f"patient-clean, {', '.join(dict.fromkeys(algorithms))}: the official models' scores "
            "without the test cases whose patient their fold was, or perhaps was, trained on: "
            f"{cases}."
        )
    return pd.concat(pieces, ignore_index=True), notes
