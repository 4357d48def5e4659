"""What fills the lungs: air and its gradient, vessels, fissures, and dependent density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covidseg.registry.phantom.anatomy import Anatomy, Chest, inside
from covidseg.registry.phantom.draws import Noise
from covidseg.registry.phantom.grid import Grid


@dataclass(frozen=True)
class Parenchyma:
    """How one patient's lungs look: Hounsfield units, and lengths in millimetres."""

    air: float
    gravity: float
    emphysema: float
    dependent: float
    dependent_mm: float
    bands: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Parenchyma:
        return cls(
            air=float(np.clip(rng.normal(-882, 20), -920, -835)),
            gravity=float(rng.uniform(20, 75)),
            emphysema=float(max(0.0, rng.normal(-20, 45))),
            dependent=float(rng.gamma(1.6, 65)),
            dependent_mm=float(rng.uniform(5, 13)),
            bands=float(rng.random()),
        )


def lung_hu(chest: Chest, lungs: Parenchyma, noise: Noise, anatomy: Anatomy) -> np.ndarray:
    """Radiodensity of lung tissue without vessels or lesions, on the anatomy's grid."""
    grid = anatomy.grid
    x, y, z = grid.xyz
    depth = anatomy.lungs
    back = (chest.centre_y(z) - y) / chest.half_depth
    broad, patches = noise(grid, "air", 42.0), noise(grid, "acini", 11.0)
    hu = lungs.air + lungs.gravity * back + 9 * broad + 10 * patches
    if lungs.emphysema > 0:
        upper = inside(z - 0.45 * chest.height, 90.0)
        hu -= lungs.emphysema * inside(patches + 0.5 * broad - 0.9, 0.6) * (0.35 + upper)
    # Lung that lies lowest is less aired: a fuzzy band along the back, a confounder of infection.
    band = np.exp(-np.clip(depth, 0, 60) / lungs.dependent_mm) * np.clip(back - 0.25, 0, 1) * 1.9
    hu += lungs.dependent * band * np.clip(1.1 + 0.6 * broad, 0, 2)
    # Oblique fissures: thin sheets from high behind to low in front.
    for side in (1, -1):
        sheet = z - (0.42 + 0.03 * side) * chest.height + 0.95 * (y - chest.centre_y(z)) - 5 * broad
        thin = np.exp(-((sheet / (1.1 + 0.5 * grid.softness_mm)) ** 2))
        hu += 90 / (1 + 0.5 * grid.softness_mm) * thin * (side * (x - chest.midline) > 0)
    if lungs.bands > 0.6:
        # Plate-like atelectasis above the diaphragm.
        low = np.exp(-(((z - 18 - 12 * broad) / 26) ** 2)) * (np.abs(patches + broad) < 0.16)
        hu += 420 * (lungs.bands - 0.4) * low * inside(30 - depth, 20.0)
    # The pleura's partial volume.
    hu += 60 * np.exp(-np.clip(depth, 0, 50) / 2.0)
    return hu.astype(np.float32)


def vessel_share(
    chest: Chest, rng: np.random.Generator, grid: Grid, generations: int = 10
) -> np.ndarray:
    """Share of every voxel that is pulmonary vessel, 0 to 1: two trees a lung, tapering outwards.

    Branches much thinner than a voxel are left out; all the others are filled with points that
    deposit their volume, so a thin vessel fades as partial volume makes it fade.
    """
    points, volumes = [], []
    voxel = float(np.prod(grid.spacing_mm))
    step = float(min(grid.spacing_mm))
    for side in (1, -1):
        for _ in range(2):
            tree = _tree(rng, np.asarray(chest.hilum(side), float), side, chest, generations)
            for start, end, bend, r0, r1 in tree:
                if np.pi * r0**2 * step / voxel < 0.02:
                    break
                filled = _fill(start, end, bend, r0, r1, step)
                points.append(filled[0])
                volumes.append(filled[1])
    share = np.zeros(grid.shape, np.float32)
    if points:
        _deposit(share, grid, np.concatenate(points), np.concatenate(volumes) / voxel)
    return np.minimum(share, 1, out=share)


def _tree(rng, root, side, chest, generations):
    """One level of branches after another: starts, ends, bends (n, 3) and radii."""
    start = root[None] + rng.normal(0, 3, (1, 3))
    # Seven lobar and segmental trunks leave the hilum in directions that fill the lung.
    aim = np.array(
        [[0.5, 0.5, 0.8], [0.4, -0.5, 0.8], [0.8, 0.6, 0.0], [0.9, -0.4, 0.1],
         [0.5, 0.6, -0.6], [0.6, -0.2, -0.9], [0.3, -0.7, -0.7], [0.9, 0.1, -0.7]]
    ) * [side, 1, 1]  # fmt: skip
    aim = aim + rng.normal(0, 0.15, aim.shape)
    start = np.repeat(start, len(aim), 0)
    length, radius = 0.16 * chest.height, 4.5
    for generation in range(generations - 2):
        aim /= np.linalg.norm(aim, axis=1, keepdims=True)
        reach = length * rng.uniform(0.7, 1.3, (len(aim), 1))
        end = start + aim * reach
        bend = rng.normal(0, 0.07, end.shape) * reach
        thin = radius * (0.77 if generation else 0.72)
        yield start, end, bend, radius, thin
        outward = end - root
        outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6
        turn = rng.normal(0, 1, end.shape)
        turn -= (turn * aim).sum(1, keepdims=True) * aim
        turn /= np.linalg.norm(turn, axis=1, keepdims=True) + 1e-6
        keep = 0.75 * aim + 0.35 * outward
        small = keep + turn * rng.uniform(0.5, 1.0, (len(aim), 1))
        large = keep - turn * rng.uniform(0.2, 0.6, (len(aim), 1))
        aim = np.concatenate([small, large])
        start = np.concatenate([end, end])
        length, radius = length * 0.79, thin


def _fill(start, end, bend, r0, r1, step):
    """Points that fill bent cones of one generation evenly, and the volume each stands for."""
    length = float(np.linalg.norm(end - start, axis=1).mean())
    along = max(2, int(np.ceil(length / step)))
    rings = int(np.ceil(r0 / (1.2 * step)))
    s = (np.arange(along, dtype=np.float32) + 0.5)[None, :, None] / along
    centre = start[:, None] + (end - start)[:, None] * s + bend[:, None] * 4 * s * (1 - s)
    radius = r0 + (r1 - r0) * s
    axis = end - start
    axis /= np.linalg.norm(axis, axis=1, keepdims=True) + 1e-6
    other = np.where(np.abs(axis[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
    u = np.cross(axis, other)
    u /= np.linalg.norm(u, axis=1, keepdims=True) + 1e-6
    v = np.cross(axis, u)
    # A sunflower of points over the cross-section, each for an equal part of it.
    count = 1 if rings <= 1 else 3 * rings**2
    k = np.arange(count) + 0.5
    rim = np.sqrt(k / count) * (count > 1)
    angle = k * np.pi * (3 - 5**0.5)
    across = (
        u[:, None, None] * (rim * np.cos(angle))[:, None]
        + v[:, None, None] * (rim * np.sin(angle))[:, None]
    )
    points = centre[:, :, None] + across * radius[:, :, None]
    each = np.pi * radius[..., 0] ** 2 * (length / along) / count
    volumes = np.broadcast_to(each[..., None], points.shape[:3])
    return points.reshape(-1, 3).astype(np.float32), volumes.reshape(-1).astype(np.float32)


def _deposit(share, grid: Grid, points, weights) -> None:
    """Add weights to the eight voxels around every point (trilinear)."""
    place = (points - np.asarray(grid.first_mm, np.float32)) / np.asarray(
        grid.spacing_mm, np.float32
    )
    near = np.all((place >= 0) & (place < np.array(grid.shape) - 1), axis=1)
    place, weights = place[near], weights[near]
    base = place.astype(np.int32)
    part = place - base
    strides = np.array((grid.shape[1] * grid.shape[2], grid.shape[2], 1))
    flat = base @ strides
    total = share.reshape(-1)
    for corner in np.ndindex(2, 2, 2):
        portion = weights
        for axis in range(3):
            portion = portion * (part[:, axis] if corner[axis] else 1 - part[:, axis])
        np.add.at(total, flat + int(corner @ strides), portion.astype(np.float32))
