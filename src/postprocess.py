"""From probabilities to labels, and how to fit what that takes: thresholds, smallest areas, instances.

    label = to_label(probabilities, "binary", Parameters(thresholds=(0.5,)))

Everything fitted is fitted on out-of-fold predictions, through per-image tables of scores (`fit_parameters`): the best
row over all images is the choice; the nested score judges each fold by the choice of the others.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from config import Config
from instances import part_touching


@dataclass(frozen=True)
class Parameters:
    """What turns probabilities into labels. Areas are pixels at the image's own size."""

    thresholds: tuple[float, ...] = (0.5,)  # one a class (binary, multilabel); instances: of the foreground
    min_areas: tuple[int, ...] = (0,)  # one a class; smaller connected parts are dropped
    class_scales: tuple[float, ...] = ()  # multiclass: each class's probability times this, before the best is taken
    neck: float = 0.8  # instances: touching ones part where they are at most so deep as the shallower one's middle
    min_confidence: float = 0.0  # instances: the foreground's mean probability over one's pixels; doubtful ones go


def starting_parameters(config: Config) -> Parameters:
    """The config's own values, one a class."""
    settings, classes = config.postprocess, len(config.classes)
    return Parameters(
        thresholds=(settings.threshold,) * classes,
        min_areas=(settings.min_area,) * classes,
        class_scales=(1.0,) * classes if config.task == "multiclass" else (),
        neck=settings.neck,
        min_confidence=settings.min_confidence,
    )


def resize_probabilities(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`(K, H, W) float32` to the image's own `(height, width)`: averaged where it shrinks, else bilinear."""
    if probabilities.shape[1:] == tuple(shape):
        return probabilities
    method = cv2.INTER_AREA if shape[0] < probabilities.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane, shape[::-1], interpolation=method) for plane in probabilities])


def to_label(probabilities: np.ndarray, task: str, parameters: Parameters) -> np.ndarray:
    """`(K, H, W) float32` → a label array: `(H, W) uint8`, multilabel `(H, W, K) uint8`, instances `(H, W) int32`."""
    if task == "multiclass":
        scales = np.float32(parameters.class_scales or (1.0,) * len(probabilities))
        label = (probabilities * scales[:, None, None]).argmax(0).astype(np.uint8)
        return _merge_small(label, parameters.min_areas) if any(parameters.min_areas) else label
    if task == "instances":
        return separate_instances(probabilities, parameters)
    planes = [
        drop_small(plane >= threshold, area)
        for plane, threshold, area in zip(probabilities, parameters.thresholds, parameters.min_areas, strict=True)
    ]
    return planes[0].astype(np.uint8) if task == "binary" else np.stack(planes, axis=-1).astype(np.uint8)


def is_pixelwise(task: str, parameters: Parameters) -> bool:
    """Whether `to_label` looks at each pixel by itself, so that an image can be labelled band by band."""
    return task != "instances" and not any(parameters.min_areas)


def drop_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """A boolean mask without its 8-connected parts of fewer than `min_area` pixels."""
    if min_area <= 1 or not mask.any():
        return mask
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False
    return keep[parts]


def separate_instances(probabilities: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Background/inside/border probabilities `(3, H, W)` → `(H, W) int32`: instances 1, 2, …

    Small and doubtful ones are dropped, and leave no holes in the count.
    """
    foreground = 1.0 - probabilities[0]
    instances = part_touching(foreground >= parameters.thresholds[0], probabilities[1], parameters.neck)
    keep = kept_instances(*measure_instances(instances, foreground), parameters)
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[instances]


def measure_instances(instances: np.ndarray, foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(H, W)` ids and the foreground's probability → pixels of each id from 0 on, and their mean probability."""
    areas = np.bincount(instances.ravel())
    sums = np.bincount(instances.ravel(), weights=foreground.ravel())
    return areas, sums / np.maximum(areas, 1)


def kept_instances(areas: np.ndarray, confidences: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Which ids stay, `bool`, by what `measure_instances` says of them; 0, the background, does not."""
    keep = (areas >= max(1, parameters.min_areas[0])) & (confidences >= parameters.min_confidence)
    keep[0] = False
    return keep


def _merge_small(label: np.ndarray, min_areas: tuple[int, ...]) -> np.ndarray:
    """Give parts of a class below its smallest area to the nearest pixel that stays."""
    stays = np.zeros(label.shape, bool)
    for value, area in enumerate(min_areas):
        stays |= drop_small(label == value, area)
    if stays.all() or not stays.any():
        return label
    rows, columns = ndimage.distance_transform_edt(~stays, return_distances=False, return_indices=True)
    return label[rows, columns]
