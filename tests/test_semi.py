"""The unlabelled loss: its ramp, and that its teacher only teaches."""

import math

import pytest
import torch
from torch import Tensor, nn

import engine
from config import Consistency
from errors import UserError
from losses import consistency_loss
from runtime import make_accelerator
from semi import mix_pairs, ramp, teach
from settings import parse_config
from sources import split_batch


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
    boxes = torch.tensor([[0, 3, 2, 5], [0, 0, 0, 0]])
    loss, kept = teach(student(strong), teacher, weak, boxes, settings, task)
    loss.backward()
    assert teacher.weight.grad is None
    assert student.weight.grad.abs().sum() > 0
    with torch.no_grad():
        logits = teacher(weak)
        probabilities = logits.softmax(1) if task == "multiclass" else logits.sigmoid()
        probabilities[0, :, 0:3, 2:5] = probabilities[1, :, 0:3, 2:5]
        expected, share = consistency_loss(student(strong), probabilities, 0.5, kind, task)
    assert loss.item() == pytest.approx(expected.item())
    assert kept.item() == share.item()


def test_pairs_swap_rectangles_and_the_odd_one_out_stays() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 4, 5)
    mixed = mix_pairs(images, torch.tensor([[1, 3, 0, 2], [0, 4, 4, 5], [0, 4, 0, 5]]))
    expected = images.clone()
    expected[0, :, 1:3, 0:2] = 1.0
    expected[1, :, :, 4:5] = 0.0
    assert torch.equal(mixed, expected)
    assert torch.equal(images[0], torch.zeros(2, 4, 5)), "what was given stays as it is"
    halves = torch.rand(4, 1, 6, 6), torch.tensor([[0, 2, 0, 2], [1, 3, 1, 3], [2, 4, 2, 4], [0, 6, 0, 3]])
    spread = [mix_pairs(halves[0][part], halves[1][part]) for part in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat(spread), mix_pairs(*halves)), "two processes make the same pairs"


def test_the_teacher_sees_whole_images() -> None:
    """A teacher that looks around answers as if nothing had been cut, and its answers are cut instead."""
    torch.manual_seed(0)
    around, weak = nn.AvgPool2d(5, stride=1, padding=2), torch.randn(2, 1, 8, 8)
    boxes = torch.tensor([[2, 6, 2, 6], [0, 4, 0, 8]])
    whole, cut = mix_pairs(around(weak).sigmoid(), boxes), around(mix_pairs(weak, boxes)).sigmoid()
    assert not torch.allclose(whole, cut, atol=0.01)
    student = torch.logit(whole)
    assert teach(student, around, weak, boxes, Consistency(loss="mse"), "binary")[0].item() < 1e-10


def test_a_step_cuts_what_the_student_sees_and_not_what_its_teacher_sees() -> None:
    model = {"arch": "PlainUnet", "weights": "none", "decoder_channels": [16, 8]}
    rounds = [{}, {"phase": "joint", "consistency": {}}]
    config = parse_config({"name": "tiny", "model": model, "train": {"precision": "fp32"}, "rounds": rounds})
    learner = engine.make_learner(config, config.rounds[1], make_accelerator("fp32"), 1, None)
    seen: dict[str, Tensor] = {}
    learner.model.register_forward_pre_hook(lambda _, given: seen.update(student=given[0].detach().clone()))
    learner.ema.register_forward_pre_hook(lambda _, given: seen.update(teacher=given[0].detach().clone()))
    real, weak, strong = (torch.rand(2, 3, 32, 32) for _ in range(3))
    boxes = torch.tensor([[4, 20, 8, 30], [0, 10, 0, 32]])
    target = torch.zeros(2, 32, 32, dtype=torch.int64)
    batch = {
        "labelled": {"image": real, "target": target},
        "unlabelled": {"image": weak, "strong": strong, "box": boxes},
    }
    total, parts = engine.step_loss(learner, batch, 0)
    assert torch.equal(seen["student"], torch.cat([real, mix_pairs(strong, boxes)]))
    assert torch.equal(seen["teacher"], weak)
    weight = ramp(0, config.rounds[1].consistency)
    assert total.item() == pytest.approx((parts["labelled"] + weight * parts["consistency"]).item())


def test_one_image_has_none_to_be_cut_into() -> None:
    rounds = [{}, {"phase": "joint", "consistency": {"cutmix": 0.5}}]
    values = {"name": "tiny", "rounds": rounds}
    assert split_batch(parse_config(values | {"train": {"batch_size": 4}}), 1)["unlabelled"] == 2
    with pytest.raises(
        UserError, match=r"rounds.1.consistency.cutmix: it takes two images; raise train.batch_size over 2"
    ):
        split_batch(parse_config(values | {"train": {"batch_size": 2}}), 1)
