"""Augmentation of a window and its label: geometry, which moves both, and photometry, which changes the image alone.

    recipe = make_recipe(config.train.augment, channels=3)
    image, label = apply_geometry(recipe, image, label, seed, soft=False)
    image = apply_photometry(recipe, image, seed)

Geometry is drawn once and photometry after it, so that a weak and a strong view of an image align pixel by pixel.
"""

import random
from dataclasses import dataclass
from typing import Any

import albumentations
import cv2
import numpy as np

from config import Augment, Photometry


@dataclass(frozen=True)
class Recipe:
    geometry: albumentations.Compose
    photometry: albumentations.Compose


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


def _reseed(step: Any, rng: np.random.Generator, dice: random.Random) -> None:
    """Let a composition and its steps draw from one sequence; its own seeding gives all of them the same dice."""
    step.random_generator, step.py_random = rng, dice
    for inner in getattr(step, "transforms", ()):
        _reseed(inner, rng, dice)
