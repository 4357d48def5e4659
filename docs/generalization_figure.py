"""Draws docs/images/generalization.jpg: a phantom under each method, and painted lesions."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from covidseg.generalization.bigaug import BigAug, BigAugConfig
from covidseg.generalization.consistency import GinIpa
from covidseg.generalization.lesions import LesionConfig, PaintLesions
from covidseg.generalization.random_convolutions import Gin, RandConv, RandConvConfig
from covidseg.generalization.slaug import Slaug, SlaugConfig
from covidseg.registry.phantom import sources
from covidseg.registry.phantom.scan import Patient, Size, draw_scan

# The benchmark's window, onto zero mean and unit variance of an even spread.
LOW, HIGH = -1250.0, 250.0
MEAN, STD = (LOW + HIGH) / 2, (HIGH - LOW) / np.sqrt(12)
SEEDS = (3, 8)


def axial(source, number):
    """A slice in HU with its masks, upright; its pixel size in mm."""
    patient = Patient.draw(0, source, f"figure-{number}")
    scan = draw_scan(patient, source, "figure", Size("figure", 288, 48), ("lungs", "infection"))
    lungs = scan.masks["lungs"]
    size = scan.masks["infection"] if scan.masks["infection"].any() else lungs > 0
    z = int(size.astype(float).sum((0, 1)).argmax())
    pixel = float(abs(scan.affine[0, 0]))
    upright = [array[::-1, ::-1, z].T for array in (scan.image, lungs, scan.masks["infection"])]
    return [np.ascontiguousarray(a) for a in upright], pixel


def main() -> None:
    (hu, lungs, _), pixel = axial(sources.STRUCTSEG, 1)
    (covid, _, infection), _ = axial(sources.CORONACASES, 2)
    normal = torch.from_numpy((np.clip(hu, LOW, HIGH) - MEAN) / STD).float()[None, None]
    low, high = (LOW - MEAN) / STD, (HIGH - MEAN) / STD
    label = torch.from_numpy(lungs.astype(np.int64))[None]

    def batch(seed):
        return {"image": normal, "label": label, "seed": torch.tensor([seed])}

    slaug = Slaug(SlaugConfig(), low, high, 2)
    methods = [
        ("GIN", lambda s: Gin()(batch(s))["image"]),
        ("GIN and IPA", lambda s: GinIpa(Gin())(batch(s))["image"]),
        ("SLAug, whole image", lambda s: slaug(batch(s))["global_image"]),
        ("SLAug, by class", lambda s: slaug(batch(s))["local_image"]),
        ("RandConv", lambda s: RandConv(RandConvConfig(p_identity=0))(batch(s))["image"]),
        ("BigAug", lambda s: BigAug(BigAugConfig(), low, high)(batch(s))["image"]),
    ]
    figure, axes = plt.subplots(3, 7, figsize=(17, 7.6))
    for row, seed in zip(axes, SEEDS, strict=False):
        show(row[0], hu, "StructSeg phantom", (LOW, HIGH))
        for axis, (name, method) in zip(row[1:], methods, strict=True):
            picture = method(seed)[0, 0].numpy()
            # Each at its own contrast, as a network normalises too.
            show(axis, picture, f"{name}, seed {seed}", np.percentile(picture, [1, 99]))
    paint = PaintLesions(LesionConfig(p=1.0), (pixel, pixel), MEAN, STD, (LOW, HIGH))
    show(axes[2, 0], hu, "StructSeg phantom", (LOW, HIGH))
    for axis, seed in zip(axes[2, 1:5], (1, 2, 4, 6), strict=True):
        made = paint(batch(seed))
        show(axis, made["image"][0, 0].numpy() * STD + MEAN, f"painted, seed {seed}", (LOW, HIGH))
        outline(axis, made["label"][0].numpy())
    for axis, marked in zip(axes[2, 5:], (False, True), strict=True):
        show(axis, covid, "COVID-19 phantom" + (", its mask" if marked else ""), (LOW, HIGH))
        if marked:
            outline(axis, infection)
    figure.tight_layout(pad=0.3, h_pad=1.2)
    out = Path(__file__).parent / "images" / "generalization.jpg"
    figure.savefig(out, dpi=80, pil_kwargs={"quality": 80})
    print(f"{out}: {out.stat().st_size // 1000} kB")


def show(axis, picture, title, window) -> None:
    axis.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1])
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def outline(axis, mask) -> None:
    if mask.any():
        axis.contour(mask, [0.5], colors="red", linewidths=0.6)


if __name__ == "__main__":
    main()
