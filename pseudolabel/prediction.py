"""Predicting a pool: pseudo-labels as files, each scan once, shared out over all processes.

    predict_pool(teachers, pool.scans, folder, config, rank=0)     # on every process
    write_table(folder, pool.scans, teachers.labels, phantom=False)  # when all are done

leaves in ``folder``::

    cases/<case>.json                what is thought of the scan; written last, so a scan that has
                                     one is done
    labels/<case>.nii.gz             the pseudo-label: class values, 255 where nothing is known
    probability/<case>.nii.gz        mean probability over teachers and mirrorings, p = value / 255;
                                     one file a class, <case>_<class>, where there are several
    confidence/<case>.nii.gz         that of the likeliest class, background among them
    pseudolabels.csv                 every scan, kept or left out and why

all on the scan's own grid (PNG for slice pictures). Every process takes the largest scan that none
has claimed, so that a slow one holds nobody up. What a call that was interrupted has done is kept.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from covidseg.core.errors import ConfigError, CovidsegError
from covidseg.core.files import atomic_file, sha256_of_file
from covidseg.core.progress import progress_bar
from covidseg.engine.cache import IGNORE_LABEL, TrainingCase, read_image
from covidseg.engine.checkpoint import last_checkpoint, read_description
from covidseg.engine.runs import open_run, read_run
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Prepared
from covidseg.inference.restore import label_map, scan_planes, upright_shape
from covidseg.pseudolabel.filtering import agreement, confidence, judge, pseudo_label, quantised
from covidseg.pseudolabel.pool import PoolScan
from covidseg.pseudolabel.rounds_config import FilterConfig

TABLE = "pseudolabels.csv"
_COLUMNS = (
    "case_id", "origin", "state", "reason", "mean_confidence", "mean_entropy", "agreement",
    "labelled_share", "foreground_voxels", "label",
)  # fmt: skip
_CLAIMS = "claims"
_PICTURES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Teachers:
    """Trained runs that label a pool together.

    ``key`` names their weights and settings: pseudo-labels of other teachers are not kept.
    """

    runs: tuple[Path, ...]
    members: tuple[Predictor, ...]
    labels: tuple[str, ...]
    key: str

    @property
    def windows(self) -> list[dict[str, Any]]:
        """What of `window` decides the labels of each, as a manifest has it."""
        return [
            {
                "overlap": member.sliding.overlap,
                "mirror_axes": list(member.mirror_axes),
                "logit_adjustment": member.logit_adjustment,
            }
            for member in self.members
        ]


def open_teachers(
    runs: Sequence[str | Path],
    *,
    device: str | torch.device | None = None,
    windows: Sequence[Mapping[str, Any]] | None = None,
) -> Teachers:
    """Teachers from the folders of runs, which predict the same labels.

    ``windows`` are as `Teachers.windows` had them, to label as then; null labels as the runs'
    recipes say now.

    Raises
    ------
    UnreadableFileError
        A folder is no run, or has no checkpoint.
    ConfigError
        They predict other labels than the first, or some pictures and some CT volumes.
    """
    recipes: list[SegmentationRecipe] = [read_run(run) for run in runs]
    labels = [recipe.data.labels for recipe in recipes]
    members = tuple(open_run(run, device=device) for run in runs)
    if windows is not None and len(windows) == len(members):
        members = tuple(map(_with_window, members, windows))
    for run, own, member in zip(runs, labels, members, strict=True):
        if own != labels[0] or member.for_pictures != members[0].for_pictures:
            raise ConfigError(
                f"it predicts {', '.join(own)}" + (" in pictures" if member.for_pictures else ""),
                path=run,
                expected=f"{', '.join(labels[0])}, as {runs[0]} does",
                remedy="give teachers of one label set",
            )
    digest = hashlib.sha256()
    for run in runs:
        checkpoint = last_checkpoint(run)
        assert checkpoint is not None
        weights = checkpoint / f"{read_description(checkpoint)['predictor']}.safetensors"
        digest.update(sha256_of_file(weights).encode())
    # Whoever runs out of memory may take fewer windows at once: the labels stay what they are.
    settings = [
        (
            one.preprocessing,
            dataclasses.replace(one.sliding, batch_size=1),
            one.mirror_axes,
            one.logit_adjustment,
        )
        for one in members
    ]
    digest.update(repr(settings).encode())
    return Teachers(tuple(map(Path, runs)), members, labels[0], digest.hexdigest())


def _with_window(member: Predictor, window: Mapping[str, Any]) -> Predictor:
    return dataclasses.replace(
        member,
        sliding=dataclasses.replace(member.sliding, overlap=window["overlap"]),
        mirror_axes=tuple(window["mirror_axes"]),
        logit_adjustment=window["logit_adjustment"],
    )


def predict_pool(
    teachers: Teachers,
    scans: Sequence[PoolScan],
    folder: Path,
    config: FilterConfig,
    *,
    rank: int = 0,
) -> int:
    """Label this process' share of the scans; return how many.

    Every process calls this with the same arguments but ``rank``, after `free_claims` on one of
    them; when all have returned, every scan is done. A scan that cannot be read is noted as such.
    """
    todo = [scan for scan in scans if _known(folder, scan, teachers, config) is None]
    todo.sort(key=lambda scan: (-_size(scan), scan.case.case_id))
    (folder / _CLAIMS).mkdir(parents=True, exist_ok=True)
    claimed = _claimed(todo, folder / _CLAIMS)
    done = 0
    bar = progress_bar(
        total=len(todo), desc="pseudo-labels", unit="scan", disable=rank > 0 or not todo
    )
    # Reading and writing go on beside the networks: one scan ahead, one behind.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, bar:
        written: Future[None] | None = None
        upcoming = _ahead(reader, claimed, teachers)
        while upcoming is not None:
            scan, future = upcoming
            upcoming = _ahead(reader, claimed, teachers)
            try:
                found = _predicted(teachers, future.result())
            except CovidsegError as fault:
                _note(folder, scan, {"key": _key(teachers, config, scan), "fault": str(fault)})
            else:
                if written is not None:
                    written.result()
                written = writer.submit(_write, folder, scan, found, teachers, config)
            done += 1
            bar.update()
        if written is not None:
            written.result()
    return done


def free_claims(folder: Path) -> None:
    """Forget who was at work, and what a killed process left half-written.

    To be called on one process, before any predicts and after all.
    """
    shutil.rmtree(folder / _CLAIMS, ignore_errors=True)
    for path in folder.glob("*/.part-*"):
        path.unlink(missing_ok=True)


def _claimed(scans: Sequence[PoolScan], claims: Path) -> Iterator[PoolScan]:
    for scan in scans:
        try:
            # Fails where the file is there, on shared file systems too.
            os.close(os.open(claims / scan.case.case_id, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        yield scan


def _size(scan: PoolScan) -> int:
    try:
        return scan.case.image.stat().st_size
    except OSError:
        return 0


# One scan ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """A scan as each teacher sees it; teachers with equal preprocessing share theirs."""

    volume: Volume
    prepared: tuple[Prepared, ...]


@dataclass(frozen=True)
class _Predicted:
    """Quantised probabilities of the foreground classes on the upright scan's grid."""

    volume: Volume
    probabilities: NDArray[np.uint8]
    agreement: float


def _ahead(
    reader: ThreadPoolExecutor, claimed: Iterator[PoolScan], teachers: Teachers
) -> tuple[PoolScan, Future[_Read]] | None:
    scan = next(claimed, None)
    return None if scan is None else (scan, reader.submit(_read, scan, teachers))


def _read(scan: PoolScan, teachers: Teachers) -> _Read:
    volume = read_image(scan.case)
    known: dict[Any, Prepared] = {}
    for member in teachers.members:
        if member.preprocessing not in known:
            known[member.preprocessing] = member.preprocessing.image(volume, scan.case.intensity)
    return _Read(volume, tuple(known[member.preprocessing] for member in teachers.members))


def _predicted(teachers: Teachers, scan: _Read) -> _Predicted:
    shape = upright_shape(scan.volume.shape, scan.volume.affine)
    total = torch.zeros((len(teachers.labels), *shape))
    maps = []
    for member, prepared in zip(teachers.members, scan.prepared, strict=True):
        labels = np.empty(shape, np.uint8)
        for slab in scan_planes(member.slabs(prepared), prepared):
            planes = slice(slab.start, slab.stop)
            total[:, planes].add_(slab.probabilities[1:].cpu(), alpha=1 / len(teachers.members))
            labels[planes] = slab.probabilities.argmax(0).to(torch.uint8).cpu().numpy()
        maps.append(labels)
    return _Predicted(scan.volume, quantised(total.numpy()), agreement(maps))


def _write(
    folder: Path, scan: PoolScan, found: _Predicted, teachers: Teachers, config: FilterConfig
) -> None:
    label = pseudo_label(found.probabilities, config)
    judgement = judge(found.probabilities, label, found.agreement, config)
    names = (
        [f"{scan.case.case_id}_{name}" for name in teachers.labels]
        if len(teachers.labels) > 1
        else [scan.case.case_id]
    )
    ending = _ending(scan.case)
    maps = {f"probability/{name}": found.probabilities[n] for n, name in enumerate(names)}
    maps[f"confidence/{scan.case.case_id}"] = confidence(found.probabilities)
    maps[f"labels/{scan.case.case_id}"] = label
    for name, upright in maps.items():
        on_scan = label_map(upright, found.volume.shape, found.volume.affine)
        _write_map(folder / f"{name}{ending}", on_scan)
    noted = asdict(judgement) | {"key": _key(teachers, config, scan)}
    noted["label_sha256"] = sha256_of_file(folder / f"labels/{scan.case.case_id}{ending}")
    _note(folder, scan, noted)


def _ending(case: TrainingCase) -> str:
    return ".png" if case.image.suffix.lower() in _PICTURES else ".nii.gz"


def _write_map(path: Path, volume: Volume) -> None:
    if path.suffix != ".png":
        write_nifti(path, volume)
        return
    from PIL import Image

    with atomic_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(volume.data[:, :, 0])).save(temporary, format="PNG")


# What is known of a scan -------------------------------------------------------------------------


def _key(teachers: Teachers, config: FilterConfig, scan: PoolScan) -> str:
    """What a pseudo-label depends on: a scan that was repaired under its name gets a new one."""
    text = json.dumps([teachers.key, asdict(config), scan.case.content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _note(folder: Path, scan: PoolScan, noted: dict[str, Any]) -> None:
    with atomic_file(folder / "cases" / f"{scan.case.case_id}.json") as temporary:
        temporary.write_text(json.dumps(noted, indent=1))


def _known(
    folder: Path, scan: PoolScan, teachers: Teachers, config: FilterConfig
) -> dict[str, Any] | None:
    """What was noted of a scan; None where it is to be predicted (again)."""
    try:
        noted = json.loads((folder / "cases" / f"{scan.case.case_id}.json").read_text())
    except (OSError, ValueError):
        return None
    if noted.get("key") != _key(teachers, config, scan) or "fault" in noted:
        return None
    label = folder / f"labels/{scan.case.case_id}{_ending(scan.case)}"
    # What was damaged or taken away is made again, not learnt from.
    if not label.is_file() or sha256_of_file(label) != noted.get("label_sha256"):
        return None
    return noted


@dataclass(frozen=True)
class PseudoLabels:
    """The pseudo-labelled scans that a student learns from; ``provenance`` is for its manifest."""

    cases: list[TrainingCase]
    provenance: dict[str, Any]


def write_table(
    folder: Path, scans: Sequence[PoolScan], labels: Sequence[str], *, phantom: bool
) -> PseudoLabels:
    """Write ``pseudolabels.csv`` and return the scans that are kept, as cases to train on.

    To be called when all scans are done.

    Raises
    ------
    ConfigError
        None is kept.
    """
    rows, kept = [], []
    values = {value: value for value in (*range(1, len(labels) + 1), IGNORE_LABEL)}
    for scan in scans:
        noted = json.loads((folder / "cases" / f"{scan.case.case_id}.json").read_text())
        path = folder / f"labels/{scan.case.case_id}{_ending(scan.case)}"
        reason = noted.get("fault") or noted["reason"]
        row = {"case_id": scan.case.case_id, "origin": scan.origin, "reason": reason}
        row["state"] = "left out" if reason else "kept"
        if "fault" not in noted:
            row |= {
                name: f"{noted[name]:.4f}"
                for name in ("mean_confidence", "mean_entropy", "agreement", "labelled_share")
            }
            row["foreground_voxels"] = noted["foreground_voxels"]
            row["label"] = path.relative_to(folder).as_posix()
        rows.append(row)
        if not reason:
            both = json.dumps([scan.case.content, noted["label_sha256"]])
            content = hashlib.sha256(both.encode()).hexdigest()
            kept.append(
                TrainingCase(
                    scan.case.case_id, scan.case.image, path, scan.case.intensity, values,
                    scan.case.source, content,
                )
            )  # fmt: skip
    with atomic_file(folder / TABLE) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["state"], row["case_id"])))
    if not kept:
        raise ConfigError(
            f"none of {len(rows)} pseudo-labels is kept",
            path=folder / TABLE,
            expected="at least one scan to learn from",
            remedy="the table says why each was left out: lower rounds.filter.foreground or "
            "min_agreement, raise max_entropy, set keep_empty, or train a better teacher",
        )
    listed = [[case.case_id, case.content] for case in kept]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return PseudoLabels(
        kept,
        {
            "pseudo_labelled": len(kept),
            "left_out": len(rows) - len(kept),
            "sha256": digest,
            "phantom": phantom,
        },
    )
