"""Losses as pure functions of tensors. The classes that recipes build are in ``losses``."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from covidseg.engine.distributed import mean_over_processes, sum_over_processes


def class_map(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Integer labels ``(B, *spatial)`` or ``(B, 1, *spatial)`` as int64 without a channel.

    Raises
    ------
    ValueError
        The labels' shape does not fit the logits'.
    """
    if labels.ndim == logits.ndim and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}"
        )
    return labels.long()


def overlap_sums(
    probabilities: torch.Tensor,
    target: torch.Tensor,
    *,
    ignore_label: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums per sample and foreground class over the voxels of a patch.

    Parameters
    ----------
    probabilities
        ``(B, C, *spatial)``, class 0 the background.
    target
        ``(B, *spatial)`` int64 class numbers.
    ignore_label
        Voxels with this label count nowhere.

    Returns
    -------
    intersection, predicted, true
        Each ``(B, C - 1)`` float32: Σp·g, Σp, Σg.
    """
    classes = probabilities.shape[1]
    axes = tuple(range(2, probabilities.ndim))
    p = probabilities[:, 1:].float()
    with torch.no_grad():
        known = None if ignore_label is None else target != ignore_label
        shown = target if known is None else torch.where(known, target, 0)
        foreground = torch.arange(1, classes, device=target.device)
        g = shown.unsqueeze(1) == foreground.view(1, -1, *[1] * len(axes))
    if known is not None:
        p = p * known.unsqueeze(1)
    return (p * g).sum(axes), p.sum(axes), g.sum(axes).float()


def soft_dice(
    intersection: torch.Tensor,
    predicted: torch.Tensor,
    true: torch.Tensor,
    *,
    smooth: float = 1e-5,
) -> torch.Tensor:
    """(2·Σp·g + smooth) / (Σp + Σg + smooth), elementwise; nnU-Net's soft Dice."""
    return (2 * intersection + smooth) / (predicted + true + smooth).clamp_min(1e-8)


def soft_dice_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    batch_dice: bool = True,
    smooth: float = 1e-5,
    ignore_label: int | None = None,
) -> torch.Tensor:
    """One minus the mean soft Dice over foreground classes.

    Parameters
    ----------
    logits
        ``(B, C, *spatial)`` before softmax, class 0 the background, which does not count.
    target
        ``(B, *spatial)`` int64.
    batch_dice
        Sums are taken over the batch of all processes before the ratio; otherwise Dice is taken
        per sample and averaged.
    """
    sums = overlap_sums(logits.softmax(1), target, ignore_label=ignore_label)
    if batch_dice:
        sums = tuple(sum_over_processes(torch.stack([s.sum(0) for s in sums])).unbind())  # type: ignore[assignment]
    return 1 - soft_dice(*sums, smooth=smooth).mean()


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, *, ignore_label: int | None = None
) -> torch.Tensor:
    """Mean cross-entropy over all voxels that are not ignored; zero where all are.

    ``logits`` ``(B, C, *spatial)``, ``target`` ``(B, *spatial)`` int64.
    """
    if ignore_label is None:
        return F.cross_entropy(logits.float(), target)
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore_label, reduction="sum")
    return mean_over_processes(total, (target != ignore_label).sum())


def shrink_labels(labels: torch.Tensor, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Labels ``(B, *spatial)`` at another resolution by nearest neighbour."""
    if labels.shape[1:] == tuple(shape):
        return labels
    # Interpolation takes no integers; class numbers are small enough for float32 to be exact.
    small = F.interpolate(labels.unsqueeze(1).float(), size=tuple(shape), mode="nearest-exact")
    return small[:, 0].long()


def deep_supervision_weights(levels: int) -> tuple[float, ...]:
    """1, 1/2, 1/4, ... with the lowest resolution's set to zero, scaled to a sum of 1 (nnU-Net).

    A single level has weight 1.
    """
    if levels == 1:
        return (1.0,)
    raw = [0.5**level for level in range(levels - 1)] + [0.0]
    return tuple(weight / sum(raw) for weight in raw)
