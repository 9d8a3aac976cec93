"""Inference: windows that leave no trace, views that turn back, memory that does not grow."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import inference
from config import Predict
from inference import Predictor, is_last, predict_images, slide, smooth_weight, tta_views, window_starts

CPU = torch.device("cpu")


class Network(nn.Module):
    """A function of a batch that keeps the shapes it was asked."""

    def __init__(self, answer: Callable[[Tensor], Tensor]):
        super().__init__()
        self.answer, self.shapes = answer, []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        return self.answer(images)


def make_predictor(answer: Callable[[Tensor], Tensor], tta: bool = False, **settings: object) -> Predictor:
    options = {"window": 64, "batch_size": 4} | settings
    return Predictor(Network(answer), Predict(**options), "sigmoid", CPU, "fp32", tta)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values))


def random_image(height: int, width: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, height, width)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(64, 65), (65, 64), (131, 97), (200, 33), (20, 150), (64, 640)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("block", [1, 150, 4096])
def test_an_identity_comes_back_whole(
    height: int, width: int, overlap: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BLOCK", block)
    image = random_image(height, width)
    predictor = make_predictor(lambda images: images, overlap=overlap)
    filled, last = np.zeros((height, width), int), []
    answer = np.full(image.shape, np.nan, np.float32)
    for shape, (top, left), part in slide(predictor, image):
        assert shape == (2, height, width)
        place = slice(top, top + part.shape[1]), slice(left, left + part.shape[2])
        filled[place] += 1
        answer[:, *place] = part
        last.append(is_last(shape, (top, left), part))
    assert (filled == 1).all()
    assert last == [*[False] * (len(last) - 1), True]
    np.testing.assert_allclose(answer, sigmoid(image), atol=1e-6)


def test_bands_come_from_top_to_bottom() -> None:
    predictor = make_predictor(lambda images: images, overlap=0.99, window=32)
    tops = [(top, band.shape[1]) for _, (top, _), band in slide(predictor, random_image(40, 40))]
    assert [top for top, _ in tops] == np.cumsum([0, *(rows for _, rows in tops[:-1])]).tolist()
    assert all(rows for _, rows in tops)


@pytest.mark.parametrize("side", [10, 64, 65, 100, 127, 128, 129, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75, 0.99])
def test_windows_cover_a_side(side: int, overlap: float) -> None:
    starts = window_starts(side, 64, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, side - 64)
    steps = np.diff(starts)
    assert (steps >= 1).all()
    assert (steps <= max(1, 64 * (1 - overlap)) + 1).all()  # a pixel of rounding
    if overlap == 0.25:
        assert len(starts) <= max(0, side - 64) / 48 + 2


def test_the_middle_of_a_window_weighs_more_than_its_edge() -> None:
    weight = smooth_weight(32, 64)
    assert weight.shape == (32, 64)
    assert weight.min() > 0
    assert weight[16, 32] > 0.99
    assert weight[0, 32] < 0.01
    np.testing.assert_allclose(weight, weight[::-1, ::-1])


def test_seams_are_blended() -> None:
    """Windows that disagree by a constant: the answer goes over without a step."""
    calls = iter(np.linspace(-2, 2, 5))
    predictor = make_predictor(
        lambda images: torch.full_like(images[:, :1], next(calls)), window=64, overlap=0.5, batch_size=1
    )
    ((_, _, band),) = list(slide(predictor, random_image(64, 192)))
    assert np.ptp(band) > 0.6
    assert np.abs(np.diff(band[0, 32])).max() < 0.05


def test_blocks_are_blended_like_their_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network answers by the place in its window, so that an answer shows which windows it is made of."""
    predictor = make_predictor(lambda images: images[:, :1] + torch.linspace(-3, 3, 64), window=64, overlap=0.5)
    image, answers = random_image(70, 330), []
    for block in (4096, 100, 1):
        monkeypatch.setattr(inference, "BLOCK", block)
        answer = np.full((1, 70, 330), np.nan, np.float32)
        for _, (top, left), part in slide(predictor, image):
            answer[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        answers.append(answer)
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-6)
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-6)


def test_small_images_are_padded_and_not_distorted() -> None:
    image = random_image(45, 37)
    predictor = make_predictor(lambda images: images)
    ((image_id, shape, place, answer),) = list(predict_images(predictor, [("a", image)]))
    assert (image_id, shape, place) == ("a", (2, 45, 37), (0, 0))
    np.testing.assert_allclose(answer, sigmoid(image), atol=1e-6)
    assert predictor.model.shapes == [(1, 2, 64, 64)]
    seen: list[Tensor] = []
    predictor = make_predictor(lambda images: seen.append(images) or images)
    predictor(torch.from_numpy(image)[None])
    np.testing.assert_array_equal(seen[0][0, :, :45, :37], image)
    np.testing.assert_array_equal(seen[0][0, :, 45:, :37], image[:, 43:24:-1])  # mirrored
    tiny = random_image(3, 2)
    assert predictor(torch.from_numpy(tiny)[None]).shape == (1, 2, 3, 2)


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("mirror", 2), ("flips", 4), ("d4", 8)])
def test_views_turn_back_exactly(kind: str, count: int) -> None:
    images = torch.from_numpy(random_image(32, 64))[None]
    views = tta_views(kind)
    turned = [view.augment_image(images) for view in views]
    assert len({(tuple(one.shape), one.numpy().tobytes()) for one in turned}) == len(views) == count
    assert torch.equal(turned[0], images)
    for view, one in zip(views, turned, strict=True):
        assert torch.equal(view.deaugment_mask(one), images)


@pytest.mark.parametrize(("kind", "count"), [("mirror", 2), ("flips", 4), ("d4", 8)])
@pytest.mark.parametrize(("height", "width"), [(32, 64), (40, 50)])
def test_tta_leaves_an_equivariant_answer(kind: str, count: int, height: int, width: int) -> None:
    image = random_image(height, width)
    plain = make_predictor(lambda images: images * 2)
    turned = Predictor(Network(lambda images: images * 2), Predict(window=64, tta=kind), "sigmoid", CPU, "fp32", True)
    given = torch.from_numpy(image)[None]
    np.testing.assert_allclose(turned(given), plain(given), atol=1e-6)
    assert len(turned.model.shapes) == count


def test_a_processor_gets_what_its_caches_hold() -> None:
    predictor = make_predictor(lambda images: images)
    small, large = (torch.rand(5, 2, side, side) for side in (64, 320))
    torch.testing.assert_close(predictor(large), large.sigmoid())
    torch.testing.assert_close(predictor(small), small.sigmoid())
    assert [shape[0] for shape in predictor.model.shapes] == [2, 2, 1, 5]


def test_tta_is_the_mean_of_its_views() -> None:
    image = torch.from_numpy(random_image(32, 32))[None]
    ramp = torch.arange(32.0).expand(32, 32) / 8  # a network that minds where things are
    settings = Predict(window=64, tta="flips")
    predictor = Predictor(Network(lambda images: images + ramp), settings, "sigmoid", CPU, "fp32", True)
    answers = []
    for axes in ([], [3], [2], [2, 3]):
        answers.append(torch.sigmoid(image.flip(axes) + ramp).flip(axes))
    np.testing.assert_allclose(predictor(image), torch.stack(answers).mean(0), atol=1e-6)
    alone = Predictor(predictor.model, settings, "sigmoid", CPU, "fp32", False)
    np.testing.assert_allclose(alone(image), answers[0], atol=1e-6)


def test_scales_are_averaged_at_the_images_size() -> None:
    rows = torch.linspace(-1, 1, 64).reshape(1, 1, 64, 1).expand(1, 1, 64, 128)
    settings = Predict(window=128, tta="none", scales=(0.5, 1.0, 1.5))
    predictor = Predictor(Network(lambda images: images), settings, "sigmoid", CPU, "fp32", True)
    answer = predictor(rows)
    assert [shape[2:] for shape in predictor.model.shapes] == [(32, 64), (64, 128), (96, 192)]
    assert answer.shape == rows.shape
    np.testing.assert_allclose(answer, torch.sigmoid(rows), atol=0.02)
    predictor.model.shapes.clear()
    Predictor(predictor.model, settings, "sigmoid", CPU, "fp32", False)(rows)
    assert predictor.model.shapes == [(1, 1, 64, 128)]


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0), (0.5, 1.5)])
def test_the_plain_answer_comes_along_with_tta(scales: tuple[float, ...]) -> None:
    settings = Predict(window=64, tta="flips", scales=scales)
    network = Network(lambda images: images.cumsum(-1))  # minds where things are
    plain, tta, both = (
        Predictor(network, settings, "sigmoid", CPU, "fp32", tta, plain_too)
        for tta, plain_too in ((False, False), (True, False), (True, True))
    )
    images = torch.from_numpy(np.stack([random_image(32, 64, seed=number) for number in range(3)]))
    expected = torch.cat([plain(images), tta(images)], dim=1)
    network.shapes.clear()
    assert torch.equal(both(images), expected)
    assert len(network.shapes) == 4 * len(scales) + (1.0 not in scales)


def test_softmax_sums_to_one() -> None:
    predictor = Predictor(Network(lambda images: images), Predict(window=64), "softmax", CPU, "fp32")
    answer = predictor(torch.from_numpy(random_image(32, 32, channels=4))[None])
    np.testing.assert_allclose(answer.sum(1), 1.0, atol=1e-6)


def test_batches_hold_images_of_one_size() -> None:
    sizes = [(32, 32), (40, 32), (32, 32), (32, 32), (40, 32), (32, 40), (32, 32), (32, 32), (80, 32)]
    images = [(str(number), random_image(*size, seed=number)) for number, size in enumerate(sizes)]
    predictor = make_predictor(lambda images: images)
    answers: dict[str, np.ndarray] = {}
    for image_id, shape, (top, _), band in predict_images(predictor, iter(images)):
        assert shape[1:] == sizes[int(image_id)]
        answers.setdefault(image_id, np.zeros(shape, np.float32))[:, top : top + band.shape[1]] = band
    assert set(answers) == {image_id for image_id, _ in images}
    for image_id, image in images:
        np.testing.assert_allclose(answers[image_id], sigmoid(image), atol=1e-6)
    assert sorted(shape[0] for shape in predictor.model.shapes) == [1, 1, 1, 1, 2, 4]


def test_images_of_many_sizes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WAITING", 6 * 2 * 32 * 32 * 4)
    taken, given, most = 0, 0, 0

    def images():
        nonlocal taken
        for number in range(60):
            taken += 1
            yield str(number), random_image(20 + number % 30, 32)

    for _ in predict_images(make_predictor(lambda one: one), images()):
        given += 1
        most = max(most, taken - given)
    assert given == 60
    assert most <= 12


def test_memory_grows_with_neither_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's memory is traced; the network answers with torch's, which is one batch of windows."""
    window = 64
    monkeypatch.setattr(inference, "BLOCK", 256)
    peaks = []
    for height, width in ((512, 256), (4096, 256), (512, 4096)):
        image = np.zeros((1, height, width), np.float32)
        predictor = make_predictor(lambda images: images[:, :1], window=window, batch_size=2)
        tracemalloc.start()
        for _ in slide(predictor, image):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[2] < 2.5 * peaks[0], "a block and the windows that reach over its sides"
    rows = 4 * 256 * window  # bytes of one window's rows of the answer
    assert peaks[1] < 6 * rows  # the sums, their weights, each while it is moved up by a band
