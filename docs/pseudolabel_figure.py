"""Draws docs/images/pseudolabel-views.png: what methods do to a phantom's slices."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from covidseg.engine.augmentation import Augmentation, AugmentationConfig
from covidseg.engine.cutmix import cutmix
from covidseg.pseudolabel.mixing import inside_boxes, paste
from covidseg.pseudolabel.recipe import StrongViewConfig
from covidseg.pseudolabel.streams import Views, spatial_part, strong_part
from covidseg.registry.phantom import sources
from covidseg.registry.phantom.scan import Patient, Size, draw_scan

PATCH = (176, 240)
# Seeds under which a single example shows what there is to see.
VIEW_SEED, CUTMIX_SEED, BOX_SEED = 25, 4, 11
TRUE, TEACHERS = "red", "gold"


def patient_slice(number: int) -> tuple[Tensor, Tensor]:
    """A slice with lesion, (1, 1, H, W) with about unit variance, and its mask (1, H, W)."""
    patient = Patient.draw(0, sources.COVID1920_SEEN, f"views-{number}")
    scan = draw_scan(
        patient, sources.COVID1920_SEEN, "figure", Size("figure", 288, 72), ("infection",)
    )
    mask = scan.masks["infection"]
    z = int(np.argmax(mask.astype(float).sum((0, 1))))
    picture = (np.clip(scan.image[::-1, ::-1, z].T, -1000, 300) + 500) / 400
    middle = torch.from_numpy(picture.astype(np.float32).copy())[None, None]
    lesion = torch.from_numpy(mask[::-1, ::-1, z].T.astype(np.int64).copy())[None]
    return middle, lesion


def centre(image: Tensor) -> Tensor:
    """The middle of a slice, as large as a patch."""
    place = [
        slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(image.shape[-2:], PATCH, strict=True)
    ]
    return image[(..., *place)]


def main() -> None:
    (one, lesion_one), (two, lesion_two) = patient_slice(1), patient_slice(2)
    weak = Augmentation(spatial_part(AugmentationConfig(p_rotation=1, p_scale=1)), PATCH)
    views = Views(weak, Augmentation(strong_part(StrongViewConfig()), PATCH))
    seeds = torch.tensor([VIEW_SEED, VIEW_SEED + 1])
    shown = views({"image": torch.cat([one, two]), "seed": seeds})
    _, taught = weak(torch.cat([one, two]), torch.cat([lesion_one, lesion_two]), seeds.tolist())
    mixed, mixed_taught = cutmix(shown["strong_2"], taught, [CUTMIX_SEED] * 2, 1.0)
    labelled, label = centre(two), centre(lesion_two)
    unlabelled, pseudo = centre(one), centre(lesion_one)
    inside = inside_boxes([BOX_SEED], PATCH, 2 / 3, torch.device("cpu"))
    panels = (
        ("unlabelled patch", unlabelled, None, pseudo, None),
        ("weak view", shown["image"][:1], None, taught[:1], None),
        ("strong view 1", shown["strong_1"][:1], None, taught[:1], None),
        ("strong view 2 with CutMix", mixed[:1], None, mixed_taught[:1], None),
        ("labelled patch", labelled, label, None, None),
        (
            "BCP: unlabelled box in labelled",
            paste(unlabelled, labelled, inside),
            label * ~inside,
            pseudo * inside,
            inside,
        ),
        (
            "BCP: labelled box in unlabelled",
            paste(labelled, unlabelled, inside),
            label * inside,
            pseudo * ~inside,
            inside,
        ),
    )
    figure, axes = plt.subplots(2, 4, figsize=(12, 4.9))
    for axis, (title, image, true, teachers, box) in zip(axes.flat, panels, strict=False):
        axis.imshow(image[0, 0], cmap="gray", vmin=-1.25, vmax=1.75)
        for mask, colour in ((true, TRUE), (teachers, TEACHERS), (box, "white")):
            if mask is not None and mask.any():
                axis.contour(mask[0], [0.5], colors=colour, linewidths=0.9)
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[-1].text(
        0.05,
        0.5,
        "red: true labels\nyellow: the teacher's labels\n(here the phantom's own mask)\n"
        "white: the box that is exchanged",
        fontsize=9,
        va="center",
    )
    figure.tight_layout(pad=0.4)
    out = Path(__file__).parent / "images" / "pseudolabel-views.png"
    figure.savefig(out, dpi=72)
    print(f"{out}: {out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
