"""Parting what touches: at necks, whatever the size, and without losing a pixel."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import h_maxima

import instances
from instances import part_touching


def discs(shape: tuple[int, int], radius: float, *centres: tuple[float, float]) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.any([np.hypot(rows - y, columns - x) <= radius for y, x in centres], axis=0)


def part(mask: np.ndarray, neck: float = 0.8) -> np.ndarray:
    return part_touching(mask, mask.astype(np.float32), neck)


@pytest.mark.parametrize(
    "centres", [[(20, 20)], [(20, 20), (20, 36)], [(0, 20), (0, 36)], [(15, 15), (15, 30), (30, 22), (50, 50)]]
)
def test_touching_discs_are_parted_and_single_ones_are_not(centres: list[tuple[int, int]]) -> None:
    mask = discs((60, 60), 9, *centres)
    parts = part(mask)
    assert parts.dtype == np.int32
    assert len(np.unique(parts)) - 1 == len(centres)
    np.testing.assert_array_equal(parts > 0, mask)
    assert len({parts[centre] for centre in centres}) == len(centres)


@pytest.mark.parametrize("radius", [9, 30])
def test_a_neck_is_a_share_of_the_depth_whatever_the_size(radius: int) -> None:
    middle, apart = 2 * radius, round(1.7 * radius)
    mask = discs((4 * radius, 8 * radius), radius, (middle, middle), (middle, middle + apart))
    # where the circles cross, the neck is about sqrt(1 - 0.85²) = 0.53 as deep as the middles
    assert part(mask, neck=0.75).max() == 2
    assert part(mask, neck=0.4).max() == 1


def test_a_seam_of_doubt_parts_what_no_single_threshold_parts() -> None:
    """What parts the sure pair (above 0.5) leaves nothing of the doubtful one, and what parts that merges the sure."""
    inside = np.zeros((40, 120), np.float32)
    inside[10:30, 5:46], inside[10:30, 24:27] = 0.95, 0.5
    inside[10:30, 65:106], inside[10:30, 84:87] = 0.45, 0.12
    parts = part_touching(inside > 0, inside)
    assert parts.max() == 4
    assert len({parts[20, column] for column in (15, 36, 75, 96)}) == 4
    dented = np.where(inside > 0, np.float32(0.95), np.float32(0.0))
    dented[20, 20] = 0.75
    assert part_touching(inside > 0, dented).max() == 2, "a pixel's dent parts nothing"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 1])
def test_an_image_of_one_kind_is_one_instance_or_none(value: int) -> None:
    assert (part(np.full((9, 12), bool(value))) == value).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_parting_loses_no_pixel(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((17, 13)) < share
    np.testing.assert_array_equal(part(mask) > 0, mask)


def test_a_speck_in_a_wide_image_floods_no_longer_than_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, dilate = [], cv2.dilate
    monkeypatch.setattr(instances.cv2, "dilate", lambda *given: calls.append(1) or dilate(*given))
    mask = discs((500, 500), 6, (9, 9))
    assert part(mask).max() == part(mask[:20, :20]).max() == 1
    assert len(calls) < 20


@pytest.mark.parametrize("seed", range(3))
def test_middles_are_one_around_each_h_maximum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = ndimage.gaussian_filter(rng.random((60, 80)), 3).astype(np.float32) * 20
    tops, expected = ndimage.label(h_maxima(depth, -np.log(0.8)), np.ones((3, 3)))
    domes, count = ndimage.label(instances._middles(depth, 0.8), np.ones((3, 3)))
    assert 3 < count == expected
    assert {int(np.unique(domes[tops == top]).item()) for top in range(1, expected + 1)} == set(range(1, count + 1))
