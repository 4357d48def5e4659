"""Two-dimensional pictures (JPEG, PNG), as COVID-SemiSeg stores slices and masks."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from covidseg.core.errors import UnreadableFileError
from covidseg.imaging.nifti import unreadable


def read_picture(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Read a grey picture as an (X, Y) uint8 array.

    COVID-SemiSeg stores its slices transposed: the file's rows are the patient's x axis. So the
    array is indexed as the file stores it, [file row, file column] = [x, y], and ``array.T`` is
    what one looks at. Palette pictures (label maps) give palette indices, two-level ones 0 and 255,
    colour ones their grey value where all channels are equal.

    Raises
    ------
    UnreadableFileError
        The file is absent, a folder, not permitted, cut short, or no 8-bit grey picture.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open(path, "rb") as file, Image.open(file) as picture:
                return _grey(picture, path)
    except UnidentifiedImageError as fault:
        raise UnreadableFileError(
            "is not a picture", path=path, expected="JPEG or PNG", remedy="download it again"
        ) from fault
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise UnreadableFileError(f"promises too large a picture ({fault})", path=path) from fault
    except OSError as fault:
        if fault.errno is not None:
            raise unreadable(path, fault) from fault
        raise _damaged(path, fault) from fault
    except UnreadableFileError:
        raise
    except Exception as fault:
        # Pillow's decoders raise SyntaxError, ValueError, struct.error and more on damaged bytes.
        raise _damaged(path, fault) from fault


def _damaged(path: Path, fault: Exception) -> UnreadableFileError:
    return UnreadableFileError(
        f"is cut short or damaged ({fault})", path=path, remedy="download it again"
    )


def _grey(picture: Image.Image, path: Path) -> NDArray[np.uint8]:
    if picture.mode in ("L", "P"):
        return np.array(picture)
    if picture.mode == "1":
        return np.array(picture.convert("L"))
    if picture.mode in ("RGB", "RGBA", "LA"):
        pixels: NDArray[Any] = np.array(picture)
        colours = pixels[..., : 1 if picture.mode == "LA" else 3]
        if (colours == colours[..., :1]).all():
            return np.ascontiguousarray(colours[..., 0])
    raise UnreadableFileError(
        f"is a picture of mode {picture.mode}",
        path=path,
        expected="8-bit grey values",
        remedy="save it as 8-bit greyscale",
    )
