"""The loop: what it leaves in a run's folder, and what it does when something goes wrong."""

import builtins
import csv
import errno
import json
import shutil
import threading
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import tiny_run
import torch
from torch import nn

from covidseg.core.errors import ConfigError, StorageError, TrainingError, UnreadableFileError
from covidseg.engine.checkpoint import last_checkpoint, load_predictor, named_weights
from covidseg.engine.config import OptimConfig
from covidseg.engine.distributed import start_processes
from covidseg.engine.ema import Ema
from covidseg.engine.loop import train
from covidseg.engine.losses import LossConfig, build_loss
from covidseg.engine.method import Method, Supervised
from covidseg.engine.recipes import load_recipe
from covidseg.engine.seeds import seed_everything
from covidseg.engine.stream import Stream
from covidseg.engine.validation import DiceValidation

RECIPE = tiny_run.RECIPE


def with_train(**changes):
    return replace(RECIPE, train=replace(RECIPE.train, **changes))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def losses(run_dir):
    return [row["loss"] for row in rows(run_dir / "log.csv")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with validation that went well."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    recipe = with_train(validate_every=1)
    validation = DiceValidation(tiny_run.Finite(3), ["square"], batch_size=2)
    method, result = tiny_run.run(run_dir, recipe=recipe, validation=validation)
    return method, result


def test_two_processes_cannot_train_the_same_run(tmp_path):
    from filelock import FileLock

    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with FileLock(run_dir / ".lock"):
        with pytest.raises(ConfigError, match="is being trained by another process"):
            tiny_run.run(run_dir)
        assert {path.name for path in run_dir.iterdir()} == {".lock"}
    tiny_run.run(run_dir)


def test_a_value_that_recipes_got_since_does_not_stop_a_run(finished, tmp_path):
    _, result = finished
    old = tmp_path / "old"
    shutil.copytree(result.run_dir, old, symlinks=True)
    said = old / "checkpoints" / result.checkpoint.name / "checkpoint.json"
    description = json.loads(said.read_text())
    del description["config"]["train"]["accumulate"]
    del description["config"]["loss"]
    said.write_text(json.dumps(description))
    tiny_run.run(old, recipe=with_train(validate_every=1), resume=True)
    # What was set since is not what had effect then.
    del description["config"]["train"]["ema"]
    said.write_text(json.dumps(description))
    with pytest.raises(ConfigError, match=r"train\.ema: None before, now 0\.9"):
        tiny_run.run(old, recipe=with_train(validate_every=1), resume=True)


def test_a_run_goes_on_with_the_data_it_began_with_alone(tmp_path, monkeypatch):
    def go_on(**provenance):
        monkeypatch.setattr(tiny_run.Squares, "provenance", provenance)
        tiny_run.run(tmp_path / "run", resume=True)
        return (tmp_path / "run/manifest.json").read_bytes()

    began = {"sha256": "one", "configuration": "x", "phantom": True, "cases": {"a": "1"}}
    # The second time nothing is done, and nothing is said to have been.
    assert go_on(**began) == go_on(**began)
    with pytest.raises(
        ConfigError, match=r"other data \(train: 1 cases of x, phantoms; now 0 of y"
    ):
        go_on(sha256="two", configuration="y", phantom=False)
    # A manifest of before pseudo-labels were known by their teachers says nothing.
    go_on(**began, pseudo_labels={"key": "a"})


def test_run_folder(finished):
    _, result = finished
    names = {p.name for p in result.run_dir.iterdir()} - {".lock"}
    assert names == {
        "config.yaml",
        "manifest.json",
        "log.csv",
        "validation.csv",
        "tensorboard",
        "checkpoints",
    }
    assert result.checkpoint.name == "step-00000012"
    assert (result.run_dir / "checkpoints" / "last").resolve() == result.checkpoint
    assert load_recipe(result.run_dir / "config.yaml") == with_train(validate_every=1)
    log = rows(result.run_dir / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(1, 13))
    assert set(log[0]) == {
        "step",
        "epoch",
        "loss",
        "dice_loss",
        "cross_entropy",
        "drawn",
        "lr",
        "gradient_norm",
        "seconds_per_step",
        "data_share",
    }
    assert all(0 <= float(row["data_share"]) <= 1 for row in log)


def test_manifest_says_what_the_run_was(finished):
    _, result = finished
    manifest = json.loads((result.run_dir / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["finished"] >= manifest["started"]
    assert manifest["result"] == {"checkpoint": "checkpoints/step-00000012", "steps": 12}
    assert manifest["phantom"] is True
    assert manifest["data"]["train"]["split_sha256"] == "5" * 64
    assert manifest["config"]["optim"]["lr"] == 0.05
    assert manifest["packages"]["torch"]
    assert manifest["processes"] == 1
    assert manifest["seed"] == 7
    assert len(manifest["config_sha256"]) == 64


def test_tensorboard_has_losses_rate_times_dice_and_a_picture(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished[1].run_dir / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {
        "loss/loss",
        "loss/dice_loss",
        "loss/cross_entropy",
        "loss/drawn",
        "optim/lr",
        "optim/gradient_norm",
        "time/seconds_per_step",
        "time/data_share",
        "validation/dice_square",
    }
    assert board.Tags()["images"] == ["overlay"]
    assert [event.step for event in board.Scalars("validation/dice_square")] == [4, 8, 12]


def test_it_learns(finished):
    _, result = finished
    found = [float(loss) for loss in losses(result.run_dir)]
    assert np.mean(found[-3:]) < 0.6 * found[0]


def test_the_last_steps_are_logged_whatever_the_interval(tmp_path):
    for steps, expected in ((3, ["3"]), (7, ["4", "7"])):
        recipe = with_train(epochs=1, steps_per_epoch=steps, log_every=4)
        tiny_run.run(tmp_path / str(steps), recipe=recipe)
        assert [row["step"] for row in rows(tmp_path / str(steps) / "log.csv")] == expected


def test_validation_does_not_change_what_is_learned(finished, tmp_path):
    _, without = tiny_run.run(tmp_path / "run")
    assert losses(without.run_dir) == losses(finished[1].run_dir)


def test_the_average_predicts(finished):
    method, result = finished
    network = tiny_run.tiny_network()
    assert load_predictor(network, result.run_dir).name == "model_ema.safetensors"
    trained = named_weights(method.network)
    loaded = named_weights(network)
    assert not torch.equal(trained["0.weight"], loaded["0.weight"])
    # Buffers: the running mean is averaged, the count of batches copied.
    assert not torch.equal(trained["1.running_mean"], loaded["1.running_mean"])
    assert loaded["1.num_batches_tracked"] == trained["1.num_batches_tracked"] == 12


def test_manifest_says_that_a_run_is_running(tmp_path):
    seen = []

    class Looks(Supervised):
        def on_step_end(self, progress):
            manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
            seen.append((manifest["status"], manifest["finished"]))

    method = Looks(tiny_run.tiny_network(), build_loss(LossConfig()))
    tiny_run.run(tmp_path / "run", recipe=with_train(epochs=1), method=method)
    assert set(seen) == {("running", None)}


def test_a_folder_with_a_run_is_not_overwritten(finished, tmp_path):
    _, result = finished
    before = result.checkpoint.stat().st_mtime_ns
    with pytest.raises(ConfigError, match=r"holds a run already\. Add --resume"):
        tiny_run.run(result.run_dir, recipe=with_train(validate_every=1))
    # Resuming a finished run does nothing.
    tiny_run.run(result.run_dir, recipe=with_train(validate_every=1), resume=True)
    assert result.checkpoint.stat().st_mtime_ns == before
    assert len(losses(result.run_dir)) == 12


class Explodes(Supervised):
    """Its loss is no number at step 7."""

    def step(self, batch):
        found = super().step(batch)
        if self.now == 7:
            found["loss"] = found["loss"] * float("nan")
        return found

    def on_step_start(self, progress):
        self.now = progress.step


class Overflows(Explodes):
    """Its loss is fine at step 7, but its gradient is not."""

    def step(self, batch):
        found = Supervised.step(self, batch)
        if self.now == 7:
            weight = next(self.network.parameters())
            found["loss"] = found["loss"] + (weight.sum() * 0).sqrt()
        return found


@pytest.mark.parametrize(("kind", "what"), [(Explodes, "loss"), (Overflows, "gradient")])
@pytest.mark.parametrize("limit", [12.0, None])
@pytest.mark.parametrize("log_every", [1, 5])
def test_not_a_number_stops_the_run_and_names_the_cases(tmp_path, kind, what, log_every, limit):
    run_dir = tmp_path / "run"
    recipe = with_train(log_every=log_every, clip_norm=limit)
    method = kind(tiny_run.tiny_network(), build_loss(LossConfig()))
    # Step 7 (the eighth) has samples 28 to 31, which are cases 3, 4, 0, 1.
    cases = "case-3, case-4, case-0, case-1"
    with pytest.raises(TrainingError, match=f"the {what} of step 8 is not finite.*{cases}") as e:
        tiny_run.run(run_dir, recipe=recipe, method=method)
    assert "the last good state is step-00000006" in str(e.value)
    checkpoint = last_checkpoint(run_dir)
    assert checkpoint.name == "step-00000006"
    network = tiny_run.tiny_network()
    load_predictor(network, run_dir)
    assert all(torch.isfinite(v).all() for v in named_weights(network).values())
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "case-3" in manifest["error"]


def test_full_disk_leaves_the_earlier_checkpoint_and_the_run_goes_on_later(
    tmp_path, monkeypatch, finished
):
    run_dir = tmp_path / "run"
    real_open, written = builtins.open, []

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode="r", *arguments, **others):
        file = real_open(path, mode, *arguments, **others)
        if "wb" in mode and "step-" in str(path):
            written.append(path)
            # Four files a checkpoint: the second of the second does not fit.
            return Full(file) if len(written) == 6 else file
        return file

    monkeypatch.setattr("covidseg.engine.checkpoint.open", opened, raising=False)
    with pytest.raises(StorageError, match=r"No space left.*[Ff]ree space"):
        tiny_run.run(run_dir)
    assert [p.name for p in (run_dir / "checkpoints").iterdir() if p.name != "last"] == [
        "step-00000003"
    ]
    monkeypatch.undo()
    tiny_run.run(run_dir, resume=True)
    assert losses(run_dir) == losses(finished[1].run_dir)
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert "error" not in manifest
    assert [entry["step"] for entry in manifest["resumed"]] == [3]


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def status(run_dir):
    return json.loads((run_dir / "manifest.json").read_text())["status"]


def full_for_the_log(monkeypatch, after):
    """The disk is full for the CSV logs once they have been added to ``after`` times."""
    added = []

    def opened(path, mode="r", **others):
        if mode == "a":
            added.append(path)
            if len(added) > after:
                no_space()
        return builtins.open(path, mode, **others)

    monkeypatch.setattr("covidseg.engine.monitor.open", opened, raising=False)


def full_for_tensorboard(monkeypatch, after):
    """The same for TensorBoard, which writes from a thread of its own."""
    from tensorboard.compat.tensorflow_stub.io.gfile import GFile

    write, written = GFile.write, []

    def until_full(self, content):
        written.append(content)
        (no_space if len(written) > after else write)(self, content)

    monkeypatch.setattr(GFile, "write", until_full)


# TensorBoard's thread says nothing of its own beside the one message.
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("full", [full_for_the_log, full_for_tensorboard])
def test_a_disk_that_is_full_for_a_log_fails_the_run_and_it_goes_on_later(
    tmp_path, monkeypatch, finished, full
):
    run_dir = tmp_path / "run"
    before = threading.excepthook
    full(monkeypatch, 6)
    with pytest.raises(StorageError, match=r"No space left.*Free space") as failed:
        tiny_run.run(run_dir)
    assert failed.value.path == run_dir
    assert status(run_dir) == "failed"
    assert threading.excepthook is before
    monkeypatch.undo()
    tiny_run.run(run_dir, resume=True)
    assert status(run_dir) == "complete"
    assert losses(run_dir) == losses(finished[1].run_dir)


def test_validation_that_cannot_be_logged_fails_the_run(tmp_path, monkeypatch):
    validation = DiceValidation(tiny_run.Finite(3), ["square"], batch_size=2)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_image", no_space)
    with pytest.raises(StorageError, match=r"run: cannot be written \(No space left"):
        tiny_run.run(tmp_path / "run", recipe=with_train(validate_every=1), validation=validation)
    assert status(tmp_path / "run") == "failed"


def test_a_log_that_cannot_be_begun_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.utils.tensorboard.writer.FileWriter", no_space)
    with pytest.raises(StorageError, match=r"run: cannot be written \(No space left"):
        tiny_run.run(tmp_path / "run")


def test_a_disk_that_is_full_in_the_end_does_not_undo_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.close", no_space)
    tiny_run.run(tmp_path / "run")
    assert status(tmp_path / "run") == "complete"
    assert "tensorboard: is not whole (No space left on device)." in capfd.readouterr().err


@pytest.fixture
def stopped(tmp_path):
    """A run that failed after its first checkpoints."""
    with pytest.raises(TrainingError):
        tiny_run.run(
            tmp_path / "run", method=Explodes(tiny_run.tiny_network(), build_loss(LossConfig()))
        )
    return tmp_path / "run"


def test_resuming_with_another_configuration_names_the_difference(stopped):
    other = replace(RECIPE, optim=replace(RECIPE.optim, lr=0.5), seed=8)
    with pytest.raises(ConfigError) as caught:
        tiny_run.run(stopped, recipe=other, resume=True)
    text = str(caught.value)
    assert "seed: 7 before, now 8" in text
    assert "optim.lr: 0.05 before, now 0.5" in text


def test_resuming_with_other_settings_of_the_machine_is_fine(stopped):
    recipe = with_train(checkpoint_every=100, log_every=2)
    _, result = tiny_run.run(stopped, recipe=recipe, resume=True)
    assert result.checkpoint.name == "step-00000012"


def test_resuming_another_network_names_the_tensor(stopped):
    method = Supervised(tiny_run.tiny_network(classes=3), build_loss(LossConfig()))
    with pytest.raises(ConfigError, match=r"another network: 4\.weight has shape \[2, 6, 3, 3\]"):
        tiny_run.run(stopped, method=method, resume=True)
    smaller = Supervised(nn.Conv2d(1, 2, 1), build_loss(LossConfig()))
    with pytest.raises(ConfigError, match=r"weight is not in the file.*and \d+ more"):
        tiny_run.run(stopped, method=smaller, resume=True)


def test_damaged_checkpoint_is_named(stopped):
    checkpoint = last_checkpoint(stopped)
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnreadableFileError, match=r"model\.safetensors: cannot be read"):
        tiny_run.run(stopped, resume=True)


def test_accumulated_micro_batches_are_the_whole_batch(tmp_path):
    found = []
    for accumulate in (1, 2, 4):
        recipe = replace(
            with_train(accumulate=accumulate, ema=None), loss=LossConfig(batch_dice=False)
        )
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        method = Supervised(network, build_loss(recipe.loss))
        _, result = tiny_run.run(tmp_path / str(accumulate), recipe=recipe, method=method)
        found.append([float(loss) for loss in losses(result.run_dir)])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_gradients_are_clipped(tmp_path):
    recipe = replace(
        with_train(epochs=1, clip_norm=1e-4, ema=None),
        optim=OptimConfig(lr=1.0, momentum=0, weight_decay=0, schedule="constant"),
    )
    torch.manual_seed(0)
    method = Supervised(tiny_run.tiny_network(), build_loss(LossConfig()))
    before = [p.detach().clone() for p in method.network.parameters()]
    tiny_run.run(tmp_path / "run", recipe=recipe, method=method)
    moved = torch.stack(
        [(a - b).square().sum() for a, b in zip(before, method.network.parameters(), strict=True)]
    )
    # Four steps of length 1e-4 at most, though the gradients were a thousand times longer.
    assert 1e-5 < moved.sum().sqrt() <= 4.01e-4


def test_bfloat16(tmp_path):
    _, result = tiny_run.run(tmp_path / "run", recipe=with_train(mixed_precision="bf16"))
    found = [float(loss) for loss in losses(result.run_dir)]
    assert found[-1] < found[0]
    network = tiny_run.tiny_network()
    load_predictor(network, result.run_dir)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_compiled_networks_keep_their_names(tmp_path, monkeypatch):
    compiled = []
    original = nn.Module.compile

    def eager(module, **_):
        compiled.append(module)
        original(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", eager)
    method, result = tiny_run.run(tmp_path / "run", recipe=with_train(compile=True, epochs=1))
    assert compiled == [method.network]
    load_predictor(tiny_run.tiny_network(), result.run_dir)


def test_a_machine_that_cannot_compile_is_told_so(tmp_path, monkeypatch):
    def fails(graph, inputs):
        raise RuntimeError("no C compiler")

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend=fails))
    with pytest.raises(TrainingError, match=r"no C compiler[\s\S]*train.compile to false"):
        tiny_run.run(tmp_path / "run", recipe=with_train(compile=True, epochs=1))


def test_a_batch_that_is_too_small_to_normalise_is_said(tmp_path):
    pooled = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2), nn.Upsample(16)
    )
    method = tiny_run.Supervised(pooled, build_loss(LossConfig()))
    with pytest.raises(ConfigError, match=r"Expected more than 1 value.*Raise patch\.batch_size"):
        tiny_run.run(tmp_path / "run", method=method, batch_size=1)
    tiny_run.run(tmp_path / "two", method=method, batch_size=2)


def test_what_a_compiled_network_would_not_do_is_refused(tmp_path):
    method = tiny_run.Tiny(tiny_run.tiny_network(), build_loss(LossConfig()))
    method.compiles = False
    stream = Stream(tiny_run.Squares(), 4)
    with pytest.raises(ConfigError, match="changes what its network does"):
        train(method, stream, with_train(compile=True), tmp_path / "run")


class Teacher(Method):
    """Two networks, two streams, a state of its own: a small Mean Teacher."""

    predictor = "student"

    def __init__(self):
        self.student = tiny_run.tiny_network()
        self.ema = Ema(self.student, 0.9)
        self.loss = build_loss(LossConfig())
        self.seen = 0

    def modules(self):
        return {"student": self.student, "teacher": self.ema.network}

    def step(self, batch):
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        assert len(unlabelled["case_id"]) == 2 * len(labelled["case_id"])
        found = self.loss(self.student(labelled["image"]), labelled["label"])
        with torch.no_grad():
            target = self.ema.network(unlabelled["image"]).softmax(1)
        consistency = (self.student(unlabelled["image"]).softmax(1) - target).square().mean()
        self.seen += 1
        return found | {"loss": found["loss"] + consistency, "consistency": consistency}

    def on_step_end(self, progress):
        self.ema.update(self.student)

    def state_dict(self):
        return {"seen": self.seen, "updates": self.ema.updates}

    def load_state_dict(self, state):
        self.seen, self.ema.updates = state["seen"], state["updates"]


def two_streams():
    return {
        "labelled": Stream(tiny_run.Squares(), 2, augment=tiny_run.noise),
        "unlabelled": Stream(tiny_run.Squares(), 4),
    }


def test_methods_with_several_networks_and_streams_resume_too(tmp_path, monkeypatch):
    recipe = with_train(ema=None)

    def run(name, **others):
        seed_everything(recipe.seed)
        return tiny_run.run(
            tmp_path / name, recipe=recipe, method=Teacher(), data=two_streams(), **others
        )

    whole, result = run("whole")
    assert {p.name for p in result.checkpoint.glob("*.safetensors")} == {
        "student.safetensors",
        "teacher.safetensors",
    }

    def stop(self, progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "on_step_start", stop)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert set(manifest["data"]) == {"labelled", "unlabelled"}
    resumed, _ = run("parts", resume=True)
    assert resumed.seen == whole.seen == 12
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 2}, "train.processes is 2, but 1 process runs"),
        ({"accumulate": 3}, "a batch of 4 cannot be dealt out"),
        ({"epochs": 0}, "train.epochs is 0"),
        ({"ema": 1.0}, "train.ema is 1.0"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_run.run(tmp_path / "run", recipe=with_train(**changes))
    assert not (tmp_path / "run").exists()


def test_processes_that_would_train_alone_are_refused(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ConfigError, match="several processes were asked for"):
        start_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes, but each would train alone"):
        start_processes()


def test_processes_wait_for_one_that_prepares_scans(monkeypatch):
    import accelerate

    given = {}

    class Stopped(ValueError):
        pass

    def remembered(**options):
        given.update(options)
        raise Stopped

    monkeypatch.setattr(accelerate, "Accelerator", remembered)
    with pytest.raises(ConfigError):
        start_processes()
    times = [getattr(handler, "timeout", None) for handler in given["kwargs_handlers"]]
    # Torch's own is ten minutes.
    assert max(time for time in times if time) >= timedelta(hours=1)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((StorageError, ConfigError), match="file"):
        tiny_run.run(blocked / "run")


def test_no_variable_of_the_environment_scales_the_gradients(tmp_path, monkeypatch):
    tiny_run.run(tmp_path / "plain", recipe=with_train(epochs=1))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    tiny_run.run(tmp_path / "exported", recipe=with_train(epochs=1))
    assert losses(tmp_path / "plain") == losses(tmp_path / "exported")
