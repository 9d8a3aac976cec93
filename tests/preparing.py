"""What the tests of prepare.py share: raw data with labels in stripes, and a run that returns its index."""

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import yaml
from PIL import Image

import prepare
from artifacts import Paths
from cli import make_parser
from images import read_mask
from index import read_index

LETTERS = ["a", "b", "c"]
SIZE = (12, 16)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        Image.fromarray(array).save(path)


def write_images(root: Path, names: str, size: tuple[int, int] = SIZE) -> None:
    rng = np.random.default_rng(len(names))
    for name in names.split():
        save(root / f"{name}.png", rng.integers(0, 255, (*size, 3), np.uint8))


def labels_of(ids: list[str]) -> dict[str, np.ndarray]:
    """Label arrays with all three classes: stripes that differ from image to image."""
    rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE[1], int)
    return {name: ((rows // (2 + number % 3) + number) % 3).astype(np.uint8) for number, name in enumerate(ids)}


def write_many(raw: Path, count: int) -> dict[str, np.ndarray]:
    truth = labels_of([f"p{number}" for number in range(1, count + 1)])
    write_images(raw, " ".join(f"train/{name}" for name in truth))
    for name, mask in truth.items():
        save(raw / f"masks/{name}.png", mask)
    return truth


def write_points(raw: Path, count: int = 2) -> None:
    rows = [f"p{number},{number},{row},{LETTERS[row % 3]}" for number in range(1, count + 1) for row in range(3)]
    (raw / "points.csv").write_text("\n".join(["image_id,x,y,class", *rows]) + "\n")


def write_config(folder: Path, **values: object) -> Path:
    values = {"name": "x", "task": "multiclass", "classes": LETTERS, **values}
    values["data"] = {"root": "raw", "images": "train/{id}.png", **values["data"]}
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(folder: Path, *more: str, **values: object) -> pd.DataFrame:
    path = write_config(folder, **values)
    prepare.main(make_parser("").parse_args(["--config", str(path), "--workspace", str(folder), *more]))
    return read_index(Paths(folder, "x")).set_index("image_id")


def written(folder: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: read_mask(folder / mask) for name, mask in table["mask"].items() if mask}


def check_masks(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    assert found.keys() == truth.keys()
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, truth[name])
        assert mask.dtype == truth[name].dtype
