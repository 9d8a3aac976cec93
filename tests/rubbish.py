"""What test_rubbish.py puts in place of good files: each function returns what spoils a small workspace.

make_base(folder)  # two images of 12x16 with masks
image("a.jpg", picture(), cut=0.7)(folder)
right()(folder)  # both images are there with their masks
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from helpers import open_workspace, run, write_config
from PIL import Image

from images import read_mask
from index import read_index

HEIGHT, WIDTH = SIZE = (12, 16)
PLAIN = {"unlabelled": "", "test": "", "sample_submission": "", "solution": "", "images": "train/{id}.{ending}"}
MASKS = {"kind": "masks", "path": "masks/{id}.png", "encoding": "index"}
TABLE = {"kind": "rle", "path": "train.csv", "format": "image"}
POINTS = {"kind": "points", "path": "points.csv"}

Spoil = Callable[[Path], list[str] | None]  # what makes the rubbish; it may name another command than prepare
Check = Callable[[Path], None]


def picture(seed: int = 0, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    shape = SIZE if channels == 1 else (*SIZE, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def half() -> np.ndarray:
    """A mask whose upper left quarter is foreground: no turn or mirror leaves it as it is."""
    mask = np.zeros(SIZE, np.uint8)
    mask[: HEIGHT // 2, : WIDTH // 2] = 1
    return mask


def make_base(folder: Path) -> None:
    for name in "ab":
        write(folder / f"raw/train/{name}.png", picture())
        write(folder / f"raw/masks/{name}.png", half())
    configure(folder)


def configure(folder: Path, labels: dict[str, Any] = MASKS, data: dict[str, Any] | None = None, **values: Any) -> None:
    write_config(folder, data=PLAIN | {"labels": labels} | (data or {}), **values)


def write(path: Path, content: Any, **options: Any) -> None:
    """An array, bytes or text as a file, by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, (bytes, str)):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif path.suffix == ".tif":
        tifffile.imwrite(path, content, **({"photometric": "minisblack"} | options))
    else:
        Image.fromarray(content).save(path, **options)


# --- rubbish of each kind --------------------------------------------------------------------------------------------


def image(name: str, content: Any, cut: float = 1.0, **options: Any) -> Spoil:
    """Instead of train/a.png, or beside it, another file, of which only a share is left."""

    def spoil(folder: Path) -> None:
        path = folder / "raw/train" / name
        if path.stem == "a":
            (folder / "raw/train/a.png").unlink()
        else:
            configure(folder, MASKS | {"without_label": "unlabelled"})
        write(path, content, **options)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * cut)])

    return spoil


def mask(content: Any, name: str = "a.png", task: str = "binary", **labels: Any) -> Spoil:
    """Instead of masks/a.png, another file."""

    def spoil(folder: Path) -> None:
        (folder / "raw/masks/a.png").unlink()
        write(folder / "raw/masks" / name, content)
        configure(folder, MASKS | {"path": "masks/{id}.{of}"} | labels, task=task)

    return spoil


def table(content: str | bytes, labels: dict[str, Any] = TABLE, **data: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        write(folder / "raw" / labels["path"], content)
        configure(folder, labels, data)

    return spoil


def points(*rows: str) -> Spoil:
    return table("\n".join(["image_id,x,y,class", *rows]) + "\n", POINTS | {"without_label": "unlabelled"})


def coco(content: str) -> Spoil:
    return table(content, {"kind": "rle", "path": "labels.json", "format": "coco"})


def config(text: str | bytes) -> Spoil:
    return lambda folder: write(folder / "tiny.yaml", text)


def setting(*overrides: str) -> Spoil:
    return lambda _: ["prepare", *(word for one in overrides for word in ("--set", one))]


def submission(text: str | bytes, name: str = "image", *more: str) -> Spoil:
    def spoil(folder: Path) -> list[str]:
        write(folder / "theirs.csv", text)
        return ["make_submission", "--format", name, "--validate", str(folder / "theirs.csv"), *more]

    return spoil


def scored(given: str | bytes, truth: str | bytes, *more: str, name: str = "tgs_salt") -> Spoil:
    def spoil(folder: Path) -> list[str]:
        write(folder / "mine.csv", given)
        write(folder / "truth.csv", truth)
        files = ("--submission", str(folder / "mine.csv"), "--solution", str(folder / "truth.csv"))
        return ["evaluate", "--format", name, *files, *more]

    return spoil


def rename(old: str, new: str | bytes) -> Spoil:
    """Image and mask a under another name, which keeps its ending."""

    def spoil(folder: Path) -> None:
        for kind in ("train", "masks"):
            source = folder / "raw" / kind / f"{old}.png"
            target = os.fsencode(source.parent) + b"/" + os.fsencode(new) + b".png"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(source, target)

    return spoil


def link(place: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / place
        if path.exists():
            (folder / "outside").mkdir()
            path.rename(folder / "outside" / path.name)
        path.symlink_to(target)

    return spoil


def folder_at(place: str) -> Spoil:
    def spoil(folder: Path) -> None:
        if (folder / place).is_file():
            (folder / place).unlink()
        (folder / place).mkdir(parents=True)

    return spoil


def file_at(place: str) -> Spoil:
    def spoil(folder: Path) -> None:
        if (folder / place).is_dir():
            (folder / place).rename(folder / "moved")
        write(folder / place, "not a folder")

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> list[str] | None:
        return [one(folder) for one in spoils][-1]

    return spoil


def to_submission(*more: str, output: str = "out.csv", name: str = "tgs_salt") -> Spoil:
    def spoil(folder: Path) -> list[str]:
        where = ["--masks", str(folder / "raw/masks"), "--output", str(folder / output)]
        return ["make_submission", "--format", name, *where, *(one.replace("@", str(folder)) for one in more)]

    return spoil


def zipped(entries: dict[str, bytes]) -> Spoil:
    def spoil(folder: Path) -> list[str]:
        with zipfile.ZipFile(folder / "theirs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return ["make_submission", "--format", "inria", "--validate", str(folder / "theirs.zip")]

    return spoil


def edited(place: str, content: str | bytes, *command: str) -> Spoil:
    """A stage's own file, spoilt after the stage."""

    def spoil(folder: Path) -> list[str]:
        run("prepare", folder)
        write(folder / place, content)
        return list(command)

    return spoil


# --- what is right ---------------------------------------------------------------------------------------------------


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    _, paths = open_workspace(folder)
    rows = read_index(paths).to_dict("records")
    return {row["image_id"]: read_mask(paths.resolve(row["mask"])) for row in rows if row["mask"]}


def right(ids: str = "a b", expected: np.ndarray | None = None) -> Check:
    """The images are there, each with the mask of `half` or another."""

    def check(folder: Path) -> None:
        found = masks_of(folder)
        assert sorted(found) == sorted(ids.split("|" if "|" in ids else " "))
        for one in found.values():
            np.testing.assert_array_equal(one, half() if expected is None else expected)

    return check
