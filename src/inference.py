"""From a model and images to probabilities: sliding window, smooth weights, test-time augmentation.

    predictor = Predictor(model, config.predict, activation="softmax", device=device)
    for image_id, shape, place, probabilities in predict_images(predictor, images): ...

Takes a model and arrays, knows no paths. Small images of like size share batches; a large image is answered in bands
of rows as its windows are done, so that memory does not grow with its height.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import ttach
from torch import Tensor, nn
from torch.nn import functional

from config import Predict
from runtime import autocast

STRIDE = 32  # the networks' sides must be multiples of it
CPU_PIXELS = 300_000  # of a batch that a processor's caches still hold; bigger ones take half as long again an image
BLOCK = 4096  # columns of an image that are worked off together
WAITING = 2**30  # bytes of small images that may wait for others of their size


# the whole image's (K, H, W), the part's top row and left column, and the part, (K, h, w) float32
Part = tuple[tuple[int, int, int], tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Predictor:
    """A model in its eval state and how it is asked."""

    model: nn.Module
    settings: Predict
    activation: Literal["softmax", "sigmoid"]
    device: torch.device
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    tta: bool = False
    plain_too: bool = False  # beside TTA: the one view that is as the image is

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """`(N, C, H, W) float32` → probabilities `(N, K, H, W) float32`, averaged over views and scales.

        With `plain_too` it is `(N, 2K, H, W)`: the plain answer's K channels, then those of the mean.
        """
        images = images.to(self.device, non_blocking=True)
        scales = self.settings.scales if self.tta else (1.0,)
        views = tta_views(self.settings.tta if self.tta else "none")
        total, plain = torch.zeros(()), None
        for scale in scales:
            scaled = images if scale == 1.0 else _rescale(images, scale)
            answer = torch.zeros(())
            for number, view in enumerate(views):
                one = view.deaugment_mask(self._probabilities(view.augment_image(scaled)))
                plain = one if scale == 1.0 and number == 0 else plain
                answer = answer + one
            if answer.shape[-2:] != images.shape[-2:]:
                answer = functional.interpolate(answer, images.shape[-2:], mode="bilinear", antialias=scale > 1.0)
            total = total + answer
        mean = total / (len(scales) * len(views))
        if not self.plain_too:
            return mean
        return torch.cat([self._probabilities(images) if plain is None else plain, mean], dim=1)

    def _probabilities(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = _pad(images, -height % STRIDE, -width % STRIDE).contiguous(memory_format=torch.channels_last)
        at_once = len(padded)
        if self.device.type == "cpu":
            at_once = max(1, CPU_PIXELS // (padded.shape[-2] * padded.shape[-1]))
        with autocast(self.device, self.precision):
            logits = torch.cat([self.model(part) for part in padded.split(at_once)])
        logits = logits[..., :height, :width].float()
        return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()


@dataclass(frozen=True)
class Members:
    """Several predictors asked as one: each image is read and cut once for all of them."""

    predictors: tuple[Predictor, ...]

    @property
    def settings(self) -> Predict:
        return self.predictors[0].settings

    def __call__(self, images: Tensor) -> Tensor:
        """`(N, C, H, W)` → `(N, members · K, H, W)`: one member's classes after the other's."""
        return torch.cat([predictor(images) for predictor in self.predictors], dim=1)


def tta_views(kind: Literal["none", "mirror", "flips", "d4"]) -> list:
    """ttach's transformers: the identity first; "mirror" are 2 views, "flips" 4, "d4" all 8 of the square."""
    compositions = {
        "none": ttach.Compose([]),
        "mirror": ttach.Compose([ttach.HorizontalFlip()]),
        "flips": ttach.Compose([ttach.HorizontalFlip(), ttach.VerticalFlip()]),
        "d4": ttach.Compose([ttach.HorizontalFlip(), ttach.Rotate90(angles=[0, 90, 180, 270])]),
    }
    return list(compositions[kind])


def predict_images(
    predictor: Predictor | Members, images: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, *Part]]:
    """Answer `(image_id, (C, H, W) float32)` with `(image_id, whole shape, (top, left), (K, h, w) float32)` parts.

    Images that fit the window come back as one part each, in batches of like size and so not in order; larger ones in
    bands from top to bottom, and very wide ones in several such columns. The part at the bottom right is the last.
    """
    window, waiting, room = predictor.settings.window, defaultdict(list), WAITING
    for image_id, image in images:
        if max(image.shape[-2:]) > window:
            for part in slide(predictor, image):
                yield image_id, *part
            continue
        queue = waiting[image.shape]
        queue.append((image_id, image))
        room -= image.nbytes
        if len(queue) == predictor.settings.batch_size or room < 0:
            fullest = max(waiting.values(), key=len) if room < 0 else queue
            room += sum(one.nbytes for _, one in fullest)
            yield from _answer_batch(predictor, waiting.pop(fullest[0][1].shape))
    for queue in waiting.values():
        yield from _answer_batch(predictor, queue)


def slide(predictor: Predictor | Members, image: np.ndarray) -> Iterator[Part]:
    """Slide a window over `(C, H, W)`, blend the answers by smooth weights, yield parts as they are complete.

    A very wide image is worked off in blocks of columns, each from top to bottom, so that memory grows with neither
    side; the windows between two blocks are asked for both.
    """
    settings = predictor.settings
    height, width = image.shape[-2:]
    rows, columns = (window_starts(side, settings.window, settings.overlap) for side in (height, width))
    tall, wide = min(settings.window, height), min(settings.window, width)
    weight = smooth_weight(tall, wide)
    for left, right in block_edges(columns, width):
        lefts = [column for column in columns if left - wide < column < right]
        first, end = lefts[0], lefts[-1] + wide
        total, weights, start = None, np.zeros((tall, end - first), np.float32), 0
        for row, next_row in zip(rows, [*rows[1:], height], strict=True):
            strip = image[:, row : row + tall, first:end]
            for number in range(0, len(lefts), settings.batch_size):
                places = [column - first for column in lefts[number : number + settings.batch_size]]
                tiles = np.stack([strip[:, :, place : place + wide] for place in places])
                answers = predictor(torch.from_numpy(tiles)).cpu().numpy()
                if total is None:
                    total = np.zeros((answers.shape[1], tall, end - first), np.float32)
                for place, answer in zip(places, answers, strict=True):
                    total[:, :, place : place + wide] += answer * weight
                    weights[:, place : place + wide] += weight
            done, mine = next_row - start, slice(left - first, right - first)
            yield (len(total), height, width), (start, left), total[:, :done, mine] / weights[:done, mine]
            # rows below stay: the next windows add to them
            for sums in (total, weights[None]):
                sums[:, : tall - done] = sums[:, done:]
                sums[:, tall - done :] = 0.0
            start = next_row


def block_edges(columns: list[int], width: int) -> list[tuple[int, int]]:
    """Cut the columns of an image into blocks of about BLOCK, each of which begins with a window."""
    edges = [0]
    for column in columns[1:]:
        if column - edges[-1] >= BLOCK:
            edges.append(column)
    return list(pairwise([*edges, width]))


def window_starts(side: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows that cover a side, neighbours overlapping by at least `overlap`."""
    if side <= window:
        return [0]
    count = int(np.ceil((side - window) / max(1.0, window * (1.0 - overlap)))) + 1
    return [round(place) for place in np.linspace(0, side - window, count)]


def smooth_weight(height: int, width: int) -> np.ndarray:
    """`(height, width) float32`: a raised cosine that falls towards the edges, never quite to 0."""
    rows, columns = ((np.arange(side) + 0.5) / side for side in (height, width))
    profile = np.outer(np.sin(np.pi * rows) ** 2, np.sin(np.pi * columns) ** 2)
    return np.maximum(profile, 1e-3).astype(np.float32)


def _answer_batch(predictor: Predictor, batch: list[tuple[str, np.ndarray]]) -> Iterator[tuple]:
    answers = predictor(torch.from_numpy(np.stack([image for _, image in batch]))).cpu().numpy()
    for (image_id, _), answer in zip(batch, answers, strict=True):
        yield image_id, answer.shape, (0, 0), answer


def is_last(shape: tuple[int, int, int], place: tuple[int, int], part: np.ndarray) -> bool:
    """Whether a part is the one at the bottom right of an image of this shape."""
    return (place[0] + part.shape[1], place[1] + part.shape[2]) == shape[1:]


def _pad(images: Tensor, bottom: int, right: int) -> Tensor:
    if not bottom and not right:
        return images
    # mirroring needs more pixels than it adds
    mode = "reflect" if bottom < images.shape[-2] and right < images.shape[-1] else "replicate"
    return functional.pad(images, (0, right, 0, bottom), mode=mode)


def _rescale(images: Tensor, scale: float) -> Tensor:
    size = [max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in images.shape[-2:]]
    return functional.interpolate(images, size, mode="bilinear", antialias=scale < 1.0)
