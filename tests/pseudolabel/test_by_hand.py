"""Each method's loss and teacher against numbers worked by hand."""

import math

import pytest
import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.cache import IGNORE_LABEL
from covidseg.engine.losses import DiceCrossEntropy, LossConfig
from covidseg.engine.method import Progress
from covidseg.pseudolabel.config import (
    CopyPasteConfig,
    CrossSupervisionConfig,
    MeanTeacherConfig,
    UncertaintyConfig,
    UniMatchConfig,
)
from covidseg.pseudolabel.copy_paste import CopyPaste
from covidseg.pseudolabel.cross_supervision import CrossSupervision
from covidseg.pseudolabel.mean_teacher import MeanTeacher
from covidseg.pseudolabel.noisy_student import NoisyStudent
from covidseg.pseudolabel.uncertainty import UncertaintyAwareMeanTeacher
from covidseg.pseudolabel.unimatch import UniMatch

# Cross-entropy alone: its value at a voxel is −ln of the probability of the label.
ENTROPY = DiceCrossEntropy(LossConfig(dice_weight=0))
IGNORING = DiceCrossEntropy(LossConfig(dice_weight=0, ignore_label=IGNORE_LABEL))
HALVES = Progress(step=50, steps=100, steps_per_epoch=10)
RAMP = math.exp(-5 / 4)  # half-way


class Voxelwise(nn.Module):
    """Foreground has probability σ(slope · x + shift) at a voxel of value x."""

    def __init__(self, slope=1.0, shift=0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(float(slope)))
        self.shift = nn.Parameter(torch.tensor(float(shift)))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), self.slope * image + self.shift], 1)


def logit(p):
    return math.log(p / (1 - p))


def picture(*probabilities):
    """An image of one sample that a network of slope 1 reads as these probabilities."""
    return torch.tensor([logit(p) for p in probabilities]).view(1, 1, 1, -1)


def batch_of(labelled, label, unlabelled, **views):
    return {
        "labelled": {
            "image": labelled,
            "label": torch.tensor(label).view(len(labelled), *labelled.shape[2:]),
            "seed": torch.arange(len(labelled)),
        },
        "unlabelled": {
            "image": unlabelled,
            "seed": torch.arange(100, 100 + len(unlabelled)),
            **views,
        },
    }


def set_slope(network, value):
    with torch.no_grad():
        network.slope.fill_(value)


def test_mean_teacher():
    method = MeanTeacher(Voxelwise(), ENTROPY, MeanTeacherConfig(noise=0.0))
    set_slope(method.teacher.network, 0)  # says 1/2 everywhere
    method.on_step_start(HALVES)
    found = method.step(batch_of(picture(0.8, 0.8), [1, 1], picture(0.75, 0.5)))
    # (0.75 − 0.5)² and (0.25 − 0.5)² at the first voxel, nothing at the second.
    consistency = (0.0625 + 0.0625) / 4
    assert found["consistency"].item() == pytest.approx(consistency)
    assert found["loss"].item() == pytest.approx(-math.log(0.8) + 0.1 * RAMP * consistency)


def test_the_student_learns_from_the_unlabelled_and_the_teacher_does_not():
    method = MeanTeacher(Voxelwise(), ENTROPY, MeanTeacherConfig(noise=0.0))
    set_slope(method.teacher.network, 0)
    method.on_step_start(HALVES)
    found = method.step(batch_of(picture(0.5), [1], picture(0.75)))
    found["loss"].backward()
    # d/dslope of (p − 1/2)² at x = ln 3, p = 3/4: 2 · 1/4 · p(1 − p) · x. The labelled voxel has
    # x = 0 and no say in it.
    expected = 0.1 * RAMP * 0.5 * 0.1875 * math.log(3)
    assert method.student.slope.grad.item() == pytest.approx(expected, rel=1e-5)
    assert method.teacher.network.slope.grad is None


def test_the_teacher_follows_the_student_and_its_counters():
    method = MeanTeacher(Voxelwise(), ENTROPY, MeanTeacherConfig(decay=0.6))
    values = []
    # α = min(1 − 1/(t + 1), 0.6) = 0, 1/2, 0.6.
    for step, slope in enumerate((8.0, 4.0, 1.0)):
        set_slope(method.student, slope)
        method.student.seen.fill_(step + 1)
        method.on_step_end(HALVES)
        values.append(method.teacher.network.slope.item())
    assert values == pytest.approx([8, 6, 0.6 * 6 + 0.4])
    assert method.teacher.network.seen.item() == 3
    other = MeanTeacher(Voxelwise(), ENTROPY, MeanTeacherConfig(decay=0.6))
    other.load_state_dict(method.state_dict())
    assert other.teacher.updates == 3


def test_uncertainty_masks_what_is_near_a_half():
    config = UncertaintyConfig(noise=0.0)
    method = UncertaintyAwareMeanTeacher(Voxelwise(0.0), ENTROPY, config)
    set_slope(method.teacher.network, 1)
    start = Progress(0, 100, 10)
    method.on_step_start(start)
    # Entropies 0.325, 0.611 and 0.693; the threshold is (0.75 + 0.25·e⁻⁵)·ln 2 = 0.521.
    unlabelled = picture(0.9, 0.3, 0.5)
    batch = batch_of(picture(0.8, 0.8, 0.8), [1, 1, 1], unlabelled)
    assert method.certain(batch["unlabelled"]).flatten().tolist() == [True, False, False]
    found = method.step(batch)
    # The student says 1/2: (0.9 − 0.5)² in both classes, over one voxel and two classes.
    assert found["consistency"].item() == pytest.approx(0.16)
    assert found["certain"].item() == pytest.approx(1 / 3)
    assert found["loss"].item() == pytest.approx(math.log(2) + 0.1 * math.exp(-5) * 0.16)
    # At 90 % of the run the threshold is (0.75 + 0.25·e^−0.05)·ln 2 = 0.685.
    method.on_step_start(Progress(90, 100, 10))
    assert method.certain(batch["unlabelled"]).flatten().tolist() == [True, True, False]


def test_uncertainty_is_that_of_the_mean_prediction():
    method = UncertaintyAwareMeanTeacher(Voxelwise(), ENTROPY, UncertaintyConfig(passes=2))
    sure = iter([torch.tensor([9.0, -9.0]), torch.tensor([-9.0, 9.0])])
    method.taught = lambda batch, number: next(sure).view(1, 2, 1, 1)
    method.on_step_start(Progress(99, 100, 10))
    # Each pass is sure of another class: their mean is 1/2.
    assert not method.certain({}).any()


def test_nothing_certain_is_no_consistency_loss():
    method = UncertaintyAwareMeanTeacher(Voxelwise(), ENTROPY, UncertaintyConfig(noise=0.0))
    method.on_step_start(HALVES)
    found = method.step(batch_of(picture(0.8, 0.8), [1, 1], picture(0.5, 0.5)))
    assert found["consistency"].item() == 0
    assert found["loss"].item() == pytest.approx(-math.log(0.8))


def test_cross_supervision():
    first, second = Voxelwise(1), Voxelwise(-1)
    method = CrossSupervision(first, second, ENTROPY, CrossSupervisionConfig())
    method.on_step_start(HALVES)
    found = method.step(batch_of(picture(0.8), [1], picture(0.9)))
    # The first says 0.9 and is taught background (−ln 0.1), the second 0.1 and is taught lesion.
    crossed = -2 * math.log(0.1)
    supervised = -math.log(0.8) - math.log(0.2)
    assert found["crossed"].item() == pytest.approx(crossed, rel=1e-5)
    assert found["loss"].item() == pytest.approx(supervised + 0.1 * RAMP * crossed, rel=1e-5)
    found["loss"].backward()
    # −ln(1 − p) has the slope's gradient p·x in the first, whatever the second does with it.
    x, weight = logit(0.9), 0.1 * RAMP
    expected = -(1 - 0.8) * logit(0.8) + weight * 0.9 * x
    assert first.slope.grad.item() == pytest.approx(expected, rel=1e-4)


def copy_paste(**settings):
    config = CopyPasteConfig(**{"box": 0.5, "pretraining": 0.0, **settings})
    method = CopyPaste(Voxelwise(), IGNORING, config)
    method.on_step_start(HALVES)
    return method


def test_copy_paste_weights_regions():
    method = copy_paste()
    # The teacher sees lesion everywhere, and takes no part in the student's shift.
    with torch.no_grad():
        method.teacher.network.slope.zero_()
        method.teacher.network.shift.fill_(5.0)
    labelled = picture(0.8, 0.8, 0.8, 0.8).view(1, 1, 2, 2)
    unlabelled = picture(0.6, 0.6, 0.6, 0.6).view(1, 1, 2, 2)
    found = method.step(batch_of(labelled, [0, 0, 0, 0], unlabelled))
    # A box of one voxel. Into the labelled: three voxels of background at 0.8, and ½ of one taught
    # lesion at 0.6; the other way one voxel of background at 0.8, and ½ of three at 0.6.
    each = -math.log(0.2) - 0.5 * math.log(0.6)
    assert found["into_labelled"].item() == pytest.approx(each, rel=1e-5)
    assert found["into_unlabelled"].item() == pytest.approx(each, rel=1e-5)
    assert found["loss"].item() == pytest.approx(2 * each, rel=1e-5)


def test_copy_paste_first_learns_from_labelled_patches_pasted_into_each_other():
    method = copy_paste(pretraining=0.6)
    labelled = torch.cat([picture(*[p] * 4).view(1, 1, 2, 2) for p in (0.8, 0.9)])
    method.teacher.network.forward = None  # not asked
    found = method.step(batch_of(labelled, [0] * 4 + [1] * 4, labelled))
    # First: three voxels of its own background at 0.8, one of the other's lesion at 0.9; second:
    # three of lesion at 0.9, one of background at 0.8. Within the boxes and around them:
    within = (-math.log(0.9) - math.log(0.2)) / 2
    around = (-3 * math.log(0.2) - 3 * math.log(0.9)) / 6
    assert found["loss"].item() == pytest.approx(within + around, rel=1e-5)


def test_the_first_teacher_is_the_pretrained_student_then_an_average():
    method = copy_paste(pretraining=0.5)
    teacher = method.teacher.network
    for step, slope, expected in [(48, 4, 4.0), (49, 6, 6.0), (50, 16, 6.1), (51, 16, 6.199)]:
        method.on_step_start(Progress(step, 100, 10))
        assert method.pretrains == (step < 50)
        set_slope(method.student, slope)
        method.student.seen.fill_(step)
        method.on_step_end(Progress(step, 100, 10))
        assert teacher.slope.item() == pytest.approx(expected)
        assert teacher.seen.item() == step


def test_copy_paste_wants_pairs():
    method = copy_paste()
    batch = batch_of(picture(0.5, 0.5), [0, 0], torch.zeros(2, 1, 1, 2))
    with pytest.raises(ConfigError, match="mixes 1 labelled with 2 unlabelled"):
        method.step(batch)
    method = copy_paste(pretraining=0.6)
    with pytest.raises(ConfigError, match="a process has 1 at once"):
        method.step(batch)


class Halved(Voxelwise):
    """The same with an encoder of one channel and a decoder."""

    def __init__(self, slope=1.0):
        super().__init__(slope)
        self.encoder, self.decoder = nn.Identity(), nn.Identity()
        self.encoder.forward = lambda image: [image]
        self.decoder.forward = lambda features: Voxelwise.forward(self, features[0])


def dice_loss(p, g):
    """Lesion's and background's mean of one minus (2·Σpg + s) / (Σp² + Σg² + s), s = 10⁻⁵."""
    dice = []
    for flip in (False, True):
        a, b = ([1 - v for v in values] if flip else values for values in (p, g))
        both = sum(x * y for x, y in zip(a, b, strict=True))
        squares = sum(x * x for x in a) + sum(y * y for y in b)
        dice.append((2 * both + 1e-5) / (squares + 1e-5))
    return 1 - sum(dice) / 2


def test_unimatch_weighs_its_terms():
    loss = DiceCrossEntropy(LossConfig(dice_weight=0, smooth=0))
    config = UniMatchConfig(threshold=0.9, dropout=0.0, p_cutmix=0.0)
    method = UniMatch(Halved(), loss, config)
    # Weak: sure of lesion, unsure, sure of background.
    weak = picture(0.95, 0.7, 0.04)
    strong_1, strong_2 = picture(0.5, 0.9, 0.2), picture(0.6, 0.1, 0.3)
    batch = batch_of(picture(0.8, 0.8, 0.8), [1, 1, 1], weak, strong_1=strong_1, strong_2=strong_2)
    assert method.pseudo_labels(weak).flatten().tolist() == [1, IGNORE_LABEL, 0]
    found = method.step(batch)
    supervised = -math.log(0.8)
    view_1, view_2 = dice_loss((0.5, 0.2), (1, 0)), dice_loss((0.6, 0.3), (1, 0))
    features = dice_loss((0.95, 0.04), (1, 0))
    assert found["views"].item() == pytest.approx((view_1 + view_2) / 2, rel=1e-5)
    assert found["features"].item() == pytest.approx(features, rel=1e-4)
    assert found["sure"].item() == pytest.approx(2 / 3)
    expected = 0.5 * (supervised + 0.25 * (view_1 + view_2) + 0.5 * features)
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_unimatch_drops_channels_of_the_weak_view_alone():
    loss = DiceCrossEntropy(LossConfig(dice_weight=0, smooth=0))
    method = UniMatch(Halved(), loss, UniMatchConfig(p_cutmix=0.0))
    kept, dropped = [], []
    image = picture(0.99)
    for seed in range(40):
        batch = batch_of(picture(0.8), [1], image, strong_1=image, strong_2=image)
        batch["unlabelled"]["seed"] = torch.tensor([seed])
        found = method.step(batch)
        assert found["supervised"].item() == pytest.approx(-math.log(0.8), rel=1e-5)
        assert found["views"].item() == pytest.approx(dice_loss((0.99,), (1,)), rel=1e-3)
        # The only channel is zero (p = 1/2) or twice what it was.
        twice = 1 / (1 + math.exp(-2 * logit(0.99)))
        value = found["features"].item()
        if value == pytest.approx(dice_loss((0.5,), (1,)), rel=1e-3):
            dropped.append(seed)
        else:
            assert value == pytest.approx(dice_loss((twice,), (1,)), abs=1e-6)
            kept.append(seed)
    assert len(kept) > 10
    assert len(dropped) > 10


def test_unimatch_mixes_pictures_and_what_is_learnt_on_them_alike():
    """With boxes of other samples the strong views still agree with their targets."""
    loss = DiceCrossEntropy(LossConfig(dice_weight=0, smooth=0))
    method = UniMatch(Halved(), loss, UniMatchConfig(p_cutmix=1.0, dropout=0.0))
    weak = torch.cat([torch.full((1, 1, 8, 8), value) for value in (9.0, -9.0)])
    labelled = torch.zeros(2, 1, 8, 8)
    batch = batch_of(labelled, [0] * 128, weak, strong_1=weak, strong_2=weak)
    assert method.step(batch)["views"].item() == pytest.approx(0, abs=1e-3)


def test_unimatch_teaches_by_an_average_where_it_has_one():
    method = UniMatch(Halved(), ENTROPY, UniMatchConfig(teacher_decay=0.996))
    assert method.predictor == "teacher"
    set_slope(method.teacher.network, -1)
    assert method.pseudo_labels(picture(0.99)).item() == 0
    set_slope(method.student, 5)
    method.on_step_end(HALVES)
    assert method.teacher.network.slope.item() == 5
    assert method.state_dict() == {"updates": 1}
    alone = UniMatch(Halved(), ENTROPY, UniMatchConfig())
    assert (alone.predictor, list(alone.modules())) == ("student", ["student"])


def test_noisy_student_leaves_out_what_its_teacher_was_not_sure_of():
    method = NoisyStudent(Voxelwise(), IGNORING)
    found = method.step(
        {
            "labelled": {"image": picture(0.8, 0.9), "label": torch.tensor([[[1, 0]]])},
            "pseudo": {
                "image": picture(0.6, 0.3),
                "label": torch.tensor([[[1, IGNORE_LABEL]]]),
            },
        }
    )
    expected = -(math.log(0.8) + math.log(0.1) + math.log(0.6)) / 3
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
