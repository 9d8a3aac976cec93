"""Blending: the means, the weights, and joining on ids."""

from pathlib import Path

import numpy as np
import pytest

from ensemble import fit_weights, put_first
from errors import UserError
from members import blend, blend_stores
from settings import parse_config
from stores import ProbabilityStore, ProbabilityWriter


def members(count: int, channels: int, seed: int = 0, exclusive: bool = True) -> np.ndarray:
    raw = np.random.default_rng(seed).random((count, channels, 6, 7)).astype(np.float32)
    return raw / raw.sum(1, keepdims=True) if exclusive else raw


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_arithmetic_mean_is_weighted(exclusive: bool) -> None:
    given, weights = members(3, 4, exclusive=exclusive), np.array([0.2, 0.5, 0.3])
    expected = sum(weight * one for weight, one in zip(weights, given, strict=True))
    found = blend(given, weights, "arithmetic", exclusive)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(blend(given, weights * 10, "arithmetic", exclusive), expected, rtol=1e-5)


def test_the_geometric_mean_of_classes_is_normalised() -> None:
    given, weights = members(3, 4), np.array([0.2, 0.5, 0.3])
    product = np.prod(given.clip(1 / 512, 511 / 512).astype(np.float64) ** weights[:, None, None, None], axis=0)
    found = blend(given, weights, "geometric", True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, product / product.sum(0), rtol=1e-5)


def test_the_geometric_mean_of_labels_is_against_their_absence() -> None:
    given, weights = members(2, 3, exclusive=False), np.array([0.25, 0.75])
    logits = np.log(given.astype(np.float64) / (1 - given))
    expected = 1 / (1 + np.exp(-np.tensordot(weights, logits, 1)))
    np.testing.assert_allclose(blend(given, weights, "geometric", False), expected, rtol=1e-2, atol=2e-3)
    middle = given.clip(0.01, 0.99)
    logits = np.log(middle.astype(np.float64) / (1 - middle))
    expected = 1 / (1 + np.exp(-np.tensordot(weights, logits, 1)))
    np.testing.assert_allclose(blend(middle, weights, "geometric", False), expected, rtol=1e-4)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_blending_certainty_stays_finite(mean: str, exclusive: bool) -> None:
    given = np.array([[[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]]], np.float32)
    found = blend(given, np.array([0.5, 0.5]), mean, exclusive)
    np.testing.assert_allclose(found, 0.5, atol=1e-5)


def two_classes(given: np.ndarray) -> np.ndarray:
    """What members gave the truth, `(members, pixels)`, with what they gave the other class."""
    return np.stack([given, 1.0 - given], axis=1)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("better", [0, 1, 2])
def test_the_better_member_weighs_most(mean: str, better: int) -> None:
    rng = np.random.default_rng(0)
    given = np.clip(rng.normal(0.6, 0.2, (3, 3000)), 0.01, 0.99)
    given[better] = np.clip(rng.normal(0.9, 0.05, 3000), 0.01, 0.99)
    weights = fit_weights(two_classes(given), mean)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert weights[better] > 0.8


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_equal_members_weigh_the_same(mean: str) -> None:
    one = np.random.default_rng(0).random(2000)
    np.testing.assert_allclose(fit_weights(two_classes(np.stack([one, one, one])), mean), 1 / 3, atol=0.01)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_members_that_err_apart_share_the_weight(mean: str) -> None:
    rng = np.random.default_rng(0)
    right = rng.random(6000) < 0.5
    given = np.stack([np.where(right, 0.9, 0.3), np.where(right, 0.3, 0.9)])
    np.testing.assert_allclose(fit_weights(two_classes(given), mean), 0.5, atol=0.05)


def test_the_fitted_weights_are_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(3)
    given = np.clip(np.stack([rng.beta(3, 1, 4000), rng.beta(2.5, 1, 4000)]), 1 / 512, 1)
    grid = np.linspace(0, 1, 201)
    losses = [-np.log(one * given[0] + (1 - one) * given[1]).mean() for one in grid]
    assert fit_weights(two_classes(given), "arithmetic")[0] == pytest.approx(grid[int(np.argmin(losses))], abs=0.02)


def test_stores_are_joined_on_ids(tmp_path: Path) -> None:
    values = {"a": 0.2, "Tile 1/b": 0.6, "c": 0.8}
    orders = (("a", "Tile 1/b", "c"), ("c", "a", "Tile 1/b", "unasked"))
    for number, order in enumerate(orders):
        with ProbabilityWriter(tmp_path / f"{number}.zarr") as writer:
            for image_id in order:
                writer.add(image_id, np.full((1, 3, 4), values.get(image_id, 0.0) + 0.1 * number, np.float32))
    stores = [ProbabilityStore(tmp_path / f"{number}.zarr") for number in range(2)]
    config = parse_config({"name": "t"})
    blended = dict(blend_stores(config, stores, np.array([0.5, 0.5])))
    assert list(blended) == list(orders[0])
    for image_id, value in values.items():
        np.testing.assert_allclose(blended[image_id], value + 0.05, atol=1 / 255)
    with pytest.raises(UserError, match="unasked"):
        list(blend_stores(config, stores[::-1], np.array([0.5, 0.5])))


def test_the_true_class_is_put_first() -> None:
    rng = np.random.default_rng(1)
    answers, classes = rng.random((2, 4, 50)), rng.integers(0, 4, 50)
    found = put_first(answers, classes)
    np.testing.assert_array_equal(found[:, 0], answers[:, classes, np.arange(50)])
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(answers, axis=1))
