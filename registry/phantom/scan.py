"""Drawing one scan: a patient, their disease, and the scanner, into an image and its masks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from covidseg.imaging.volume import Volume
from covidseg.registry.phantom import anatomy as chests
from covidseg.registry.phantom.anatomy import Anatomy, Chest, inside
from covidseg.registry.phantom.draws import Noise, generator
from covidseg.registry.phantom.grid import Grid, oriented, refine
from covidseg.registry.phantom.lesions import (
    Effusion,
    Opacities,
    Tumours,
    draw_effusion,
    draw_opacities,
    draw_tumours,
)
from covidseg.registry.phantom.lungs import Parenchyma, lung_hu, vessel_share
from covidseg.registry.phantom.scanner import Exposure, Scanner, expose, sampling, table


@dataclass(frozen=True)
class Disease:
    """What the patients of a source suffer from; ranges are drawn from for each patient.

    ``severity`` is about the share of lung taken by COVID-19 (None: no COVID-19), drawn
    log-uniformly; ``consolidation`` its mean density. ``tumours`` is how many, ``radius_mm`` their
    size, ``attached`` the share that touch the pleura. ``effusion`` is its probability.
    """

    severity: tuple[float, float] | None = None
    consolidation: float = 0.35
    tumours: tuple[int, int] = (0, 0)
    radius_mm: tuple[float, float] = (6.0, 20.0)
    attached: float = 0.5
    effusion: float = 0.03


@dataclass(frozen=True)
class Source:
    """A hospital, so to say: its scanner and its patients."""

    name: str
    scanner: Scanner
    disease: Disease


@dataclass(frozen=True)
class Size:
    """How finely phantoms are sampled: pixels in plane and slices before a scanner's own factors.

    ``work_mm`` bounds the in-plane spacing that organs are computed at: finer grids get them by
    interpolation, which leaves edges as soft as a scanner's.
    """

    name: str
    in_plane: int
    slices: int
    work_mm: float = 2.4


SIZES = {
    size.name: size
    for size in (Size("tiny", 40, 16), Size("small", 112, 40), Size("full", 512, 116))
}


@dataclass
class Scan:
    """A drawn scan. ``image`` (X, Y, Z) int16 and ``masks`` uint8 are RAS+ on one grid."""

    image: np.ndarray
    masks: dict[str, np.ndarray]
    affine: np.ndarray
    orientation: str

    def volume(self, data: np.ndarray | None = None, orientation: str | None = None) -> Volume:
        """The image, or ``data`` on its grid, in the source's own axis order and direction."""
        data = self.image if data is None else data
        return Volume(*oriented(data, self.affine, orientation or self.orientation))


@dataclass(frozen=True)
class Patient:
    """Everything of a patient that does not change from scan to scan."""

    seed: int
    names: tuple[str, ...]
    chest: Chest
    parenchyma: Parenchyma
    opacities: Opacities | None
    tumours: Tumours | None
    effusion: Effusion | None

    @classmethod
    def draw(
        cls,
        seed: int,
        source: Source,
        patient_id: str,
        *,
        severity: float | None = None,
        effusion: bool | None = None,
    ) -> Patient:
        """A patient of a source. ``severity`` and ``effusion`` overrule what would be drawn."""
        names = (source.name, patient_id)
        chest = Chest.draw(generator(seed, *names, "chest"))
        disease = source.disease
        rng = generator(seed, *names, "disease")
        share, fluid = rng.random(), rng.random() < disease.effusion
        opacities = tumours = None
        if disease.severity is not None:
            low, high = np.log(disease.severity)
            drawn = float(np.exp(low + share * (high - low)))
            opacities = Opacities.draw(
                generator(seed, *names, "covid"),
                chest,
                drawn if severity is None else severity,
                disease.consolidation,
            )
        if disease.tumours[1]:
            count = int(rng.integers(disease.tumours[0], disease.tumours[1] + 1))
            tumours = Tumours.draw(
                generator(seed, *names, "tumour"),
                lambda points: _lung_depth(chest, Noise(seed, *names), points),
                chest,
                count,
                disease.radius_mm,
                disease.attached,
            )
        has_fluid = fluid if effusion is None else effusion
        return cls(
            seed,
            names,
            chest,
            Parenchyma.draw(generator(seed, *names, "parenchyma")),
            opacities,
            tumours,
            Effusion.draw(generator(seed, *names, "effusion")) if has_fluid else None,
        )

    def progressed(self, factor: float) -> Patient:
        """The same patient days later: COVID-19 lesions ``factor`` times as large."""
        if self.opacities is None:
            return self
        return replace(self, opacities=replace(self.opacities, radii=self.opacities.radii * factor))

    def without_covid(self) -> Patient:
        """The same patient in good health, as far as COVID-19 goes."""
        return replace(self, opacities=None)

    def lung_range(self) -> tuple[float, float]:
        """Lowest and highest place of the lungs along z."""
        chest = self.chest
        return min(chest.right_dome, chest.left_dome) - 1.15 * chest.dome_depth, chest.height


def _lung_depth(chest: Chest, noise: Noise, points: np.ndarray) -> np.ndarray:
    """Implicit function of the lungs at points (n, 3), by way of a coarse grid."""
    low = np.array([-180.0, -140.0, -90.0])
    grid = Grid(tuple(low), (9.0, 9.0, 9.0), (41, 32, 40))
    lungs = chests.build(chest, noise, grid, 0.0).lungs
    index = np.clip(np.rint((points - low) / 9.0).astype(int), 0, np.array(grid.shape) - 1)
    return lungs[tuple(index.T)]


def draw_scan(
    patient: Patient,
    source: Source,
    case_id: str,
    size: Size,
    masks: Collection[str],
    *,
    window_z: tuple[float, int] | None = None,
) -> Scan:
    """Draw a scan of a patient and the masks asked for.

    Parameters
    ----------
    masks
        Of ``lungs`` (1 left, 2 right, with all that is in the pleural cavities), ``infection``,
        ``infection_kind`` (1 ground glass, 2 consolidation), ``tumour``, ``effusion``, ``organs``
        (StructSeg's 1 to 6).
    window_z
        Height as a share of the lungs and number of slices: draw those slices alone.
    """
    rng = generator(patient.seed, *patient.names, "scan", case_id)
    exposure = Exposure.draw(rng, source.scanner)
    low, high = patient.lung_range()
    grid = sampling(exposure, low, high, size.in_plane, size.slices)
    if window_z is not None:
        middle = round(window_z[0] * (grid.shape[2] - 1)) - window_z[1] // 2
        middle = min(max(middle, 0), grid.shape[2] - window_z[1])
        grid = grid.slices(middle, middle + window_z[1])
    chest = patient.chest
    noise = Noise(patient.seed, *patient.names)
    work = grid.coarsened(size.work_mm)
    body = chests.build(chest, noise, work, exposure.contrast)
    if source.scanner.table:
        back = -(chest.half_depth + 20 + chest.muscle + 0.55 * chest.fat)
        table(body.hu, work, back)
    lung = lung_hu(chest, patient.parenchyma, noise, body)
    fields = {}
    if patient.opacities is not None:
        fields["infection"] = draw_opacities(lung, patient.opacities, noise, body)
    if patient.tumours is not None:
        fields["tumour"] = draw_tumours(lung, patient.tumours, noise, body)
    if patient.effusion is not None:
        fields["effusion"] = draw_effusion(lung, patient.effusion, chest, body)

    full = grid.shape
    share = refine(inside(body.lungs, work.softness_mm), full)
    hu = refine(body.hu, full)
    air = refine(lung, full)
    vessels = vessel_share(chest, generator(patient.seed, *patient.names, "vessels"), grid)
    if "effusion" in fields:
        vessels *= refine(fields["effusion"], full) < 0
    blood = np.float32(42 + 190 * exposure.contrast)
    vessels *= (blood - air).clip(0)
    drawn = _masks(masks, body, fields, lung, full)
    air += vessels
    air -= hu
    air *= share
    hu += air
    del air, vessels, share
    image = expose(hu, grid, exposure, rng)
    affine = grid.affine
    affine[:3, 3] += exposure.origin_mm
    return Scan(image, drawn, affine, source.scanner.orientation)


def _masks(
    wanted: Collection[str],
    body: Anatomy,
    fields: dict[str, np.ndarray],
    lung: np.ndarray,
    shape: tuple[int, int, int],
) -> dict[str, np.ndarray]:
    left, right = refine(body.left, shape) > 0, refine(body.right, shape) > 0
    right &= ~left
    both = left | right

    def mask(name: str) -> np.ndarray:
        field = refine(fields[name], shape)
        found = field > 0
        if name != "tumour":
            found &= both
        if not found.any():
            # Smaller than a voxel: the voxel nearest to its middle stands for it.
            found.reshape(-1)[int(np.argmax(np.where(both, field, -np.inf)))] = True
        return found.astype(np.uint8)

    drawn = {}
    for name in wanted:
        if name == "lungs":
            drawn[name] = (left + 2 * right.astype(np.uint8)).astype(np.uint8)
        elif name == "infection_kind" and "infection" in fields:
            infection = mask("infection")
            drawn[name] = infection + infection * (refine(lung, shape) > -330)
        elif name == "organs":
            organs = np.zeros(shape, np.uint8)
            layers = [(6, body.cord), (3, body.heart), (4, body.oesophagus), (5, body.trachea)]
            for value, field in layers:
                organs[refine(field, shape) > 0] = value
            organs[left], organs[right] = 1, 2
            if "tumour" in fields:
                # Planning outlines spare the lungs from the target volume.
                organs[both & (refine(fields["tumour"], shape) > 0)] = 0
            drawn[name] = organs
        elif name in fields:
            drawn[name] = mask(name)
        else:
            drawn[name] = np.zeros(shape, np.uint8)
    return {name: np.ascontiguousarray(array, np.uint8) for name, array in drawn.items()}
