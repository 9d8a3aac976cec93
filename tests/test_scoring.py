"""Scores of each task against scikit-learn and the plain definitions."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from artifacts import Paths
from config import Config, parse_config
from metrics import average_precision
from scoring import hidden_truth, score_pairs

CLASSES = {"binary": ["a"], "multiclass": ["a", "b", "c"], "multilabel": ["a", "b"], "instances": ["a"]}


def make_config(task: str) -> Config:
    return parse_config({"name": "t", "task": task, "classes": CLASSES[task]})


def make_pairs(task: str, count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shape = (20, 30, 2) if task == "multilabel" else (20, 30)
        truth = rng.integers(0, 3 if task == "multiclass" else 2, shape).astype(np.uint8)
        answer = np.where(rng.random(shape) < 0.3, rng.integers(0, truth.max() + 1, shape), truth).astype(np.uint8)
        truth[rng.random(shape) < 0.2] = 255
        pairs.append((truth, answer))
    return pairs


def flat(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    known = [truth != 255 for truth, _ in pairs]
    parts = ([one[sure] for one, sure in zip(column, known, strict=True)] for column in zip(*pairs, strict=True))
    truth, answer = (np.concatenate(part) for part in parts)
    return truth, answer


def test_multiclass_scores_come_from_all_pixels() -> None:
    pairs = make_pairs("multiclass")
    scores = score_pairs(make_config("multiclass"), iter(pairs))
    truth, answer = flat(pairs)
    each = jaccard_score(truth, answer, average=None)
    assert scores["miou"] == pytest.approx(each.mean())
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert [scores[f"iou {name}"] for name in "abc"] == pytest.approx(each.tolist())


def test_binary_dice_is_a_mean_over_images() -> None:
    pairs = make_pairs("binary")
    pairs.append((np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8)))
    scores = score_pairs(make_config("binary"), iter(pairs))
    dices = [f1_score(*flat([pair]), zero_division=1.0) for pair in pairs]
    truth, answer = flat(pairs)
    assert scores["dice"] == pytest.approx(np.mean(dices))
    assert scores["miou"] == pytest.approx(jaccard_score(truth, answer))
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, answer))
    assert "map" not in scores


def test_multilabel_scores_are_means_over_planes() -> None:
    pairs = make_pairs("multilabel")
    scores = score_pairs(make_config("multilabel"), iter(pairs))
    planes = [[(truth[..., n], answer[..., n]) for truth, answer in pairs] for n in range(2)]
    assert scores["dice"] == pytest.approx(np.mean([f1_score(*flat([one])) for plane in planes for one in plane]))
    assert scores["miou"] == pytest.approx(np.mean([jaccard_score(*flat(plane)) for plane in planes]))


def test_instances_are_matched_and_their_foreground_scored() -> None:
    truth = np.zeros((20, 20), np.int32)
    truth[2:8, 2:8], truth[2:8, 8:14] = 3, 300
    merged = np.where(truth > 0, 1, 0).astype(np.int32)
    scores = score_pairs(make_config("instances"), [(truth, truth), (truth, merged)])
    assert scores["dice"] == 1.0
    assert scores["map"] == pytest.approx((1.0 + average_precision(truth, merged)) / 2)
    assert scores["map"] < 1.0


def test_nothing_scores_nan() -> None:
    with pytest.warns(RuntimeWarning):
        scores = score_pairs(make_config("binary"), [])
    assert all(math.isnan(one) for one in scores.values())


def test_hidden_labels_are_found_by_id(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "t")
    folder = paths.data / "solution" / "Tile 1"
    folder.mkdir(parents=True)
    (folder / "a.b.png").touch()
    (folder / "c.tif").touch()
    assert hidden_truth(paths, "Tile 1/a.b") == folder / "a.b.png"
    assert hidden_truth(paths, "Tile 1/c") == folder / "c.tif"
    assert hidden_truth(paths, "Tile 1/a") is None
