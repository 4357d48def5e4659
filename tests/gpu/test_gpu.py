"""What only a GPU can show: the same results there, and steps that never wait for it."""

import dataclasses

import numpy as np
import pytest
import torch

from covidseg.engine.augmentation import Augmentation, AugmentationConfig
from covidseg.engine.checkpoint import load_predictor
from covidseg.engine.config import Recipe, TrainConfig
from covidseg.engine.loop import train
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Supervised
from covidseg.engine.optim import build_optimizer
from covidseg.engine.seeds import derived_seed, seed_everything
from covidseg.engine.segmentation import AugmentBatch
from covidseg.engine.stream import Stream, collate, to_device
from covidseg.generalization.bigaug import BigAug, BigAugConfig
from covidseg.generalization.consistency import GinIpa
from covidseg.generalization.lesions import LesionConfig, PaintLesions
from covidseg.generalization.random_convolutions import Gin
from covidseg.generalization.slaug import Slaug, SlaugConfig
from covidseg.imaging.volume import Volume
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.sliding import Sliding
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZES = {2: (64, 48), 3: (8, 32, 32)}
EVERYTHING = AugmentationConfig(
    p_rotation=1, p_scale=1, p_noise=0, p_blur=1, p_blur_per_channel=1, p_brightness=1,
    p_contrast=1, p_low_resolution=1, p_low_resolution_per_channel=1, p_inverted_gamma=1,
    p_gamma=1,
)  # fmt: skip


class Boxes:
    """Bright boxes on noise; sample ``i`` is a function of ``i`` alone."""

    def __init__(self, size):
        self.size = size

    def __getitem__(self, index):
        random = np.random.default_rng(derived_seed(1, index))
        label = np.zeros(self.size, np.int64)
        start = [int(random.integers(0, side // 2)) for side in self.size]
        label[tuple(slice(a, a + side // 2) for a, side in zip(start, self.size, strict=True))] = 1
        image = (label + random.normal(0, 0.5, self.size)).astype(np.float32)
        return {
            "image": torch.from_numpy(image[None]),
            "label": torch.from_numpy(label),
            "case_id": f"case-{index % 5}",
        }


def network_config(dimensions):
    if dimensions == 2:
        return NetworkConfig(family="smp", dimensions=2, encoder="resnet18", classes=2)
    config = NetworkConfig(classes=2, deep_supervision=True, features=(8, 16, 16, 16))
    return config.with_plan(plan((5.0, 2.0, 2.0), SIZES[3]))


def recipe(dimensions, **settings):
    return Recipe(
        name="gpu",
        seed=3,
        network=network_config(dimensions),
        train=TrainConfig(
            **{"epochs": 2, "steps_per_epoch": 6, "workers": 0, "log_every": 1}
            | {"checkpoint_every": 4}
            | settings
        ),
    )


def run(folder, dimensions, resume=False, last=None, **settings):
    chosen = recipe(dimensions, **settings)
    seed_everything(0)
    method = Stops(build_network(chosen.network), build_loss(chosen.loss))
    method.last = last
    augmentation = Augmentation(AugmentationConfig(), SIZES[dimensions])
    data = Stream(Boxes(augmentation.input_size), 4, AugmentBatch(augmentation))
    return train(method, data, chosen, folder, resume=resume)


class Stops(Supervised):
    """Fails before a step of the run, as a machine may."""

    last = None

    def on_step_start(self, progress):
        if progress.step == self.last:
            raise OSError("power cut")


@pytest.mark.parametrize("dimensions", [2, 3])
def test_augments_as_the_processor_does(dimensions):
    size = SIZES[dimensions]
    axes = tuple(range(dimensions))
    augmentation = Augmentation(dataclasses.replace(EVERYTHING, mirror_axes=axes), size)
    batch = collate([Boxes(augmentation.input_size)[i] for i in range(4)])
    image, label = augmentation(batch["image"], batch["label"], [1, 2, 3, 4])
    there = to_device(batch, torch.device("cuda"))
    seen, told = augmentation(there["image"], there["label"], [1, 2, 3, 4])
    # A place half-way between two voxels may be rounded to either.
    assert (told.cpu() != label).float().mean() < 1e-3
    difference = (seen.cpu() - image).abs()
    assert (difference > 1e-3).float().mean() < 2e-3


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_learns_and_goes_on_after_a_stop(tmp_path, dimensions, precision):
    whole = run(tmp_path / "whole", dimensions, mixed_precision=precision, ema=0.9)
    with pytest.raises(OSError, match="power cut"):
        run(tmp_path / "cut", dimensions, last=6, mixed_precision=precision, ema=0.9)
    run(tmp_path / "cut", dimensions, resume=True, mixed_precision=precision, ema=0.9)
    one, other = (
        np.genfromtxt(tmp_path / name / "log.csv", delimiter=",", names=True)
        for name in ("whole", "cut")
    )
    assert len(one) == len(other) == whole.steps
    # Some of a GPU's sums have no order; a resume that lost anything would be off by far more.
    np.testing.assert_allclose(one["loss"][:7], other["loss"][:7], rtol=0.02)
    assert one["loss"][-3:].mean() < one["loss"][:3].mean()


def test_compiles(tmp_path):
    run(tmp_path / "run", 3, mixed_precision="bf16", compile=True)
    load_predictor(build_network(network_config(3)), tmp_path / "run")


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_step_never_waits_for_the_gpu(dimensions):
    device = torch.device("cuda")
    size = SIZES[dimensions]
    method = Supervised(build_network(network_config(dimensions)), build_loss(recipe(3).loss))
    method.network.to(device).train()
    optimizer = build_optimizer(recipe(3).optim, method.parameter_groups())
    config = dataclasses.replace(EVERYTHING, p_noise=1, p_cutmix=1)
    augment = AugmentBatch(Augmentation(config, size))
    dataset = Boxes(augment.augmentation.input_size)

    def step(number):
        batch = collate([dataset[4 * number + i] for i in range(4)])
        batch = {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}
        batch["seed"] = torch.arange(4 * number, 4 * number + 4)
        batch = to_device(batch, device)
        with torch.no_grad():
            batch = augment(batch)
        with torch.autocast("cuda", torch.bfloat16):
            loss = method.step(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.network.parameters(), 12.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(0)  # first calls allocate and choose kernels
    with never_waiting():
        step(1)


class never_waiting:
    """Within the block torch refuses whatever makes the processor wait for the GPU."""

    def __enter__(self):
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_):
        torch.cuda.set_sync_debug_mode("default")


def painter(dimensions):
    spacing = (5.0, 1.5, 1.5)[3 - dimensions :]
    return PaintLesions(LesionConfig(p=1.0), spacing, -600.0, 300.0, (-1250.0, 250.0))


CHANGES = {
    "gin": lambda dimensions: Gin(),
    "gin-ipa": lambda dimensions: GinIpa(Gin()),
    "slaug": lambda dimensions: Slaug(SlaugConfig(), -2.0, 3.0, 2),
    "bigaug": lambda dimensions: BigAug(BigAugConfig(), -2.0, 3.0),
    "lesions": painter,
}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_never_waits_for_the_gpu(name, dimensions):
    change = CHANGES[name](dimensions)
    batch = collate([Boxes(SIZES[dimensions])[i] for i in range(2)])
    batch["seed"] = torch.arange(2)
    batch = to_device(batch, torch.device("cuda"))
    first = change(dict(batch))
    assert first["image"].is_cuda
    with never_waiting():
        again = change(dict(batch))
    torch.testing.assert_close(first["image"], again["image"])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", ["gin", "gin-ipa"])
def test_versions_are_those_of_the_processor(name, dimensions):
    change = CHANGES[name](dimensions)
    batch = collate([Boxes(SIZES[dimensions])[i] for i in range(5)])
    batch["seed"] = torch.arange(5)
    expected = change(dict(batch))["image"]
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = change(to_device(batch, torch.device("cuda")))["image"]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_predicts_as_the_processor_does(dimensions):
    seed_everything(0)
    network = build_network(network_config(dimensions))
    window = SIZES[3] if dimensions == 3 else (1, *SIZES[2])
    values = np.random.default_rng(0).normal(-500, 300, (60, 50, 20)).astype(np.int16)
    scan = Volume(values, np.diag([-1.5, -1.5, 5, 1]))

    def predict(device):
        predictor = Predictor(
            [network],
            Preprocessing(-1000, 250, -500, 400, spacing_mm=(5.0, 1.5, 1.5)),
            Sliding(window, 0.5, 3),
            dimensions,
            2,
            (0, 1),
            torch.device(device),
        )
        return predictor.probabilities(scan)[0]

    with torch.backends.cudnn.flags(allow_tf32=False):
        torch.testing.assert_close(predict("cuda"), predict("cpu"), rtol=1e-3, atol=1e-3)
