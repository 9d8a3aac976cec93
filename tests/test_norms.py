"""Group and instance norms with quick slopes: the same answers and slopes as the plain ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import norms
from config import Model
from models import build_model
from norms import GroupNorm, swap_norms

SMALL = {"weights": "none", "decoder_channels": (16, 16, 8, 8, 8)}


def slopes(norm: nn.Module, image: Tensor, toward: Tensor) -> list[Tensor]:
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    answer = norm(image)
    answer.backward(toward.to(answer.dtype))
    return [answer.detach(), image.grad, norm.weight.grad, norm.bias.grad]


def pair(groups: int, channels: int, dtype: torch.dtype, draw: torch.Generator) -> tuple[nn.Module, nn.Module]:
    plain = nn.InstanceNorm2d(channels, affine=True) if groups == channels else nn.GroupNorm(groups, channels)
    with torch.no_grad():
        plain.weight.normal_(1.0, 0.5, generator=draw)
        plain.bias.normal_(generator=draw)
    quick = GroupNorm(groups, channels)
    quick.load_state_dict(plain.state_dict())
    return quick.to(dtype), plain.to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 4), (2, 6), (3, 6), (4, 4), (8, 32)]),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(2, 9)),
    st.floats(-20.0, 20.0),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_slopes_are_those_of_the_plain_norm(
    kind: tuple[int, int], sizes: tuple[int, int, int], mean: float, last: bool, seed: int
) -> None:
    (groups, channels), (count, height, width) = kind, sizes
    draw = torch.Generator().manual_seed(seed)
    quick, plain = pair(groups, channels, torch.float64, draw)
    image = mean + torch.randn(count, channels, height, width, generator=draw, dtype=torch.float64)
    toward = torch.randn(image.shape, generator=draw, dtype=torch.float64)
    image = image.to(memory_format=torch.channels_last) if last else image
    for ours, theirs in zip(slopes(quick, image, toward), slopes(plain, image, toward), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("groups", [8, 32])
@pytest.mark.parametrize("mean", [0.0, 3.0, 10.0])
def test_in_bfloat16_it_is_as_exact_as_the_plain_norm(
    groups: int, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    quick, plain = pair(groups, 32, torch.float32, draw)
    image = (mean + torch.randn(4, 32, 40, 24, generator=draw)).bfloat16()
    image = image.to(memory_format=torch.channels_last)
    toward = torch.randn(image.shape, generator=draw) + image.float() - mean  # it pulls at the spread too
    toward = toward.bfloat16().to(memory_format=torch.channels_last)
    calls = []
    apply = norms._GroupNorm.apply
    monkeypatch.setattr(norms._GroupNorm, "apply", lambda *given: calls.append(1) or apply(*given))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = slopes(quick, image, toward), slopes(plain, image, toward)
    assert len(calls) == 1
    assert ours[0].dtype == theirs[0].dtype == torch.bfloat16
    assert ours[1].is_contiguous(memory_format=torch.channels_last)
    plain.zero_grad()
    exact = slopes(plain, image.float(), toward.float())
    for one, other, right in zip(ours, theirs, exact, strict=True):
        size = right.norm()
        assert (one.float() - right).norm() / size <= 1.3 * (other.float() - right).norm() / size + 0.005


def test_without_slopes_the_plain_kernel_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms._GroupNorm, "apply", lambda *given: pytest.fail("the quick one was asked"))
    image = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        answer = GroupNorm(4, 4)(image)
    torch.testing.assert_close(answer, nn.functional.instance_norm(image))


def test_a_single_value_a_group_is_refused_in_training_alone() -> None:
    image = torch.randn(2, 4, 1, 1)
    norm = GroupNorm(4, 4)
    with pytest.raises(ValueError, match="^Expected more than 1 value"):
        norm(image)
    torch.testing.assert_close(norm.eval()(image), torch.zeros_like(image), rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_swapped_norms_make_samples_independent(norm: str) -> None:
    torch.manual_seed(0)
    network = build_model(Model(norm=norm, **SMALL), 3, 1).train()
    assert not [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    swapped = [one for one in network.modules() if isinstance(one, GroupNorm)]
    assert swapped
    assert all(one.num_groups == one.num_channels for one in swapped) == (norm == "instance")
    images = torch.randn(2, 3, 64, 64)
    images[1] *= 3
    with torch.inference_mode():
        together, alone = network(images)[:1], network(images[:1])
        other = build_model(Model(**SMALL), 3, 1).train()
        mixed, single = other(images)[:1], other(images[:1])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=5e-4)
    assert not np.allclose(mixed, single, rtol=1e-3, atol=1e-3)  # the check can fail


def test_swapping_fresh_norms_keeps_scale_shift_and_activation() -> None:
    from runtime import mend_torchvision

    mend_torchvision()
    from timm.layers import BatchNormAct2d

    block = nn.Sequential(
        nn.Conv2d(3, 12, 1), BatchNormAct2d(12, act_layer=nn.ReLU6), nn.Sequential(nn.BatchNorm2d(12))
    )
    for one in block.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.normal_(one.weight)
            nn.init.normal_(one.bias)
    scales = [block[1].weight.clone(), block[1].bias.clone(), block[2][0].weight.clone()]
    images = torch.randn(2, 3, 8, 8) * 40
    swap_norms(block, "group")
    norm = block[1][0]
    assert norm.num_groups == 12
    assert torch.equal(norm.weight, scales[0])
    assert torch.equal(norm.bias, scales[1])
    assert torch.equal(block[2][0].weight, scales[2])
    expected = nn.functional.group_norm(block[0](images), 12, scales[0], scales[1]).clamp(0, 6)
    torch.testing.assert_close(block[1](block[0](images)), expected)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_swapped_norms_answer_as_the_trained_ones_did(norm: str) -> None:
    draw = torch.Generator().manual_seed(0)
    trained = nn.BatchNorm2d(96, momentum=None)
    images = torch.randn(4, 96, 48, 48, generator=draw)
    means, spreads = torch.randn(96, generator=draw) * 3, torch.rand(96, generator=draw) * 4 + 0.1
    images = images * spreads[:, None, None] + means[:, None, None]
    with torch.no_grad():
        trained.weight.normal_(generator=draw)
        trained.bias.normal_(generator=draw)
        trained(images)
        expected = trained.eval()(images)
        network = nn.Sequential(trained)
        swap_norms(network, norm)
        torch.testing.assert_close(network(images), expected, rtol=0.05, atol=0.5)
        kept = nn.functional.group_norm(images, 32, trained.weight, trained.bias)
    assert (kept - expected).abs().max() > 3, "the check can fail"


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (24, 24), (40, 20), (7, 7), (48, 24), (37, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    block = nn.Sequential(nn.BatchNorm2d(channels))
    swap_norms(block, "group")
    assert block[0].num_groups == groups
