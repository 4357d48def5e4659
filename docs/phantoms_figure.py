"""Draws docs/images/phantoms.jpg: one phantom of each source, as the page about them shows it."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from covidseg.registry.phantom import sources
from covidseg.registry.phantom.scan import Patient, Size, draw_scan

SHOWN = (
    ("COVID-19-CT-Seg, coronacases", sources.CORONACASES, 2),
    ("COVID-19-CT-Seg, radiopaedia", sources.RADIOPAEDIA, 2),
    ("MosMed", sources.MOSMED, 5),
    ("StructSeg", sources.STRUCTSEG, 1),
    ("NSCLC", sources.NSCLC, 1),
    ("MSD lung", sources.MSD, 3),
    ("COVID-19-20, seen", sources.COVID1920_SEEN, 1),
    ("COVID-19-20, unseen", sources.COVID1920_UNSEEN, 1),
)
LUNG, MEDIASTINUM = (-1350, 150), (-160, 240)
COLOURS = {"infection": "red", "tumour": "yellow", "effusion": "cyan"}


def main() -> None:
    figure, axes = plt.subplots(4, len(SHOWN), figsize=(16, 8.2))
    for column, (title, source, number) in zip(axes.T, SHOWN, strict=True):
        effusion = True if source is sources.NSCLC else None
        patient = Patient.draw(0, source, f"figure-{number}", effusion=effusion)
        scan = draw_scan(patient, source, "figure", Size("figure", 288, 72), tuple(COLOURS))
        z = int(np.argmax(sum(mask.astype(float).sum((0, 1)) for mask in scan.masks.values())))
        y = scan.image.shape[1] * 45 // 100
        spacing = np.abs(np.diag(scan.affine))
        axial, coronal = scan.image[::-1, ::-1, z].T, scan.image[::-1, y, ::-1].T
        for axis, picture, window, aspect in (
            (column[0], axial, LUNG, 1.0),
            (column[1], axial, LUNG, 1.0),
            (column[2], axial, MEDIASTINUM, 1.0),
            (column[3], coronal, LUNG, spacing[2] / spacing[0]),
        ):
            axis.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
            axis.axis("off")
        for name, colour in COLOURS.items():
            mask = scan.masks[name][::-1, ::-1, z].T
            if mask.any():
                column[1].contour(mask, [0.5], colors=colour, linewidths=0.8)
        column[0].set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    out = Path(__file__).parent / "images" / "phantoms.jpg"
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 80})
    print(f"{out}: {out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
