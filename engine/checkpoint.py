"""Checkpoints that are whole or absent, and that load without executing code.

Under a run's folder::

    checkpoints/
      step-00000250/
        checkpoint.json        step, configuration, which file predicts
        model.safetensors      one a network of the method; model_ema.safetensors where there is one
        training.pt            optimiser, random states of every process, the method's own state
      last -> step-00000250    for people; the code takes the highest step

A checkpoint is written into a temporary folder, flushed to disk and renamed; only then is the one
before removed. At any moment, also after a power cut, the highest ``step-*`` is a whole one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.core.files import atomic_folder
from covidseg.engine.config import differences, fingerprint

FORMAT = 1
_FOLDER = "checkpoints"
_DESCRIPTION = "checkpoint.json"
_TRAINING = "training.pt"


def save_checkpoint(
    run_dir: Path,
    step: int,
    networks: Mapping[str, nn.Module],
    training: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    predictor: str,
) -> Path:
    """Write the checkpoint after ``step`` optimiser steps and remove the ones before.

    Raises
    ------
    StorageError
        The disk is full or cannot be written to; earlier checkpoints are untouched.
    """
    folder = run_dir / _FOLDER
    final = folder / f"step-{step:08d}"
    description = {
        "format": FORMAT,
        "step": step,
        "predictor": predictor,
        "config_sha256": fingerprint(config),
        "config": config,
    }
    if not final.exists():
        with atomic_folder(final) as temporary:
            for name, network in networks.items():
                # Serialised in memory first: the libraries' own writers report a full disk each in
                # a way of its own, and would leave the pages to be flushed later.
                _write(temporary / f"{name}.safetensors", _as_safetensors(network))
            _write(temporary / _TRAINING, _as_torch(training))
            _write(temporary / _DESCRIPTION, json.dumps(description, indent=2).encode())
            _flush_folder(temporary)
    _flush_folder(folder)
    _point_last(folder, final.name)
    for other in _steps(run_dir):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    return final


def _as_safetensors(network: nn.Module) -> bytes:
    # Copies on the CPU: the format wants every tensor contiguous and none to share memory.
    return safetensors.torch.save(
        {name: value.cpu().contiguous().clone() for name, value in named_weights(network).items()}
    )


def _as_torch(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # Makes a rename survive a power cut; not every system can open a folder.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _point_last(folder: Path, name: str) -> None:
    # Some file systems have no links, and nothing depends on this one.
    with contextlib.suppress(OSError):
        link = folder / f".part-last-{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(name, target_is_directory=True)
        os.replace(link, folder / "last")


def _steps(run_dir: Path) -> list[Path]:
    return sorted(p for p in (run_dir / _FOLDER).glob("step-*") if p.is_dir())


def remove_unfinished(run_dir: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in (run_dir / _FOLDER).glob(".part-*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def last_checkpoint(run_or_checkpoint: str | Path) -> Path | None:
    """The newest whole checkpoint of a run's folder, or the folder itself if it is a checkpoint."""
    path = Path(run_or_checkpoint)
    if (path / _DESCRIPTION).is_file():
        return path
    steps = _steps(path)
    return steps[-1] if steps else None


def read_description(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's step, configuration and name of the network that predicts.

    Raises
    ------
    UnreadableFileError
        Not a checkpoint, or of a newer format.
    """
    path = checkpoint / _DESCRIPTION
    try:
        found = json.loads(path.read_text())
        version = found["format"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise UnreadableFileError("is not a checkpoint's description", path=path) from fault
    if version > FORMAT:
        raise UnreadableFileError(
            f"is of format {version}",
            path=path,
            expected=f"{FORMAT} at most",
            remedy="use the version of covidseg that wrote it, or a newer one",
        )
    return found


def read_training_state(checkpoint: Path) -> dict[str, Any]:
    """Optimiser, random states and the method's state, read without executing code."""
    path = checkpoint / _TRAINING
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise UnreadableFileError(
            f"cannot be read ({type(fault).__name__}: {str(fault).splitlines()[0][:200]})",
            path=path,
        ) from fault


def named_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's parameters and saved buffers, each once, under the first name it has.

    Some networks know one tensor by several names (a decoder that holds its encoder), which a state
    dict repeats.
    """
    saved = set(network.state_dict())
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: value.detach() for name, value in tensors.items() if name in saved}


def load_network(network: nn.Module, path: Path) -> None:
    """Copy weights from a checkpoint's ``.safetensors`` file into a network of the same kind.

    Raises
    ------
    UnreadableFileError
        Absent or damaged.
    ConfigError
        It is another network's; the message names what differs.
    """
    try:
        weights = safetensors.torch.load_file(path)
    except Exception as fault:
        raise UnreadableFileError(
            f"cannot be read as weights ({str(fault).splitlines()[0][:200]})", path=path
        ) from fault
    own = named_weights(network)
    faults = [f"{name} is not in the file" for name in own if name not in weights]
    faults += [f"{name} is not in the network" for name in weights if name not in own]
    faults += [
        f"{name} has shape {list(weights[name].shape)}, the network's has {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(
            f"holds the weights of another network: {'; '.join(faults[:3])}{more}",
            path=path,
            remedy="build the network from the configuration that the checkpoint was trained with "
            "(config.yaml in its run's folder)",
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])


def load_predictor(network: nn.Module, run_or_checkpoint: str | Path) -> Path:
    """Load the weights that a run predicts with (its average's where it has one); return the file.

    Raises
    ------
    UnreadableFileError
        There is no checkpoint, or it is damaged.
    ConfigError
        It is another network's.
    """
    checkpoint = last_checkpoint(run_or_checkpoint)
    if checkpoint is None:
        raise UnreadableFileError(
            "holds no checkpoint", path=run_or_checkpoint, expected="checkpoints/step-*"
        )
    path = checkpoint / f"{read_description(checkpoint)['predictor']}.safetensors"
    load_network(network, path)
    return path


def filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration with what it lacks taken from another."""
    result = dict(config)
    for name, default in defaults.items():
        if name not in result:
            result[name] = default
        elif isinstance(default, Mapping) and isinstance(result[name], Mapping):
            result[name] = filled(result[name], default)
    return result


def refuse_other_config(
    checkpoint: Path,
    config: Mapping[str, Any],
    *,
    free: frozenset[str] = frozenset(),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Raise ConfigError where a checkpoint was trained with another configuration.

    ``free`` are dotted names that may differ, because they do not change what is computed;
    ``defaults`` the configuration with nothing set. A value that recipes did not have when the
    checkpoint was written had its default's effect then.
    """
    before = filled(read_description(checkpoint)["config"], defaults or {})
    found = differences(before, config)
    found = [line for line in found if line.split(":", 1)[0] not in free]
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ConfigError(
            f"was trained with another configuration: {'; '.join(found[:5])}{more}",
            path=checkpoint,
            remedy="resume with the same recipe and options, or start anew in another folder",
        )
