"""The unlabelled loss: its ramp, and that its teacher only teaches."""

import math

import pytest
import torch
from torch import nn

from config import Consistency
from losses import consistency_loss
from semi import ramp, teach


def test_the_weight_ramps_up_to_its_setting() -> None:
    settings = Consistency(weight=0.8, ramp_epochs=4)
    weights = [ramp(epoch, settings) for epoch in range(7)]
    assert weights[0] == pytest.approx(0.8 * math.exp(-5.0))
    assert weights[1] == pytest.approx(0.8 * math.exp(-5.0 * 0.75**2))
    assert weights == sorted(weights)
    assert weights[4] == weights[5] == weights[6] == 0.8
    assert ramp(0, Consistency(weight=0.8, ramp_epochs=0)) == 0.8


@pytest.mark.parametrize(("task", "kind"), [("binary", "mse"), ("multiclass", "cross_entropy"), ("multilabel", "mse")])
def test_the_teacher_gets_no_gradient(task: str, kind: str) -> None:
    torch.manual_seed(0)
    channels = 1 if task == "binary" else 3
    teacher, student = nn.Conv2d(2, channels, 1), nn.Conv2d(2, channels, 1)
    weak, strong = torch.randn(2, 2, 6, 6), torch.randn(2, 2, 6, 6)
    settings = Consistency(threshold=0.5, loss=kind)
    loss, kept = teach(student(strong), teacher, weak, settings, task)
    loss.backward()
    assert teacher.weight.grad is None
    assert student.weight.grad.abs().sum() > 0
    with torch.no_grad():
        logits = teacher(weak)
        probabilities = logits.softmax(1) if task == "multiclass" else logits.sigmoid()
        expected, share = consistency_loss(student(strong), probabilities, 0.5, kind, task)
    assert loss.item() == pytest.approx(expected.item())
    assert kept.item() == share.item()
