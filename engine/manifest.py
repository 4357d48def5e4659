"""What a run was: written when it starts, completed when it ends, kept beside its result."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from covidseg.core.files import atomic_file

FILE_NAME = "manifest.json"
_PACKAGES = (
    "accelerate",
    "covidseg",
    "datasets",
    "dynamic-network-architectures",
    "nibabel",
    "numpy",
    "safetensors",
    "scipy",
    "segmentation-models-pytorch",
    "SimpleITK",
    "timm",
    "torch",
    "torchio",
    "torchvision",
)


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_version() -> dict[str, Any]:
    """Version of this package, and its git commit where it runs from a checkout."""
    root = Path(__file__).resolve().parents[1]
    found: dict[str, Any] = {"version": package_versions().get("covidseg")}
    if (root / ".git").exists():
        git = ["git", "--no-optional-locks", "-C", str(root)]
        try:
            sha = subprocess.run(
                [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
            )
            changed = subprocess.run(
                [*git, "status", "--porcelain", "--untracked-files=no"],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return found
        found |= {"git_sha": sha.stdout.strip(), "git_changed": bool(changed.stdout.strip())}
    return found


def device_name(device: torch.device) -> str:
    """The training device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(
    *,
    config: Mapping[str, Any],
    config_sha256: str,
    data: Mapping[str, Mapping[str, Any]],
    seed: int,
    start: str | None = None,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """The manifest of a run that starts now.

    ``data`` is, by name of the stream, what each data set says of itself in its ``provenance``: its
    own hash, its split's hash, and whether its cases are phantoms. ``start`` is the run whose
    weights it starts from.
    """
    phantom = [part["phantom"] for part in data.values() if "phantom" in part]
    return {
        "status": "running",
        "started": now(),
        "finished": None,
        "command": sys.argv,
        "code": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "device": device_name(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "start": start and started_from(Path(start)),
        # Any phantom makes the result one on phantoms; unknown stays unknown.
        "phantom": any(phantom) if phantom else None,
        "data": {name: dict(part) for name, part in data.items()},
        "config_sha256": config_sha256,
        "config": dict(config),
        "resumed": [],
        "result": None,
    }


def started_from(run: Path) -> dict[str, Any]:
    """What is known of a run whose weights another starts from."""
    known = read(run) or {}
    names = ("finished", "phantom", "config_sha256")
    own = {name: known.get(name) for name in names}
    # Kept here, since nothing else of that run is needed any more, and it may be gone one day.
    return {"run": str(run), **own, "learnt": learnt_by(run)}


def learnt_by(run: Path) -> list[dict[str, Any]]:
    """What a run learnt from, and before it those whose weights it started from.

    One entry a run: its ``data``, each with ``configuration`` and ``part``, null where the run does
    not say, and whether they are ``phantoms`` that its recipe draws.
    """
    known = read(run)
    if known is None:
        return [{"run": str(run), "data": None, "phantoms": False}]
    data = [
        {name: part[name] for name in ("configuration", "part") if name in part}
        for part in known.get("data", {}).values()
    ]
    own = {"run": str(run), "data": data, "phantoms": "phantoms" in known.get("config", {})}
    before = known.get("start")
    if not before:
        return [own]
    return [own, *(before.get("learnt") or learnt_by(Path(before["run"])))]


def write(run_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write a run's manifest, whole or not at all."""
    with atomic_file(run_dir / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read(run_dir: Path) -> dict[str, Any] | None:
    """A run's manifest; ``None`` where there is none that can be read."""
    try:
        return json.loads((run_dir / FILE_NAME).read_text())
    except (OSError, ValueError):
        return None


def is_complete(run_dir: Path) -> bool:
    """Whether the folder holds a run that was trained to its end."""
    manifest = read(run_dir)
    return manifest is not None and manifest["status"] == "complete"
