"""Shapes: against SciPy, plain loops and numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree
from scipy.spatial.distance import directed_hausdorff

from surfaces import boundary_f, hausdorff, surface_areas, surface_dice, volume_surface_dice

BOXES = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 1))
few = settings(max_examples=40, deadline=None)


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for _ in range(3):
        mask[tuple(slice(start, start + 4) for start in rng.integers(0, np.maximum(np.array(shape) - 3, 1)))] = 1
    return mask


def test_the_areas_of_the_cells_that_can_be_worked_out() -> None:
    """Marching cubes cuts edges in the middle. One corner: an equilateral triangle of side sqrt(1/2), an area of
    sqrt(3) / 4 / 2. Two beside each other: a rectangle of 1 and sqrt(1/2). Four of a face: a square of 1."""
    areas = surface_areas(3)
    corner = math.sqrt(3) / 8
    assert areas[0] == areas[255] == 0
    assert [areas[1 << bit] for bit in range(8)] == pytest.approx([corner] * 8)
    assert areas[0b00000011] == pytest.approx(math.sqrt(0.5))
    assert areas[0b00001111] == pytest.approx(1.0)
    assert areas[0b10000001] == pytest.approx(2 * corner)  # the ends of the cube's diagonal
    assert areas[0b00001001] == pytest.approx(2 * corner)  # those of a face's
    np.testing.assert_allclose(areas, areas[::-1])  # inside out
    assert len(areas) == 256


def test_the_areas_do_not_change_when_the_cell_is_turned() -> None:
    areas, corners = surface_areas(3), np.arange(8).reshape(2, 2, 2)
    for code in range(256):
        cell = code >> corners & 1
        for turned in (np.rot90(cell, axes=(0, 1)), np.rot90(cell, axes=(1, 2)), cell.transpose(1, 0, 2), cell[::-1]):
            assert areas[int((turned << corners).sum())] == pytest.approx(areas[code], abs=1e-6)


def test_the_lengths_of_the_cells_of_a_plane() -> None:
    wanted = [0, 0.5**0.5, 0.5**0.5, 1, 0.5**0.5, 1, 2**0.5, 0.5**0.5]
    np.testing.assert_allclose(surface_areas(2), wanted + wanted[::-1])


def test_the_surface_of_a_box_by_hand() -> None:
    """3x4x5 voxels: faces of (3-1)(4-1) cells and so on, edges of rectangles of sqrt(1/2), eight corners."""
    box = np.ones((3, 4, 5), np.uint8)
    faces = 2 * (2 * 3 + 2 * 4 + 3 * 4)
    edges = 4 * (2 + 3 + 4) * math.sqrt(0.5)
    area = faces + edges + math.sqrt(3)
    assert surface_dice(box, box) == (pytest.approx(2 * area), pytest.approx(2 * area))
    shifted = np.zeros((3, 4, 7), np.uint8)
    shifted[:, :, 1:6] = 1
    part, whole = surface_dice(np.pad(box, ((0, 0), (0, 0), (0, 2))), shifted, tolerance=1.0)
    assert (part, whole) == (pytest.approx(2 * area), pytest.approx(2 * area))  # all of it lies within a step
    part, whole = surface_dice(np.pad(box, ((0, 0), (0, 0), (0, 2))), shifted)
    # Along x, four layers of cells go round each box, and a cap closes either end. Three of the four are the other's
    # too; the fourth meets the rim of the other's cap, and the rim of its own cap meets the other's fourth.
    tube = 2 * (2 + 3) + 4 * math.sqrt(0.5)
    rim = 2 * (2 + 3) * math.sqrt(0.5) + 4 * math.sqrt(3) / 8
    assert part == pytest.approx(2 * (4 * tube + rim))
    assert part < whole


def dice_of_points(target: np.ndarray, prediction: np.ndarray, tolerance: float) -> tuple[float, float]:
    """Surface Dice by its words: every cell of both surfaces, its area, and the way to the other's nearest one."""
    areas, dimensions, sides = surface_areas(target.ndim), target.ndim, []
    for mask in (np.pad(target, 1), np.pad(prediction, 1)):
        cells = []
        for place in np.ndindex(*(side - 1 for side in mask.shape)):
            code = 0
            for bit, corner in enumerate(np.ndindex(*(2,) * dimensions)):
                code |= int(mask[tuple(np.add(place, corner))]) << bit
            if 0 < code < len(areas) - 1:
                cells.append((place, areas[code]))
        sides.append(cells)
    part = 0.0
    for ours, theirs in (sides, sides[::-1]):
        if ours and theirs:
            ways, _ = cKDTree([place for place, _ in theirs]).query([place for place, _ in ours])
            part += sum(area for (_, area), way in zip(ours, ways, strict=True) if way <= tolerance)
    return part, sum(area for side in sides for _, area in side)


@pytest.mark.parametrize("shape", [(9, 8, 7), (14, 13), (1, 6, 6), (1, 1)])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5])
def test_surface_dice_agrees_with_its_definition(shape: tuple[int, ...], tolerance: float) -> None:
    for seed in range(4):
        target, prediction = blobs(seed, shape), blobs(seed + 9, shape)
        assert surface_dice(target, prediction, tolerance) == pytest.approx(
            dice_of_points(target, prediction, tolerance)
        )


def test_surface_dice_agrees_with_its_authors_package() -> None:
    theirs = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
    for seed in range(6):
        target, prediction = (blobs(seed + more, (12, 10, 11)).astype(bool) for more in (0, 50))
        distances = theirs.compute_surface_distances(target, prediction, (1, 1, 1))
        for tolerance in (0, 1, 1.5):
            part, whole = surface_dice(target, prediction, tolerance)
            wanted = theirs.compute_surface_dice_at_tolerance(distances, tolerance)
            assert part / whole == pytest.approx(wanted, abs=1e-6)


@few
@given(BOXES, st.integers(0, 2**16))
def test_a_volume_read_slice_by_slice_scores_the_same(target: np.ndarray, seed: int) -> None:
    noise = np.random.default_rng(seed).random(target.shape) < 0.2
    prediction = target ^ noise.astype(np.uint8)
    assert volume_surface_dice(zip(target, prediction, strict=True)) == pytest.approx(surface_dice(target, prediction))


def test_masks_without_a_surface() -> None:
    empty, full = np.zeros((3, 4, 5), np.uint8), np.ones((3, 4, 5), np.uint8)
    assert surface_dice(empty, empty) == volume_surface_dice(zip(empty, empty, strict=True)) == (0.0, 0.0)
    assert volume_surface_dice([]) == (0.0, 0.0)
    for pair in ((full, empty), (empty, full)):
        part, whole = surface_dice(*pair, tolerance=9.0)
        assert (part, whole > 0) == (0.0, True)
    with pytest.raises(ValueError, match="the target is"):
        surface_dice(empty, empty[0])


def directed(target: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> float:
    ours, theirs = (np.argwhere(mask) * np.array(spacing) for mask in (target, prediction))
    return max(directed_hausdorff(ours, theirs)[0], directed_hausdorff(theirs, ours)[0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.25), (1 / 9, 1 / 12, 1 / 11)])
def test_the_hausdorff_distance_agrees_with_scipy(spacing: tuple[float, ...]) -> None:
    for seed in range(6):
        target, prediction = blobs(seed, (9, 12, 11)), blobs(seed + 20, (9, 12, 11))
        assert hausdorff(target, prediction, spacing) == pytest.approx(directed(target, prediction, spacing))
    inside = target * (np.arange(11) < 6).astype(np.uint8)
    assert hausdorff(target, inside, spacing) == pytest.approx(directed(target, inside, spacing))


def test_the_hausdorff_distance_of_empty_masks() -> None:
    empty, full = np.zeros((2, 3, 4)), np.ones((2, 3, 4))
    assert hausdorff(empty, empty) == hausdorff(full, full) == 0.0
    assert hausdorff(empty, full) == hausdorff(full, empty) == math.inf
    assert hausdorff(np.ones((1, 1)), np.ones((1, 1))) == 0.0


def boundary_by_loop(target: np.ndarray, prediction: np.ndarray, tolerance: float) -> float:
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    edges = [np.argwhere(mask & ~binary_erosion(mask, cross)) for mask in (target > 0, prediction > 0)]
    near = [np.mean(cKDTree(theirs).query(ours)[0] <= tolerance + 1e-9) for ours, theirs in (edges, edges[::-1])]
    return 2 * near[0] * near[1] / sum(near) if sum(near) else 0.0


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.3])
def test_boundary_f_agrees_with_its_definition(tolerance: float) -> None:
    for seed in range(6):
        target, prediction = blobs(seed, (15, 17)), blobs(seed + 30, (15, 17))
        wanted = boundary_by_loop(target, prediction, tolerance)
        assert boundary_f(target, prediction, tolerance) == (pytest.approx(wanted), 1.0)


def test_boundary_f_of_known_pictures() -> None:
    target = np.zeros((60, 80), np.uint8)
    target[10:20, 10:20] = 1
    assert boundary_f(target, target) == (1.0, 1.0)
    beside = np.roll(target, 1, axis=1)
    # the diagonal is 100 pixels, 0.75% of it less than one: of the 36 edge pixels 18 are shared (9 above, 9 below)
    assert boundary_f(target, beside) == (pytest.approx(18 / 36), 1.0)
    assert boundary_f(target, beside, 1.0) == (1.0, 1.0)
    assert boundary_f(target, np.zeros_like(target)) == boundary_f(np.zeros_like(target), target) == (0.0, 1.0)
    assert boundary_f(np.zeros_like(target), np.zeros_like(target)) == (0.0, 0.0)
    assert boundary_f(np.ones((1, 1)), np.ones((1, 1))) == (1.0, 1.0)
    assert boundary_f(np.ones((4, 4)), np.ones((4, 4))) == (1.0, 1.0)  # the image's edge bounds a mask


@few
@given(hnp.arrays(np.uint8, (9, 6), elements=st.integers(0, 1)))
def test_the_truth_is_its_own_best_prediction(mask: np.ndarray) -> None:
    best = float(mask.any())
    part, whole = surface_dice(mask, mask)
    assert boundary_f(mask, mask) == (best, best)
    assert part == whole
    assert hausdorff(mask, mask) == 0.0
