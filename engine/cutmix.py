"""CutMix: a box of each sample is replaced by the same box of another, image and label alike.

Source: Yun et al., CutMix (ICCV 2019); for segmentation, with a share of the area between 2 and
40 % and an aspect ratio between 0.3 and 1/0.3, as in UniMatch (Yang et al., CVPR 2023).

Samples are mixed in pairs of neighbours in the stream, which are always dealt to one process: what
happens does not depend on how many processes there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from covidseg.core.errors import ConfigError
from covidseg.engine.seeds import derived_seed

AREA = (0.02, 0.4)
ASPECT = (0.3, 1 / 0.3)
# Keeps this draw apart from the others that are made from a sample's seed.
_KEY = 0xC07

Box = tuple[slice, slice]


def draw_box(seed: int, probability: float, plane: Sequence[int]) -> Box | None:
    """The box (y, x) that one sample gets from its neighbour, or None.

    Parameters
    ----------
    seed
        The sample's.
    probability
        That there is one.
    plane
        Voxels (y, x).
    """
    rng = np.random.Generator(np.random.Philox(key=derived_seed(seed, _KEY)))
    happens = rng.random() < probability
    share = rng.uniform(*AREA) * math.prod(plane)
    aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    corner = rng.random(2)
    if not happens:
        return None
    sides = math.sqrt(share * aspect), math.sqrt(share / aspect)
    box = []
    for side, edge, place in zip(sides, plane, corner, strict=True):
        length = min(edge, max(1, round(side)))
        start = int(place * (edge - length + 1))
        box.append(slice(start, start + length))
    return box[0], box[1]


def cutmix(
    image: Tensor, label: Tensor, seeds: Sequence[int], probability: float
) -> tuple[Tensor, Tensor]:
    """Mix a batch; the inputs stay as they are.

    Parameters
    ----------
    image
        (batch, channels, *patch), the batch of even length.
    label
        (batch, *patch).
    seeds
        One number a sample, not negative.
    probability
        That a sample gets a box of its neighbour; in 3D through all planes.

    Raises
    ------
    ConfigError
        The batch is odd: one sample would have no neighbour.
    """
    if len(image) % 2:
        raise ConfigError(
            f"CutMix in a batch of {len(image)} for each process",
            expected="an even number: samples are mixed in pairs",
            remedy="change patch.batch_size or the number of processes, or set "
            "augmentation.p_cutmix to 0",
        )
    new_image, new_label = image.clone(), label.clone()
    for number, seed in enumerate(seeds):
        box = draw_box(seed, probability, image.shape[-2:])
        if box is not None:
            rows, columns = box
            new_image[number, ..., rows, columns] = image[number ^ 1, ..., rows, columns]
            new_label[number, ..., rows, columns] = label[number ^ 1, ..., rows, columns]
    return new_image, new_label
