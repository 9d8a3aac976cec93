"""Norms over groups of channels whose slopes on the processor are not left to a slow path.

    swap_norms(model, "group")  # or "instance"
    norm = GroupNorm(groups=32, channels=64)  # groups == channels: an instance norm

PyTorch's own kernels for the slopes of a group norm, and for all of an instance norm, are several times slower than
they need be on images that lie channels last. Sums over each channel and one scale and shift for it say the same. Wu &
He, arXiv:1803.08494; Ulyanov et al., arXiv:1607.08022.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """An `nn.GroupNorm` of `(N, C, H, W)` images, its answers the same.

    Raises ValueError where a group of an image has but one value in training: it would always answer 0.
    """

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels)

    def forward(self, image: Tensor) -> Tensor:
        if self.training and image[0].numel() == self.num_groups:
            raise ValueError(f"Expected more than 1 value a group when training, got an image of {tuple(image.shape)}")
        last = image.is_contiguous(memory_format=torch.channels_last)
        if image.device.type != "cpu" or not last or not torch.is_grad_enabled():
            return super().forward(image)
        return _GroupNorm.apply(image, self.weight, self.bias, self.num_groups, self.eps)


def swap_norms(module: nn.Module, norm: str) -> None:
    """Turn every BatchNorm into a group norm (32 groups or fewer) or an instance norm, in place.

    Scale and shift are changed so that an image like those it was trained on gets the answers it got: a group norm
    divides by the spread of its whole group, in which each channel has a mean and a spread of its own.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            channels = child.num_features
            groups = next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)
            new = GroupNorm(groups if norm == "group" else channels, channels)
            mean, spread = child.running_mean, (child.running_var + child.eps).sqrt()
            together = mean.view(new.num_groups, -1)
            variance = spread.square().view(new.num_groups, -1).mean(1) + together.var(1, correction=0)
            middle, whole = (
                one.repeat_interleave(channels // new.num_groups) for one in (together.mean(1), variance.sqrt())
            )
            with torch.no_grad():
                new.weight.copy_(child.weight * whole / spread)
                new.bias.copy_(child.bias + child.weight * (middle - mean) / spread)
            # timm's BatchNormAct2d carries its activation
            activation = getattr(child, "act", None)
            setattr(module, name, nn.Sequential(new, activation) if activation is not None else new)
        else:
            swap_norms(child, norm)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, image: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        count, channels, height, width = image.shape
        sizes = (count, channels, height * width, groups, eps)
        answer, mean, scale = torch.native_group_norm(image, weight, bias, *sizes)
        context.save_for_backward(image, weight, mean, scale)
        return answer

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        image, weight, mean, scale = context.saved_tensors
        channels, groups = image.shape[1], mean.shape[1]
        pixels, slopes = _pixels(image), _pixels(slope.contiguous(memory_format=torch.channels_last))
        exact = torch.promote_types(image.dtype, torch.float32)
        mean, scale = (one.to(exact).repeat_interleave(channels // groups, 1) for one in (mean, scale))
        # the normal values as far as the image's type can tell their scale and shift, and what that leaves
        steep, shift = scale.to(image.dtype), (-mean * scale).to(image.dtype)
        near = _line(pixels, steep, shift)
        factor = scale / steep
        left = -mean * scale - shift * factor
        of_bias = slopes.sum(1, dtype=exact)
        of_weight = factor * (slopes * near).sum(1, dtype=exact) + left * of_bias

        def average(sums: Tensor) -> Tensor:
            """Over a group's values: `(N, C)` sums over pixels → `(N, C)`, the same for each channel of a group."""
            whole = (sums * weight).view(-1, groups, channels // groups).sum(2) * groups / image[0].numel()
            return whole.repeat_interleave(channels // groups, 1)

        # scale (weight slope - average slope - normal average (slope normal))
        pull = -scale * average(of_weight)
        rest = _line(near, pull * factor, pull * left - scale * average(of_bias))
        of_image = _line(slopes, scale * weight, rest).unflatten(1, image.shape[2:]).permute(0, 3, 1, 2)
        return of_image, of_weight.sum(0).to(weight.dtype), of_bias.sum(0).to(weight.dtype), None, None


def _line(pixels: Tensor, steep: Tensor, shift: Tensor) -> Tensor:
    """`(N, P, C)` pixels times `(N, C)` plus `(N, C)` or `(N, P, C)`."""
    # several pixels a row: on rows of a few channels this is slow
    beside = math.gcd(pixels.shape[1], 16)
    rows = pixels.unflatten(1, (-1, beside)).flatten(2)
    steep = steep.to(pixels.dtype).repeat(1, beside)[:, None]
    shift = shift.to(pixels.dtype)
    shift = shift.repeat(1, beside)[:, None] if shift.dim() == 2 else shift.view_as(rows)
    return torch.addcmul(shift, rows, steep).view_as(pixels)


def _pixels(image: Tensor) -> Tensor:
    """`(N, C, H, W)` that lies channels last as `(N, H W, C)`, without a copy."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)
