"""Confidence rules against loops, and the labels that come of them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from artifacts import Paths
from config import Config, Pseudo
from images import read_mask
from postprocess import Parameters, starting_parameters
from pseudo import (
    class_confidences,
    confidence_histogram,
    count_agreement,
    ignore_doubtful,
    label_pixels,
    quantile_thresholds,
)
from settings import parse_config
from stores import ProbabilityWriter

CLASSES = {"binary": ["a"], "multiclass": ["a", "b", "c"], "multilabel": ["a", "b", "c"], "instances": ["a"]}
COUNT = {"binary": 2, "multiclass": 3, "multilabel": 3, "instances": 2}


def make_config(task: str, **values: Any) -> Config:
    return parse_config({"name": "t", "task": task, "classes": CLASSES[task], **values})


def answers(task: str, seed: int = 0, shape: tuple[int, int] = (12, 15)) -> np.ndarray:
    """Probabilities as a store gives them back: eight bits."""
    rng = np.random.default_rng(seed)
    channels = 1 if task == "binary" else 3
    raw = rng.random((channels, *shape)) ** 2
    if task in ("multiclass", "instances"):
        raw /= raw.sum(0)
    return np.rint(raw * 255).astype(np.uint8).astype(np.float32) / 255


def apply_rules(probabilities: np.ndarray, task: str, rules: Pseudo, parameters: Parameters | None = None) -> tuple:
    thresholds = quantile_thresholds(confidence_histogram(probabilities, task, COUNT[task]), rules)
    return label_pixels(probabilities, task, rules, thresholds, parameters or starting_parameters(make_config(task)))


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("rules", [Pseudo(pixel_confidence=0.7), Pseudo(best_to_second=1.8), Pseudo()])
def test_pixel_rules_agree_with_a_loop(task: str, rules: Pseudo) -> None:
    p = answers(task)
    label, sure = apply_rules(p, task, rules)
    expected = np.zeros(label.shape, bool)
    for row, column in np.ndindex(p.shape[1:]):
        if task == "multiclass":
            rivals = [sorted(p[:, row, column], reverse=True)]
        elif task == "multilabel":
            rivals = [sorted((one, np.float32(1) - one), reverse=True) for one in p[:, row, column]]
        else:
            one = p[0, row, column]
            rivals = [sorted((one, np.float32(1) - one), reverse=True)]
        good = [best >= rules.pixel_confidence and best >= rules.best_to_second * second for best, second, *_ in rivals]
        expected[row, column] = good if task == "multilabel" else good[0]
    np.testing.assert_array_equal(sure, expected)
    assert sure.all() == (rules == Pseudo())
    if task == "multiclass":
        np.testing.assert_array_equal(label, p.argmax(0))


def test_confidences_name_the_two_best() -> None:
    p = np.array([0.2, 0.5, 0.3], np.float32)[:, None, None]
    label, best, second = (one.item() for one in class_confidences(p, "multiclass"))
    assert (label, best, second) == (1, pytest.approx(0.5), pytest.approx(0.3))
    label, best, second = (one.item() for one in class_confidences(p, "instances"))
    assert (label, best, second) == (1, pytest.approx(0.8), pytest.approx(0.2))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_a_rare_and_unsure_class_keeps_its_share(share: float) -> None:
    rng = np.random.default_rng(0)
    shape = (100, 100)
    rare = rng.random(shape) < 0.05
    top = np.where(rare, rng.uniform(0.4, 0.6, shape), rng.uniform(0.8, 1.0, shape))
    p = np.stack([np.where(rare, (1 - top) / 2, top), np.where(rare, top, (1 - top) / 2), (1 - top) / 2])
    p = np.rint(p * 255).astype(np.float32) / 255
    label, sure = apply_rules(p, "multiclass", Pseudo(class_quantile=share))
    for value in (0, 1):
        kept = sure[label == value].mean()
        assert 1 - share <= kept <= 1 - share + 0.06  # a bin is kept or dropped whole
    _, absolute = apply_rules(p, "multiclass", Pseudo(pixel_confidence=0.7))
    assert not absolute[label == 1].any()


@pytest.mark.parametrize("value", range(1, 127, 5))
def test_the_quantile_never_drops_its_own_bin(value: int) -> None:
    """Every background pixel is equally sure, so that no share of them can be told from the rest."""
    p = np.full((1, 10, 10), value / 255, np.float32)
    _, sure = apply_rules(p, "binary", Pseudo(class_quantile=0.5))
    assert sure.all()


def test_quantiles_agree_with_sorting() -> None:
    p = np.concatenate([answers("multiclass", seed, (40, 40)) for seed in range(3)], axis=2)
    rules = Pseudo(class_quantile=0.3, pixel_confidence=0.45)
    thresholds = quantile_thresholds(confidence_histogram(p, "multiclass", 3), rules)
    for value in range(3):
        confidences = np.sort(p.max(0)[p.argmax(0) == value])
        exact = confidences[int(np.ceil(0.3 * len(confidences))) - 1]
        assert thresholds[value] == pytest.approx(max(0.45, exact), abs=0.51 / 255)
    absent = np.zeros((2, 256), np.int64)
    np.testing.assert_array_equal(quantile_thresholds(absent, Pseudo(pixel_confidence=0.6)), [0.6, 0.6])


def test_multilabel_quantiles_are_of_where_a_label_is() -> None:
    p = answers("multilabel", 1, (40, 40))
    histograms = confidence_histogram(p, "multilabel", 3)
    np.testing.assert_array_equal(histograms.sum(1), (p >= 0.5).sum((1, 2)))
    rules = Pseudo(class_quantile=0.4, pixel_confidence=0.55)
    _, sure = apply_rules(p, "multilabel", rules)
    planes = sure.transpose(2, 0, 1)
    assert 0.55 < planes[p >= 0.5].mean() < 0.65
    np.testing.assert_array_equal(planes[p < 0.5], 1 - p[p < 0.5] >= 0.55)


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "instances"])
def test_what_is_sure_is_the_label_itself(task: str) -> None:
    """A low threshold or a smallest area may give a pixel another label than the one its probability is sure of."""
    p = answers(task, 2, (30, 30))
    classes = len(CLASSES[task])
    scales = (1.0, 1.0, 2.5) if task == "multiclass" else ()
    parameters = Parameters((0.2,) * classes, (9,) * classes, scales)
    label, sure = apply_rules(p, task, Pseudo(pixel_confidence=0.7), parameters)
    best = class_confidences(p, task)[0]
    best = best.transpose(1, 2, 0) if task == "multilabel" else best[0]
    given = label > 0 if task == "instances" else label
    assert (given != best).any()
    assert sure.any()
    np.testing.assert_array_equal(given[sure], best[sure])


@pytest.mark.parametrize("task", CLASSES)
def test_doubtful_pixels_are_marked_as_the_dataset_reads_them(task: str, tmp_path: Path) -> None:
    p = answers(task)
    label, sure = apply_rules(p, task, Pseudo(pixel_confidence=0.7))
    marked = ignore_doubtful(label, sure, task)
    np.testing.assert_array_equal(marked[sure], label[sure])
    if task == "instances":
        np.testing.assert_array_equal(marked[~sure], label[~sure] + 0x8000)
    else:
        assert (marked[~sure] == 255).all()
    path = tmp_path / ("a.tif" if task == "multilabel" else "a.png")
    from images import write_mask

    write_mask(path, marked)
    np.testing.assert_array_equal(read_mask(path), marked)


@pytest.mark.parametrize("task", CLASSES)
def test_agreement_is_counted(task: str) -> None:
    rng = np.random.default_rng(5)
    classes = COUNT[task]
    shape = (9, 11, 3) if task == "multilabel" else (9, 11)
    top = {"multiclass": 3, "instances": 400}.get(task, 2)
    label, truth = (rng.integers(0, top, shape).astype(np.int32) for _ in range(2))
    if task != "instances":
        truth[rng.random(shape) < 0.2] = 255
    sure = rng.random(shape) < 0.6
    expected = np.zeros((classes, 2), int)
    for place in np.ndindex(shape):
        if not sure[place] or (task != "instances" and truth[place] == 255):
            continue
        own, true = label[place], truth[place]
        if task == "instances":
            own, true = int(own > 0), int(true > 0)
        if task == "multilabel":
            if own != 1:
                continue
            number = place[2]
        else:
            number = own
        expected[number] += (own == true, 1)
    np.testing.assert_array_equal(count_agreement(label, sure, truth, task, classes), expected)


@pytest.mark.parametrize("task", ["binary", "instances"])
def test_images_below_the_image_rule_are_left_out(task: str, tmp_path: Path) -> None:
    """From stores to files: half of image b is sure, and the rule asks for more."""
    import make_pseudo_labels

    paths = Paths(tmp_path, "t")
    rules = {"pixel_confidence": 0.8, "image_confidence": 0.6, "tta": False}
    rounds = [{}, {"phase": "joint", "pseudo": rules}]
    config = make_config(task, rounds=rounds)
    foreground = np.full((16, 16), 0.05, np.float32)
    foreground[4:12, 4:12] = 0.95
    half = foreground.copy()
    half[:8] = 0.6
    paths.data.mkdir(parents=True)
    lines = ["image_id,image,mask,points,group,split,height,width"]
    lines += [f"{name},{name}.png,,0,,unlabelled,32,32" for name in "ab"]
    paths.index.write_text("\n".join([*lines, "c,c.png,c_mask.png,0,,labelled,32,32\n"]))
    cv2.imwrite(str(tmp_path / "c_mask.png"), np.ones((32, 32), np.uint8))
    for split, stored in (("unlabelled", {"b": half, "a": foreground}), ("oof", {"c": foreground})):
        with ProbabilityWriter(paths.probabilities(0, 0, split, False)) as writer:
            for name, plane in stored.items():
                writer.add(name, np.stack([1 - plane, plane, plane * 0]) if task == "instances" else plane[None])
    summary = make_pseudo_labels.label_pool(config, paths, 1, 0, config.rounds[1].pseudo)
    assert (summary["images"], summary["kept_images"]) == (2, 1)
    written = sorted(path.name for path in (paths.pseudo(1, 0) / "masks").iterdir())
    assert written == ["a.png"]
    mask = read_mask(paths.pseudo(1, 0) / "masks" / "a.png")
    assert mask.shape == (32, 32)
    assert mask[16, 16] == 1
    assert mask[1, 1] == 0
    share = summary["precision"]["a"]
    assert share == (1.0 if task == "binary" else share)
    assert summary["precision"]["background"] == 0.0
