"""The engine's small parts: average of weights, learning rates, batch norm, Dice, logs."""

import math

import numpy as np
import pytest
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.engine import distributed
from covidseg.engine.checkpoint import last_checkpoint, load_predictor, read_description
from covidseg.engine.config import OptimConfig
from covidseg.engine.distributed import batch_norm_over_processes, start_processes
from covidseg.engine.ema import Ema
from covidseg.engine.monitor import CsvLog
from covidseg.engine.optim import build_optimizer, learning_rate, set_learning_rate
from covidseg.engine.validation import DiceValidation, overlay


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("mean", torch.tensor([0.0]))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(False))


def set_to(network, value, count):
    with torch.no_grad():
        network.weight.fill_(value)
        network.mean.fill_(2 * value)
        network.count.fill_(count)
        network.flag.fill_(count > 1)


def test_average_by_hand_of_parameters_float_and_integer_buffers():
    network = Counted()
    ema = Ema(network, 0.75, warm_up=False)
    set_to(network, 4.0, 1)
    ema.update(network)
    assert (ema.network.weight.item(), ema.network.mean.item()) == (1.0, 2.0)
    assert (ema.network.count.item(), ema.network.flag.item()) == (1, False)
    set_to(network, 5.0, 2)
    ema.update(network)
    assert (ema.network.weight.item(), ema.network.mean.item()) == (2.0, 4.0)
    assert (ema.network.count.item(), ema.network.flag.item()) == (2, True)
    assert not ema.network.weight.requires_grad
    assert not ema.network.training


def test_warm_up_is_mean_teachers():
    network = Counted()
    ema = Ema(network, 0.6)
    seen = []
    # alpha = min(1 - 1/(t + 1), 0.6) = 0, 1/2, 0.6.
    for value in (8.0, 4.0, 1.0):
        set_to(network, value, 0)
        ema.update(network)
        seen.append(ema.network.weight.item())
    assert seen == pytest.approx([8.0, 6.0, 0.6 * 6 + 0.4])


def test_learning_rates_are_nnunets_at_the_start_of_each_epoch():
    config = OptimConfig()
    for epoch in (0, 1, 500, 999):
        expected = 0.01 * (1 - epoch / 1000) ** 0.9
        assert learning_rate(config, 250 * epoch, 250_000) == pytest.approx(expected)


@given(
    schedule=st.sampled_from(["poly", "cosine", "constant"]),
    warmup=st.integers(0, 20),
    steps=st.integers(21, 200),
)
def test_learning_rate_rises_in_warm_up_and_never_after(schedule, warmup, steps):
    config = OptimConfig(schedule=schedule, warmup_steps=warmup, lr=1.0)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1
    after = rates[warmup:]
    assert after == sorted(after, reverse=True)
    assert rates[:warmup] == sorted(rates[:warmup])


def test_cosine_is_half_way_at_half_time():
    config = OptimConfig(schedule="cosine", lr=1.0)
    assert learning_rate(config, 50, 100) == pytest.approx(0.5)
    assert learning_rate(config, 25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_groups_scale_the_rate():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(
        OptimConfig(name="adamw"), [{"params": [a]}, {"params": [b], "lr_scale": 0.1}]
    )
    set_learning_rate(optimizer, 2.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2.0, 0.2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "optim.lr is -1"),
        ({"lr": math.nan}, "optim.lr is nan"),
        ({"momentum": 1.0}, "optim.momentum is 1"),
        ({"betas": (0.9, 1.0)}, r"optim.betas is \(0.9, 1.0\)"),
        ({"weight_decay": -1e-5}, "optim.weight_decay is"),
        ({"warmup_steps": -5}, "optim.warmup_steps is -5"),
        ({"power": -0.9}, "optim.power is -0.9"),
    ],
)
def test_impossible_optimisers_are_refused(changes, message):
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=message):
        build_optimizer(OptimConfig(**changes), [{"params": [parameter]}])


def test_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="no parameters to train"):
        build_optimizer(OptimConfig(), [{"params": []}])


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 5, 6), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_of_ours_is_torchs(shape, momentum):
    cls = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    torchs, ours = cls(3, momentum=momentum), cls(3, momentum=momentum)
    for layer in (torchs, ours):
        nn.init.constant_(layer.weight, 1.5)
    for _ in range(2):
        x = (3 * torch.randn(shape) + 1).requires_grad_()
        y = x.detach().clone().requires_grad_()
        weights = torch.randn(shape)
        (torchs(x) * weights).sum().backward()
        (batch_norm_over_processes(ours, y) * weights).sum().backward()
        assert torch.allclose(x.grad, y.grad, atol=1e-5)
    for name, value in torchs.state_dict().items():
        assert torch.allclose(value, ours.state_dict()[name], atol=1e-6), name
    assert torch.allclose(torchs.weight.grad, ours.weight.grad, atol=1e-4)


def test_synchronising_keeps_names_and_what_a_layer_does_besides(monkeypatch):
    from timm.layers import BatchNormAct2d

    network = nn.Sequential(nn.BatchNorm2d(2), BatchNormAct2d(2, act_layer=nn.ReLU))
    x = torch.randn(4, 2, 3, 3)
    expected, names = network(x), list(network.state_dict())
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", lambda tensor: tensor)
    distributed.synchronise_batch_norm(network)
    assert type(network[1]).__name__ == "SynchronisedBatchNormAct2d"
    assert torch.allclose(network(x), expected, atol=1e-5)
    assert list(network.state_dict()) == names


class Fixed(nn.Module):
    """Predicts foreground where the image is above a half."""

    def forward(self, image):
        return torch.cat([torch.full_like(image, 0.5), image], 1)


class Two:
    """Predicted {0, 1} and true {1, 2}; then predicted {0} and nothing true."""

    samples = (([1, 1, 0, 0], [0, 1, 1, 0]), ([1, 0, 0, 0], [0, 0, 0, 255]))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image, label = self.samples[index]
        return {
            "image": torch.tensor(image).float().reshape(1, 2, 2),
            "label": torch.tensor(label, dtype=torch.uint8).reshape(1, 2, 2),
        }


def test_dice_on_the_training_side_is_that_of_all_voxels_together():
    validation = DiceValidation(Two(), ["lesion"], batch_size=1, ignore_label=255)
    scores = validation(Fixed(), start_processes())
    assert scores.values == {"dice_lesion": pytest.approx(2 * 1 / (3 + 2))}
    assert scores.overlay.shape == (2, 6, 3)


def test_overlay_shows_the_fullest_slice_of_the_shortest_axis():
    image = np.random.default_rng(0).normal(size=(3, 20, 16))
    true = np.zeros(image.shape, np.uint8)
    true[1, 5:12, 4:10] = 1
    predicted = np.zeros_like(true)
    picture = overlay(image, true, predicted)
    assert picture.shape == (20, 2 * 16 + 2, 3)
    green = (picture == (0, 200, 0)).all(-1)
    # An outline of 7 × 6 voxels, on the left alone.
    assert green[:, :16].sum() == 2 * 7 + 2 * 4
    assert not green[:, 18:].any()


def test_log_drops_what_will_be_done_again_and_half_lines(tmp_path):
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 0.5})
    with open(path, "a") as file:
        file.write("4,0.")
    log = CsvLog(path, keep_to=2)
    assert path.read_text() == "step,loss\n1,0.5\n2,0.5\n"
    log.append({"step": 3, "loss": 0.25, "new": 1})
    assert path.read_text() == "step,loss,new\n1,0.5,\n2,0.5,\n3,0.25,1\n"


def test_what_is_no_checkpoint_is_said(tmp_path):
    assert last_checkpoint(tmp_path) is None
    with pytest.raises(UnreadableFileError, match="holds no checkpoint"):
        load_predictor(tiny_run.tiny_network(), tmp_path)
    (tmp_path / "checkpoint.json").write_text('{"format": 99}')
    with pytest.raises(UnreadableFileError, match="is of format 99; expected 1 at most"):
        read_description(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(UnreadableFileError, match="not a checkpoint's description"):
        read_description(tmp_path)
