"""Settings of the noisy student: its rounds, and which pseudo-labels count."""

from __future__ import annotations

from dataclasses import dataclass, field

from covidseg.core.errors import ConfigError


@dataclass(frozen=True)
class FilterConfig:
    """Which voxels and which scans a student learns from.

    A voxel is questioned where background is not sure. Entropy and confidence are means over the
    questioned voxels, so that they do not depend on how much air a scan shows.

    Parameters
    ----------
    foreground
        Least mean probability of a class for its label to count.
    background
        Least mean probability of background for it to count. Voxels of neither are ignored.
    max_entropy
        A scan whose questioned voxels have a greater mean entropy is left out; as a share of the
        greatest there is (ln 2 for two classes).
    min_agreement
        A scan on which the teachers' label maps have a lesser mean Dice with each other is left
        out; a single teacher agrees with itself.
    keep_empty
        Also learn from scans that no foreground was found in.
    """

    foreground: float = 0.9
    background: float = 0.95
    max_entropy: float = 0.7
    min_agreement: float = 0.5
    keep_empty: bool = False


@dataclass(frozen=True)
class RoundsConfig:
    """Rounds of teacher and student.

    Parameters
    ----------
    count
        Rounds; the student of one is the teacher of the next.
    teachers
        Networks that are trained on the labelled scans first, each from other random numbers, where
        no trained ones are given.
    from_teacher
        Start students from the weights of their (first) teacher, where there is no time to learn
        from random ones again. A gain is then also one of more steps.
    fine_tune_epochs
        Epochs on the manual labels alone that end each round; 0 for none. They are part of
        `train.epochs`.
    fine_tune_lr
        Their learning rate, as a share of `optim.lr`.
    fine_tune_batch_size
        Patches a step there, over all processes; null for `patch.batch_size`, as beside the pool.
    """

    count: int = 2
    teachers: int = 1
    from_teacher: bool = False
    fine_tune_epochs: int = 100
    fine_tune_lr: float = 0.1
    fine_tune_batch_size: int | None = None
    filter: FilterConfig = field(default_factory=FilterConfig)

    def check(self, epochs: int) -> None:
        """Raise ConfigError for numbers that cannot be, in a run of ``epochs``."""
        for name in ("count", "teachers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rounds.{name} is {getattr(self, name)}", expected="at least 1")
        if not 0 <= self.fine_tune_epochs < epochs:
            raise ConfigError(
                f"rounds.fine_tune_epochs is {self.fine_tune_epochs}",
                expected=f"0 to {epochs - 1}, below train.epochs",
            )
        if self.fine_tune_batch_size is not None and self.fine_tune_batch_size < 1:
            raise ConfigError(
                f"rounds.fine_tune_batch_size is {self.fine_tune_batch_size}",
                expected="at least 1, or null",
            )
        if self.fine_tune_lr <= 0:
            raise ConfigError(f"rounds.fine_tune_lr is {self.fine_tune_lr}", expected="above 0")
        for name in ("foreground", "background"):
            value = getattr(self.filter, name)
            if not 0.5 < value <= 1:
                raise ConfigError(f"rounds.filter.{name} is {value}", expected="above 0.5, to 1")
        for name in ("max_entropy", "min_agreement"):
            value = getattr(self.filter, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"rounds.filter.{name} is {value}", expected="0 to 1")
