"""Random numbers that are functions of where in the training they are drawn."""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any

import numpy as np
import torch


def derived_seed(seed: int, *where: int) -> int:
    """A seed in [0, 2**63) that depends on all its arguments, evenly spread (BLAKE2b).

    Neighbouring steps, slots or ranks get unrelated seeds, which sums such as ``seed + rank`` do
    not give.
    """
    packed = struct.pack(f"<{1 + len(where)}q", seed, *where)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python's, numpy's and torch's global generators; each rank differently."""
    value = derived_seed(seed, rank)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - libraries that draw from it are to be replayable
    torch.manual_seed(value)


def random_states() -> dict[str, Any]:
    """The global generators' states, in types that ``torch.load(weights_only=True)`` reads."""
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, gauss = state
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the global generators to what :func:`random_states` returned."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
