"""Numbers of a configuration that cannot be, said when a recipe is read and not in its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from covidseg.core.errors import ConfigError


def check_numbers(
    config: Any,
    section: str,
    *,
    shares: Sequence[str] = (),
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    ranges: Sequence[str] = (),
) -> None:
    """Raise ConfigError, naming ``section.field``, for a field of ``config`` out of its bounds.

    Parameters
    ----------
    shares
        Fields within [0, 1]. A field of two numbers is looked at in each, here and below.
    positive, not_negative
        Fields above 0, and 0 or above.
    ranges
        Fields of two numbers, the lesser first.
    """
    bounds = (
        (shares, lambda v: 0 <= v <= 1, "a share, 0 to 1"),
        (positive, lambda v: v > 0, "above 0"),
        (not_negative, lambda v: v >= 0, "0 or above"),
    )
    for names, holds, expected in bounds:
        for name in names:
            value = getattr(config, name)
            if not all(map(holds, value if isinstance(value, tuple) else (value,))):
                raise ConfigError(f"{section}.{name} is {_shown(value)}", expected=expected)
    for name in ranges:
        low, high = getattr(config, name)
        if not low <= high:
            raise ConfigError(
                f"{section}.{name} is {[low, high]}", expected="the lesser number first"
            )


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
