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


def score_pairs(config: Config, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores of (truth, prediction) label arrays of one task, streamed. 255 in the truth is left out."""
    per_class = [ConfusionMatrix(2) for _ in config.classes]
    together = ConfusionMatrix(len(config.classes))
    dices, precisions = [], []
    for truth, prediction in pairs:
        if config.task == "multiclass":
            together.update(truth, prediction)
            continue
        planes = [(truth, prediction)]
        if config.task == "multilabel":
            planes = [(truth[..., number], prediction[..., number]) for number in range(len(config.classes))]
        if config.task == "instances":
            precisions.append(average_precision(truth, prediction))
            planes = [((truth > 0).astype(np.uint8), (prediction > 0).astype(np.uint8))]
        for matrix, (true_plane, plane) in zip(per_class, planes, strict=True):
            dices.append(dice_score(true_plane, plane))
            matrix.update(true_plane, plane)
    if config.task == "multiclass":
        ious = together.iou()
        scores = {"miou": together.miou(), "accuracy": together.accuracy()}
        return scores | {f"iou {name}": float(iou) for name, iou in zip(config.classes, ious, strict=True)}
    scores = {
        "dice": float(np.mean(dices)) if dices else float("nan"),
        "miou": float(np.nanmean([matrix.iou()[1] for matrix in per_class])),
        "accuracy": float(np.mean([matrix.accuracy() for matrix in per_class])),
    }
    return scores | ({"map": float(np.mean(precisions))} if precisions else {})


def hidden_truth(paths: Paths, image_id: str) -> Path | None:
    """The file of an image's hidden label, kept aside by prepare.py to report a score; None where there is none."""
    stem = paths.data / "solution" / image_id
    return next((path for path in (Path(f"{stem}.png"), Path(f"{stem}.tif")) if path.is_file()), None)
