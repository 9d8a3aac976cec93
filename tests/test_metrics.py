"""Scores against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    fbeta_score,
    jaccard_score,
)

from metrics import ConfusionMatrix, count_pixels, iou_share, patch_classes

SHAPE = (7, 6)
MASKS = hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 1))
few = settings(max_examples=60, deadline=None)


def random_labels(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (40, 30)).astype(np.uint8)
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, classes, target.shape))
    target[rng.random(target.shape) < 0.1] = 255
    return target, prediction.astype(np.uint8)


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
    assert matrix.macro_accuracy() == pytest.approx(balanced_accuracy_score(target, prediction))
    assert matrix.mean_dice() == pytest.approx(f1_score(target, prediction, average="macro"))


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
    assert matrix.macro_accuracy() == pytest.approx((1 + 0.5) / 2)  # class 2 is only ever said, class 3 not even that
    assert matrix.mean_dice() == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_nothing_counted_is_not_a_number():
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8))
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.accuracy())
    assert math.isnan(matrix.macro_accuracy())
    assert math.isnan(matrix.mean_dice())
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
    empty = np.zeros_like(target)
    assert count_pixels(target, prediction).f_beta() == (2 * 1, 2 + 2)
    assert count_pixels(empty, empty).f_beta() == (0, 0)
    assert count_pixels(target, empty).f_beta()[0] == count_pixels(empty, prediction).f_beta()[0] == 0


@few
@given(MASKS, MASKS)
def test_dice_agrees_with_scikit_learn(target, prediction):
    wanted = f1_score(target.ravel(), prediction.ravel(), zero_division=1.0)
    part, whole = count_pixels(target, prediction).f_beta()
    assert (part / whole if whole else 1.0) == pytest.approx(wanted)


def test_a_class_number_may_be_255_where_another_means_unknown():
    target, prediction = np.array([[255, 255, 1000, 3]]), np.array([[255, 3, 7, 3]])
    matrix = ConfusionMatrix(300, ignore=1000)
    matrix.update(target, prediction)
    assert matrix.counts.sum() == 3
    assert matrix.counts[255, 255] == matrix.counts[255, 3] == matrix.counts[3, 3] == 1
    assert (matrix + matrix).ignore == 1000


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_beta_agrees_with_scikit_learn(beta):
    target, prediction = random_labels(3, 2)
    part, whole = count_pixels(target, prediction).f_beta(beta)
    known = target != 255
    assert part / whole == pytest.approx(fbeta_score(target[known], prediction[known], beta=beta))


@few
@given(MASKS, MASKS)
def test_the_counts_are_those_of_the_matrix(target, prediction):
    target[0, 0] = 255
    counts, matrix = count_pixels(target, prediction), ConfusionMatrix(2)
    matrix.update(target, prediction)
    assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == matrix.counts.tolist()


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the target is \(2, 3\), the prediction \(3, 2\)"):
        count_pixels(np.zeros((2, 3)), np.zeros((3, 2)))


def test_the_share_of_thresholds_of_known_masks():
    target, prediction = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    assert iou_share(target, prediction) == (0.0, 0.0)
    target[:10] = 1
    assert iou_share(target, prediction) == iou_share(prediction, target) == (0.0, 1.0)
    prediction[:7] = 1  # IoU 0.7 is above 0.5, 0.55, 0.6 and 0.65
    assert iou_share(target, prediction) == (pytest.approx(0.4), 1.0)
    assert iou_share(target, target) == (1.0, 1.0)
    target[7:10] = 255  # nobody knows whether the missing rows belong to it
    assert iou_share(target, prediction) == (1.0, 1.0)


def test_patches_are_set_where_more_than_a_quarter_is():
    mask = np.zeros((40, 33), np.uint8)
    mask[:8, :8] = 1  # 64 of 256 pixels: a quarter and no more
    mask[16:24, 16:24], mask[24, 16] = 1, 1  # 65
    mask[39, 32] = 1  # 1 of the corner's 8 pixels
    mask[:5, 32] = 1  # 5 of the edge's 16
    wanted = np.zeros((3, 3), bool)
    wanted[1, 1], wanted[0, 2] = True, True
    np.testing.assert_array_equal(patch_classes(mask), wanted)
    slow = [[(mask[y : y + 16, x : x + 16] != 0).mean() > 0.25 for x in range(0, 33, 16)] for y in range(0, 40, 16)]
    np.testing.assert_array_equal(patch_classes(mask), slow)
