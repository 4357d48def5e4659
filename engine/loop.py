"""The one training loop. It knows steps, processes, checkpoints and logs, and no method."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from covidseg.core.errors import ConfigError, CovidsegError, StorageError, TrainingError
from covidseg.core.files import atomic_file, storage_error
from covidseg.core.lock import alone_in
from covidseg.engine import manifest as manifests
from covidseg.engine.checkpoint import (
    last_checkpoint,
    load_network,
    read_training_state,
    refuse_other_config,
    remove_unfinished,
    save_checkpoint,
)
from covidseg.engine.config import Recipe, as_mapping, fingerprint, free_keys
from covidseg.engine.distributed import process_count, start_processes, synchronise_batch_norm
from covidseg.engine.ema import Ema
from covidseg.engine.method import Method, Progress
from covidseg.engine.monitor import Monitor
from covidseg.engine.optim import build_optimizer, learning_rate, set_learning_rate
from covidseg.engine.recipes import load_recipe, write_recipe
from covidseg.engine.seeds import random_states, restore_random_states, seed_everything
from covidseg.engine.stream import Share, Stream, micro_batches, to_device
from covidseg.engine.validation import Scores
from covidseg.networks.build import evaluation_mode

if TYPE_CHECKING:
    from accelerate import Accelerator

Validation = Callable[[nn.Module, Any], Scores]


@dataclass(frozen=True)
class Result:
    """A finished run."""

    run_dir: Path
    checkpoint: Path
    steps: int


def train(
    method: Method,
    data: Stream | Mapping[str, Stream],
    recipe: Recipe,
    run_dir: str | Path,
    *,
    accelerator: Accelerator | None = None,
    validation: Validation | None = None,
    resume: bool = False,
) -> Result:
    """Train ``method`` and leave a run's folder behind. Call it on every process.

    Parameters
    ----------
    method
        What is trained and how a step's losses come about.
    data
        One stream, or several by name; the method's ``step`` then gets a dict of batches.
    recipe
        All settings; ``recipe.train``, ``recipe.optim`` and ``recipe.seed`` are the loop's.
    run_dir
        Gets ``config.yaml``, ``manifest.json``, ``log.csv``, ``validation.csv``, ``tensorboard/``
        and ``checkpoints/``.
    accelerator
        As :func:`covidseg.engine.distributed.start_processes` returns it; made if ``None``.
    validation
        Scores a network every ``recipe.train.validate_every`` epochs on data of the training side,
        for the log alone: no checkpoint is chosen by it, the last one counts.
    resume
        Go on from the last checkpoint, as if nothing had happened; from the start if there is none.

    Raises
    ------
    ConfigError
        The folder holds a run and ``resume`` is false, the checkpoint is of another configuration
        or network, the batch cannot be dealt out, processes are missing.
    TrainingError
        The loss or a gradient is not finite; the last checkpoint is from before.
    StorageError
        The disk is full; the last checkpoint is intact.
    """
    run_dir = Path(run_dir)
    recipe.train.check()
    recipe.optim.check()
    accelerator = accelerator or start_processes(
        recipe.train.mixed_precision, recipe.train.processes
    )
    _check_precision(accelerator, recipe)
    refuse_begun(run_dir, resume)
    streams = {"": data} if isinstance(data, Stream) else dict(data)
    run = _Run(method, streams, recipe, run_dir, accelerator, validation)
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(alone_in(run_dir, "trained"))
            _prepare_folder(run_dir, recipe)
        accelerator.wait_for_everyone()
        return run.train(resume)


def _check_precision(accelerator: Accelerator, recipe: Recipe) -> None:
    if accelerator.mixed_precision != recipe.train.mixed_precision:
        raise ConfigError(
            f"train.mixed_precision is {recipe.train.mixed_precision}, the processes were started "
            f"with {accelerator.mixed_precision}"
        )


def refuse_begun(run_dir: Path, resume: bool) -> None:
    """Raise ConfigError where the folder holds a run and ``resume`` is false."""
    if not resume and ((run_dir / manifests.FILE_NAME).exists() or last_checkpoint(run_dir)):
        raise ConfigError(
            "holds a run already",
            path=run_dir,
            remedy="add --resume to go on with it, or choose another folder",
        )


def refuse_other_run(
    run_dir: Path, recipe: Recipe, provenance: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ConfigError where a run that has a checkpoint is not what would go on in its folder.

    ``provenance`` is what the manifest would say of the data, by stream; what it leaves out may be
    anything.
    """
    checkpoint = last_checkpoint(run_dir)
    if checkpoint is None:
        return
    refuse_other_config(
        checkpoint,
        as_mapping(recipe),
        free=frozenset(free_keys(recipe)),
        defaults=as_mapping(type(recipe)(name=recipe.name)),
    )
    began = (manifests.read(run_dir) or {}).get("data", {})
    for name, now in provenance.items():
        before = began.get(name, {})
        if "sha256" in now and now["sha256"] != before.get("sha256", now["sha256"]):
            raise ConfigError(
                f"began to learn from other data ({name}: "
                f"{len(before.get('cases', ()))} cases of {before.get('configuration')}"
                f"{', phantoms' if before.get('phantom') else ''}; now "
                f"{len(now.get('cases', ()))} of {now.get('configuration')}"
                f"{', phantoms' if now.get('phantom') else ''})",
                path=run_dir,
                remedy="resume with the dataset repository that it began with, or start anew "
                "in another folder",
            )
        pools = [_pool(one) for one in (before, now)]
        if all(pools) and pools[0].get("sha256") != pools[1].get("sha256"):
            raise ConfigError(
                "began to learn with another unlabelled pool "
                f"({pools[0].get('taken')} scans; now {pools[1].get('taken')})",
                path=run_dir,
                remedy="call it with the pool that it began with, or start anew in another folder",
            )
        teachers = [one.get("pseudo_labels", {}).get("key") for one in (before, now)]
        if all(teachers) and teachers[0] != teachers[1]:
            raise ConfigError(
                "began to learn from pseudo-labels of other teachers",
                path=run_dir,
                remedy="call it with the teachers (and folds) that it began with, or start "
                "anew in another folder",
            )


def refuse_resuming(
    run_dir: Path, recipe: Recipe, provenance: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ConfigError where `train` would refuse to go on with the folder's run, if it has begun:
    see `refuse_other_run`; or its first weights were others.
    """
    if last_checkpoint(run_dir) is not None:
        refuse_other_run(run_dir, recipe, provenance)
        _refuse_other_start(run_dir, recipe.train.start)


def _refuse_other_start(run_dir: Path, start: str | None) -> None:
    """Raise ConfigError where a run would go on from other first weights than it had."""
    known = manifests.read(run_dir)
    if known is None:
        return
    before = known.get("start")
    now = None if start is None else manifests.started_from(Path(start))
    if not _same_start(before, now):
        raise ConfigError(
            f"began from {_weights_of(before)}, and train.start now names {_weights_of(now)}",
            path=run_dir,
            remedy="call it with the train.start that it began with, or start anew in another "
            "folder",
        )


def _same_start(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    if not before or not now:
        return not before and not now
    if before["config_sha256"] is None or now["config_sha256"] is None:
        # What was there may be gone by now.
        return Path(before["run"]).resolve() == Path(now["run"]).resolve()
    # The same run may lie elsewhere by now.
    return all(before[key] == now[key] for key in ("config_sha256", "finished"))


def _weights_of(start: Mapping[str, Any] | None) -> str:
    if not start:
        return "random weights"
    return f"the weights of {start['run']} ({start['finished'] or 'not known when finished'})"


def _keep_window(run_dir: Path, recipe: Recipe) -> None:
    """Let the run predict as the recipe says now, which may differ from what it said before."""
    window, path = getattr(recipe, "window", None), run_dir / "config.yaml"
    if window is None:
        return
    before: Any = load_recipe(path, schema=type(recipe))
    if before.window != window:
        with atomic_file(path) as temporary:
            write_recipe(dataclasses.replace(before, window=window), temporary)


def _pool(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is said of the unlabelled scans that are learnt from, or were labelled to be."""
    return provenance.get("pool") or provenance.get("pseudo_labels", {}).get("pool") or {}


@contextlib.contextmanager
def _told_if_it_cannot_compile(compiles: bool) -> Iterator[None]:
    if not compiles:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as fault:
        why = " ".join(str(fault).split("\n\n")[0].split())
        raise TrainingError(
            f"torch.compile cannot compile the network here ({why})",
            remedy="it needs a C compiler, and Triton on a GPU; or set train.compile to false",
        ) from fault


@contextlib.contextmanager
def _told_if_a_batch_is_too_small() -> Iterator[None]:
    """Normalisation needs several values of each channel; some networks pool a patch to one."""
    try:
        yield
    except ValueError as fault:
        if not str(fault).startswith("Expected more than 1"):
            raise
        raise ConfigError(
            f"the network cannot learn from a batch so small ({fault})",
            remedy="raise patch.batch_size (and unlabelled.batch_size where there is one), so that "
            "each process and micro-batch gets two patches at least, or choose another network",
        ) from fault


def _prepare_folder(run_dir: Path, recipe: Recipe) -> None:
    remove_unfinished(run_dir)
    if last_checkpoint(run_dir) is None:
        with atomic_file(run_dir / "config.yaml") as temporary:
            write_recipe(recipe, temporary)


class _Step(nn.Module):
    """The method's step as a module's forward pass.

    So distributed training sees one forward and one backward pass a step, however often a method
    calls its networks, and mixed precision covers the losses too.
    """

    def __init__(self, method: Method, trained: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trained = nn.ModuleDict(trained)
        self._method = [method]  # in a list, so that nothing of it is registered here

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return self._method[0].step(batch)


@dataclass
class _Pending:
    """A step whose numbers are still on the device."""

    step: int
    names: tuple[str, ...]
    values: torch.Tensor
    case_ids: list[str]


@dataclass
class _Interval:
    """Sums since the last line of the log."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0

    def means(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}


class _Run:
    def __init__(
        self,
        method: Method,
        streams: Mapping[str, Stream],
        recipe: Recipe,
        run_dir: Path,
        accelerator: Accelerator,
        validation: Validation | None,
    ) -> None:
        self.method, self.streams, self.recipe = method, streams, recipe
        self.run_dir, self.accelerator, self.validation = run_dir, accelerator, validation
        self.settings, self.config = recipe.train, as_mapping(recipe)
        self.share = Share(
            accelerator.process_index, accelerator.num_processes, self.settings.accumulate
        )
        for stream in streams.values():
            self.share.micro_batch_size(stream.batch_size)
        self.pending: list[_Pending] = []
        self.interval = _Interval()
        self.start = 0
        self.manifest: dict[str, Any] = {}

    # -- before the first step ---------------------------------------------------------------

    def _set_up(self) -> None:
        device = self.accelerator.device
        networks = self.method.modules()
        if self.method.predictor not in networks:
            raise ConfigError(
                f"the method predicts with {self.method.predictor!r}, which it does not have"
            )
        if self.settings.compile and not self.method.compiles:
            raise ConfigError(
                f"train.compile is true, and {type(self.method).__name__} changes what its network "
                "does from step to step",
                remedy="set train.compile to false",
            )
        for network in networks.values():
            network.to(device)
            _broadcast(network)
        trained = {
            name: network
            for name, network in networks.items()
            if any(p.requires_grad for p in network.parameters())
        }
        for network in trained.values():
            network.train()
            synchronise_batch_norm(network)
            if self.settings.compile:
                # In place: a wrapper would put `_orig_mod.` before every name in the state.
                network.compile()
        optimizer = build_optimizer(self.recipe.optim, self.method.parameter_groups())
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.step_module, self.optimizer = self.accelerator.prepare(
            _Step(self.method, trained), optimizer
        )
        self.ema = None
        self.saved = dict(networks)
        self.predictor = self.method.predictor
        if self.settings.ema is not None:
            self.ema = Ema(networks[self.predictor], self.settings.ema)
            self.predictor += "_ema"
            self.saved[self.predictor] = self.ema.network
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # patches have one size

    def _restore(self) -> None:
        """Take the last checkpoint's state, if there is one."""
        seed_everything(self.recipe.seed, self.accelerator.process_index)
        checkpoint = last_checkpoint(self.run_dir)
        if checkpoint is None:
            self.method.on_train_start(self.accelerator)
            return
        refuse_resuming(self.run_dir, self.recipe, self._provenance())
        if self.accelerator.is_main_process:
            _keep_window(self.run_dir, self.recipe)
        for name, network in self.saved.items():
            load_network(network, checkpoint / f"{name}.safetensors")
        state = read_training_state(checkpoint)
        self.start = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.updates = state["ema_updates"]
        self.method.load_state_dict(state["method"])
        self.interval = _Interval(**state["interval"])
        self.method.on_train_start(self.accelerator)
        if len(state["random"]) == self.accelerator.num_processes:
            restore_random_states(state["random"][self.accelerator.process_index])
        elif self.accelerator.is_main_process:
            tqdm.write(
                f"The run was made by {len(state['random'])} processes and goes on with "
                f"{self.accelerator.num_processes}: the same batches, other random numbers."
            )

    def _provenance(self) -> dict[str, Mapping[str, Any]]:
        return {
            name or "train": getattr(stream.dataset, "provenance", {})
            for name, stream in self.streams.items()
        }

    # -- the loop ----------------------------------------------------------------------------

    def train(self, resume: bool) -> Result:
        self._set_up()
        self._restore()
        steps = self.settings.steps
        main = self.accelerator.is_main_process
        if self.start == steps and manifests.is_complete(self.run_dir):
            checkpoint = last_checkpoint(self.run_dir)
            assert checkpoint is not None
            self.accelerator.free_memory()
            return Result(self.run_dir, checkpoint, steps)
        if main:
            self._begin_manifest()
        monitor = None
        try:
            monitor = Monitor(self.run_dir, active=main, start=self.start, steps=steps)
            self._steps(monitor, steps)
        except BaseException as fault:
            if main:
                stopped = isinstance(fault, KeyboardInterrupt)
                self._end_manifest("interrupted" if stopped else "failed", fault)
            raise
        finally:
            if monitor is not None:
                monitor.close()
            self.accelerator.free_memory()
        checkpoint = last_checkpoint(self.run_dir)
        assert checkpoint is not None
        if main:
            self._end_manifest("complete", None, checkpoint)
        self.accelerator.wait_for_everyone()
        return Result(self.run_dir, checkpoint, steps)

    def _steps(self, monitor: Monitor, steps: int) -> None:
        settings = self.settings
        batches = micro_batches(
            self.streams,
            self.share,
            seed=self.recipe.seed,
            start=self.start,
            steps=steps,
            workers=settings.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        # Looking at a number on a GPU makes the processor wait for it; on a CPU it costs nothing.
        look_every = settings.log_every if self.accelerator.device.type == "cuda" else 1
        began = time.perf_counter()
        for step in range(self.start, steps):
            progress = Progress(step, steps, settings.steps_per_epoch)
            rate = learning_rate(self.recipe.optim, step, steps)
            self._step(batches, progress, rate)
            done = step + 1
            monitor.advance()
            logs = done % settings.log_every == 0 or done == steps
            ends_epoch = done % settings.steps_per_epoch == 0
            saves = done % settings.checkpoint_every == 0 or done == steps
            if done % look_every == 0 or logs or saves:
                self._look()
            now = time.perf_counter()
            self.interval.seconds += now - began
            began = now
            if logs:
                self._log(monitor, progress, rate)
            every = settings.validate_every
            if self.validation and ends_epoch and every:
                epoch = progress.epoch + 1
                if epoch % every == 0 or done == steps:
                    self._validate(monitor, progress)
            if saves:
                self._save(done)
            if logs or saves or ends_epoch:
                # Validation and saving are no part of the time a step takes.
                began = time.perf_counter()

    def _step(self, batches: Iterator, progress: Progress, rate: float) -> None:
        set_learning_rate(self.optimizer, rate)
        self.method.on_step_start(progress)
        micros = self.settings.accumulate
        losses: list[dict[str, torch.Tensor]] = []
        case_ids: list[str] = []
        for micro in range(micros):
            asked = time.perf_counter()
            received = next(batches)
            self.interval.waited += time.perf_counter() - asked
            for part in received.values():
                case_ids += [str(case) for case in part.get("case_id", ())]
            batch = self._on_device(received)
            last = micro == micros - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.step_module):
                with (
                    _told_if_it_cannot_compile(self.settings.compile),
                    _told_if_a_batch_is_too_small(),
                ):
                    found = self.step_module(batch)
                if "loss" not in found:
                    raise TypeError(f"{type(self.method).__name__}.step returned no 'loss'")
                self.accelerator.backward(found["loss"] / micros)
            losses.append({name: value.detach() for name, value in found.items()})
        self.accelerator.unscale_gradients(self.optimizer)
        # Without a limit too: that it is finite is looked at before weights are saved.
        limit = math.inf if self.settings.clip_norm is None else self.settings.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.method.modules()[self.method.predictor])
        self.method.on_step_end(progress)
        self._note(progress.step, losses, norm, case_ids)

    def _on_device(self, received: Mapping[str, Any]) -> Any:
        ready = {}
        for name, part in received.items():
            batch = to_device(part, self.accelerator.device)
            augment = self.streams[name].augment
            if augment is not None:
                with torch.no_grad():
                    batch = augment(batch)
            ready[name] = batch
        return ready.get("", ready)

    # -- numbers -----------------------------------------------------------------------------

    def _note(self, step: int, losses: list, norm: torch.Tensor, case_ids: list) -> None:
        names = (*losses[0], "gradient_norm")
        values = torch.stack(
            [
                torch.stack([micro[name].float().reshape(()) for micro in losses]).mean()
                if len(losses) > 1
                else losses[0][name].float().reshape(())
                for name in losses[0]
            ]
            + [norm.float()]
        )
        self.pending.append(_Pending(step, names, values, case_ids))

    def _look(self) -> None:
        """Bring the pending numbers to the host, averaged over processes; stop if one is no number.

        A number that is not finite on one process makes the average so on all, so that all stop.
        """
        pending, self.pending = self.pending, []
        while pending:
            names = pending[0].names
            group = [p for p in pending if p.names == names]
            pending = [p for p in pending if p.names != names]
            rows = torch.stack([p.values for p in group])
            if self.accelerator.num_processes > 1:
                rows = self.accelerator.reduce(rows, "mean")
            for one, row in zip(group, rows.tolist(), strict=True):
                values = dict(zip(names, row, strict=True))
                self._refuse_not_finite(one, values)
                self.interval.steps += 1
                for name, value in values.items():
                    self.interval.sums[name] = self.interval.sums.get(name, 0.0) + value
                    self.interval.counts[name] = self.interval.counts.get(name, 0) + 1

    def _refuse_not_finite(self, one: _Pending, values: Mapping[str, float]) -> None:
        what = None
        if not math.isfinite(values["loss"]):
            parts = [n for n, v in values.items() if n != "loss" and not math.isfinite(v)]
            parts = [n for n in parts if n != "gradient_norm"]
            what = "loss" + (f" ({', '.join(parts)})" if parts else "")
        elif (
            # With half precision gradients may overflow now and then; such a step is left out.
            self.accelerator.scaler is None and not math.isfinite(values["gradient_norm"])
        ):
            what = "gradient"
        if what is None:
            return
        cases = one.case_ids
        if process_count() > 1:
            everyone: list[Any] = [None] * process_count()
            dist.all_gather_object(everyone, cases)
            cases = [case for part in everyone for case in part]
        checkpoint = last_checkpoint(self.run_dir)
        raise TrainingError(
            f"the {what} of step {one.step + 1} is not finite; cases in its batch: "
            + (", ".join(cases) or "not named by the data set"),
            path=self.run_dir,
            remedy="look at those cases' images and labels, or lower optim.lr; "
            + (
                f"the last good state is {checkpoint.name}, and --resume goes on from it"
                if checkpoint
                else "there was no checkpoint yet"
            ),
        )

    def _log(self, monitor: Monitor, progress: Progress, rate: float) -> None:
        interval, self.interval = self.interval, _Interval()
        means = interval.means()
        norm = means.pop("gradient_norm")
        values = {f"loss/{name}": value for name, value in means.items()}
        values["optim/lr"] = rate
        values["optim/gradient_norm"] = norm
        values["time/seconds_per_step"] = interval.seconds / max(1, interval.steps)
        values["time/data_share"] = interval.waited / max(1e-9, interval.seconds)
        monitor.training(progress.step + 1, progress.epoch + 1, values)

    def _validate(self, monitor: Monitor, progress: Progress) -> None:
        assert self.validation is not None
        network = self.saved[self.predictor]
        before = random_states()
        with evaluation_mode(network), torch.no_grad():
            scores = self.validation(network, self.accelerator)
        # What follows must not depend on whether there was a validation.
        restore_random_states(before)
        monitor.validation(progress.step + 1, progress.epoch + 1, scores.values, scores.overlay)

    # -- files -------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        states: list[Any] = [random_states()]
        if process_count() > 1:
            states = [None] * process_count()
            dist.all_gather_object(states, random_states())
        fault: CovidsegError | None = None
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            training = {
                "step": step,
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "ema_updates": 0 if self.ema is None else self.ema.updates,
                "method": self.method.state_dict(),
                "interval": vars(self.interval),
                "random": states,
            }
            try:
                save_checkpoint(
                    self.run_dir,
                    step,
                    self.saved,
                    training,
                    config=self.config,
                    predictor=self.predictor,
                )
            except (CovidsegError, OSError) as found:
                fault = (
                    found
                    if isinstance(found, CovidsegError)
                    else storage_error(found, self.run_dir)
                )
        # The other processes would wait for ever for one that failed alone.
        told: list[Any] = [fault]
        if process_count() > 1:
            dist.broadcast_object_list(told, src=0)
        if told[0] is not None:
            raise told[0]

    def _begin_manifest(self) -> None:
        earlier = manifests.read(self.run_dir)
        if self.start and earlier:
            entry = {
                "time": manifests.now(),
                "step": self.start,
                "processes": self.accelerator.num_processes,
                "code": manifests.code_version(),
            }
            self.manifest = {
                **earlier,
                "status": "running",
                "finished": None,
                "resumed": [*earlier["resumed"], entry],
            }
        else:
            self.manifest = manifests.begin(
                config=self.config,
                config_sha256=fingerprint(self.config),
                data=self._provenance(),
                seed=self.recipe.seed,
                start=self.settings.start,
                device=self.accelerator.device,
                processes=self.accelerator.num_processes,
            )
        manifests.write(self.run_dir, self.manifest)

    def _end_manifest(
        self, status: str, fault: BaseException | None, checkpoint: Path | None = None
    ) -> None:
        self.manifest |= {"status": status, "finished": manifests.now()}
        if fault is not None:
            self.manifest["error"] = str(fault) or type(fault).__name__
        if checkpoint is not None:
            self.manifest.pop("error", None)
            self.manifest["result"] = {
                "checkpoint": str(checkpoint.relative_to(self.run_dir)),
                "steps": self.settings.steps,
            }
        # A full disk that stopped the run is not to hide the first error by a second.
        with contextlib.suppress(StorageError) if fault is not None else contextlib.nullcontext():
            manifests.write(self.run_dir, self.manifest)


def _broadcast(network: nn.Module) -> None:
    """Give every process the first one's weights, also of networks that are not trained."""
    if process_count() == 1:
        return
    for tensor in (*network.parameters(), *network.buffers()):
        dist.broadcast(tensor.detach(), src=0)
