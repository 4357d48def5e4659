"""Whatever bytes a file holds, reading ends in a volume or in one of the project's exceptions."""

import gzip
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from covidseg.core.errors import CovidsegError
from covidseg.imaging.nifti import read_header, read_nifti, write_nifti
from covidseg.imaging.volume import Volume

SHAPE = (9, 8, 7)
# Offset, struct format and length of the NIfTI-1 header's fields that steer reading.
FIELDS = [
    (0, "i", 1),
    (40, "h", 8),
    (70, "h", 1),
    (72, "h", 1),
    (76, "f", 8),
    (108, "f", 1),
    (112, "f", 2),
    (123, "b", 1),
    (252, "h", 2),
    (256, "f", 6),
    (280, "f", 12),
]
NASTY = {
    "b": [0, 1, -1, 127, -128],
    "h": [0, 1, -1, 2, 4, 7, 8, 16, 64, 128, 512, 1792, 32767, -32768],
    "i": [0, 1, -1, 348, 540, 2**31 - 1, -(2**31)],
    "f": [0, -0.0, 1, -1, 352, 351, 1e9, 1e38, -1e38, 1e-45, np.nan, np.inf, -np.inf],
}


def whole_file(path, dtype):
    data = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    write_nifti(path, Volume(data, np.diag([-0.7, -0.7, 5, 1])))
    return path.read_bytes()


def mutated(whole, rng):
    broken = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.6:
            offset, code, count = FIELDS[rng.integers(len(FIELDS))]
            place = offset + struct.calcsize(code) * int(rng.integers(count))
            value = NASTY[code][rng.integers(len(NASTY[code]))]
            order = "<" if rng.random() < 0.9 else ">"
            struct.pack_into(order + code, broken, place, value)
        else:
            broken[rng.integers(352)] = rng.integers(256)
    if rng.random() < 0.1:
        broken = broken[: rng.integers(len(broken))]
    return bytes(broken)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.filterwarnings("error")
def test_mutated_headers(tmp_path, dtype, capfd):
    whole = whole_file(tmp_path / "whole.nii", dtype)
    rng = np.random.default_rng(1)
    read = refused = 0
    read_nifti(tmp_path / "whole.nii")  # imports are not counted
    tracemalloc.start()
    for number in range(1000):
        broken = mutated(whole, rng)
        path = tmp_path / ("x.nii" if number % 2 else "x.nii.gz")
        # A new file each time: truncating an old one costs more than all the rest on some disks.
        path = path.with_name(f"{number}-{path.name}")
        path.write_bytes(broken if number % 2 else gzip.compress(broken, 1))
        try:
            volume = read_nifti(path)
        except CovidsegError as fault:
            refused += 1
            assert path.name in str(fault), repr(fault)  # noqa: PT017
        else:
            read += 1
            assert volume.data.size * volume.data.itemsize <= 2 * len(broken)
            assert read_header(path).shape == volume.shape
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(read, refused) > 120
    assert capfd.readouterr() == ("", "")
    # A gzip file can expand 1,032 times; nothing near what headers promise is ever allocated.
    assert peak < 16 * 2**20


def test_mutated_compressed_bytes(tmp_path):
    whole = whole_file(tmp_path / "whole.nii.gz", np.int16)
    rng = np.random.default_rng(2)
    path = tmp_path / "x.nii.gz"
    read = refused = 0
    for _ in range(1000):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            broken[place] = rng.integers(256)
        if rng.random() < 0.2:
            broken = broken[: rng.integers(len(broken))]
        path.write_bytes(broken)
        try:
            read_nifti(path)
            read += 1
        except CovidsegError:
            refused += 1
    # The checksum catches nearly all; what is left changed nothing or only the gzip header.
    assert refused > 0.9 * (read + refused)


def test_promises_end_before_memory_does(tmp_path):
    """Three gigabytes promised by a compressed file of four megabytes, in a process of one."""
    path = tmp_path / "bomb.nii.gz"
    head = bytearray(whole_file(tmp_path / "whole.nii", np.int16)[:352])
    struct.pack_into("<3h", head, 42, 1200, 1200, 1100)
    path.write_bytes(gzip.compress(bytes(head) + np.random.default_rng(0).bytes(4_000_000), 1))
    code = (
        "import resource, sys\n"
        "from covidseg.core.errors import UnreadableFileError\n"
        "from covidseg.imaging.nifti import read_nifti\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try:\n"
        "    read_nifti(sys.argv[1])\n"
        "except UnreadableFileError as fault:\n"
        "    print(fault)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert "more than memory can hold" in done.stdout
