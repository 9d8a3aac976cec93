"""Scores of pixels: one streaming confusion matrix, and the counts that Dice, IoU and F-beta of a mask are made of.

    matrix = ConfusionMatrix(len(classes))
    for target, prediction in pairs:
        matrix.update(target, prediction)
    matrix.miou()

Pixels whose target is 255 are unknown and count nowhere. Instances are scored in matching.py, shapes in surfaces.py.
"""

from dataclasses import dataclass, field

import numpy as np

from config import IGNORE_INDEX

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # of IoU, of TGS, Airbus, DSB, Sartorius, COCO

Ratio = tuple[float, float]  # a numerator and a denominator; 0 of 0 where there was nothing to find and nothing found


@dataclass
class ConfusionMatrix:
    """Pixel counts, `counts[target, prediction]`, streamed over images; after torchvision's references/segmentation.

    A binary task has two classes, 0 and 1; a multilabel one keeps a matrix a class.
    """

    num_classes: int
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # (C, C) int64
    ignore: int = IGNORE_INDEX  # the target's value of unknown pixels

    def __post_init__(self) -> None:
        if self.counts.size == 0:
            self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Add an image or batch: two integer arrays of one shape. Raises ValueError for another class or shape."""
        if target.shape != prediction.shape:
            raise ValueError(f"the target is {target.shape}, the prediction {prediction.shape}")
        known = target != self.ignore
        target, prediction = target[known].astype(np.int64), prediction[known].astype(np.int64)
        for name, values in (("target", target), ("prediction", prediction)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(f"the {name} holds classes {values.min()} ... {values.max()} of {self.num_classes}")
        pairs = np.bincount(target * self.num_classes + prediction, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.counts.shape)

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        if self.num_classes != other.num_classes:
            raise ValueError(f"matrices of {self.num_classes} and {other.num_classes} classes do not add")
        return ConfusionMatrix(self.num_classes, self.counts + other.counts, self.ignore)

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

    def macro_accuracy(self) -> float:
        """Mean over the classes that occur in the target of the share of their pixels that are right (mean recall)."""
        recall = _ratio(np.diag(self.counts), self.counts.sum(axis=1))
        return float(recall[~np.isnan(recall)].mean()) if self.counts.any() else float("nan")

    def mean_dice(self) -> float:
        """Mean over the classes that occur in the target or the prediction of Dice over all pixels."""
        dice = self.dice()
        return float(dice[~np.isnan(dice)].mean()) if self.counts.any() else float("nan")


@dataclass(frozen=True)
class PixelCounts:
    """How two masks agree, in pixels: found, false, missed, and rightly left out."""

    tp: int
    fp: int
    fn: int
    tn: int

    def f_beta(self, beta: float = 1.0) -> Ratio:
        """(1 + β²)TP over (1 + β²)TP + β²FN + FP; β = 1 is Dice, below 1 precision weighs more (van Rijsbergen)."""
        both = (1 + beta**2) * self.tp
        return both, both + beta**2 * self.fn + self.fp

    def iou(self) -> Ratio:
        return self.tp, self.tp + self.fp + self.fn

    def accuracy(self) -> Ratio:
        return self.tp + self.tn, self.tp + self.fp + self.fn + self.tn


def count_pixels(target: np.ndarray, prediction: np.ndarray) -> PixelCounts:
    """Two masks of one shape; what is not 0 belongs to them. A target of 255 is unknown. Raises ValueError."""
    if target.shape != prediction.shape:
        raise ValueError(f"the target is {target.shape}, the prediction {prediction.shape}")
    known = target != IGNORE_INDEX
    true, found = (target != 0) & known, (prediction != 0) & known
    both, wanted, given = (int(np.count_nonzero(mask)) for mask in (true & found, true, found))
    return PixelCounts(both, given - both, wanted - both, int(np.count_nonzero(known)) - wanted - given + both)


def iou_share(target: np.ndarray, prediction: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> Ratio:
    """TGS Salt's precision of one image: the share of the thresholds that the two masks' IoU is above.

    An image with one mask of the two empty scores 0, as its one object is missed or false; 0 of 0 where both are.
    """
    both, either = count_pixels(target, prediction).iou()
    return (sum(both / either > threshold for threshold in thresholds) / len(thresholds), 1.0) if either else (0.0, 0.0)


def patch_classes(mask: np.ndarray, side: int = 16, share: float = 0.25) -> np.ndarray:
    """(H, W) mask → (⌈H/side⌉, ⌈W/side⌉) bool: the patches more than `share` of whose pixels are set (EPFL roads)."""
    starts = [np.arange(0, length, side) for length in mask.shape]
    areas = [np.diff(start, append=length) for start, length in zip(starts, mask.shape, strict=True)]
    sums = np.add.reduceat(np.add.reduceat((mask != 0).astype(np.int64), starts[0], axis=0), starts[1], axis=1)
    return sums > share * np.outer(*areas)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
