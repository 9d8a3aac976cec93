"""prepare.py on bad data: every fault is told in one line, ends with exit code 2, and leaves nothing."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from preparing import SIZE, run, save, write_config, write_many

from errors import UserError

SRC = Path(__file__).resolve().parent.parent / "src"
MASKS = {"kind": "masks", "path": "masks/{id}.png"}
POINTS = {"kind": "points", "path": "points.csv"}
TABLE = {"kind": "rle", "path": "train.csv", "format": "image_class"}


def write_rows(raw: Path, *rows: str) -> None:
    (raw / "train.csv").write_text("\n".join(["id,class,rle", *rows]) + "\n")


FAULTS = {
    "unreadable image": (
        lambda raw: (raw / "train/p2.png").write_bytes((raw / "train/p2.png").read_bytes()[:200]),
        {"labels": MASKS}, r"train/p2\.png: cannot be read",
    ),
    "mask of another size": (
        lambda raw: save(raw / "masks/p2.png", np.zeros((5, 7), np.uint8)),
        {"labels": MASKS}, r"masks/p2\.png: mask of 7x5 for image 'p2' of 16x12; make them the same size",
    ),
    "value outside the classes": (
        lambda raw: save(raw / "masks/p2.png", np.full(SIZE, 9, np.uint8)),
        {"labels": MASKS}, r"masks/p2\.png: value 9 \(192 pixels\) is none of the 3 classes",
    ),
    "unreadable mask": (
        lambda raw: (raw / "masks/p2.png").write_bytes(b""),
        {"labels": MASKS}, r"masks/p2\.png: cannot be read",
    ),
    "image without a mask": (
        lambda raw: (raw / "masks/p2.png").unlink(),
        {"labels": MASKS}, r"train/p2\.png: image 'p2' has no label in masks/\{id\}\.png; add one",
    ),
    "mask without an image": (
        lambda raw: (raw / "train/p2.png").unlink(),
        {"labels": MASKS}, r"masks/p2\.png: a mask without an image",
    ),
    "a class that never occurs": (
        lambda raw: [save(path, np.eye(*SIZE, dtype=np.uint8)) for path in (raw / "masks").iterdir()],
        {"labels": MASKS}, r"classes: 'c' occurs in none of the 3 labels",
    ),
    "no test image": (
        lambda raw: None,
        {"labels": MASKS | {"without_label": "test"}}, r"data: no image is test",
    ),
    "no labelled image": (
        lambda raw: (raw / "points.csv").write_text("image_id,x,y,class\n"),
        {"labels": POINTS | {"without_label": "unlabelled"}}, r"data: no image is labelled",
    ),
    "points of nothing": (
        lambda raw: (raw / "points.csv").write_text("image_id,x,y,class\np1,1,0,a\n"),
        {"labels": POINTS | {"without_label": "empty"}}, r"image 'p2' has no label in points\.csv; .*of points, empty",
    ),
    "keep more than there is": (lambda raw: None, {"labels": MASKS | {"keep": 4}}, r"labels\.keep: 4, but 3 images"),
    "share out more than there is": (
        lambda raw: None,
        {"labels": MASKS | {"keep": 1, "keep_test": 1, "keep_unlabelled": 2}},
        r"labels\.keep, keep_test and keep_unlabelled: 1 \+ 1 \+ 2 images, but 3 have labels",
    ),
    "no table": (lambda raw: None, {"labels": TABLE}, r"data\.labels\.path: no file .*train\.csv; put it there"),
    "no sample": (
        lambda raw: None,
        {"labels": MASKS, "sample_submission": "s.csv"}, r"data\.sample_submission: no file .*s\.csv",
    ),
    "no solution": (
        lambda raw: None,
        {"labels": MASKS, "solution": "s.csv"}, r"data\.solution: no file .*s\.csv",
    ),
    "solution of nothing": (
        lambda raw: None,
        {"labels": MASKS, "solution": "masks/{id}.png"}, r"data\.solution: hidden labels of test images, but",
    ),
    "table: no image": (
        lambda raw: write_rows(raw, "p1,a,1 2", "q,a,1 2"), {"labels": TABLE}, r"train\.csv row 3: .*'q'",
    ),
    "table: no row": (
        lambda raw: write_rows(raw, "p1,a,1 2", "p1,b,3 2", "p1,c,5 2"),
        {"labels": TABLE}, r"image 'p2' has no label in train\.csv",
    ),
    "table: twice": (lambda raw: write_rows(raw, "p1,a,1 2", "p1,a,1 2"), {"labels": TABLE}, r"train\.csv row 3: "),
    "table: beyond": (lambda raw: write_rows(raw, "p1,a,190 9"), {"labels": TABLE}, r"train\.csv row 2: "),
    "table: class": (lambda raw: write_rows(raw, "p1,z,1 2"), {"labels": TABLE}, r"train\.csv row 2: "),
    "point outside": (
        lambda raw: (raw / "points.csv").write_text("image_id,x,y,class\np1,16,0,a\n"),
        {"labels": POINTS}, r"points\.csv row 2: \(16, 0\) is outside 'p1'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_one_line_and_leave_nothing(tmp_path: Path, fault: str):
    write_many(tmp_path / "raw", 3)
    spoil, values, message = FAULTS[fault]
    spoil(tmp_path / "raw")
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path, data=values)
    assert "\n" not in str(error.value)
    folder = tmp_path / "data/x"
    assert not folder.exists() or not any(folder.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_many(tmp_path / "raw", 2)

    def write_bytes(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(UserError, match="the disk is full; free some space"):
        run(tmp_path, data={"labels": MASKS})
    assert not any((tmp_path / "data/x").iterdir())


def test_a_fault_is_one_line_and_exit_code_2(tmp_path: Path):
    (tmp_path / "raw/train").mkdir(parents=True)
    path = write_config(tmp_path, data={"labels": MASKS})
    command = [sys.executable, "prepare.py", "--config", str(path), "--workspace", str(tmp_path)]
    ended = subprocess.run(command, cwd=SRC, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("prepare.py: data.labels.path: no file matches 'masks/{id}.png'")
    assert ended.stderr.count("\n") == 1
