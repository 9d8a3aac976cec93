"""The plain U-Net (Ronneberger et al., arXiv:1505.04597) with padded convolutions: nothing pretrained, grey or colour.

network = PlainUnet(in_channels=1, classes=1, widths=(64, 128, 256, 512, 1024))
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions, each with a norm and ReLU."""

    def __init__(self, inward: int, outward: int):
        super().__init__()
        layers = []
        for channels in (inward, outward):
            layers += [nn.Conv2d(channels, outward, 3, padding=1, bias=False), nn.BatchNorm2d(outward), nn.ReLU(True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """From the bottom up: double the side by a transposed convolution, put the encoder's answer beside it, a block."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in pairs)
        self.blocks = nn.ModuleList(Block(2 * here, here) for _, here in pairs)

    def forward(self, answers: list[Tensor]) -> Tensor:
        answer = answers[-1]
        for up, block, beside in zip(self.up, self.blocks, answers[-2::-1], strict=True):
            answer = block(torch.cat([beside, up(answer)], dim=1))
        return answer


class PlainUnet(nn.Module):
    """`(N, C, H, W)` → logits `(N, classes, H, W)`; `widths` from the top down, each level at half the side.

    H and W must be multiples of 2 to the number of levels less one. Its parts have the names of smp's models.
    """

    def __init__(self, in_channels: int, classes: int, widths: Sequence[int]):
        super().__init__()
        pairs = zip((in_channels, *widths[:-1]), widths, strict=True)
        self.encoder = nn.ModuleList(Block(inward, outward) for inward, outward in pairs)
        self.decoder = Decoder(widths)
        self.segmentation_head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        answers: list[Tensor] = []
        for block in self.encoder:
            images = block(nn.functional.max_pool2d(answers[-1], 2) if answers else images)
            answers.append(images)
        return self.segmentation_head(self.decoder(answers))
