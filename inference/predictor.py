"""Networks, preprocessing and windows put together: a scan in, a label map on its grid out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from covidseg.imaging.volume import Volume
from covidseg.inference.components import lungs_in_one_piece
from covidseg.inference.preprocessing import Prepared, Preprocessing
from covidseg.inference.restore import restore, scan_planes
from covidseg.inference.sliding import Slab, Sliding
from covidseg.networks.instance_norm import preferred_layout
from covidseg.registry.cases import HU, Intensity

# An image larger than this is handed to the device window by window.
_WHOLE_ON_DEVICE_BYTES = 4 << 30


@dataclass(frozen=True, eq=False)
class Predictor:
    """One network, or several that share preprocessing and windows.

    Parameters
    ----------
    networks
        Each takes (batch, 1, *window) and gives logits (batch, classes, *window); 2D networks have
        windows of one plane, whose axis they do not see.
    dimensions
        2 or 3, of the networks.
    mirror_axes
        Spatial axes of the array, numbered as in `covidseg.engine.augmentation` (0 is z in 3D, y in
        2D): the probabilities are the mean over all combinations of mirrored inputs.
    classes
        Channels of the logits, background among them.
    precision
        Of the forward passes; probabilities are float32 either way.
    one_piece
        Values of which label maps keep the largest connected piece alone.
    logit_adjustment
        Added to the logits of all classes but background.
    """

    networks: Sequence[nn.Module]
    preprocessing: Preprocessing
    sliding: Sliding
    dimensions: int = 3
    classes: int = 2
    mirror_axes: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: torch.dtype = torch.float32
    one_piece: tuple[int, ...] = ()
    logit_adjustment: float = 0.0

    def __post_init__(self) -> None:
        for network in self.networks:
            network.to(self.device).eval()
            if self.dimensions == 2:
                network.to(memory_format=preferred_layout(network))

    @property
    def settings(self) -> tuple[object, ...]:
        """All but the networks: predictors with equal ones can be one."""
        return tuple(
            getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "networks"
        )

    @property
    def for_pictures(self) -> bool:
        """Whether it segments slice pictures, not CT volumes."""
        return self.preprocessing.plane_size is not None

    def predict(self, volume: Volume, intensity: Intensity = HU) -> Volume:
        """Segment a scan: uint8 labels on exactly the scan's grid.

        ``volume`` is as stored, with its values on the scale ``intensity``. Memory beyond the scan
        and its preprocessed copy is one window's depth of probabilities.
        """
        prepared = self.preprocessing.image(volume, intensity)
        return self.finished(restore(self.slabs(prepared), prepared), volume, intensity)

    def finished(self, labels: Volume, scan: Volume, intensity: Intensity) -> Volume:
        """A scan's label map with its single pieces."""
        if not self.one_piece:
            return labels
        return lungs_in_one_piece(labels, self.one_piece, scan, intensity)

    def on_scan(self, volume: Volume, intensity: Intensity = HU) -> Iterator[Slab]:
        """Probabilities on the upright scan's own grid, in order; see `scan_planes`."""
        prepared = self.preprocessing.image(volume, intensity)
        return scan_planes(self.slabs(prepared), prepared)

    def probabilities(self, volume: Volume, intensity: Intensity = HU) -> tuple[Tensor, Prepared]:
        """Probabilities on the network's own grid, float32 (classes, Z, Y, X), on the CPU."""
        prepared = self.preprocessing.image(volume, intensity)
        slabs = [slab.probabilities.cpu() for slab in self.slabs(prepared)]
        return torch.cat(slabs, dim=1), prepared

    def slabs(self, prepared: Prepared) -> Iterator[Slab]:
        """Final probabilities of a preprocessed scan, slab by slab from the first plane on."""
        image = torch.from_numpy(prepared.image)[None]
        if image.nbytes <= _WHOLE_ON_DEVICE_BYTES:
            image = image.to(self.device)
        return self.sliding.slabs(
            image, self.forward, pad_value=self.preprocessing.air, device=self.device
        )

    @torch.inference_mode()
    def forward(self, windows: Tensor) -> Tensor:
        """Mean probabilities of all networks and mirrorings, float32 (batch, classes, Z, Y, X)."""
        if self.dimensions == 2:
            windows = windows.squeeze(2)
        total: Tensor | None = None
        count = 0
        for size in range(len(self.mirror_axes) + 1):
            for axes in itertools.combinations(self.mirror_axes, size):
                dims = [axis + 2 for axis in axes]
                seen = windows.flip(dims) if dims else windows
                for network in self.networks:
                    with torch.autocast(
                        self.device.type, self.precision, enabled=self.precision != torch.float32
                    ):
                        logits = network(seen)
                    logits = logits.float()
                    if self.logit_adjustment:
                        logits = logits.clone()
                        logits[:, 0] -= self.logit_adjustment
                    answer = logits.softmax(1)
                    answer = answer.flip(dims) if dims else answer
                    total = answer if total is None else total.add_(answer)
                    count += 1
        assert total is not None
        total = total.div_(count)
        return total.unsqueeze(2) if self.dimensions == 2 else total
