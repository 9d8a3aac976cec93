"""How good predicted labels are: one set of scores a task, for checkpoints, thresholds, tables and reports.

    scores = score_pairs(config, ((truth, prediction) for ...))  # {"dice": 0.91, "iou": 0.84, "accuracy": 0.97}

"dice" is the mean over images (and classes) of Dice, two empty masks scoring 1; "miou" and "accuracy" come from one
confusion matrix over all pixels; "map" is the mean over images of DSB 2018's average precision.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from artifacts import Paths
from config import Config
from metrics import ConfusionMatrix, average_precision, dice_score


class Scores:
    """Scores of (truth, prediction) label arrays of one task, added one by one. 255 in the truth is left out."""

    def __init__(self, config: Config):
        self.config = config
        self._per_class = [ConfusionMatrix(2) for _ in config.classes]
        self._together = ConfusionMatrix(len(config.classes))
        self._dices: list[float] = []
        self._precisions: list[float] = []

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        task = self.config.task
        if task == "multiclass":
            self._together.update(truth, prediction)
            return
        planes = [(truth, prediction)]
        if task == "multilabel":
            planes = [(truth[..., number], prediction[..., number]) for number in range(len(self.config.classes))]
        if task == "instances":
            self._precisions.append(average_precision(truth, prediction))
            planes = [((truth > 0).astype(np.uint8), (prediction > 0).astype(np.uint8))]
        for matrix, (true_plane, plane) in zip(self._per_class, planes, strict=True):
            self._dices.append(dice_score(true_plane, plane))
            matrix.update(true_plane, plane)

    def values(self) -> dict[str, float]:
        if self.config.task == "multiclass":
            ious = self._together.iou()
            scores = {"miou": self._together.miou(), "accuracy": self._together.accuracy()}
            return scores | {f"iou {name}": float(iou) for name, iou in zip(self.config.classes, ious, strict=True)}
        scores = {
            "dice": float(np.mean(self._dices)) if self._dices else float("nan"),
            "miou": float(np.nanmean([matrix.iou()[1] for matrix in self._per_class])),
            "accuracy": float(np.mean([matrix.accuracy() for matrix in self._per_class])),
        }
        return scores | ({"map": float(np.mean(self._precisions))} if self._precisions else {})


def score_pairs(config: Config, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The `Scores` of all pairs, streamed."""
    scores = Scores(config)
    for truth, prediction in pairs:
        scores.add(truth, prediction)
    return scores.values()


def dense_truth(paths: Paths, image_id: str) -> Path | None:
    """The dense mask that an image's points were drawn from, which no training reads; None where there is none."""
    path = paths.data / "dense" / f"{image_id}.png"
    return path if path.is_file() else None


def hidden_truth(paths: Paths, image_id: str) -> Path | None:
    """The file of an image's hidden label, kept aside by prepare.py to report a score; None where there is none."""
    stem = paths.data / "solution" / image_id
    return next((path for path in (Path(f"{stem}.png"), Path(f"{stem}.tif")) if path.is_file()), None)
