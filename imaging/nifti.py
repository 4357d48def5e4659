"""Reading and writing NIfTI-1 and NIfTI-2 files, ``.nii`` and ``.nii.gz``.

The header is nibabel's; the voxels take a path of their own, because they are what takes time:
gzip is decoded by isal in blocks, straight into the array that is returned. Files are mistrusted:
nothing is allocated before the size that the header promises is compared with what the file can
hold, and whatever is wrong ends in one of the project's exceptions.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import DTypeLike, NDArray

from covidseg.core.errors import CovidsegError, GeometryError, UnreadableFileError
from covidseg.core.files import atomic_file
from covidseg.imaging.casting import exact_cast, slabs
from covidseg.imaging.geometry import Affine, checked_affine, corners_mm, orientation_of, spacing_of
from covidseg.imaging.volume import Volume

_GZIP_MAGIC = b"\x1f\x8b"
# Deflate codes at most 258 bytes in two bits: no gzip file expands further than this.
_GZIP_MAX_RATIO = 1032
_BLOCK_BYTES = 1 << 20
_FORM_TOLERANCE_MM = 0.01
# nibabel reports each small fault that it mends; a pass over thousands of files need not.
_QUIET = logging.Logger(__name__, level=logging.CRITICAL + 1)
# isal's type hints call its exception class an instance.
_ISAL_ERROR: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """What a NIfTI file says of its voxels, before any of them is read.

    ``affine`` is voxel to mm, RAS+, by nibabel's rule: the sform, else the qform, else the pixel
    sizes alone. ``dtype`` is in this machine's byte order, ``stored_dtype`` in the file's.
    ``slope`` and ``intercept`` are 1 and 0 where the file sets none. ``form_conflict`` says in
    words how far sform and qform disagree, and is None where they agree or one is unset.
    """

    shape: tuple[int, ...]
    affine: Affine
    spacing_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    stored_dtype: np.dtype[Any]
    orientation: str
    slope: float
    intercept: float
    data_offset: int
    form_conflict: str | None

    @property
    def is_scaled(self) -> bool:
        """Whether stored values must be multiplied or shifted to be what they mean."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def read_header(path: str | PathLike[str]) -> NiftiHeader:
    """Read the header of a NIfTI file from its first bytes.

    Raises
    ------
    UnreadableFileError
        The file is absent, a folder, not permitted, or not NIfTI.
    GeometryError
        Its shape is not three-dimensional or is empty, or its affine is impossible.
    """
    path = Path(path)
    with _opened(path) as file:
        return _parse(_first_bytes(file, path), path)


def read_nifti(path: str | PathLike[str], *, dtype: DTypeLike | None = None) -> Volume:
    """Read a NIfTI file into a `Volume`.

    Without ``dtype``, unscaled voxels keep the file's dtype (in native byte order); voxels with a
    slope or intercept come as float32, or as float64 where the file stores more than 16-bit
    integers or single floats. With ``dtype`` they are cast to it: to integers only where that is
    exact.

    Raises
    ------
    UnreadableFileError
        The file is absent, a folder, not permitted, not NIfTI, cut short, damaged, or holds less
        than its header promises.
    GeometryError
        The voxels are not three-dimensional (a fourth axis of one is refused too, not dropped), or
        the affine is impossible.
    IntensityError
        Values do not fit into ``dtype``.
    """
    path = Path(path)
    with _opened(path) as file:
        header = _parse(_first_bytes(file, path), path)
        stored = _read_voxels(file, header, path)
    try:
        data = _meaning(stored, header, dtype)
        return Volume(data, header.affine)
    except MemoryError as fault:
        raise _too_large(path, header) from fault
    except CovidsegError as fault:
        fault.path = path
        raise


def write_nifti(
    path: str | PathLike[str],
    volume: Volume,
    *,
    dtype: DTypeLike | None = None,
    description: str = "",
) -> None:
    """Write a volume as NIfTI-1, gzipped where the name ends in ``.gz``; whole or not at all.

    Sform and qform both hold the affine (the qform is left unset where the grid is sheared, which
    it cannot say), units are mm, there is no slope. Without ``dtype`` the volume's own is written;
    bool becomes uint8, float16 float32, and 64-bit integers int32, which other programs read.
    ``description`` goes into the header's ``descrip``, at most 79 characters of it. The same volume
    gives the same bytes.

    Raises
    ------
    IntensityError
        Values do not fit into the dtype written.
    GeometryError
        An axis is longer than NIfTI-1 can say (32,767).
    StorageError
        The disk is full or not writable.
    """
    path = Path(path)
    try:
        data = exact_cast(volume.data, _dtype_on_disk(volume.data.dtype, dtype))
    except CovidsegError as fault:
        fault.path = path
        raise
    if max(data.shape) > np.iinfo(np.int16).max:
        raise GeometryError(f"the shape {data.shape} is beyond what NIfTI-1 can say", path=path)
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["pixdim"][1:4] = volume.spacing_mm
    header.set_sform(volume.affine, code="scanner")
    header.set_qform(volume.affine, code="scanner", strip_shears=True)
    if _forms_apart(header, data.shape) > _FORM_TOLERANCE_MM:
        header["qform_code"] = 0
    header.set_xyzt_units(xyz="mm")
    header["magic"] = b"n+1"
    header["descrip"] = description.encode("ascii", "replace")[:79]
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    with (
        atomic_file(path) as temporary,
        open(temporary, "wb") as raw,
        _compressing(raw, path) as file,
    ):
        file.write(header.binaryblock + b"\0\0\0\0")
        for part in slabs(data.shape):
            file.write(data[..., part].tobytes(order="F"))


def _dtype_on_disk(have: np.dtype[Any], wanted: DTypeLike | None) -> np.dtype[Any]:
    if wanted is not None:
        have = np.dtype(wanted)
    elif have.kind in "iu" and have.itemsize == 8:
        return np.dtype(np.int32)
    if have == np.dtype(bool):
        return np.dtype(np.uint8)
    if have == np.dtype(np.float16):
        return np.dtype(np.float32)
    return have.newbyteorder("=")


@contextlib.contextmanager
def _compressing(raw: BinaryIO, path: Path) -> Iterator[Any]:
    if path.suffix != ".gz":
        yield raw
        return
    # No name and no time inside: equal volumes give equal files.
    with igzip.IGzipFile(filename="", fileobj=raw, mode="wb", compresslevel=2, mtime=0) as file:
        yield file


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file open for reading, decompressed where it is gzip; faults made the project's."""
    try:
        with open(path, "rb", buffering=0) as raw:
            is_gzip = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if path.suffix.lower() == ".gz" and not is_gzip:
                raise _not_gzip(path, raw)
            if path.suffix.lower() != ".gz" and is_gzip:
                raise UnreadableFileError(
                    "is gzip-compressed but not named so",
                    path=path,
                    remedy=f"rename it to {path.name}.gz, by which every reader knows what it is",
                )
            if is_gzip:
                with igzip.IGzipFile(fileobj=raw, mode="rb") as file:
                    yield file
            else:
                yield raw
    except (EOFError, zlib.error, _ISAL_ERROR, igzip.BadGzipFile) as fault:
        raise _damaged(path, fault) from fault
    except OSError as fault:
        raise unreadable(path, fault) from fault


def unreadable(path: Path, fault: OSError) -> UnreadableFileError:
    """The project's own error for an operating system's refusal to read ``path``."""
    if fault.errno == errno.EISDIR:
        return UnreadableFileError(
            "is a folder", path=path, expected="a file", remedy="name the file inside it"
        )
    remedies = {
        errno.ENOENT: "check the path; was everything extracted?",
        errno.EACCES: "give yourself read permission (chmod u+r)",
    }
    reason = os.strerror(fault.errno).lower() if fault.errno else str(fault)
    return UnreadableFileError(
        f"cannot be read ({reason})", path=path, remedy=remedies.get(fault.errno or 0)
    )


def _not_gzip(path: Path, raw: Any) -> UnreadableFileError:
    start = raw.read(348)
    if not start:
        return UnreadableFileError("is empty", path=path, remedy="download or extract it again")
    if start[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c"):
        return UnreadableFileError(
            "is named .gz but is not compressed",
            path=path,
            remedy=f"rename it to {path.with_suffix('').name}",
        )
    return UnreadableFileError(
        f"is named .gz but is not gzip; it begins with {start[:20]!r}",
        path=path,
        expected="a gzip-compressed NIfTI file",
        remedy="download or extract it again",
    )


def _damaged(path: Path, fault: Exception) -> UnreadableFileError:
    what = "is cut short" if isinstance(fault, EOFError) else f"is damaged gzip ({fault})"
    return UnreadableFileError(
        what, path=path, expected="a whole gzip file", remedy="download or extract it again"
    )


def _first_bytes(file: Any, path: Path) -> bytes:
    start: bytes = file.read(348)
    if start[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c"):
        start += file.read(540 - 348)
    if not start:
        raise UnreadableFileError("is empty", path=path, remedy="download or extract it again")
    return start


def _parse(start: bytes, path: Path) -> NiftiHeader:
    """Make sense of the first 348 (NIfTI-1) or 540 (NIfTI-2) bytes."""
    sizes = {
        b"\x5c\1\0\0": (nib.Nifti1Header, 348),
        b"\0\0\1\x5c": (nib.Nifti1Header, 348),
        b"\x1c\2\0\0": (nib.Nifti2Header, 540),
        b"\0\0\2\x1c": (nib.Nifti2Header, 540),
    }
    if start[:4] not in sizes:
        raise UnreadableFileError(
            f"is not NIfTI; it begins with {start[:20]!r}",
            path=path,
            expected="a NIfTI-1 or NIfTI-2 header",
        )
    kind, size = sizes[start[:4]]
    if len(start) < size:
        raise UnreadableFileError(
            f"ends after {len(start)} bytes, within its header", path=path, expected=f"{size} bytes"
        )
    magic = start[344:348] if size == 348 else start[4:8]
    if magic not in (b"n+1\0", b"n+2\0"):
        raise UnreadableFileError(
            f"has the magic bytes {magic!r}",
            path=path,
            expected="a single-file NIfTI (n+1 or n+2), not Analyze or a .hdr/.img pair",
            remedy="convert it to .nii.gz, for example with nibabel",
        )
    # On damaged bytes nibabel raises nearly anything, from its own HeaderDataError to
    # OverflowError; all of it means that the header is not usable.
    try:
        with np.errstate(all="ignore"):
            header = kind.from_fileobj(io.BytesIO(start), check=False)
            # As nibabel does on loading: small faults are mended, great ones raise.
            header.check_fix(logger=_QUIET, error_level=40)
            shape = tuple(int(n) for n in header.get_data_shape())
            stored = header.get_data_dtype()
            slope, intercept = header.get_slope_inter()
            offset = int(header.get_data_offset())
    except Exception as fault:
        raise UnreadableFileError(f"has an impossible NIfTI header ({fault})", path=path) from fault
    if stored.kind not in "iuf" or stored.itemsize > 8:
        raise UnreadableFileError(
            f"holds voxels of type {header['datatype']} ({stored})",
            path=path,
            expected="one integer or floating-point value a voxel",
        )
    if len(shape) != 3:
        raise GeometryError(
            f"has {len(shape)} dimensions, shape {shape}",
            path=path,
            expected="one volume of three dimensions",
            remedy="take the volume that is meant out of it and save that",
        )
    if min(shape) < 1:
        raise GeometryError(f"has shape {shape}", path=path, expected="at least one voxel an axis")
    try:
        with np.errstate(all="ignore"):
            affine = checked_affine(header.get_best_affine())
            conflict = _form_conflict(header, shape)
            orientation = orientation_of(affine)
    except GeometryError as fault:
        fault.path = path
        raise
    except Exception as fault:
        raise GeometryError(f"has an impossible affine ({fault})", path=path) from fault
    return NiftiHeader(
        shape=shape,
        affine=affine,
        spacing_mm=spacing_of(affine),
        dtype=stored.newbyteorder("="),
        stored_dtype=stored,
        orientation=orientation,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        data_offset=offset,
        form_conflict=conflict,
    )


def _forms_apart(header: nib.Nifti1Header, shape: tuple[int, ...]) -> float:
    """How far sform and qform place a corner voxel apart, in mm; 0 where one of them is unset."""
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None or qform is None:
        return 0.0
    return float(np.linalg.norm(corners_mm(shape, sform) - corners_mm(shape, qform), axis=1).max())


def _form_conflict(header: nib.Nifti1Header, shape: tuple[int, ...]) -> str | None:
    # A qform that cannot be decoded says nothing; it is not used where there is an sform.
    try:
        apart = _forms_apart(header, shape)
    except Exception:
        return "the qform cannot be decoded; the sform is used"
    if apart <= _FORM_TOLERANCE_MM:
        return None
    return (
        f"sform and qform place voxels up to {apart:.3g} mm apart; the sform is used, as by "
        "nibabel, while ITK-based programs may use the qform"
    )


def _read_voxels(file: Any, header: NiftiHeader, path: Path) -> NDArray[Any]:
    """The stored values as (X, Y, Z), Fortran order, in this machine's byte order, unscaled."""
    promised = header.dtype.itemsize
    for size in header.shape:
        promised *= size
    on_disk = os.stat(path).st_size
    compressed = isinstance(file, igzip.IGzipFile)
    can_hold = on_disk * _GZIP_MAX_RATIO if compressed else on_disk
    if header.data_offset + promised > can_hold:
        raise UnreadableFileError(
            f"promises {_size(promised)} of voxels, more than its {_size(on_disk)} can hold",
            path=path,
            remedy="download or extract it again",
        )
    try:
        flat = np.empty(promised // header.dtype.itemsize, dtype=header.dtype)
    except (MemoryError, ValueError) as fault:
        raise _too_large(path, header) from fault
    _skip_to(file, header.data_offset, path)
    target = flat.data.cast("B")
    filled = 0
    while filled < promised:
        count = file.readinto(target[filled : filled + _BLOCK_BYTES])
        if not count:
            raise UnreadableFileError(
                f"ends after {_size(filled)} of the {_size(promised)} of voxels that it promises",
                path=path,
                remedy="download or extract it again",
            )
        filled += count
    if compressed:
        # The checksum stands at the end: asking for more makes the decoder compare it.
        file.read(1)
    if header.stored_dtype.newbyteorder("=") != header.stored_dtype:
        flat.byteswap(inplace=True)
    return flat.reshape(header.shape, order="F")


def _skip_to(file: Any, offset: int, path: Path) -> None:
    left = offset - file.tell()
    if left < 0:
        raise UnreadableFileError(f"says that its voxels begin at byte {offset}", path=path)
    while left:
        block = file.read(min(left, _BLOCK_BYTES))
        if not block:
            raise UnreadableFileError(
                f"ends before byte {offset}, where its voxels should begin",
                path=path,
                remedy="download or extract it again",
            )
        left -= len(block)


def _meaning(stored: NDArray[Any], header: NiftiHeader, dtype: DTypeLike | None) -> NDArray[Any]:
    """Stored values times slope plus intercept, in ``dtype`` or the one the reader promises."""
    if not header.is_scaled:
        return stored if dtype is None else exact_cast(stored, dtype)
    small = stored.dtype.itemsize <= 2 or stored.dtype == np.float32
    scaled = np.empty_like(stored, dtype=np.float32 if small else np.float64)
    for part in slabs(stored.shape):
        # In double precision, slab by slab, so that only the result is rounded.
        with np.errstate(over="ignore", invalid="ignore"):
            scaled[..., part] = (
                stored[..., part].astype(np.float64) * header.slope + header.intercept
            )
    return scaled if dtype is None else exact_cast(scaled, dtype)


def _too_large(path: Path, header: NiftiHeader) -> UnreadableFileError:
    return UnreadableFileError(
        f"promises voxels of shape {header.shape} as {header.dtype}, more than memory can hold",
        path=path,
        remedy="free memory, or check whether the file is damaged",
    )


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count} bytes"
    if count < 10_000_000_000:
        return f"{count / 1e6:,.1f} MB"
    return f"{count / 1e9:,.1f} GB"
