"""The file by which a folder of phantoms says what it is; reading it draws nothing in."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

MARKER = "PHANTOM.json"


def phantom_marker(folder: str | os.PathLike[str]) -> dict | None:
    """The marker of the nearest folder at or above ``folder`` that has one, else None.

    Whatever lies below a marker is phantom data. Keys: ``phantom`` (true), ``seed``, ``size``,
    ``version``, ``datasets`` or ``dataset``.
    """
    start = Path(folder).absolute()
    for place in (start, *start.parents):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads((place / MARKER).read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("phantom") is True:
                return content
    return None
