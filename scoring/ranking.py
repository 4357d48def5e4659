"""Rankings of algorithms as COVID-19-20 made them, after challengeR's test-then-rank.

Per task (a metric on a cohort) every ordered pair of algorithms is tested by the one-sided Wilcoxon
signed-rank test; an algorithm's rank is by its number of significant wins, ties sharing the lowest
rank. The consensus over tasks is the mean of the average-tie ranks, which minimises the Euclidean
distance to the tasks' rankings. (Wiesenfarth et al., Sci Rep 11:2369, 2021; R package challengeR.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from covidseg.core.errors import ConfigError, ScoringError
from covidseg.scoring.wilcoxon import (
    Adjustment,
    SignedRankTests,
    holm,
    most_algorithms,
    significant_tests,
    smallest_adjusted,
)

MissingPolicy = Literal["worst", "remove"]


@dataclass(frozen=True)
class Task:
    """The scores of all algorithms in one task.

    ``values`` has shape (algorithms, cases), float64, higher is better (an error enters as its
    negative), NaN where there is none: either ``missing`` is true there (the algorithm has no
    readable prediction for the case) or the metric is undefined for that prediction. ``worst`` is
    what a missing case counts as under the policy "worst".
    """

    name: str
    algorithms: tuple[str, ...]
    cases: tuple[str, ...]
    values: np.ndarray
    missing: np.ndarray
    worst: float

    def __post_init__(self) -> None:
        shape = (len(self.algorithms), len(self.cases))
        if self.values.shape != shape or self.missing.shape != shape:
            raise ScoringError(
                f"task {self.name!r} has values of shape {self.values.shape}", expected=str(shape)
            )

    @property
    def undefined(self) -> np.ndarray:
        """Where a prediction is there but its metric has no value; shape of ``values``."""
        return np.isnan(self.values) & ~self.missing

    def completed(self, missing: MissingPolicy) -> np.ndarray:
        """Values as the tests take them; what is still NaN leaves the pairs it belongs to."""
        if missing == "remove":
            return np.where(self.missing, np.nan, self.values)
        if missing == "worst":
            return np.where(self.missing, self.worst, self.values)
        raise ConfigError(f"missing policy {missing!r} is not known", expected="worst or remove")


@dataclass(frozen=True)
class Challenge:
    """The tasks of one challenge, all with the same algorithms in the same order."""

    tasks: tuple[Task, ...]
    phantom: bool = False
    #: Sentences on what reading did to the data (folds averaged, values undefined).
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ScoringError("no task to rank", expected="scores of at least one metric")
        for task in self.tasks:
            if task.algorithms != self.tasks[0].algorithms:
                raise ScoringError(
                    f"task {task.name!r} has other algorithms than {self.tasks[0].name!r}"
                )
        if len(self.algorithms) < 2:
            raise ScoringError(
                "only one algorithm" + "".join(f" ({name})" for name in self.algorithms),
                expected="at least two: a ranking compares",
                remedy="add the scores of another algorithm (every row names its algorithm)",
            )

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms, in the order of every array's axis of algorithms."""
        return self.tasks[0].algorithms


@dataclass(frozen=True)
class TaskRanking:
    """One task's tests and ranks. Square arrays: [i, j] is the test "i is better than j"."""

    task: Task
    p_values: np.ndarray
    p_adjusted: np.ndarray
    significant: np.ndarray
    wins: np.ndarray
    ranks: np.ndarray
    #: The smallest p-value, adjusted as chosen, that this many cases and algorithms could give.
    smallest_reachable: float

    @property
    def share_of_wins(self) -> np.ndarray:
        """Significant wins over the number of other algorithms, 0 to 1; shape (algorithms,)."""
        return self.wins / (len(self.wins) - 1)


@dataclass(frozen=True)
class Ranking:
    """Ranks in every task and over all of them; arrays have shape (algorithms,)."""

    challenge: Challenge
    tasks: tuple[TaskRanking, ...]
    adjust: Adjustment
    alpha: float
    missing: MissingPolicy
    mean_ranks: np.ndarray
    consensus: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Row numbers of the algorithms, best first; equal ranks in order of name."""
        return np.lexsort((np.array(self.challenge.algorithms), self.consensus))

    def warnings(self) -> list[str]:
        """What a reader of the ranks must know, one sentence or two each."""
        return _power_warnings(self)


def rank_challenge(
    challenge: Challenge,
    *,
    adjust: Adjustment = "holm",
    alpha: float = 0.05,
    missing: MissingPolicy = "worst",
) -> Ranking:
    """Rank the algorithms in every task and over all tasks.

    Parameters
    ----------
    adjust
        "holm": p-values adjusted by Holm over all ordered pairs of a task, as the COVID-19-20
        report says. "none": each pair at ``alpha``, which is challengeR's own default.
    alpha
        Significance level, 0 to 1.
    missing
        "worst": a case that an algorithm lacks counts as the task's worst value. "remove": it is
        left out of that algorithm's comparisons, as challengeR's ``na.rm``.

    Raises
    ------
    ScoringError
        An algorithm has no value at all in a task.
    """
    check_alpha(alpha)
    tasks = tuple(_rank_task(task, adjust, alpha, missing) for task in challenge.tasks)
    doubled = doubled_consensus(np.stack([task.ranks for task in tasks]))
    return Ranking(
        challenge=challenge,
        tasks=tasks,
        adjust=adjust,
        alpha=alpha,
        missing=missing,
        mean_ranks=doubled / (2 * len(tasks)),
        consensus=lowest_ranks(-doubled),
    )


def check_alpha(alpha: float) -> None:
    """Raise ConfigError unless ``alpha`` lies between 0 and 1."""
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}", expected="a level between 0 and 1, such as 0.05")


def task_tests(task: Task, missing: MissingPolicy) -> SignedRankTests:
    """The tests between all algorithms of a task, missing cases treated as asked."""
    values = task.completed(missing)
    empty = np.isnan(values).all(axis=1)
    if empty.any():
        names = ", ".join(name for name, bad in zip(task.algorithms, empty, strict=True) if bad)
        raise ScoringError(
            f"task {task.name!r} has no value at all of {names}",
            expected="at least one case of every algorithm",
            remedy="leave these algorithms out, rank by metrics that all have, or let missing "
            "cases count as the worst",
        )
    return SignedRankTests(values)


def _rank_task(task: Task, adjust: Adjustment, alpha: float, missing: MissingPolicy) -> TaskRanking:
    tests = task_tests(task, missing)
    p_values = tests.p_values(np.ones((1, tests.cases)))
    significant = significant_tests(p_values, alpha, adjust)
    wins = tests.wins(significant)[0]
    adjusted = holm(p_values[0]) if adjust == "holm" else p_values[0]
    return TaskRanking(
        task=task,
        p_values=tests.matrix(p_values[0]),
        p_adjusted=tests.matrix(adjusted),
        significant=tests.matrix(significant[0], diagonal=False),
        wins=wins,
        ranks=lowest_ranks(wins),
        smallest_reachable=smallest_adjusted(tests.cases, tests.algorithms, adjust),
    )


def lowest_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, 1 for the highest score, ties sharing the lowest rank; int64."""
    scores = np.asarray(scores)
    return 1 + np.count_nonzero(scores[..., None, :] > scores[..., :, None], axis=-1)


def doubled_average_ranks(ranks: np.ndarray) -> np.ndarray:
    """Twice the average-tie ranks along the last axis, from any ranks (1 is best); int64.

    Whole numbers, so that equal means are equal: as floats, ranks average to 1.6666666666666661.
    """
    ranks = np.asarray(ranks)
    lower = np.count_nonzero(ranks[..., None, :] < ranks[..., :, None], axis=-1)
    tied = np.count_nonzero(ranks[..., None, :] == ranks[..., :, None], axis=-1)
    return 2 * lower + tied + 1


def doubled_consensus(ranks: np.ndarray) -> np.ndarray:
    """Sum over tasks of doubled average-tie ranks: shape (tasks, ..., algorithms) to the rest."""
    return doubled_average_ranks(ranks).sum(axis=0)


def kendall_tau_b(reference: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Kendall's tau-b between one ranking and many.

    ``reference`` has shape (algorithms,), ``ranks`` (samples, algorithms). Returns (samples,),
    -1 to 1, NaN where either ranking is constant, as R's ``cor(method = "kendall")``.
    """
    first, second = np.triu_indices(np.shape(reference)[-1], 1)
    reference = np.asarray(reference)
    ranks = np.asarray(ranks)
    one = np.sign(reference[first] - reference[second]).astype(np.float32)
    many = np.sign(ranks[:, first] - ranks[:, second]).astype(np.float32)
    agreement = (many @ one).astype(np.float64)
    pairs = np.count_nonzero(many, axis=1).astype(np.float64) * np.count_nonzero(one)
    with np.errstate(invalid="ignore"):
        return agreement / np.sqrt(pairs)


def _power_warnings(ranking: Ranking) -> list[str]:
    count = len(ranking.challenge.algorithms)
    sentences = []
    blind: dict[int, list[str]] = {}
    for result in ranking.tasks:
        if result.smallest_reachable > ranking.alpha:
            blind.setdefault(len(result.task.cases), []).append(result.task.name)
    for cases, names in sorted(blind.items()):
        by = (
            f"Holm over {count * (count - 1):,} tests among {count} algorithms"
            if ranking.adjust == "holm"
            else "no adjustment"
        )
        reachable = smallest_adjusted(cases, count, ranking.adjust)
        most = most_algorithms(cases, ranking.alpha)
        remedy = "More cases are needed."
        if ranking.adjust == "holm" and most > 1:
            remedy = (
                f"With so many cases Holm can reject something among at most {most} algorithms: "
                "rank fewer of them, or choose no adjustment and say so."
            )
        sentences.append(
            f"No power in {', '.join(names)}: with {cases} "
            f"case{'s' if cases != 1 else ''} and {by}, differences without ties cannot give an "
            f"adjusted p-value below {reachable:.3g}, which is above alpha = {ranking.alpha:g}. "
            f"Equal ranks there do not mean equal algorithms. {remedy}"
        )
    for result in ranking.tasks:
        if result.task.name in {name for names in blind.values() for name in names}:
            continue
        if not result.significant.any():
            found = np.nanmin(result.p_adjusted) if not np.isnan(result.p_adjusted).all() else 1.0
            sentences.append(
                f"No pair differs significantly in {result.task.name} "
                f"(smallest adjusted p-value {found:.3g}): all algorithms share rank 1 there."
            )
    return sentences


def expected_distinct(cases: int) -> float:
    """Expected number of different cases in a bootstrap sample of ``cases`` draws."""
    return cases * (1 - math.pow(1 - 1 / cases, cases)) if cases else 0.0
