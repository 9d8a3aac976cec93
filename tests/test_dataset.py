"""Training samples: the same for any number of workers or processes, aligned, and read at the working scale."""

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from artifacts import Paths
from config import Config
from dataset import Record, Source, StepSampler, TrainingDataset, collate, load_batches, load_image, load_label
from errors import UserError
from images import write_mask
from settings import parse_config
from transforms import cut_centre

PLAIN = {"colour": 0.0, "grey": 0.0, "noise": 0.0, "blur": 0.0}
STILL = PLAIN | {"flips": False, "rotate90": False, "scale": [1.0, 1.0]}
RAW = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def make_config(task: str = "binary", augment: dict[str, Any] | None = None, **train: Any) -> Config:
    classes = {"multiclass": ["a", "b", "c"], "multilabel": ["a", "b"]}.get(task, ["a"])
    values = {"name": "t", "task": task, "classes": classes, "image": RAW, "postprocess": {"border_width": 1}}
    return parse_config(values | {"train": {"augment": {"crop": 32} | (augment or {}), **train}})


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "t")


@pytest.fixture
def records(paths: Paths) -> list[Record]:
    """Five images whose green says where the foreground is, each with a red of its own."""
    made, rng = [], np.random.default_rng(0)
    for number in range(5):
        height, width = 48 + number, 70 - number
        label = np.zeros((height, width), np.uint8)
        cv2.circle(label, (int(rng.integers(width)), int(rng.integers(height))), 12, 1, -1)
        image = np.stack([np.full_like(label, 40 * number), label * 255, rng.integers(0, 255, label.shape)], -1)
        cv2.imwrite(str(paths.root / f"{number}.png"), image[..., ::-1].astype(np.uint8))
        write_mask(paths.root / f"{number}_mask.png", label)
        made.append(Record(str(number), f"{number}.png", (height, width), f"{number}_mask.png"))
    return made


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_samples_are_the_same_for_any_workers(records: list[Record], paths: Paths) -> None:
    """A fresh dataset, another order, another worker: a sample hangs on its source and number alone."""
    augment = {"cutmix": 0.5, "rotate": 30, "foreground": 0.5}
    sources = [Source("labelled", records[:3], 2), Source("unlabelled", [Record("4", "4.png", (52, 66))], 1)]
    batches = []
    for workers in (0, 2):
        config = make_config(augment=augment, workers=workers)
        dataset = TrainingDataset(sources, config, paths, 0, 1)
        loader = load_batches(dataset, StepSampler((2, 1), 0, 4), torch.device("cpu"))
        batches.append(list(loader))
    assert same({str(n): one for n, one in enumerate(batches[0])}, {str(n): one for n, one in enumerate(batches[1])})
    assert batches[0][0]["labelled"]["image"].shape == (2, 3, 32, 32)
    assert batches[0][0]["unlabelled"]["strong"].shape == (1, 3, 32, 32)
    uncached = TrainingDataset(sources, make_config(augment=augment, cache_gb=0.0), paths, 0, 1)
    again = uncached[(0, 7)]
    assert torch.equal(again["image"], batches[0][3]["labelled"]["image"][1])
    others = [
        TrainingDataset(sources, make_config(augment=augment), paths, 0, fold)[(0, 7)]["image"] for fold in (1, 2)
    ]
    assert torch.equal(again["image"], others[0])
    assert not torch.equal(again["image"], others[1])


def test_a_mistake_in_the_data_is_one_line_from_any_worker(records: list[Record], paths: Paths) -> None:
    broken = paths.root / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    said = []
    for workers in (0, 1):
        config = make_config(augment=STILL, workers=workers)
        dataset = TrainingDataset([Source("labelled", records, 2)], config, paths, 0, 0)
        with pytest.raises(UserError) as caught:
            list(load_batches(dataset, StepSampler((2,), 0, 4), torch.device("cpu")))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{broken}: ")


def test_a_pass_shows_every_image_once(records: list[Record], paths: Paths) -> None:
    dataset = TrainingDataset([Source("labelled", records, 2)], make_config(augment=STILL), paths, 0, 0)
    shown = [dataset[(0, number)]["image_id"] for number in range(15)]
    orders = [tuple(shown[start : start + 5]) for start in (0, 5, 10)]
    assert all(sorted(order) == list("01234") for order in orders)
    assert len(set(orders)) > 1


@pytest.mark.parametrize("rotate", [0, 40])
def test_the_target_lies_on_its_image(records: list[Record], paths: Paths, rotate: int) -> None:
    """Windows larger and smaller than the image, mirrored at its edges; green is the foreground."""
    augment = PLAIN | {"scale": [0.4, 2.0], "rotate": rotate}
    dataset = TrainingDataset([Source("labelled", records, 2)], make_config(augment=augment), paths, 0, 0)
    shares = []
    for number in range(30):
        sample = dataset[(0, number)]
        green, target = sample["image"][1].numpy(), sample["target"].numpy()
        assert target.dtype == np.int64
        assert set(np.unique(target)) <= {0, 1}
        differs = (green > 0.5) != (target == 1)
        inner = cv2.erode(differs.astype(np.uint8), np.ones((3, 3), np.uint8))  # an edge may be off by a pixel
        assert not inner[1:-1, 1:-1].any()
        shares.append(target.mean())
    assert max(shares) > 0.2


def test_cutmix_pastes_image_and_label_and_spares_the_cache(records: list[Record], paths: Paths) -> None:
    square = []
    for record in records:  # cut to the crop's own size, so that a window is the whole picture
        image = cv2.imread(str(paths.root / record.image))[:32, :32]
        mask = cv2.imread(str(paths.root / record.mask), cv2.IMREAD_UNCHANGED)[:32, :32]
        cv2.imwrite(str(paths.root / record.image), image)
        write_mask(paths.root / record.mask, mask)
        square.append(Record(record.image_id, record.image, (32, 32), record.mask))
    source = [Source("labelled", square, 1)]
    dataset = TrainingDataset(source, make_config(augment=STILL | {"cutmix": 1.0}), paths, 0, 0)
    plain = TrainingDataset(source, make_config(augment=STILL), paths, 0, 0)
    mixed = 0
    for number in range(20):
        sample = dataset[(0, number)]
        red = sample["image"][0].numpy()
        own = int(sample["image_id"]) * 40 / 255
        pasted = ~np.isclose(red, own)
        if pasted.any():
            mixed += 1
            rows, columns = np.nonzero(pasted)
            assert pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()  # a rectangle
            assert 0.05 < pasted.mean() < 0.6
            assert len(np.unique(red)) == 2
        np.testing.assert_array_equal(sample["image"][1].numpy() > 0.5, sample["target"].numpy() == 1)
    assert mixed > 10
    fresh = TrainingDataset(source, make_config(augment=STILL | {"cutmix": 1.0}), paths, 0, 0)
    assert same(dataset[(0, 3)], fresh[(0, 3)])
    assert same(plain[(0, 3)], TrainingDataset(source, make_config(augment=STILL), paths, 0, 0)[(0, 3)])


def test_weak_and_strong_view_share_their_geometry(records: list[Record], paths: Paths) -> None:
    pool = [Record(one.image_id, one.image, one.size) for one in records]
    augment = {"grey": 0.0, "blur": 0.0, "noise": 1.0, "colour": 0.0, "rotate": 40, "cutmix": 0.5}
    dataset = TrainingDataset([Source("unlabelled", pool, 1)], make_config(augment=augment), paths, 0, 0)
    for number in range(6):
        sample = dataset[(0, number)]
        assert set(sample) == {"image_id", "image", "strong", "box"}
        assert not torch.equal(sample["image"], sample["strong"])
        assert np.corrcoef(sample["image"][1].ravel(), sample["strong"][1].ravel())[0, 1] > 0.8 or (
            sample["image"][1].std() < 0.05
        )


def test_an_unlabelled_sample_names_its_box_and_is_whole(records: list[Record], paths: Paths) -> None:
    pool = [Record(one.image_id, one.image, one.size) for one in records]
    source = [Source("labelled", records, 1), Source("unlabelled", pool, 1)]

    def samples(labelled: float, own: float | None) -> list[dict[str, Any]]:
        rounds = [{}, {"phase": "joint", "consistency": {"cutmix": own}}]
        train = {"augment": STILL | {"crop": 32, "cutmix": labelled}}
        config = parse_config({"name": "t", "image": RAW, "train": train, "rounds": rounds})
        dataset = TrainingDataset(source, config, paths, 1, 0)
        return [dataset[(1, number)] for number in range(12)]

    whole = samples(0.0, None)
    assert all(one["box"].tolist() == [0, 0, 0, 0] for one in whole + samples(1.0, 0.0))
    for mixed in (samples(1.0, None), samples(0.0, 1.0)):
        for one, same_place in zip(mixed, whole, strict=True):
            top, bottom, left, right = one["box"].tolist()
            assert 0 <= top < bottom <= 32
            assert 0 <= left < right <= 32
            assert 0.05 < (bottom - top) * (right - left) / 32**2 < 0.6
            assert torch.equal(one["image"], same_place["image"])
            assert torch.equal(one["strong"], same_place["strong"])


def test_blurred_views_align(paths: Paths) -> None:
    """On a slope a blur changes nothing, unless it moves the image; the strong view is blurred, the labelled is not."""
    rows, columns = np.mgrid[:64, :64]
    cv2.imwrite(str(paths.root / "a.png"), np.repeat((rows * 2 + columns)[..., None].astype(np.uint8), 3, axis=2))
    write_mask(paths.root / "m.png", np.zeros((64, 64), np.uint8))
    joint = {"phase": "joint", "consistency": {"strong": PLAIN | {"blur": 1.0}}}
    values = {"name": "t", "image": RAW, "train": {"augment": STILL | {"crop": 32, "flips": True, "rotate90": True}}}
    config = parse_config(values | {"rounds": [{}, joint]})
    sources = [Source("labelled", [Record("a", "a.png", (64, 64), "m.png")], 1)]
    sources.append(Source("unlabelled", [Record("a", "a.png", (64, 64))], 1))
    dataset = TrainingDataset(sources, config, paths, 1, 0)
    plain = TrainingDataset(sources, config, paths, 0, 0)
    inner, changed = (slice(None), slice(4, -4), slice(4, -4)), 0
    for number in range(24):
        sample = dataset[(1, number)]
        assert (sample["image"] - sample["strong"])[inner].abs().max() <= 1.01 / 255
        changed += not torch.equal(sample["image"], sample["strong"])
        assert torch.equal(plain[(1, number)]["image"], plain[(1, number)]["strong"])
        values = np.unique(np.diff(dataset[(0, number)]["image"][0].numpy() * 255, axis=0).round(3))
        assert len(values) == 1, "a labelled image stays sharp to its edges"
    assert changed > 12, "at the edges the blur shows"


def test_foreground_windows_show_the_foreground(paths: Paths) -> None:
    label = np.zeros((200, 200), np.uint8)
    label[150:154, 20:24] = 1
    label[:40] = 255
    cv2.imwrite(str(paths.root / "a.png"), np.zeros((200, 200, 3), np.uint8))
    write_mask(paths.root / "m.png", label)
    record = [Record("a", "a.png", (200, 200), "m.png")]
    shares = []
    for chance in (0.0, 1.0):
        augment = STILL | {"foreground": chance}
        dataset = TrainingDataset([Source("labelled", record, 1)], make_config(augment=augment), paths, 0, 0)
        shares.append(np.mean([(dataset[(0, n)]["target"] == 1).any() for n in range(40)]))
    assert shares[0] < 0.3
    assert shares[1] == 1.0


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_foreground_windows_give_every_class_its_turn(paths: Paths, task: str) -> None:
    classes = 3 if task == "multiclass" else 2
    label = np.zeros((120, 120), np.uint8)
    label[5, 5] = 1
    label[115, 115] = 2
    label[50:60] = 255
    if task == "multilabel":
        label = np.stack([label == 1, label == 2], axis=-1).astype(np.uint8)
    path = "m.png" if task == "multiclass" else "m.tif"
    write_mask(paths.root / path, label)
    cv2.imwrite(str(paths.root / "a.png"), np.zeros((120, 120, 3), np.uint8))
    source = [Source("labelled", [Record("a", "a.png", (120, 120), path)], 1)]
    config = make_config(task, STILL | {"foreground": 1.0, "crop": 20})
    dataset = TrainingDataset(source, config, paths, 0, 0)
    targets = [dataset[(0, number)]["target"].numpy() for number in range(60)]
    rare = [(one == 1).any() if task == "multiclass" else (one[0] == 1).any() for one in targets]
    last = [(one == 2).any() if task == "multiclass" else (one[1] == 1).any() for one in targets]
    assert 60 / classes / 2 < sum(rare) < 60 / classes * 1.6
    assert 60 / classes / 2 < sum(last) < 60 / classes * 1.6


def test_two_processes_share_what_one_would_take() -> None:
    whole = list(StepSampler((4, 2), 3, 7, accumulate=2))
    halves = [list(StepSampler((2, 1), 3, 7, 2, process, 2)) for process in range(2)]
    assert len(whole) == len(halves[0]) == 8 == len(StepSampler((4, 2), 3, 7, 2))
    for one, first, second in zip(whole, *halves, strict=True):
        assert sorted(one) == sorted(first + second)
        assert not set(first) & set(second)


def test_a_resumed_sampler_goes_on_where_it_was() -> None:
    unbroken = list(StepSampler((3, 1), 0, 6, accumulate=2))
    assert list(StepSampler((3, 1), 0, 4, 2)) + list(StepSampler((3, 1), 4, 6, 2)) == unbroken
    numbers = [number for batch in unbroken for source, number in batch if source == 0]
    assert numbers == list(range(36))


def test_batches_are_grouped_by_kind() -> None:
    samples = [{"image_id": str(n), "image": torch.full((1, 2, 2), n), "target": torch.tensor(n)} for n in range(3)]
    samples.append({"image_id": "3", "image": torch.zeros(1, 2, 2), "strong": torch.ones(1, 2, 2)})
    batch = collate(samples, ["labelled", "labelled", "pseudo", "unlabelled"])
    assert list(batch) == ["labelled", "pseudo", "unlabelled"]
    assert batch["labelled"]["image_id"] == ["0", "1"]
    assert batch["labelled"]["target"].tolist() == [0, 1]
    assert batch["pseudo"]["image"].shape == (1, 1, 2, 2)
    assert set(batch["unlabelled"]) == {"image_id", "image", "strong"}
    with pytest.raises(ValueError, match="zip"):
        collate(samples[:2], ["labelled"])


def test_the_working_scale_shrinks_image_and_label(paths: Paths, records: list[Record]) -> None:
    config = make_config(augment=STILL)
    config = config.model_copy(update={"image": config.image.model_copy(update={"long_side": 35})})
    image, _, _ = load_image(paths.resolve("0.png"), config.image)
    label = load_label(records[0], config, paths, image.shape[:2])
    assert image.shape == (24, 35, 3)
    assert label.shape == (24, 35)
    assert ((image[..., 1] > 127) != (label == 1)).mean() < 0.06


@pytest.mark.parametrize(("values", "side"), [({"long_side": 35}, 16), ({"scale": 2.0}, 64), ({}, 32)])
def test_a_patch_is_seen_at_the_scale_of_its_whole_image(
    values: dict[str, Any], side: int, paths: Paths, records: list[Record]
) -> None:
    settings = make_config().image.model_copy(update=values)
    whole, _, _ = load_image(paths.resolve("0.png"), settings)
    patch, _, _ = load_image(paths.resolve("0.png"), settings, 32)
    assert patch.shape[:2] == (side, side)
    green = patch[..., 1] > 127
    assert 0 < green.mean() < 1
    assert (green != (cut_centre(whole, side)[..., 1] > 127)).mean() < 0.06


def test_the_cache_stops_at_its_room(records: list[Record], paths: Paths) -> None:
    room = 48 * 70 * 4 / 2**30 * 1.5
    dataset = TrainingDataset([Source("labelled", records, 1)], make_config(cache_gb=room), paths, 0, 0)
    for number in range(10):
        dataset[(0, number)]
    assert len(dataset._cache) == 2  # the one that fits and the one that filled it
    pickle.dumps(dataset)  # as spawned workers need it
