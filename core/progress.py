"""One kind of progress bar for all long work."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """A `tqdm` bar; in a file, where nothing is overwritten, a line now and then is enough."""
    terminal = sys.stderr.isatty()
    settings: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.1 if terminal else 30}
    return tqdm(*arguments, **{**settings, **options})


def tell(line: str) -> None:
    """A line for the reader on standard error, above any bar that is shown."""
    tqdm.write(line, file=sys.stderr)
