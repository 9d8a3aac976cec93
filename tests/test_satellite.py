"""The satellite system: files in its layout, through all stages, to its submission."""

import concurrent.futures
import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import open_workspace, run
from PIL import Image

from artifacts import TOP, read_json
from config import Config
from formats import find_format, read_labels, validate_submission
from images import read_mask
from index import read_index
from models import build_model
from settings import load_config
from stages import list_stages

CONFIGS = ("configs/satellite_pseudo.yaml", "configs/originals/satellite_pseudo.yaml")
KINDS = {"n01440764": 3, "n02102040": 300}  # folders and the ids in their masks
SIZE = 40


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on noise, none in every fourth image."""
    rng, mask = np.random.default_rng(number), np.zeros((SIZE, SIZE), np.uint8)
    if number % 4:
        cv2.circle(mask, (14 + number % 3 * 6, 20), 9, 1, -1)
    image = rng.integers(0, 60, (SIZE, SIZE, 3)) + mask[..., None] * np.array([150, 120, 30])
    return image.astype(np.uint8), mask


def write_layout(root: Path) -> dict[str, np.ndarray]:
    """The system's own layout; returns each labelled image's true label."""
    truth = {}
    for number in range(8):
        image, mask = draw(number)
        kind, name = list(KINDS)[number % 2], f"train_{number}"
        ids = np.where(mask, KINDS[kind], 0)
        ids[:2, :5] = 1000
        colours = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)
        for folder, array, end in (("train-semi", image, "JPEG"), ("train-semi-segmentation", colours, "png")):
            (root / folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / kind / f"{name}.{end}")
        truth[name] = np.where(ids == 1000, 255, mask)
    for folder, first, end in (("unlabeled", 20, "jpg"), ("test", 40, "JPEG")):
        (root / folder).mkdir()
        for number in range(first, first + 4):
            Image.fromarray(draw(number)[0]).save(root / folder / f"{folder}_{number}.{end}")
    return truth


def shrink(path: str, folder: Path, *overrides: str) -> Config:
    """A config of the project as `folder/tiny.yaml`, changed."""
    config = load_config(TOP / path, ["name=tiny", *overrides])
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


@pytest.mark.parametrize(("path", "arch"), list(zip(CONFIGS, ("Unet", "FPN"), strict=True)))
def test_the_model_builds_and_answers(path: str, arch: str) -> None:
    config = load_config(TOP / path, ["model.weights=none"])
    assert (config.model.encoder, config.channels, config.train.schedule) == ("resnet18", 1, "plateau")
    assert config.model.arch == arch, "the original's head is a 1×1 convolution and an upsampling by four"
    network = build_model(config.model, config.image.channels, config.channels).eval()
    head = [one for one in network.segmentation_head.modules() if isinstance(one, torch.nn.Conv2d)]
    assert [one.kernel_size for one in head] == [(1, 1) if arch == "FPN" else (3, 3)]
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 64, 96)).shape == (1, 1, 64, 96)


def test_both_configs_read_the_same_data() -> None:
    ours, theirs = (load_config(TOP / path) for path in CONFIGS)
    assert ours.data.model_copy(update={"root": "data/satellite_pseudo/raw"}) == theirs.data
    assert (ours.folds, ours.seed, ours.submission) == (theirs.folds, theirs.seed, theirs.submission)
    assert [one.phase for one in theirs.rounds] == ["warmup", "joint", "finetune"]
    assert [one.phase for one in ours.rounds] == ["warmup", "joint", "finetune"]


def test_from_its_layout_to_its_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda count, **_: pool(1))
    truth = write_layout(tmp_path / "raw")
    settings = ("model.encoder=tu-test_efficientnet", "model.weights=none", "train.precision=fp32")
    steps = ("train.epochs=1", "train.steps_per_epoch=2", "train.batch_size=4", "rounds.2.train.epochs=1")
    sizes = ("train.augment.crop=32", "predict.window=64", "predict.tta=flips", "folds.count=2", "data.root=raw")
    surely = "rounds.1.pseudo.pixel_confidence=0.0"  # barely trained models are sure of nothing
    shrink(CONFIGS[0], tmp_path, *settings, *steps, *sizes, surely)
    config, paths = open_workspace(tmp_path)
    for script, *arguments in list_stages(config):
        run(script.removesuffix(".py"), tmp_path, *arguments)

    table = read_index(paths).set_index("image_id")
    assert table["split"].value_counts().to_dict() == {"labelled": 8, "unlabelled": 4, "test": 4}
    for name, label in truth.items():
        np.testing.assert_array_equal(read_mask(tmp_path / table.loc[name, "mask"]), label)

    with paths.submission.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["ID", "Label", "MASK_RLE"]
    assert sorted(row[0] for row in rows) == [f"test_{number}" for number in range(40, 44)]
    for _, label, text in rows:
        numbers = np.array(text.split(), int).reshape(-1, 2)
        assert numbers[:, 0].sum() == 224 * 224, "every pixel is counted"
        assert set(numbers[:, 1]) <= {0, 1}
        assert label == str(numbers[:, 1].max())
    fmt, shapes = find_format(config.submission), {row[0]: (SIZE, SIZE) for row in rows}
    assert validate_submission(paths.submission, fmt, config.classes, shapes) == []
    masks = dict(read_labels(paths.submission, fmt, config.classes, "binary", shapes))
    assert {mask.shape for mask in masks.values()} == {(SIZE, SIZE)}
    names = [phase["name"] for phase in read_json(paths.scores)["phases"]]
    assert names[0] == "supervised"
    assert "+ fine-tune" in names
