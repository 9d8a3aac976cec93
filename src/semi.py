"""The unlabelled half of a training step: an EMA teacher's view of a weak image teaches the student's of a strong one.

    loss, kept = teach(student_logits, ema, weak_images, settings, task, weight=ramp(epoch, settings))

Mean teacher (arXiv:1703.01780) with FixMatch's weak-to-strong pairs (arXiv:2001.07685) and CutMix, which the dataset
draws: both views of an image carry the same rectangle.
"""

import math

import torch
from torch import Tensor, nn

from config import Consistency
from losses import Task, consistency_loss


def ramp(epoch: int, settings: Consistency) -> float:
    """The weight of the unlabelled loss: a Gaussian ramp from near 0 to `weight` over `ramp_epochs`."""
    if not settings.ramp_epochs:
        return settings.weight
    progress = min(1.0, epoch / settings.ramp_epochs)
    return settings.weight * math.exp(-5.0 * (1.0 - progress) ** 2)


def teach(
    student_logits: Tensor, teacher: nn.Module, weak_images: Tensor, settings: Consistency, task: Task
) -> tuple[Tensor, Tensor]:
    """The unweighted unlabelled loss and the share of pixels it learnt from.

    `student_logits` `(N, K, H, W)` are of the strong views of `weak_images` `(N, C, H, W)`, in the same geometry.
    """
    with torch.no_grad():
        logits = teacher(weak_images).float()
        probabilities = logits.softmax(1) if task in ("multiclass", "instances") else logits.sigmoid()
    return consistency_loss(student_logits, probabilities, settings.threshold, settings.loss, task)
