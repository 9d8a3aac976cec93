"""How a score is made: what is measured in an image, how images are put together, and what two empty masks are worth.

    rule = RULES["severstal"]
    score(rule, (((image_id, index), truth, prediction) for ...))

A measure gives a numerator and a denominator. They are summed within each group (an image, a pair of image and class,
or a class over all images), and the groups' ratios are averaged. `METRICS` are the scores a config can choose by,
`RULES` those of the competitions, by the names of their formats.
"""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from config import IGNORE_INDEX
from matching import Style, instance_f_beta, instance_iou, instance_precision
from metrics import THRESHOLDS, Ratio, count_pixels, iou_share, patch_classes
from surfaces import boundary_f, surface_dice

Measure = Literal[
    "f_beta",  # of pixels; β = 1 is Dice
    "iou",
    "accuracy",
    "patch_f_beta",  # of the 16-pixel patches more than a quarter of which is set
    "iou_share",  # the share of thresholds that two masks' IoU is above
    "boundary_f",
    "surface_dice",
    "instance_precision",
    "instance_f_beta",
    "detections",  # average precision of instances with confidences, the mean over classes
    "confusion",  # mIoU of one confusion matrix over all pixels
]


@dataclass(frozen=True)
class Rule:
    """A score. `both_empty` is what a group is worth where nothing is true and nothing was found."""

    measure: Measure
    reduce: Literal["image", "pair", "global"] = "image"
    both_empty: Literal[0, 1, "skip"] = 1
    task: Literal["binary", "multilabel", "multiclass", "instances", "detections", "patches"] = "binary"
    beta: float = 1.0
    thresholds: tuple[float, ...] = THRESHOLDS
    tolerance: float | None = None  # pixels, of surfaces and boundaries; None: the measure's own
    style: Style = "open_images"  # how detections are matched and their curve is read
    ignore: int = IGNORE_INDEX  # a confusion matrix's unknown pixels
    size: tuple[int, int] | None = None  # (height, width) where all images have one
    volume: str = ""  # a regular expression over ids whose groups `volume` and `slice` place an image in a volume
    hausdorff: float = 0.0  # weight of 1 - the volumes' normalised Hausdorff distance; the measure has the rest
    composite: bool = False  # ImageNet-S 2026's sum, see answers.py


METRICS: dict[str, Rule] = {
    "dice": Rule("f_beta", "pair"),
    "dice_global": Rule("f_beta", "global", "skip"),
    "f0.5": Rule("f_beta", "pair", beta=0.5),
    "miou": Rule("iou", "global", "skip"),
    "accuracy": Rule("accuracy", "global", "skip"),
    "mask_map": Rule("iou_share", "pair"),
    "boundary_f": Rule("boundary_f", "pair"),
    "surface_dice": Rule("surface_dice", "global", "skip", tolerance=0.0),
    "patch_f1": Rule("patch_f_beta", "global", "skip"),
    "map": Rule("instance_precision", task="instances"),
    "f2": Rule("instance_f_beta", task="instances", beta=2.0),
}
# the same in words, for a report
METRIC_WORDS = {
    "dice": "twice the overlap of prediction and truth over the sum of their areas, averaged over images; two "
    "empty masks count 1",
    "miou": "mean intersection over union: each class's overlap over its union, over all pixels, averaged over classes",
    "map": "average precision of instances: hits / (hits + misses + false alarms), averaged over IoU thresholds 0.50 "
    "to 0.95, then over images (Data Science Bowl 2018)",
    "dice_global": "twice the overlap of prediction and truth over the sum of their areas, over all pixels, averaged "
    "over classes",
    "f0.5": "F of precision and recall, precision weighing twice as much, averaged over images; two empty masks "
    "count 1",
    "accuracy": "share of the pixels that are right",
    "macro_accuracy": "share of each class's pixels that are right, averaged over classes",
    "mask_map": "share of the thresholds 0.50 to 0.95 that intersection over union is above, averaged over images; two "
    "empty masks count 1 (TGS Salt)",
    "boundary_f": "F of the shares of the two boundaries that lie within 0.75% of the image's diagonal of each other, "
    "averaged over images; two empty masks count 1",
    "surface_dice": "share of the outlines of prediction and truth that lie on each other, over all images, averaged "
    "over classes",
    "patch_f1": "F1 of the patches of 16 pixels a side more than a quarter of which is set, over all images (EPFL)",
    "f2": "F of instances, misses weighing four times as much as false alarms, averaged over IoU thresholds 0.50 to "
    "0.95, then over images (Airbus)",
}

_DICE = Rule("f_beta")
_PAIRS = Rule("f_beta", "pair", task="multilabel")
_PRECISION = Rule("instance_precision", task="instances")

# From the competitions' pages and, where they differ, from what their boards showed.
RULES: dict[str, Rule] = {
    "image": _DICE,
    "image_class": _PAIRS,
    "instance": _PRECISION,
    "tgs_salt": Rule("iou_share", size=(101, 101)),
    "airbus": Rule("instance_f_beta", task="instances", beta=2.0, size=(768, 768)),
    "carvana": Rule("f_beta", size=(1280, 1918)),
    "dsb2018": _PRECISION,
    "ultrasound_nerve": Rule("f_beta", size=(420, 580)),
    "siim_acr": Rule("f_beta", size=(1024, 1024)),
    "severstal": Rule("f_beta", "pair", task="multilabel", size=(256, 1600)),
    "severstal_class_column": Rule("f_beta", "pair", task="multilabel", size=(256, 1600)),
    "clouds": Rule("f_beta", "pair", task="multilabel", size=(350, 525)),
    "hubmap2021": _DICE,
    "hubmap2022": _DICE,
    "sartorius": Rule("instance_precision", task="instances", size=(520, 704)),
    # the page gives two empty masks 0, but the board's scores are out of reach so, and its host later left them out
    "uwmgi": Rule(
        "f_beta",
        "pair",
        "skip",
        task="multilabel",
        volume=r"(?P<volume>.+)_slice_(?P<slice>\d+)",
        hausdorff=0.6,
    ),
    "contrails": Rule("f_beta", "global", 0, size=(256, 256)),
    "vesuvius": Rule("f_beta", both_empty="skip", beta=0.5),
    "sennet": Rule("surface_dice", both_empty="skip", volume=r"(?P<volume>.+)_(?P<slice>\d+)", tolerance=0.0),
    "imaterialist2019": _PRECISION,
    "imaterialist2020": _PRECISION,
    "openimages2019": Rule("detections", task="detections", thresholds=(0.5,)),
    "hpa2021": Rule("detections", task="detections", thresholds=(0.6,)),
    "hubmap2023": Rule("detections", task="detections", thresholds=(0.6,)),
    "coco": Rule("detections", task="detections", style="coco"),
    "epfl_roads": Rule("f_beta", "global", 0, task="patches"),
    "imagenet_s_2025": Rule("confusion", "global", "skip", task="multiclass", ignore=1000, size=(224, 224)),
    "imagenet_s_2026": Rule("confusion", "global", "skip", task="multiclass", ignore=1000, composite=True),
}


def measure_pair(rule: Rule, target: np.ndarray, prediction: np.ndarray) -> Ratio:
    """The numerator and denominator of two masks, or two maps of instances; 0 of 0 where both are empty.

    A target of 255 is unknown, but in a map of instances. Raises ValueError for two shapes.
    """
    counted: dict[str, Callable[[], Ratio]] = {
        "f_beta": lambda: count_pixels(target, prediction).f_beta(rule.beta),
        "patch_f_beta": lambda: count_pixels(*map(patch_classes, _known(target, prediction))).f_beta(rule.beta),
        "iou": lambda: count_pixels(target, prediction).iou(),
        "accuracy": lambda: count_pixels(target, prediction).accuracy(),
        "iou_share": lambda: iou_share(target, prediction, rule.thresholds),
        "instance_precision": lambda: measure_iou(rule, instance_iou(target, prediction)),
        "instance_f_beta": lambda: measure_iou(rule, instance_iou(target, prediction)),
        "boundary_f": lambda: boundary_f(*_known(target, prediction), rule.tolerance),
        "surface_dice": lambda: surface_dice(*_known(target, prediction), rule.tolerance or 0.0),
    }
    return counted[rule.measure]()


def measure_iou(rule: Rule, iou: np.ndarray) -> Ratio:
    """`measure_pair` of instances whose (targets, predictions) IoU is known."""
    if rule.measure == "instance_f_beta":
        return instance_f_beta(iou, rule.beta, rule.thresholds)
    return instance_precision(iou, rule.thresholds)


def worth(rule: Rule, part: float, whole: float) -> Ratio:
    """A group's ratio and its weight in the mean: (ratio, 1), or (0, 0) where it is left out."""
    if whole:
        return part / whole, 1.0
    return (0.0, 0.0) if rule.both_empty == "skip" else (float(rule.both_empty), 1.0)


def add_up(rule: Rule, target: np.ndarray, prediction: np.ndarray) -> Ratio:
    """What one pair adds to the two sums whose ratio is the score of a class (or of all instances)."""
    found = measure_pair(rule, target, prediction)
    return found if rule.reduce == "global" else worth(rule, *found)


def average_groups(rule: Rule, rows: Iterable[tuple[Hashable, Ratio]]) -> float:
    """The mean over groups of the ratio of each one's sums; NaN where no group counts."""
    sums: dict[Hashable, tuple[float, float]] = {}
    for group, (part, whole) in rows:
        before = sums.get(group, (0.0, 0.0))
        sums[group] = before[0] + part, before[1] + whole
    values = [worth(rule, *one) for one in sums.values()]
    weight = sum(one[1] for one in values)
    return sum(one[0] for one in values) / weight if weight else math.nan


def group_of(rule: Rule, image_id: str, index: int) -> Hashable:
    """The group that class `index` of an image counts in."""
    return {"image": image_id, "pair": (image_id, index), "global": index}[rule.reduce]


def _known(target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shapes cannot leave pixels out: unknown ones are background on both sides."""
    known = target != IGNORE_INDEX
    return (target != 0) & known, (prediction != 0) & known
