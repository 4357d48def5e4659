"""Files of per-case scores: one row a case and label, and the benchmark's own wide form.

Columns of a scores file, in their order:

==================== ===============================================================================
task                 subtask without its fold, e.g. ``task1-union``
algorithm            name of the method
fold                 whole number, or empty
part                 ``test``, ``test_mosmed``, ``test_seen``, ...
dataset, case_id     which case; ``patient_id`` equals ``case_id`` where the patient is not known
patient_id
label                harmonised name, e.g. ``left_lung``
dsc                  in [0, 1]; empty where it has no value
nsd_<t>mm            one column a tolerance, e.g. ``nsd_3mm``; empty where not asked for or no value
nave                 0 or more, ``inf``, or empty
volume_prediction_ml empty for pictures
volume_reference_ml
status               ``ok``, an empty mask (`covidseg.scoring.policy`), or why there are no scores
message              what went wrong, for cases without scores
policy               name of the empty-mask policy
phantom              ``true`` for procedural phantoms
==================== ===============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidseg.core.errors import ScoringError, UnreadableFileError
from covidseg.core.files import atomic_file
from covidseg.scoring.case import CaseScores
from covidseg.scoring.policy import BOTH_EMPTY, EMPTY_STATUSES, OK, POLICIES

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = ("task", "algorithm", "fold", "part", "dataset", "case_id", "patient_id", "label")
VOLUMES = ("volume_prediction_ml", "volume_reference_ml")
NOTES = ("status", "message", "policy", "phantom")
_TEXT = (*(name for name in IDENTITY if name != "fold"), "status", "message", "policy")
_REQUIRED = (*IDENTITY, "dsc", "nave", *VOLUMES, *NOTES)
_NSD_COLUMN = re.compile(r"nsd_(\d+(?:\.\d+)?(?:e[-+]?\d+)?)mm")

# Label: columns of DSC and of NSD in the files of the benchmark's COVID-19-Seg-Evaluation.py, in
# its order, and the tolerance of the second.
BENCHMARK_COLUMNS: Mapping[str, tuple[str, str, float]] = {
    "left_lung": ("L-lungDSC", "L-lung-1mm", 1.0),
    "right_lung": ("R-lungDSC", "R-lung-1mm", 1.0),
    "infection": ("LesionDSC", "LesionNSD-3mm", 3.0),
}
_FLAGS = {"true": True, "false": False, "nan": False, "": False}
_ROUNDING = 1e-9  # what other programs' shares may exceed 1 by
_AS_BENCHMARK = POLICIES["surface-distance"]  # the package that its evaluation calls
_BENCHMARK_TARGETS = {1: "infection", 2: "lung", 3: "union"}


def nsd_column(tolerance_mm: float) -> str:
    """Name of the column that holds NSD at a tolerance: ``nsd_1mm``, ``nsd_2.5mm``."""
    return f"nsd_{float(tolerance_mm):.10g}mm"


def nsd_tolerances(columns: Iterable[str]) -> list[float]:
    """Tolerances in mm of the NSD columns among ``columns``, ascending."""
    return sorted(float(match[1]) for name in columns if (match := _NSD_COLUMN.fullmatch(name)))


def rows_of(scores: CaseScores, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a label; ``identity`` holds the columns that tell the case (task, case_id, ...)."""
    return [
        {
            **identity,
            "label": label.label,
            "dsc": label.dsc,
            **{nsd_column(tolerance): value for tolerance, value in label.nsd.items()},
            "nave": label.nave,
            "volume_prediction_ml": label.volume_prediction_ml,
            "volume_reference_ml": label.volume_reference_ml,
            "status": label.status,
            "message": "",
            "policy": scores.policy,
        }
        for label in scores
    ]


def failed_rows(
    labels: Iterable[str], identity: Mapping[str, Any], status: str, message: str, policy: str
) -> list[dict[str, Any]]:
    """One row a label of a case that could not be scored: a status and a message, no values."""
    return [
        {**identity, "label": label, "status": status, "message": message, "policy": policy}
        for label in labels
    ]


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame of scores with every column of the format, in its order, from rows."""
    import pandas as pd

    return _typed(pd.DataFrame(list(rows)))


def write_scores(frame: pd.DataFrame, path: str | PathLike[str]) -> None:
    """Write per-case scores as CSV, with all digits; the file appears whole or not at all.

    Raises
    ------
    ScoringError
        Columns are missing that every scores file has.
    StorageError
        The disk cannot be written to.
    """
    absent = [name for name in IDENTITY + NOTES if name not in frame.columns]
    if absent:
        raise ScoringError(
            f"the scores lack the columns {', '.join(absent)}",
            expected="the columns that covidseg.scoring.scores lists",
        )
    table = _typed(frame).copy()
    table["phantom"] = table["phantom"].map({True: "true", False: "false"})
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def read_scores(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    task: str | None = None,
    algorithm: str | None = None,
) -> pd.DataFrame:
    """Read one or several files of per-case scores, of this format or the benchmark's.

    A file of the benchmark's ``COVID-19-Seg-Evaluation.py`` (``Name, LesionDSC, LesionNSD-3mm,
    ...``) names neither task nor method: without ``task`` and ``algorithm`` the task is
    ``infection``, ``lung`` or ``union`` by its columns, and the algorithm is the file's name. Its
    empty-mask policy is ``surface-distance``, the package whose values it took; an empty
    mask on one side cannot be told from no overlap there (DSC 0, status ``ok``).

    Parameters
    ----------
    paths
        One path, or several, whose rows follow one another.
    task, algorithm
        For files of the benchmark's form; they do not change what other files say.

    Returns
    -------
    pandas.DataFrame
        Columns as listed above; metrics float64, ``fold`` Int64, ``phantom`` bool, text as str.

    Raises
    ------
    UnreadableFileError
        A file is absent or is not a CSV file.
    ScoringError
        A file has other columns, a value that is no number where one must be, an overlap outside
        0 to 1, a negative NAVE, or a score where the status says that there is none.
    """
    import pandas as pd

    several = [paths] if isinstance(paths, str | PathLike) else list(paths)
    if not several:
        raise ScoringError("no file of scores was named", remedy="name at least one CSV file")
    frames = [_in_range(_read(Path(path), task, algorithm), Path(path)) for path in several]
    return _typed(pd.concat(frames, ignore_index=True)) if len(frames) > 1 else frames[0]


def write_benchmark_csv(frame: pd.DataFrame, path: str | PathLike[str]) -> None:
    """Write scores in the form of the benchmark's evaluation: one row a case, columns by label.

    A case that could not be scored has no row: with empty values it would be read as one whose
    masks are both empty. Where a mask is empty the values are those of that evaluation
    (``surface-distance``), whatever policy the scores were made with: the form cannot name one.

    Raises
    ------
    ScoringError
        A label that the benchmark does not have, several rows for one case and label (two methods,
        folds or parts), or no NSD at the benchmark's tolerance (1 mm lungs, 3 mm infection).
    """
    import pandas as pd

    foreign = sorted(set(frame["label"]) - set(BENCHMARK_COLUMNS))
    if foreign:
        raise ScoringError(
            f"the benchmark's file has no column for {', '.join(foreign)}",
            expected="labels among " + ", ".join(BENCHMARK_COLUMNS),
        )
    frame = frame[frame["status"].isin((OK, *EMPTY_STATUSES))]
    twice = frame[frame.duplicated(["case_id", "label"])]
    if len(twice):
        raise ScoringError(
            f"case {twice['case_id'].iloc[0]} has several rows for {twice['label'].iloc[0]}",
            expected="the scores of one method on one part",
            remedy="write one file for each method, fold and part",
        )
    wide: dict[str, pd.Series] = {}
    for label, (dsc, nsd, tolerance) in BENCHMARK_COLUMNS.items():
        rows = frame[frame["label"] == label].set_index("case_id")
        if rows.empty:
            continue
        if nsd_column(tolerance) not in rows.columns:
            raise ScoringError(
                f"{label} was not scored at {tolerance:g} mm",
                remedy=f"score with --tolerance {label}={tolerance:g}",
            )
        for column, metric, source in ((dsc, "dsc", "dsc"), (nsd, "nsd", nsd_column(tolerance))):
            values = [
                _AS_BENCHMARK.value(metric, status, value)
                for status, value in zip(rows["status"], rows[source], strict=True)
            ]
            wide[column] = pd.Series(values, index=rows.index)
    table = pd.DataFrame(wide).sort_index()
    table.insert(0, "Name", [f"{case}.nii.gz" for case in table.index])
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def strip_endings(name: str) -> str:
    """A file's name without the ending of its format (``.nii.gz``, ``.png``, ...)."""
    return re.sub(r"\.(nii(\.gz)?|png|jpe?g|bmp|tiff?)$", "", name, flags=re.IGNORECASE)


def read_text_csv(path: Path) -> pd.DataFrame:
    """The fields of a CSV file as text without blanks around it, none taken for a missing value.

    Raises
    ------
    UnreadableFileError
        The file is absent or is not a CSV file in UTF-8.
    ScoringError
        Fields are parted by something else than commas, or a row has more of them than the header.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as fault:
        raise UnreadableFileError(
            "no such file", path=path, remedy="write it with `covidseg score`"
        ) from fault
    except IsADirectoryError as fault:
        raise UnreadableFileError(
            "is a folder", path=path, expected="a file of scores", remedy=f"name {path}/*.csv, say"
        ) from fault
    except UnicodeDecodeError as fault:
        raise UnreadableFileError(
            "is not in UTF-8", path=path, remedy="save it as CSV UTF-8 (comma delimited)"
        ) from fault
    except (OSError, ValueError) as fault:  # pandas' parser errors are ValueErrors
        raise UnreadableFileError(
            f"is not a CSV file ({str(fault).strip()})", path=path, expected="a file of scores"
        ) from fault
    header = str(table.columns[0])
    # What spreadsheets write where the comma is the decimal sign.
    mark = next((mark for mark in (";", "\t") if mark in header), None)
    if mark is not None and len(table.columns) == 1:
        raise ScoringError(
            f"has fields parted by {'semicolons' if mark == ';' else 'tabs'}",
            path=path,
            expected="commas between fields and points in numbers",
            remedy="save it as CSV (comma delimited) with the decimal sign set to a point",
        )
    if not isinstance(table.index, pd.RangeIndex):
        raise ScoringError(
            "has rows of more fields than its header",
            path=path,
            expected="as many fields in every row; quotes around one that holds a comma",
        )
    table.columns = table.columns.str.strip()
    return table.apply(lambda column: column.str.strip())


def _read(path: Path, task: str | None, algorithm: str | None) -> pd.DataFrame:
    raw = read_text_csv(path)
    if "Name" in raw.columns and any(
        dsc in raw.columns or nsd in raw.columns for dsc, nsd, _ in BENCHMARK_COLUMNS.values()
    ):
        return _from_benchmark(raw, path, task, algorithm)
    absent = [name for name in _REQUIRED if name not in raw.columns]
    if absent:
        raise ScoringError(
            f"has no column {', '.join(absent)}",
            path=path,
            expected="per-case scores as `covidseg score` writes them, or the benchmark's "
            "Name, LesionDSC, LesionNSD-3mm, ...",
        )
    numbers = ["dsc", *map(nsd_column, nsd_tolerances(raw.columns)), "nave", *VOLUMES, "fold"]
    _refuse_other_kinds(raw, numbers, path)
    return _typed(raw)


def _refuse_other_kinds(raw: pd.DataFrame, numbers: Iterable[str], path: Path) -> None:
    """Raise ScoringError at a field that is no number, or no flag, where one must be."""
    import pandas as pd

    for name in (*numbers, "phantom"):
        if name not in raw.columns:
            continue
        text = raw[name].str.lower()
        if name == "phantom":
            wrong, expected = ~text.isin(list(_FLAGS)), "true or false"
        else:
            value = pd.to_numeric(text, errors="coerce")
            wrong, expected = value.isna() & ~text.isin(["", "nan"]), "a number, or nothing"
            if name == "fold":
                wrong |= value.notna() & (value % 1 != 0)
                expected = "a whole number, or nothing"
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise ScoringError(
                f"line {row + 2} has {raw[name].iloc[row]!r} in the column {name}",
                path=path,
                expected=expected,
            )


def _in_range(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The frame; ScoringError where an overlap is no share, such as one in percent, where an error
    is negative, or where there is a score that the status says cannot be.
    """
    failed = ~frame["status"].isin((OK, *EMPTY_STATUSES)) & frame["dsc"].notna()
    if failed.any():
        row = frame[failed].iloc[0]
        raise ScoringError(
            f"the status of {row['case_id']} ({row['label']}) is {row['status']!r}, yet it has a "
            "dsc",
            path=path,
            expected=f"one of {', '.join((OK, *EMPTY_STATUSES))} where there are scores",
        )
    if (frame["nave"] < 0).any():
        row = frame[frame["nave"] < 0].iloc[0]
        raise ScoringError(
            f"nave of {row['case_id']} ({row['label']}) is {row['nave']:g}",
            path=path,
            expected="0 or more; where higher has to be better, its negative is taken",
            remedy="take the sign away",
        )
    for name in ("dsc", *map(nsd_column, nsd_tolerances(frame.columns))):
        wrong = (frame[name] < 0) | (frame[name] > 1 + _ROUNDING)
        if wrong.any():
            row = frame[wrong].iloc[0]
            raise ScoringError(
                f"{name} of {row['case_id']} ({row['label']}) is {row[name]:g}",
                path=path,
                expected="a share, 0 to 1",
                remedy="divide percentages by 100" if row[name] > 1 else None,
            )
    return frame


def _from_benchmark(
    raw: pd.DataFrame, path: Path, task: str | None, algorithm: str | None
) -> pd.DataFrame:
    labels = [
        label
        for label, columns in BENCHMARK_COLUMNS.items()
        if any(column in raw.columns for column in columns[:2])
    ]
    numbers = [name for label in labels for name in BENCHMARK_COLUMNS[label][:2]]
    _refuse_other_kinds(raw, numbers, path)
    rows: list[dict[str, Any]] = []
    for entry in raw.to_dict("records"):
        case = strip_endings(entry["Name"])
        for label in labels:
            dsc, nsd, tolerance = BENCHMARK_COLUMNS[label]
            if dsc not in entry or nsd not in entry:
                raise ScoringError(
                    f"has {dsc if dsc in entry else nsd} alone",
                    path=path,
                    expected=f"the columns {dsc} and {nsd}",
                )
            rows.append(
                {
                    "task": task or _BENCHMARK_TARGETS[len(labels)],
                    "algorithm": path.stem if algorithm is None else algorithm,
                    "fold": "",
                    "part": "test",
                    "dataset": "",
                    "case_id": case,
                    "patient_id": case,
                    "label": label,
                    "dsc": entry[dsc],
                    nsd_column(tolerance): entry[nsd],
                    "status": OK if entry[dsc].lower() not in ("", "nan") else BOTH_EMPTY,
                    "policy": _AS_BENCHMARK.name,
                    "phantom": False,
                }
            )
    return frame_of(rows)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The format's columns in their order and types; columns that are not its own come last."""
    import numpy as np
    import pandas as pd

    tolerances = [nsd_column(tolerance) for tolerance in nsd_tolerances(frame.columns)]
    metrics = ["dsc", *tolerances, "nave", *VOLUMES]
    ordered = [*IDENTITY, *metrics, *NOTES]
    extra = [name for name in frame.columns if name not in ordered]
    typed = frame.reindex(columns=[*ordered, *extra]).reset_index(drop=True)
    for name in _TEXT:
        typed[name] = typed[name].astype(object).fillna("").astype(str)
    for name in metrics:
        column = typed[name]
        if not pd.api.types.is_numeric_dtype(column):
            column = column.replace("", np.nan)
        typed[name] = column.astype(np.float64)
    fold = typed["fold"]
    typed["fold"] = pd.to_numeric(
        fold if pd.api.types.is_numeric_dtype(fold) else fold.replace("", None)
    ).astype("Int64")
    unknown = typed["patient_id"] == ""
    typed.loc[unknown, "patient_id"] = typed.loc[unknown, "case_id"]
    flags = typed["phantom"].map(lambda flag: _FLAGS[str(flag).lower()])
    typed["phantom"] = flags.astype(bool)
    return typed
