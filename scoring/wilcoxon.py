"""One-sided Wilcoxon signed-rank tests between all pairs of algorithms, for many samples at once.

Every test is R's ``wilcox.test(x, y, paired = TRUE, exact = FALSE, alternative = "greater")``:
differences d of the common cases in float64, zeros dropped, average ranks of abs(d), and the normal
approximation with continuity correction

    z = (W+ - n(n + 1)/4 - 1/2) / sqrt(n(n + 1)(2n + 1)/24 - sum(t^3 - t)/48),   p = 1 - Phi(z),

with W+ the rank sum of the positive differences, n the number of differences that are not zero and
t the sizes of groups of equal abs(d). The exact test is never used, however few the cases.

What makes a thousand bootstraps cheap: let w be how often a sample holds each case. Doubled
average ranks are linear in w, so 2 W+ is a quadratic form in w whose coefficients (0, 1 or 2)
depend on the full data alone. All pairs in all samples are then one matrix product, exact because
everything in it is a small integer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.special import ndtr

from covidseg.core.errors import ConfigError, ScoringError

Adjustment = Literal["none", "holm"]

# Coefficients kept between calls, and built at a time when they do not fit (entries of 4 bytes).
_CACHED_ENTRIES = 1 << 26
_CHUNK_ENTRIES = 1 << 23


class SignedRankTests:
    """All one-sided tests between the rows of one table, for any number of samples of its columns.

    Parameters
    ----------
    values
        Shape (algorithms, cases), higher is better; NaN where there is no value, which leaves the
        case out of that algorithm's comparisons. Infinities are allowed: two equal ones tie.
    """

    def __init__(self, values: np.ndarray) -> None:
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2:
            raise ScoringError(
                f"a table of shape {values.shape}", expected="two axes: algorithms, cases"
            )
        self.values = values
        self.algorithms, self.cases = values.shape
        #: Row numbers of the unordered pairs: pair k compares ``first[k]`` with ``second[k]``.
        self.first, self.second = np.triu_indices(self.algorithms, 1)
        self.pairs = len(self.first)
        self._dtype = _exact_type(self.cases)
        self._upper = np.triu_indices(self.cases, 1)
        self._complete = not np.isnan(values).any()
        entries = self.pairs * (self.cases * (self.cases + 1) // 2)
        self._chunks = list(self._build_chunks()) if entries <= _CACHED_ENTRIES else None

    def p_values(self, weights: np.ndarray) -> np.ndarray:
        """P-values of all ordered pairs in every sample.

        Parameters
        ----------
        weights
            Shape (samples, cases), whole numbers: how often each sample holds each case.

        Returns
        -------
        Shape (samples, 2 * pairs), float64: first the tests "``first`` is greater than ``second``",
        then the reverse ones. 1 where all differences are zero; NaN where the two algorithms have
        no case in common.
        """
        weights = np.ascontiguousarray(weights, dtype=self._dtype)
        if weights.ndim != 2 or weights.shape[1] != self.cases:
            raise ScoringError(
                f"weights of shape {weights.shape}", expected=f"(samples, {self.cases})"
            )
        # Features of all samples at once would grow with the square of the cases.
        step = max(1, 2 * _CHUNK_ENTRIES // max(1, self.cases * (self.cases + 1)))
        result = np.empty((len(weights), 2 * self.pairs))
        for start in range(0, len(weights), step):
            result[start : start + step] = self._p_values(weights[start : start + step])
        return result

    def _p_values(self, weights: np.ndarray) -> np.ndarray:
        features = self._features(weights)
        repeated = weights.astype(np.float64) ** 3 - weights
        any_repeated = bool(repeated.any())
        result = np.empty((len(weights), 2 * self.pairs))
        for part, chunk in self._each_chunk():
            doubled = (features @ chunk.coefficients.T).astype(np.float64)
            n = (weights @ chunk.nonzero.T).astype(np.float64)
            ties = chunk.tie_term(weights, repeated if any_repeated else None)
            variance = n * (n + 1) * (2 * n + 1) / 24 - ties / 48
            excess = doubled / 2 - n * (n + 1) / 4
            with np.errstate(divide="ignore"):
                scale = -1 / np.sqrt(variance)
            # No difference: 0/0 by the formula above, and p = 1 in R. Here -1/2 times -infinity.
            greater = ndtr((excess - 0.5) * scale)
            less = ndtr((-excess - 0.5) * scale)
            if not self._complete:
                apart = weights @ chunk.common.T == 0
                greater[apart] = np.nan
                less[apart] = np.nan
            result[:, part] = greater
            result[:, self.pairs + part.start : self.pairs + part.stop] = less
        return result

    def matrix(self, ordered: np.ndarray, diagonal: float = np.nan) -> np.ndarray:
        """One row of ``p_values`` (or of anything like it) as (algorithms, algorithms).

        Entry [i, j] belongs to the test "i is better than j".
        """
        square = np.full((self.algorithms, self.algorithms), diagonal, dtype=ordered.dtype)
        square[self.first, self.second] = ordered[: self.pairs]
        square[self.second, self.first] = ordered[self.pairs :]
        return square

    def wins(self, significant: np.ndarray) -> np.ndarray:
        """Number of significant wins: (samples, 2 * pairs) booleans to (samples, algorithms)."""
        winners = np.concatenate([self.first, self.second])
        incidence = sparse.csr_array(
            (np.ones(len(winners), np.int32), (winners, np.arange(len(winners)))),
            shape=(self.algorithms, len(winners)),
        )
        return (incidence @ significant.T.astype(np.int32)).T

    def _features(self, weights: np.ndarray) -> np.ndarray:
        rows, columns = self._upper
        return np.concatenate(
            [weights[:, rows] * weights[:, columns], weights * weights + weights], axis=1
        )

    def _each_chunk(self) -> Iterator[tuple[slice, _Chunk]]:
        return iter(self._chunks) if self._chunks is not None else self._build_chunks()

    def _build_chunks(self) -> Iterator[tuple[slice, _Chunk]]:
        step = max(1, _CHUNK_ENTRIES // max(1, self.cases**2))
        for start in range(0, self.pairs, step):
            part = slice(start, min(start + step, self.pairs))
            with np.errstate(invalid="ignore"):
                difference = self.values[self.first[part]] - self.values[self.second[part]]
            yield part, _Chunk(difference, self._undefined(part), self._upper, self._dtype)

    def _undefined(self, part: slice) -> np.ndarray:
        absent = np.isnan(self.values)
        return absent[self.first[part]] | absent[self.second[part]]


def _exact_type(cases: int) -> type[np.floating]:
    """The quickest type that holds 2 W+, at most n(n + 1), exactly."""
    return np.float32 if cases * (cases + 1) <= 1 << 24 else np.float64


class _Chunk:
    """What some pairs' differences, shape (pairs, cases), say about every sample."""

    def __init__(self, difference, undefined, upper, dtype) -> None:
        # The difference of two equal infinities is NaN, and a tie like any other zero.
        counted = np.nan_to_num(difference, nan=0.0, posinf=np.inf, neginf=-np.inf) != 0
        self.common = (~undefined).astype(dtype)
        self.nonzero = counted.astype(dtype)
        size = np.where(counted, np.abs(difference), np.nan)
        positive = counted & (difference > 0)
        rows, columns = upper
        equal = size[:, rows] == size[:, columns]
        # The larger of two differences gains 2 in doubled rank by the other, equal ones 1 each.
        first_larger = size[:, rows] > size[:, columns]
        second_larger = size[:, rows] < size[:, columns]
        pairwise = positive[:, rows] * (2 * first_larger + equal.astype(np.int8))
        pairwise += positive[:, columns] * (2 * second_larger + equal.astype(np.int8))
        self.coefficients = np.concatenate([pairwise, positive], axis=1).astype(dtype)
        self._set_tie_groups(size)

    def _set_tie_groups(self, size: np.ndarray) -> None:
        """Groups of at least two equal differences; a group is a set of cases, shared by pairs."""
        order = np.argsort(size, axis=1, kind="stable")  # NaN, the dropped ones, come last
        ordered = np.take_along_axis(size, order, axis=1)
        starts = np.ones(size.shape, dtype=bool)
        starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        number = np.cumsum(starts.ravel()) - 1
        length = np.bincount(number)
        in_group = (length[number] > 1).reshape(size.shape)
        pair, place = np.nonzero(in_group)
        _, group = np.unique(number.reshape(size.shape)[in_group], return_inverse=True)
        count = int(group.max()) + 1 if len(group) else 0
        members = np.zeros((count, size.shape[1]), dtype=bool)
        members[group, order[pair, place]] = True
        owner = np.zeros(count, dtype=np.intp)
        owner[group] = pair
        sets, which = np.unique(np.packbits(members, axis=1), axis=0, return_inverse=True)
        self.tie_sets = np.unpackbits(sets, axis=1, count=size.shape[1]).astype(np.float64)
        self.tie_owner = sparse.csr_array(
            (np.ones(count), (owner, which.reshape(-1))), shape=(len(size), len(sets))
        )

    def tie_term(self, weights: np.ndarray, repeated: np.ndarray | None) -> np.ndarray:
        """Sum over groups of equal differences of t^3 - t; shape (samples, pairs), float64.

        ``repeated`` is w^3 - w of every case, or None where no case is held twice.
        """
        size = weights.astype(np.float64) @ self.tie_sets.T
        term = size**3 - size
        if repeated is not None:
            term -= repeated @ self.tie_sets.T
        total = (self.tie_owner @ term.T).T
        if repeated is not None:
            total = total + repeated @ self.nonzero.T.astype(np.float64)
        return total


def wilcoxon_greater(x: np.ndarray, y: np.ndarray) -> float:
    """P-value of the one-sided paired test that ``x`` is greater than ``y``.

    Equal to R's ``wilcox.test(x, y, paired = TRUE, exact = FALSE, alternative = "greater")``.
    ``x`` and ``y`` have shape (cases,); a case with a NaN is left out.

    Example
    -------
    >>> round(wilcoxon_greater([.5, .6, .7, .8, .9, .3], [.4, .6, .5, .5, .4, .35]), 6)
    0.052823
    """
    tests = SignedRankTests(np.stack([np.asarray(x, float), np.asarray(y, float)]))
    return float(tests.p_values(np.ones((1, tests.cases)))[0, 0])


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values adjusted by Holm's step-down method, as R's ``p.adjust(p, "holm")``.

    Any shape, float64. NaN stays NaN and does not count as a test.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    counted = ~np.isnan(p_values)
    p = p_values[counted]
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1)
    adjusted[counted] = result
    return adjusted


def significant_tests(p_values: np.ndarray, alpha: float, adjust: Adjustment) -> np.ndarray:
    """Which tests are significant, each sample (row) adjusted for itself.

    ``p_values`` has shape (samples, tests). Equal to ``holm(row) <= alpha`` but sorts only what
    could be rejected: an adjusted p-value is never below the plain one.
    """
    with np.errstate(invalid="ignore"):
        possible = p_values <= alpha
    if adjust == "none":
        return possible
    if adjust != "holm":
        raise ConfigError(f"adjustment {adjust!r} is not known", expected="none or holm")
    tests = np.count_nonzero(~np.isnan(p_values), axis=1)
    for row, candidates, number in zip(p_values, possible, tests, strict=True):
        p = np.sort(row[candidates])
        accepted = (number - np.arange(len(p))) * p > alpha
        if accepted.any():
            # The first acceptance ends the rejections; p-values equal to it are accepted with it.
            candidates &= row < p[np.argmax(accepted)]
    return possible


def smallest_p_value(cases: int) -> float:
    """The smallest p-value that ``cases`` different, all positive differences can give."""
    if cases < 1:
        return 1.0
    n = float(cases)
    return float(ndtr(-(n * (n + 1) / 4 - 0.5) / np.sqrt(n * (n + 1) * (2 * n + 1) / 24)))


def smallest_adjusted(cases: int, algorithms: int, adjust: Adjustment) -> float:
    """The smallest adjusted p-value within reach of that many cases and algorithms."""
    tests = algorithms * (algorithms - 1) if adjust == "holm" else 1
    return min(1.0, smallest_p_value(cases) * max(1, tests))


def most_algorithms(cases: int, alpha: float = 0.05) -> int:
    """The largest number of algorithms among which Holm can reject anything with ``cases`` cases.

    1 where not even two algorithms can be told apart.
    """
    p = smallest_p_value(cases)
    tests = alpha / p
    algorithms = int((1 + np.sqrt(1 + 4 * tests)) / 2)
    while algorithms * (algorithms - 1) * p > alpha:
        algorithms -= 1
    return max(1, algorithms)
