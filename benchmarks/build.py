"""How long `covidseg build` takes at real case counts, beside the bare cost of reading the files.

python benchmarks/build.py --shape 64 64 32 --json build.json
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from raw_cases import draw, machine

from covidseg.imaging.nifti import read_nifti
from covidseg.registry.hub import build_hub


def read(path: Path) -> int:
    return read_nifti(path).data.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 64, 32), help="voxels a scan")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, hub = Path(folder, "raw"), Path(folder, "hub")
        scans = draw(root, tuple(options.shape))
        paths = sorted(root.rglob("*.nii.gz"))
        seconds = {}

        start = time.perf_counter()
        with ProcessPoolExecutor(options.workers) as pool:
            size = sum(pool.map(read, paths, chunksize=8))
        seconds["bare reading"] = time.perf_counter() - start

        start = time.perf_counter()
        report = build_hub(root, hub, workers=options.workers, progress=False)
        seconds["build"] = time.perf_counter() - start
        assert report.sound, report.faults[:3]

        start = time.perf_counter()
        again = build_hub(root, hub, workers=options.workers, progress=False)
        seconds["build again, nothing changed"] = time.perf_counter() - start
        assert again.unchanged == scans

    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    result = {
        "machine": machine(),
        "scans": scans,
        "files": len(paths),
        "voxels_mb": round(size / 1e6, 1),
        "configurations": len(report.configurations),
        "workers": options.workers,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio_to_reading": round(seconds["build"] / seconds["bare reading"], 2),
        "peak_memory_of_a_process_mb": round(peak / 1024),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
