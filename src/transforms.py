"""From an image and its label to arrays at the working scale: windows, sizes, normalisation, classes of instances.

window = draw_window(image.shape[:2], augment, rng)
image, label = cut_window(image, window), cut_window(label, window)
"""

from dataclasses import dataclass

import cv2
import numpy as np

from config import IGNORE_INDEX, Augment, Image

UNKNOWN_INSTANCE = 0x8000  # this bit of a uint16 instance map marks a doubtful pixel; the rest is its best id


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels at the working scale; it may reach beyond the image."""

    top: int
    left: int
    size: int


def working_shape(height: int, width: int, image: Image, longest: int | None = None) -> tuple[int, int]:
    """The size at which the network sees an image of this size: times `image.scale`, at most `image.long_side` long.

    A part of an image is seen at the scale of the whole, whose long side is `longest`.
    """
    factor = image.scale
    if image.long_side is not None:
        factor = min(factor, image.long_side / (longest or max(height, width)))
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`(H, W, C)` to another size, averaging where it shrinks; keeps the dtype."""
    if image.shape[:2] == shape:
        return image
    shrinks = shape[0] < image.shape[0]
    # OpenCV averages no more than four channels at once
    parts = np.split(image, range(4, image.shape[2], 4), axis=2) if shrinks else [image]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.dstack([cv2.resize(np.ascontiguousarray(part), shape[::-1], interpolation=how) for part in parts])


def shrink_sparse(label: np.ndarray, size: int) -> np.ndarray:
    """`(H, W) uint8` of mostly unknown pixels to `(size, size)`, losing no known one, as taking the nearest would.

    Where known pixels fall together the last one stays.
    """
    small = np.full((size, size), IGNORE_INDEX, np.uint8)
    rows, columns = np.nonzero(label != IGNORE_INDEX)
    small[rows * size // label.shape[0], columns * size // label.shape[1]] = label[rows, columns]
    return small


def draw_window(
    shape: tuple[int, int], augment: Augment, rng: np.random.Generator, centres: np.ndarray | None = None
) -> Window:
    """A random square that will be scaled to the crop: its side is crop / scale, the scale drawn log-uniformly.

    With `centres` `(n, 2)` of rows and columns, the square covers one of them, anywhere in it.
    """
    low, high = augment.scale
    size = max(1, round(augment.crop / np.exp(rng.uniform(np.log(low), np.log(high)))))
    tops = (min(0, shape[0] - size), max(0, shape[0] - size))
    lefts = (min(0, shape[1] - size), max(0, shape[1] - size))
    if centres is not None and len(centres):
        row, column = centres[rng.integers(len(centres))]
        tops = (int(np.clip(row - size + 1, *tops)), int(np.clip(row, *tops)))
        lefts = (int(np.clip(column - size + 1, *lefts)), int(np.clip(column, *lefts)))
    return Window(int(rng.integers(tops[0], tops[1] + 1)), int(rng.integers(lefts[0], lefts[1] + 1)), size)


def draw_box(size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """CutMix's rectangle (arXiv:1905.04899): its area is uniform, its place too."""
    area, ratio = rng.uniform(0.1, 0.5), np.exp(rng.uniform(-0.7, 0.7))
    height = int(np.clip(size * np.sqrt(area * ratio), 1, size))
    width = int(np.clip(size * np.sqrt(area / ratio), 1, size))
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    return slice(top, top + height), slice(left, left + width)


def cut_window(array: np.ndarray, window: Window, fill: int | None = None) -> np.ndarray:
    """A window of `(H, W)` or `(H, W, C)`; what lies beyond is mirrored, or is `fill` where one is given."""
    height, width = array.shape[:2]
    top, left = max(0, window.top), max(0, window.left)
    bottom, right = min(height, window.top + window.size), min(width, window.left + window.size)
    part = array[top:bottom, left:right]
    rows = (top - window.top, window.top + window.size - bottom)
    columns = (left - window.left, window.left + window.size - right)
    if not any(rows + columns):
        return part.copy()  # a view would let CutMix paint on the picture in the cache
    pads = [rows, columns] + [(0, 0)] * (array.ndim - 2)
    if fill is not None:
        return np.pad(part, pads, constant_values=fill)
    return np.pad(part, pads, mode="symmetric")


def cut_centre(array: np.ndarray, side: int | None) -> np.ndarray:
    """The middle of `(H, W)` or `(H, W, C)`, at most `side` high and wide; all of it where `side` is None."""
    height, width = array.shape[:2]
    tall, wide = min(side or height, height), min(side or width, width)
    top, left = (height - tall) // 2, (width - wide) // 2
    return array[top : top + tall, left : left + wide]


def stretch(image: np.ndarray) -> np.ndarray:
    """`(H, W, C) float32`, its least value moved to 0 and its largest to 1: all of a photo's three channels alike, so
    that its colours stay, and any others each for itself."""
    axes = (0, 1, 2) if image.shape[2] == 3 else (0, 1)
    low, high = image.min(axis=axes), image.max(axis=axes)
    return (image - low) / np.maximum(high - low, 1e-12)


def statistics(image: np.ndarray, settings: Image, full_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel on the scale [0, 1] that this image is normalised by."""
    if settings.normalise == "fixed":
        return np.float32(settings.mean), np.float32(settings.std)
    pixels = image.reshape(-1, image.shape[-1]).astype(np.float64) / full_scale
    return np.float32(pixels.mean(0)), np.float32(np.maximum(pixels.std(0), 1e-3))


def normalise(image: np.ndarray, mean: np.ndarray, std: np.ndarray, full_scale: float) -> np.ndarray:
    """`(H, W, C)` → `(C, H, W) float32`."""
    factor, shift = (1.0 / (full_scale * std)).astype(np.float32), (mean / std).astype(np.float32)
    if image.dtype != np.uint8:
        return np.ascontiguousarray((image.astype(np.float32) * factor - shift).transpose(2, 0, 1))
    # the same 256 numbers a channel, looked up: a sixth of the time
    table = (np.arange(256, dtype=np.float32)[:, None] * factor - shift).T.copy()
    planes = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    for plane, values, channel in zip(planes, table, cv2.split(image), strict=True):
        cv2.LUT(channel, values, plane)
    return planes


def instance_classes(instances: np.ndarray, border_width: int) -> np.ndarray:
    """A uint16 instance map → `(H, W) uint8`: 0 background, 1 inside, 2 the border within an instance, 255 unknown.

    A pixel is border where another label lies within `border_width` pixels of it. A doubtful pixel still shapes its
    neighbours' border by its best id.
    """
    ids = instances & (UNKNOWN_INSTANCE - 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * border_width + 1, 2 * border_width + 1))
    uniform = cv2.dilate(ids, kernel) == cv2.erode(ids, kernel)
    classes = np.where(ids > 0, np.where(uniform, 1, 2), 0).astype(np.uint8)
    classes[instances >= UNKNOWN_INSTANCE] = IGNORE_INDEX
    return classes


def renumber(instances: np.ndarray, other: np.ndarray) -> np.ndarray:
    """An instance map, or its first plane `(H, W, 2)`, with ids beyond those of the `other` one."""
    ids, flag = instances & (UNKNOWN_INSTANCE - 1), instances & UNKNOWN_INSTANCE
    if ids.ndim == 3:
        return np.dstack([renumber(instances[..., 0], other[..., 0]), instances[..., 1]])
    taken = int((other & (UNKNOWN_INSTANCE - 1)).max())
    moved = (ids.astype(np.int64) - 1 + taken) % (UNKNOWN_INSTANCE - 1) + 1
    return np.where(ids > 0, moved, 0).astype(np.uint16) | flag


def soft_instance_classes(label: np.ndarray, border_width: int) -> np.ndarray:
    """Instance ids and the probability of being one, `(H, W, 2) uint16` up to 255, → background, inside and border,
    `(3, H, W) float32`.

    Where there may be an instance and has no id, it is border: that is what lies around one.
    """
    foreground = label[..., 1].astype(np.float32) / 255.0
    inside = foreground * (instance_classes(label[..., 0], border_width) == 1)
    return np.stack([1.0 - foreground, inside, foreground - inside])
