"""Settings of the methods that learn from labelled and unlabelled scans.

Defaults are the numbers of each method's paper or public code (see docs/pseudolabel.md). Where
those are iterations of a schedule, they are shares of the run here, so that a short run is the same
schedule in small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from covidseg.core.errors import ConfigError

MethodName = Literal[
    "supervised", "noisy-student", "mean-teacher", "ua-mt", "cps", "bcp", "unimatch"
]
# Methods that read an unlabelled stream beside the labelled one.
WITH_UNLABELLED: tuple[MethodName, ...] = ("mean-teacher", "ua-mt", "cps", "bcp", "unimatch")


# Sections of `MethodConfig`; the method of one has its name, with hyphens.
METHOD_SECTIONS = ("mean_teacher", "ua_mt", "cps", "bcp", "unimatch")


@dataclass(frozen=True)
class MeanTeacherConfig:
    """Mean Teacher: the student agrees with an average of its own past weights.

    Parameters
    ----------
    decay
        Of the teacher's weights; the first updates keep 1 − 1/(t + 1) where that is less.
    weight
        Of the consistency loss at the end of its ramp.
    ramp
        Share of the run over which that weight rises, as exp(−5·(1 − t)²).
    noise
        Standard deviation of the noise on the teacher's input, which has about unit variance.
    noise_limit
        The noise is clipped to plus and minus this.
    """

    decay: float = 0.99
    weight: float = 0.1
    ramp: float = 1.0
    noise: float = 0.1
    noise_limit: float = 0.2


@dataclass(frozen=True)
class UncertaintyConfig:
    """UA-MT: Mean Teacher where the teacher is certain.

    Parameters
    ----------
    decay, weight, ramp, noise, noise_limit
        As of `method.mean_teacher`.
    passes
        Noisy passes of the teacher whose mean prediction's entropy is the uncertainty.
    threshold
        Greatest entropy that counts, at the start of the run and at its end, as a share of the
        greatest there is (ln 2 for two classes); it rises as the weight does, over the whole run.
    """

    decay: float = 0.99
    weight: float = 0.1
    ramp: float = 1.0
    noise: float = 0.1
    noise_limit: float = 0.2
    passes: int = 8
    threshold: tuple[float, float] = (0.75, 1.0)


@dataclass(frozen=True)
class CrossSupervisionConfig:
    """CPS: two networks learn from each other's predictions.

    Parameters
    ----------
    weight, ramp
        As of `method.mean_teacher`.
    """

    weight: float = 0.1
    ramp: float = 1.0


@dataclass(frozen=True)
class CopyPasteConfig:
    """BCP: labelled pasted into unlabelled patches and the reverse.

    Parameters
    ----------
    decay
        Of the teacher's weights.
    box
        Edge of the pasted box as a share of the patch's.
    pseudo_weight
        Weight of the region with pseudo-labels; true labels have 1.
    pretraining
        Share of the run that first learns from labelled patches pasted into each other alone.
    """

    decay: float = 0.99
    box: float = 2 / 3
    pseudo_weight: float = 0.5
    pretraining: float = 0.25


@dataclass(frozen=True)
class UniMatchConfig:
    """UniMatch: predictions on weak views teach two strong views and perturbed features.

    Parameters
    ----------
    teacher_decay
        Null: the network teaches itself (UniMatch). A number, 0.996 in UniMatch V2: its moving
        average teaches, and predicts.
    threshold
        Least probability of the predicted class that counts.
    dropout
        Share of the channels of the weak view's features that are dropped.
    p_cutmix
        Probability that a strong view gets a box of its neighbour in the batch
        (`covidseg.engine.cutmix`).
    """

    teacher_decay: float | None = None
    threshold: float = 0.95
    dropout: float = 0.5
    p_cutmix: float = 0.5


@dataclass(frozen=True)
class MethodConfig:
    """How unlabelled scans are learnt from.

    Parameters
    ----------
    name
        `supervised` (labelled scans alone), `noisy-student` (labelled and pseudo-labelled scans),
        `mean-teacher`, `ua-mt`, `cps`, `bcp` or `unimatch`; the section of that name counts, the
        others do not.
    """

    name: MethodName = "supervised"
    mean_teacher: MeanTeacherConfig = field(default_factory=MeanTeacherConfig)
    ua_mt: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    cps: CrossSupervisionConfig = field(default_factory=CrossSupervisionConfig)
    bcp: CopyPasteConfig = field(default_factory=CopyPasteConfig)
    unimatch: UniMatchConfig = field(default_factory=UniMatchConfig)

    @property
    def section(self) -> str:
        """The name of the section that counts, if there is one of the method."""
        return self.name.replace("-", "_")

    def check(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        for section in METHOD_SECTIONS:
            for name, value in vars(getattr(self, section)).items():
                _check(f"method.{section}.{name}", name, value)


# Bounds of the settings by their name, in whatever section they stand.
_SHARES = {"box", "threshold", "dropout", "p_cutmix", "pretraining"}
_DECAYS = {"decay", "teacher_decay"}


def _check(full_name: str, name: str, value: float | tuple[float, float] | None) -> None:
    if value is None:
        return
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ConfigError(f"{full_name} is {list(numbers)}", expected="the lesser number first")
    if name in _DECAYS and not 0 <= numbers[0] < 1:
        raise ConfigError(f"{full_name} is {value}", expected="a number in [0, 1)")
    if name in _SHARES and not all(0 <= number <= 1 for number in numbers):
        raise ConfigError(f"{full_name} is {value}", expected="a share, 0 to 1")
    if name in {"dropout", "pretraining"} and numbers[0] == 1:
        raise ConfigError(f"{full_name} is 1", expected="below 1: something must be left")
    if name == "ramp" and numbers[0] <= 0:
        raise ConfigError(f"{full_name} is {value}", expected="above 0")
    if name == "passes" and numbers[0] < 1:
        raise ConfigError(f"{full_name} is {value}", expected="at least 1")
    if any(number < 0 for number in numbers):
        raise ConfigError(f"{full_name} is {value}", expected="0 or above")
