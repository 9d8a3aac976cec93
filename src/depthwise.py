"""Depthwise convolutions whose slopes in bfloat16 are not left to the processor's slow paths.

    quicken_depthwise(model)

oneDNN has quick kernels for the slopes of 3x3 depthwise convolutions of stride 1, and slow ones, by up to a hundred
times, for a stride of 2 (of the image) and for larger kernels (of the weight). Both can be said through the quick ones.
In a step of U-Net with EfficientNet-Lite0 they take a third of the time.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTS = {5: (0, 2), 7: (0, 3, 4)}  # the first rows, and columns, of a larger kernel's 3x3 parts


class Depthwise(nn.Conv2d):
    """An `nn.Conv2d` of one input channel a group, its answers the same; `same` pads as TensorFlow does."""

    same: bool = False

    def forward(self, image: Tensor) -> Tensor:
        if self.same:
            image = _pad_same(image, self.kernel_size[0], self.stride[0])
        slow = image.dtype == torch.bfloat16 and image.device.type == "cpu" and torch.is_grad_enabled()
        if not slow:
            return self._conv_forward(image, self.weight, self.bias)
        answer = _Depthwise.apply(image, self.weight.to(image.dtype), self.stride[0], self.padding[0])
        return answer if self.bias is None else answer + self.bias.to(image.dtype)[:, None, None]


def quicken_depthwise(model: nn.Module) -> None:
    """Swap a model's slow depthwise convolutions for `Depthwise` ones over the same weights, in place."""
    for name, child in model.named_children():
        if _is_slow(child):
            channels, same = child.in_channels, _is_same(child)
            padding = 0 if same else child.padding
            shape = (channels, channels, child.kernel_size, child.stride, padding)
            quick = Depthwise(*shape, groups=channels, device="meta")  # without weights of its own
            quick.weight, quick.bias, quick.same = child.weight, child.bias, same
            setattr(model, name, quick.train(child.training))
        else:
            quicken_depthwise(child)


def _is_slow(module: nn.Module) -> bool:
    """Whether this is a depthwise convolution, nn's own or timm's of TensorFlow's padding, with a slow slope."""
    if type(module) is not nn.Conv2d and not _is_same(module) or module.padding_mode != "zeros":
        return False
    plain = module.dilation == (1, 1) and len({*module.stride}) == len({*module.kernel_size}) == 1
    if not _is_same(module):
        plain = plain and not isinstance(module.padding, str) and len({*module.padding}) == 1
    depthwise = module.in_channels == module.out_channels == module.groups > 1
    slow = module.kernel_size[0] in PARTS or (module.kernel_size[0] == 3 and module.stride[0] > 1)
    return plain and depthwise and slow


def _is_same(module: nn.Module) -> bool:
    """Told by its name, as timm cannot be imported before torchvision is mended."""
    return type(module).__name__ == "Conv2dSame" and type(module).__module__.startswith("timm.")


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        context.save_for_backward(image, weight)
        context.stride, context.padding = stride, padding
        return torch.conv2d(image, weight, None, stride, padding, 1, image.shape[1])

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        image, weight = context.saved_tensors
        of_image, of_weight = context.needs_input_grad[:2]
        slope = slope.contiguous(memory_format=torch.channels_last)
        return (
            _image_slope(slope, image, weight, context.stride, context.padding) if of_image else None,
            _weight_slope(slope, image, weight, context.stride, context.padding) if of_weight else None,
            None,
            None,
        )


def _image_slope(slope: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """As if every pixel had been asked and the answers between the stride's thrown away: their slope is 0."""
    if stride > 1:
        height, width = (side + 2 * padding - weight.shape[-1] + 1 for side in image.shape[-2:])
        every = slope.new_zeros(1).expand(*slope.shape[:2], height, width)
        every = torch.zeros_like(every, memory_format=torch.channels_last)
        every[:, :, ::stride, ::stride] = slope
        slope = every
    return _slopes(slope, image, weight, 1, padding, (True, False, False))[0]


def _weight_slope(slope: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A larger kernel's slope is that of its 3x3 parts, which overlap in a row and a column."""
    if weight.shape[-1] == 3:
        return _slopes(slope, image, weight, stride, padding, (False, True, False))[1]
    padded = functional.pad(image, (padding,) * 4) if padding else image
    height, width = (stride * (side - 1) + 3 for side in slope.shape[-2:])
    found, corner = torch.empty_like(weight), weight[:, :, :3, :3].contiguous()
    for top, left in product(PARTS[weight.shape[-1]], repeat=2):
        seen = padded[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        part = _slopes(slope, seen, corner, stride, 0, (False, True, False))[1]
        found[:, :, top : top + 3, left : left + 3] = part
    return found


def _slopes(
    slope: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool, bool]
) -> tuple:
    sides = ([stride] * 2, [padding] * 2, [1] * 2, False, [0] * 2, image.shape[1])
    return torch.ops.aten.convolution_backward(slope, image, weight, None, *sides, wanted)


def _pad_same(image: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around an image so that the answer has a size of its side over the stride, rounded up; more at the end."""
    edges = []
    for side in reversed(image.shape[-2:]):
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        edges += [missing // 2, missing - missing // 2]
    return functional.pad(image, edges) if any(edges) else image
