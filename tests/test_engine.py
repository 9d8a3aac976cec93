"""A training step beside a GPU: what it waits for, what it moves, and what it keeps."""

import copy

import pytest
import torch
from torch import Tensor

import engine
from errors import UserError
from runtime import make_accelerator
from settings import parse_config


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_no_test_depends_on_the_precision_of_the_one_before(precision: str) -> None:
    assert make_accelerator(precision).mixed_precision == {"fp32": "no"}.get(precision, precision)


def open_learner(**train: object) -> engine.Learner:
    model = {"arch": "PlainUnet", "weights": "none", "decoder_channels": [8, 4]}
    config = parse_config({"name": "tiny", "model": model, "train": {"precision": "fp32", **train}})
    return engine.make_learner(config, config.rounds[0], make_accelerator("fp32"), 4, None)


def make_batches(count: int, side: int = 16) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "labelled": {
                "image": torch.rand(2, 3, side, side, generator=generator),
                "target": torch.randint(0, 2, (2, side, side), generator=generator),
                "image_id": [f"{number}a", f"{number}b"],
            }
        }
        for number in range(count)
    ]


def test_losses_are_looked_at_while_the_next_batch_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ask, add = engine.step_loss, engine.add_losses

    def asked(learner: engine.Learner, batch: dict, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        order.append(f"ask {batch['labelled']['image_id'][0]}")
        return ask(learner, batch, epoch)

    def added(sums: dict, learner: engine.Learner, epoch: int, step: int, batch: dict, read: object) -> None:
        order.append(f"read {batch['labelled']['image_id'][0]} of step {step}")
        add(sums, learner, epoch, step, batch, read)

    monkeypatch.setattr(engine, "step_loss", asked)
    monkeypatch.setattr(engine, "add_losses", added)
    engine.train_one_epoch(open_learner(), iter(make_batches(3)), 3, 0)
    assert order == ["ask 0a", "ask 1a", "read 0a of step 0", "ask 2a", "read 1a of step 1", "read 2a of step 2"]


def test_the_means_are_those_of_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    ask = engine.step_loss

    def asked(*arguments: object) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = ask(*arguments)
        seen.append(total.item())
        return total, parts

    monkeypatch.setattr(engine, "step_loss", asked)
    for accumulate in (1, 2):
        seen.clear()
        line = engine.train_one_epoch(open_learner(accumulate=accumulate), iter(make_batches(4)), 4, 0)
        assert len(set(seen)) == 4
        assert line["loss"] == pytest.approx(sum(seen) / 4, rel=1e-12)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("place", [0, -1])
def test_one_weight_that_is_no_number_ends_it(bad: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken by the epoch's last step, whose loss was a number still."""
    learner, apply = open_learner(), engine.apply_step
    broken = max(learner.plain_model.parameters(), key=torch.numel).detach()

    def applied(learner: engine.Learner) -> None:
        apply(learner)
        if learner.step == 2:
            broken[(place,) * broken.dim()] = float(bad)

    monkeypatch.setattr(engine, "apply_step", applied)
    with pytest.raises(UserError, match="step 2: the weights are not finite; .*lower"):
        engine.train_one_epoch(learner, iter(make_batches(2)), 2, 0)


def test_losses_that_wait_keep_no_graph() -> None:
    (batch,) = make_batches(1)
    total, parts = engine.step_loss(open_learner(), batch, 0)
    assert total.requires_grad
    assert not any(one.requires_grad for one in parts.values())
    assert engine.copy_soon(parts)() == {"labelled": total.item(), "loss": total.item()}


def test_pixels_are_moved_and_boxes_stay_where_they_are_read() -> None:
    half = {name: torch.zeros(1) for name in ("image", "strong", "target", "box")} | {"image_id": ["a"]}
    moved = engine.move(half, torch.device("meta"))
    where = {name: str(value.device) for name, value in moved.items() if name != "image_id"}
    assert where == {"image": "meta", "strong": "meta", "target": "meta", "box": "cpu"}
    assert moved["image_id"] == ["a"]
    assert half["image"].device.type == "cpu"


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_answer_by_what_the_round_before_measured(frozen: bool) -> None:
    model = {"arch": "PlainUnet", "weights": "none", "decoder_channels": [8, 4]}
    later = {"phase": "finetune", "start": "previous", "freeze_norms": frozen}
    config = parse_config({"name": "tiny", "model": model, "rounds": [{}, later]})
    accelerator, before = make_accelerator("fp32"), open_learner()
    engine.train_one_epoch(before, iter(make_batches(3)), 3, 0)
    start = copy.deepcopy(before.plain_model.state_dict())
    learner = engine.make_learner(config, config.rounds[1], accelerator, 4, start)
    engine.train_one_epoch(learner, iter(make_batches(3)), 3, 0)
    (batch,) = make_batches(1)
    images = batch["labelled"]["image"]
    with torch.no_grad():  # as in a training step: an answer leans on the rest of its batch, or does not
        alone = torch.equal(learner.model(images)[:1], learner.model(torch.stack([images[0], -images[1]]))[:1])
    assert alone == frozen
    for name, now in learner.plain_model.state_dict().items():
        same = torch.equal(now, start[name])
        measured = "running" in name or "num_batches" in name
        assert same == (frozen and measured), name
        if measured and frozen:
            assert torch.equal(learner.ema.state_dict()[name], start[name]), name


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_the_optimizer_takes_the_steps_of_torchs_plain_loop(kind: str) -> None:
    """Over weights of every layout: channels_last, depthwise, 1×1, vectors."""
    torch.manual_seed(0)  # a slope that is nearly 0 has a sign that hangs on its last digit, and Adam steps by the sign
    config = parse_config({"name": "tiny", "model": {"weights": "none"}, "train": {"optimizer": kind}})
    learner = engine.make_learner(config, config.rounds[0], make_accelerator("fp32"), 4, None)
    plain = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[kind]
    model = copy.deepcopy(learner.plain_model)
    loop = plain(model.parameters(), 1e-3, weight_decay=config.train.weight_decay, foreach=False, fused=False)
    for group in learner.optimizer.param_groups:
        group["lr"] = 1e-3
    for batch in make_batches(3, side=32):
        total, _ = engine.step_loss(learner, batch, 0)
        learner.accelerator.backward(total)
        for one, other in zip(model.parameters(), learner.plain_model.parameters(), strict=True):
            one.grad = other.grad.clone()
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        loop.step()
    for name, one in model.named_parameters():
        torch.testing.assert_close(learner.plain_model.get_parameter(name), one, rtol=1e-5, atol=1e-7, msg=name)
