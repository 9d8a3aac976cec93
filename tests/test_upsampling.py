"""Convolutions of what is enlarged, without enlarging it: the same answers and slopes, on any size."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import models
import upsampling
from config import Model
from models import build_model, fold_batch_norm
from runtime import mend_torchvision
from upsampling import Block, Upsampled, quicken_upsampling


def plainly(convolution: nn.Conv2d, below: Tensor, beside: Tensor | None, size: tuple[int, int]) -> Tensor:
    enlarged = functional.interpolate(below, size=size, mode="nearest")
    together = enlarged if beside is None else torch.cat([enlarged, beside], dim=1)
    return functional.conv2d(together, convolution.weight, convolution.bias, padding=1)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_answers_and_slopes_are_those_of_the_enlarged_image(
    size: tuple[int, int], beside: int, bias: bool, last: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    double = (2 * size[0], 2 * size[1])
    convolution = Upsampled(3 + beside, 5, 3, padding=1, bias=bias, dtype=torch.float64)
    inputs = [torch.randn(2, 3, *size, generator=draw, dtype=torch.float64)]
    inputs += [torch.randn(2, beside, *double, generator=draw, dtype=torch.float64)] * bool(beside)
    inputs = [one.to(memory_format=torch.channels_last) if last else one for one in inputs]
    toward = torch.randn(2, 5, *double, generator=draw, dtype=torch.float64)

    def run(way: str) -> list[Tensor]:
        given = [one.clone().requires_grad_() for one in inputs]
        below, near = given[0], given[1] if beside else None
        quick = way == "quick"
        answer = convolution._without_enlarging(below, near) if quick else plainly(convolution, below, near, double)
        slopes = torch.autograd.grad(answer, [*given, *convolution.parameters()], toward)
        return [answer, *slopes]

    for ours, theirs in zip(run("quick"), run("plain"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("count", "side", "size"), [(2, (16, 16), (32, 32)), (8, (4, 16), (8, 32)), (1, (16, 31), (32, 62))]
)
@pytest.mark.parametrize("beside", [True, False])
def test_large_batches_alone_are_not_enlarged(
    count: int, side: tuple[int, int], size: tuple[int, int], beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution = Upsampled(7 if beside else 4, 6, 3, padding=1)
    below, near = torch.randn(count, 4, *side), torch.randn(count, 3, *size) if beside else None
    enlarged = []
    interpolate = functional.interpolate
    monkeypatch.setattr(functional, "interpolate", lambda *a, **k: enlarged.append(1) or interpolate(*a, **k))
    answer = convolution(below, near, size)
    assert len(enlarged) == (count * side[0] * side[1] < 512)
    torch.testing.assert_close(answer, plainly(convolution, below, near, size), rtol=1e-4, atol=1e-5)


def test_another_size_than_twice_as_large_is_enlarged() -> None:
    convolution = Upsampled(7, 6, 3, padding=1)
    below, beside = torch.randn(1, 4, 40, 40), torch.randn(1, 3, 80, 79)
    assert torch.equal(convolution(below, beside, (80, 79)), plainly(convolution, below, beside, (80, 79)))


def test_on_a_gpu_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meta tensor stands in for one: it lies on no processor either."""
    convolution = Upsampled(4, 6, 3, padding=1, device="meta")
    monkeypatch.delattr(Upsampled, "_without_enlarging")
    assert convolution(torch.empty(1, 4, 64, 64, device="meta"), None, (128, 128)).shape == (1, 6, 128, 128)


def test_a_bias_is_kept() -> None:
    mend_torchvision()
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock

    plain = nn.Sequential(UnetDecoderBlock(4, 2, 4, use_norm=False))
    quick = copy.deepcopy(plain)
    quicken_upsampling(quick)
    given = torch.randn(1, 4, 32, 32), 64, 64, torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(quick[0](*given), plain[0](*given), rtol=1e-4, atol=1e-5)


def build(monkeypatch: pytest.MonkeyPatch, norm: str = "batch") -> tuple[nn.Module, nn.Module]:
    """The same U-Net with quick blocks and with smp's own."""
    torch.manual_seed(0)
    model = Model(weights="none", decoder_channels=(16, 8, 8, 8, 8), norm=norm)
    quick = build_model(model, 3, 2)
    with monkeypatch.context() as patch:
        patch.setattr(models, "quicken_upsampling", lambda network: None)
        plain = build_model(model, 3, 2)
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert list(dict(quick.named_parameters())) == list(dict(plain.named_parameters())), "the optimizer's order"
    plain.load_state_dict(quick.state_dict())
    assert [isinstance(one, Block) for one in quick.decoder.blocks] == [True] * 5
    assert not any(isinstance(one, Block) for one in plain.modules())
    return tuple(one.to(memory_format=torch.channels_last).train() for one in (quick, plain))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_network_trains_as_it_did(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, plain = build(monkeypatch, norm)
    quick, plain = quick.double(), plain.double()
    image = torch.randn(2, 3, 128, 128, dtype=torch.float64).to(memory_format=torch.channels_last)
    answers = [network(image) for network in (quick, plain)]
    torch.testing.assert_close(*answers, rtol=1e-7, atol=1e-9)
    for answer in answers:
        answer.square().mean().backward()
    for (name, ours), (_, theirs) in zip(quick.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_in_bfloat16_it_is_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32's answers and slopes it misses no more than the plain network does, by half."""
    torch.manual_seed(1)
    exact = Upsampled(24, 16, 3, padding=1, bias=False)
    below, beside = torch.randn(2, 16, 48, 48), torch.randn(2, 8, 96, 96)
    toward = torch.randn(2, 16, 96, 96)

    def run(half: bool, quick: bool) -> list[Tensor]:
        given = [below.clone().requires_grad_(), beside.clone().requires_grad_()]
        with torch.autocast("cpu", torch.bfloat16, enabled=half), monkeypatch.context() as patch:
            patch.setattr(upsampling, "LEAST", 1 if quick else 10**9)
            answer = exact(*given, (96, 96)).float()
        return [answer, *torch.autograd.grad(answer, [*given, exact.weight], toward)]

    whole, ours, theirs = run(False, False), run(True, True), run(True, False)
    for one, quick, plain in zip(whole, ours, theirs, strict=True):
        assert (quick - one).norm() <= 1.5 * (plain - one).norm()


def test_blocks_are_kept_where_the_convolution_is_not_the_first_to_see_what_is_enlarged() -> None:
    mend_torchvision()
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock

    kept = [
        UnetDecoderBlock(16, 16, 16, attention_type="scse"),
        UnetDecoderBlock(4, 2, 4, interpolation_mode="bilinear"),
    ]
    network = nn.Sequential(*kept, UnetDecoderBlock(4, 2, 4))
    quicken_upsampling(network)
    assert list(network[:2]) == kept
    assert isinstance(network[2], Block)


def test_batch_norms_are_still_worked_into_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, plain = build(monkeypatch)
    image = torch.randn(2, 3, 64, 64)
    quick(image), plain(image)  # so that the norms have something to say
    quick, plain = quick.eval(), plain.eval()
    with torch.no_grad():
        folded = fold_batch_norm(copy.deepcopy(quick), 3)
        assert not any(isinstance(one, nn.BatchNorm2d) for one in folded.decoder.modules())
        large = torch.randn(1, 3, 128, 160)
        torch.testing.assert_close(folded(large), plain(large), rtol=1e-3, atol=1e-4)
