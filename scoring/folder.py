"""Scoring a folder of predictions against a folder of references, case by case, none left out."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covidseg.core.errors import (
    ConfigError,
    CovidsegError,
    GeometryError,
    LabelError,
    LayoutError,
    ScoringError,
    SplitError,
    UnreadableFileError,
)
from covidseg.core.files import storage_error
from covidseg.core.parallel import map_cases
from covidseg.scoring.case import (
    Tolerances,
    label_names,
    score_case,
    scored_labels,
    tolerances_by_label,
)
from covidseg.scoring.metrics import check_shapes, check_spacing
from covidseg.scoring.policy import DEFAULT_POLICY, empty_mask_policy
from covidseg.scoring.scores import failed_rows, frame_of, rows_of, strip_endings
from covidseg.splits.identity import published_name

if TYPE_CHECKING:
    import pandas as pd

# Endings that tell an image from its annotation, not one case from another.
_ROLE = re.compile(r"[_-](seg|mask|ct|pred|prediction|label|gt)$", re.IGNORECASE)
_MAP_FILE = re.compile(r"\.(nii(\.gz)?|png)$", re.IGNORECASE)
_STATUS: dict[type[Exception], str] = {
    UnreadableFileError: "unreadable",
    GeometryError: "grid_mismatch",
    LabelError: "bad_labels",
}
# Ma et al., Medical Physics 48:1197, 2021: the variation between two radiologists.
_TOLERANCES_MM = {"left_lung": 1.0, "right_lung": 1.0, "infection": 3.0, "lesion": 3.0}
_CHALLENGE_TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class Settings:
    """How every case of a run is scored, and what its rows say of it; plain values only."""

    labels: dict[int, str]
    reference_labels: dict[int, str]
    tolerances_mm: dict[str, tuple[float, ...]]
    policy: str
    ignore_other_labels: bool
    picture_spacing_mm: tuple[float, float]
    task: str
    algorithm: str
    fold: int | None
    part: str
    dataset: str
    phantom: bool

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the labels that get a row."""
        return tuple(scored_labels(self.labels, self.reference_labels))

    def identity(self, case_id: str) -> dict[str, Any]:
        """The columns that tell a case from others."""
        from covidseg.splits.identity import patient_of
        from covidseg.splits.records import CaseKey

        return {
            "task": self.task,
            "algorithm": self.algorithm,
            "fold": self.fold,
            "part": self.part,
            "dataset": self.dataset,
            "case_id": case_id,
            "patient_id": patient_of(CaseKey(self.dataset, case_id)) if self.dataset else case_id,
            "phantom": self.phantom,
        }


@dataclass(frozen=True)
class Pair:
    """The files of one case; one of them may be missing."""

    case_id: str
    prediction: Path | None
    reference: Path | None


def score_folder(
    predictions: str | PathLike[str],
    references: str | PathLike[str],
    *,
    task: str | None = None,
    labels: Mapping[int, str] | None = None,
    reference_labels: Mapping[int, str] | None = None,
    tolerances_mm: Tolerances | None = None,
    policy: str = DEFAULT_POLICY,
    ignore_other_labels: bool = False,
    picture_spacing_mm: Sequence[float] = (1.0, 1.0),
    algorithm: str | None = None,
    part: str = "test",
    dataset: str | None = None,
    phantom: bool = False,
    workers: int | None = None,
    progress: bool = True,
    journal: str | PathLike[str] | None = None,
    cases: Sequence[str] | None = None,
    may_be_empty: bool = False,
) -> pd.DataFrame:
    """Score every case of two folders of label maps (NIfTI, or PNG pictures).

    Files are matched by case ID: the name without its ending and without ``_seg``, ``_mask``,
    ``_ct``, ``_pred``, ``_label`` or ``_gt`` behind it. A case without a prediction, without a
    reference, or whose files cannot be scored gets rows with a status and a message instead of
    scores; none is dropped.

    Parameters
    ----------
    predictions, references
        Folders; files in folders below them are not looked at.
    task
        A subtask (``task1-union``) or configuration (``task1-union-fold0``) of the benchmark. It
        gives the labels and the tolerances; a configuration gives the fold and, where the split is
        published, the cases of ``part`` that are scored.
    labels, reference_labels, tolerances_mm, policy, ignore_other_labels
        As `covidseg.scoring.case.score_case`; they override what the task says. Spacing is the
        reference's.
    picture_spacing_mm
        Pixel size of PNG pictures, which know none. With a single label, pictures of 0 and 255 are
        read as 0 and 1.
    algorithm
        Name in the table; the predictions' folder by default.
    part, dataset, phantom
        What the table says of the cases; ``dataset`` is the part's own where the task has one.
    workers
        Processes; all processors by default. Each holds two label maps.
    journal
        File that scored cases are noted in as they come. A run that is interrupted and started
        again does not score them twice, unless their files or the settings have changed. Whoever
        has written the result removes it.
    cases
        IDs of the cases that are scored, and no other; by default those that the task says.
    may_be_empty
        Take ``predictions`` without a label map of any case for one in which all are missing.

    Returns
    -------
    pandas.DataFrame
        See `covidseg.scoring.scores`; rows in the order of the case IDs.

    Raises
    ------
    LayoutError
        A folder is absent or holds no label map.
    ScoringError
        A folder has a case twice; a tolerance is impossible or unknown for a label.
    ConfigError
        Task, part or policy are not known, or neither task nor labels are given.
    """
    settings = settings_for(
        task,
        labels=labels,
        reference_labels=reference_labels,
        tolerances_mm=tolerances_mm,
        policy=policy,
        ignore_other_labels=ignore_other_labels,
        picture_spacing_mm=picture_spacing_mm,
        algorithm=Path(predictions).resolve().name if algorithm is None else algorithm,
        part=part,
        dataset=dataset,
        phantom=phantom,
    )
    expected = expected_cases(task, part) if cases is None else cases
    pairs = pair_cases(predictions, references, expected, may_be_empty)
    rows = {
        pair.case_id: _unpaired_rows(pair, settings)
        for pair in pairs
        if pair.prediction is None or pair.reference is None
    }
    both = [pair for pair in pairs if pair.case_id not in rows]
    with _Journal(journal, settings) as done:
        todo = []
        for pair in both:
            noted = done.rows(pair)
            if noted is None:
                todo.append(pair)
            else:
                rows[pair.case_id] = noted
        scoring = functools.partial(score_pair, settings=settings)
        for pair, result in map_cases(
            scoring, todo, workers=workers, description="Scoring", progress=progress
        ):
            if isinstance(result, Exception):
                rows[pair.case_id] = _failed(pair, settings, result)
            else:
                rows[pair.case_id] = result
                done.note(pair, result)
    return frame_of(row for pair in pairs for row in rows[pair.case_id])


def settings_for(
    task: str | None,
    *,
    labels: Mapping[int, str] | None = None,
    reference_labels: Mapping[int, str] | None = None,
    tolerances_mm: Tolerances | None = None,
    policy: str = DEFAULT_POLICY,
    ignore_other_labels: bool = False,
    picture_spacing_mm: Sequence[float] = (1.0, 1.0),
    algorithm: str = "",
    part: str = "test",
    dataset: str | None = None,
    phantom: bool = False,
) -> Settings:
    """What a task leaves open or an argument overrides, decided once for all cases.

    Raises
    ------
    ConfigError, LabelError, ScoringError
        As `score_folder`.
    """
    from covidseg.splits.tasks import target_labels

    if labels is None:
        if task is None:
            raise ConfigError(
                "neither a task nor labels are given",
                remedy="pass --task task1-union, or --labels 1=left_lung,2=right_lung",
            )
        names = label_names(target_labels(task))
    else:
        names = label_names(labels)
    name, fold, annotations = _place(task, part)
    if reference_labels is None:
        present = {label for annotation in annotations for label in annotation.meaning.values()}
        if annotations and labels is None and present != set(names.values()):
            raise ConfigError(
                f"the references of part {part} of {name} have {', '.join(sorted(present))} alone, "
                "and their values need not be those of the predictions",
                remedy="say what they are, as in --reference-labels 1=infection",
            )
        reference_names = names
    else:
        reference_names = label_names(reference_labels)
    scored = scored_labels(names, reference_names)
    if tolerances_mm is None:
        tolerances_mm = {}
    if isinstance(tolerances_mm, Mapping):
        unknown = sorted(set(tolerances_mm) - set(scored))
        if unknown:
            raise ScoringError(
                f"a tolerance is given for {unknown[0]}, which is not scored",
                expected="labels among " + ", ".join(scored),
            )
        tolerances_mm = {**_default_tolerances(name, scored), **tolerances_mm}
    if dataset is None:
        datasets = {annotation.dataset for annotation in annotations}
        dataset = datasets.pop() if len(datasets) == 1 else ""
    width, height = check_spacing(picture_spacing_mm, 2)
    return Settings(
        labels=names,
        reference_labels=reference_names,
        tolerances_mm=tolerances_by_label(scored, tolerances_mm),
        policy=empty_mask_policy(policy).name,
        ignore_other_labels=ignore_other_labels,
        picture_spacing_mm=(width, height),
        task=name,
        algorithm=algorithm,
        fold=fold,
        part=part,
        dataset=dataset,
        phantom=phantom,
    )


def expected_cases(task: str | None, part: str) -> list[str] | None:
    """IDs of the cases of a configuration's part; ``None`` where no published list says."""
    from covidseg.splits.load import load_split
    from covidseg.splits.tasks import configurations

    if task is None or task.removesuffix("-clean") not in configurations():
        return None
    try:
        split = load_split(task)
    except SplitError:
        return None  # the names of these cases are in the files alone (COVID-19-20)
    return [case.case_id for case in split.parts.get(part, ())] or None


def pair_cases(
    predictions: str | PathLike[str],
    references: str | PathLike[str],
    expected: Iterable[str] | None = None,
    may_be_empty: bool = False,
) -> list[Pair]:
    """The cases of two folders, by case ID, sorted; or the ``expected`` ones alone.

    ``may_be_empty`` lets ``predictions`` hold none of them.

    Raises
    ------
    LayoutError
        A folder is absent or holds no label map, or has none of the expected cases; or no case is
        in both.
    ScoringError
        A folder has two files for one case.
    """
    ours = _files_by_case(Path(predictions), may_be_empty)
    theirs = _files_by_case(Path(references))
    cases = sorted(set(ours) | set(theirs) if expected is None else set(expected))
    if expected is not None and not set(cases) & set(theirs):
        raise LayoutError(
            f"none of the {len(cases)} cases of this part are there",
            path=references,
            expected=f"files named like {cases[0]}.nii.gz",
        )
    if not may_be_empty and not set(ours) & set(cases) & set(theirs):
        wanted = ", ".join(sorted(set(cases) & set(theirs))[:2])
        raise LayoutError(
            f"no prediction is called as a reference is: {', '.join(sorted(ours)[:2])}, ...",
            path=predictions,
            expected=f"names as in {references}: {wanted}, ...",
        )
    return [Pair(case, ours.get(case), theirs.get(case)) for case in cases]


def unexpected_cases(predictions: str | PathLike[str], expected: Iterable[str]) -> list[str]:
    """Cases that there are predictions for and that are not ``expected``."""
    return sorted(set(_files_by_case(Path(predictions))) - set(expected))


def case_id_of(path: str | PathLike[str]) -> str:
    """Case ID of a label map's file: ``volume-covid19-A-0003_seg.nii.gz`` gives ``...-0003``.

    Names of the Kaggle mirror's scans give the published IDs, which its masks have.
    """
    return published_name(_ROLE.sub("", strip_endings(Path(path).name)))


def score_pair(pair: Pair, settings: Settings) -> list[dict[str, Any]]:
    """Read and score one case.

    Raises
    ------
    UnreadableFileError, GeometryError, LabelError
        As the reader and `covidseg.scoring.case.score_case`.
    """
    if pair.prediction is None or pair.reference is None:
        raise ScoringError(f"case {pair.case_id} lacks a file")
    pictures = [path.suffix.lower() == ".png" for path in (pair.prediction, pair.reference)]
    if pictures[0] != pictures[1]:
        raise GeometryError(
            f"one is a picture and the other a volume ({pair.reference.name})",
            path=pair.prediction,
            expected="files of one kind",
        )
    read = _read_pictures if pictures[0] else _read_volumes
    prediction, reference, spacing_mm = read(pair.prediction, pair.reference, settings)
    scores = score_case(
        prediction,
        reference,
        settings.labels,
        spacing_mm,
        settings.tolerances_mm,
        policy=settings.policy,
        reference_labels=settings.reference_labels,
        ignore_other_labels=settings.ignore_other_labels,
    )
    return rows_of(scores, settings.identity(pair.case_id))


def _read_volumes(
    prediction: Path, reference: Path, settings: Settings
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    from covidseg.imaging.geometry import require_same_grid
    from covidseg.imaging.nifti import read_header, read_nifti

    # Headers first: files on two grids need not be decoded.
    ours, theirs = read_header(prediction), read_header(reference)
    require_same_grid(ours.shape, ours.affine, prediction, theirs.shape, theirs.affine, reference)
    spacing_mm = _voxel_size(reference, theirs.spacing_mm)
    return read_nifti(prediction).data, read_nifti(reference).data, spacing_mm


def _voxel_size(path: Path, by_affine: tuple[float, float, float]) -> tuple[float, ...]:
    """The header's pixel sizes, widened from float32, as evaluations with nibabel take them.

    The affine's columns give the same to about 1e-7, which would decide otherwise whether ten
    steps of 0.3 mm are within 3 mm. Where header and affine contradict each other, the affine is
    what says where voxels lie.
    """
    import nibabel as nib

    header: Any = nib.load(path).header  # NIfTI-1 or NIfTI-2
    zooms = tuple(float(size) for size in header.get_zooms()[:3])
    return zooms if np.allclose(zooms, by_affine, rtol=1e-4, atol=0) else by_affine


def _read_pictures(
    prediction: Path, reference: Path, settings: Settings
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    from covidseg.imaging.picture import read_picture

    maps = [read_picture(path) for path in (prediction, reference)]
    check_shapes(*maps)
    for index, names in enumerate((settings.labels, settings.reference_labels)):
        if set(names) == {1} and not ((maps[index] != 0) & (maps[index] != 255)).any():
            maps[index] = maps[index] != 0
    return maps[0], maps[1], settings.picture_spacing_mm


def _default_tolerances(task: str, labels: Iterable[str]) -> dict[str, float]:
    if task.startswith("covid1920"):
        return dict.fromkeys(labels, _CHALLENGE_TOLERANCE_MM)
    return {label: _TOLERANCES_MM[label] for label in labels if label in _TOLERANCES_MM}


def _place(task: str | None, part: str) -> tuple[str, int | None, tuple[Any, ...]]:
    """Subtask's name, fold, and the annotations that its ``part`` is scored against."""
    from covidseg.splits.tasks import SUBTASKS, configuration

    if task is None:
        return "", None, ()
    clean = "-clean" if task.endswith("-clean") else ""
    bare = task.removesuffix("-clean")
    fold = None
    subtask = next((subtask for subtask in SUBTASKS if subtask.name == bare), None)
    stem = re.sub(r"-fold\d+$", "", bare)
    if subtask is None and any(known.name == stem for known in SUBTASKS):
        subtask, fold = configuration(bare)  # raises where there is no such fold
    if subtask is None:
        return task, None, ()
    if part not in subtask.parts:
        raise ConfigError(
            f"{subtask.name} has no part {part!r}",
            expected="one of " + ", ".join(subtask.parts),
            remedy=f"name the one that was predicted: --part {next(iter(subtask.parts))}, say",
        )
    return subtask.name + clean, fold, subtask.parts[part]


def _files_by_case(folder: Path, may_be_empty: bool = False) -> dict[str, Path]:
    if not folder.is_dir():
        raise LayoutError("no such folder", path=folder)
    files: dict[str, Path] = {}
    paired = False
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not _MAP_FILE.search(path.name):
            continue
        case = case_id_of(path)
        if case in files and _is_scan(files[case]) != _is_scan(path):
            # A challenge's own folder: scan and annotation side by side.
            files[case] = path if _is_scan(files[case]) else files[case]
            paired = True
            continue
        if case in files:
            raise ScoringError(
                f"case {case} is there twice: {files[case].name} and {path.name}",
                path=folder,
                expected="one label map a case",
                remedy="move one of them elsewhere",
            )
        files[case] = path
    if paired:
        # Where scans lie beside annotations, a scan alone is a case without its annotation.
        files = {case: path for case, path in files.items() if not _is_scan(path)}
    if not files and not may_be_empty:
        raise LayoutError(
            "holds no label map", path=folder, expected="files ending in .nii.gz, .nii or .png"
        )
    return files


def _is_scan(path: Path) -> bool:
    return strip_endings(path.name).lower().endswith(("_ct", "-ct"))


def _unpaired_rows(pair: Pair, settings: Settings) -> list[dict[str, Any]]:
    if pair.prediction is None and pair.reference is None:
        status, message = "missing_reference", "neither prediction nor reference"
    elif pair.prediction is None:
        status, message = "missing_prediction", f"no prediction for {pair.reference}"
    else:
        status, message = "missing_reference", f"no reference for {pair.prediction}"
    identity = settings.identity(pair.case_id)
    return failed_rows(settings.scored, identity, status, message, settings.policy)


def _failed(pair: Pair, settings: Settings, fault: Exception) -> list[dict[str, Any]]:
    status = _STATUS.get(type(fault), "failed")
    message = str(fault) if isinstance(fault, CovidsegError) else f"{type(fault).__name__}: {fault}"
    identity = settings.identity(pair.case_id)
    return failed_rows(settings.scored, identity, status, message, settings.policy)


class _Journal:
    """Rows of finished cases, one line of JSON a case."""

    def __init__(self, path: str | PathLike[str] | None, settings: Settings) -> None:
        self._path = None if path is None else Path(path)
        described = json.dumps(asdict(settings), sort_keys=True, default=str)
        self._settings = hashlib.sha256(described.encode()).hexdigest()
        self._noted = dict(self._read())

    def _read(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        if self._path is None or not self._path.is_file():
            return
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                yield entry["key"], entry["rows"]
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed

    def __enter__(self) -> _Journal:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._path, "a", encoding="utf-8")
            except OSError as fault:
                raise storage_error(fault, self._path) from fault
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()

    def rows(self, pair: Pair) -> list[dict[str, Any]] | None:
        """What an earlier run found for the same files under the same settings."""
        return self._noted.get(self._key(pair))

    def note(self, pair: Pair, rows: list[dict[str, Any]]) -> None:
        if self._path is not None:
            # A line of its own even after a half-written one.
            self._file.write("\n" + json.dumps({"key": self._key(pair), "rows": rows}) + "\n")
            self._file.flush()

    def _key(self, pair: Pair) -> str:
        files = [
            (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
            for path in (pair.prediction, pair.reference)
            if path is not None and path.exists()
        ]
        return hashlib.sha256(repr((self._settings, pair.case_id, files)).encode()).hexdigest()
