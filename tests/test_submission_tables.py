"""Tables to hand in: in their sample's order, checked row by row, and not written where they would fail."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from config import TableFormat
from errors import UserError
from formats import FORMATS, find_format, read_labels, validate_submission, write_submission

CLASSES = {"binary": ("ship",), "multiclass": ("sea", "ship", "big_ship"), "multilabel": ("ship", "big_ship", "a,b")}
SAMPLE = "id,class,rle\nb,big_ship,1 1\nb,ship,1 1\na,ship,1 1\na,big_ship,1 1\nc,ship,\n"
SUBMISSION = "ImageId,EncodedPixels\na.jpg,1 2\na.jpg,5 2\nb.jpg,\n"


def table(tmp_path: Path, text: str | bytes, name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_sample_gives_ids_and_order_and_missing_images_are_empty(tmp_path, caplog):
    sample, path = table(tmp_path, SAMPLE, "sample.csv"), tmp_path / "out.csv"
    masks = [(image_id, np.array([[0, 1, 2]], np.uint8)) for image_id in "ab"]
    with caplog.at_level(logging.WARNING):
        rows = write_submission(path, FORMATS["image_class"], CLASSES["multiclass"], "multiclass", masks, sample)
    assert rows == 5
    assert path.read_text() == "id,class,rle\nb,big_ship,3 1\nb,ship,2 1\na,ship,2 1\na,big_ship,3 1\nc,ship,\n"
    assert "1 of the sample's images have no prediction" in caplog.text


def test_an_instance_sample_names_each_image_once_or_more(tmp_path):
    sample, path = table(tmp_path, "id,rle\nb,1 1\nb,2 1\na,1 1\nc,1 1\n", "sample.csv"), tmp_path / "out.csv"
    masks = [("a", np.array([[1, 2, 2]], np.int32)), ("b", np.array([[0, 0, 0]], np.int32))]
    assert write_submission(path, FORMATS["instance"], ["x"], "instances", masks, sample) == 4
    assert path.read_text() == "id,rle\nb,\na,1 1\na,2 2\nc,\n"


def test_a_table_of_no_rows_works(tmp_path):
    sample, path = table(tmp_path, "id,rle\n", "sample.csv"), tmp_path / "out.csv"
    assert write_submission(path, FORMATS["image"], ["x"], "binary", [], sample) == 0
    assert path.read_text() == "id,rle\n"
    assert list(read_labels(path, FORMATS["image"], ["x"], "binary", {})) == []


@pytest.mark.parametrize(
    ("masks", "sample", "message"),
    [
        ([("zz", np.ones((1, 3), np.uint8))], SAMPLE, "id 'zz' is not in .*sample.csv"),
        ([("a", np.ones((1, 3), np.uint8))] * 2, SAMPLE, "id 'a' is predicted twice"),
        ([("a", np.full((1, 3), 255, np.uint8))], SAMPLE, "id 'a': its mask has unknown pixels"),
        ([], "id,rle\na,1 1\n", "sample.csv row 1: the header is 'id,rle'"),
        ([], "id,class,rle\na,boat,1 1\n", "sample.csv row 2: class 'boat' is none of sea, ship, big_ship; set sub"),
    ],
)
def test_a_failed_submission_leaves_the_old_one(tmp_path, masks, sample, message):
    sample, path = table(tmp_path, sample, "sample.csv"), table(tmp_path, "old", "out.csv")
    with pytest.raises(UserError, match=message):
        write_submission(path, FORMATS["image_class"], CLASSES["multiclass"], "multiclass", masks, sample)
    assert path.read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.csv", "sample.csv"]


def test_overlap_that_the_format_forbids_is_refused(tmp_path):
    fmt = FORMATS["image_class"].model_copy(update={"overlap": "forbid"})
    label = np.array([[[1, 0, 1], [1, 0, 0]]], np.uint8)
    with pytest.raises(UserError, match="id 'a': its classes overlap"):
        write_submission(tmp_path / "out.csv", fmt, CLASSES["multilabel"], "multilabel", [("a", label)])
    assert write_submission(tmp_path / "out.csv", fmt, CLASSES["multilabel"], "multilabel", [("a", label[:, 1:])]) == 3


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        ("airbus", SUBMISSION, []),
        ("airbus", SUBMISSION.replace("EncodedPixels", "rle"), ["row 1: the header"]),
        ("airbus", SUBMISSION.replace("ImageId,EncodedPixels", "ImageId,EncodedPixels,x"), ["row 1: the header"]),
        ("airbus", SUBMISSION.replace("b.jpg", "b"), ["row 4: id 'b' is not written", "row 4: .*no row for id 'b'"]),
        ("airbus", SUBMISSION.replace("b.jpg", "d.jpg"), ["row 4: id 'd' is not among", "row 4: .*no row for id 'b'"]),
        ("airbus", SUBMISSION.replace("5 2", "2 2"), ["row 3: overlaps row 2 of image 'a'"]),
        ("airbus", SUBMISSION.replace("5 2", "0 2"), ["row 3: run 1 starts before the first pixel"]),
        ("airbus", SUBMISSION.replace("5 2", "6 2").replace("1 2", "nan"), ["row 2: only digits", "row 3: run 1 ends"]),
        ("airbus", SUBMISSION.replace("b.jpg,", "b.jpg,-1"), ["row 4: only digits"]),
        ("siim_acr", "ImageId,EncodedPixels\na,0 2 1 1\nb,-1\n", []),
        ("siim_acr", "ImageId,EncodedPixels\na,0 2 1 1\nb,\n", ["row 3: the mask is blank, .* written '-1'"]),
        ("siim_acr", "ImageId,EncodedPixels\na,1 2 4 1\nb,-1\n", ["row 2: run 2 ends beyond"]),
        ("siim_acr", "ImageId,EncodedPixels\na,-1\nb,-1\na,-1\n", ["row 4: id 'a' occurs twice"]),
        ("sennet", "id,rle\na,1 0\nb,1 1\n", []),
        ("imagenet_s_2026", "image,class_id,segmentation_rle\na,1,1 1 2\nb,0,\n", []),
        (
            "imagenet_s_2026",
            "image,class_id,segmentation_rle\na,9,1 1 2\nb,0,1 1 3\n",
            ["row 2: class '9'", "row 3: v"],
        ),
        ("image_class", "id,class,rle\na,sea,1 1\na,ship,\nb,sea,\nb,ship,\n", []),
        ("image_class", "id,class,rle\na,sea,1 1\na,ship,\nb,sea,\n", ["no row for id 'b', class 'ship'"]),
    ],
)
def test_a_submission_is_validated_row_by_row(tmp_path, name, text, faults):
    classes = CLASSES["multiclass" if name.startswith("imag") else "binary"]
    sizes = dict.fromkeys("ab", (2, 3))
    found = validate_submission(table(tmp_path, text), find_format(name), classes, sizes)
    assert len(found) == len(faults), found
    for fault, wanted in zip(found, faults, strict=True):
        assert re.search(wanted, fault), fault


def test_a_submission_is_validated_against_its_sample(tmp_path):
    sample = table(tmp_path, "id,rle\nb,1 1\na,1 1\n", "sample.csv")
    sizes = dict.fromkeys("ab", (2, 3))

    def check(text: str) -> list[str]:
        return validate_submission(table(tmp_path, text), FORMATS["image"], ["x"], sizes, sample)

    assert check("id,rle\nb,\na,2 1\n") == []
    assert check("id,rle\na,2 1\nb,\n") == ["row 2: id 'a' stands where the sample has id 'b'"]
    assert check("id,rle\nb,\n") == ["row 2: the table ends with no row for id 'a'"]
    assert check("id,rle\nb,\na,\nc,\n") == ["row 4: id 'c' is not among the images to predict"]


def test_a_class_that_the_sample_has_no_row_for_is_told(tmp_path):
    fmt = TableFormat(columns={"id": "id", "class": "class", "rle": "rle"}, rows="image_class")
    sample = table(tmp_path, "id,class,rle\nb,x,\nb,y,\na,x,\n", "sample.csv")
    path = table(tmp_path, "id,class,rle\na,y,\nb,x,\nb,y,\na,x,\n")
    faults = validate_submission(path, fmt, ["x", "y"], dict.fromkeys("ab", (2, 3)), sample)
    assert faults == ["row 2: the sample has no row for id 'a', class 'y'; leave it out"]


@pytest.mark.parametrize("sizes", [None, {"a": (2, 3)}])
def test_each_class_that_the_competition_fixes_has_its_number_and_a_row(tmp_path, sizes):
    fmt = FORMATS["severstal"]

    def check(numbers: range) -> list[str]:
        rows = [f"a.jpg_{number}," for number in numbers]
        path = table(tmp_path, "\n".join(["ImageId_ClassId,EncodedPixels", *rows]))
        return validate_submission(path, fmt, fmt.classes, sizes)

    assert check(range(1, 5)) == []
    assert check(range(1, 4)) == ["row 4: the table ends with no row for id 'a', class '4'"]
    first, last = check(range(4))
    assert "row 2: id 'a.jpg_0' is not written" in first
    assert "no row for id 'a', class '4'" in last


def test_a_submission_that_fails_its_own_check_is_not_written(tmp_path, monkeypatch):
    import formats

    monkeypatch.setattr(formats, "join_mask", lambda *_: "7 1")
    with pytest.raises(UserError, match=r"out.csv row 2: 7 lies beyond .*nothing was written"):
        write_submission(tmp_path / "out.csv", FORMATS["image"], ["x"], "binary", [("a", np.ones((2, 3), np.uint8))])
    assert list(tmp_path.iterdir()) == []
