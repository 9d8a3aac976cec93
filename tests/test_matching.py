"""Instances matched: against plain loops, pycocotools and numbers worked out by hand."""

import contextlib
import io
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rle
from matching import (
    detection_precision,
    instance_f_beta,
    instance_iou,
    instance_precision,
    match_detections,
    runs_iou,
)

SHAPE = (7, 6)
IDS = hnp.arrays(np.int32, SHAPE, elements=st.sampled_from([0, 0, 1, 2, 3, 9]))
few = settings(max_examples=60, deadline=None)


def precision(target: np.ndarray, prediction: np.ndarray, **settings: tuple[float, ...]) -> tuple[float, float]:
    return instance_precision(instance_iou(target, prediction), **settings)


def f2(target: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    return instance_f_beta(instance_iou(target, prediction), 2.0)


def counts_by_loop(target: np.ndarray, prediction: np.ndarray) -> list[tuple[int, int, int]]:
    """Hits, misses and false ones at each threshold, by the definition: every pair compared as sets of pixels."""
    targets = [set(np.flatnonzero(target == number)) for number in np.unique(target) if number]
    predictions = [set(np.flatnonzero(prediction == number)) for number in np.unique(prediction) if number]
    counts = []
    for percent in range(50, 100, 5):
        hits = sum(any(100 * len(a & b) > percent * len(a | b) for b in predictions) for a in targets)
        counts.append((hits, len(targets) - hits, len(predictions) - hits))
    return counts


@few
@given(IDS, IDS)
def test_instance_iou_is_that_of_every_pair_of_masks(target, prediction):
    def number_list(labels):
        return [number for number in np.unique(labels) if number]

    wanted = [
        [
            np.count_nonzero((target == a) & (prediction == b)) / np.count_nonzero((target == a) | (prediction == b))
            for b in number_list(prediction)
        ]
        for a in number_list(target)
    ]
    iou = instance_iou(target, prediction)
    assert iou.shape == (len(number_list(target)), len(number_list(prediction)))
    np.testing.assert_allclose(iou, np.array(wanted).reshape(iou.shape))


@few
@given(IDS, IDS, st.floats(0, 1))
def test_precision_and_f2_agree_with_their_definitions(target, noise, share):
    prediction = np.where(np.linspace(0, 1, target.size).reshape(SHAPE) < share, target * 7, noise)
    counts = counts_by_loop(target, prediction)
    if not any(map(sum, counts)):
        assert precision(target, prediction) == f2(target, prediction) == (0.0, 0.0)
        return
    shares = [hits / (hits + misses + false) for hits, misses, false in counts]
    weighted = [5 * hits / (5 * hits + 4 * misses + false) for hits, misses, false in counts]
    assert precision(target, prediction) == (pytest.approx(np.mean(shares)), 1.0)
    assert f2(target, prediction) == (pytest.approx(np.mean(weighted)), 1.0)


def test_the_precision_of_known_pictures():
    target, prediction = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    target[:10] = 5
    assert precision(target, prediction) == precision(prediction, target) == (0.0, 1.0)
    prediction[:7] = 2  # IoU 0.7 passes 0.5, 0.55, 0.6, 0.65 and, not being above it, not 0.7
    assert precision(target, prediction)[0] == pytest.approx(4 / 10)
    assert f2(target, prediction)[0] == pytest.approx(4 / 10)
    prediction[15:] = 3  # a false one: 1 / 2 at each of the four, and an F2 of 5 / (5 + 1)
    assert precision(target, prediction)[0] == pytest.approx(4 / 20)
    assert f2(target, prediction)[0] == pytest.approx(4 / 10 * 5 / 6)
    assert f2(prediction, target)[0] == pytest.approx(4 / 10 * 5 / 9)  # a miss weighs four times as much
    assert precision(target, prediction, thresholds=(0.5,))[0] == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="not unique"):
        precision(target, prediction, thresholds=(0.4,))
    with pytest.raises(ValueError, match="the target is"):
        precision(target, prediction[:5])


def test_an_instance_halved_is_matched_at_most_once():
    target, prediction = np.ones((4, 4), np.int32), np.ones((4, 4), np.int32)
    prediction[2:] = 2  # both halves have an IoU of exactly 0.5
    assert precision(target, prediction)[0] == 0.0


def test_of_masks_that_overlap_one_matches_one():
    """Said twice, an instance is found once and false once; found once for two that are the same, one is missed."""
    assert instance_precision(np.array([[1.0, 1.0]])) == instance_precision(np.array([[1.0], [1.0]])) == (0.5, 1.0)
    assert instance_f_beta(np.array([[1.0, 1.0]])) == (pytest.approx(5 / 6), 1.0)
    assert instance_f_beta(np.array([[1.0], [1.0]])) == (pytest.approx(5 / 9), 1.0)


@few
@given(IDS, IDS, st.permutations([1, 2, 3, 9]))
def test_the_numbers_of_instances_do_not_matter(target, prediction, order):
    names = np.zeros(10, np.int32)
    names[[1, 2, 3, 9]] = order
    assert precision(target, names[prediction]) == precision(target, prediction)
    assert f2(names[target], prediction * 90_000) == f2(target, prediction)


@few
@given(IDS)
def test_the_truth_is_its_own_best_prediction(target):
    best = (1.0, 1.0) if target.any() else (0.0, 0.0)
    assert precision(target, target) == f2(target, target) == best
    assert precision(target, np.where(target == 1, 0, target))[0] <= best[0]


def test_many_instances_are_scored_quickly():
    """Every pair of 150 instances looked at in turn would take minutes."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(5):
        labels = np.zeros((520, 704), np.int32)
        for number, (y, x) in enumerate(rng.integers(0, (490, 674), (150, 2)), 1):
            labels[y : y + 30, x : x + 30] = number
        pictures.append(labels)
    start = time.process_time()
    for labels in pictures:
        precision(labels, np.roll(labels, 3, axis=1))
    assert time.process_time() - start < 3.0


def random_runs(rng: np.random.Generator, shape: tuple[int, int], count: int) -> list[rle.Runs]:
    """Rectangles that may overlap."""
    found = []
    for _ in range(count):
        mask = np.zeros(shape, np.uint8)
        y, x = (int(rng.integers(0, side)) for side in shape)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = 1
        found.append(rle.mask_runs(mask))
    return found


def jitter(rng: np.random.Generator, runs: list[rle.Runs], shape: tuple[int, int]) -> list[rle.Runs]:
    moved = []
    for one in runs:
        mask = np.roll(rle.draw_runs(one, shape), rng.integers(-1, 2, 2), (0, 1))
        mask[rng.random(shape) < 0.1] = 0
        moved.append(rle.mask_runs(mask))
    return moved


@pytest.mark.parametrize("seed", range(5))
def test_the_iou_of_runs_is_that_of_their_masks(seed):
    rng, shape = np.random.default_rng(seed), (11, 13)
    ours, theirs = random_runs(rng, shape, 6), random_runs(rng, shape, 4)
    ours.append((np.empty(0, np.int64), np.empty(0, np.int64)))
    masks = [[rle.draw_runs(one, shape) > 0 for one in side] for side in (ours, theirs)]
    wanted = [[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]]
    np.testing.assert_allclose(runs_iou(ours, theirs), wanted)
    assert runs_iou([], theirs).shape == (0, 4)
    assert runs_iou(ours[-1:], ours[-1:]).tolist() == [[0.0]]  # nothing shares nothing with nothing


Images = list[tuple[list[rle.Runs], list[rle.Runs], list[float]]]


def make_images(seed: int, shape: tuple[int, int] = (40, 48), most: int = 12) -> Images:
    """Truths, and detections that are truths moved, doubled or dreamt; some scores are equal, some images bare."""
    rng, images = np.random.default_rng(seed), []
    for number in range(6):
        truths = random_runs(rng, shape, 0 if number == 1 else int(rng.integers(1, most)))
        found = jitter(rng, truths, shape) + jitter(rng, truths[::2], shape) + random_runs(rng, shape, 3)
        found = [] if number == 2 else [one for one in found if one[0].size]
        images.append((truths, found, rng.integers(0, 20, len(found)).astype(float).tolist()))
    return images


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("thresholds", [(0.5,), tuple(percent / 100 for percent in range(50, 100, 5))])
def test_detections_agree_with_pycocotools(seed, thresholds):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    shape, images = (40, 48), make_images(seed, most=70)  # more than 100 detections in some images
    truth, results = [], []
    for number, (truths, found, scores) in enumerate(images):
        for runs in truths:
            one = {"id": len(truth) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            truth.append(one | {"area": int(runs[1].sum()), "segmentation": coco_mask(runs, shape)})
        for runs, score in zip(found, scores, strict=True):
            results.append(
                {"image_id": number, "category_id": 1, "score": score, "segmentation": coco_mask(runs, shape)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        database = coco.COCO()
        database.dataset = {
            "images": [{"id": number, "height": shape[0], "width": shape[1]} for number in range(len(images))],
            "annotations": truth,
            "categories": [{"id": 1, "name": "a"}],
            "info": {},
        }
        database.createIndex()
        judge = cocoeval.COCOeval(database, database.loadRes(results), "segm")
        judge.params.iouThrs = np.array(thresholds)
        judge.evaluate()
        judge.accumulate()
    wanted = judge.eval["precision"][:, :, 0, 0, -1].mean()
    ours = detection_precision([match_detections(*one, thresholds) for one in images])
    assert 0.01 < ours < 0.99
    assert ours == pytest.approx(wanted, abs=1e-9)


def coco_mask(runs: rle.Runs, shape: tuple[int, int]) -> dict:
    return {"size": list(shape), "counts": rle.encode_coco(rle.draw_runs(runs, shape))}


def open_images_by_loop(images: Images, shape: tuple[int, int], threshold: float) -> float:
    """The rule of Open Images' evaluation, a detection at a time."""
    rows, total = [], 0
    for truths, found, scores in images:
        masks, taken = [rle.draw_runs(one, shape) > 0 for one in truths], set()
        total += len(masks)
        for place in sorted(range(len(found)), key=lambda place: -scores[place]):
            mask = rle.draw_runs(found[place], shape) > 0
            ious = [(mask & other).sum() / (mask | other).sum() for other in masks]
            best = max(range(len(ious)), key=ious.__getitem__, default=None)
            hit = best is not None and ious[best] >= threshold and best not in taken
            taken |= {best} if hit else set()
            rows.append((-scores[place], hit))
    rows.sort(key=lambda row: row[0])
    hits = np.cumsum([hit for _, hit in rows])
    precision = hits / np.arange(1, len(rows) + 1)
    return sum(precision[place:].max() for place, (_, hit) in enumerate(rows) if hit) / total


@pytest.mark.parametrize("seed", range(4))
def test_detections_agree_with_the_rule_of_open_images(seed):
    images, shape = make_images(seed), (40, 48)
    matches = [match_detections(*one, (0.6,), "open_images") for one in images]
    assert detection_precision(matches, "open_images") == pytest.approx(open_images_by_loop(images, shape, 0.6))


def test_a_second_detection_of_an_instance_is_false_or_takes_another():
    """Both detections overlap the first of two true bars most, the second one with an IoU of 8 / 12 and 6 / 14."""

    def bar(start: int, length: int) -> rle.Runs:
        return np.array([start]), np.array([length])

    truths = [bar(0, 10), bar(6, 10)]
    found = [bar(0, 10), bar(2, 10)]  # the second: IoU 8 / 12 with the first truth, 6 / 14 with the second
    for style, hits in (("coco", [True, True]), ("open_images", [True, False])):
        matches = match_detections(truths, found, [0.9, 0.8], (0.4,), style)
        assert matches.hits.tolist() == [hits]
    assert detection_precision([matches], "open_images") == pytest.approx(1 / 2)
    # as COCO reads it: precision 1 at the 51 recalls up to 0.5, none after
    assert detection_precision([match_detections(truths, found, [0.9, 0.8], (0.5,))]) == pytest.approx(51 / 101)


def test_no_truth_is_no_score_and_no_detection_is_zero():
    bar = (np.array([3]), np.array([4]))
    nothing = match_detections([], [], [], (0.5,))
    assert math.isnan(detection_precision([nothing, match_detections([], [bar], [1.0], (0.5,))]))
    for style in ("coco", "open_images"):
        assert detection_precision([nothing, match_detections([bar], [], [], (0.5,), style)], style) == 0.0
        assert detection_precision([match_detections([bar], [bar], [0.1], (0.5,), style)], style) == pytest.approx(1.0)
