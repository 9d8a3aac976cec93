"""Losses against loops in NumPy."""

import math

import numpy as np
import pytest
import torch

from config import Loss
from losses import class_weights, consistency_loss, gated_crf_loss, segmentation_loss, soft_loss

CE = Loss(cross_entropy=1.0, dice=0.0)
DICE = Loss(cross_entropy=0.0, dice=1.0)
SETTINGS = [
    Loss(cross_entropy=1.0, dice=0.0),
    Loss(cross_entropy=0.7, dice=0.0, focal_gamma=2.0),
    Loss(cross_entropy=1.0, dice=0.0, focal_gamma=0.5),
    Loss(cross_entropy=1.0, dice=0.0, label_smoothing=0.1),
    Loss(cross_entropy=1.3, dice=0.0, focal_gamma=1.5, label_smoothing=0.2),
    Loss(cross_entropy=1.0, dice=0.4),
]
IDS = ["plain", "focal", "focal below 1", "smooth", "focal and smooth", "with dice"]
CHANNELS = {"multiclass": 3, "binary": 1, "multilabel": 3, "instances": 3}


def make_batch(task: str, seed: int = 0, count: int = 3, unknown: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    channels = CHANNELS[task]
    logits = torch.from_numpy(rng.normal(0, 2, (count, channels, 5, 4)).astype(np.float32))
    if task == "multilabel":
        target = rng.integers(0, 2, (count, channels, 5, 4))
    else:
        target = rng.integers(0, max(2, channels), (count, 5, 4))
    target[rng.random(target.shape) < unknown] = 255
    return logits, torch.from_numpy(target)


def pixel_cost(row: np.ndarray, label: int, loss: Loss, weights: list[float], exclusive: bool) -> float:
    """One known pixel of one softmax, or of one sigmoid plane (`row` of one logit)."""
    if exclusive:
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        aim = np.full(len(row), loss.label_smoothing / len(row))
        aim[label] += 1.0 - loss.label_smoothing
        true = probabilities[label]
    else:
        present = 1.0 / (1.0 + math.exp(-row[0]))
        probabilities = np.array([1.0 - present, present])
        aim = np.full(2, loss.label_smoothing / 2)
        aim[label] += 1.0 - loss.label_smoothing
        true = probabilities[label]
    return float(weights[label] * (1.0 - true) ** loss.focal_gamma * -(aim * np.log(probabilities)).sum())


def reference(logits: torch.Tensor, target: torch.Tensor, loss: Loss, task: str, weights: list[float]) -> float:
    exclusive = task in ("multiclass", "instances")
    x, y = logits.numpy().astype(np.float64), target.numpy()
    if task == "binary":
        y = y[:, None]
    cost, known, dices = 0.0, 0, []
    for n in range(len(x)):
        planes = range(x.shape[1]) if not exclusive else [None]
        for plane in planes:
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    label = y[n, i, j] if exclusive else y[n, plane, i, j]
                    if label == 255:
                        continue
                    known += 1
                    row = x[n, :, i, j] if exclusive else x[n, plane : plane + 1, i, j]
                    many = [weights[plane]] * 2 if task == "multilabel" else weights
                    cost += pixel_cost(row, label, loss, many, exclusive)
        for plane in range(x.shape[1]):
            label = y[n] if exclusive else y[n, plane]
            sure = label != 255
            truth = (label == (plane if exclusive else 1)) & sure
            if not truth.any():
                continue
            e = np.exp(x[n] - x[n].max(0))
            p = (e / e.sum(0))[plane] if exclusive else 1.0 / (1.0 + np.exp(-x[n, plane]))
            dices.append(1.0 - (2.0 * p[truth].sum() + 1.0) / (p[sure].sum() + truth.sum() + 1.0))
    return loss.cross_entropy * cost / max(known, 1) + loss.dice * (np.mean(dices) if dices else 0.0)


@pytest.mark.parametrize("loss", SETTINGS, ids=IDS)
@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_agrees_with_a_loop(task: str, loss: Loss, weighted: bool) -> None:
    logits, target = make_batch(task)
    weights = [0.4, 1.7, 0.9][: max(2, CHANNELS[task])] if weighted else [1.0] * 3
    given = torch.tensor(weights) if weighted else None
    found = segmentation_loss(logits, target, loss, task, given)
    assert found.item() == pytest.approx(reference(logits, target, loss, task, weights), rel=2e-5)


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_an_unknown_batch_costs_exactly_nothing(task: str, gamma: float) -> None:
    logits, target = make_batch(task, unknown=2.0)
    logits = (logits * 20).requires_grad_()
    loss = segmentation_loss(logits, target, Loss(focal_gamma=gamma, label_smoothing=0.1), task)
    loss.backward()
    assert loss.item() == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_stay_finite_at_certainty(task: str, gamma: float) -> None:
    logits, target = make_batch(task)
    logits = (logits * 100).requires_grad_()
    segmentation_loss(logits, target, Loss(focal_gamma=gamma), task).backward()
    assert torch.isfinite(logits.grad).all()


def test_unknown_pixels_have_no_gradient() -> None:
    for task in CHANNELS:
        logits, target = make_batch(task)
        logits.requires_grad_()
        segmentation_loss(logits, target, Loss(), task).backward()
        unknown = target == 255 if task == "multilabel" else (target == 255).unsqueeze(1).expand_as(logits)
        assert (logits.grad[unknown] == 0).all()
        assert (logits.grad[~unknown] != 0).all()


def test_dice_leaves_out_absent_classes() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 3, 4, 4)
    # class 0 alone: p = 1/3 on 16 pixels
    expected = 1 - (2 * 16 / 3 + 1) / (16 / 3 + 16 + 1)
    assert segmentation_loss(logits, target, DICE, "multiclass").item() == pytest.approx(expected)
    empty = torch.zeros(2, 4, 4, dtype=torch.int64)
    assert segmentation_loss(torch.randn(2, 1, 4, 4), empty, DICE, "binary").item() == 0.0


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("loss", [CE, DICE, Loss(focal_gamma=2.0)], ids=["ce", "dice", "both"])
def test_halves_on_two_processes_mean_the_whole(task: str, loss: Loss) -> None:
    """Each half divides by the mean count over both; the mean of losses, as of gradients, is then the whole's."""
    dense = make_batch(task, seed=1, count=3, unknown=0.1)
    sparse = make_batch(task, seed=2, count=1, unknown=0.8)
    check_halves(dense, sparse, loss, task)


@pytest.mark.parametrize("loss", [CE, DICE], ids=["ce", "dice"])
def test_a_mean_count_below_one_is_kept(loss: Loss) -> None:
    """One known pixel in all, on one of two processes: the mean count is one half."""
    logits, target = make_batch("binary", count=2, unknown=2.0)
    target[0, 2, 2] = 1
    check_halves((logits[:1], target[:1]), (logits[1:], target[1:]), loss, "binary")


def check_halves(first: tuple, second: tuple, loss: Loss, task: str) -> None:
    counts: list[list[torch.Tensor]] = []
    for logits, target in (first, second):
        seen: list[torch.Tensor] = []
        segmentation_loss(logits, target, loss, task, average=lambda count, seen=seen: seen.append(count) or count)
        counts.append(seen)
    means = [torch.stack(pair).mean(0) for pair in zip(*counts, strict=True)]
    halves = []
    for logits, target in (first, second):
        rest = iter(means)
        halves.append(segmentation_loss(logits, target, loss, task, average=lambda _, rest=rest: next(rest)).item())
    whole = segmentation_loss(*(torch.cat(pair) for pair in zip(first, second, strict=True)), loss, task).item()
    assert whole > 0
    assert np.mean(halves) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
def test_soft_loss_agrees_with_numpy(task: str) -> None:
    logits, _ = make_batch(task)
    rng = np.random.default_rng(3)
    labels = rng.random(tuple(logits.shape)).astype(np.float32)
    x = logits.numpy().astype(np.float64)
    if task == "multiclass":
        labels /= labels.sum(1, keepdims=True)
        expected = -(labels * (x - np.log(np.exp(x).sum(1, keepdims=True)))).sum(1).mean()
    else:
        p = 1 / (1 + np.exp(-x))
        expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert soft_loss(logits, torch.from_numpy(labels), task).item() == pytest.approx(expected, rel=1e-5)


def test_a_hard_soft_label_is_cross_entropy() -> None:
    logits, target = make_batch("multiclass", unknown=0.0)
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    hard = segmentation_loss(logits, target, CE, "multiclass").item()
    assert soft_loss(logits, one_hot, "multiclass").item() == pytest.approx(hard, rel=1e-6)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9, 1.0])
def test_consistency_learns_the_teachers_sure_pixels(task: str, threshold: float) -> None:
    logits, _ = make_batch(task)
    raw, _ = make_batch(task, seed=7)
    exclusive = task == "multiclass"
    teacher = raw.softmax(1) if exclusive else raw.sigmoid()
    p, x = teacher.numpy().astype(np.float64), logits.numpy().astype(np.float64)
    if exclusive:
        sure, best = p.max(1) >= threshold, p.argmax(1)
        log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
        costs = -np.take_along_axis(log_p, best[:, None], 1)[:, 0]
    else:
        sure = np.maximum(p, 1 - p) >= threshold
        student = 1 / (1 + np.exp(-x))
        costs = -np.log(np.where(p > 0.5, student, 1 - student))
    loss, kept = consistency_loss(logits, teacher, threshold, "cross_entropy", task)
    assert kept.item() == pytest.approx(sure.mean())
    assert loss.item() == pytest.approx((costs * sure).mean(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_mse_compares_probabilities_everywhere(task: str) -> None:
    logits, _ = make_batch(task)
    raw, _ = make_batch(task, seed=7)
    turn = (lambda one: one.softmax(1)) if task == "multiclass" else torch.sigmoid
    loss, kept = consistency_loss(logits, turn(raw), 0.99, "mse", task)
    assert loss.item() == pytest.approx(((turn(logits) - turn(raw)).numpy() ** 2).mean(), rel=1e-5)
    assert kept.item() == 1.0


@pytest.mark.parametrize("kind", ["frequency", "sqrt_frequency"])
def test_class_weights_are_one_on_average(kind: str) -> None:
    counts = torch.tensor([900, 90, 0, 10])
    weights = class_weights(counts, kind).numpy().astype(np.float64)
    assert weights[2] == 0.0
    assert (weights * counts.numpy()).sum() / 1000 == pytest.approx(1.0)
    power = 1.0 if kind == "frequency" else 0.5
    assert weights[3] / weights[0] == pytest.approx(90.0**power)
    assert class_weights(counts, "none") is None


@pytest.mark.parametrize("kind", ["frequency", "sqrt_frequency"])
def test_class_weights_of_planes_are_one_on_average(kind: str) -> None:
    """Each plane has all pixels, so that of an absent class teaches too."""
    weights = class_weights(torch.tensor([900, 90, 0, 10]), kind, exclusive=False).numpy().astype(np.float64)
    assert weights[2] == 1.0
    assert weights.mean() == pytest.approx(1.0)
    assert weights[3] / weights[0] == pytest.approx(90.0 ** (1.0 if kind == "frequency" else 0.5))


def test_half_precision_logits_cost_what_full_ones_do() -> None:
    logits, target = make_batch("multiclass")
    half = logits.bfloat16()
    found = segmentation_loss(half, target, Loss(), "multiclass")
    assert found.dtype == torch.float32
    assert found.item() == segmentation_loss(half.float(), target, Loss(), "multiclass").item()


def crf_by_pairs(answers: torch.Tensor, image: torch.Tensor, radius: int) -> torch.Tensor:
    """The mean over pixels of the sum over neighbours of kernel × (1 - overlap), pair by pair."""
    total, (count, _, height, width) = torch.zeros(()), answers.shape
    for n, row, column in np.ndindex(count, height, width):
        for other, beside in np.ndindex(height, width):
            down, right = other - row, beside - column
            if max(abs(down), abs(right)) > radius or (down, right) == (0, 0):
                continue
            colour = ((image[n, :, row, column] - image[n, :, other, beside]) ** 2).sum()
            kernel = math.exp(-(down**2 + right**2) / 72.0 - float(colour) / 0.02)
            total = total + kernel * (1.0 - (answers[n, :, row, column] * answers[n, :, other, beside]).sum())
    return total / (count * height * width)


@pytest.mark.parametrize(("task", "stride"), [("multiclass", 1), ("multiclass", 2), ("binary", 1), ("multilabel", 2)])
def test_the_gated_crf_loss_and_its_gradient_are_those_of_all_pairs(task: str, stride: int) -> None:
    generator = torch.Generator().manual_seed(5)
    channels = CHANNELS[task]
    logits = torch.randn(2, channels, 6, 4, generator=generator, requires_grad=True)
    image = torch.rand(2, 3, 6, 4, generator=generator) * 0.3
    if task == "multiclass":
        answers, guide = logits.softmax(1), image
    else:
        present = logits.sigmoid().reshape(2 * channels, 1, 6, 4)
        answers, guide = torch.cat([present, 1 - present], 1), image.repeat_interleave(channels, 0)
    answers, guide = (torch.nn.functional.avg_pool2d(one, stride) for one in (answers, guide))
    expected = crf_by_pairs(answers, guide, radius=2)
    (slope,) = torch.autograd.grad(expected, logits)
    loss = gated_crf_loss(logits, image, task, radius=2, stride=stride)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], slope, rtol=1e-4, atol=1e-6)


def test_the_gated_crf_loss_asks_like_pixels_for_like_answers() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1.0
    sure = torch.zeros(1, 2, 8, 8)
    sure[:, 0, :, :4], sure[:, 1, :, 4:] = 50.0, 50.0
    assert gated_crf_loss(sure, image, "multiclass", stride=1).item() == pytest.approx(0.0, abs=1e-4)
    torn = sure.clone()
    torn[:, :, 4:] = sure[:, [1, 0], 4:]
    assert gated_crf_loss(torn, image, "multiclass", stride=1).item() > 1.0
    assert gated_crf_loss(sure[:, :, :1, :1], image[:, :, :1, :1], "multiclass").item() == 0.0
