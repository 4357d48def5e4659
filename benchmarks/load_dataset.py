"""How soon the first row of a configuration is there, cold and warm, and what a row costs.

Cold: a cache of `datasets` that is empty; warm: the same process again, in a new interpreter.
Every configuration of a repository at real case counts is loaded, some of them in fresh
interpreters, where importing `datasets` counts too.

    python benchmarks/load_dataset.py --json load_dataset.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from raw_cases import draw, machine

from covidseg.registry.hub import build_hub

FRESH = (
    ("task1-infection-fold0", "train"),
    ("task2-nsclc-lung", "train"),
    ("task3-nsclc-lung-fold4", "test"),
    ("covid1920", "validation"),
    ("nsclc", "labelled"),
)

_FIRST_ROW = """
import time; start = time.perf_counter()
import json, sys
from datasets import load_dataset, disable_progress_bars
disable_progress_bars()
imported = time.perf_counter()
rows = load_dataset(sys.argv[1], sys.argv[2], split=sys.argv[3], streaming=sys.argv[4] == "stream")
next(iter(rows))["image"].get_fdata()
print(json.dumps({"import": imported - start, "first row": time.perf_counter() - start}))
"""

_EVERY = """
import json, resource, sys, time
from datasets import Nifti, load_dataset, disable_progress_bars
disable_progress_bars()
hub, names = sys.argv[1], json.loads(sys.argv[2])
found = {}
for name, part in names.items():
    start = time.perf_counter()
    load_dataset(hub, name, split=part)[0]["image"].get_fdata()
    found[name] = time.perf_counter() - start
rows = load_dataset(hub, "task2-nsclc-lung", split="train")
paths = rows.cast_column("image", Nifti(decode=False)).cast_column("label", Nifti(decode=False))
start = time.perf_counter()
for row in paths: pass
undecoded = (time.perf_counter() - start) / len(rows)
start = time.perf_counter()
for row in rows: row["image"].get_fdata(); row["label"].get_fdata()
decoded = (time.perf_counter() - start) / len(rows)
print(json.dumps({"seconds": found, "ms_a_row": 1e3 * undecoded, "ms_a_decoded_row": 1e3 * decoded,
                  "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def python(code: str, cache: Path, *arguments: str) -> dict:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(16, 16, 8), help="voxels a scan")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, hub = Path(folder, "raw"), Path(folder, "hub")
        scans = draw(root, tuple(options.shape))
        report = build_hub(root, hub, workers=2, progress=False)
        fresh = {}
        for name, part in FRESH:
            cache = Path(folder, f"cache-{name}")
            cold = python(_FIRST_ROW, cache, str(hub), name, part, "no")
            warm = python(_FIRST_ROW, cache, str(hub), name, part, "no")
            stream = python(_FIRST_ROW, cache, str(hub), name, part, "stream")
            fresh[name] = {
                "cold": round(cold["first row"], 2),
                "warm": round(warm["first row"], 2),
                "streaming": round(stream["first row"], 2),
                "of which import": round(warm["import"], 2),
            }
        names = {name: next(iter(parts)) for name, parts in report.configurations.items()}
        cache = Path(folder, "cache-every")
        cold = python(_EVERY, cache, str(hub), json.dumps(names))
        warm = python(_EVERY, cache, str(hub), json.dumps(names))
        cached = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    imported = max(numbers["of which import"] for numbers in fresh.values())
    result = {
        "machine": machine(),
        "scans": scans,
        "configurations": len(names),
        "first_row_in_a_fresh_process_s": fresh,
        "slowest_of_all_configurations_with_import_s": {
            "cold": round(max(cold["seconds"].values()) + imported, 2),
            "warm": round(max(warm["seconds"].values()) + imported, 2),
        },
        "ms_a_row": round(warm["ms_a_row"], 3),
        "ms_a_decoded_row": round(warm["ms_a_decoded_row"], 3),
        "memory_mb": round(warm["memory_mb"]),
        "cache_mb_of_all_configurations": round(cached / 1e6, 1),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
