"""Real competitions' tables, read and written byte for byte."""

import csv
import logging
from pathlib import Path

import pytest

from config import TableFormat
from errors import UserError
from formats import find_format, read_labels, write_submission
from images import image_size

SHARED = Path(__file__).resolve().parents[2] / "shared"
VECTORS = SHARED / "formats" / "vectors"
NUCLEI = SHARED / "data" / "dsb2018"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no real rows at {VECTORS}")


@needs_vectors
@pytest.mark.parametrize(
    ("file", "name", "task", "classes", "shape", "blank"),
    [
        ("airbus/train_ship_segmentations_v2.excerpt.csv", "airbus", "instances", "x", (768, 768), False),
        ("carvana/train_masks.head_TRUNCATED.csv", "carvana", "binary", "x", (1280, 1918), False),
        (
            "clouds/train.head_TRUNCATED.csv",
            "clouds_train",
            "multilabel",
            "Fish Flower Gravel Sugar",
            (1400, 2100),
            False,
        ),
        ("contrails/evaluation_page_rows.csv", "contrails", "binary", "x", (256, 256), False),
        ("dsb2018/stage1_sample_submission.head.csv", "dsb2018", "instances", "x", (256, 256), False),
        ("hubmap_hpa_2022/sample_submission.csv", "hubmap2022", "binary", "x", (2023, 2023), False),
        ("sartorius/sample_submission.csv", "sartorius", "instances", "x", (520, 704), True),
        ("severstal/train_row_ImageId_ClassId.csv", "severstal", "multilabel", "a b c d", (256, 1600), False),
        ("siim_acr/fin_excerpt.csv", "siim_acr_train", "instances", "x", (1024, 1024), False),
        ("siim_acr/train-rle.head3.csv", "siim_acr", "binary", "x", (1024, 1024), True),
        ("siim_acr/stage1_new_sample_submission.csv", "siim_acr_train", "binary", "x", (9, 9), True),
        ("siim_acr/stage_2_sample_submission.csv", "siim_acr", "binary", "x", (9, 9), True),
        ("tgs_salt/sample_submission.csv", "tgs_salt", "binary", "x", (101, 101), False),
        ("ultrasound_nerve/train_masks_row.csv", "ultrasound_nerve_train", "binary", "x", (420, 580), False),
    ],
)
def test_real_files_round_trip_byte_for_byte(tmp_path, file, name, task, classes, shape, blank):
    source, path, fmt = VECTORS / file, tmp_path / "out.csv", find_format(name)
    with source.open(newline="", encoding="utf-8") as opened:
        rows = [[cell.strip() for cell in row] for row in csv.reader(opened)]
    known = {"_".join(row[:-1]) for row in rows[1:]}
    suffix = fmt.id.removeprefix("{id}").split("_{")[0]
    if fmt.rows == "image_class":
        known = {image_id.rsplit("_", 1)[0] for image_id in known}
    sizes = dict.fromkeys({image_id.removesuffix(suffix) for image_id in known}, shape)
    labels = list(read_labels(source, fmt, classes.split(), task, sizes))
    assert len(labels) == len(sizes)
    assert blank != any(label.any() for _, label in labels)
    write_submission(path, fmt, classes.split(), task, labels, source)
    written = path.read_text(encoding="utf-8")
    wanted = [",".join(row) for row in rows]
    if blank:  # a sample may name an image twice, where it could hold several instances
        wanted = list(dict.fromkeys(wanted))
    if fmt.rows == "instance":  # rows of one image stand together
        wanted.sort(key=lambda line: [row[0] for row in rows].index(line.split(",")[0]))
    assert written == "".join(line + "\n" for line in wanted)


@needs_vectors
def test_uwmgi_rows_carry_the_image_size(tmp_path):
    source, path = VECTORS / "uwmgi" / "train_values.csv", tmp_path / "out.csv"
    fields = {"id": "id", "class": "class", "segmentation": "rle", "height": "height", "width": "width"}
    fmt = TableFormat(columns=fields, rows="image_class", order="C")
    classes = ("large_bowel", "small_bowel", "stomach", "unknown")
    sizes = dict.fromkeys(("case123_day20_slice_0001", "case123_day20_slice_0065"), (266, 266))
    sizes["unknown_310x360_slice"] = (310, 360)
    labels = read_labels(source, fmt, classes, "multilabel", sizes)
    write_submission(path, fmt, classes, "multilabel", labels, source)
    assert path.read_bytes() == source.read_bytes()
    with pytest.raises(UserError, match=r"row 2: height '266' of 'case123_day20_slice_0001', the image has 267"):
        read_labels(source, fmt, classes, "multilabel", sizes | {"case123_day20_slice_0001": (267, 266)})


@pytest.mark.skipif(not NUCLEI.is_dir(), reason=f"no nuclei at {NUCLEI}")
def test_the_nuclei_of_dsb2018_round_trip_but_for_a_few_pixels(tmp_path, caplog):
    table, path, fmt = NUCLEI / "stage1_train_labels.csv", tmp_path / "out.csv", find_format("dsb2018")
    images = (NUCLEI / "stage1_train").iterdir()
    sizes = {folder.name: image_size(folder / "images" / f"{folder.name}.png") for folder in images}
    with caplog.at_level(logging.WARNING):
        rows = write_submission(path, fmt, ["nucleus"], "instances", read_labels(table, fmt, ["n"], "instances", sizes))
    assert rows == 21167
    assert "5 pixels of 4 images lie in two masks" in caplog.text
    old, new = table.read_text().splitlines(), path.read_text().splitlines()
    assert sum(one != other for one, other in zip(old, new, strict=True)) == 4
