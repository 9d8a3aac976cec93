"""Scores: one streaming confusion matrix, Dice per image, and the Data Science Bowl's average precision of instances.

    matrix = ConfusionMatrix(len(classes))
    for target, prediction in pairs:
        matrix.update(target, prediction)
    matrix.miou()

Pixels whose target is 255 are unknown and count nowhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from config import IGNORE_INDEX

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


@dataclass
class ConfusionMatrix:
    """Pixel counts, `counts[target, prediction]`, streamed over images; after torchvision's references/segmentation.

    A binary task has two classes, 0 and 1; a multilabel one keeps a matrix a class.
    """

    num_classes: int
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # (C, C) int64

    def __post_init__(self) -> None:
        if self.counts.size == 0:
            self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Add an image or batch: two integer arrays of one shape. Raises ValueError for another class or shape."""
        if target.shape != prediction.shape:
            raise ValueError(f"the target is {target.shape}, the prediction {prediction.shape}")
        known = target != IGNORE_INDEX
        target, prediction = target[known].astype(np.int64), prediction[known].astype(np.int64)
        for name, values in (("target", target), ("prediction", prediction)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(f"the {name} holds classes {values.min()} ... {values.max()} of {self.num_classes}")
        pairs = np.bincount(target * self.num_classes + prediction, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.counts.shape)

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        if self.num_classes != other.num_classes:
            raise ValueError(f"matrices of {self.num_classes} and {other.num_classes} classes do not add")
        return ConfusionMatrix(self.num_classes, self.counts + other.counts)

    def iou(self) -> np.ndarray:
        """(C,) float64 intersection over union; NaN for a class in neither target nor prediction."""
        both = np.diag(self.counts)
        return _ratio(both, self.counts.sum(axis=0) + self.counts.sum(axis=1) - both)

    def dice(self) -> np.ndarray:
        """(C,) float64 2|A∩B| / (|A| + |B|) over all pixels; NaN for a class in neither target nor prediction."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(axis=0) + self.counts.sum(axis=1))

    def miou(self) -> float:
        """Mean IoU over the classes that occur in the target or the prediction; NaN where nothing was counted."""
        iou = self.iou()
        return float(iou[~np.isnan(iou)].mean()) if self.counts.any() else float("nan")

    def accuracy(self) -> float:
        """Share of the known pixels that are right; NaN where nothing was counted."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))


def dice_score(target: np.ndarray, prediction: np.ndarray, both_empty: float = 1.0) -> float:
    """Dice of one image's two masks of 0 and 1 (target may hold 255); `both_empty` where neither has a pixel."""
    known = target != IGNORE_INDEX
    target, prediction = (target != 0) & known, (prediction != 0) & known
    total = np.count_nonzero(target) + np.count_nonzero(prediction)
    return 2 * np.count_nonzero(target & prediction) / total if total else both_empty


def mean_dice(pairs: Iterable[tuple[np.ndarray, np.ndarray]], both_empty: float = 1.0) -> float:
    """Mean of `dice_score` over pairs; NaN for none. NaN as `both_empty` leaves such images out."""
    return _mean(dice_score(target, prediction, both_empty) for target, prediction in pairs)


def instance_iou(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Two (H, W) maps of instance ids, 0 background → (targets, predictions) float64 IoU, ids ascending.

    One joint histogram, as in the Data Science Bowl 2018 kernels. Ids may have gaps; memory grows with the largest.
    """
    target, prediction = _number(target), _number(prediction)
    rows, columns = target.max(initial=0) + 1, prediction.max(initial=0) + 1
    joint = np.bincount((target * columns + prediction).ravel(), minlength=rows * columns).reshape(rows, columns)
    union = joint.sum(axis=1, keepdims=True) + joint.sum(axis=0, keepdims=True) - joint
    return joint[1:, 1:] / union[1:, 1:]


def average_precision(target: np.ndarray, prediction: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> float:
    """One image's mean over IoU thresholds of TP / (TP + FP + FN), two (H, W) maps of instance ids; both empty: 1.

    The metric of Data Science Bowl 2018, Sartorius and TGS Salt: a match has an IoU above the threshold, which from 0.5
    up no instance can have with two others. Raises ValueError for a lower threshold.
    """
    if min(thresholds) < 0.5:
        raise ValueError("below an IoU of 0.5 a match is not unique")
    iou = instance_iou(target, prediction)
    targets, predictions = iou.shape
    if targets + predictions == 0:
        return 1.0
    matches = np.array([np.count_nonzero(iou > threshold) for threshold in thresholds])
    return float((matches / (targets + predictions - matches)).mean())


def mean_average_precision(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], thresholds: tuple[float, ...] = THRESHOLDS
) -> float:
    """Mean of `average_precision` over images, given as (target, prediction) pairs; NaN for none."""
    return _mean(average_precision(target, prediction, thresholds) for target, prediction in pairs)


def _number(labels: np.ndarray) -> np.ndarray:
    """Instance ids → 1 ... n without gaps, int64, 0 kept."""
    present = np.bincount(labels.ravel()) > 0
    present[:1] = False
    return np.where(present, np.cumsum(present), 0)[labels]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(scores: Iterable[float]) -> float:
    values = np.array(list(scores), dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
