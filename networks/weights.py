"""Reading weight files without executing code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from covidseg.core.errors import UnreadableFileError


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from .safetensors, or from a torch file with ``weights_only=True``.

    A torch file may hold the state dict itself or a mapping with it under ``state_dict``; prefixes
    ``module.`` and ``_orig_mod.`` are taken off.

    Raises
    ------
    UnreadableFileError
        No such file, not of that format, or a file that would need to execute code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableFileError("no such weight file", path=path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise UnreadableFileError(
            f"cannot be read as weights ({type(fault).__name__}: {first_line(fault)})",
            path=path,
            expected="tensors alone, as .safetensors or as torch.save writes a state dict",
        ) from fault
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise UnreadableFileError("is not a state dict", path=path, expected="names and tensors")
    return {name.removeprefix("module.").removeprefix("_orig_mod."): v for name, v in found.items()}


def first_line(fault: BaseException) -> str:
    """The first line of an exception's text, for messages of one line."""
    return str(fault).strip().split("\n")[0][:200]
