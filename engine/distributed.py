"""Several processes as one: starting them, summing over them, batch normalisation across them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from covidseg.core.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


# How long processes wait for one of them, which prepares scans, hashes a pool or scores. After ten
# minutes, torch's own limit, all would be aborted in the middle of such work.
PATIENCE = timedelta(hours=6)


def start_processes(mixed_precision: str = "no", processes: int | None = None) -> Accelerator:
    """Join the processes that the launcher started, and refuse if they are not those asked for.

    Parameters
    ----------
    mixed_precision
        `no`, `bf16` or `fp16`.
    processes
        How many there must be; ``None`` takes the launcher's word for it.

    Raises
    ------
    ConfigError
        As many processes as were asked for are not training together: ``accelerate launch --cpu
        --num_processes 2``, for one, starts one. Also where the device cannot do the mixed
        precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
    )

    # The state is one a process and keeps its first precision; another run may ask for another.
    AcceleratorState._reset_state(reset_partial_state=False)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    try:
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            # Left to itself, accelerate takes several processes without a GPU for as many runs.
            cpu=several and not torch.accelerator.is_available(),
            # Said here, or a variable of the environment would divide the losses once more.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[
                # Gradients lie in the buffers that are sent: one copy of them less.
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
    except (ValueError, RuntimeError) as fault:
        raise ConfigError(
            f"training cannot start here ({fault})",
            remedy="if it is about precision, set train.mixed_precision to no",
        ) from fault
    _check_number(accelerator.num_processes, processes)
    return accelerator


def native_precision() -> Literal["no", "bf16"]:
    """`bf16` where this machine computes in it (recent GPUs, processors with AMX or AVX-512 BF16),
    else `no`.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    known = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if known else "no"


def _check_number(running: int, asked: int | None) -> None:
    remedy = (
        "start them with `torchrun --standalone --nproc_per_node N ...` or `accelerate launch "
        "--multi_gpu --num_processes N ...`, which work without a GPU too (`accelerate launch "
        "--cpu` does not)"
    )
    started = int(os.environ.get("WORLD_SIZE", running))
    if started != running:
        raise ConfigError(
            f"the launcher started {started} processes, but each would train alone",
            expected="one training over all of them",
            remedy=remedy,
        )
    # accelerate's launcher of one process sets these, and only when several were asked for.
    alone = running == 1 and "WORLD_SIZE" not in os.environ
    if alone and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
        raise ConfigError(
            "several processes were asked for, but accelerate started one",
            expected="as many as --num_processes says",
            remedy=remedy,
        )
    if asked is not None and asked != running:
        raise ConfigError(
            f"train.processes is {asked}, but {running} "
            + ("process runs" if running == 1 else "processes run"),
            remedy=remedy if asked > 1 else "start it without a launcher, or correct the recipe",
        )


def process_count() -> int:
    """Number of processes that train together; 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        # Every process' loss depends on this process' share.
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The elementwise sum over all processes, the same on each, differentiable.

    Distributed training averages gradients over processes. With that, the gradient of a loss that
    is a function of such sums is exactly that of one process with the whole batch.
    """
    return _SumOverProcesses.apply(tensor) if process_count() > 1 else tensor


def synchronise_batch_norm(module: nn.Module) -> None:
    """Make batch normalisation within ``module`` use the statistics of all processes' batches.

    In place, without a change to the state dict; nothing happens with one process. On GPUs the
    native layers take over; they do not exist for CPUs, where ours do.
    """
    if process_count() == 1:
        return
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_batch_norm(child)
        elif next(iter(child.parameters()), torch.empty(0)).is_cuda:
            from timm.layers import convert_sync_batchnorm

            setattr(module, name, convert_sync_batchnorm(child))
        elif not isinstance(child, _SynchronisedBatchNorm):
            # A subclass of the layer's own class, so that what it does besides (timm's activation
            # after the normalisation) stays.
            child.__class__ = _synchronised(type(child))


_SYNCHRONISED: dict[type, type] = {}


class _SynchronisedBatchNorm:
    """Mixed into a batch normalisation layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or process_count() == 1:  # type: ignore[attr-defined]
            return super().forward(x)  # type: ignore[misc]
        x = batch_norm_over_processes(self, x)  # type: ignore[arg-type]
        for after in ("drop", "act"):
            x = getattr(self, after)(x) if hasattr(self, after) else x
        return x


def _synchronised(cls: type) -> type:
    if cls not in _SYNCHRONISED:
        _SYNCHRONISED[cls] = type(f"Synchronised{cls.__name__}", (_SynchronisedBatchNorm, cls), {})
    return _SYNCHRONISED[cls]


def batch_norm_over_processes(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Batch normalisation in training mode with mean and variance over all processes' samples."""
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    values = x.float()
    count = sum_over_processes(values.new_tensor(values.numel() / values.shape[1]))
    mean = sum_over_processes(values.sum(axes)) / count
    centred = values - mean.view(shape)
    variance = sum_over_processes(centred.square().sum(axes)) / count
    if layer.track_running_stats and layer.running_mean is not None:
        with torch.no_grad():
            assert layer.num_batches_tracked is not None
            assert layer.running_var is not None
            layer.num_batches_tracked.add_(1)
            momentum = layer.momentum
            if momentum is None:
                momentum = 1 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean, momentum)
            layer.running_var.lerp_(variance * count / (count - 1), momentum)
    normalised = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        normalised = normalised * layer.weight.view(shape) + layer.bias.view(shape)
    return normalised.to(x.dtype)


def mean_over_processes(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """A mean over the voxels of all processes, from each one's sum and number of them.

    The value's average over processes, and its gradient's, are those of one process with the whole
    batch, also where the numbers differ because some voxels are ignored.
    """
    share = sum_over_processes(count.detach().float()) / process_count()
    return total / share.clamp_min(1e-8)
