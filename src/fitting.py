"""Fit what postprocessing takes on out-of-fold predictions, and say honestly how good it is.

    fitted = fit_parameters(config, images)  # images: (fold, truth, probabilities), streamed
    fitted.parameters, fitted.plain, fitted.nested

Every candidate is scored on every image once, as a numerator and a denominator whose sums over images make the score.
The best column is the choice; the nested score judges each fold by the column that is best on the other folds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np

from config import IGNORE_INDEX, Config
from metrics import ConfusionMatrix
from postprocess import Parameters, drop_small, kept_instances, measure_instances, starting_parameters, to_label
from scoring import label_sums, matrix_score

AREAS = (0, 10, 30, 100, 300, 1000)  # the smallest parts that are tried, in pixels
THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
SCALES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.45, 2.0)
SAMPLED = 20000  # pixels an image that class scales are fitted on
SAMPLED_IN_ALL = 2_000_000


@dataclass(frozen=True)
class Fitted:
    parameters: Parameters
    plain: float  # the score of the choice on the very images that chose it
    nested: float  # each fold scored with the choice of the others
    by_fold: dict[int, Parameters]  # that choice


def fit_parameters(config: Config, images: Iterable[tuple[int, np.ndarray, np.ndarray]]) -> Fitted:
    """Fit on `(fold, truth, probabilities (K, H, W) at the image's own size)`; one image is held at a time.

    Binary and multilabel: a threshold and a smallest area a class. Instances: the foreground's threshold, the neck, the
    smallest area and the least confidence. Multiclass: a scale a class.
    """
    start = starting_parameters(config)
    if config.task == "multiclass":
        return _fit_scales(config, start, images)
    if config.task == "instances":
        candidates = _instance_candidates(start)
        folds, scores = _score_images(images, lambda truth, answer: _score_instances(config, truth, answer, candidates))
        return _choose(folds, scores, candidates, start)
    per_class: list[Fitted] = []
    folds, scores = _score_images(images, lambda truth, answer: _score_planes(config, truth, answer))
    for number in range(len(config.classes)):
        candidates = [
            replace(start, thresholds=(threshold,), min_areas=(area,)) for threshold in THRESHOLDS for area in AREAS
        ]
        mine = replace(start, thresholds=(start.thresholds[number],), min_areas=(start.min_areas[number],))
        per_class.append(_choose(folds, scores[:, number], candidates, mine))

    def join(chosen: list[Parameters]) -> Parameters:
        thresholds = tuple(one.thresholds[0] for one in chosen)
        return replace(start, thresholds=thresholds, min_areas=tuple(one.min_areas[0] for one in chosen))

    by_fold = {fold: join([one.by_fold[fold] for one in per_class]) for fold in set(folds)}
    return Fitted(
        join([one.parameters for one in per_class]),
        float(np.mean([one.plain for one in per_class])),
        float(np.mean([one.nested for one in per_class])),
        by_fold,
    )


def _score_images(
    images: Iterable[tuple[int, np.ndarray, np.ndarray]], score: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[list[int], np.ndarray]:
    folds, rows = [], []
    for fold, truth, answer in images:
        folds.append(fold)
        rows.append(score(truth, answer))
    return folds, np.array(rows)


def _choose(folds: list[int], scores: np.ndarray, candidates: list[Parameters], start: Parameters) -> Fitted:
    """`scores` `(images, candidates, 2)`: numerators and denominators. Of equals, the nearest to `start` is the best:
    where the other folds show nothing of a class they say nothing of its threshold."""
    places, change = np.array(folds), np.array([_distance(one, start) for one in candidates])

    def best(chosen: np.ndarray) -> int:
        sums = scores[chosen].sum(0)
        values = sums[:, 0] / np.maximum(sums[:, 1], 1e-12)
        equal = np.flatnonzero(values >= values.max() - 1e-12)
        return int(equal[np.lexsort(change[equal].T[::-1])[0]])

    overall = best(np.ones(len(places), bool))
    by_fold = {fold: best(places != fold) for fold in sorted(set(folds))}
    nested = sum(scores[places == fold, column].sum(0) for fold, column in by_fold.items())
    plain = scores[:, overall].sum(0)
    return Fitted(
        candidates[overall],
        float(plain[0] / max(plain[1], 1e-12)),
        float(nested[0] / max(nested[1], 1e-12)),
        {fold: candidates[column] for fold, column in by_fold.items()},
    )


def _distance(one: Parameters, start: Parameters) -> tuple[float, ...]:
    """How far a candidate lies from the config's own values, what changes a mask most first."""
    pairs = (one.thresholds, start.thresholds), (one.min_areas, start.min_areas)
    thresholds, areas = (sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairs)
    return (round(thresholds, 6), abs(one.neck - start.neck), abs(one.min_confidence - start.min_confidence), areas)


def _instance_candidates(start: Parameters) -> list[Parameters]:
    foregrounds, necks = (0.4, 0.5, 0.6, 0.7, 0.8), (0.7, 0.75, 0.8, 0.85, 0.9)
    areas, confidences = (0, 15, 30, 50), (0.0, 0.75, 0.8, 0.85, 0.9)
    return [
        replace(start, thresholds=(foreground,), neck=neck, min_areas=(area,), min_confidence=confidence)
        for foreground, neck, area, confidence in product(foregrounds, necks, areas, confidences)
    ]


def _score_instances(config: Config, truth: np.ndarray, answer: np.ndarray, candidates: list[Parameters]) -> np.ndarray:
    scores = []
    for (threshold, neck), group in groupby(candidates, lambda one: (one.thresholds, one.neck)):
        # the watershed and the matching are the cost: one for all of a group, one for all that keep the same instances
        whole = to_label(answer, "instances", Parameters(thresholds=threshold, neck=neck))
        measures, known = measure_instances(whole, 1.0 - answer[0]), {}
        for candidate in group:
            keep = kept_instances(*measures, candidate)
            if keep.tobytes() not in known:
                sums = label_sums(config.metric, "instances", truth, np.where(keep[whole], whole, 0))
                known[keep.tobytes()] = sums[0]
            scores.append(known[keep.tobytes()])
    return np.array(scores)


def _score_planes(config: Config, truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """`(classes, candidates, 2)`: what the image adds to the metric's sums."""
    truths = truth[None] if truth.ndim == 2 else truth.transpose(2, 0, 1)
    rows = []
    for true_plane, plane in zip(truths, answer, strict=True):
        row = []
        for threshold in THRESHOLDS:
            mask = plane >= threshold
            row += [label_sums(config.metric, "binary", true_plane, drop_small(mask, area))[0] for area in AREAS]
        rows.append(row)
    return np.array(rows)


def _fit_scales(config: Config, start: Parameters, images: Iterable) -> Fitted:
    """Class scales by coordinate ascent of the metric on a sample of pixels."""
    places, truth, answer = _sample_pixels(images)
    by_fold, nested = {}, ConfusionMatrix(len(config.classes))
    for fold in np.unique(places):
        mine = places == fold
        scales = _ascend(config.metric, truth[~mine], answer[:, ~mine])
        by_fold[int(fold)] = replace(start, class_scales=scales)
        nested += _confusion(truth[mine], answer[:, mine], scales)
    scales = _ascend(config.metric, truth, answer)
    plain = _confusion(truth, answer, scales)
    chosen = replace(start, class_scales=scales)
    return Fitted(chosen, matrix_score(config.metric, plain), matrix_score(config.metric, nested), by_fold)


def _sample_pixels(images: Iterable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Folds and classes `(pixels,)` and probabilities `(K, pixels)` of as many pixels of each image."""
    count, total, kept = SAMPLED, 0, []
    for number, (fold, truth, answer) in enumerate(images):
        known = np.flatnonzero(truth.ravel() != IGNORE_INDEX)
        picked = np.random.default_rng(number).choice(known, min(count, len(known)), replace=False)
        kept.append((fold, truth.ravel()[picked], answer.reshape(len(answer), -1)[:, picked]))
        total += len(picked)
        while total > SAMPLED_IN_ALL and count > 1:
            count //= 2
            # they stand in random order; copies, since a view would hold the whole of them
            kept = [(place, some[:count].copy(), planes[:, :count].copy()) for place, some, planes in kept]
            total = sum(len(some) for _, some, _ in kept)
    folds, truths, answers = zip(*kept, strict=True)
    places = np.repeat(folds, [len(one) for one in truths])
    return places, np.concatenate(truths).astype(np.int64), np.concatenate(answers, axis=1)


def _ascend(metric: str, truth: np.ndarray, answer: np.ndarray) -> tuple[float, ...]:
    scales = np.ones(len(answer))
    best = matrix_score(metric, _confusion(truth, answer, scales))
    for _ in range(2):
        for number in range(len(scales)):
            for factor in SCALES:
                tried = scales.copy()
                tried[number] = factor
                score = matrix_score(metric, _confusion(truth, answer, tried))
                if score > best + 1e-5:
                    best, scales = score, tried
    return tuple(float(scale) for scale in scales)


def _confusion(truth: np.ndarray, answer: np.ndarray, scales: Iterable[float]) -> ConfusionMatrix:
    label = (answer * np.float32(list(scales))[:, None]).argmax(0)
    classes = len(answer)
    counts = np.bincount(truth * classes + label, minlength=classes**2).reshape(classes, classes)
    return ConfusionMatrix(classes, counts)
