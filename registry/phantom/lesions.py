"""Disease: COVID-19 opacities, tumours, pleural effusion, each with the mask a reader draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from covidseg.registry.phantom.anatomy import Anatomy, Chest, inside
from covidseg.registry.phantom.draws import Noise

Sampler = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Opacities:
    """COVID-19 lesions of one scan: ellipsoids that noise frays and joins.

    ``density`` is 0 for pure ground glass to 1 for consolidation.
    """

    centres: np.ndarray
    radii: np.ndarray
    density: np.ndarray
    paving: float
    fray: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, chest: Chest, severity: float, consolidation: float
    ) -> Opacities:
        """Lesions for a severity in [0, 1] (about the share of lung taken), peripheral and low."""
        count = 1 + int(rng.poisson(2 + 16 * severity**0.5)) if severity > 0.005 else 1
        # Lungs hold about five litres; about half of an ellipsoid lies outside them or in others.
        radius = (severity * 5e6 * 1.3 / (count * 4 / 3 * np.pi)) ** (1 / 3)
        radii = np.clip(radius * rng.lognormal(0, 0.3, count), 6, 75)
        sides = np.where(rng.random(count) < 0.53, 1, -1)
        # Angle from straight behind (0) round the side to the front (pi); height from base to top.
        angle = np.pi * rng.beta(1.5, 2.6, count)
        height = chest.height * rng.beta(1.7, 2.6, count) * 0.95 - 15
        t = np.clip(height / chest.height, 0, 1)
        wide = chest.half_width * np.clip(1 - t**3.1, 0, 1) ** 0.5
        deep = chest.half_depth * np.clip(1 - 0.96 * t**3.8, 0, 1) ** 0.5
        n = chest.squareness
        c, s = np.cos(angle), np.sin(angle)
        rim = (np.abs(s) ** n + np.abs(c) ** n) ** (-1 / n)
        inset = np.where(rng.random(count) < 0.8, rng.uniform(0.86, 1.04, count), 0.62)
        x = chest.midline + sides * np.maximum(wide * rim * s * inset, 34)
        y = chest.centre_y(height) - deep * rim * c * inset
        shape = rng.uniform(0.65, 1.35, (count, 3)) * [1, 1, 1.15]
        density = np.clip(rng.normal(consolidation, 0.28, count), 0, 1)
        # Consolidation is heavier low and behind.
        density = np.clip(density + 0.25 * (c > 0.3) - 0.15 * t, 0, 1)
        return cls(
            centres=np.stack([x, y, height], 1),
            radii=radii[:, None] * shape,
            density=density,
            paving=float(rng.random() * rng.random()),
            fray=float(rng.uniform(0.28, 0.44)),
        )


def draw_opacities(
    hu: np.ndarray, opacities: Opacities, noise: Noise, anatomy: Anatomy
) -> np.ndarray:
    """Darken lung HU in place and return the infection's implicit function (positive inside).

    The mask's outline is where a reader would draw it; the opacity itself starts from nothing
    there and grows inwards, so the edge is fuzzy.
    """
    grid = anatomy.grid
    best = np.full(grid.shape, -3.0, np.float32)
    solid = np.zeros(grid.shape, np.float32)
    for centre, radii, density in zip(
        opacities.centres, opacities.radii, opacities.density, strict=True
    ):
        box = grid.box(centre - 1.7 * radii, centre + 1.7 * radii)
        if any(cut.start >= cut.stop for cut in box):
            continue
        x, y, z = (
            c[tuple(b if n > 1 else slice(None) for b, n in zip(box, c.shape, strict=True))]
            for c in grid.xyz
        )
        r = np.sqrt(
            ((x - centre[0]) / radii[0]) ** 2
            + ((y - centre[1]) / radii[1]) ** 2
            + ((z - centre[2]) / radii[2]) ** 2
        )
        np.maximum(best[box], 1 - r, out=best[box])
        weight = np.clip(1.2 - r, 0, 1) * np.float32(density)
        np.maximum(solid[box], weight, out=solid[box])
    edge, fine = noise(grid, "fray", 14.0), noise(grid, "ground glass", 6.0)
    value = best + opacities.fray * (edge + 0.45 * fine)
    np.minimum(value, (anatomy.lungs + 0.5 * grid.softness_mm) * 0.4, out=value)
    value[best < -0.7] = -1
    seen = value > -0.25
    if not seen.any():
        return value
    v, e, f, d, lung = value[seen], edge[seen], fine[seen], solid[seen], hu[seen]
    amount = np.clip((v + 0.06) / 0.26, 0, 1)
    glass = amount * (0.30 + 0.10 * np.clip(f, -1.2, 1.2) + 0.12 * d)
    core = np.clip((v - 0.12 + 0.9 * (d - 0.5) + 0.18 * e) / 0.22, 0, 1)
    bronchogram = 1 - 0.5 * (np.abs(e + 0.3 * f) < 0.12)
    dense = core * np.clip(0.55 + 0.6 * d, 0, 0.97) * bronchogram * amount
    if opacities.paving > 0.25:
        lines = (np.abs(f) < 0.16) * opacities.paving * 0.35 * amount
        glass = glass + lines
    share = np.clip(np.maximum(glass, dense), 0, 0.98)
    hu[seen] = lung + share * (38 - lung)
    return value


@dataclass(frozen=True)
class Tumours:
    """Lung cancer: lobulated or spiculated masses, free in the lung or attached to its border."""

    centres: np.ndarray
    radii: np.ndarray
    spikes: float
    hu: float
    necrosis: float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        lung_depth: Sampler,
        chest: Chest,
        count: int,
        radius_mm: tuple[float, float],
        attached: float,
    ) -> Tumours:
        """``attached`` is the share of tumours whose centre lies near the pleura or mediastinum."""
        low = np.array([-chest.half_width, -chest.half_depth, -20])
        high = np.array([chest.half_width, chest.half_depth, 0.9 * chest.height])
        points = rng.uniform(low, high, (600, 3)).astype(np.float32)
        depth = lung_depth(points)
        centres, radii = [], []
        for _ in range(count):
            radius = float(np.exp(rng.uniform(*np.log(radius_mm))))
            touching = rng.random() < attached
            wanted = rng.uniform(0.15, 0.7) * radius if touching else radius + 5
            place = int(np.argmin(np.abs(depth - wanted) + 1e6 * (depth <= 0)
                                  if touching else -np.minimum(depth, wanted)))  # fmt: skip
            centres.append(points[place])
            radii.append(radius * rng.uniform(0.75, 1.25, 3))
            depth[np.linalg.norm(points - points[place], axis=1) < 2.5 * radius] = -99
        return cls(
            np.array(centres), np.array(radii), float(rng.uniform(0.1, 0.3)),
            float(rng.normal(38, 12)), float(rng.random()),
        )  # fmt: skip


def draw_tumours(hu: np.ndarray, tumours: Tumours, noise: Noise, anatomy: Anatomy) -> np.ndarray:
    """Paint tumours over lung HU in place; returns their implicit function in millimetres."""
    grid = anatomy.grid
    field = np.full(grid.shape, -1e3, np.float32)
    lobes, spikes = noise(grid, "lobes", 17.0), noise(grid, "spicules", 5.0)
    for centre, radii in zip(tumours.centres, tumours.radii, strict=True):
        mean = float(radii.mean())
        box = grid.box(centre - 2 * radii - 6, centre + 2 * radii + 6)
        if any(cut.start >= cut.stop for cut in box):
            continue
        x, y, z = (
            c[tuple(b if n > 1 else slice(None) for b, n in zip(box, c.shape, strict=True))]
            for c in grid.xyz
        )
        r = np.sqrt(
            ((x - centre[0]) / radii[0]) ** 2
            + ((y - centre[1]) / radii[1]) ** 2
            + ((z - centre[2]) / radii[2]) ** 2
        )
        rough = mean * (0.16 * lobes[box] + 0.5 * tumours.spikes * np.maximum(spikes[box] - 0.6, 0))
        np.maximum(field[box], (1 - r) * mean + rough, out=field[box])
    # An attached tumour stops at the pleura, give or take a voxel's partial volume.
    np.minimum(field, anatomy.lungs + 1.0, out=field)
    value = tumours.hu - 35 * tumours.necrosis * inside(field - 9, 4.0) + 6 * spikes
    share = inside(field, max(grid.softness_mm, 1.5))
    hu += share * (value - hu)
    halo = np.exp(-np.clip(-field, 0, 30) / 3.0) * 0.18 * (field <= 0)
    hu += halo * (-300 - hu) * (np.abs(spikes) < 0.5)
    return field


@dataclass(frozen=True)
class Effusion:
    """Free pleural fluid beside one lung (side: 1 right, -1 left) of a patient on their back."""

    side: int
    depth_mm: float
    height: float
    hu: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Effusion:
        return cls(
            side=1 if rng.random() < 0.55 else -1,
            depth_mm=float(rng.uniform(16, 62)),
            height=float(rng.uniform(0.45, 0.95)),
            hu=float(rng.normal(9, 6)),
        )


def draw_effusion(hu: np.ndarray, effusion: Effusion, chest: Chest, anatomy: Anatomy) -> np.ndarray:
    """Fill the lowest part of a pleural cavity in place; returns the fluid's implicit function.

    Fluid gathers behind (the patient lies on the back) and, since the lung floats on it, more so
    near the diaphragm; its surface climbs where it meets the chest wall (meniscus). The lung next
    to it is compressed.
    """
    grid = anatomy.grid
    y, z = grid.xyz[1:]
    cavity = anatomy.right if effusion.side > 0 else anatomy.left
    t = np.clip((z + 40) / (chest.height * effusion.height + 40), 0, 1.2)
    level = chest.centre_y(z) - chest.half_depth + effusion.depth_mm * (1 - t**1.6)
    climb = 15 * np.exp(-np.clip(cavity, 0, 60) / 7.0) * np.clip(1 - t, 0, 1)
    surface = level + climb - y
    fluid = np.minimum(surface, cavity)
    pressed = np.exp(-np.clip(-surface, 0, 90) / 9.0) * inside(cavity, grid.softness_mm)
    hu += 0.8 * pressed * (-60 - hu) * (surface < 0)
    share = inside(fluid, grid.softness_mm)
    share = np.where(cavity > 0.3 * grid.softness_mm, inside(surface, grid.softness_mm), share)
    hu += share * (effusion.hu - hu)
    return fluid
