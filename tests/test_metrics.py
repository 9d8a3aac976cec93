"""Scores against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from metrics import (
    ConfusionMatrix,
    average_precision,
    dice_score,
    instance_iou,
    mean_average_precision,
    mean_dice,
)

SHAPE = (7, 6)
IDS = hnp.arrays(np.int32, SHAPE, elements=st.sampled_from([0, 0, 1, 2, 3, 9]))
few = settings(max_examples=60, deadline=None)


def random_labels(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (40, 30)).astype(np.uint8)
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, classes, target.shape))
    target[rng.random(target.shape) < 0.1] = 255
    return target, prediction.astype(np.uint8)


def loop_average_precision(target: np.ndarray, prediction: np.ndarray) -> float:
    """The definition: every pair compared as sets of pixels."""
    targets = [set(np.flatnonzero(target == number)) for number in np.unique(target) if number]
    predictions = [set(np.flatnonzero(prediction == number)) for number in np.unique(prediction) if number]
    if not targets and not predictions:
        return 1.0
    scores = []
    for percent in range(50, 100, 5):
        hits = sum(any(100 * len(a & b) > percent * len(a | b) for b in predictions) for a in targets)
        scores.append(hits / (hits + (len(targets) - hits) + (len(predictions) - hits)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_matrix_agrees_with_scikit_learn(classes):
    matrix, everything = ConfusionMatrix(classes), []
    for seed in range(4):
        target, prediction = random_labels(seed, classes)
        matrix.update(target, prediction)
        everything.append((target[target != 255], prediction[target != 255]))
    target, prediction = (np.concatenate(parts) for parts in zip(*everything, strict=True))
    np.testing.assert_array_equal(matrix.counts, confusion_matrix(target, prediction))
    np.testing.assert_allclose(matrix.iou(), jaccard_score(target, prediction, average=None))
    np.testing.assert_allclose(matrix.dice(), f1_score(target, prediction, average=None))
    assert matrix.miou() == pytest.approx(jaccard_score(target, prediction, average="macro"))
    assert matrix.accuracy() == pytest.approx(accuracy_score(target, prediction))


def test_merged_matrices_are_one_matrix_over_both():
    one, two, both = (ConfusionMatrix(3) for _ in range(3))
    for seed, part in ((0, one), (1, two)):
        part.update(*random_labels(seed, 3))
        both.update(*random_labels(seed, 3))
    before = one.counts.copy()
    np.testing.assert_array_equal((one + two).counts, both.counts)
    np.testing.assert_array_equal(one.counts, before)
    with pytest.raises(ValueError, match="do not add"):
        one + ConfusionMatrix(2)


def test_absent_classes_leave_the_mean_alone_and_false_ones_do_not():
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]))
    np.testing.assert_allclose(matrix.iou(), [1.0, 0.5, 0.0, np.nan])
    np.testing.assert_allclose(matrix.dice(), [1.0, 2 / 3, 0.0, np.nan])
    assert matrix.miou() == pytest.approx(0.5)
    assert matrix.accuracy() == pytest.approx(0.75)


def test_nothing_counted_is_not_a_number():
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8))
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.accuracy())
    assert np.isnan(matrix.iou()).all()


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([0, 2], [0, 1], "the target holds classes"),
        ([0, 1], [0, 2], "the prediction holds classes"),
        ([0, 1], [0, 255], "the prediction holds classes"),
        ([0, -1], [0, 1], "the target holds classes"),
        ([0, 1], [0], "the target is"),
    ],
)
def test_labels_outside_the_classes_are_refused(target, prediction, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(2).update(np.array(target), np.array(prediction))


def test_dice_of_an_image():
    target, prediction = np.array([[1, 1, 0, 255]], np.uint8), np.array([[1, 0, 1, 1]], np.uint8)
    assert dice_score(target, prediction) == pytest.approx(2 * 1 / (2 + 2))
    empty = np.zeros_like(target)
    assert dice_score(empty, empty) == 1.0
    assert dice_score(empty, empty, both_empty=0.0) == 0.0
    assert dice_score(target, empty) == dice_score(empty, prediction) == 0.0


@few
@given(hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 1)), hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 1)))
def test_dice_agrees_with_scikit_learn(target, prediction):
    wanted = f1_score(target.ravel(), prediction.ravel(), zero_division=1.0)
    assert dice_score(target, prediction) == pytest.approx(wanted)


def test_mean_dice_has_three_ways_with_two_empty_masks():
    full, empty = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    pairs = [(full, full), (empty, empty), (full, empty)]
    assert mean_dice(pairs) == pytest.approx(2 / 3)
    assert mean_dice(pairs, both_empty=0.0) == pytest.approx(1 / 3)
    assert mean_dice(pairs, both_empty=float("nan")) == pytest.approx(1 / 2)
    assert math.isnan(mean_dice([]))


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
def test_average_precision_agrees_with_its_definition(target, noise, share):
    prediction = np.where(np.linspace(0, 1, target.size).reshape(SHAPE) < share, target * 7, noise)
    assert average_precision(target, prediction) == pytest.approx(loop_average_precision(target, prediction))


def test_average_precision_of_known_pictures():
    target, prediction = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    assert average_precision(target, prediction) == 1.0
    target[:10] = 5
    assert average_precision(target, prediction) == average_precision(prediction, target) == 0.0
    prediction[:7] = 2  # IoU 0.7 passes 0.5, 0.55, 0.6, 0.65 and, not being above it, not 0.7
    assert average_precision(target, prediction) == pytest.approx(4 / 10)
    prediction[15:] = 3  # a false one: 1 / 2 at each of the four
    assert average_precision(target, prediction) == pytest.approx(4 / 20)
    assert average_precision(target, prediction, thresholds=(0.5,)) == pytest.approx(1 / 2)
    empty = np.zeros_like(target)
    assert mean_average_precision([(target, prediction), (empty, empty)]) == pytest.approx((4 / 20 + 1) / 2)
    with pytest.raises(ValueError, match="not unique"):
        average_precision(target, prediction, thresholds=(0.4,))


def test_an_instance_halved_is_matched_at_most_once():
    target, prediction = np.ones((4, 4), np.int32), np.ones((4, 4), np.int32)
    prediction[2:] = 2  # both halves have an IoU of exactly 0.5
    assert average_precision(target, prediction) == 0.0
