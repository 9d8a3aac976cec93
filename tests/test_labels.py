"""What the encodings of masks mean, which values and settings do not fit, and what a label shows."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from config import Config
from errors import UserError
from labels import appearance, check_encoding, coverage, decode_mask, label_digest
from settings import parse_config

LETTERS = ["a", "b", "c"]
RGB = {"a": (10, 20, 30), "b": (0, 0, 0), "c": (255, 0, 1)}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def config(task: str = "multiclass", classes: list[str] | None = None, **labels: object) -> Config:
    one = task in ("binary", "instances")
    labels = {"kind": "masks", "path": "m/{id}.png", **labels}
    return parse_config({"name": "x", "task": task, "classes": classes or (["c"] if one else LETTERS),
                         "data": {"labels": labels}})  # fmt: skip


def decode(tmp_path: Path, array: np.ndarray, settings: Config, name: str = "m.png") -> np.ndarray:
    check_encoding(settings)
    if name.endswith(".tif"):
        tifffile.imwrite(tmp_path / name, array, photometric="minisblack")
    else:
        save(tmp_path / name, array)
    return decode_mask(tmp_path / name, settings, Counter())


@pytest.mark.parametrize(
    ("settings", "stored", "label"),
    [
        (config(), [[0, 1, 2, 255]], [[0, 1, 2, 255]]),
        (config(ignore=[7]), [[0, 7, 2]], [[0, 255, 2]]),
        (config(values={"a": 10, "b": 0, "c": 255}), [[0, 10, 255]], [[1, 0, 2]]),
        (config("binary"), [[0, 1, 255]], [[0, 1, 255]]),
        (config("binary", values={"c": 255}), [[0, 255]], [[0, 1]]),
        (config("binary", values={"c": 0, "background": 4}, ignore=[9]), [[0, 4, 9]], [[1, 0, 255]]),
        (config("binary", encoding="binary"), [[0, 1, 1]], [[0, 1, 1]]),
        (config("binary", encoding="binary"), [[0, 38, 12, 255]], [[0, 1, 1, 1]]),
        (config("binary", encoding="binary", ignore=[128]), [[0, 128, 255]], [[0, 255, 1]]),
        (config("binary", encoding="binary"), [[[0, 0, 0], [0, 7, 0]]], [[0, 1]]),
        (config(encoding="palette", palette=RGB), [[[255, 0, 1], [10, 20, 30], [0, 0, 0]]], [[2, 0, 1]]),
        (config(encoding="palette", palette=RGB, ignore=[(9, 9, 9)]), [[[9, 9, 9], [8, 8, 8]]], [[255, 255]]),
        (config(encoding="palette", palette=RGB), [[[10, 20, 30, 255], [0, 0, 0, 0]]], [[0, 1]]),
        (config("binary", encoding="palette", palette={"c": RGB["c"]}), [[[255, 0, 1], [0, 0, 0]]], [[1, 0]]),
        (config(encoding="rgb_id", values={"a": 7, "b": 263, "c": 2}, ignore=[3]),
         [[[7, 0, 0], [7, 1, 0], [2, 0, 99], [3, 0, 0]]], [[0, 1, 2, 255]]),
        (config("instances", encoding="instances"), [[0, 1, 255]], [[0, 1, 255]]),
        (config("instances", encoding="rgb_id"), [[[0, 0, 0], [7, 1, 0]]], [[0, 263]]),
    ],
)  # fmt: skip
def test_encodings(tmp_path: Path, settings: Config, stored: list, label: list):
    decoded = decode(tmp_path, np.array(stored, np.uint8), settings)
    assert decoded.tolist() == label
    assert decoded.dtype == (np.int32 if settings.task == "instances" else np.uint8)


def test_instances_of_any_depth(tmp_path: Path):
    settings = config("instances", encoding="instances")
    deep = np.array([[0, 1, 32767]], np.uint16)
    assert decode(tmp_path, deep, settings).tolist() == [[0, 1, 32767]]
    marked = np.array([[0, 1, 32768]], np.uint16)  # the bit that marks doubt in a pseudo-label
    assert decode(tmp_path, marked, settings, "marked.png").tolist() == [[0, 1, 2]]
    huge = np.array([[0, 90000, 70000, 90000]], np.int32)
    assert decode(tmp_path, huge, settings, "m.tif").tolist() == [[0, 2, 1, 2]]


def test_multilabel_masks_have_a_plane_a_class(tmp_path: Path):
    settings = config("multilabel", encoding="binary")
    planes = np.array([[[0, 255, 255], [1, 0, 0]]], np.uint8)
    assert decode(tmp_path, planes, settings).tolist() == [[[0, 1, 1], [1, 0, 0]]]
    with pytest.raises(UserError, match="a multilabel mask has one plane for each of the classes"):
        decode(tmp_path, planes[..., 0], settings)


@pytest.mark.parametrize("filled", ["half", "none", "all"])
def test_jpeg_masks_are_split_where_they_should_be(tmp_path: Path, filled: str):
    truth = np.full((64, 64), filled == "all")
    truth[16:48, 10:40] |= filled == "half"
    Image.fromarray(truth.astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=40)
    label = decode_mask(tmp_path / "m.jpg", config("binary", encoding="binary"), Counter())
    assert (label != truth).mean() < 0.01


def test_resized_masks_are_split_too(tmp_path: Path):
    truth = np.zeros((64, 64), np.uint8)
    truth[16:48, 10:40] = 255
    blurred = np.asarray(Image.fromarray(truth).resize((67, 67), Image.Resampling.BILINEAR))
    label = decode(tmp_path, blurred, config("binary", encoding="binary"))
    np.testing.assert_array_equal(label, blurred > 127)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_otsu_splits_any_two_greys(tmp_path: Path, depth: type):
    rng, truth = np.random.default_rng(0), np.zeros((32, 40), bool)
    truth[8:20, 10:30] = True
    settings = config("binary", encoding="otsu", ignore=[7])
    for low, high in ((0, 1), (0, 255), (40, 90)):
        grey = np.where(truth, high, low).astype(depth)
        if low:
            grey += rng.integers(0, 20, grey.shape).astype(depth)
        np.testing.assert_array_equal(decode(tmp_path, grey, settings, "m.tif"), truth)
        assert (decode(tmp_path, grey, config("binary", encoding="binary"), "m.tif") == 1).all() == bool(low)
    for value in (0, 255):
        assert (decode(tmp_path, np.full((4, 4), value, depth), settings, "m.tif") == (value > 0)).all()
    assert decode(tmp_path, np.array([[0, 7, 200]], depth), settings, "m.tif").tolist() == [[0, 255, 1]]


def test_any_id_is_a_binary_tasks_foreground(tmp_path: Path):
    stored = np.array([[[0, 0, 0], [3, 0, 0], [44, 1, 9], [232, 3, 0]]], np.uint8)
    settings = config("binary", encoding="rgb_id", ignore=[1000])
    assert decode(tmp_path, stored, settings).tolist() == [[0, 1, 1, 255]]
    one = config("binary", encoding="rgb_id", ignore=[1000], values={"c": 300})
    with pytest.raises(UserError, match="value 3 "):
        decode(tmp_path, stored, one)


@pytest.mark.parametrize(
    ("settings", "stored", "message"),
    [
        (config(), [[0, 3, 3]], r"m\.png: value 3 \(2 pixels\) is none of the 3 classes"),
        (config("binary"), [[0, 2]], r"value 2 \(1 pixels\) is none of the 2 classes"),
        (config(values={"a": 1, "b": 2, "c": 3}), [[0]], "value 0"),
        (config(encoding="rgb_id"), [[[0, 1, 0]]], "value 256"),
        (config(), [[[0, 1, 0]]], r"m\.png: a colour mask, but data\.labels\.encoding is index"),
    ],
)
def test_values_outside_the_classes(tmp_path: Path, settings: Config, stored: list, message: str):
    with pytest.raises(UserError, match=message):
        decode(tmp_path, np.array(stored, np.uint8), settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("multilabel", encoding="index"), r"encoding: index holds no multilabel labels; use binary"),
        (config("instances", encoding="palette"), "palette holds no instances labels"),
        (config("instances", encoding="instances", ignore=[255]), "an instance map has no ignored pixels"),
        (config(values={"a": 0, "b": 1, "x": 2}), r"data\.labels\.values: no class 'x'; the classes are a, b, c"),
        (config(values={"a": 0, "b": 1}), r"data\.labels\.values: class 'c' has no value"),
        (config(values={"a": 0, "b": 1, "c": 1}), "two classes share one value"),
        (config(encoding="palette"), r"data\.labels\.palette: class 'a' has no value"),
        (config(encoding="palette", palette=RGB, ignore=[0]), r"ignore: 0 is no colour \[r, g, b\]"),
        (config(ignore=[(0, 0, 0)]), r"ignore: \(0, 0, 0\) is no number"),
    ],
)
def test_encodings_that_do_not_fit(settings: Config, message: str):
    with pytest.raises(UserError, match=message):
        check_encoding(settings)


def test_unknown_colours_are_counted(tmp_path: Path):
    save(tmp_path / "m.png", np.array([[[1, 1, 1], [1, 1, 1], [10, 20, 30], [2, 2, 2]]], np.uint8))
    unknown: Counter = Counter({(1, 1, 1): 5})
    label = decode_mask(tmp_path / "m.png", config(encoding="palette", palette=RGB), unknown)
    assert label.tolist() == [[255, 255, 0, 255]]
    assert unknown == {(1, 1, 1): 7, (2, 2, 2): 1}


@pytest.mark.parametrize(
    ("task", "label", "pixels", "labelled", "instances"),
    [
        ("multiclass", np.array([[0, 2, 2, 255]], np.uint8), {"a": 1, "b": 0, "c": 2}, 3, 0),
        ("binary", np.array([[0, 1, 1, 255]], np.uint8), {"c": 2}, 3, 0),
        ("instances", np.array([[0, 7, 7, 300]], np.int32), {"c": 3}, 4, 2),
        ("multilabel", np.array([[[0, 1, 1], [255, 255, 255]]], np.uint8), {"a": 0, "b": 1, "c": 1}, 1, 0),
    ],
)
def test_coverage(task: str, label: np.ndarray, pixels: dict[str, int], labelled: int, instances: int):
    shown = coverage(label, config(task))
    counts = {f"pixels:{name}": count for name, count in pixels.items()}
    assert shown == counts | {"labelled": labelled, "instances": instances, "label": label_digest(label)}


def test_every_pixel_of_a_label_is_in_its_digest():
    label = np.array([[0, 1], [2, 2]], np.uint8)
    others = [label.T, label[::-1], label.reshape(1, 4), np.array([[0, 1], [2, 1]], np.uint8)]
    assert label_digest(label) == label_digest(np.asfortranarray(label))
    assert len({label_digest(one) for one in [label, *others]}) == 5


def test_appearance_does_not_depend_on_depth():
    image = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    looks = appearance(image)
    assert looks == (0.33333, 1.0)  # brightness and saturation
    assert appearance(image.astype(np.uint16) * 257) == looks
    assert appearance(image.astype(np.float32) / 255) == looks
    assert appearance(image[..., :1])[1] == 0.0
