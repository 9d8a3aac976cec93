"""The configs of the point-labelled systems: their data's exact layout, their models, their losses."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from artifacts import TOP, Paths
from cli import make_parser
from index import read_index
from models import build_model
from norms import GroupNorm
from points import load_points
from prepare import main as prepare
from settings import load_config

SYSTEMS = ("potsdam_points", "deepglobe_points", "dubai_points")
CONFIGS = [*(f"{name}.yaml" for name in SYSTEMS), *(f"originals/{name}.yaml" for name in SYSTEMS)]


def draw_blocks(size: tuple[int, int], colours: list[Any], seed: int) -> np.ndarray:
    """A mask of blocks, every colour somewhere."""
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(np.resize(np.arange(len(colours)), 16)).reshape(4, 4)
    return np.uint8(colours)[cv2.resize(blocks.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)]


def write_potsdam(root: Path, colours: list[Any]) -> None:
    for folder in ("Images", "Labels"):
        (root / "archive/patches" / folder).mkdir(parents=True)
    for number in (0, 7, 2399):
        mask = draw_blocks((300, 300), [*colours, (0, 0, 0)], number)
        tifffile.imwrite(root / f"archive/patches/Images/Image_{number}.tif", mask // 2)
        tifffile.imwrite(root / f"archive/patches/Labels/Label_{number}.tif", mask)


def write_deepglobe(root: Path, colours: list[Any]) -> None:
    (root / "train").mkdir(parents=True)
    for number in ("119", "855", "10452"):
        mask = draw_blocks((612, 612), list(dict.fromkeys([*colours, (0, 0, 0)])), int(number))
        cv2.imwrite(str(root / f"train/{number}_sat.jpg"), mask // 2)
        cv2.imwrite(str(root / f"train/{number}_mask.png"), np.ascontiguousarray(mask[..., ::-1]))


def write_dubai(root: Path, colours: list[Any]) -> None:
    for tile in (1, 2):
        for part in (1, 2, 3):
            mask = draw_blocks((64, 90), [*colours, (155, 155, 155)], 10 * tile + part)
            for kind, ending, pixels in (("images", "jpg", mask // 2), ("masks", "png", mask[..., ::-1])):
                path = root / f"Semantic segmentation dataset/Tile {tile}/{kind}/image_part_00{part}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "images" or part < 3:  # the third masks were held back
                    cv2.imwrite(str(path), np.ascontiguousarray(pixels))


WRITERS = {"potsdam_points": write_potsdam, "deepglobe_points": write_deepglobe, "dubai_points": write_dubai}
DRAWN = {
    # at 150x150 there are not quite as many pixels as the original has points
    "potsdam_points.yaml": 20_000,
    "originals/potsdam_points.yaml": 20_000,
    "deepglobe_points.yaml": 2621,  # 1% of 512x512
    "originals/deepglobe_points.yaml": 2621,
    "dubai_points.yaml": 100,
    "originals/dubai_points.yaml": 100,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_system_reads_its_layout_and_draws_its_points(name: str, tmp_path: Path) -> None:
    path = TOP / "configs" / name
    config = load_config(path)
    colours = [config.data.labels.palette[one] for one in config.classes]
    WRITERS[Path(name).stem](tmp_path / "raw", colours)
    parser = make_parser("")
    prepare(parser.parse_args(["--config", str(path), "--workspace", str(tmp_path), "--set", "data.root=raw"]))
    paths = Paths(tmp_path, config.name)
    index, points = read_index(paths), load_points(paths.points)
    labelled = index[index["split"] == "labelled"]
    assert len(labelled) == (4 if "dubai" in name else 3)
    assert sorted(index["split"].unique()) == (["labelled", "test"] if "dubai" in name else ["labelled"])
    drawn = points["image_id"].value_counts()
    assert drawn.max() <= DRAWN[name]
    assert drawn.min() > 0.9 * DRAWN[name]
    assert set(points["class"]) == set(range(len(config.classes)))
    assert len(list((paths.data / "dense").rglob("*.png"))) == len(labelled)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_system_builds_its_model(name: str) -> None:
    config = load_config(TOP / "configs" / name, ["model.weights=none"])
    with torch.device("meta"):  # shapes without numbers
        model = build_model(config.model, config.image.channels, config.channels).eval()
        crop = config.train.augment.crop
        assert model(torch.zeros(1, 3, crop, crop)).shape == (1, len(config.classes), crop, crop)
    kinds = [type(module) for module in model.modules()]
    if "potsdam" in name:
        assert kinds.count(nn.ConvTranspose2d) == 5
        assert config.train.schedule == "step"
    if "deepglobe" in name:
        assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
        assert kinds.count(GroupNorm) > 60
    for one in config.rounds[:1]:
        assert one.train.loss.dice == (name == "potsdam_points.yaml"), "of few points Dice says little"


def test_an_original_is_plain() -> None:
    for name in SYSTEMS:
        config = load_config(TOP / "configs/originals" / f"{name}.yaml")
        augment, train = config.train.augment, config.train
        assert (augment.flips, augment.rotate90, augment.colour, augment.cutmix, train.ema) == (False, False, 0, 0, 0)
        assert (config.predict.tta, len(config.rounds), config.postprocess.fit) == ("none", 1, False)
