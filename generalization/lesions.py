"""Synthetic COVID-19 lesions, painted into lungs without COVID-19.

What is known of such lesions is drawn, and no image or label of one is used: several, peripheral,
ground glass to consolidation, with vessels seen through. An alveolus whose air is partly replaced
by fluid and cells has (1 − a)·air + a·tissue on the Hounsfield scale, a the share replaced; vessels
within are tissue already and stay. So a lung voxel x becomes x + a·max(t − x, 0), and all that is
drawn is a.

The idea that lesions drawn on healthy lungs can teach segmentation: Yao et al., Label-free
segmentation of COVID-19 lesions in lung CT (NormNet), IEEE TMI 40 (2021). Densities: ground glass
and consolidation as the Fleischner Society's glossary defines them (Hansell et al., Radiology 246,
2008); distribution: Salehi et al., AJR 215 (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from covidseg.core.errors import ConfigError
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import LESIONS, device_noise, generator, on_device
from covidseg.generalization.numbers import check_numbers
from covidseg.generalization.splines import spline_field

Range = tuple[float, float]


@dataclass(frozen=True)
class LesionConfig:
    """How lesions are drawn; lengths in millimetres, densities in Hounsfield units.

    Parameters
    ----------
    p
        Share of the patches that are painted; the others show lungs without a lesion.
    foci
        The most lesions in a patch.
    involved
        Range of the share of the lung that they take, about; drawn evenly on a log scale.
    radius_mm
        Range of a lesion's mean radius, on a log scale.
    elongation
        The longest axis is up to this times the mean radius, the shortest as much less.
    rim_mm, inner_share
        Distance within which a lesion counts as lying at the lung's border, and how much likelier a
        place deep inside is than one at the border (0 never, 1 as likely).
    glass, solid
        Ranges of the share of air replaced in ground glass and in consolidation.
    p_glass_only
        Share of the lesions without any consolidation; in the others its extent is drawn evenly.
    tissue_hu
        What replaces the air.
    edge_mm
        Range of the width over which a lesion fades; its outline is where half is reached.
    fray_mm
        Range of how far its outline strays.
    noise_hu
        Range of the noise that a scanner would add to the new tissue.
    """

    p: float = 0.8
    foci: int = 8
    involved: Range = (0.01, 0.4)
    radius_mm: Range = (5.0, 35.0)
    elongation: float = 1.5
    rim_mm: float = 20.0
    inner_share: float = 0.1
    glass: Range = (0.2, 0.55)
    solid: Range = (0.75, 1.0)
    p_glass_only: float = 0.45
    tissue_hu: Range = (15.0, 60.0)
    edge_mm: Range = (1.5, 8.0)
    fray_mm: Range = (1.0, 6.0)
    noise_hu: Range = (5.0, 30.0)

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "lesions",
            shares=["p", "involved", "inner_share", "glass", "solid", "p_glass_only"],
            positive=["foci", "involved", "radius_mm", "rim_mm", "edge_mm"],
            not_negative=["fray_mm", "noise_hu"],
            ranges=["involved", "radius_mm", "glass", "solid", "tissue_hu", "edge_mm", "fray_mm",
                    "noise_hu"],
        )  # fmt: skip
        if self.elongation < 1:
            raise ConfigError(f"lesions.elongation is {self.elongation}", expected="1 or above")


# Control points of the smooth noises are this far apart: outlines, and texture.
_OUTLINE_MM, _TEXTURE_MM = 14.0, 5.0
# What is denser than this over twice this width is no lung that a lesion could be painted into.
_DENSE_HU, _WIDTH_MM = -300.0, 6.0
# Values of the lesions' fields that a GPU holds at once.
_MOST_VALUES = 2**27
# Depth of what does not happen.
_NOWHERE = -1e3
# Of a quadratic B-spline of white noise, per axis.
_SPLINE_VARIANCE = 0.55


@dataclass
class Foci:
    """A sample's lesions, n ellipsoids in so many dimensions d.

    ``place`` (n,) in [0, 1) picks their centres among the lung's voxels; ``axes`` (n, d, d) holds
    the axes of each as rows and ``radii_mm`` (n, d) their lengths; ``solid`` (n,) in [0, 1] is how
    far consolidation reaches.
    """

    place: np.ndarray
    axes: np.ndarray
    radii_mm: np.ndarray
    solid: np.ndarray


@dataclass
class Lesions:
    """All that is painted into one sample."""

    foci: Foci
    involved: float
    glass: float
    solid: float
    tissue_hu: float
    edge_mm: float
    fray_mm: float
    noise_hu: float
    rng: np.random.Generator


@dataclass(frozen=True)
class PaintLesions:
    """Paints lesions into batches of lungs; call it before any augmentation.

    Takes batches whose labels are lungs (every class above 0) and gives batches whose labels are
    lesions (1), or the lungs as before. Works on patches in 2D and 3D, on the device they are on.

    Parameters
    ----------
    config
        How they look.
    spacing_mm
        Of the patch's axes, in array order: two numbers in 2D.
    mean, std
        Of the network's input: Hounsfield units are image·std + mean.
    clip_hu
        What the input is clipped to; what is painted is as well, as a real lesion would have been.
    relabel
        Whether the lesions become the labels; else the labels stay.
    """

    config: LesionConfig
    spacing_mm: tuple[float, ...]
    mean: float
    std: float
    clip_hu: tuple[float, float]
    relabel: bool = True

    def draw(self, seed: int) -> Lesions | None:
        """What is painted into the sample with this seed; None if nothing is."""
        rng, config = generator(seed, LESIONS), self.config
        happens = rng.random() < config.p
        involved = _log_uniform(rng, config.involved)
        glass, solid = rng.uniform(*config.glass), rng.uniform(*config.solid)
        tissue_hu, edge_mm = rng.uniform(*config.tissue_hu), rng.uniform(*config.edge_mm)
        fray_mm, noise_hu = rng.uniform(*config.fray_mm), rng.uniform(*config.noise_hu)
        foci = self._foci(rng)
        if not happens:
            return None
        return Lesions(foci, involved, glass, solid, tissue_hu, edge_mm, fray_mm, noise_hu, rng)

    def _foci(self, rng: np.random.Generator) -> Foci:
        axes, config, count = len(self.spacing_mm), self.config, self.config.foci
        stretch = np.exp(rng.uniform(-1, 1, (count, axes)) * math.log(config.elongation))
        low, high = np.log(config.radius_mm)
        radius = np.exp(rng.uniform(low, high, count))
        radii = (radius / stretch.prod(1) ** (1 / axes))[:, None] * stretch
        # The columns of a Gaussian matrix, made orthogonal, are evenly spread directions.
        directions, _ = np.linalg.qr(rng.standard_normal((count, axes, axes)))
        place, glass_only, solid = rng.random((3, count))
        solid = np.where(glass_only < config.p_glass_only, 0, solid)
        return Foci(place, directions.swapaxes(1, 2), radii, solid)

    def __call__(self, batch: Batch) -> Batch:
        image, lung = batch["image"], batch["label"] > 0
        drawn = [self.draw(seed) for seed in batch["seed"].tolist()]
        painted, lesions = image.clone(), torch.zeros_like(lung)
        for group in self._groups([n for n, one in enumerate(drawn) if one is not None], lung):
            which = on_device(group, image)
            chosen = [one for n in group if (one := drawn[n]) is not None]
            painted[which], lesions[which] = self.paint(image[which], lung[which], chosen)
        painted_batch = {**batch, "image": painted}
        if self.relabel:
            painted_batch["label"] = lesions.to(batch["label"].dtype)
        return painted_batch

    def _groups(self, numbers: list[int], lung: Tensor) -> list[list[int]]:
        """Samples that are painted at once: a GPU would wait for the calls of one after the other,
        a processor's caches hold the fields of one sample at best.
        """
        values = self.config.foci * lung[0].numel()
        each = 1 if lung.device.type == "cpu" else max(1, _MOST_VALUES // values)
        return [numbers[first : first + each] for first in range(0, len(numbers), each)]

    def paint(
        self, image: Tensor, lung: Tensor, lesions: Sequence[Lesions]
    ) -> tuple[Tensor, Tensor]:
        """Samples with their lesions, and those lesions' masks.

        Parameters
        ----------
        image
            float32 (batch, 1, *spatial), normalised.
        lung
            bool (batch, *spatial); nothing outside it changes.
        lesions
            One a sample.

        Returns
        -------
        image, mask
            float32 (batch, 1, *spatial) and bool (batch, *spatial).
        """
        hu = image[:, 0] * self.std + self.mean
        share, mask = self.replaced(self._aerated(hu, lung), lesions)
        tissue_hu, noise_hu = _numbers(lesions, ("tissue_hu", "noise_hu"), hu)
        added = share * (tissue_hu - hu).clamp_min(0)
        noise = torch.stack([device_noise(hu.shape[1:], one.rng, hu) for one in lesions])
        painted = (hu + added + share * noise_hu * noise).clamp(*self.clip_hu)
        # Where nothing is painted not a bit changes.
        new = torch.where(share > 0, (painted - self.mean) / self.std, image[:, 0])
        return new[:, None], mask

    def _aerated(self, hu: Tensor, lung: Tensor) -> Tensor:
        """The lung without what is dense already over some width, tumours above all.

        A lesion there would be outlined in the mask and invisible in the image. Vessels are
        narrower, and stay.
        """
        fields = torch.cat([lung.float(), torch.where(lung, hu, 0.0)])
        inside, density = self._box_mean(fields, _WIDTH_MM).chunk(2)
        return lung & (density < _DENSE_HU * inside.clamp_min(1e-6))

    def _box_mean(self, field: Tensor, reach_mm: float) -> Tensor:
        """Means over boxes that reach so far to every side; at the edge over what is there."""
        total, count = field, field.new_ones(())
        for axis, spacing in enumerate(self.spacing_mm, start=1):
            length = field.shape[axis]
            reach = min(round(reach_mm / spacing), length // 2)
            # Differences of running sums: the cost does not grow with the box. The sums are held
            # beyond the edges, so that both ends of all boxes are slices.
            shape = list(field.shape)
            shape[axis] = length + 2 * reach + 1
            sums = field.new_zeros(shape)
            inner = sums.narrow(axis, reach + 1, length)
            torch.cumsum(total, axis, out=inner)
            sums.narrow(axis, reach + 1 + length, reach).copy_(inner.narrow(axis, length - 1, 1))
            total = sums.narrow(axis, 2 * reach + 1, length) - sums.narrow(axis, 0, length)
            places = torch.arange(length, device=field.device)
            within = (places + reach + 1).clamp_max(length) - (places - reach).clamp_min(0)
            count = count * within.reshape([-1 if a == axis else 1 for a in range(field.ndim)])
        return total / count

    def replaced(self, lung: Tensor, lesions: Sequence[Lesions]) -> tuple[Tensor, Tensor]:
        """The share of air replaced, float32 in [0, 1], and the lesions' masks, both
        (batch, *spatial).
        """
        inside, core = self._fields(lung, lesions)
        outline = self._noise(lung, lesions, _OUTLINE_MM)
        texture = self._noise(lung, lesions, _TEXTURE_MM)
        fray_mm, edge_mm, glass, solid = _numbers(
            lesions, ("fray_mm", "edge_mm", "glass", "solid"), texture
        )
        inside = inside + fray_mm * outline
        core = core + fray_mm * (0.7 * outline.flip(-1) + 0.7 * texture)
        amount = (inside / edge_mm + 0.5).clamp(0, 1)
        glass = (glass * (1 + 0.25 * texture)).clamp(0.05, 0.8)
        share = amount * torch.lerp(glass, solid, (core / edge_mm + 0.5).clamp(0, 1))
        return share * lung, (inside > 0) & lung

    def _fields(self, lung: Tensor, lesions: Sequence[Lesions]) -> tuple[Tensor, Tensor]:
        """Depth below the surface of the lesions, and of their solid cores, in millimetres; both
        (batch, *spatial).

        About the depth: (1 − r)·mean radius, r the ellipsoid's own radius coordinate. Lesions count
        in their order for as long as they have not taken their share of the lung yet.
        """
        spatial = lung.ndim - 1
        place, axes, radii_mm, consolidation = (
            np.stack([getattr(one.foci, name) for one in lesions])
            for name in ("place", "axes", "radii_mm", "solid")
        )
        centres = _chosen(self._chances(lung), on_device(place, lung))
        # Decided on the device, without asking a GPU how much lung there is.
        content = math.pi if spatial == 2 else 4 / 3 * math.pi
        sizes = radii_mm.prod(2)
        taken = np.cumsum(sizes, axis=1) - sizes
        before = on_device(taken * content / np.prod(self.spacing_mm), lung).float()
        (involved,) = _numbers(lesions, ("involved",), lung.new_empty(0, 1))
        counts = before < lung.flatten(1).sum(1, keepdim=True) * involved
        # Of the ball (or disc) of the same content.
        mean_mm = sizes ** (1 / spatial)
        radius, solid = on_device(np.stack([mean_mm, consolidation]), lung).float()
        form = on_device(quadratic_form(axes, radii_mm), lung).float()
        if lung.device.type == "cpu":
            # Here asking is free, and those that do not count, the last ones, are not computed.
            most = max(1, int(counts.sum(1).max()))
            centres, counts, radius, solid, form = (
                values[:, :most] for values in (centres, counts, radius, solid, form)
            )
        above_core = torch.where(solid > 0, (1 - solid) * 1.2 * radius, -_NOWHERE)
        shape = [*radius.shape, *[1] * spatial]
        # In place: these are the only fields as large as all lesions together.
        depths = self._squared_radius(lung, centres, form).sqrt_().mul_(-radius.reshape(shape))
        depths += torch.where(counts, radius, _NOWHERE).reshape(shape)
        depth = depths.amax(1)
        return depth, depths.sub_(above_core.reshape(shape)).amax(1)

    def _chances(self, lung: Tensor) -> Tensor:
        """How likely each voxel is a lesion's centre, up to a factor; float64."""
        # At a flat border half of the box is lung, deep inside all of it.
        rim = (2 * (1 - self._box_mean(lung.float(), self.config.rim_mm))).clamp(0, 1).double()
        return lung * (self.config.inner_share + (1 - self.config.inner_share) * rim)

    def _squared_radius(self, lung: Tensor, centres: Tensor, form: Tensor) -> Tensor:
        """dᵀAd over the patch for each lesion, d from its centre in mm; 1 on its surface.

        ``centres`` (batch, n) are flat indices and ``form`` (batch, n, d, d) the A; the result is
        (batch, n, *spatial).
        """
        spatial = lung.ndim - 1
        form = form.reshape(*form.shape, *[1] * spatial)
        from_centre: list[Tensor] = []
        for axis in reversed(range(spatial)):
            length, spacing = lung.shape[axis + 1], self.spacing_mm[axis]
            steps = torch.arange(length, device=lung.device) - (centres % length)[..., None]
            centres = centres // length
            places = [-1 if a == axis else 1 for a in range(spatial)]
            from_centre.insert(0, (steps.float() * spacing).reshape(*steps.shape[:2], *places))
        square = torch.zeros(*centres.shape, *lung.shape[1:], device=lung.device)
        for i, a in enumerate(from_centre):
            # Ordered so that all but the last sum are over few axes.
            across = form[:, :, i, i] * a
            for j in range(i + 1, spatial):
                across = across + 2 * form[:, :, i, j] * from_centre[j]
            square.addcmul_(a, across)
        return square.clamp_min_(0)

    def _noise(self, lung: Tensor, lesions: Sequence[Lesions], scale_mm: float) -> Tensor:
        """Smooth noise of about unit variance whose control points are ``scale_mm`` apart."""
        size = lung.shape[1:]
        points = [
            max(1, round(length * spacing / scale_mm)) + 3
            for length, spacing in zip(size, self.spacing_mm, strict=True)
        ]
        like = torch.empty(0, device=lung.device)
        control = torch.stack([device_noise(points, one.rng, like) for one in lesions])
        return spline_field(control, size) * _SPLINE_VARIANCE ** (-len(size) / 2)


def quadratic_form(axes: np.ndarray, radii_mm: np.ndarray) -> np.ndarray:
    """A of ellipsoids dᵀAd = 1, (..., d, d): the outer products of their axes, the rows of ``axes``
    (..., d, d), over the squares of the lengths ``radii_mm`` (..., d).
    """
    return np.einsum("...ka,...k,...kc->...ac", axes, radii_mm**-2.0, axes)


def _chosen(chances: Tensor, places: Tensor) -> Tensor:
    """Flat indices (batch, n) of voxels drawn with ``chances`` (batch, *spatial), where ``places``
    (batch, n) in [0, 1) are the shares of all chances that lie before them; both float64.

    First the line, then the voxel within it: a running sum over all voxels of a sample would be one
    after the other on a GPU.
    """
    lines = chances.flatten(1, -2)
    totals = lines.sum(2)
    sums = totals.cumsum(1)
    wanted = sums[:, -1:] * places
    line = torch.searchsorted(sums, wanted, right=True).clamp_max(sums.shape[1] - 1)
    total = totals.gather(1, line)
    # Not all of the line, whatever the rounding: the last voxel with a chance is reached before.
    rest = torch.minimum(wanted - (sums.gather(1, line) - total), total * (1 - 1e-12))
    within = lines.gather(1, line[..., None].expand(-1, -1, lines.shape[2])).cumsum(2)
    voxel = torch.searchsorted(within, rest[..., None], right=True)[..., 0]
    return line * lines.shape[2] + voxel.clamp_max(lines.shape[2] - 1)


def _numbers(lesions: Sequence[Lesions], names: Sequence[str], like: Tensor) -> list[Tensor]:
    """One of each sample's numbers a tensor, float32 (batch, 1, ...), to go with ``like``."""
    values = on_device([[getattr(one, name) for one in lesions] for name in names], like).float()
    return [value.reshape(-1, *[1] * (like.ndim - 1)) for value in values]


def _log_uniform(rng: np.random.Generator, between: Sequence[float]) -> float:
    low, high = between
    return math.exp(rng.uniform(math.log(low), math.log(high)))
