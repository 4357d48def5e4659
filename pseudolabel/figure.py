"""A picture of what a round kept: scans with their pseudo-labels, the surest first."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covidseg.engine.cache import IGNORE_LABEL, TrainingCase, read_image
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume
from covidseg.inference.preprocessing import ORIENTATION
from covidseg.pseudolabel.pool import PoolScan
from covidseg.registry.read import to_hu
from covidseg.scoring.plots import new_figure, save_figure

FIGURE = "kept"
_COLUMNS = 6
# Okabe and Ito's colours: classes 1, 2, 3, and what is ignored.
_COLOURS = ((0.90, 0.60, 0.0), (0.0, 0.45, 0.70), (0.0, 0.62, 0.45))
_IGNORED = (0.80, 0.60, 0.70)


def draw_kept(folder: Path, scans: Sequence[PoolScan], *, phantom: bool) -> list[Path]:
    """Draw scans that were kept, from the surest to the least sure, and some that were left out.

    Reads what `covidseg.pseudolabel.prediction.write_table` wrote to ``folder``; writes
    ``kept.png`` and ``kept.svg`` beside it. Each scan shows its plane with most foreground.
    """
    from covidseg.pseudolabel.prediction import TABLE

    with open(folder / TABLE, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    kept = [row for row in rows if row["state"] == "kept"]
    left = [row for row in rows if row["state"] != "kept"]
    cases = {scan.case.case_id: scan.case for scan in scans}
    lines = [
        [dict(row, shown="kept") for row in _spread(kept)],
        [dict(row, shown="left out") for row in _spread(left)],
    ]
    lines = [line for line in lines if line]
    figure = new_figure(1.9 * _COLUMNS, 2.6 * len(lines) + 0.5)
    axes = figure.subplots(len(lines), _COLUMNS, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, row_axes in zip(lines, axes, strict=True):
        for row, axis in zip(line, row_axes, strict=False):
            image, label, aspect = _plane(cases[row["case_id"]], folder / row["label"])
            axis.imshow(image, cmap="gray", aspect=aspect)
            axis.imshow(_coloured(label), aspect=aspect, interpolation="nearest")
            name = row["case_id"]
            title = f"{name if len(name) < 25 else '…' + name[-23:]}\n"
            title += row["reason"] or f"confidence {float(row['mean_confidence']):.2f}"
            axis.set_title(title, fontsize=7)
    figure.suptitle(
        ("PHANTOMS: " if phantom else "")
        + f"{len(kept)} pseudo-labels kept, {len(left)} left out; pink: ignored",
        fontsize=9,
    )
    return save_figure(figure, folder / FIGURE)


def _spread(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """At most a line of them, spread evenly from the surest to the least sure."""
    ranked = sorted(rows, key=lambda row: (-float(row["mean_confidence"]), row["case_id"]))
    if len(ranked) <= _COLUMNS:
        return ranked
    places = np.linspace(0, len(ranked) - 1, _COLUMNS).round().astype(int)
    return [ranked[place] for place in places]


def _plane(case: TrainingCase, label: Path) -> tuple[NDArray, NDArray, float]:
    """Image (0 to 1) and pseudo-label of the plane with most foreground, and its aspect."""
    image = read_image(case)
    labels = read_image(TrainingCase("", label, None, case.intensity, {}))
    upright, mask = (
        reorient(volume, ORIENTATION).data.transpose(2, 1, 0)
        for volume in (_grey(image, case), labels)
    )
    foreground = ((mask > 0) & (mask != IGNORE_LABEL)).sum(axis=(1, 2))
    seen = foreground if foreground.any() else (mask == IGNORE_LABEL).sum(axis=(1, 2))
    plane = int(seen.argmax()) if seen.any() else len(mask) // 2
    spacing = reorient(image, ORIENTATION).spacing_mm
    return upright[plane], mask[plane], spacing[1] / spacing[0]


def _grey(image: Volume, case: TrainingCase) -> Volume:
    """Values of a lung window (level -500, width 1500 HU), or of a picture, from 0 to 1."""
    if case.intensity.scale == "picture":
        return image.with_data(image.data / 255)
    in_hu = to_hu(image, case.intensity)
    return in_hu.with_data(np.clip((in_hu.data + 1250.0) / 1500.0, 0, 1))


def _coloured(label: NDArray) -> NDArray[np.float32]:
    picture = np.zeros((*label.shape, 4), np.float32)
    for value, colour in enumerate(_COLOURS, start=1):
        picture[label == value] = (*colour, 0.5)
    picture[label == IGNORE_LABEL] = (*_IGNORED, 0.35)
    return picture
