"""Weights that rise while a run goes on."""

from __future__ import annotations

import math


def sigmoid_ramp(done: float, length: float) -> float:
    """exp(−5·(1 − t)²) with t = done / length, at most 1: from 0.0067 to 1.

    ``done`` and ``length`` are shares of a run. Source: Laine and Aila, arXiv 1610.02242, which
    Mean Teacher, UA-MT and CPS take over; in their public code ``done`` is rounded down to 150
    iterations, and ``length`` is the whole run (200 · 150 of 30,000 iterations).
    """
    missing = 1 - min(done / length, 1.0)
    return math.exp(-5 * missing**2)
