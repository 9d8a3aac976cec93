"""Losses for dense, sparse and soft labels. Every one leaves out pixels labelled 255.

    loss = segmentation_loss(logits, target, config.train.loss, "multiclass")

A mean over known pixels must be the same mean when a batch is spread over processes. The sums are therefore divided by
`average(count)`: the identity in one process, the mean over processes in many (gradients are averaged afterwards).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from config import IGNORE_INDEX, Loss

Task = Literal["binary", "multiclass", "multilabel", "instances"]
Average = Callable[[Tensor], Tensor]


def identity(count: Tensor) -> Tensor:
    return count


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    loss: Loss,
    task: Task,
    class_weights: Tensor | None = None,
    average: Average = identity,
) -> Tensor:
    """Weighted sum of (focal, partial) cross-entropy and Dice: a scalar.

    `logits` are `(N, C, H, W)`; `target` is `(N, H, W) int64` for binary (C = 1), multiclass and instances, and
    `(N, C, H, W)` for multilabel, 255 meaning unknown. A batch of unknown pixels alone costs exactly 0.
    """
    logits = logits.float()
    if task in ("multiclass", "instances"):
        pixel_loss, known = _cross_entropy(logits, target, loss, class_weights)
        probabilities, truth = logits.softmax(1), _one_hot(target, logits.shape[1])
    else:
        target = target.unsqueeze(1) if target.dim() == 3 else target
        pixel_loss, known = _binary_cross_entropy(logits, target, loss, class_weights)
        probabilities, truth = logits.sigmoid(), (target == 1).float()
    total = logits.sum() * 0.0
    if loss.cross_entropy:
        total = total + loss.cross_entropy * pixel_loss.sum() / _not_zero(average(known.sum().float()))
    if loss.dice:
        mask = known if known.dim() == 4 else known.unsqueeze(1)
        total = total + loss.dice * _dice_loss(probabilities, truth, mask, average)
    return total


def soft_loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Mean cross-entropy of `logits` `(N, C, H, W)` against soft labels of that shape, float in [0, 1]."""
    logits = logits.float()
    if task in ("multiclass", "instances"):
        return -(labels * logits.log_softmax(1)).sum(1).mean()
    return functional.binary_cross_entropy_with_logits(logits, labels)


def consistency_loss(
    logits: Tensor, teacher: Tensor, threshold: float, kind: Literal["cross_entropy", "mse"], task: Task
) -> tuple[Tensor, Tensor]:
    """The student's strong view against the teacher's probabilities `(N, C, H, W)` of the weak one.

    Cross-entropy learns the teacher's best class where it is surer than `threshold` (FixMatch, arXiv:2001.07685;
    UniMatch, arXiv:2208.09910); "mse" compares probabilities everywhere (mean teacher, arXiv:1703.01780). Both are
    means over all pixels, so that doubt lowers the weight. Returns the loss and the share of pixels kept.
    """
    logits, exclusive = logits.float(), task in ("multiclass", "instances")
    if kind == "mse":
        student = logits.softmax(1) if exclusive else logits.sigmoid()
        return functional.mse_loss(student, teacher), torch.ones((), device=logits.device)
    if exclusive:
        confidence, label = teacher.max(1)
        pixel_loss = functional.cross_entropy(logits, label, reduction="none")
    else:
        confidence, label = torch.maximum(teacher, 1.0 - teacher), (teacher > 0.5).float()
        pixel_loss = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    kept = (confidence >= threshold).float()
    return (pixel_loss * kept).mean(), kept.mean()


def gated_crf_loss(logits: Tensor, image: Tensor, task: Task, radius: int = 5, stride: int = 2) -> Tensor:
    """Gated CRF loss (arXiv:1906.04651): neighbours of like colour should get like answers. A scalar.

    The mean over pixels of the sum over neighbours within `radius` (a square) of kernel × (1 − the answers' overlap),
    the kernel being exp(−distance² / 2·6² − colour distance² / 2·0.1²). `image` `(N, C, H, W)` is on the scale [0, 1].
    Both are first averaged over squares of `stride` pixels, as the paper's networks answer at a coarser scale too.
    """
    logits = logits.float()
    if task in ("multiclass", "instances"):
        answers = logits.softmax(1)
    else:  # each plane is a question of two answers
        present = logits.sigmoid().flatten(0, 1).unsqueeze(1)
        answers = torch.cat([present, 1.0 - present], 1)
        image = image.repeat_interleave(logits.shape[1], 0)
    answers = functional.avg_pool2d(answers, stride, ceil_mode=True)
    with torch.no_grad():
        guide = functional.avg_pool2d(image.float(), stride, ceil_mode=True)
        received, kernels = _pass_messages(answers, guide, radius)
    # the kernel is symmetric: the gradient of the sum of answers × received is twice what is received, which needs no
    # graph through all the shifts
    overlap = (answers * received).sum()
    return (kernels - 2.0 * overlap + overlap.detach()) / answers[:, 0].numel()


def _pass_messages(answers: Tensor, guide: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """What each pixel hears from its neighbours, `(N, K, H, W)`: kernel × their answers; and the sum of all kernels."""
    received, kernels = torch.zeros_like(answers), answers.new_zeros(())
    height, width = answers.shape[-2:]
    for down in range(min(radius, height - 1) + 1):
        for right in range(-radius if down else 1, radius + 1):  # half of the neighbours; the others mirror them
            if abs(right) >= width:
                continue
            here = (..., slice(0, height - down), slice(max(0, -right), width - max(0, right)))
            there = (..., slice(down, height), slice(max(0, right), width - max(0, -right)))
            distance = (guide[here] - guide[there]).square().sum(1, keepdim=True) / (2 * 0.1**2)
            kernel = torch.exp(-distance - (down**2 + right**2) / (2 * 6.0**2))
            received[here].addcmul_(kernel, answers[there])
            received[there].addcmul_(kernel, answers[here])
            kernels = kernels + 2.0 * kernel.sum()
    return received, kernels


def class_weights(
    counts: Tensor, kind: Literal["none", "frequency", "sqrt_frequency"], exclusive: bool = True
) -> Tensor | None:
    """Weights from pixel counts `(C,)`: inverse to the (root of the) frequency, of mean 1 over the labelled pixels.

    A class that never occurs gets weight 0, as nothing can be learnt of it. Classes that are not `exclusive` have a
    plane each, and each plane all pixels: then the mean over those that occur is 1, and one that never does, of which
    its absence can be learnt, weighs 1.
    """
    if kind == "none":
        return None
    share = counts.double() / counts.sum()
    inverse = torch.where(share > 0, 1.0 / share.clamp(min=1e-12), torch.zeros_like(share))
    weights = inverse if kind == "frequency" else inverse.sqrt()
    if exclusive:
        return (weights / (weights * share).sum()).float()
    return torch.where(share > 0, weights / weights[share > 0].mean(), 1.0).float()


def _cross_entropy(logits: Tensor, target: Tensor, loss: Loss, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    known = target != IGNORE_INDEX
    pixel_loss = functional.cross_entropy(
        logits, target, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=loss.label_smoothing
    )
    if loss.focal_gamma:
        log_probability = -functional.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none")
        pixel_loss = pixel_loss * _focal_factor(log_probability.exp(), loss.focal_gamma)
    if weights is not None:
        pixel_loss = pixel_loss * weights[torch.where(known, target, 0)]
    return pixel_loss * known, known


def _binary_cross_entropy(logits: Tensor, target: Tensor, loss: Loss, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    known = target != IGNORE_INDEX
    truth = (target == 1).float()
    smooth = truth * (1.0 - loss.label_smoothing) + 0.5 * loss.label_smoothing
    pixel_loss = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    if loss.focal_gamma:
        probability = torch.where(truth > 0, logits.sigmoid(), 1.0 - logits.sigmoid())
        pixel_loss = pixel_loss * _focal_factor(probability, loss.focal_gamma)
    if weights is not None and logits.shape[1] == 1:  # binary: weights of background and class
        pixel_loss = pixel_loss * torch.where(truth > 0, weights[1], weights[0])
    elif weights is not None:
        pixel_loss = pixel_loss * weights.view(1, -1, 1, 1)
    return pixel_loss * known, known


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """`(N, H, W)` → `(N, C, H, W) float`, all zero where the label is unknown."""
    known = target != IGNORE_INDEX
    one_hot = functional.one_hot(torch.where(known, target, 0), classes).movedim(-1, 1)
    return one_hot * known.unsqueeze(1)


def _dice_loss(probabilities: Tensor, truth: Tensor, known: Tensor, average: Average) -> Tensor:
    """1 − soft Dice per image and class, over the classes that occur in the image (arXiv:1606.04797).

    `truth` is 0 where the label is unknown.
    """
    axes = (2, 3)
    overlap, area = (probabilities * truth).sum(axes), truth.sum(axes)
    size = (probabilities * known).sum(axes) + area
    present = (area > 0).float()
    loss = 1.0 - (2.0 * overlap + 1.0) / (size + 1.0)
    return (loss * present).sum() / _not_zero(average(present.sum()))


def _not_zero(count: Tensor) -> Tensor:
    """A mean over processes may lie between 0 and 1 and stays as it is; 0, where the sum is 0 too, becomes 1."""
    return torch.where(count > 0, count, torch.ones_like(count))


def _focal_factor(probability: Tensor, gamma: float) -> Tensor:
    """(1 - probability) ** gamma, with a slope that stays finite at probability 1 where gamma is below 1."""
    return (1.0 - probability).clamp(min=1e-8 if gamma < 1.0 else 0.0) ** gamma
