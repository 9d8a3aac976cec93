"""prepare.py started again: what is done is skipped, a change is refused, --fresh makes all anew; what a run takes."""

import functools
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from preparing import labels_of, run, save, write_images, write_many, write_points

import prepare
import scenes
from cli import make_parser
from disk import remove
from errors import UserError

SRC = Path(__file__).resolve().parent.parent / "src"


def test_done_is_skipped_and_a_change_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    write_many(tmp_path / "raw", 3)
    labels = {"kind": "masks", "path": "masks/{id}.png"}
    first = run(tmp_path, data={"labels": labels})
    before = (tmp_path / "data/x/index.csv").stat().st_mtime_ns
    run(tmp_path, data={"labels": labels})
    assert "prepared already" in capsys.readouterr().out
    assert (tmp_path / "data/x/index.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="made with other settings .*keep: None -> 2"):
        run(tmp_path, data={"labels": labels | {"keep": 2}})
    again = run(tmp_path, "--fresh", data={"labels": labels | {"keep": 2}})
    assert (first["mask"] != "").sum() == 3
    assert (again["mask"] != "").sum() == 2


def test_a_changed_table_is_refused(tmp_path: Path):
    write_images(tmp_path / "raw", "train/p1 train/p2")
    write_points(tmp_path / "raw")
    labels = {"kind": "points", "path": "points.csv"}
    run(tmp_path, data={"labels": labels})
    with (tmp_path / "raw/points.csv").open("a") as file:
        file.write("p1,9,9,a\n")
    with pytest.raises(UserError, match=r"made with other settings \(inputs.*points\.csv"):
        run(tmp_path, data={"labels": labels})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: copy(raw / "train/p1.png", raw / "train/p9.png"), "data.images: '3 files, .* -> '4 files"),
        (lambda raw: copy(raw / "train/p1.png", raw / "test/t9.png"), "data.test: '1 files, .* -> '2 files"),
        (lambda raw: (raw / "train/p1.png").write_bytes(b"other"), "data.images: '3 files, .* -> '3 files"),
        (lambda raw: (raw / "masks/p1.tif").rename(raw / "masks/p9.tif"), "data.labels.path: '3 files, .* -> '3 files"),
        (lambda raw: copy(raw / "masks/p1.tif", raw / "masks/p2.tif"), "data.labels.path: '3 files, .* -> '3 files"),
        (lambda raw: copy(raw / "masks/p1.tif", raw / "hidden/t1.tif"), "data.solution: '1 files, .* -> '1 files"),
    ],
)
def test_other_files_are_noticed(tmp_path: Path, change: Callable[[Path], object], said: str):
    """A corrected mask may well be of the same size."""
    raw = tmp_path / "raw"
    truth = labels_of(["p1", "p2", "p3"])
    write_images(raw, "train/p1 train/p2 train/p3 test/t1")
    for name, mask in truth.items():
        save(raw / f"masks/{name}.tif", mask)
    assert len({path.stat().st_size for path in (raw / "masks").iterdir()}) == 1
    save(raw / "hidden/t1.tif", truth["p2"])
    labels = {"kind": "masks", "path": "masks/{id}.tif"}
    data = {"labels": labels, "test": "test/{id}.png", "solution": "hidden/{id}.tif"}
    run(tmp_path, data=data)
    (raw / "train/._p1.png").write_bytes(b"what a Mac leaves beside it")
    run(tmp_path, data=data)
    stage = (tmp_path / "data/x/manifest.json").read_bytes()
    change(raw)
    with pytest.raises(UserError, match=rf"made with other settings \(.*settings\.files\.{said}"):
        run(tmp_path, data=data)
    assert (tmp_path / "data/x/manifest.json").read_bytes() == stage


def test_what_was_deleted_is_made_again(tmp_path: Path):
    write_many(tmp_path / "raw", 3)
    labels = {"kind": "masks", "path": "masks/{id}.png"}
    first = run(tmp_path, data={"labels": labels})
    for name in ("index.csv", "coverage.csv", "masks"):
        remove(tmp_path / "data/x" / name)
        assert run(tmp_path, data={"labels": labels}).equals(first)
        assert (tmp_path / "data/x" / name).exists()


def test_done_needs_no_heavy_import(tmp_path: Path):
    write_many(tmp_path / "raw", 2)
    run(tmp_path, data={"labels": {"kind": "masks", "path": "masks/{id}.png"}})
    program = (
        "import sys, prepare; from cli import make_parser; "
        f"prepare.main(make_parser('').parse_args(['--config', {str(tmp_path / 'x.yaml')!r}, "
        f"'--workspace', {str(tmp_path)!r}])); "
        "print({'pandas', 'numpy', 'cv2', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SRC, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_generator_writes_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def write_competition(folder: Path, seed: int) -> None:
        calls.append(seed)
        write_many(folder, 2)

    import scenes

    monkeypatch.setattr(scenes, "write_competition", write_competition)
    values = {"root": "", "generator": "scenes", "labels": {"kind": "masks", "path": "masks/{id}.png"}}
    table = run(tmp_path, seed=5, data=values)
    assert table["image"].tolist() == ["data/x/raw/train/p1.png", "data/x/raw/train/p2.png"]
    run(tmp_path, seed=5, data=values)
    assert calls == [5]
    run(tmp_path, "--fresh", seed=6, data=values)
    assert calls == [5, 6]


def test_fresh_writes_the_generated_competition_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = functools.partial(scenes.write_competition, labelled=6, unlabelled=2, test=2, size=64)
    monkeypatch.setattr(scenes, "write_competition", few)
    sample = str(SRC.parent / "configs" / "sample.yaml")
    original = b""
    for fresh in ([], ["--fresh"]):
        prepare.main(make_parser("").parse_args(["--config", sample, "--workspace", str(tmp_path), *fresh]))
        image = sorted((tmp_path / "data/sample/raw/train").iterdir())[0]
        original = original or image.read_bytes()
        assert image.read_bytes() == original
        image.write_bytes(b"spoilt")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path):
    peaks = []
    for count in (3, 9):
        folder = tmp_path / str(count)
        for number in range(count):
            save(folder / f"raw/train/{number}.png", np.zeros((300, 300, 3), np.uint8))
            save(folder / f"raw/masks/{number}.png", np.eye(300, dtype=np.uint8))
        labels = {"kind": "masks", "path": "masks/{id}.png"}
        tracemalloc.start()
        run(folder, task="binary", classes=["c"], data={"labels": labels})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300 * 300 * 3 * 2
