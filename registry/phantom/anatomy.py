"""A chest without its lungs' contents: body, bones, heart, vessels of the mediastinum, airways.

Every organ is an implicit function in millimetres: positive inside, about the distance to its
surface near it. So any sampling shows the same patient, and edges have partial volume.
Hounsfield units are textbook values; the shapes are fitted by eye to real scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from covidseg.registry.phantom.draws import Noise
from covidseg.registry.phantom.grid import Grid

Tube = Sequence[tuple[tuple[float, float, float], float]]


@dataclass(frozen=True)
class Chest:
    """One patient's build. Lengths in millimetres, radiodensities in Hounsfield units."""

    half_width: float
    half_depth: float
    height: float
    squareness: float
    fat: float
    muscle: float
    right_dome: float
    left_dome: float
    dome_depth: float
    heart: tuple[float, float, float]
    heart_shift: float
    kyphosis: float
    rib_pitch: float
    rib_phase: float
    bone: float
    aorta: float
    midline: float
    arms_down: bool
    unfolded_aorta: float
    lean: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Chest:
        """A patient drawn from plausible ranges."""
        size = float(np.clip(rng.normal(1.0, 0.055), 0.87, 1.13))

        def around(mean: float, sd: float) -> float:
            return float(mean + sd * np.clip(rng.standard_normal(), -2, 2))

        heart = around(1.0, 0.08)
        return cls(
            half_width=around(134, 5) * size,
            half_depth=around(95, 5) * size,
            height=around(228, 18) * size,
            squareness=around(2.25, 0.15),
            fat=float(np.clip(rng.gamma(4.0, 3.6), 4, 38)),
            muscle=around(15, 3),
            right_dome=around(6, 7),
            left_dome=around(-9, 7),
            dome_depth=around(52, 9),
            heart=(67 * heart * size, 50 * heart * size, 54 * heart * size),
            heart_shift=around(-24, 5),
            kyphosis=around(14, 7),
            rib_pitch=around(26, 1.5) * size,
            rib_phase=float(rng.random()),
            bone=around(1.0, 0.18),
            aorta=around(13.5, 1.6),
            midline=around(0, 4),
            arms_down=bool(rng.random() < 0.12),
            unfolded_aorta=float(rng.gamma(1.5, 4)),
            lean=around(0, 0.03),
        )

    def spine_y(self, z):
        """Antero-posterior place of the vertebral bodies' centres at height ``z``."""
        return self.centre_y(z) - 0.60 * self.half_depth

    def centre_y(self, z):
        """Antero-posterior middle of the thoracic cavity at height ``z``."""
        t = z / self.height
        return 5 - 12 * np.clip(t, 0, 1) - 0.6 * self.kyphosis * (1 - 4 * (t - 0.55) ** 2)

    def carina(self) -> tuple[float, float, float]:
        """Where the trachea divides."""
        z = 0.6 * self.height
        return (self.midline + 2, float(self.spine_y(z)) + 52, z)

    def hilum(self, side: int) -> tuple[float, float, float]:
        """Where a lung (1 right, -1 left) receives its bronchus and vessels."""
        x, y, z = self.carina()
        return (x + side * 44, y - 6, z - (22 if side > 0 else 16))


def inside(field: np.ndarray, softness_mm: float) -> np.ndarray:
    """Share of a voxel that lies inside a surface, from its implicit function: 0 to 1."""
    share = field * np.float32(1 / softness_mm)
    share += np.float32(0.5)
    return np.clip(share, 0, 1, out=share)


def paint(hu: np.ndarray, field: np.ndarray, value, softness_mm: float) -> None:
    """Lay ``value`` over ``hu`` in place where ``field`` is positive, blended at the edge."""
    share = inside(field, softness_mm)
    hu += share * (value - hu)


def tube(grid: Grid, path: Tube, margin_mm: float = 6.0) -> np.ndarray:
    """Implicit function of a chain of cones with round ends: ``[(point, radius), ...]``."""
    field = np.full(grid.shape, -1e3, np.float32)
    for (start, r0), (end, r1) in pairwise(path):
        tube_into(field, grid, start, end, r0, r1, margin_mm)
    return field


def tube_into(field, grid: Grid, start, end, r0, r1, margin_mm: float = 6.0) -> None:
    """Join one cone to an implicit function, working in its bounding box only."""
    p, q = np.asarray(start, np.float32), np.asarray(end, np.float32)
    reach = max(r0, r1) + margin_mm + 1.5 * grid.softness_mm
    box = grid.box(np.minimum(p, q) - reach, np.maximum(p, q) + reach)
    if any(cut.start >= cut.stop for cut in box):
        return
    x, y, z = (c[tuple(b if n > 1 else slice(None) for b, n in zip(box, c.shape, strict=True))]
               for c in grid.xyz)  # fmt: skip
    d = q - p
    along = ((x - p[0]) * d[0] + (y - p[1]) * d[1] + (z - p[2]) * d[2]) / max(float(d @ d), 1e-6)
    along = np.clip(along, 0, 1)
    distance = np.sqrt(
        (x - p[0] - along * d[0]) ** 2
        + (y - p[1] - along * d[1]) ** 2
        + (z - p[2] - along * d[2]) ** 2
    )
    inner = np.float32(r0) + along * np.float32(r1 - r0) - distance
    np.maximum(field[box], inner, out=field[box])


def ellipsoid(grid: Grid, centre, axes, turn: float = 0.0, tilt: float = 0.0) -> np.ndarray:
    """Implicit function of an ellipsoid turned about z, then tilted about y (radians)."""
    x, y, z = grid.xyz
    x, y, z = x - centre[0], y - centre[1], z - centre[2]
    u = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    v = y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))
    s, c = np.float32(np.sin(tilt)), np.float32(np.cos(tilt))
    u, w = u * c + z * s, z * c - u * s
    radius = np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2 + (w / axes[2]) ** 2)
    return (1 - radius) * np.float32(np.prod(axes) ** (1 / 3))


@dataclass
class Anatomy:
    """A chest on a grid: radiodensity, and implicit functions of what datasets label."""

    grid: Grid
    hu: np.ndarray
    right: np.ndarray
    left: np.ndarray
    heart: np.ndarray
    oesophagus: np.ndarray
    trachea: np.ndarray
    cord: np.ndarray

    @property
    def lungs(self) -> np.ndarray:
        """Implicit function of both pleural cavities."""
        return np.maximum(self.right, self.left)


def dome_height(chest: Chest, x, y, side: int):
    """Height of the diaphragm under a lung (1 right, -1 left) at ``x``, ``y``."""
    top = chest.right_dome if side > 0 else chest.left_dome
    across = (x * side - 0.5 * chest.half_width) / (0.55 * chest.half_width)
    across = np.where(across > 0, across**2 * 0.95, across**2 * 0.35)
    along = (y - 0.1 * chest.half_depth) / chest.half_depth
    along = np.where(along > 0, along**2 * 0.5, along**2 * 1.35)
    return top - chest.dome_depth * (across + along)


def cavities(chest: Chest, noise: Noise, grid: Grid, heart: np.ndarray):
    """Implicit functions of the two pleural cavities, and of the thoracic wall's inner surface."""
    x, y, z = grid.xyz
    t = np.clip(z / chest.height, 0, 1)
    wide = chest.half_width * np.clip(1 - t**3.1, 1e-4, 1) ** 0.5
    wide = wide * np.where(z < 0, 1 + z * 0.0004, 1)
    deep = chest.half_depth * np.clip(1 - 0.96 * t**3.8, 1e-4, 1) ** 0.5
    centre_y = chest.centre_y(z)
    n = np.float32(chest.squareness)
    u = np.abs(x - chest.midline - chest.lean * z) / wide
    v = np.abs(y - centre_y) / deep
    rho = (u**n + v**n) ** (1 / n)
    wall = (1 - rho) * np.sqrt(wide * deep)
    wobble = noise(grid, "wall", 34.0)
    wall = wall + wobble * np.float32(1.6)

    spine_x = chest.midline + chest.lean * z
    spine_y = chest.spine_y(z)
    spine = 25 - np.sqrt((x - spine_x) ** 2 * 0.95 + np.maximum(y - spine_y, 0) ** 2)
    carina_y = chest.carina()[1]
    # The mediastinum's half width: anterior junction narrow, great vessels and hila wide.
    middle = (
        31
        * np.exp(-(((y - carina_y + 4) / 34) ** 2))
        * np.exp(-(((z - 0.56 * chest.height) / (0.36 * chest.height)) ** 2))
    )
    upper = 22 * np.exp(-(((y - carina_y - 22) / 26) ** 2)) * inside(z - 0.5 * chest.height, 40.0)
    front = np.clip((y - _front_wall(chest, z) + 34) / 34, 0, 1) ** 2
    half = 6 + 2 * wobble + 15 * front + np.maximum(middle, upper)
    shift = chest.midline - 4
    fields = []
    for side in (1, -1):
        lung = np.minimum(wall, side * (x - shift) - half)
        np.minimum(lung, -spine, out=lung)
        np.minimum(lung, -4 - heart, out=lung)
        np.minimum(lung, (z - dome_height(chest, x, y, side)) * np.float32(0.8), out=lung)
        fields.append(lung)
    return fields[0], fields[1], wall, rho


def build(chest: Chest, noise: Noise, grid: Grid, contrast: float) -> Anatomy:
    """Draw a patient on a grid. ``contrast`` is 0 (native) to 1 (arterial contrast agent).

    Large grids are drawn some slices at a time, which keeps the work in the processor's cache.
    """
    in_plane = grid.shape[0] * grid.shape[1]
    step = max(4, 150_000 // in_plane)
    parts = [
        _build(chest, noise, grid.slices(start, start + step), contrast)
        for start in range(0, grid.shape[2], step)
    ]
    if len(parts) == 1:
        return parts[0]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=2)
        for name in ("hu", "right", "left", "heart", "oesophagus", "trachea", "cord")
    }
    return Anatomy(grid, **joined)


def _build(chest: Chest, noise: Noise, grid: Grid, contrast: float) -> Anatomy:
    x, y, z = grid.xyz
    soft = grid.softness_mm
    high = chest.height
    heart_centre = (
        chest.midline + chest.heart_shift,
        0.06 * chest.half_depth,
        chest.left_dome + 0.19 * high,
    )
    heart = ellipsoid(grid, heart_centre, chest.heart, turn=-0.62, tilt=-0.5)
    # The right atrium, and the left one in front of the spine, round it off.
    for dx, dy, dz, axes in ((40, -4, 8, (30, 38, 44)), (14, -26, 26, (36, 26, 26))):
        place = (heart_centre[0] + dx, heart_centre[1] + dy, heart_centre[2] + dz)
        np.maximum(heart, ellipsoid(grid, place, axes), out=heart)
    right, left, wall, rho = cavities(chest, noise, grid, heart)
    carina = chest.carina()

    # Great vessels push the lungs aside, so they come before the lungs are final.
    arch_z = 0.72 * high
    root = (chest.midline + 8, heart_centre[1] + 6, heart_centre[2] + 30)
    descending_x = chest.midline - 20 - chest.unfolded_aorta * 0.5
    r = chest.aorta

    def beside_spine(height: float) -> tuple[float, float, float]:
        return (descending_x, float(chest.spine_y(height)) + 14, height)

    aorta = tube(
        grid,
        [
            (root, r * 1.2),
            ((root[0] + 9, root[1] + 4, 0.6 * high), r * 1.2),
            ((root[0] - 2, root[1] - 4, arch_z - 6), r * 1.15),
            ((chest.midline - 12, carina[1] + 2, arch_z), r * 1.1),
            ((descending_x, carina[1] - 26, arch_z - 8), r),
            (beside_spine(0.55 * high), r),
            (beside_spine(0.25 * high), r * 0.95),
            (beside_spine(0.0), r * 0.9),
            (beside_spine(-0.5 * high), r * 0.85),
            (beside_spine(-1.0 * high), r * 0.8),
        ],
    )
    pulmonary = tube(
        grid,
        [
            ((heart_centre[0] + 6, root[1] + 12, heart_centre[2] + 32), 14),
            ((chest.midline - 16, carina[1] + 24, carina[2] - 12), 14),
            ((chest.midline + 10, carina[1] + 14, carina[2] - 20), 11),
            (chest.hilum(1), 8.5),
        ],
    )
    for part in (
        [((chest.midline - 16, carina[1] + 24, carina[2] - 12), 13), (chest.hilum(-1), 9)],
    ):
        np.maximum(pulmonary, tube(grid, part), out=pulmonary)
    cava = tube(
        grid,
        [
            ((chest.midline + 30, heart_centre[1] + 2, heart_centre[2] + 10), 10),
            ((chest.midline + 26, carina[1] + 20, carina[2] + 6), 9.5),
            ((chest.midline + 20, carina[1] + 26, 0.93 * high), 8),
            ((chest.midline + 34, carina[1] + 20, 1.2 * high), 6),
        ],
    )
    for vessel in (
        ((-22, 14), (-26, 6), 5.5),
        ((-8, 16), (-20, 18), 5.5),
        ((4, 18), (22, 12), 6.5),
    ):
        (x0, y0), (x1, y1), radius = vessel
        tube_into(
            cava, grid, (chest.midline + x0, carina[1] + y0, arch_z),
            (chest.midline + x1, carina[1] + y1, 1.2 * high), radius, radius * 0.8,
        )  # fmt: skip
    trachea = tube(
        grid,
        [
            ((chest.midline, carina[1] + 14, 1.5 * high), 8.5),
            ((chest.midline + 1, carina[1] + 10, 0.95 * high), 8.5),
            (carina, 8.8),
        ],
    )
    bronchi = trachea.copy()
    for side in (1, -1):
        hilum = np.array(chest.hilum(side))

        def off(right: float, front: float, up: float, hilum=hilum, side=side):
            return tuple(hilum + np.array([side * right, front, up]))

        main = 6.8 if side > 0 else 6.2
        for start, end, r0, r1 in (
            (carina, off(0, 0, 0), main + 0.6, main),
            (off(0, 0, 0), off(14, -16, -32), main * 0.85, 4.0),
            (off(14, -16, -32), off(24, -26, -62), 3.6, 2.2),
            (off(0, 0, 0), off(22, 4, 26), main * 0.7, 2.6),
            (off(6, -6, -14), off(34, 22, -34), 3.6, 1.8),
        ):
            tube_into(bronchi, grid, start, end, r0, r1)
    for obstacle in (aorta, pulmonary, cava, trachea):
        for lung in (right, left):
            np.minimum(lung, -2.5 - obstacle, out=lung)

    # Outer body, from the skin inwards.
    wall_scale = np.float32(np.sqrt(chest.half_width * chest.half_depth))
    shoulder = np.clip((z - 0.62 * high) / (0.5 * high), 0, 1.2)
    thick = 12 + chest.muscle + chest.fat
    body_wide = (
        chest.half_width
        + 10
        + 0.7 * chest.muscle
        + chest.fat
        + shoulder * (34 if chest.arms_down else 18)
    )
    body_deep = chest.half_depth + thick * 0.85 - shoulder * 12
    body_y = -4 - shoulder * 6
    u, v = np.abs(x - chest.midline) / body_wide, np.abs(y - body_y) / body_deep
    outline = (u**2.5 + v**2.5) ** (1 / 2.5)
    body = (1 - outline) * np.float32(np.sqrt(chest.half_width * chest.half_depth))
    back = -(chest.half_depth + 20 + chest.muscle + 0.55 * chest.fat) + np.abs(x) * 0.03
    body = np.minimum(body, y - back)
    fine = noise(grid, "tissue", 9.0)
    coarse = noise(grid, "layers", 26.0)
    hu = np.full(grid.shape, -1000, np.float32)
    if chest.arms_down:
        for side in (1, -1):
            arm_x = chest.midline + side * (chest.half_width + thick + 52)
            arm = tube(grid, [((arm_x, -15, -300), 38), ((arm_x, -5, 0.75 * high), 48),
                              ((arm_x - side * 30, 0, 1.05 * high), 46)])  # fmt: skip
            paint(hu, arm, -100 + 6 * fine, soft)
            paint(hu, arm - 8, 52 + 5 * fine, soft)
            shaft = tube(grid, [((arm_x, -15, -300), 12), ((arm_x, -5, 0.8 * high), 13)])
            paint(hu, shaft, 620 * chest.bone, soft)
    paint(hu, body, -104 + 7 * fine, soft)
    paint(hu, np.minimum(body, 2.0 - body), 5, soft)
    # Fat is thicker in front and at the sides than over the back and the ribs' upper part.
    cover = chest.fat * (0.62 + 0.3 * np.clip(v, 0, 1) * (y > 0)) - shoulder * chest.fat * 0.3
    muscle = body - np.maximum(cover, 3) + coarse * np.float32(2.2)
    muscle_hu = 52 + 6 * fine
    paint(hu, muscle, muscle_hu, soft)
    for layer in (14.0, 29.0):
        # Fat between the layers of muscle.
        sheet = np.minimum(1.3 + 0.7 * fine - np.abs(wall + layer + 5 * coarse), muscle - 3)
        paint(hu, sheet, -75, max(soft, 1.5))

    # Inside the ribs: mediastinal fat, muscle layer, then the abdomen below the diaphragm.
    paint(hu, wall + 2.5, -92 + 16 * np.clip(fine + coarse, -1, 3), soft)
    nodes = np.minimum(wall, (np.abs(fine) > 1.75) * 2.0 - 1)
    paint(hu, nodes * 3, 35, soft)
    dome_right, dome_left = dome_height(chest, x, y, 1), dome_height(chest, x, y, -1)
    below = np.minimum(wall - 2, np.where(x > chest.midline, dome_right, dome_left) - 2.5 - z)
    paint(hu, below, -98 + 8 * fine, soft)
    liver = np.minimum(wall - 5, np.minimum(dome_right - 3.5 - z, x + 28 + 0.25 * y + 4 * coarse))
    paint(hu, liver, 56 + 48 * contrast + 3 * fine, soft)
    lean = min(dome_height(chest, -70, -20, -1), 0)
    spleen = np.minimum(
        ellipsoid(grid, (-0.68 * chest.half_width, -38, lean - 38), (40, 44, 42), 0.6),
        np.minimum(wall - 5, below),
    )
    paint(hu, spleen, 48 + 62 * contrast + 3 * fine, soft)
    stomach = np.minimum(
        ellipsoid(grid, (-0.45 * chest.half_width, 22, lean - 36), (46, 38, 34), 0.3),
        np.minimum(wall - 8, below - 2),
    )
    paint(hu, stomach, 32, soft)
    paint(hu, np.minimum(stomach - 4, y - 34), -960, soft)

    blood = 42 + 210 * contrast
    paint(hu, heart, 48 + 60 * contrast + 4 * fine, soft)
    chamber = ellipsoid(
        grid, (heart_centre[0] - 8, heart_centre[1] + 2, heart_centre[2]),
        tuple(0.62 * a for a in chest.heart), turn=-0.62, tilt=-0.5,
    )  # fmt: skip
    paint(hu, chamber, blood * 0.9, soft)
    paint(hu, np.minimum(heart, x - chest.midline - 4) - 6, blood * 0.8, soft)
    for filled in (cava, pulmonary, aorta):
        paint(hu, filled, blood, soft)

    # Bones.
    spine_x, spine_y = chest.midline + chest.lean * z, chest.spine_y(z)
    lateral, depth = x - spine_x, y - spine_y
    level = z / chest.rib_pitch + chest.rib_phase
    phase = np.abs(level - np.round(level))
    vertebra = 16.5 - np.sqrt((lateral * 0.86) ** 2 + depth**2) - 1.8 * (phase < 0.36)
    paint(hu, vertebra, (330 - 130 * inside(vertebra - 3, 2.0)) * chest.bone + 30 * fine, soft)
    paint(hu, np.minimum(vertebra, (phase - 0.42) * chest.rib_pitch), 75, soft)
    canal_depth = depth + 25
    canal = 8.8 - np.sqrt(lateral**2 * 0.8 + canal_depth**2)
    lamina = np.minimum(canal + 5, -canal) + 1.5 * (phase < 0.3) - 0.8
    process = np.minimum(3.2 - np.abs(lateral), np.minimum(-canal_depth - 11, canal_depth + 34))
    process = np.minimum(process, (0.33 - phase) * chest.rib_pitch)
    across = np.minimum(
        4.5 - np.abs(canal_depth - 3 + 0.15 * np.abs(lateral)), 33 - np.abs(lateral)
    )
    across = np.minimum(np.minimum(across, (0.2 - phase) * chest.rib_pitch), -canal)
    paint(hu, np.maximum(np.maximum(lamina, process), across), 360 * chest.bone, soft)
    paint(hu, canal, -20, soft)
    cord = 5.6 - np.sqrt((lateral * 0.85) ** 2 + (canal_depth) ** 2)
    paint(hu, canal - 1.5, 14, soft)
    paint(hu, cord, 42, soft)

    # Ribs: where the wall's shell meets sheets that slope down from the spine to the front.
    # Their half heights and the gaps are in millimetres along z.
    front = np.arctan2(np.abs(x - spine_x), -(y + 6)) / np.float32(np.pi)
    slope = 74 * (1 - np.cos(np.pi * np.clip(front, 0, 1))) / 2
    sheet = (z + slope) / chest.rib_pitch + chest.rib_phase
    sheet = np.abs(sheet - np.round(sheet)) * chest.rib_pitch
    shell = (rho - 1) * np.sqrt(np.clip(wall_scale * wall_scale, 1, None)) * np.clip(
        np.sqrt(np.clip(1 - np.clip(z / high, 0, 1) ** 2.5, 0.02, 1)), 0.2, 1
    ) - 7.0
    rib = 1 - np.sqrt((shell / 4.6) ** 2 + (sheet / 6.4) ** 2)
    rib = np.minimum(rib * 4.6, np.minimum(body - 6, (1.03 * high - z)))
    cartilage = inside((front - 0.76) * 100, 8.0)
    rib_hu = (520 - 300 * inside(rib - 1.7, 1.2)) * chest.bone * (1 - cartilage) + 95 * cartilage
    paint(hu, rib, rib_hu, soft)
    plate = np.sqrt(((y - _front_wall(chest, z) - 8) / 6.5) ** 2 + ((x - chest.midline) / 19) ** 2)
    plate = np.minimum(np.minimum((1 - plate) * 6.5, z - 0.3 * high), 0.92 * high - z)
    paint(hu, plate, (300 - 170 * inside(plate - 2, 1.5)) * chest.bone, soft)
    shoulder_bones = np.full(grid.shape, -1e3, np.float32)
    for side in (1, -1):
        reach = chest.half_width + 14
        head = (chest.midline + side * reach, -12, 0.98 * high)
        tip = (chest.midline + side * 0.72 * reach, -chest.half_depth - 12, 0.5 * high)
        top = (chest.midline + side * 0.80 * reach, -chest.half_depth + 6, 0.93 * high)
        spine_edge = (chest.midline + side * 0.45 * reach, -chest.half_depth - 6, 0.86 * high)
        mid = (chest.midline + side * 0.62 * reach, -chest.half_depth - 14, 0.68 * high)
        for start, end, r0, r1 in (
            (head, (head[0] + side * 2, -10, 0.92 * high), 21, 15),
            (tip, top, 3.2, 6.5),
            (tip, spine_edge, 2.8, 2.8),
            (mid, top, 2.6, 3.0),
            (mid, spine_edge, 2.6, 2.6),
            (top, head, 6.0, 9.0),
            ((chest.midline + side * 18, _front_wall(chest, 0.9 * high) + 6, 0.93 * high),
             (chest.midline + side * reach, 14, 1.05 * high), 7, 6),
        ):  # fmt: skip
            tube_into(shoulder_bones, grid, start, end, r0, r1)
    shoulder_bones = np.minimum(shoulder_bones, np.minimum(body - 4, -wall - 2))
    paint(hu, shoulder_bones, (430 - 220 * inside(shoulder_bones - 2.4, 2)) * chest.bone, soft)

    oesophagus = tube(
        grid,
        [
            ((chest.midline - 5, carina[1] - 8, 1.3 * high), 7.5),
            ((chest.midline - 4, carina[1] - 15, carina[2]), 8),
            ((chest.midline - 6, float(chest.spine_y(0.3 * high)) + 30, 0.3 * high), 8.5),
            ((chest.midline - 14, float(chest.spine_y(0)) + 36, -5), 9),
        ],
    )
    for lung in (right, left):
        np.minimum(lung, -1 - oesophagus, out=lung)
    paint(hu, oesophagus, 38, soft)
    paint(hu, oesophagus - 5.2, -250, soft)
    paint(hu, bronchi + 1.6, 30, soft)
    paint(hu, bronchi, -985, soft)
    for lung in (right, left):
        np.minimum(lung, -1.0 - bronchi, out=lung)
    return Anatomy(grid, hu, right, left, heart, oesophagus, trachea, cord)


def _front_wall(chest: Chest, z):
    """Antero-posterior place of the wall's inner surface behind the sternum."""
    t = np.clip(z / chest.height, 0, 1)
    deep = chest.half_depth * np.clip(1 - 0.96 * t**3.8, 1e-4, 1) ** 0.5
    return deep + chest.centre_y(z)
