"""Each method's loss against a second formulation: numpy, sample by sample, voxel by voxel."""

import itertools

import numpy as np
import pytest
import tiny_methods
import torch

from covidseg.engine.cutmix import draw_box as cutmix_box
from covidseg.engine.loss_functions import deep_supervision_weights
from covidseg.engine.method import Progress
from covidseg.engine.seeds import derived_seed
from covidseg.networks.build import evaluation_mode
from covidseg.pseudolabel.mixing import draw_box
from covidseg.pseudolabel.together import with_noise

PROGRESS = Progress(step=30, steps=40, steps_per_epoch=10)
WEIGHT = 0.1 * np.exp(-5 * 0.25**2)
SMOOTH, IGNORED = 1e-5, 255


def method_of(name, dimensions):
    """A method half-way, its teacher and student apart."""
    recipe = tiny_methods.recipe_of(name, dimensions)
    method = tiny_methods.method_of(recipe)
    torch.manual_seed(1)
    for network in method.modules().values():
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    method.on_step_start(PROGRESS)
    return method


def softmax(logits):
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def probabilities(network, image, *, evaluate=False):
    """A list of levels, each (B, C, *spatial) float64."""
    with torch.no_grad():
        if evaluate:
            with evaluation_mode(network):
                levels = network(image)
        else:
            levels = network(image)
    levels = levels if isinstance(levels, list) else [levels]
    return [softmax(level.double().numpy()) for level in levels]


def dice_loss(p, g):
    """One minus soft Dice of the lesion; p, g lists of numbers of the voxels that count."""
    tp = sum(a * b for a, b in zip(p, g, strict=True))
    return 1 - (2 * tp + SMOOTH) / (sum(p) + sum(g) + SMOOTH)


def dice_cross_entropy(levels, labels, count):
    """½·(Dice + cross-entropy) of the samples in ``count``, voxel by voxel, over all levels."""
    total = 0.0
    for weight, p in zip(deep_supervision_weights(len(levels)), levels, strict=True):
        if not weight:
            continue
        shape = p.shape[2:]
        stride = [a // b for a, b in zip(labels.shape[1:], shape, strict=True)]
        foreground, truth, entropies = [], [], []
        for sample in count:
            for voxel in itertools.product(*map(range, shape)):
                # The nearest voxel of the full grid to the middle of a coarse one.
                at = tuple(int((v + 0.5) * s) for v, s in zip(voxel, stride, strict=True))
                label = labels[(sample, *at)]
                if label == IGNORED:
                    continue
                foreground.append(p[(sample, 1, *voxel)])
                truth.append(float(label == 1))
                entropies.append(-np.log(p[(sample, int(label), *voxel)]))
        total += weight * 0.5 * (dice_loss(foreground, truth) + np.mean(entropies))
    return total


def labelled_loss(levels, batch, count=range(4)):
    return dice_cross_entropy(levels, batch["labelled"]["label"].numpy(), count)


def noisy(batch, number):
    seeds = [derived_seed(seed, 1, number) for seed in batch["seed"].tolist()]
    return with_noise(batch["image"], seeds, std=0.1, limit=0.2)


def loss_of(method, batch):
    with torch.no_grad():
        return {name: value.item() for name, value in method.step(batch).items()}


@pytest.fixture(params=[2, 3])
def dimensions(request):
    return request.param


def test_noisy_student(dimensions):
    batch = tiny_methods.batch_of("noisy-student", dimensions)
    method = method_of("noisy-student", dimensions)
    labels = torch.cat([batch["labelled"]["label"], batch["pseudo"]["label"]]).numpy()
    assert (labels == IGNORED).any()
    image = torch.cat([batch["labelled"]["image"], batch["pseudo"]["image"]])
    expected = dice_cross_entropy(probabilities(method.network, image), labels, range(8))
    assert loss_of(method, batch)["loss"] == pytest.approx(expected, rel=1e-5)


def test_mean_teacher(dimensions):
    batch = tiny_methods.batch_of("mean-teacher", dimensions)
    method = method_of("mean-teacher", dimensions)
    image = torch.cat([batch["labelled"]["image"], batch["unlabelled"]["image"]])
    levels = probabilities(method.student, image)
    (target,) = probabilities(method.teacher.network, noisy(batch["unlabelled"], 0))
    supervised = labelled_loss(levels, batch)
    squares = [(a - b) ** 2 for a, b in zip(levels[0][4:].flat, target.flat, strict=True)]
    expected = supervised + WEIGHT * sum(squares) / len(squares)
    found = loss_of(method, batch)
    assert found["supervised"] == pytest.approx(supervised, rel=1e-5)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_ua_mt(dimensions):
    batch = tiny_methods.batch_of("ua-mt", dimensions)
    method = method_of("ua-mt", dimensions)
    image = torch.cat([batch["labelled"]["image"], batch["unlabelled"]["image"]])
    levels = probabilities(method.student, image)
    (target,) = probabilities(method.teacher.network, noisy(batch["unlabelled"], 0))
    passes = [
        probabilities(method.teacher.network, noisy(batch["unlabelled"], 1 + i))[0]
        for i in range(8)
    ]
    threshold = (0.75 + 0.25 * np.exp(-5 * 0.25**2)) * np.log(2)
    numerator = denominator = 0.0
    for sample in range(4):
        for voxel in itertools.product(*map(range, target.shape[2:])):
            at = (sample, slice(None), *voxel)
            mean = sum(one[at] for one in passes) / 8
            if -sum(m * np.log(m + 1e-6) for m in mean) < threshold:
                numerator += sum((levels[0][4:][at] - target[at]) ** 2)
                denominator += 2
    assert 0 < denominator < target.size
    expected = labelled_loss(levels, batch) + WEIGHT * numerator / denominator
    assert loss_of(method, batch)["loss"] == pytest.approx(expected, rel=1e-5)


def test_cps(dimensions):
    batch = tiny_methods.batch_of("cps", dimensions)
    method = method_of("cps", dimensions)
    image = torch.cat([batch["labelled"]["image"], batch["unlabelled"]["image"]])
    networks = [probabilities(network, image) for network in (method.first, method.second)]
    total = sum(labelled_loss(levels, batch) for levels in networks)
    for own, other in (networks, networks[::-1]):
        p, taught = np.moveaxis(own[0][4:], 1, -1), other[0][4:].argmax(1)
        entropies = [-np.log(row[c]) for row, c in zip(p.reshape(-1, 2), taught.flat, strict=True)]
        total += WEIGHT * np.mean(entropies)
    assert loss_of(method, batch)["loss"] == pytest.approx(total, rel=1e-5)


def test_bcp(dimensions):
    batch = tiny_methods.batch_of("bcp", dimensions)
    method = method_of("bcp", dimensions)
    image = batch["labelled"]["image"].numpy()
    label, other = batch["labelled"]["label"].numpy(), batch["unlabelled"]["image"].numpy()
    (teacher,) = probabilities(method.teacher.network, batch["unlabelled"]["image"])
    pseudo = teacher.argmax(1)
    assert {0, 1} == set(pseudo.flat)
    inwards, outwards = image.copy(), other.copy()
    inside = np.zeros(label.shape, bool)
    for sample, seed in enumerate(batch["labelled"]["seed"].tolist()):
        box = draw_box(derived_seed(seed, 2), label.shape[1:], 2 / 3)
        inside[(sample, *box)] = True
        inwards[(sample, 0, *box)] = other[(sample, 0, *box)]
        outwards[(sample, 0, *box)] = image[(sample, 0, *box)]
    levels = probabilities(method.student, torch.from_numpy(np.concatenate([inwards, outwards])))
    halves = [[level[:4] for level in levels], [level[4:] for level in levels]]
    total = 0.0
    for half, true in ((halves[0], ~inside), (halves[1], inside)):
        total += dice_cross_entropy(half, np.where(true, label, IGNORED), range(4))
        total += 0.5 * dice_cross_entropy(half, np.where(true, IGNORED, pseudo), range(4))
    assert loss_of(method, batch)["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", ["unimatch", "unimatch-v2"])
def test_unimatch(dimensions, name):
    batch = tiny_methods.batch_of(name, dimensions)
    method = method_of(name, dimensions)
    unlabelled = batch["unlabelled"]
    seeds = unlabelled["seed"].tolist()
    teacher = method.student if method.teacher is None else method.teacher.network
    (weak,) = probabilities(teacher, unlabelled["image"], evaluate=True)
    # Before passes in training mode move the batch norm's averages, which the teacher uses.
    found = loss_of(method, batch)["loss"]
    pseudo = np.where(weak.max(1) >= 0.55, weak.argmax(1), IGNORED)
    assert {0, 1, IGNORED} == set(pseudo.flat)
    views, targets = [], []
    for number in range(2):
        view = unlabelled[f"strong_{number + 1}"].numpy().copy()
        target = pseudo.copy()
        for sample, seed in enumerate(seeds):
            box = cutmix_box(derived_seed(seed, 3, number), 0.5, view.shape[-2:])
            if box is not None:
                neighbour = sample + 1 if sample % 2 == 0 else sample - 1
                original = unlabelled[f"strong_{number + 1}"][neighbour].numpy()
                view[sample][(..., *box)] = original[(..., *box)]
                target[sample][(..., *box)] = pseudo[neighbour][(..., *box)]
        views.append(torch.from_numpy(view))
        targets.append(target)
    images = torch.cat([batch["labelled"]["image"], unlabelled["image"], *views])
    with torch.no_grad():
        features = [feature.clone() for feature in method.student.encoder(images)]
        for sample, seed in enumerate(seeds):
            draws = torch.Generator().manual_seed(derived_seed(seed, 4))
            chances = torch.rand(sum(f.shape[1] for f in features), generator=draws)
            for feature in features:
                own, chances = chances[: feature.shape[1]], chances[feature.shape[1] :]
                feature[4 + sample, own < 0.5] = 0
                feature[4 + sample] *= 2
        levels = method.student.decoder(features)
    levels = [
        softmax(level.double().numpy()) for level in (levels if dimensions == 3 else [levels])
    ]

    def against(p, target):
        sure = target != IGNORED
        dice = []
        for value in (0, 1):
            q, g = p[:, value][sure], target[sure] == value
            dice.append((2 * q[g].sum() + 1e-5) / ((q**2).sum() + g.sum() + 1e-5))
        return 1 - np.mean(dice)

    p = levels[0]
    expected = 0.5 * (
        labelled_loss(levels, batch)
        + 0.25 * (against(p[8:12], targets[0]) + against(p[12:], targets[1]))
        + 0.5 * against(p[4:8], pseudo)
    )
    assert found == pytest.approx(expected, rel=1e-5)
