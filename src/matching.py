"""Scores of instances: maps of ids (DSB 2018, Sartorius, Airbus), and detections with confidences (COCO, Open Images).

    part, whole = instance_precision(instance_iou(truth, prediction))  # of one image, averaged over IoU thresholds
    matches = [match_detections(truths, found, scores, (0.6,), "open_images") for truths, found, scores in images]
    detection_precision(matches, "open_images")

Instances in a map of ids cannot overlap; those given as runs can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from metrics import THRESHOLDS, Ratio
from rle import Runs, run_pixels

Style = Literal["coco", "open_images"]
_DENSE = 1e6  # ids that make a larger histogram are numbered anew first
_RECALLS = np.linspace(0.0, 1.0, 101)  # where COCO reads its curve


def instance_iou(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Two (H, W) maps of instance ids, 0 background → (targets, predictions) float64 IoU, ids ascending.

    One joint histogram, as in the Data Science Bowl 2018 kernels. Ids may have gaps; where they are large, memory grows
    with the largest.
    Raises ValueError for maps of two shapes.
    """
    if target.shape != prediction.shape:
        raise ValueError(f"the target is {target.shape}, the prediction {prediction.shape}")
    if target.max(initial=0) * float(prediction.max(initial=0)) > _DENSE:
        target, prediction = _number(target), _number(prediction)
    rows, columns = int(target.max(initial=0)) + 1, int(prediction.max(initial=0)) + 1
    pairs = target.astype(np.int64) * columns + prediction
    joint = np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)
    ours, theirs = joint.sum(axis=1), joint.sum(axis=0)
    present = np.ix_(np.flatnonzero(ours[1:]) + 1, np.flatnonzero(theirs[1:]) + 1)
    return joint[present] / (ours[:, None] + theirs - joint)[present]


def instance_precision(iou: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> Ratio:
    """One image's mean over IoU thresholds of TP / (TP + FP + FN), by the (targets, predictions) IoU; 0 of 0: none.

    The metric of Data Science Bowl 2018 and Sartorius: a match has an IoU above the threshold, which from 0.5 up no
    instance can have with two others. Raises ValueError for a lower threshold.
    """
    hits, (targets, predictions) = _count_matches(iou, thresholds), iou.shape
    if targets + predictions == 0:
        return 0.0, 0.0
    return float((hits / (targets + predictions - hits)).mean()), 1.0


def instance_f_beta(iou: np.ndarray, beta: float = 2.0, thresholds: tuple[float, ...] = THRESHOLDS) -> Ratio:
    """As `instance_precision`, but the mean of F-beta of the instances: Airbus's metric with β = 2."""
    hits, (targets, predictions) = _count_matches(iou, thresholds), iou.shape
    if targets + predictions == 0:
        return 0.0, 0.0
    return float(((1 + beta**2) * hits / (beta**2 * targets + predictions)).mean()), 1.0


def runs_iou(ours: Sequence[Runs], theirs: Sequence[Runs]) -> np.ndarray:
    """Two lists of masks of one image, each as its runs → (ours, theirs) float64 IoU. Masks may overlap.

    The runs' edges cut the image into segments; two sparse tables of which mask holds which segment give all
    intersections in one product.
    """
    every = [*ours, *theirs]
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)))
    starts, lengths = (np.concatenate([runs[part] for runs in every]).astype(np.int64) for part in (0, 1))
    edges = np.unique(np.concatenate((starts, starts + lengths)))
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, starts + lengths)
    segments = run_pixels((first, last - first))
    masks = np.repeat(np.repeat(np.arange(len(every)), [runs[0].size for runs in every]), last - first)
    table = sparse.csr_array((np.ones(len(segments), np.int64), (masks, segments)), shape=(len(every), len(edges)))
    weighted = table.multiply(np.diff(edges, append=edges[-1:] if len(edges) else 0)[None, :]).tocsr()
    both = (weighted[: len(ours)] @ table[len(ours) :].T).toarray()
    areas = np.asarray(weighted.sum(axis=1)).ravel()
    union = areas[: len(ours), None] + areas[None, len(ours) :] - both
    return np.divide(both, union, out=np.zeros(both.shape), where=union > 0)


@dataclass(frozen=True)
class Matches:
    """One image's detections of a class, by falling confidence, against its true instances."""

    scores: np.ndarray  # (N,) float64
    hits: np.ndarray  # (thresholds, N) bool
    truths: int


def match_detections(
    truths: Sequence[Runs],
    found: Sequence[Runs],
    scores: Sequence[float],
    thresholds: tuple[float, ...] = THRESHOLDS,
    style: Style = "coco",
    limit: int = 100,
) -> Matches:
    """Match one image's detections of one class to its true instances, the surest first.

    "coco" (pycocotools, without crowds and area ranges): the `limit` surest detections each take the best instance that
    is still free. "open_images" (also HPA 2021, HuBMAP 2023): each stands for the instance it overlaps most, and is
    false where a surer one took that. The IoU must reach the threshold.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[: limit if style == "coco" else None]
    iou = runs_iou([found[place] for place in order], truths)
    least = np.minimum(thresholds, 1 - 1e-10)
    hits = np.zeros((len(least), len(order)), bool)
    if truths:
        free, rows = np.ones((len(least), len(truths)), bool), np.arange(len(least))
        for place, row in enumerate(iou):
            open_to_it = np.where(free, row, -1.0) if style == "coco" else np.broadcast_to(row, free.shape)
            # pycocotools keeps the last of several equal ones, Open Images the first
            if style == "coco":
                best = len(truths) - 1 - open_to_it[:, ::-1].argmax(axis=1)
            else:
                best = open_to_it.argmax(axis=1)
            hits[:, place] = (open_to_it[rows, best] >= least) & free[rows, best]
            free[rows[hits[:, place]], best[hits[:, place]]] = False
    return Matches(np.asarray(scores, np.float64)[order], hits, len(truths))


def detection_precision(images: Sequence[Matches], style: Style = "coco") -> float:
    """Average precision of one class over images, averaged over the thresholds; NaN where the class has no instance.

    The area under precision over recall, precision made falling from the right: read at 101 recalls for "coco", summed
    over every step for "open_images".
    """
    truths = sum(one.truths for one in images)
    if not truths:
        return float("nan")
    scores = np.concatenate([one.scores for one in images])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([one.hits for one in images], axis=1)[:, order]
    right = np.cumsum(hits, axis=1)
    recall = right / truths
    precision = right / np.maximum(np.arange(1, len(order) + 1), 1)
    ceiling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if style == "open_images":
        return float((np.diff(recall, axis=1, prepend=0.0) * ceiling).sum(axis=1).mean())
    padded = np.concatenate((ceiling, np.zeros((len(ceiling), 1))), axis=1)
    read = [row[np.searchsorted(at, _RECALLS, side="left")] for row, at in zip(padded, recall, strict=True)]
    return float(np.mean(read))


def _count_matches(iou: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """Matches at each threshold. Where a table's masks overlap, two can match one: it counts once."""
    if min(thresholds) < 0.5:
        raise ValueError("below an IoU of 0.5 a match is not unique")
    above = (iou > threshold for threshold in thresholds)
    return np.array([min(np.count_nonzero(one.any(axis=axis)) for axis in (0, 1)) for one in above])


def _number(labels: np.ndarray) -> np.ndarray:
    """Instance ids → 1 ... n without gaps, int64, 0 kept."""
    present = np.bincount(labels.ravel()) > 0
    present[:1] = False
    return np.where(present, np.cumsum(present), 0)[labels]
