"""Fitting on out-of-fold predictions whose best parameters are known, and how honest its score is."""

import numpy as np
import pytest
from helpers import dice

import fitting
from config import TASK_METRICS, Config
from fitting import THRESHOLDS, fit_parameters
from matching import instance_iou, instance_precision
from postprocess import Parameters, to_label
from scoring import score_pairs
from settings import parse_config

Images = list[tuple[int, np.ndarray, np.ndarray]]
CLASSES = {"binary": ["a"], "multiclass": ["a", "b", "c"], "multilabel": ["a", "b"], "instances": ["a"]}


def make_config(task: str = "binary", **post: object) -> Config:
    return parse_config({"name": "t", "task": task, "classes": CLASSES[task], "postprocess": post})


def lifted(cut: float, seed: int, shape: tuple[int, int] = (24, 24)) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a plane that is above `cut` on it and below off it, with many values close to `cut`."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(shape) < 0.4).astype(np.uint8)
    away = rng.random(shape) * 0.045 + 0.002
    return truth, np.where(truth == 1, cut + away, cut - away).astype(np.float32)


def noise_images(folds: int, per_fold: int, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    shape = (12, 12)
    return [
        (fold, (rng.random(shape) < rng.random()).astype(np.uint8), rng.random((1, *shape), np.float32))
        for fold in range(folds)
        for _ in range(per_fold)
    ]


@pytest.mark.parametrize("best", [0.2, 0.5, 0.75])
@pytest.mark.parametrize("metric", ["dice", "miou"])
def test_the_known_threshold_is_found(best: float, metric: str) -> None:
    images = [(n % 3, truth, plane[None]) for n in range(6) for truth, plane in [lifted(best, n)]]
    fitted = fit_parameters(make_config(metric=metric), images)
    assert fitted.parameters.thresholds == (best,)
    assert fitted.parameters.min_areas == (0,)
    assert fitted.plain == fitted.nested == 1.0
    assert set(fitted.by_fold) == {0, 1, 2}
    assert all(one.thresholds == (best,) for one in fitted.by_fold.values())


def test_every_class_gets_its_own_threshold() -> None:
    images: Images = []
    for n in range(4):
        pairs = [lifted(0.3, n), lifted(0.7, n + 50)]
        truth = np.stack([truth for truth, _ in pairs], axis=-1)
        truth[:4] = 255
        images.append((n % 2, truth, np.stack([plane for _, plane in pairs])))
    fitted = fit_parameters(make_config("multilabel"), images)
    assert fitted.parameters.thresholds == (0.3, 0.7)
    assert fitted.by_fold[1].thresholds == (0.3, 0.7)
    assert fitted.nested == 1.0


def test_a_smallest_area_is_fitted() -> None:
    images: Images = []
    for n in range(4):
        truth = np.zeros((60, 60), np.uint8)
        truth[10:30, 10 + n : 30 + n] = 1
        plane = truth * 0.9
        plane[40:58:5, 5:50:7] = 0.95  # specks surer than the truth
        images.append((n % 2, truth, plane[None].astype(np.float32)))
    fitted = fit_parameters(make_config(), images)
    assert fitted.parameters.min_areas[0] > 1
    assert fitted.plain == 1.0


@pytest.mark.parametrize("metric", ["dice", "miou"])
def test_the_scores_are_those_of_the_choice(metric: str) -> None:
    images = noise_images(3, 3)
    fitted = fit_parameters(make_config(metric=metric), images)

    def score(choice: dict[int, Parameters]) -> float:
        pairs = [(truth, to_label(answer, "binary", choice[fold])) for fold, truth, answer in images]
        if metric == "dice":
            return float(np.mean([dice(*pair) for pair in pairs]))
        both = sum((truth & mask).sum() for truth, mask in pairs)
        return both / sum((truth | mask).sum() for truth, mask in pairs)

    assert fitted.plain == pytest.approx(score(dict.fromkeys(range(3), fitted.parameters)))
    assert fitted.nested == pytest.approx(score(fitted.by_fold))
    every = [score(dict.fromkeys(range(3), Parameters((one,), (0,)))) for one in THRESHOLDS]
    assert fitted.plain >= max(every) - 1e-12


def test_on_noise_the_nested_score_is_lower() -> None:
    gaps = []
    for seed in range(5):
        fitted = fit_parameters(make_config(), noise_images(3, 1, seed))
        assert fitted.nested <= fitted.plain
        gaps.append(fitted.plain - fitted.nested)
    assert max(gaps) > 0


@pytest.mark.parametrize("task", ["binary", "multiclass", "instances"])
def test_a_folds_choice_ignores_the_fold(task: str) -> None:
    """Poisoning fold 0's labels leaves fold 0's own parameters and changes the others'."""
    images = poisonable(task)
    clean, poisoned = (fit_parameters(make_config(task), one) for one in (images, poison(images, task)))
    assert clean.by_fold[0] == poisoned.by_fold[0]
    assert clean.by_fold[1] != poisoned.by_fold[1]
    assert poisoned.nested < clean.nested


def poisonable(task: str) -> Images:
    """Fold 0 has three images of five, so that it has a say in what the other folds are given."""
    make = {"binary": lambda seed: lifted(0.4, seed), "multiclass": tilted, "instances": nuclei}[task]
    pairs = [(fold, *make(seed)) for seed, fold in enumerate((0, 0, 0, 1, 2))]
    return [(fold, truth, answer if answer.ndim == 3 else answer[None]) for fold, truth, answer in pairs]


def poison(images: Images, task: str) -> Images:
    wrong = {
        "binary": lambda truth: np.ones_like(truth),
        "multiclass": lambda truth: np.full_like(truth, 2),
        "instances": lambda truth: np.where(np.arange(40) < 18, 1, 2) * np.ones_like(truth),  # the haze is theirs
    }[task]
    return [(fold, wrong(truth) if fold == 0 else truth, answer) for fold, truth, answer in images]


def tilted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Good probabilities of three classes whose second is said half as often as it should be."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (40, 40)).astype(np.uint8)
    good = np.eye(3)[truth].transpose(2, 0, 1) * 0.5 + rng.random((3, 40, 40)) * 0.5
    good[1] *= 0.5
    truth[:3] = 255
    return truth, (good / good.sum(0)).astype(np.float32)


def nuclei(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two squares side by side whose foreground reaches 0.4 alone, in a haze of 0.36."""
    truth = np.zeros((30, 40), np.int32)
    truth[8:20, 6:18], truth[8:20, 18 : 30 + seed] = 1, 2
    inside = np.where(truth > 0, 0.47, 0.0)
    inside[:, 17:19] = 0.05
    inside[10:18, 8:15], inside[10:18, 21:27] = 0.62, 0.62
    foreground = np.where(truth > 0, np.maximum(0.62, inside), 0.47)
    return truth, np.stack([1 - foreground, inside, foreground - inside]).astype(np.float32)


def test_instances_are_fitted_by_their_own_metric() -> None:
    config = make_config("instances")
    images = [(n % 2, *nuclei(n)) for n in range(2)]
    fitted = fit_parameters(config, images)
    start = [
        instance_precision(instance_iou(truth, to_label(answer, "instances", Parameters((0.35,), (0,)))))[0]
        for _, truth, answer in images
    ]
    found = [
        instance_precision(instance_iou(truth, to_label(answer, "instances", fitted.parameters)))[0]
        for _, truth, answer in images
    ]
    assert fitted.plain == pytest.approx(np.mean(found))
    assert np.mean(found) > np.mean(start)
    assert fitted.plain == 1.0


def test_the_least_confidence_that_parts_true_instances_from_false_is_found() -> None:
    """False ones are as large as true ones, and no threshold leaves them out without true ones' edges."""
    images: Images = []
    for number in range(2):
        truth, foreground = np.zeros((30, 60), np.int32), np.zeros((30, 60))
        for place, left in enumerate((4, 22, 40)):
            foreground[6:20, left : left + 14] = 0.78  # of the false one, all of it
            if place != number:
                truth[6:20, left : left + 14] = place + 1
                foreground[9:17, left + 3 : left + 11] = 0.99
        answer = np.stack([1 - foreground, foreground * 0.95, foreground * 0.05]).astype(np.float32)
        images.append((number, truth, answer))
    fitted = fit_parameters(make_config("instances"), images)
    assert fitted.plain == fitted.nested == 1.0
    assert fitted.parameters.min_confidence in (0.8, 0.85)


def test_class_scales_climb_to_a_better_miou() -> None:
    images = [(n % 2, *tilted(n)) for n in range(4)]
    fitted = fit_parameters(make_config("multiclass"), images)

    def miou(scales: tuple[float, ...]) -> float:
        parameters = Parameters(min_areas=(0, 0, 0), class_scales=scales)
        labels = [(truth, to_label(answer, "multiclass", parameters)) for _, truth, answer in images]
        truth, label = (np.concatenate([one.ravel() for one in part]) for part in zip(*labels, strict=True))
        label = label[truth != 255]
        truth = truth[truth != 255]
        return float(
            np.mean([((truth == n) & (label == n)).sum() / ((truth == n) | (label == n)).sum() for n in range(3)])
        )

    scales = fitted.parameters.class_scales
    assert scales[1] / scales[0] > 1.3
    assert fitted.plain == pytest.approx(miou(scales))  # every pixel is in the sample
    assert fitted.plain > miou((1.0, 1.0, 1.0)) + 0.05
    assert fitted.nested <= fitted.plain + 1e-9


def test_the_sample_of_pixels_stays_bounded_however_many_images_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, ascend = [], fitting._ascend
    monkeypatch.setattr(fitting, "SAMPLED_IN_ALL", 5000)
    monkeypatch.setattr(fitting, "_ascend", lambda *values: sizes.append(len(values[1])) or ascend(*values))
    config, images = make_config("multiclass"), [(n % 2, *tilted(n)) for n in range(40)]
    fitted = fit_parameters(config, images)
    assert 2500 < sizes[-1] <= 5000
    assert sizes[0] == sizes[1] == sizes[-1] / 2, "as many pixels of each image"
    assert fitted.parameters.class_scales[1] / fitted.parameters.class_scales[0] > 1.3
    assert fit_parameters(config, images) == fitted


def test_good_probabilities_are_left_alone() -> None:
    truth, _ = tilted(0)
    answer = np.eye(3, dtype=np.float32)[np.where(truth == 255, 0, truth)].transpose(2, 0, 1)
    fitted = fit_parameters(make_config("multiclass"), [(0, truth, answer), (1, truth, answer)])
    assert fitted.parameters.class_scales == (1.0, 1.0, 1.0)
    assert fitted.plain == 1.0


def example(task: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose best parameters are not those of every metric."""
    rng = np.random.default_rng(seed)
    if task == "instances":
        truth, answer = nuclei(seed % 4)
        return truth, np.clip(answer + rng.normal(0, 0.03, answer.shape), 0, 1).astype(np.float32)
    if task == "multiclass":
        return tilted(seed)
    truth = np.zeros((24, 24, 2), np.uint8)
    truth[4:15, 3 + seed : 12 + seed, 0], truth[12:20, 6:22, 1] = 1, 1
    answer = truth.transpose(2, 0, 1) * 0.35 + 0.3 + rng.normal(0, 0.12, (2, 24, 24))
    truth[0] = 255
    return (truth[..., 0], answer[:1]) if task == "binary" else (truth, answer)


@pytest.mark.parametrize(("task", "metric"), [(task, name) for task in TASK_METRICS for name in TASK_METRICS[task]])
def test_what_is_fitted_is_the_very_score_that_is_reported(task: str, metric: str) -> None:
    """Sums over images and classes in fitting, labels in scoring: for every metric they are one number."""
    config = make_config(task, metric=metric)
    images = [(n % 2, *example(task, n)) for n in range(4)]
    fitted = fit_parameters(config, images)

    def score(choice: dict[int, Parameters]) -> float:
        labels = [(truth, to_label(answer, task, choice[fold])) for fold, truth, answer in images]
        return score_pairs(config, labels)[metric]

    assert fitted.plain == pytest.approx(score(dict.fromkeys(range(2), fitted.parameters)))
    assert fitted.nested == pytest.approx(score(fitted.by_fold))
    start = Parameters((0.5,) * len(config.classes), (0,) * len(config.classes))
    assert fitted.plain >= score(dict.fromkeys(range(2), start)) - 1e-9


def test_folds_that_say_nothing_of_a_class_leave_its_threshold() -> None:
    """Class b occurs in fold 0 alone: by the other folds any threshold is as good, and the config's is taken."""
    rng = np.random.default_rng(0)
    images = []
    for fold in (0, 1, 2):
        truth = np.zeros((24, 24, 2), np.uint8)
        truth[3:15, 3:12, 0] = 1
        truth[14:22, 14:22, 1] = fold == 0
        haze = np.where(truth == 1, 0.8, 0.2) + rng.uniform(-0.05, 0.05, truth.shape)
        images.append((fold, truth, haze.transpose(2, 0, 1).astype(np.float32)))
    fitted = fit_parameters(make_config("multilabel", metric="miou"), images)
    assert fitted.by_fold[0].thresholds[1] == 0.5
    assert fitted.by_fold[0].min_areas == (0, 0)
    assert fitted.parameters.thresholds == (0.5, 0.5), "the middle of a plateau rather than its edge"
    assert fitted.nested == fitted.plain == 1.0
