"""Which files are the images, and which masks are theirs."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts import Paths
from config import Data
from errors import UserError
from images import read_image
from index import find_files, list_images, match_masks, read_index
from labels import decode_mask

SHARED = Path(__file__).resolve().parent.parent / "../shared/data"


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
        ("./x//{id}/images/{id}.png", {"x/1/images/1.png": "1"}),
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


@pytest.mark.parametrize("name", ["photo .png", " photo.png", "photo\u00a0.png"])
def test_a_blank_that_no_table_would_keep_is_refused(tmp_path: Path, name: str):
    touch(tmp_path, "train/a.png", "train/b .png", f"test/{name}")
    with pytest.raises(UserError, match=r"photo.*has a blank at its end, which no table keeps; rename the file"):
        list_images(data(test="test/{id}.png"), tmp_path)
    (tmp_path / "test" / name).unlink()
    assert len(list_images(data(), tmp_path)) == 2, "no table names what has a mask"
    with pytest.raises(UserError, match="b .*has a blank at its end"):
        list_images(data(labels={"kind": "rle", "path": "train.csv"}), tmp_path)


def test_hidden_labels_beside_the_test_images_are_no_test_images(tmp_path: Path):
    touch(tmp_path, "train/a.png", "test/t.png", "test/t_mask.png")
    found = list_images(data(test="test/{id}.png", solution="test/{id}_mask.png"), tmp_path)
    assert [one.image_id for one in found] == ["a", "t"]


def test_masks_that_are_all_images_are_told(tmp_path: Path):
    touch(tmp_path, "train/a.png")
    with pytest.raises(UserError, match=r"'train/\{name\}\.png' matches every image there is"):
        match_masks(data(), tmp_path, [], "train/{name}.png", key="data.labels.path")


def test_a_name_that_would_end_a_table_s_row_is_refused(tmp_path: Path):
    touch(tmp_path, "a\rb.png")
    with pytest.raises(UserError, match=r"a\\rb\.png': a carriage return in its name; rename the file"):
        find_files(tmp_path, "{id}.png", "data.images")


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


def test_by_number_a_stem_is_looked_at_first(tmp_path: Path):
    touch(tmp_path, "i/a_1.png", "i/b_1.png", "i/slice_07.png", "i/top.png")
    touch(tmp_path, "m/a_1.png", "m/b_1.png", "m/mask7.png", "m/top.png")
    settings = data(images="i/{id}.png", labels=masks("m/{mask}.png", match="number"))
    images = list_images(settings, tmp_path)
    matched = match_masks(settings, tmp_path, images, "m/{mask}.png", key="data.labels.path")
    found = {image_id: path.stem for image_id, path in matched.items()}
    assert found == {"a_1": "a_1", "b_1": "b_1", "slice_07": "mask7", "top": "top"}


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
    with pytest.raises(UserError, match=r"index\.csv: it has no column image_id; delete it and run its stage again"):
        read_index(paths)


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
