"""What a metric is worth where a mask is empty: one written policy for all tables.

Formulas leave empty masks open (0/0), and tools fill the gap differently: DeepMind's package and
MONAI say NaN where both are empty, MetricsReloaded 1. A mean over cases depends on it, so the
choice is explicit, named in every file of scores, and the same for every label of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from covidseg.core.errors import ConfigError

OK = "ok"
BOTH_EMPTY = "both_empty"
PREDICTION_EMPTY = "prediction_empty"
REFERENCE_EMPTY = "reference_empty"
EMPTY_STATUSES = (BOTH_EMPTY, PREDICTION_EMPTY, REFERENCE_EMPTY)
METRICS = ("dsc", "nsd", "nave")


def _values(both: float, prediction: float, reference: float) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(EMPTY_STATUSES, (both, prediction, reference), strict=True)))


@dataclass(frozen=True)
class EmptyMaskPolicy:
    """Values of DSC, NSD and NAVE for each way in which masks can be empty.

    NaN means "has no value": the case is left out of means, and every table that leaves cases out
    says how many.
    """

    name: str
    meaning: str
    dsc: Mapping[str, float] = field(default_factory=lambda: _values(math.nan, 0, 0))
    nsd: Mapping[str, float] = field(default_factory=lambda: _values(math.nan, 0, 0))
    nave: Mapping[str, float] = field(default_factory=lambda: _values(math.nan, 1, math.inf))

    def value(self, metric: str, status: str, computed: float) -> float:
        """``computed`` where both masks hold something, else the policy's value."""
        if status == OK:
            return computed
        return float(getattr(self, metric)[status])


_POLICIES = (
    EmptyMaskPolicy(
        "undefined",
        "Both empty: no value (the case is counted, not averaged). One empty: DSC and NSD are 0; "
        "NAVE is 1 for an empty prediction and infinite for an empty reference.",
    ),
    EmptyMaskPolicy(
        "agreement",
        "Both empty: perfect agreement (DSC and NSD 1, NAVE 0), as MetricsReloaded has it. One "
        "empty: as in 'undefined'.",
        dsc=_values(1, 0, 0),
        nsd=_values(1, 0, 0),
        nave=_values(0, 1, math.inf),
    ),
    EmptyMaskPolicy(
        "reference-only",
        "Reference empty: no value, whatever was predicted, as MONAI's DSC has it. Prediction "
        "empty: DSC and NSD 0, NAVE 1.",
        dsc=_values(math.nan, 0, math.nan),
        nsd=_values(math.nan, 0, math.nan),
        nave=_values(math.nan, 1, math.nan),
    ),
    EmptyMaskPolicy(
        "surface-distance",
        "What DeepMind's package returns: both empty NaN, one empty 0. NAVE, which it lacks, has a "
        "value wherever the reference holds something.",
        nave=_values(math.nan, 1, math.nan),
    ),
)
POLICIES: Mapping[str, EmptyMaskPolicy] = MappingProxyType(
    {policy.name: policy for policy in _POLICIES}
)
DEFAULT_POLICY = "undefined"


def empty_mask_policy(policy: str | EmptyMaskPolicy) -> EmptyMaskPolicy:
    """The policy of that name; an `EmptyMaskPolicy` of one's own passes through.

    Raises
    ------
    ConfigError
        No policy has that name.
    """
    if isinstance(policy, EmptyMaskPolicy):
        return policy
    if policy not in POLICIES:
        raise ConfigError(
            f"the empty-mask policy {policy!r} is not known",
            expected="one of " + ", ".join(POLICIES),
        )
    return POLICIES[policy]


def empty_status(voxels_prediction: int, voxels_reference: int) -> str:
    """``ok``, ``both_empty``, ``prediction_empty`` or ``reference_empty``."""
    if voxels_prediction and voxels_reference:
        return OK
    if voxels_prediction:
        return REFERENCE_EMPTY
    return PREDICTION_EMPTY if voxels_reference else BOTH_EMPTY
