"""From an image and its label to what the network sees: working scale, geometry, photometry, normalisation.

    recipe = make_recipe(config.train.augment, channels=3)
    image, label = cut_window(image, label, draw_window(image.shape[:2], augment, rng))
    image, label = apply_geometry(recipe, image, label, seed)
    image = apply_photometry(recipe, image, seed)

Geometry is drawn once and photometry after it, so that a weak and a strong view of an image align pixel by pixel.
"""

import random
from dataclasses import dataclass
from typing import Any

import albumentations
import cv2
import numpy as np

from config import IGNORE_INDEX, Augment, Image, Photometry

UNKNOWN_INSTANCE = 0x8000  # this bit of a uint16 instance map marks a doubtful pixel; the rest is its best id


@dataclass(frozen=True)
class Recipe:
    geometry: albumentations.Compose
    photometry: albumentations.Compose


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels at the working scale; it may reach beyond the image."""

    top: int
    left: int
    size: int


def make_recipe(augment: Augment, channels: int, photometry: Photometry | None = None) -> Recipe:
    """The augmentations of one config: a geometry for image and label, a photometry for the image alone (`augment`'s
    own, unless another is given)."""
    # labels at pixel centres, as the image's interpolation has it: plain nearest shifts them by up to a pixel
    resize = albumentations.Resize(augment.crop, augment.crop, mask_interpolation=cv2.INTER_NEAREST_EXACT)
    geometry: list[albumentations.BasicTransform] = [resize]
    if augment.rotate:
        fill = {"border_mode": cv2.BORDER_REFLECT_101}
        geometry.append(albumentations.Rotate(limit=(-augment.rotate, augment.rotate), p=0.7, **fill))
    if augment.flips and augment.rotate90:
        geometry.append(albumentations.D4(p=1.0))
    elif augment.flips:
        geometry += [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    elif augment.rotate90:
        geometry.append(albumentations.RandomRotate90(p=1.0))
    return Recipe(
        albumentations.Compose(geometry, additional_targets={"soft": "image"}),
        albumentations.Compose(_photometry(photometry or augment, channels)),
    )


def _photometry(augment: Photometry, channels: int) -> list[albumentations.BasicTransform]:
    steps: list[albumentations.BasicTransform] = []
    strength = augment.colour
    if strength and channels == 3:
        jitter = (1.0 - 0.8 * strength, 1.0 + 0.8 * strength)
        steps.append(
            albumentations.ColorJitter(
                brightness=jitter, contrast=jitter, saturation=jitter, hue=(-0.2 * strength, 0.2 * strength), p=0.8
            )
        )
    elif strength:
        limit = (-0.5 * strength, 0.5 * strength)
        steps.append(albumentations.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=0.8))
    if strength:
        steps.append(albumentations.RandomGamma(gamma_limit=(100 - 40 * strength, 100 + 60 * strength), p=0.3))
    if augment.grey and channels == 3:
        steps.append(albumentations.ToGray(p=augment.grey))
    if augment.invert:
        steps.append(albumentations.InvertImg(p=augment.invert))
    if augment.blur:
        # a shifted or one-sided kernel would move the image off its label and off its other view
        centred = {"allow_shifted": False, "direction_range": (0.0, 0.0)}
        motion = albumentations.MotionBlur(blur_limit=(3, 7), **centred)
        blurs = [albumentations.GaussianBlur(sigma_limit=(0.3, 1.5)), motion]
        steps.append(albumentations.OneOf(blurs, p=augment.blur))
    if augment.noise:
        steps.append(albumentations.GaussNoise(std_range=(0.01, 0.06), p=augment.noise))
    return steps


def working_shape(height: int, width: int, image: Image) -> tuple[int, int]:
    """The size at which the network sees an image of this size: times `image.scale`, at most `image.long_side` long."""
    factor = image.scale
    if image.long_side is not None:
        factor = min(factor, image.long_side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`(H, W, C)` to another size, averaging where it shrinks; keeps the dtype."""
    if image.shape[:2] == shape:
        return image
    shrinks = shape[0] < image.shape[0]
    resized = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized[..., None] if resized.ndim == 2 else resized


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


def apply_geometry(recipe: Recipe, image: np.ndarray, label: np.ndarray, seed: int, soft: bool) -> tuple:
    """The same flips, rotations and scaling of an image and its label; a soft label is interpolated."""
    _reseed(recipe.geometry, np.random.default_rng(seed), random.Random(seed))
    result = recipe.geometry(image=image, **{"soft" if soft else "mask": label})
    return result["image"], result["soft" if soft else "mask"]


def apply_photometry(recipe: Recipe, image: np.ndarray, seed: int) -> np.ndarray:
    """Colour, noise and blur; `(H, W, C)` of uint8, or of float32 in [0, 1]."""
    _reseed(recipe.photometry, np.random.default_rng([seed, 1]), random.Random(seed + 1))
    result = recipe.photometry(image=image)["image"]
    return result[..., None] if result.ndim == 2 else result


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


def _reseed(step: Any, rng: np.random.Generator, dice: random.Random) -> None:
    """Let a composition and its steps draw from one sequence; its own seeding gives all of them the same dice."""
    step.random_generator, step.py_random = rng, dice
    for inner in getattr(step, "transforms", ()):
        _reseed(inner, rng, dice)
