"""Transforms on images whose every pixel says where it came from."""

import cv2
import numpy as np
import pytest

from augmentations import apply_geometry, apply_photometry, make_recipe
from config import Augment, Image
from images import resize_label
from transforms import (
    UNKNOWN_INSTANCE,
    Window,
    cut_centre,
    cut_window,
    draw_window,
    instance_classes,
    normalise,
    renumber,
    resize_image,
    statistics,
    stretch,
    working_shape,
)

STILL = {"flips": False, "rotate90": False, "rotate": 0.0}
TURNS = {
    "still": STILL,
    "flips": STILL | {"flips": True},
    "quarter turns": STILL | {"rotate90": True},
    "square": STILL | {"flips": True, "rotate90": True},
    "any angle": STILL | {"rotate": 45.0},
    "all": STILL | {"flips": True, "rotate90": True, "rotate": 180.0},
}


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`(H, W, 3) float32` and `(H, W, 2) uint8` that both hold each pixel's row and column."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows], axis=-1).astype(np.float32)
    return image, image[..., :2].astype(np.uint8)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("size", [64, 40, 100])
def test_the_label_goes_where_the_image_goes(turn: str, size: int) -> None:
    """The window reaches over two edges, so some of it is mirrored; then comes scaling, then turning."""
    recipe = make_recipe(Augment(crop=64, **TURNS[turn]), 3)
    image, label = coordinates(90, 120)
    window = Window(-12, 120 - size + 9, size)
    seen = set()
    for seed in range(12):
        image_cut, label_cut = cut_window(image, window), cut_window(label, window)
        np.testing.assert_array_equal(image_cut[..., :2], label_cut)
        moved, mask = apply_geometry(recipe, image_cut, label_cut, seed, soft=False)
        assert moved.shape == (64, 64, 3)
        assert mask.shape == (64, 64, 2)
        assert mask.dtype == np.uint8
        error = np.abs(mask.astype(float) - moved[..., :2])
        exact = size == 64 and not TURNS[turn]["rotate"]
        assert error.max() <= (0.0 if exact else 1.6 * max(1.0, size / 64))
        seen.add(mask.tobytes())
    assert len(seen) == {"still": 1}.get(turn, len(seen))
    assert len(seen) > 1 or turn == "still"


@pytest.mark.parametrize(("shape", "side"), [((9, 12), 4), ((9, 12), 5), ((7, 20), 8), ((5, 5), None), ((5, 5), 9)])
def test_the_centre_has_as_much_on_either_side(shape: tuple[int, int], side: int | None) -> None:
    array = np.arange(shape[0] * shape[1] * 2).reshape(*shape, 2)
    cut = cut_centre(array, side)
    assert cut.shape == (*(min(side or one, one) for one in shape), 2)
    top, left = np.argwhere((array == cut[0, 0]).all(axis=2))[0]
    np.testing.assert_array_equal(cut, array[top : top + cut.shape[0], left : left + cut.shape[1]])
    for start, length, whole in ((top, cut.shape[0], shape[0]), (left, cut.shape[1], shape[1])):
        assert 0 <= (whole - length - start) - start <= 1


def test_the_square_has_eight_views() -> None:
    recipe = make_recipe(Augment(crop=4), 3)
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = np.repeat(label[..., None], 3, axis=2)
    views = {apply_geometry(recipe, image, label, seed, False)[1].tobytes() for seed in range(200)}
    expected = {np.rot90(one, turns).tobytes() for one in (label, label.T) for turns in range(4)}
    assert views == expected


@pytest.mark.parametrize("classes", [1, 2, 6])
def test_a_soft_label_is_interpolated(classes: int) -> None:
    recipe = make_recipe(Augment(crop=48, **TURNS["any angle"]), 3)
    image, label = coordinates(32, 32)
    label = np.repeat(label[..., :1], classes, axis=2)
    moved, soft = apply_geometry(recipe, image, label, 5, soft=True)
    assert soft.shape == (48, 48, classes)
    assert np.abs(soft[..., 0].astype(float) - moved[..., 0]).max() <= 1.0  # rounding alone


def test_geometry_is_drawn_by_its_seed() -> None:
    recipe, other = (make_recipe(Augment(crop=32, rotate=30), 3) for _ in range(2))
    image, label = coordinates(40, 40)
    first = apply_geometry(recipe, image, label, 2**40 + 3, False)
    for _ in range(3):
        apply_geometry(recipe, image, label, 9, False)
    np.testing.assert_array_equal(first[0], apply_geometry(recipe, image, label, 2**40 + 3, False)[0])
    np.testing.assert_array_equal(first[1], apply_geometry(other, image, label, 2**40 + 3, False)[1])


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_photometry_changes_values_and_nothing_else(channels: int, kind: type) -> None:
    recipe = make_recipe(Augment(colour=0.8, grey=0.5, noise=1.0, blur=1.0, invert=0.5), channels)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 20, channels)).astype(np.uint8)
    image = image if kind == np.uint8 else image.astype(np.float32) / 255
    before, top = image.copy(), 255 if kind == np.uint8 else 1.0
    answers = [apply_photometry(recipe, image, seed) for seed in range(8)]
    for answer in answers:
        assert answer.shape == image.shape
        assert answer.dtype == kind
        assert 0 <= answer.min() <= answer.max() <= top
    assert len({answer.tobytes() for answer in answers}) == 8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(answers[3], apply_photometry(recipe, image, 3))


def test_without_photometry_the_image_stays() -> None:
    recipe = make_recipe(Augment(colour=0.0, grey=0.0, noise=0.0, blur=0.0), 3)
    image = coordinates(8, 8)[0].astype(np.uint8)
    np.testing.assert_array_equal(apply_photometry(recipe, image, 1), image)


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((400, 800), 200, (100, 200)),
        ((400, 800), None, (400, 800)),
        ((30, 20), 64, (30, 20)),
        ((3000, 1), 300, (300, 1)),
    ],
)
def test_the_long_side_comes_down_to_the_working_scale(size: tuple, limit: int | None, expected: tuple) -> None:
    assert working_shape(*size, Image(long_side=limit)) == expected


def test_the_working_scale_enlarges_up_to_the_long_side() -> None:
    assert working_shape(40, 60, Image(scale=1.5)) == (60, 90)
    assert working_shape(40, 60, Image(scale=1.5, long_side=75)) == (50, 75)
    assert working_shape(40, 60, Image(scale=0.5, long_side=75)) == (20, 30)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 7)])
def test_resizing_keeps_axes_and_kinds(shape: tuple[int, ...]) -> None:
    label = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    bigger = resize_label(label, (10, 12))
    assert bigger.shape == (10, 12, *shape[2:])
    np.testing.assert_array_equal(bigger, label.repeat(2, 0).repeat(2, 1))
    if len(shape) == 3:
        image = label.astype(np.float32)
        smaller = resize_image(image[:4], (2, 3))
        np.testing.assert_allclose(smaller, image[:4].reshape(2, 2, 3, 2, -1).mean((1, 3)), atol=1e-6)
        assert smaller.dtype == np.float32


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("size", [(9, 12), (7, 5), (31, 40), (12, 16)])
def test_a_label_is_resized_by_the_nearest_centre(size: tuple[int, int], dtype: type) -> None:
    label = (np.arange(12 * 16).reshape(12, 16) * 331).astype(dtype)
    rows = [(2 * n + 1) * 12 // (2 * size[0]) for n in range(size[0])]
    columns = [(2 * n + 1) * 16 // (2 * size[1]) for n in range(size[1])]
    resized = resize_label(label, size)
    assert resized.dtype == dtype
    assert resized.tolist() == [[label[row, column] for column in columns] for row in rows]


@pytest.mark.parametrize("shape", [(100, 140), (40, 200), (20, 30)])
def test_windows_lie_in_the_image_and_reach_all_of_it(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    augment = Augment(crop=32, scale=(0.5, 2.0))
    sizes, lowest, covered = [], [0, 0], np.zeros(shape, bool)
    for _ in range(600):
        window = draw_window(shape, augment, rng)
        sizes.append(window.size)
        lowest = [min(lowest[0], window.top), min(lowest[1], window.left)]
        for start, side in ((window.top, shape[0]), (window.left, shape[1])):
            assert min(0, side - window.size) <= start <= max(0, side - window.size)
        covered[max(0, window.top) : window.top + window.size, max(0, window.left) : window.left + window.size] = True
    # beyond the near edges too, where the image is smaller than its window
    assert [start < 0 for start in lowest] == [side < 60 for side in shape]
    assert covered.any(0).all()
    assert covered.any(1).all()
    assert covered.mean() > 0.95
    assert 16 <= min(sizes) < 18
    assert 62 < max(sizes) <= 64
    assert abs(np.mean(np.log(sizes)) - np.log(32)) < 0.05  # log-uniform


def test_a_window_covers_one_of_the_centres_anywhere_in_it() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[5, 7], [50, 90], [99, 139]])
    inside, hits = [], np.zeros(3, int)
    for _ in range(400):
        window = draw_window((100, 140), Augment(crop=20, scale=(1.0, 1.0)), rng, centres)
        offsets = centres - [window.top, window.left]
        covers = ((offsets >= 0) & (offsets < window.size)).all(1)
        assert covers.sum() == 1
        hits += covers
        if covers[1]:
            inside.append(offsets[1])
    assert hits.min() > 90
    assert np.ptp(inside, axis=0).min() >= 18
    small = draw_window((10, 12), Augment(crop=20, scale=(1.0, 1.0)), rng, np.array([[9, 11]]))
    assert small.top <= 0 <= small.top + small.size - 10


def test_a_window_is_a_copy_of_what_it_shows() -> None:
    image = coordinates(16, 16)[0]
    part = cut_window(image, Window(0, 0, 16))
    part[:] = 0
    assert image.any()
    full = cut_window(image[..., 0], Window(-3, 5, 20), fill=7)
    assert (full[:3] == 7).all()
    assert (full[3:19, 11:] == 7).all()
    np.testing.assert_array_equal(full[3:19, :11], image[:, 5:, 0])
    mirrored = cut_window(image[:2, :2, 0], Window(-2, 0, 5))
    np.testing.assert_array_equal(mirrored[:, 0], [1, 0, 0, 1, 1])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_borders_agree_with_looking_at_every_neighbour(width: int) -> None:
    rng = np.random.default_rng(width)
    ids = np.kron(rng.integers(0, 5, (6, 7)), np.ones((5, 5), int)).astype(np.uint16)
    ids[10:13, 3:30] = 9
    doubtful = rng.random(ids.shape) < 0.1
    marked = np.where(doubtful, ids | UNKNOWN_INSTANCE, ids).astype(np.uint16)
    reach = np.argwhere(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1,) * 2)) - width
    expected = np.zeros(ids.shape, np.uint8)
    for row in range(ids.shape[0]):
        for column in range(ids.shape[1]):
            near = [
                ids[row + down, column + right]
                for down, right in reach
                if 0 <= row + down < ids.shape[0] and 0 <= column + right < ids.shape[1]
            ]
            own = ids[row, column]
            expected[row, column] = 0 if own == 0 else 1 if set(near) == {own} else 2
    expected[doubtful] = 255
    np.testing.assert_array_equal(instance_classes(marked, width), expected)
    assert set(np.unique(expected)) == {0, 1, 2, 255}


def test_normalising_gives_mean_nought_and_deviation_one() -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((30, 20, 3)) * [50, 100, 200]).astype(np.uint8)
    mean, std = statistics(image, Image(normalise="image"), 255.0)
    planes = normalise(image, mean, std, 255.0)
    assert planes.dtype == np.float32
    assert planes.shape == (3, 30, 20)
    np.testing.assert_allclose(planes.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(planes.std((1, 2)), 1, atol=1e-3)
    fixed = Image(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    mean, std = statistics(image, fixed, 255.0)
    expected = (image / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(normalise(image, mean, std, 255.0), expected.transpose(2, 0, 1), atol=1e-5)


def test_a_flat_image_does_not_divide_by_nought() -> None:
    image = np.full((4, 4, 3), 9, np.uint8)
    planes = normalise(image, *statistics(image, Image(normalise="image"), 255.0), 255.0)
    assert np.abs(planes).max() < 1e-3


@pytest.mark.parametrize(("turns", "count"), [("flips", 4), ("quarter turns", 4), ("square", 8)])
def test_every_view_of_the_square_occurs_about_as_often(turns: str, count: int) -> None:
    recipe = make_recipe(Augment(crop=4, **TURNS[turns]), 3)
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = np.repeat(label[..., None], 3, axis=2)
    views = [apply_geometry(recipe, image, label, seed, False)[1].tobytes() for seed in range(400)]
    times = [views.count(view) for view in set(views)]
    assert len(times) == count
    assert min(times) > 0.6 * 400 / count


def test_steps_of_the_photometry_come_independently() -> None:
    settings = {"colour": 0.0, "grey": 0.5, "invert": 0.5, "noise": 0.0, "blur": 0.0}
    recipe = make_recipe(Augment(crop=4, **settings), 3)
    image = np.tile(np.uint8([10, 20, 60]), (4, 4, 1))
    looks = [apply_photometry(recipe, image, seed)[0, 0] for seed in range(400)]
    seen = [(bool(np.ptp(look) == 0), bool(look.mean() > 128)) for look in looks]
    for grey in (False, True):
        for inverted in (False, True):
            assert 0.15 < seen.count((grey, inverted)) / 400 < 0.35


@pytest.mark.parametrize("side", [45, 91, 100, 200])
def test_labels_stay_in_place_when_a_window_is_resized(side: int) -> None:
    recipe = make_recipe(Augment(crop=64, **STILL), 3)
    columns = np.tile(np.arange(side, dtype=np.float32), (side, 1))
    image, label = apply_geometry(recipe, np.repeat(columns[..., None], 3, 2), columns.astype(np.uint8), 1, False)
    assert abs((label - image[..., 0])[:, 4:-4].mean()) < 0.05


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_looked_up_numbers_are_the_computed_ones(channels: int) -> None:
    rng = np.random.default_rng(channels)
    image = rng.integers(0, 256, (40, 30, channels)).astype(np.uint8)
    mean, std = rng.random((2, channels), np.float32) + 0.1
    factor, shift = (1.0 / (255.0 * std)).astype(np.float32), (mean / std).astype(np.float32)
    for seen in (image, image[::-1, 3:], image.transpose(1, 0, 2), image[:, :, ::-1]):
        expected = (seen.astype(np.float32) * factor - shift).transpose(2, 0, 1)
        planes = normalise(seen, mean, std, 255.0)
        np.testing.assert_array_equal(planes, expected)
        assert planes.flags.c_contiguous


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(10, 15), (30, 41)])
def test_any_number_of_channels_is_resized(channels: int, dtype: type, shape: tuple[int, int]) -> None:
    """Each as it is resized alone; OpenCV averages no more than four at once."""
    image = (np.random.default_rng(0).random((20, 30, channels)) * 255).astype(dtype)
    resized = resize_image(image, shape)
    alone = [resize_image(np.ascontiguousarray(image[..., [one]]), shape) for one in range(channels)]
    assert resized.dtype == dtype
    assert resized.shape == (*shape, channels)
    np.testing.assert_allclose(resized, np.concatenate(alone, axis=2), rtol=1e-5)


# --- an image by itself ----------------------------------------------------------------------------------------------


def test_stretching_reaches_both_ends_and_keeps_a_photos_colours() -> None:
    image = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32) * [0.03, 0.03, 0.01] + 0.2
    image = image.astype(np.float32)
    found = stretch(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (image - image.min()) / np.ptp(image), atol=1e-4)
    bands = stretch(image[..., [0, 2]])
    assert (bands.min((0, 1)) == 0).all()
    assert (bands.max((0, 1)) == 1).all()
    assert (stretch(np.full((4, 4, 1), 7, np.float32)) == 0).all()


def test_ids_of_another_image_stay_its_own() -> None:
    one = np.uint16([[0, 3, UNKNOWN_INSTANCE | 5]])
    other = np.uint16([[1, UNKNOWN_INSTANCE, UNKNOWN_INSTANCE | 2]])
    found = renumber(other, one)
    assert found.tolist() == [[6, UNKNOWN_INSTANCE, UNKNOWN_INSTANCE | 7]]
    soft = np.dstack([other & 0x7FFF, np.uint16([[9, 8, 7]])])
    assert renumber(soft, np.dstack([one & 0x7FFF, one * 0])).tolist() == [[[6, 9], [0, 8], [7, 7]]]
    assert renumber(np.uint16([[0, 9]]), np.uint16([[0x7FFF, 0]])).tolist() == [[0, 9]], "no id beyond the largest"
