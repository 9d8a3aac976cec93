"""Bad files of instances: one line that names the row, whatever the file holds, and no memory for what it claims."""

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from competitions import FORMATS
from detections import Instance, read_instances
from errors import UserError
from faults import validate_submission
from formats import find_format, read_labels

CLASSES = ("cell", "scratch", "dust")
HPA = "ID,ImageWidth,ImageHeight,PredictionString\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hpa2021", HPA + "a,4,3,0 0.5\n", "row 2: 2 words are not whole groups of class_number score rle"),
        ("hpa2021", HPA + "a,4,3,3 0.5 eA==\n", "row 2: class '3' is none of 0, 1, 2"),
        ("hpa2021", HPA + "a,4,3,0 nan eA==\n", "row 2: score 'nan' is not a number"),
        ("hpa2021", HPA + "a,4,3,0 1e999 eA==\n", "row 2: score '1e999' is not a number"),
        ("hpa2021", HPA + "a,4,3,0 1 aGVsbG8=\n", "row 2: not base64"),
        ("hpa2021", HPA + "a,4,-3,0 1 eA==\n", "row 2: '-3' x '4' is no size"),
        ("hpa2021", HPA + "a,99999,99999,0 1 eA==\n", "row 2: an image of 99999x99999; give the folder"),
        ("hpa2021", HPA + "a,4,3,\na,4,3,\n", "row 3: id 'a' occurs twice"),
        ("imaterialist2020", "ImageId,EncodedPixels,ClassId\nb,1 1,3\n", "row 2: class '3' is none"),
        ("dsb2018", "ImageId,EncodedPixels\na,1 1\n", "row 2: the size of image 'a' is not known"),
        ("coco", '{"images": 5}', "row 1: images, annotations and categories are not lists"),
        ("coco", "[5]", "row 1: not a mapping"),
        ("coco", "[", "row 1 or later: not JSON"),
        ("coco", "[" * 100_000, "row 1 or later: not such a JSON file|not JSON"),
        ("coco", '[{"category_id": 1}]', "row 1: image_id is missing"),
        ("coco", '[{"image_id": 1, "category_id": 1}]', "row 1: there is a class but no mask"),
        ("coco", '[{"image_id": 1, "segmentation": {"size": [3], "counts": "a"}}]', "row 1: the mask's size is not"),
        (
            "coco",
            '[{"image_id": 1, "segmentation": {"size": [3, 2], "counts": [1.5]}}]',
            "row 1: the mask's counts are",
        ),
        ("coco", '[{"image_id": 1, "segmentation": {"size": [3, 2], "counts": [7]}}]', "row 1: a count is not in 0"),
        ("coco", '[{"image_id": 1, "segmentation": [[1, 2, NaN, 3, 4, 5]]}]', "row 1: a polygon is not three"),
        ("coco", '[{"image_id": 1, "score": [], "segmentation": []}]', "row 1: score is neither"),
        ("hubmap2023_train", '{"id": "a"}\n{"id": 1, "annotations": 7}\n', 'row 1: .*size|line 2 is not {"id"'),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_row(tmp_path, name, text, message):
    path = tmp_path / "in.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        list(read_instances(path, name, CLASSES, {"b": (3, 4)} if name.startswith("ima") else {}))
    assert str(caught.value).startswith(f"{path} row ")
    assert "\n" not in str(caught.value)


def read_or_message(read: Callable[[], Iterable]) -> list | str:
    try:
        return list(read())
    except UserError as error:
        return str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "image_id": st.sampled_from([1, "a"]) | JSON,
        "category_id": st.sampled_from([1, 2]) | JSON,
        "score": st.floats() | JSON,
        "segmentation": JSON
        | st.lists(st.lists(st.integers(-3, 9), min_size=6, max_size=8), max_size=2)
        | st.fixed_dictionaries({"size": st.lists(st.integers(0, 9), max_size=3), "counts": st.text() | JSON}),
        "iscrowd": st.integers(0, 1) | JSON,
    },
)
WHOLE = st.fixed_dictionaries(
    {}, optional={key: st.lists(ENTRY | JSON, max_size=3) for key in ("images", "categories", "annotations")}
)
LINES = st.lists(
    st.fixed_dictionaries({"id": JSON, "annotations": st.lists(st.fixed_dictionaries({"coordinates": JSON}))}),
    max_size=3,
)


def test_an_image_without_an_id_is_told(tmp_path):
    path = tmp_path / "any.json"
    path.write_text('{"images": [{"id": 1}, {}], "annotations": [{}]}')
    with pytest.raises(UserError, match=r"any\.json row 1: image 2 of the file has no id; give it one"):
        read_instances(path, "coco", CLASSES, {})


@settings(max_examples=80, deadline=None)
@given(
    raw=st.lists(ENTRY, max_size=3).map(json.dumps)
    | WHOLE.map(json.dumps)
    | LINES.map(lambda lines: "\n".join(map(json.dumps, lines)))
    | JSON.map(json.dumps)
    | st.text(max_size=30),
    name=st.sampled_from(["coco", "hubmap2023_train"]),
    sizes=st.sampled_from([{}, {"1": (3, 4), "a": (9, 9)}]),
)
def test_any_json_is_instances_or_one_clear_line(tmp_path_factory, raw, name, sizes):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(raw.encode("utf-8", "surrogatepass"))
    answer = read_or_message(lambda: read_instances(path, name, CLASSES, sizes))
    if isinstance(answer, str):
        assert answer.startswith(f"{path} row ")
        assert "\n" not in answer
    else:
        assert all(isinstance(one, Instance) for _, instances in answer for one in instances)
    assert all("\n" not in fault for fault in validate_submission(path, find_format(name), CLASSES, sizes or None))


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.file == "csv"])
@settings(max_examples=20, deadline=None)
@given(
    cells=st.lists(st.lists(st.text("a0157 -_.,\"'\n\u00e9=/", max_size=9), min_size=4, max_size=4), max_size=4),
    tail=st.binary(max_size=4),
)
def test_any_table_is_labels_or_one_clear_line(tmp_path_factory, name, cells, tail):
    fmt = FORMATS[name]
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = [",".join(fmt.columns)] + [",".join(row[: len(fmt.columns)]) for row in cells]
    path.write_bytes("\n".join(rows).encode() + tail)
    task = "binary" if fmt.rows != "image" or "class_number" not in fmt.columns.values() else "multiclass"
    classes = CLASSES[: 3 if task == "multiclass" else 1]
    answer = read_or_message(lambda: read_labels(path, fmt, classes, task, {"a": (5, 7)}))
    if isinstance(answer, str):
        assert answer.startswith(f"{path} row ")
        assert "\n" not in answer
    else:
        assert all(label.shape == (5, 7) for _, label in answer)
    for sizes in (None, {"a": (5, 7)}):
        assert all("\n" not in fault for fault in validate_submission(path, fmt, CLASSES, sizes))


def test_what_a_file_says_of_its_size_is_not_allocated(tmp_path):
    path = tmp_path / "bomb.csv"
    bomb = base64.b64encode(zlib.compress(b"0" * 50_000_000, 9)).decode()
    path.write_text(HPA + f"a,30,30,0 1 {bomb}\nb,60000,60000,0 1 {bomb}\n")
    tracemalloc.start()
    try:
        for sizes in ({}, {"a": (30, 30), "b": (30, 30)}):
            with pytest.raises(UserError, match="row [23]: "):
                list(read_instances(path, "hpa2021", CLASSES, sizes))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
