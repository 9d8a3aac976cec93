"""The unlabelled half of a training step: an EMA teacher's view of a weak image teaches the student's of a strong one.

    student_logits = student(student_view(batch["unlabelled"]))
    loss, kept = teach(student_logits, ema, weak_images, boxes, settings, task)
    total = total + ramp(epoch, settings) * loss

Mean teacher (arXiv:1703.01780) with FixMatch's weak-to-strong pairs (arXiv:2001.07685) and CutMix as arXiv:1906.01916
has it: the teacher sees whole images, and its answers are mixed as the student's images are, which show less around.
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


def mix_pairs(images: Tensor, boxes: Tensor) -> Tensor:
    """Each of a batch's pairs (0 and 1, 2 and 3, …) with a rectangle of the other, the last of an odd number with none.

    `images` are `(N, C, H, W)`, `boxes` `(N, 4) int64` each one's top, bottom, left and right. A batch that is spread
    over processes has the same pairs where each gets an even number.
    """
    mixed = images.clone()
    for place, (top, bottom, left, right) in enumerate(boxes.tolist()):
        if (place ^ 1) < len(images):
            mixed[place, :, top:bottom, left:right] = images[place ^ 1, :, top:bottom, left:right]
    return mixed


def student_view(part: dict[str, Tensor]) -> Tensor:
    """What the student is shown of a part of a batch: the strong views, mixed, or the images."""
    return mix_pairs(part["strong"], part["box"]) if "box" in part else part["image"]


def teach(
    student_logits: Tensor, teacher: nn.Module, weak_images: Tensor, boxes: Tensor, settings: Consistency, task: Task
) -> tuple[Tensor, Tensor]:
    """The unweighted unlabelled loss and the share of pixels it learnt from.

    `student_logits` `(N, K, H, W)` are of the strong views of `weak_images` `(N, C, H, W)`, in the same geometry, after
    `mix_pairs`.
    """
    with torch.no_grad():
        logits = teacher(weak_images).float()
        probabilities = logits.softmax(1) if task in ("multiclass", "instances") else logits.sigmoid()
        probabilities = mix_pairs(probabilities, boxes)
    return consistency_loss(student_logits, probabilities, settings.threshold, settings.loss, task)
