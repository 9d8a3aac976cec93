"""How good predicted labels are: one set of scores a task, for checkpoints, thresholds, tables and reports.

    scores = score_pairs(config, ((truth, prediction) for ...))  # {"dice": 0.91, "miou": 0.84, "accuracy": 0.97}

Each is one of `rules.METRICS`, averaged over the classes. The usual ones of the task are always there, and the one that
the config chooses by.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from artifacts import Paths
from config import IGNORE_INDEX, Config
from metrics import ConfusionMatrix
from rules import METRICS, Rule, add_up

_OF_MASKS = ("dice", "miou", "accuracy")
_USUAL = {"instances": (*_OF_MASKS, "map"), "multiclass": ("miou", "accuracy")}


class Scores:
    """Scores of (truth, prediction) label arrays of one task, added one by one; NaN for none. 255 in the truth is left
    out."""

    def __init__(self, config: Config):
        self.config = config
        self._names = tuple(dict.fromkeys((*_USUAL.get(config.task, _OF_MASKS), config.metric)))
        self._matrix = ConfusionMatrix(len(config.classes))
        self._sums = np.zeros((len(self._names), len(config.classes), 2))

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        if self.config.task == "multiclass":
            self._matrix.update(truth, prediction)
            return
        for row, name in enumerate(self._names):
            self._sums[row] += label_sums(name, self.config.task, truth, prediction)

    def values(self) -> dict[str, float]:
        if self.config.task == "multiclass":
            ious = zip(self.config.classes, self._matrix.iou(), strict=True)
            scores = {name: matrix_score(name, self._matrix) for name in self._names}
            return scores | {f"iou {name}": float(iou) for name, iou in ious}
        sums = self._sums
        values = np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:2], np.nan), where=sums[..., 1] > 0)
        return {name: _mean_known(row) for name, row in zip(self._names, values, strict=True)}


def score_pairs(config: Config, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The `Scores` of all pairs, streamed."""
    scores = Scores(config)
    for truth, prediction in pairs:
        scores.add(truth, prediction)
    return scores.values()


def label_sums(metric: str, task: str, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """`(classes, 2)`: what one image's labels add to the numerators and denominators of a metric.

    Not for multiclass labels. Instances are measured as one mask by a metric of masks.
    """
    rule = METRICS[metric]
    if task == "multilabel":
        planes = [(truth[..., number], prediction[..., number]) for number in range(truth.shape[2])]
    elif task == "instances" and rule.task != "instances":
        planes = [((truth > 0).astype(np.uint8), prediction)]
    else:
        planes = [(truth, prediction)]
    # where nothing is known nothing is right or wrong; two empty masks would be worth a point
    return np.array([add_up(rule, *plane) if _is_known(rule, plane[0]) else (0.0, 0.0) for plane in planes])


def matrix_score(metric: str, matrix: ConfusionMatrix) -> float:
    """A multiclass task's score; NaN where nothing was counted."""
    measures = {
        "miou": matrix.miou,
        "dice_global": matrix.mean_dice,
        "accuracy": matrix.accuracy,
        "macro_accuracy": matrix.macro_accuracy,
    }
    return measures[metric]()


def _is_known(rule: Rule, truth: np.ndarray) -> bool:
    return rule.task == "instances" or bool((truth != IGNORE_INDEX).any())


def _mean_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def dense_truth(paths: Paths, image_id: str) -> Path | None:
    """The dense mask that an image's points were drawn from, which no training reads; None where there is none."""
    path = paths.data / "dense" / f"{image_id}.png"
    return path if path.is_file() else None


def hidden_truth(paths: Paths, image_id: str) -> Path | None:
    """The file of an image's hidden label, kept aside by prepare.py to report a score; None where there is none."""
    stem = paths.data / "solution" / image_id
    return next((path for path in (Path(f"{stem}.png"), Path(f"{stem}.tif")) if path.is_file()), None)
