"""Tables of run-length labels: every format there and back, and each kind of bad table or format."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import TableFormat
from errors import UserError
from formats import FORMATS, find_format, read_labels, validate_submission, write_submission
from tables import class_field

VALUED = ("start_length_value", "count_value")
CLASSES = {
    "binary": ("ship",),
    "multiclass": ("sea", "ship", "big_ship"),
    "multilabel": ("ship", "big_ship", "a,b"),
    "instances": ("ship",),
}
EXTRA = {
    "coco": TableFormat(columns={"id": "id", "rle": "rle"}, codec="coco_counts"),
    "coco_zlib": TableFormat(columns={"rle": "rle", "id": "id"}, codec="coco_zlib_b64", empty="none"),
    "coco_instances": TableFormat(columns={"id": "id", "rle": "rle"}, codec="coco_zlib_b64", rows="instance"),
    "triples": TableFormat(columns={"id": "id", "rle": "rle"}, codec="start_length_value", order="F", base=0),
    "from_0": TableFormat(columns={"id": "id", "c": "class_number", "rle": "rle"}, rows="image_class", class_base=0),
    "sized": TableFormat(columns={"h": "height", "id": "id", "w": "width", "rle": "rle"}),
}


def tasks_of(fmt: TableFormat) -> tuple[str, ...]:
    if fmt.rows in ("instance", "detections"):
        return ("binary", "instances", "multiclass", "multilabel") if class_field(fmt) else ("binary", "instances")
    if fmt.rows == "image_class":
        return ("binary", "multiclass", "multilabel")
    if fmt.codec not in VALUED:
        return ("binary",)
    return ("multiclass",) if "class_number" in fmt.columns.values() else ("binary", "multiclass", "instances")


WRITTEN = {name: fmt for name, fmt in (FORMATS | EXTRA).items() if fmt.file != "polygons"}
PAIRS = [(name, fmt, task) for name, fmt in WRITTEN.items() for task in tasks_of(fmt)]


def random_label(rng: np.random.Generator, task: str, shape: tuple[int, int]) -> np.ndarray:
    if rng.random() < 0.2:
        return np.zeros((*shape, 3) if task == "multilabel" else shape, np.int32 if task == "instances" else np.uint8)
    if task == "multilabel":
        return rng.integers(0, 2, (*shape, 3)).astype(np.uint8)
    coarse = rng.integers(0, {"binary": 2, "multiclass": 3}.get(task, 6), (4, 5))
    label = coarse[np.ix_(np.arange(shape[0]) * 4 // shape[0], np.arange(shape[1]) * 5 // shape[1])]
    if task == "instances":  # numbered as they will be read: 1 ... n
        return np.unique(np.append(label, 0), return_inverse=True)[1][:-1].reshape(shape).astype(np.int32)
    return label.astype(np.uint8)


def table(tmp_path: Path, text: str | bytes, name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(("name", "fmt", "task"), PAIRS, ids=[f"{name}-{task}" for name, _, task in PAIRS])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_every_format_there_and_back(tmp_path_factory, name, fmt, task, seed, shape):
    rng = np.random.default_rng(seed)
    fmt = fmt.model_copy(update={"size": fmt.size and (14, 11), "patch": 1})
    path = tmp_path_factory.mktemp("table") / "out.csv"
    ids = ["7_12", "Tile 1/part_001", 'a_"b",c_1', "ü_2.jpg"]
    masks = {image_id: random_label(rng, task, fmt.size or shape) for image_id in ids}
    if fmt.overlap == "forbid" and task == "multilabel":
        masks = {image_id: mask * (mask.cumsum(axis=2) < 2).astype(np.uint8) for image_id, mask in masks.items()}
    sizes = {image_id: mask.shape[:2] for image_id, mask in masks.items()}
    rows = write_submission(path, fmt, CLASSES[task], task, masks.items())
    if fmt.file == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.reader(file))) == rows + 1
    else:
        assert len(json.loads(path.read_text(encoding="utf-8"))) == rows
        masks = {image_id: mask for image_id, mask in masks.items() if mask.any()}  # nothing found, nothing written
    assert validate_submission(path, fmt, CLASSES[task], sizes) == []
    back = dict(read_labels(path, fmt, CLASSES[task], task, sizes))
    assert list(back) == list(masks)
    for image_id, mask in masks.items():
        assert back[image_id].dtype == mask.dtype
        np.testing.assert_array_equal(back[image_id], mask)


def test_rows_are_written_as_the_competitions_write_them(tmp_path):
    mask = np.zeros((3, 4), np.uint8)
    mask[1, 1:3] = 1
    empty, sea = np.zeros_like(mask), np.array([[0, 0, 1], [2, 2, 1]], np.uint8)
    cases = (
        ("tgs_salt", "binary", [("a", mask), ("b", empty)], "id,rle_mask\na,5 1 8 1\nb,\n"),
        ("carvana", "binary", [("a", mask)], "img,rle_mask\na.jpg,6 2\n"),
        ("siim_acr", "binary", [("a", mask), ("b", empty)], "ImageId,EncodedPixels\na,4 1 2 1\nb,-1\n"),
        ("sennet", "binary", [("b", empty)], "id,rle\nb,1 0\n"),
        ("contrails", "binary", [("b", empty)], "record_id,encoded_pixels\nb,-\n"),
        ("ultrasound_nerve_train", "binary", [("1_2", mask)], "subject,img,pixels\n1,2,5 1 8 1\n"),
        ("image_class", "multiclass", [("a", sea)], "id,class,rle\na,sea,1 1 3 1\na,ship,5 2\na,big_ship,2 1 4 1\n"),
        (
            "severstal",
            "multilabel",
            [("a", np.dstack([mask, empty, mask]))],
            "ImageId_ClassId,EncodedPixels\na.jpg_1,5 1 8 1\na.jpg_2,\na.jpg_3,5 1 8 1\n",
        ),
        (
            "severstal_class_column",
            "multiclass",
            [("a", sea)],
            "ImageId,ClassId,EncodedPixels\na.jpg,0,1 1 3 1\na.jpg,1,5 2\na.jpg,2,2 1 4 1\n",
        ),
        (
            "dsb2018",
            "instances",
            [("a", np.array([[7, 0, 3], [7, 3, 3]], np.int32)), ("b", np.zeros((2, 2), np.int32))],
            "ImageId,EncodedPixels\na,4 3\na,1 2\nb,\n",
        ),
        (
            "airbus",
            "binary",
            [("a", np.array([[1, 0, 0, 1], [0, 1, 0, 1]], np.uint8))],
            "ImageId,EncodedPixels\na.jpg,1 1 4 1\na.jpg,7 2\n",
        ),
        (
            "imagenet_s_2026",
            "multiclass",
            [("a", sea), ("b", sea * 0)],
            "image,class_id,segmentation_rle\na,1,3 1 1 4 2 2 6 1 1\nb,0,\n",
        ),
    )
    for name, task, masks, wanted in cases:
        path = tmp_path / f"{name}.csv"
        write_submission(path, find_format(name), CLASSES[task], task, masks)
        assert path.read_bytes().decode() == wanted, name


def test_count_value_holds_every_pixel_at_its_fixed_size(tmp_path):
    path = tmp_path / "out.csv"
    label = np.zeros((448, 448), np.uint8)
    label[:, 224:] = 2
    fmt = find_format("imagenet_s_2025")
    write_submission(path, fmt, CLASSES["multiclass"], "multiclass", [("a", label), ("b", label * 0)])
    _, first, second = path.read_text().splitlines()
    assert first == "a,2," + " ".join(["112 0 112 2"] * 224)
    assert second == "b,0,50176 0"


def test_a_class_column_beside_a_binary_mask_says_whether_there_is_any(tmp_path):
    path, fmt, label = tmp_path / "out.csv", find_format("imagenet_s_2025"), np.zeros((224, 224), np.uint8)
    label[0, :3] = 1
    write_submission(path, fmt, ["x"], "binary", [("a", label), ("b", label * 0)])
    assert path.read_text() == "ID,Label,MASK_RLE\na,1,3 1 50173 0\nb,0,50176 0\n"
    back = dict(read_labels(path, fmt, ["x"], "binary", dict.fromkeys("ab", (224, 224))))
    np.testing.assert_array_equal(back["a"], label)
    assert not back["b"].any()


def test_a_fixed_size_resizes_by_nearest_neighbour_both_ways(tmp_path):
    path = tmp_path / "out.csv"
    fmt = find_format("clouds").model_copy(update={"size": (2, 3)})
    label = np.kron(np.array([[1, 0, 1], [0, 1, 1]], np.uint8), np.ones((4, 4), np.uint8))
    write_submission(path, fmt, ["Fish"], "binary", [("x", label)])
    assert path.read_text() == "Image_Label,EncodedPixels\nx.jpg_Fish,1 1 4 3\n"
    [(_, back)] = read_labels(path, fmt, ["Fish"], "binary", {"x": (8, 12)})
    np.testing.assert_array_equal(back, label)


def test_earlier_instances_keep_the_pixels_they_share(tmp_path, caplog):
    path = table(tmp_path, "id,rle\na,1 3\na,3 2\na,\na,6 1\n")
    with caplog.at_level(logging.WARNING):
        [(_, label)] = read_labels(path, FORMATS["instance"], ["x"], "instances", {"a": (6, 1)})
    assert label.ravel().tolist() == [1, 1, 1, 2, 0, 4]
    assert "1 pixels of 1 images" in caplog.text
    [(_, label)] = read_labels(path, FORMATS["instance"], ["x"], "binary", {"a": (6, 1)})
    assert label.ravel().tolist() == [1, 1, 1, 1, 0, 1]


def test_more_instances_than_a_label_holds_are_told(tmp_path):
    rows = [f"a,{2 * number + 1} 1\n" for number in range(32768)]
    path, sizes = table(tmp_path, "id,rle\n" + "".join(rows)), {"a": (256, 256)}
    with pytest.raises(UserError, match=r"train.csv: image 'a': more than 32767 instances; cut the image into parts"):
        list(read_labels(path, FORMATS["instance"], ["x"], "instances", sizes))
    path = table(tmp_path, "id,rle\na,1 1 70000 3 1 9\n")
    [(_, label)] = read_labels(path, EXTRA["triples"], ["x"], "instances", sizes)
    assert sorted(np.unique(label)) == [0, 1, 2]


def test_pixels_without_a_class_are_background_or_unknown(tmp_path):
    sizes, classes = {"a": (4, 1), "b": (4, 1)}, ["sea", "ship"]
    path = table(tmp_path, "id,class,rle\na,ship,2 2\nb,ship,\n")
    labels = read_labels(path, FORMATS["image_class"], classes, "multiclass", sizes)
    assert [label.ravel().tolist() for _, label in labels] == [[0, 1, 1, 0], [0, 0, 0, 0]]
    path = table(tmp_path, "id,class,rle\na,ship,2 2\na,sea,1 1\nb,ship,\n")
    labels = read_labels(path, FORMATS["image_class"], classes, "multiclass", sizes)
    assert [label.ravel().tolist() for _, label in labels] == [[0, 1, 1, 255], [255] * 4]


def test_bom_crlf_spaces_blank_lines_quotes_and_extra_columns_are_forgiven(tmp_path):
    text = b'\xef\xbb\xbfImageId, more, EncodedPixels\r\n"a b", 7, 1 2\r\n\r\n c, "x,y", -1\r\n'
    fmt = find_format("siim_acr")
    labels = dict(read_labels(table(tmp_path, text), fmt, ["x"], "binary", {"a b": (2, 2), "c": (1, 2)}))
    assert labels["a b"].tolist() == [[0, 1], [1, 0]]
    assert labels["c"].tolist() == [[0, 0]]


def test_the_longest_class_that_ends_an_id_is_its_class(tmp_path):
    fmt = TableFormat(columns={"id": "id", "rle": "rle"}, rows="image_class", id="{id}_{class}")
    path = table(tmp_path, "id,rle\na_ship,1 1\na_big_ship,2 1\n")
    [(_, label)] = read_labels(path, fmt, CLASSES["multiclass"], "multiclass", {"a": (1, 3)})
    assert label.tolist() == [[1, 2, 0]]


def test_a_cell_may_be_longer_than_csv_allows_by_default(tmp_path):
    mask = np.zeros((400, 400), np.uint8)
    mask[::2] = 1
    path = tmp_path / "out.csv"
    write_submission(path, FORMATS["image"], ["x"], "binary", [("a", mask)])
    assert path.stat().st_size > 131072
    [(_, back)] = read_labels(path, FORMATS["image"], ["x"], "binary", {"a": (400, 400)})
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image", "", "row 1: the header is '', the format's 'id,rle'"),
        ("image", "id,mask\na,1 1\n", "row 1: the header is 'id,mask', the format's 'id,rle'"),
        ("image", "id,rle,rle\na,1 1,\n", "row 1: the header"),
        ("image", "id,rle\na\n", "row 2: 1 cells, the header has 2"),
        ("image", "id,rle\na,1 1,\n", "row 2: 3 cells, the header has 2"),
        ("image", "id,rle\n\na,1 1\nzz,1 1\n", "row 4: id 'zz' has no image; add the image or drop the row"),
        ("image", "id,rle\na,1 1\na,1 1\n", "row 3: id 'a' occurs twice"),
        ("image", "id,rle\na,1 7\n", "row 2: 7 lies beyond the image"),
        ("image", "id,rle\na,6 2\n", "row 2: run 1 ends beyond the image's 6 pixels; the image is 2x3, mend the row"),
        ("image", "id,rle\na,-1\n", "row 2: only digits"),
        ("image", "id,rle\na,nan\n", "row 2: only digits"),
        ("image", b"id,rle\na,1 1\nb\xff,1 1\n", "or later: not UTF-8 text"),
        ("image", 'id,rle\n"a,1 1\n', "row 2: not a CSV row"),
        ("airbus", "ImageId,EncodedPixels\na,1 1\n", "row 2: id 'a' is not written like '{id}.jpg'"),
        ("image_class", "id,class,rle\na,boat,1 1\n", "row 2: class 'boat' is none of ship, big_ship, a,b"),
        ("image_class", "id,class,rle\na,ship,1 1\na,ship,2 1\n", "row 3: id 'a', class 'ship' occurs twice"),
        ("severstal", "ImageId_ClassId,EncodedPixels\na.jpg_4,1 1\n", "row 2: id 'a.jpg_4' .* with a class of 1, 2, 3"),
        ("severstal_class_column", "ImageId,ClassId,EncodedPixels\na.jpg,0,\n", "row 2: class '0' is none of 1, 2, 3"),
        ("imagenet_s_2026", "image,class_id,segmentation_rle\na,1,1 1 3\n", "row 2: value 3 is not a class"),
        ("imagenet_s_2026", "image,class_id,segmentation_rle\na,1,1 1\n", "row 2: 2 integers are not whole groups"),
    ],
)
def test_a_bad_table_is_one_line_that_names_the_file_and_row(tmp_path, name, text, message):
    fmt = find_format(name)
    task = "multilabel" if fmt.rows == "image_class" else tasks_of(fmt)[0]
    path = table(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        list(read_labels(path, fmt, CLASSES[task], task, {"a": (2, 3), "b": (2, 3)}))
    assert str(caught.value).startswith(f"{path} row ")
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.csv: no such table"):
        read_labels(tmp_path / "nowhere.csv", FORMATS["image"], ["x"], "binary", {})


def test_files_of_masks_are_no_table():
    with pytest.raises(UserError, match="loveda: files of masks, not a table"):
        find_format("loveda")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("airbuss", "no table format 'airbuss'; did you mean 'airbus'"),
        ("", "no table format ''"),
        ({"columns": {"id": "id"}}, "exactly one must hold the rle"),
        ({"columns": {"rle": "rle"}}, "one must hold the id"),
        ({"id": "x.jpg"}, "must hold {id} once"),
        ({"id": "{id}_{klass}"}, "may hold"),
        ({"id": "{id.__class__}"}, "must hold {id} once"),
        ({"id": "{id"}, "is not a template"),
        ({"rows": "image_class"}, "needs a class column or a class in the id"),
        ({"rows": "instance", "id": "{id}_{class}"}, "cannot have a class"),
        ({"id": "{id}_{class}"}, "needs rows: image_class"),
        ({"rows": "instance", "codec": "count_value"}, "needs rows: image"),
        ({"order": "C", "codec": "coco_counts"}, "always column-major"),
    ],
)
def test_a_bad_format_is_named(bad, message):
    fmt = bad if isinstance(bad, str) else TableFormat(**{"columns": {"id": "id", "rle": "rle"}, **bad})
    with pytest.raises(UserError, match=message):
        find_format(fmt)


def test_the_tables_own_formats_are_sound_and_the_default_is_one_of_them():
    from config import Config

    for name, fmt in FORMATS.items():
        assert find_format(name) == find_format(fmt)
    assert find_format(Config(name="x").data.labels.format) == find_format(Config(name="x").submission)


@pytest.mark.parametrize(
    ("name", "task"),
    [("image", "multiclass"), ("image", "instances"), ("image_class", "instances"), ("instance", "multilabel")],
)
def test_a_format_that_cannot_hold_the_task_is_named(tmp_path, name, task):
    with pytest.raises(UserError, match=f"task {task}: a table of"):
        write_submission(tmp_path / "out.csv", FORMATS[name], CLASSES[task], task, [])
