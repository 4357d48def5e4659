"""What every recipe has: the network, the loss, the optimiser and how long to train.

Trainers add their own sections by subclassing :class:`Recipe`. A field that may change between a
run and its resumption, because it does not change what is computed, is marked with ``FREE``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from covidseg.core.errors import ConfigError
from covidseg.engine.losses import LossConfig
from covidseg.networks.config import NetworkConfig

FREE: Mapping[str, Any] = {"free": True}


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning rate. The defaults are nnU-Net's.

    Parameters
    ----------
    name
        `sgd` (Nesterov) or `adamw`.
    lr
        Learning rate at the start, after any warm-up.
    weight_decay
        L2 penalty (`sgd`) or decoupled decay (`adamw`).
    momentum
        Momentum (`sgd` only).
    betas
        Decay of the first and second moment (`adamw` only).
    schedule
        `poly`: lr·(1 − step/steps)^power; `cosine`: half a cosine down to zero; `constant`.
    power
        Exponent of `poly`.
    warmup_steps
        Steps over which the learning rate first rises linearly from zero.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-2
    weight_decay: float = 3e-5
    momentum: float = 0.99
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: float = 0.9
    warmup_steps: int = 0

    def check(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        for name in ("weight_decay", "power", "warmup_steps"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"optim.{name} is {value}", expected="a number from zero up")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"optim.lr is {self.lr}", expected="a number above zero")
        for name, values in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if not all(0 <= value < 1 for value in values):
                raise ConfigError(
                    f"optim.{name} is {getattr(self, name)}", expected="at least 0 and below 1"
                )


@dataclass(frozen=True)
class TrainConfig:
    """How long to train and how to run it.

    Parameters
    ----------
    epochs
        Number of epochs; nnU-Net trains 1,000.
    steps_per_epoch
        Optimiser steps that are called an epoch; nnU-Net takes 250.
    accumulate
        Micro-batches whose gradients are summed for one step; the batch is divided among them.
        Losses over the batch are over the micro-batch then.
    clip_norm
        Gradients are scaled down to this norm where theirs is greater; null for never.
    mixed_precision
        `no`, `bf16`, `fp16`, or `auto`: bf16 where the processor or GPU computes in it, else no.
    ema
        Decay of an exponential moving average of the weights, which is then what predicts; null for
        none.
    start
        Folder of a run whose weights training starts from; null for random ones. The run has the
        same network and labels.
    compile
        Compile the networks by torch.compile: minutes at the start, faster steps after.
    processes
        Number of processes that must take part, or the run refuses to start; null for as many as
        the launcher starts.
    workers
        Processes that read training samples ahead, for each training process.
    log_every
        Steps between two lines of the log; the last step always makes one.
    checkpoint_every
        Steps between two checkpoints; the last step always makes one.
    validate_every
        Epochs between two validations on the training side; 0 for none.
    """

    epochs: int = 1000
    steps_per_epoch: int = 250
    accumulate: int = 1
    clip_norm: float | None = 12.0
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    ema: float | None = None
    start: str | None = field(default=None, metadata=FREE)
    compile: bool = field(default=False, metadata=FREE)
    processes: int | None = field(default=None, metadata=FREE)
    workers: int = field(default=1, metadata=FREE)
    log_every: int = field(default=10, metadata=FREE)
    checkpoint_every: int = field(default=250, metadata=FREE)
    validate_every: int = field(default=5, metadata=FREE)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def check(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        for name in ("epochs", "steps_per_epoch", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}", expected="at least 1")
        for name in ("workers", "validate_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} is {getattr(self, name)}", expected="at least 0")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ConfigError(f"train.ema is {self.ema}", expected="a number in [0, 1)")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(
                f"train.clip_norm is {self.clip_norm}", expected="above zero, or null"
            )


@dataclass(frozen=True)
class Recipe:
    """One experiment: everything that decides its result, and nothing of the machine.

    Parameters
    ----------
    name
        The experiment's name, as the benchmark names it.
    description
        One line on what it is.
    seed
        Seed of all random numbers.
    """

    name: str
    description: str = field(default="", metadata=FREE)
    seed: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def idle(self) -> Collection[str]:
        """Dotted names of sections and values that this recipe's training makes nothing of."""
        return ()


def as_mapping(recipe: Any) -> dict[str, Any]:
    """A recipe as nested dicts, lists and plain values, as its YAML file has it."""
    return json.loads(json.dumps(asdict(recipe)))


def fingerprint(mapping: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration's canonical JSON, 64 hexadecimal digits."""
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def free_keys(recipe: Recipe) -> Iterator[str]:
    """Dotted names of the values that may differ when a run is resumed."""
    return _free(recipe, recipe.idle(), "")


def _free(section: Any, idle: Collection[str], prefix: str, free: bool = False) -> Iterator[str]:
    for one in fields(section):
        value, name = getattr(section, one.name), prefix + one.name
        may_differ = free or name in idle or bool(one.metadata.get("free"))
        if is_dataclass(value):
            yield from _free(value, idle, f"{name}.", may_differ)
        elif may_differ:
            yield name


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Dotted names and both values of what differs between two nested configurations."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in dict.fromkeys((*before, *now)):
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in before:
                found.append(f"{name}: absent before, now {now[key]!r}")
            elif key not in now:
                found.append(f"{name}: {before[key]!r} before, now absent")
            else:
                found += differences(before[key], now[key], name)
        return found
    return [] if before == now else [f"{prefix}: {before!r} before, now {now!r}"]
