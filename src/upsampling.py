"""Convolutions of an image enlarged to twice its side, without enlarging it: a U-Net's decoder on a processor.

    quicken_upsampling(network.decoder)

After enlarging by repetition, a 3x3 kernel sees each pixel below up to four times over. One transposed convolution, its
4x4 kernel the sums of the weights that meet the same pixel, says the same with 4 multiplications for every 9, and what
lies beside needs not be copied next to what was enlarged. On two cores a step of U-Net takes an eighth less time. Shi
et al., arXiv:1609.07009, relate the two.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST = 8 * 8 * 8  # pixels of a batch: fewer are done before the kernel's sums are


class Upsampled(nn.Conv2d):
    """An `nn.Conv2d` of a smaller image, enlarged, and what lies beside it: the same weights and answers."""

    def forward(self, below: Tensor, beside: Tensor | None, size: tuple[int, int]) -> Tensor:
        """`(N, C, H, W)` below, `(N, D, *size)` beside or None → `(N, out, *size)`."""
        count, _, height, width = below.shape
        doubled = size == (2 * height, 2 * width)
        if below.device.type == "cpu" and doubled and count * height * width >= LEAST:
            return self._without_enlarging(below, beside)
        enlarged = functional.interpolate(below, size=size, mode="nearest")
        return super().forward(enlarged if beside is None else torch.cat([enlarged, beside], dim=1))

    def _without_enlarging(self, below: Tensor, beside: Tensor | None) -> Tensor:
        kernel = _sum_kernel(self.weight[:, : below.shape[1]])
        answer = functional.conv_transpose2d(below, kernel, self.bias, stride=2, padding=1)
        if beside is not None:
            answer += functional.conv2d(beside, self.weight[:, below.shape[1] :], padding=1)
        return answer


class Block(nn.Module):
    """A block of smp's U-Net decoder over the weights, and under the names, of the one given."""

    def __init__(self, plain: nn.Module):
        super().__init__()
        convolution, *after = plain.conv1
        sizes = (convolution.in_channels, convolution.out_channels, convolution.kernel_size)
        first = Upsampled(*sizes, padding=convolution.padding, device="meta")  # without weights of its own
        first.weight, first.bias = convolution.weight, convolution.bias
        self.conv1 = nn.Sequential(first, *after)
        self.conv2 = plain.conv2

    def forward(self, below: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        first, *after = self.conv1
        answer = first(below, skip_connection, (height, width))
        for layer in after:
            answer = layer(answer)
        return self.conv2(answer)


def quicken_upsampling(model: nn.Module) -> None:
    """Swap the blocks of smp's U-Net decoder for quick ones over the same weights, in place."""
    for name, child in model.named_children():
        if _is_plain(child):
            setattr(model, name, Block(child))
        else:
            quicken_upsampling(child)


def _sum_kernel(weight: Tensor) -> Tensor:
    """`(out, C, 3, 3)` of the enlarged image → `(C, out, 4, 4)` of the transposed convolution."""
    rows = weight.new_tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])  # the 3 that are summed into the 4
    places = weight.permute(2, 3, 1, 0).reshape(9, -1)
    with torch.autocast(weight.device.type, enabled=False):  # summed as the weights are, and rounded once
        sums = torch.mm(torch.kron(rows, rows).t(), places)
    return sums.view(4, 4, *weight.shape[1::-1]).permute(2, 3, 0, 1)


def _is_plain(module: nn.Module) -> bool:
    """Told by its name: smp cannot be imported before torchvision is mended. Attention would see what is enlarged."""
    named = type(module).__name__ == "UnetDecoderBlock" and module.interpolation_mode == "nearest"
    return named and isinstance(module.attention1.attention, nn.Identity)
