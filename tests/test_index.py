"""Which files are the images, which masks are theirs, what their encodings mean; sparse points."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from artifacts import Paths
from config import Config, Data
from errors import UserError
from images import read_image
from index import find_files, list_images, match_masks, read_index
from labels import appearance, check_encoding, coverage, decode_mask
from points import load_points, points_by_image, rasterise, read_points
from settings import parse_config

SHARED = Path(__file__).resolve().parent.parent / "../shared/data"
LETTERS = ["a", "b", "c"]


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        save(root / name, np.zeros((4, 6, 3), np.uint8))


def data(**settings: object) -> Data:
    return Data.model_validate({"images": "train/{id}.png", **settings})


def masks(path: str, **settings: object) -> dict:
    return {"kind": "masks", "path": path, **settings}


# --- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{id}.png", {"a.png": "a"}),
        ("x/{id}/images/{id}.png", {"x/1/images/1.png": "1"}),
        ("x/*/images/{id}.png", {"x/1/images/1.png": "1", "x/2/images/3.png": "3"}),
        ("{dir}/[q]/{id}_img.*", {"x/[q]/7_img.png": "7", "x/[q]/8_8_img.jpg": "8_8"}),
    ],
)
def test_templates(tmp_path: Path, template: str, found: dict[str, str]):
    touch(tmp_path, "a.png", "._a.png", "x/1/images/1.png", "x/2/images/3.png", "x/.git/images/9.png")
    touch(tmp_path, "x/[q]/7_img.png", "x/[q]/8_8_img.jpg", "x/q/7_img.png")
    files = find_files(tmp_path, template, "data.images")
    assert {path.relative_to(tmp_path).as_posix(): fields["id"] for path, fields in files} == found


def test_list_images(tmp_path: Path):
    touch(tmp_path, "Tile 1/images/p1.png", "Tile 2/images/p1.png", "pool/q.png", "test/t.png")
    settings = data(
        images="{tile}/images/{part}.png", id="{tile}/{part}", group="{tile}", unlabelled="{tile}/{part}.png"
    )
    images = list_images(settings, tmp_path)
    assert [(one.image_id, one.group, one.split) for one in images] == [
        ("Tile 1/p1", "Tile 1", "labelled"),
        ("Tile 2/p1", "Tile 2", "labelled"),
        ("pool/q", "pool", "unlabelled"),
        ("test/t", "test", "unlabelled"),
    ]
    assert images[0].size == (4, 6)
    assert images[0].path == tmp_path / "Tile 1/images/p1.png"


def test_a_pool_may_lie_outside_the_groups(tmp_path: Path):
    touch(tmp_path, "train/g1/a.png", "test/b.png")
    images = list_images(data(images="train/{g}/{id}.png", group="{g}", test="test/{id}.png"), tmp_path)
    assert {one.image_id: one.group for one in images} == {"a": "g1", "b": ""}


def test_masks_beside_their_images_are_no_images(tmp_path: Path):
    touch(tmp_path, "train/1_1.png", "train/1_1_mask.png", "train/2.png", "train/2_mask.png")
    settings = data(labels=masks("train/{id}_mask.png"))
    images = list_images(settings, tmp_path)
    assert [one.image_id for one in images] == ["1_1", "2"]
    found = match_masks(settings, tmp_path, images, settings.labels.path, key="data.labels.path")
    assert {name: path.name for name, path in found.items()} == {"1_1": "1_1_mask.png", "2": "2_mask.png"}


def test_masks_by_number(tmp_path: Path):
    touch(tmp_path, "train/img_007.png", "train/img_08.png", "masks/x2_7_seg.png", "masks/8.png")
    settings = data(labels=masks("masks/{name}.png", match="number"))
    images = list_images(settings, tmp_path)
    found = match_masks(settings, tmp_path, images, settings.labels.path, key="data.labels.path")
    assert {name: path.name for name, path in found.items()} == {"img_007": "x2_7_seg.png", "img_08": "8.png"}


def test_masks_by_number_within_their_folder(tmp_path: Path):
    touch(tmp_path, "T1/i/a1.png", "T2/i/a1.png", "T1/m/1.png", "T2/m/1.png")
    settings = data(images="{tile}/i/{name}.png", id="{tile}{name}", labels=masks("{tile}/m/{x}.png", match="number"))
    images = list_images(settings, tmp_path)
    found = match_masks(settings, tmp_path, images, settings.labels.path, key="data.labels.path")
    assert {name: path.parent.parent.name for name, path in found.items()} == {"T1a1": "T1", "T2a1": "T2"}


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([], {}, r"data\.images: no file matches 'train/\{id\}\.png' below .*; .* is empty"),
        (["train/a.jpg"], {}, r"data\.images: no file matches .*; there is for example train/a\.jpg"),
        (["train/a.png"], {"test": "test/{id}.png"}, r"data\.test: no file matches .* for example train/a\.png"),
        (["train/a.png"], {"unlabelled": "x/{id}.png"}, r"data\.unlabelled: no file matches"),
        (["train/a.png", "test/a.png"], {"test": "test/{id}.png"}, r"train/a\.png and .*test/a\.png are both 'a'"),
        (["x/a.png", "y/a.png"], {"images": "{d}/{id}.png"}, r"x/a\.png and .*y/a\.png are both 'a'"),
        (["train/a.png"], {"images": "/train/{id}.png"}, r"data\.images: '/train/\{id\}\.png' is no path below"),
        (["train/a.png"], {"images": "../train/{id}.png"}, r"is no path below data\.root"),
        (["train/a.png"], {"id": "{name}"}, r"data\.id: '\{name\}' uses \{name\}, which 'train/\{id\}\.png' does not"),
        (["train/a.png"], {"group": "{g}"}, r"data\.group: '\{g\}' uses \{g\}"),
        (["train/a.png"], {"labels": {"kind": "masks"}}, r"data\.images and data\.labels\.path: say where"),
    ],
)
def test_bad_layouts(tmp_path: Path, files: list[str], settings: dict, message: str):
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        list_images(data(**settings), tmp_path)


def test_bad_root_and_header(tmp_path: Path):
    with pytest.raises(UserError, match=r"data\.root: no folder .*nowhere; unpack the data there"):
        list_images(data(), tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        list_images(data(), tmp_path)


@pytest.mark.parametrize(
    ("files", "labels", "message"),
    [
        (["masks/a.png", "masks/c.png"], masks("masks/{id}.png"), r"masks/c\.png: a mask without an image \(1 such\)"),
        (["m/a.png"], masks("m/{id}.tif"), r"data\.labels\.path: no file matches .* for example m/a\.png"),
        (["m/1/a.png", "m/2/a.png"], masks("m/*/{id}.png"), r"1/a\.png and .*2/a\.png are masks of one image"),
        (["m/a.png"], masks("m/{name}.png"), r"'m/\{name\}\.png' shares no field with data\.images"),
        (["m/a.png"], masks("m/{name}.png", match="number"), r"\.png: neither a number in its name nor"),
    ],
)
def test_bad_masks(tmp_path: Path, files: list[str], labels: dict, message: str):
    touch(tmp_path, "train/a.png", "train/b.png", *files)
    settings = data(labels=labels)
    images = list_images(data(), tmp_path)
    with pytest.raises(UserError, match=message):
        match_masks(settings, tmp_path, images, settings.labels.path, key="data.labels.path")


def test_one_number_for_two_images(tmp_path: Path):
    touch(tmp_path, "train/a1.png", "train/b1.png", "m/1.png")
    settings = data(labels=masks("m/{n}.png", match="number"))
    with pytest.raises(UserError, match=r"m/1\.png fits .*a1\.png and .*b1\.png; name more fields"):
        match_masks(settings, tmp_path, list_images(data(), tmp_path), "m/{n}.png", key="data.labels.path")


def test_read_index_tells_what_is_wrong(tmp_path: Path):
    paths = Paths(tmp_path, "x")
    with pytest.raises(UserError, match=r"index\.csv: missing; run python src/prepare\.py"):
        read_index(paths)
    paths.data.mkdir(parents=True)
    paths.index.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"index\.csv: its columns are not image_id, image"):
        read_index(paths)


# --- encodings -------------------------------------------------------------------------------------------------------


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


RGB = {"a": (10, 20, 30), "b": (0, 0, 0), "c": (255, 0, 1)}


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


def test_by_number_a_stem_is_looked_at_first(tmp_path: Path):
    touch(tmp_path, "i/a_1.png", "i/b_1.png", "i/slice_07.png", "i/top.png")
    touch(tmp_path, "m/a_1.png", "m/b_1.png", "m/mask7.png", "m/top.png")
    settings = data(images="i/{id}.png", labels=masks("m/{mask}.png", match="number"))
    images = list_images(settings, tmp_path)
    matched = match_masks(settings, tmp_path, images, "m/{mask}.png", key="data.labels.path")
    found = {image_id: path.stem for image_id, path in matched.items()}
    assert found == {"a_1": "a_1", "b_1": "b_1", "slice_07": "mask7", "top": "top"}


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


def test_coverage():
    assert coverage(np.array([[0, 2, 2, 255]], np.uint8), config()) == {
        "pixels:a": 1, "pixels:b": 0, "pixels:c": 2, "labelled": 3, "instances": 0}  # fmt: skip
    assert coverage(np.array([[0, 1, 1, 255]], np.uint8), config("binary")) == {
        "pixels:c": 2, "labelled": 3, "instances": 0}  # fmt: skip
    assert coverage(np.array([[0, 7, 7, 300]], np.int32), config("instances")) == {
        "pixels:c": 3, "labelled": 4, "instances": 2}  # fmt: skip
    assert coverage(np.array([[[0, 1, 1], [255, 255, 255]]], np.uint8), config("multilabel")) == {
        "pixels:a": 0, "pixels:b": 1, "pixels:c": 1, "labelled": 1, "instances": 0}  # fmt: skip


def test_appearance_does_not_depend_on_depth():
    image = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    looks = appearance(image)
    assert looks == (0.33333, 1.0)  # brightness and saturation
    assert appearance(image.astype(np.uint16) * 257) == looks
    assert appearance(image.astype(np.float32) / 255) == looks
    assert appearance(image[..., :1])[1] == 0.0


# --- points ----------------------------------------------------------------------------------------------------------


def write_points(path: Path, *rows: str, header: str = "image_id,x,y,class") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


SIZES = {"a": (4, 6), "Tile 1/b": (10, 10)}


def test_points_by_name_or_number(tmp_path: Path):
    path = write_points(tmp_path / "p.csv", "a,5,3,b", "Tile 1/b,0,9,2", "", "a,5,3,1")
    points = read_points(path, LETTERS, SIZES)
    assert points.to_numpy().tolist() == [["a", 5, 3, 1], ["Tile 1/b", 0, 9, 2]]
    points.to_csv(tmp_path / "again.csv", index=False)
    again = load_points(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(again.astype({"image_id": str}), points, check_dtype=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0,0,a", "q,0,0,a"], r"p\.csv row 3: id 'q' has no image; add the image or drop the row"),
        (["a,6,0,a"], r"row 2: \(6, 0\) is outside 'a' of 6x4"),
        (["", "a,0,4,a"], r"row 3: \(0, 4\) is outside"),
        (["a,-1,0,a"], "row 2: .* is outside"),
        (["a,1.5,0,a"], "row 2: x '1.5', y '0' are not whole numbers"),
        (["a,,0,a"], "row 2: x '', y '0' are not whole"),
        (["a,0,0,d"], "row 2: no class 'd'; use one of a, b, c or its number 0 to 2"),
        (["a,0,0,3"], "row 2: no class '3'"),
        (["a,0,0,-1"], "row 2: no class '-1'"),
        (["a,1,2,a", "a,1,2,b"], r"row 3: pixel \(1, 2\) of 'a' is 'b' here but 'a' in a row before; keep one"),
        (["a,1,2"], "row 2: 3 values; a point has image_id,x,y,class"),
    ],
)
def test_bad_points(tmp_path: Path, rows: list[str], message: str):
    with pytest.raises(UserError, match=message):
        read_points(write_points(tmp_path / "p.csv", *rows), LETTERS, SIZES)


def test_bad_points_files(tmp_path: Path):
    with pytest.raises(UserError, match="row 1: header id,x; a points table has image_id,x,y,class"):
        read_points(write_points(tmp_path / "p.csv", header="id,x"), LETTERS, SIZES)
    (tmp_path / "p.csv").write_bytes(b"image_id,x,y,class\n\xff,0,0,a\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_points(tmp_path / "p.csv", LETTERS, SIZES)
    with pytest.raises(UserError, match="missing; put the points table there"):
        read_points(tmp_path / "none.csv", LETTERS, SIZES)


def test_points_by_image():
    ids = ["b", "a", "b", "10", "a", "b"]
    table = pd.DataFrame({"image_id": ids, "x": range(6), "y": range(10, 16), "class": [0, 1, 2, 0, 1, 2]})
    for given in (table, table.astype({"image_id": "category"})):
        found = points_by_image(given)
        assert {one: points.tolist() for one, points in found.items()} == {
            one: table[table["image_id"] == one][["x", "y", "class"]].to_numpy().tolist() for one in ("a", "b", "10")
        }
        assert found["a"].base is not None  # a view: a million images share one array
    assert points_by_image(table[:0]) == {}


def test_rasterise():
    points = np.int32([[0, 0, 1], [5, 3, 0], [3, 2, 2]])
    label = rasterise(points, (4, 6))
    assert label.dtype == np.uint8
    assert {(y, x): int(label[y, x]) for y, x in np.argwhere(label != 255)} == {(0, 0): 1, (3, 5): 0, (2, 3): 2}
    half = rasterise(points, (2, 3), scale=0.5)
    assert {(y, x): int(half[y, x]) for y, x in np.argwhere(half != 255)} == {(0, 0): 1, (1, 2): 0, (1, 1): 2}
    double = rasterise(points, (8, 12), scale=2.0)
    assert double[7, 11] == 0
    assert (rasterise(points, (1, 1), scale=0.2) == 255).all()  # all three on one pixel: nobody knows


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "dubai").is_dir(), reason="../shared/data/dubai is not here")
def test_dubai():
    from settings import load_config

    settings = load_config(Path(__file__).resolve().parent.parent / "configs/dubai.yaml")
    root = Path(os.path.normpath(SHARED / "dubai/Semantic segmentation dataset"))
    images = {one.image_id: one for one in list_images(settings.data, root)}
    found = match_masks(settings.data, root, list(images.values()), settings.data.labels.path, key="data.labels.path")
    assert len(images) == 72
    assert len(found) == 56
    assert {name.rpartition("/")[2] for name in images.keys() - found.keys()} == {"image_part_008", "image_part_009"}
    unknown: Counter = Counter()
    for image_id in ("Tile 2/image_part_001", "Tile 8/image_part_003"):  # a palette PNG; one with black in it
        label = decode_mask(found[image_id], settings, unknown)
        assert label.shape == images[image_id].size == read_image(images[image_id].path, 3).shape[:2]
        assert set(np.unique(label)) <= {0, 1, 2, 3, 4, 255}
    assert not unknown
