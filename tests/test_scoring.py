"""Scores of each task against scikit-learn and the plain definitions."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, fbeta_score, jaccard_score

from artifacts import Paths
from config import TASK_METRICS, Config
from errors import UserError
from matching import instance_iou, instance_precision
from rules import METRICS
from scoring import hidden_truth, score_pairs
from settings import parse_config

CLASSES = {"binary": ["a"], "multiclass": ["a", "b", "c"], "multilabel": ["a", "b"], "instances": ["a"]}


def make_config(task: str, metric: str | None = None) -> Config:
    return parse_config({"name": "t", "task": task, "classes": CLASSES[task], "postprocess": {"metric": metric}})


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
    assert scores["map"] == pytest.approx((1.0 + instance_precision(instance_iou(truth, merged))[0]) / 2)
    assert scores["map"] < 1.0


def test_nothing_scores_nan() -> None:
    for task in CLASSES:
        assert all(math.isnan(one) for one in score_pairs(make_config(task), []).values())


def score_one(task: str, metric: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return score_pairs(make_config(task, metric), iter(pairs))[metric]


def test_what_a_config_can_choose_by_besides() -> None:
    pairs = make_pairs("binary")
    truth, answer = flat(pairs)
    assert score_one("binary", "dice_global", pairs) == pytest.approx(f1_score(truth, answer))
    each = [fbeta_score(*flat([pair]), beta=0.5) for pair in pairs]
    assert score_one("binary", "f0.5", pairs) == pytest.approx(np.mean(each))
    ious = [jaccard_score(*flat([pair])) for pair in pairs]
    shares = [np.mean([iou > percent / 100 for percent in range(50, 100, 5)]) for iou in ious]
    assert score_one("binary", "mask_map", pairs) == pytest.approx(np.mean(shares))
    pairs = make_pairs("multilabel")
    planes = [flat([(truth[..., n], answer[..., n]) for truth, answer in pairs]) for n in range(2)]
    assert score_one("multilabel", "dice_global", pairs) == pytest.approx(np.mean([f1_score(*one) for one in planes]))
    pairs = make_pairs("multiclass")
    assert score_one("multiclass", "macro_accuracy", pairs) == pytest.approx(balanced_accuracy_score(*flat(pairs)))
    assert score_one("multiclass", "dice_global", pairs) == pytest.approx(f1_score(*flat(pairs), average="macro"))


def test_outlines_are_compared_over_all_images() -> None:
    """A square of 4x4 pixels has an outline of 12 + 4 sqrt(1/2), one of 2x2 a third of its straight part."""
    big, small, empty = (np.zeros((8, 8), np.uint8) for _ in range(3))
    big[2:6, 2:6], small[3:5, 3:5] = 1, 1
    outlines = [12 + 4 * 0.5**0.5, 4 + 4 * 0.5**0.5]
    wanted = 2 * outlines[0] / (2 * outlines[0] + outlines[1])
    assert score_one("binary", "surface_dice", [(big, big), (small, empty)]) == pytest.approx(wanted)
    assert score_one("binary", "boundary_f", [(big, big), (small, empty), (empty, empty)]) == pytest.approx(2 / 3)
    unknown = np.where(small == 1, 255, empty)
    assert score_one("binary", "surface_dice", [(unknown, small)]) != score_one(
        "binary", "surface_dice", [(big, empty)]
    )
    assert score_one("binary", "boundary_f", [(unknown, small)]) == 1.0


@pytest.mark.parametrize(("task", "metric"), [(task, name) for task in TASK_METRICS for name in TASK_METRICS[task]])
def test_the_truth_scores_best_and_its_transpose_less(task: str, metric: str) -> None:
    truths = [truth[:20, :20].copy() for truth, _ in make_pairs(task)]
    for truth in truths:
        truth[truth == 255] = 0
        truth[:3], truth[:3, 5:9] = 0, 1
    if metric == "patch_f1":
        truths = [np.kron(truth, np.ones((16, 16), np.uint8)) for truth in truths]
    if task == "instances":
        truths = [np.where(truth, np.arange(400).reshape(20, 20) // 40 + 1, 0) for truth in truths]
    assert score_one(task, metric, [(truth, truth) for truth in truths]) == pytest.approx(1.0)
    assert score_one(task, metric, [(truth, truth.swapaxes(0, 1)) for truth in truths]) < 0.95


def test_a_metric_that_does_not_fit_the_task_is_refused_with_those_that_do() -> None:
    for task, metric in (("binary", "map"), ("instances", "f0.5"), ("multiclass", "dice"), ("multilabel", "f2")):
        with pytest.raises(UserError, match=f"{metric} is not for a {task} task; take .*{TASK_METRICS[task][0]}"):
            make_config(task, metric)
    with pytest.raises(UserError, match="postprocess.metric"):
        make_config("binary", "auc")
    assert {name for names in TASK_METRICS.values() for name in names} == {*METRICS, "macro_accuracy"}


def test_hidden_labels_are_found_by_id(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "t")
    folder = paths.data / "solution" / "Tile 1"
    folder.mkdir(parents=True)
    (folder / "a.b.png").touch()
    (folder / "c.tif").touch()
    assert hidden_truth(paths, "Tile 1/a.b") == folder / "a.b.png"
    assert hidden_truth(paths, "Tile 1/c") == folder / "c.tif"
    assert hidden_truth(paths, "Tile 1/a") is None


@pytest.mark.parametrize("metric", ["dice", "f0.5", "boundary_f", "mask_map", "dice_global", "miou"])
def test_an_image_of_which_nothing_is_known_changes_no_score(metric: str) -> None:
    config = parse_config({"name": "x", "postprocess": {"metric": metric}})
    truth, prediction = np.zeros((2, 9, 9), np.uint8)
    truth[2:6, 2:6] = prediction[3:7, 3:7] = 1
    unknown, everything = np.full((9, 9), 255, np.uint8), np.ones((9, 9), np.uint8)
    alone = score_pairs(config, [(truth, prediction)])
    assert score_pairs(config, [(truth, prediction), *[(unknown, everything)] * 3]) == alone
    assert np.isnan(score_pairs(config, [(unknown, everything)])[metric])
