"""Pictures of results: the best, the median and the worst case, annotation beside prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume
from covidseg.inference.preprocessing import ORIENTATION
from covidseg.scoring.plots import new_figure, save_figure

# Okabe and Ito's colours, told apart by colour-blind people too.
_COLOURS = ((0.0, 0.45, 0.70), (0.90, 0.60, 0.0), (0.80, 0.40, 0.0))


@dataclass(frozen=True)
class Shown:
    """A case to draw, image and labels on one grid.

    ``greys`` are the intensities that are drawn black and white: the lung window (level -500, width
    1500) for images in Hounsfield units.
    """

    title: str
    image: Volume
    annotation: Volume
    prediction: Volume
    greys: tuple[float, float] = (-1250, 250)


def draw_overlays(
    cases: Sequence[Shown], labels: Sequence[str], stem: Path, *, phantom: bool
) -> list[Path]:
    """One row a case: its axial plane with most annotation, plain, annotated and predicted.

    Writes ``stem.png`` and ``stem.svg``.
    """
    from matplotlib.patches import Patch

    figure = new_figure(9, 3.1 * len(cases) + 0.6)
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        image, annotation, prediction = (
            reorient(volume, ORIENTATION).data.transpose(2, 1, 0)
            for volume in (case.image, case.annotation, case.prediction)
        )
        seen = annotation if annotation.any() else prediction
        plane = int((seen > 0).sum(axis=(1, 2)).argmax())
        spacing = reorient(case.image, ORIENTATION).spacing_mm
        for axis, mask, what in zip(
            row, (None, annotation, prediction), ("CT", "annotation", "prediction"), strict=True
        ):
            axis.imshow(
                image[plane],
                cmap="gray",
                vmin=case.greys[0],
                vmax=case.greys[1],
                aspect=spacing[1] / spacing[0],
            )
            if mask is not None:
                axis.imshow(
                    _coloured(mask[plane]), aspect=spacing[1] / spacing[0], interpolation="nearest"
                )
            axis.set_title(case.title if mask is None else what, fontsize=9)
            axis.set_axis_off()
    figure.suptitle(("PHANTOMS: " if phantom else "") + ", ".join(labels), fontsize=10)
    if len(labels) > 1:
        patches = [
            Patch(color=(*colour, 0.45), label=name)
            for name, colour in zip(labels, _COLOURS, strict=False)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(labels), fontsize=9)
    return save_figure(figure, stem)


def _coloured(mask: np.ndarray) -> np.ndarray:
    picture = np.zeros((*mask.shape, 4), np.float32)
    for value, colour in enumerate(_COLOURS, start=1):
        picture[mask == value] = (*colour, 0.45)
    return picture
