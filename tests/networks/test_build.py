"""Networks: shapes, deep supervision, first weights, and what is refused."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.networks.build import build_network, evaluation_mode
from covidseg.networks.config import NetworkConfig
from covidseg.networks.weights import read_weights

TINY_3D = NetworkConfig(
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    features=(4, 6, 8),
    classes=3,
)
TINY_2D = NetworkConfig(family="smp", dimensions=2, encoder="resnet18", classes=2)


@pytest.mark.parametrize("family", ["plain", "residual"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_output_is_one_logit_a_class_and_voxel(family, norm):
    network = build_network(replace(TINY_3D, family=family, norm=norm))
    assert network(torch.randn(2, 1, 4, 8, 12)).shape == (2, 3, 4, 8, 12)


def test_deep_supervision_returns_all_stages_in_training_and_one_tensor_otherwise():
    network = build_network(replace(TINY_3D, deep_supervision=True))
    image = torch.randn(2, 1, 4, 8, 12)
    assert [tuple(o.shape[2:]) for o in network(image)] == [(4, 8, 12), (4, 4, 6)]
    with evaluation_mode(network):
        assert network(image).shape == (2, 3, 4, 8, 12)
    assert network.training


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("family", ["plain", "residual"])
def test_every_parameter_that_is_trained_gets_a_gradient(family, deep_supervision):
    network = build_network(replace(TINY_3D, family=family, deep_supervision=deep_supervision))
    outputs = network(torch.randn(1, 1, 4, 8, 8))
    # The lowest output has weight zero in the loss.
    (outputs[0] if deep_supervision else outputs).sum().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-b0", "tu-convnext_atto"])
def test_any_encoder_of_the_2d_library(encoder):
    network = build_network(replace(TINY_2D, encoder=encoder))
    network(torch.randn(2, 1, 64, 64)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    # The one pools further than 64 pixels go, the other takes images of its own size alone.
    [("PAN", "resnet18"), ("DPT", "tu-vit_tiny_patch16_224")],
)
def test_networks_that_take_no_small_image_are_built(architecture, encoder):
    network = build_network(replace(TINY_2D, architecture=architecture, encoder=encoder))
    network.eval()(torch.randn(1, 1, 224, 224)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_a_network_that_takes_no_probe_is_refused_in_the_librarys_words(monkeypatch):
    monkeypatch.setattr("covidseg.networks.smp2d._PROBED_EDGES", (32, 64))
    with pytest.raises(ConfigError, match=r"PAN .*no image of 32, 64 pixels \(RuntimeError: Given"):
        build_network(replace(TINY_2D, architecture="PAN"))


def test_channels_of_the_2d_decoder():
    network = build_network(replace(TINY_2D, decoder_channels=(32, 16, 16, 8, 4)))
    assert network.segmentation_head[0].in_channels == 4
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 2, 64, 64)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_four_decoder_stages_leave_out_the_encoders_last(encoder):
    sizes = {}
    for channels in ((32, 16, 16, 8, 4), (16, 16, 8, 4)):
        network = build_network(replace(TINY_2D, encoder=encoder, decoder_channels=channels))
        assert network(torch.randn(2, 1, 64, 64)).shape == (2, 2, 64, 64)
        network(torch.randn(2, 1, 64, 64)).sum().backward()
        trained = [p for p in network.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        sizes[len(channels)] = sum(p.numel() for p in trained)
    assert sizes[4] < sizes[5] / 3


def test_building_draws_the_same_weights_after_the_same_seed():
    def build():
        torch.manual_seed(3)
        return build_network(TINY_2D)

    for a, b in zip(build().parameters(), build().parameters(), strict=True):
        assert torch.equal(a, b)


def test_local_encoder_weights_in_colour_are_summed_for_gray_images(tmp_path):
    colour = build_network(replace(TINY_2D, in_channels=3))
    path = tmp_path / "encoder.safetensors"
    save_file(colour.encoder.state_dict(), path)
    gray = build_network(replace(TINY_2D, encoder_weights=str(path)))
    assert torch.equal(gray.encoder.layer1[0].conv1.weight, colour.encoder.layer1[0].conv1.weight)
    assert torch.allclose(
        gray.encoder.conv1.weight, colour.encoder.conv1.weight.sum(1, keepdim=True)
    )


def test_local_weights_of_another_encoder_are_refused(tmp_path):
    path = tmp_path / "encoder.pt"
    torch.save(build_network(replace(TINY_2D, encoder="resnet34")).encoder.state_dict(), path)
    with pytest.raises(ConfigError, match=r"encoder\.pt: the weights do not fit"):
        build_network(replace(TINY_2D, encoder="efficientnet-b0", encoder_weights=str(path)))


def test_absent_weight_file_is_named(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"none\.pth: no such weight file"):
        build_network(replace(TINY_2D, encoder_weights=str(tmp_path / "none.pth")))


class Executes:
    def __reduce__(self):
        return (print, ("executed",))


def test_weight_file_that_would_execute_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"weight": Executes()}, path)
    with pytest.raises(UnreadableFileError, match="tensors alone"):
        read_weights(path)
    assert "executed" not in capsys.readouterr().out


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import segmentation_models_pytorch as smp

    def unreachable(*arguments, encoder_weights, **others):
        assert encoder_weights == "imagenet"
        raise OSError("cannot reach the hub")

    class Unet(torch.nn.Module):
        def __new__(cls, *arguments, **others):
            unreachable(*arguments, **others)

    monkeypatch.setattr(smp, "Unet", Unet)
    with pytest.raises(ConfigError, match=r"could not be fetched.*encoder_weights to null"):
        build_network(replace(TINY_2D, encoder_weights="imagenet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": None}, "strides are not known"),
        ({"classes": 1}, "network.classes is 1"),
        ({"features": (4, 8)}, "network.features has 2 entries"),
        ({"strides": ((1, 1), (2, 2), (2, 2))}, "3 numbers, one an axis"),
        ({"strides": ((2, 2, 2), (2, 2, 2), (2, 2, 2))}, "first entry"),
        ({"strides": ((1, 1, 1),)}, "at least two stages"),
        ({"decoder_channels": (8, 4)}, "network.features holds the channels"),
        ({"encoder_weights": "no/such.pth"}, r"encoder_weights is no/such.pth .*expected null"),
        ({"architecture": "FPN"}, r"architecture is FPN with .*family plain.*family to smp"),
        ({"encoder": "resnet50", "family": "residual"}, r"encoder is resnet50 .*expected resnet34"),
    ],
)
def test_contradictions_of_3d_networks_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_network(replace(TINY_3D, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimensions": 3}, "2D networks only"),
        ({"deep_supervision": True}, "one output"),
        ({"features": (1, 2)}, "fixes its own sizes"),
        ({"encoder": "resnet81"}, "perhaps resnet"),
        ({"architecture": "Unett"}, "UnetPlusPlus"),
        ({"decoder_channels": (8,) * 7}, "decoder_channels to null"),
        ({"architecture": "FPN", "decoder_channels": (8, 4)}, "fixes its own sizes"),
        ({"encoder": "resnet18", "encoder_weights": "nonsense"}, "no weights 'nonsense'"),
    ],
)
def test_contradictions_of_2d_networks_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_network(replace(TINY_2D, **changes))


def test_divisor_is_the_product_of_strides():
    assert TINY_3D.divisor() == (2, 4, 4)


def test_networks_can_be_copied_and_sent_to_other_processes():
    network = build_network(replace(TINY_3D, deep_supervision=True))
    image = torch.randn(1, 1, 4, 8, 8)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(image)[0], network(image)[0])
