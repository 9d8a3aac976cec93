"""Depthwise convolutions with quick slopes: the same answers and slopes as the plain ones, on any size and stride."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import depthwise
import models
from config import Model
from depthwise import Depthwise, quicken_depthwise
from models import build_model
from runtime import mend_torchvision


def slopes(run: object, image: Tensor, weight: Tensor, toward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    image, weight = image.clone().requires_grad_(), weight.clone().requires_grad_()
    answer = run(image, weight)
    answer.backward(toward[:, :, : answer.shape[2], : answer.shape[3]])
    return answer.detach(), image.grad, weight.grad


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([3, 5, 7]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 3),
    st.tuples(st.integers(7, 19), st.integers(7, 19)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_slopes_are_those_of_the_plain_convolution(
    kernel: int, stride: int, padding: int, size: tuple[int, int], last: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, *size, generator=draw, dtype=torch.float64)
    image = image.to(memory_format=torch.channels_last) if last else image
    weight = torch.randn(3, 1, kernel, kernel, generator=draw, dtype=torch.float64)
    toward = torch.randn(2, 3, 30, 30, generator=draw, dtype=torch.float64)
    quick = slopes(lambda i, w: depthwise._Depthwise.apply(i, w, stride, padding), image, weight, toward)
    plain = slopes(lambda i, w: torch.conv2d(i, w, None, stride, padding, 1, 3), image, weight, toward)
    for ours, theirs in zip(quick, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (8, 9)])
def test_timms_padding_is_kept(kernel: int, stride: int, size: tuple[int, int]) -> None:
    mend_torchvision()
    from timm.layers import Conv2dSame

    plain = nn.Sequential(Conv2dSame(6, 6, kernel, stride=stride, groups=6, bias=False))
    quick = copy.deepcopy(plain)
    quicken_depthwise(quick)
    assert isinstance(quick[0], Depthwise)
    image = torch.randn(2, 6, *size)
    assert torch.equal(quick(image), plain(image))


def step(network: nn.Module, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.autocast("cpu", torch.bfloat16):
        answer = network(image)
    answer.float().square().mean().backward()
    return answer.detach(), {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


def test_a_network_trains_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers bit for bit; every slope as near to float32's as the plain convolutions' ones are, or nearer."""
    torch.manual_seed(0)
    model = Model(weights="none", decoder_channels=(16, 8, 8, 8, 8))
    quick = build_model(model, 3, 2)
    with monkeypatch.context() as patch:
        patch.setattr(models, "quicken_depthwise", lambda network: None)
        plain = build_model(model, 3, 2)
    assert list(quick.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(quick.state_dict())
    quick, plain = (one.to(memory_format=torch.channels_last).train() for one in (quick, plain))
    exact = copy.deepcopy(plain)
    used = sum(isinstance(one, Depthwise) for one in quick.modules())
    assert used == 11, "two of stride 2 with 3x3, and all nine with 5x5"
    image = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    calls = []
    apply = depthwise._Depthwise.apply
    monkeypatch.setattr(depthwise._Depthwise, "apply", lambda *given: calls.append(1) or apply(*given))
    (answer, ours), (expected, theirs) = step(quick, image), step(plain, image)
    assert torch.equal(answer, expected)
    assert len(calls) == used
    exact(image).square().mean().backward()
    assert ours.keys() == theirs.keys()
    for name, one in exact.named_parameters():
        size = one.grad.norm() + 1e-6
        assert (ours[name] - one.grad).norm() / size <= 1.3 * (theirs[name] - one.grad).norm() / size + 0.02, name


def test_what_needs_no_help_stays_as_it_is() -> None:
    mend_torchvision()
    kept = [
        nn.Conv2d(8, 8, 3, groups=8, bias=False, padding=1),  # its slopes are quick
        nn.Conv2d(8, 16, 3, stride=2, groups=8, bias=False),  # two answers a channel
        nn.Conv2d(8, 8, 5, groups=4, bias=False),
        nn.Conv2d(8, 8, 5, groups=8, bias=False, dilation=2),
        nn.Conv2d(8, 8, 5, groups=8, bias=False, padding="same"),
        nn.Conv2d(8, 8, 5, groups=8, bias=False, padding=2, padding_mode="reflect"),
        nn.Conv2d(8, 8, (5, 3), groups=8, bias=False),
    ]
    network = nn.Sequential(*kept)
    quicken_depthwise(network)
    assert list(network) == kept


def test_a_bias_is_kept_and_gets_its_slope() -> None:
    plain = nn.Sequential(nn.Conv2d(6, 6, 7, groups=6, padding=3)).to(torch.bfloat16)
    quick = copy.deepcopy(plain)
    quicken_depthwise(quick)
    assert isinstance(quick[0], Depthwise)
    image = torch.randn(2, 6, 16, 16, dtype=torch.bfloat16)
    for network in (plain, quick):
        network(image).square().mean().backward()
    for ours, theirs in ((quick[0].weight, plain[0].weight), (quick[0].bias, plain[0].bias)):
        assert torch.equal(ours, theirs)
        assert (ours.grad - theirs.grad).norm() <= 0.02 * theirs.grad.norm()


def test_frozen_weights_get_no_slope() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 5, groups=4, bias=False, padding=2))
    quicken_depthwise(network)
    network.requires_grad_(False)
    image = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    network.to(torch.bfloat16)(image).sum().backward()
    assert image.grad is not None
    assert network[0].weight.grad is None
