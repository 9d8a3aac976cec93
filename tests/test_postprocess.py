"""Postprocessing on masks small enough to think about."""

import numpy as np
import pytest
from scipy import ndimage

from postprocess import (
    Parameters,
    drop_small,
    resize_probabilities,
    separate_instances,
    starting_parameters,
    to_label,
)
from settings import parse_config


def disc(shape: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column) <= radius


def three(foreground: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Background, inside and border probabilities that sum to 1."""
    inside = np.minimum(inside, foreground)
    return np.stack([1 - foreground, inside, foreground - inside]).astype(np.float32)


def test_a_threshold_includes_its_own_value() -> None:
    plane = np.array([[[0.2, 0.3, 0.7]]], np.float32)
    assert to_label(plane, "binary", Parameters((0.5,), (0,))).tolist() == [[0, 0, 1]]
    assert to_label(plane, "binary", Parameters((float(np.float32(0.3)),), (0,))).tolist() == [[0, 1, 1]]
    assert to_label(plane, "binary", Parameters((0.5,), (0,))).dtype == np.uint8


def test_every_label_has_its_own_threshold_and_area() -> None:
    planes = np.zeros((2, 6, 6), np.float32)
    planes[0, :2, :2], planes[0, 5, 5] = 0.4, 0.4
    planes[1, :2, :2], planes[1, 5, 5] = 0.6, 0.9
    label = to_label(planes, "multilabel", Parameters((0.3, 0.7), (2, 0)))
    assert label.shape == (6, 6, 2)
    assert label.dtype == np.uint8
    assert label[..., 0].sum() == 4
    assert np.argwhere(label[..., 1]).tolist() == [[5, 5]]
    with pytest.raises(ValueError, match="zip"):
        to_label(planes, "multilabel", Parameters((0.5,), (0,)))


@pytest.mark.parametrize("area", [0, 1, 2, 5, 20, 10000])
def test_small_parts_go(area: int) -> None:
    mask = np.random.default_rng(area).random((40, 50)) < 0.35
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    expected = np.zeros_like(mask)
    for number in range(1, count + 1):
        if (parts == number).sum() >= area:
            expected |= parts == number
    np.testing.assert_array_equal(drop_small(mask, area), expected)
    assert not drop_small(np.zeros((4, 4), bool), area).any()


def test_class_scales_move_the_choice() -> None:
    probabilities = np.array([0.5, 0.3, 0.2], np.float32)[:, None, None]
    assert to_label(probabilities, "multiclass", Parameters(min_areas=(0, 0, 0))).item() == 0
    scaled = Parameters(min_areas=(0, 0, 0), class_scales=(1.0, 1.0, 3.0))
    assert to_label(probabilities, "multiclass", scaled).item() == 2


def test_small_parts_of_a_class_take_their_neighbours() -> None:
    label = np.zeros((12, 12), int)
    label[:, 6:] = 1
    label[2, 2], label[9, 9] = 2, 2
    label[6:9, 1:4] = 2
    probabilities = np.eye(3, dtype=np.float32)[label].transpose(2, 0, 1)
    merged = to_label(probabilities, "multiclass", Parameters(min_areas=(0, 0, 4), class_scales=(1.0,) * 3))
    expected = label.copy()
    expected[2, 2], expected[9, 9] = 0, 1
    np.testing.assert_array_equal(merged, expected)
    everything = to_label(probabilities, "multiclass", Parameters(min_areas=(999,) * 3, class_scales=(1.0,) * 3))
    np.testing.assert_array_equal(everything, label)


def test_touching_discs_are_two_instances() -> None:
    shape = (40, 60)
    left, right = disc(shape, 20, 20, 11), disc(shape, 20, 40, 11)
    both = left | right
    assert ndimage.label(both)[1] == 1
    label = separate_instances(three(both.astype(float), both * 0.9), Parameters((0.5,), (0,)))
    assert label.dtype == np.int32
    assert set(np.unique(label)) == {0, 1, 2}
    np.testing.assert_array_equal(label > 0, both)
    assert len(np.unique(label[left & ~right])) == 1
    assert np.abs(np.argwhere(label == label[20, 20])[:, 1].max() - 30) <= 1
    assert label[20, 20] != label[20, 40]


def test_the_neck_that_was_fitted_parts() -> None:
    both = disc((40, 70), 20, 20, 12) | disc((40, 70), 20, 40, 12)  # a neck about half as deep
    counts = [
        separate_instances(three(both * 1.0, both * 0.9), Parameters((0.5,), (0,), neck=neck)).max()
        for neck in (0.4, 0.75)
    ]
    assert counts == [1, 2]


def test_a_piece_without_a_mark_survives() -> None:
    shape = (40, 60)
    large, small = disc(shape, 20, 15, 9), disc(shape, 20, 45, 3)
    foreground = (large | small) * 0.9
    inside = large * 0.9 + small * 0.2  # nowhere surely inside the small one
    label = separate_instances(three(foreground, inside), Parameters((0.5,), (0,)))
    assert set(np.unique(label)) == {0, 1, 2}
    np.testing.assert_array_equal(label == label[20, 45], small)
    dropped = separate_instances(three(foreground, inside), Parameters((0.5,), (40,)))
    assert set(np.unique(dropped)) == {0, 1}
    np.testing.assert_array_equal(dropped > 0, large)


def test_doubtful_instances_are_dropped_by_their_mean_probability() -> None:
    shape = (40, 60)
    sure, doubtful = disc(shape, 20, 15, 9), disc(shape, 20, 45, 9)
    foreground = np.where(sure, 0.95, np.where(doubtful, 0.7, 0.0))
    foreground[20, 45] = 1.0  # one sure pixel does not save it
    answer = three(foreground, foreground * 0.9)
    counts = [
        separate_instances(answer, Parameters((0.5,), (0,), min_confidence=least)).max() for least in (0.0, 0.69, 0.72)
    ]
    assert counts == [2, 2, 1]
    left = separate_instances(answer, Parameters((0.5,), (0,), min_confidence=0.72))
    np.testing.assert_array_equal(left, sure.astype(np.int32))


@pytest.mark.parametrize("seed", range(4))
def test_instances_fill_the_foreground_and_are_numbered_without_gaps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.random((50, 60)), 2) for _ in range(2)]
    foreground, inside = (np.clip((one - one.mean()) / one.std() / 4 + 0.5, 0, 1) for one in smooth)
    answer = three(foreground, inside)
    label = separate_instances(answer, Parameters((0.55,), (0,)))
    np.testing.assert_array_equal(label > 0, 1.0 - answer[0] >= 0.55)
    assert np.unique(label).tolist() == list(range(label.max() + 1))
    assert separate_instances(np.stack([np.ones((5, 5)), *np.zeros((2, 5, 5))]), Parameters()).max() == 0


def test_resizing_to_the_images_own_size() -> None:
    ramp = np.tile(np.linspace(0, 1, 10, dtype=np.float32), (3, 6, 1))
    bigger = resize_probabilities(ramp, (12, 20))
    assert bigger.shape == (3, 12, 20)
    centres = ((np.arange(20) + 0.5) / 2 - 0.5).clip(0, 9)
    np.testing.assert_allclose(bigger[1, 5], centres / 9, atol=1e-6)
    assert resize_probabilities(ramp, (6, 10)) is ramp
    stripes = np.tile(np.float32([0, 0, 1, 1, 1, 0]), (1, 6, 1))
    np.testing.assert_allclose(resize_probabilities(stripes, (2, 2))[0], [[1 / 3, 2 / 3]] * 2, atol=1e-6)


def test_the_config_gives_the_start() -> None:
    values = {"name": "t", "task": "multiclass", "classes": ["a", "b"]}
    start = starting_parameters(parse_config(values | {"postprocess": {"min_area": 7, "threshold": 0.3}}))
    assert start == Parameters((0.3, 0.3), (7, 7), (1.0, 1.0))
    assert starting_parameters(parse_config({"name": "t"})).class_scales == ()
