"""The plain U-Net: its size, its shapes, its norms and what freezing reaches."""

import pytest
import torch
from torch import nn

from config import Model
from models import build_model, parameter_groups
from norms import GroupNorm

SMALL = {"arch": "PlainUnet", "weights": "none", "decoder_channels": (32, 16, 8)}


@pytest.mark.parametrize("channels", [1, 3])
def test_it_answers_at_the_images_size(channels: int) -> None:
    torch.manual_seed(0)
    network = build_model(Model(**SMALL), channels, 2).eval()
    with torch.inference_mode():
        answer = network(torch.randn(2, channels, 32, 48))
    assert answer.shape == (2, 2, 32, 48)
    assert answer.std() > 0


def test_from_64_to_1024_it_has_the_known_number_of_parameters() -> None:
    """Two 3×3 convolutions with norms a level, transposed ones of 2×2 on the way up, a 1×1 at the end."""
    down = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    up = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    expected = sum(9 * a * b + 9 * b * b + 4 * b for a, b in down)
    expected += sum(4 * a * b + b + 9 * a * b + 9 * b * b + 4 * b for a, b in up) + 64 + 1
    with torch.device("meta"):
        wide = {"arch": "PlainUnet", "weights": "none", "decoder_channels": (1024, 512, 256, 128, 64)}
        network = build_model(Model(**wide), 1, 1)
    assert sum(one.numel() for one in network.parameters()) == expected == 31_036_481


def test_it_is_a_u_net_step_by_step() -> None:
    """Against the same layers called one after the other."""
    torch.manual_seed(0)
    network = build_model(Model(**SMALL), 1, 1).eval()
    images, up = torch.randn(1, 1, 16, 16), network.decoder.up
    top, middle, bottom = network.encoder
    with torch.inference_mode():
        high = top.layers(images)
        mid = middle.layers(nn.functional.max_pool2d(high, 2))
        low = bottom.layers(nn.functional.max_pool2d(mid, 2))
        answer = network.decoder.blocks[0].layers(torch.cat([mid, up[0](low)], 1))
        answer = network.decoder.blocks[1].layers(torch.cat([high, up[1](answer)], 1))
        torch.testing.assert_close(network(images), network.segmentation_head(answer))


def test_instance_norm_makes_it_blind_to_a_slices_contrast() -> None:
    torch.manual_seed(0)
    network = build_model(Model(**SMALL, norm="instance"), 1, 1).train()
    assert not [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    swapped = [one for one in network.modules() if isinstance(one, GroupNorm)]
    assert [one.num_groups == one.num_channels for one in swapped] == [True] * 10
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(images)[:1], network(images[:1]))
        inner = (slice(None), slice(None), slice(8, 24), slice(8, 24))
        torch.testing.assert_close(network(0.5 * images)[inner], network(images)[inner], atol=2e-2, rtol=0.0)


def test_early_blocks_freeze_whole() -> None:
    network = build_model(Model(**SMALL, freeze_encoder_stages=2), 1, 1)
    network(torch.randn(1, 1, 16, 16)).mean().backward()
    got = [{one.grad is not None for one in block.parameters()} for block in network.encoder]
    assert got == [{False}, {False}, {True}]
    assert all(one.grad is not None for one in network.decoder.parameters())
    trained = sum(one.numel() for group in parameter_groups(network, 1e-3, 0.0) for one in group["params"])
    assert trained == sum(one.numel() for one in network.parameters() if one.requires_grad)
