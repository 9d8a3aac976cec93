"""Which pixels and images of a teacher's predictions a student may learn from: the confidence rules, as arithmetic.

    thresholds = quantile_thresholds(histograms, rules)
    label, sure = label_pixels(probabilities, task, rules, thresholds, parameters)

RECIPES: TGS Salt's winner kept images by their share of sure pixels; doubtful pixels (two best classes close together)
are ignored; rare classes need a threshold of their own, hence the quantile per class.
"""

import numpy as np

from config import IGNORE_INDEX, Pseudo
from postprocess import Parameters, to_label
from transforms import UNKNOWN_INSTANCE, instance_classes

BINS = 256


def class_confidences(probabilities: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best class, its probability and that of the second, each `(P, H, W)`: P is 1, or the classes of multilabel.

    A binary or multilabel plane has the classes 0 and 1. Instances are judged as foreground or background.
    """
    if task == "multiclass":
        order = np.partition(probabilities, -2, axis=0)
        return probabilities.argmax(0)[None], order[-1][None], order[-2][None]
    present = 1.0 - probabilities[:1] if task == "instances" else probabilities
    best = np.maximum(present, 1.0 - present)
    return (present >= 0.5).astype(np.int64), best, 1.0 - best


def confidence_histogram(probabilities: np.ndarray, task: str, classes: int) -> np.ndarray:
    """`(classes, 256)` counts of the best class's probability, for the quantiles of a whole pool."""
    label, best, _ = class_confidences(probabilities, task)
    if task == "multilabel":  # a histogram a class, of where it is present
        return np.stack([_histogram(best[number][label[number] == 1]) for number in range(classes)])
    return np.stack([_histogram(best[label == number]) for number in range(classes)])


def quantile_thresholds(histograms: np.ndarray, rules: Pseudo) -> np.ndarray:
    """Per class `(classes,)`: the probability below which its least sure `class_quantile` share lies; at least
    `pixel_confidence`."""
    counts = histograms.cumsum(axis=1)
    below = counts < rules.class_quantile * counts[:, -1:]
    # the lower edge of the bin: at its middle, rounding would decide whether the bin's pixels pass
    quantiles = (below.sum(axis=1) - 0.5) / (BINS - 1)
    return np.maximum(quantiles if rules.class_quantile else 0.0, np.full(len(histograms), rules.pixel_confidence))


def label_pixels(
    probabilities: np.ndarray, task: str, rules: Pseudo, thresholds: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """A label array as `to_label` makes it, and where it is sure: bool of the same shape.

    `thresholds` are those of `quantile_thresholds`: per class, or for one-class tasks of background and class.
    """
    label, best, second = class_confidences(probabilities, task)
    if task == "multilabel":
        limit = np.where(label == 1, np.asarray(thresholds)[:, None, None], rules.pixel_confidence)
    else:
        limit = np.asarray(thresholds)[label]
    sure = (best >= limit) & (best >= rules.best_to_second * second)
    final = to_label(probabilities, task, parameters)
    present = final > 0 if task == "instances" else final
    # a threshold other than 0.5 or a smallest area may have chosen another class than the one that is sure
    if task == "multilabel":
        return final, (sure & (label == present.transpose(2, 0, 1))).transpose(1, 2, 0)
    return final, sure[0] & (label[0] == present)


def ignore_doubtful(label: np.ndarray, sure: np.ndarray, task: str) -> np.ndarray:
    """The label with its doubtful pixels marked as unknown, as the dataset reads it."""
    if task == "instances":
        return np.where(sure, label, label | UNKNOWN_INSTANCE).astype(np.int32)
    return np.where(sure, label, IGNORE_INDEX).astype(np.uint8)


def keep_known(
    truth: np.ndarray, label: np.ndarray, sure: np.ndarray, probabilities: np.ndarray, task: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A teacher's label, where it is sure, and its probabilities `(K, H, W)`, set right wherever the truth is known.

    An instance map knows every pixel; its borders are as thin as can be, for small instances' sake.
    """
    if task == "instances":
        classes = instance_classes(truth.astype(np.uint16), border_width=1)
        return truth, np.ones_like(sure), (classes == np.arange(3)[:, None, None]).astype(np.float32)
    known = truth != IGNORE_INDEX
    label, sure = np.where(known, truth, label).astype(np.uint8), sure | known
    planes = truth.transpose(2, 0, 1) == 1 if task == "multilabel" else truth[None] == 1
    if task == "multiclass":
        planes = truth[None] == np.arange(len(probabilities))[:, None, None]
    known = known.transpose(2, 0, 1) if task == "multilabel" else known[None]
    return label, sure, np.where(known, planes, probabilities).astype(np.float32)


def count_agreement(label: np.ndarray, sure: np.ndarray, truth: np.ndarray, task: str, classes: int) -> np.ndarray:
    """`(classes, 2)`: of the sure pixels labelled with each class, how many are right, and how many have a known truth.

    Instances count as foreground (class 1) and background (0); multilabel counts where the class is present.
    """
    if task == "instances":
        label, truth = (label > 0).astype(np.uint8), (truth > 0).astype(np.uint8)
    known = sure & (truth != IGNORE_INDEX)
    rows = []
    for number in range(classes):
        plane, value = (..., number) if task == "multilabel" else ..., 1 if task == "multilabel" else number
        chosen = known[plane] & (label[plane] == value)
        rows.append(((chosen & (truth[plane] == value)).sum(), chosen.sum()))
    return np.array(rows, np.int64)


def _histogram(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.rint(values * (BINS - 1)).astype(np.int64).ravel(), minlength=BINS)
