"""prepare.py on tiny competitions: every way labels come in, what is hidden, and every fault told in one line."""

import errno
import functools
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image

import make_folds
import prepare
import scenes
from artifacts import Paths
from cli import make_parser
from errors import UserError
from images import read_image, read_mask
from index import COLUMNS, list_images, read_index
from rle import encode
from settings import load_config

SRC = Path(__file__).resolve().parent.parent / "src"
SHARED = SRC.parent / "../shared/data"
LETTERS = ["a", "b", "c"]
SIZE = (12, 16)
PALETTE = {"a": (10, 0, 0), "b": (0, 20, 0), "c": (0, 0, 30)}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        Image.fromarray(array).save(path)


def write_images(root: Path, names: str, size: tuple[int, int] = SIZE) -> None:
    rng = np.random.default_rng(len(names))
    for name in names.split():
        save(root / f"{name}.png", rng.integers(0, 255, (*size, 3), np.uint8))


def labels_of(ids: list[str]) -> dict[str, np.ndarray]:
    """Label arrays with all three classes: stripes that differ from image to image."""
    rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE[1], int)
    return {name: ((rows // (2 + number % 3) + number) % 3).astype(np.uint8) for number, name in enumerate(ids)}


def write_config(folder: Path, **values: object) -> Path:
    values = {"name": "x", "task": "multiclass", "classes": LETTERS, **values}
    values["data"] = {"root": "raw", "images": "train/{id}.png", **values["data"]}
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(folder: Path, *more: str, **values: object) -> pd.DataFrame:
    path = write_config(folder, **values)
    prepare.main(make_parser("").parse_args(["--config", str(path), "--workspace", str(folder), *more]))
    return read_index(Paths(folder, "x")).set_index("image_id")


def written(folder: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: read_mask(folder / mask) for name, mask in table["mask"].items() if mask}


def check_masks(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    assert found.keys() == truth.keys()
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, truth[name])
        assert mask.dtype == truth[name].dtype


# --- every way labels come in ----------------------------------------------------------------------------------------


def test_masks_test_and_pool(tmp_path: Path, capsys: pytest.CaptureFixture):
    raw, truth = tmp_path / "raw", labels_of(["p1", "p2"])
    write_images(raw, "train/p1 train/p2 pool/q test/t")
    for number, (_, mask) in enumerate(truth.items(), start=1):
        mask[0, 0] = 255
        save(raw / f"masks/m_{number:03}.png", mask)
    labels = {"kind": "masks", "path": "masks/{n}.png", "match": "number"}
    table = run(tmp_path, data={"labels": labels, "unlabelled": "pool/{id}.png", "test": "test/{id}.png"})
    assert tuple(table.reset_index().columns) == COLUMNS
    assert table["split"].to_dict() == {"p1": "labelled", "p2": "labelled", "q": "unlabelled", "t": "test"}
    assert table.loc["p1"].to_dict() == {
        "image": "raw/train/p1.png", "mask": "data/x/masks/p1.png", "points": 0, "group": "", "split": "labelled",
        "height": SIZE[0], "width": SIZE[1]}  # fmt: skip
    check_masks(written(tmp_path, table), truth)
    out = capsys.readouterr().out
    assert "x: 2 labelled, 1 unlabelled, 1 test" in out
    assert "16x12 to 16x12" in out
    assert "ignored pixels: 0.52%" in out
    assert json.loads((tmp_path / "data/x/manifest.json").read_text())["images"]["labelled"] == 2
    assert not (tmp_path / "data/x/solution").exists()


def test_palette_masks_of_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    raw, truth = tmp_path / "raw", labels_of(["T 1/p", "T 2/p"])
    write_images(raw, "T1/images/p T1/images/q T2/images/p")
    for tile in ("1", "2"):
        (raw / f"T{tile}").rename(raw / f"T {tile}")
    colours = np.array([*PALETTE.values()], np.uint8)
    for name, mask in truth.items():
        stored = colours[mask]
        stored[1, :4] = 9
        mask[1, :4] = 255
        save(raw / f"{name.replace('/', '/masks/')}.png", stored)
    labels = {"kind": "masks", "path": "{t}/masks/{n}.png", "encoding": "palette", "palette": PALETTE}
    labels |= {"without_label": "test"}
    table = run(tmp_path, data={"images": "{t}/images/{n}.png", "id": "{t}/{n}", "group": "{t}", "labels": labels})
    assert table["split"].to_dict() == {"T 1/p": "labelled", "T 1/q": "test", "T 2/p": "labelled"}
    assert table["group"].tolist() == ["T 1", "T 1", "T 2"]
    check_masks(written(tmp_path, table), truth)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["data.labels.path: 8 pixels of 1 colours outside data.labels.palette are ignored: #090909 8x"]


def test_contrails_lie_in_numpy_files(tmp_path: Path):
    """The layout of Google Research's contrails: a folder a record, bands over time, masks of one channel."""
    rng, truth = np.random.default_rng(0), {}
    for record in ("1000216489776414077", "1000603527582775543"):
        folder = tmp_path / "raw" / "train" / record
        folder.mkdir(parents=True)
        np.save(folder / "band_11.npy", rng.normal(280, 9, (*SIZE, 8)).astype(np.float32))
        truth[record] = rng.integers(0, 2, SIZE, np.uint8)
        np.save(folder / "human_pixel_masks.npy", truth[record][..., None].astype(np.int32))
    labels = {"kind": "masks", "path": "train/{id}/human_pixel_masks.npy"}
    data = {"images": "train/{id}/band_11.npy", "labels": labels}
    table = run(tmp_path, task="binary", classes=["contrail"], image={"channels": 8, "normalise": "image"}, data=data)
    assert list(table["height"]) == [SIZE[0]] * 2
    check_masks(written(tmp_path, table), truth)


def test_a_file_an_instance(tmp_path: Path):
    """The layout of Data Science Bowl 2018's stage1_train: a folder an image, a mask a nucleus."""
    truth = {}
    for name in ("aa", "bb"):
        write_images(tmp_path / "raw" / name / "images", name)
        truth[name] = np.zeros(SIZE, np.int32)
        for number, (row, column) in enumerate([(0, 0), (5, 3), (6, 5)], 1):
            mask = np.zeros(SIZE, np.uint8)
            mask[row : row + 4, column : column + 4] = 255
            save(tmp_path / "raw" / name / "masks" / f"{number}.png", mask)
            truth[name][(mask > 0) & (truth[name] == 0)] = number
    write_images(tmp_path / "raw" / "cc" / "images", "cc")
    labels = {"kind": "masks", "path": "{id}/masks/{instance}.png", "without_label": "unlabelled"}
    data = {"images": "{id}/images/{id}.png", "labels": labels | {"encoding": "instances"}}
    table = run(tmp_path, task="instances", classes=["nucleus"], data=data)
    check_masks(written(tmp_path, table), truth)
    assert list(table["split"]) == ["labelled", "labelled", "unlabelled"]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_file_an_instance_and_class_of_any_size(tmp_path: Path, task: str):
    """The layout of Open Images' segmentations: ImageID_LabelName_BoxID.png, at a size of its own."""
    write_images(tmp_path / "raw" / "train", "f0 f1")
    small, names = (SIZE[0] // 2, SIZE[1] // 2), ["m01", "m02"] if task != "binary" else ["m01"]
    drawn = {"m01": (slice(0, 3), slice(0, 3)), "m02": (slice(2, 5), slice(2, 6))}
    planes = np.zeros((len(names), *small), np.uint8)
    for number, name in enumerate(names):
        planes[number][drawn[name]] = 1
        for image in ("f0", "f1"):
            save(tmp_path / "raw" / "masks" / f"{image}_{name}_9{number}.png", planes[number] * 255)
    large = planes.repeat(2, 1).repeat(2, 2)
    both = np.where(large[0], 0, np.where(large[-1], 1, 255)).astype(np.uint8)
    wanted = {"binary": large[0], "multiclass": both, "multilabel": large.transpose(1, 2, 0)}[task]
    labels = {"kind": "masks", "path": "masks/{id}_{class}_{instance}.png", "encoding": "binary"}
    table = run(tmp_path, task=task, classes=names, data={"labels": labels})
    check_masks(written(tmp_path, table), {"f0": wanted, "f1": wanted})


@pytest.mark.parametrize(
    ("file", "path", "said"),
    [
        ("masks/zz_m01_1.png", "masks/{id}_{class}_{instance}.png", "zz_m01_1.png: a mask without an image"),
        ("masks/f0_m09_1.png", "masks/{id}_{class}_{instance}.png", "f0_m09_1.png: 'm09' is none of classes"),
        ("masks/f0_m01_1.png", "masks/{instance}.png", "data.labels.path: 'masks/{instance}.png' shares no field"),
    ],
)
def test_what_does_not_fit_among_files_of_instances(tmp_path: Path, file: str, path: str, said: str):
    write_images(tmp_path / "raw" / "train", "f0 f1")
    for name in ("masks/f0_m01_0.png", "masks/f1_m01_0.png", file):
        save(tmp_path / "raw" / name, np.ones(SIZE, np.uint8))
    with pytest.raises(UserError, match=re.escape(said)):
        run(tmp_path, task="binary", classes=["m01"], data={"labels": {"kind": "masks", "path": path}})


def test_files_of_several_classes_say_theirs(tmp_path: Path):
    write_images(tmp_path / "raw" / "train", "f0")
    save(tmp_path / "raw" / "masks" / "f0_1.png", np.ones(SIZE, np.uint8))
    labels = {"kind": "masks", "path": "masks/{id}_{instance}.png"}
    with pytest.raises(UserError, match=r"data\.labels\.path: names no \{class\}.*put it in"):
        run(tmp_path, data={"labels": labels})


def test_multilabel_masks(tmp_path: Path):
    raw = tmp_path / "raw"
    write_images(raw, "train/p1 train/p2")
    truth = {f"p{number}": np.random.default_rng(number).integers(0, 2, (*SIZE, 3), np.uint8) for number in (1, 2)}
    for name, mask in truth.items():
        save(raw / f"masks/{name}.tif", mask * 255)
    labels = {"kind": "masks", "path": "masks/{id}.tif", "encoding": "binary"}
    table = run(tmp_path, task="multilabel", data={"labels": labels})
    assert table.loc["p1", "mask"] == "data/x/masks/p1.tif"
    check_masks(written(tmp_path, table), truth)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "instances"])
def test_rle_tables(tmp_path: Path, task: str):
    raw, stripes = tmp_path / "raw", labels_of(["p1", "p2"])
    write_images(raw, "train/p1 train/p2 train/p3")
    rows, truth = [], {}
    for name, mask in stripes.items():
        parts = [mask == number for number in range(3)]
        if task == "binary":
            truth[name] = parts[1].astype(np.uint8)
            rows.append((name, encode(parts[1])))
        elif task == "instances":
            truth[name] = np.where(parts[1], 1, np.where(parts[2], 2, 0)).astype(np.int32)
            rows += [(name, encode(part)) for part in parts[1:]]
        else:
            truth[name] = np.stack(parts, axis=2).astype(np.uint8) if task == "multilabel" else mask
            rows += [(name, letter, encode(part)) for letter, part in zip(LETTERS, parts, strict=True)]
    fmt = {"binary": "image", "instances": "instance"}.get(task, "image_class")
    columns = ["id", "rle"] if len(rows[0]) == 2 else ["id", "class", "rle"]
    pd.DataFrame(rows, columns=columns).to_csv(raw / "train.csv", index=False)
    labels = {"kind": "rle", "path": "train.csv", "format": fmt, "without_label": "unlabelled"}
    classes = LETTERS if len(columns) == 3 else ["c"]
    table = run(tmp_path, task=task, classes=classes, data={"labels": labels})
    assert table["split"].to_dict() == {"p1": "labelled", "p2": "labelled", "p3": "unlabelled"}
    check_masks(written(tmp_path, table), truth)


def write_points(raw: Path, count: int = 2) -> None:
    rows = [f"p{number},{number},{row},{LETTERS[row % 3]}" for number in range(1, count + 1) for row in range(3)]
    (raw / "points.csv").write_text("\n".join(["image_id,x,y,class", *rows]) + "\n")


def test_points(tmp_path: Path, capsys: pytest.CaptureFixture):
    write_images(tmp_path / "raw", "train/p1 train/p2 train/p3")
    write_points(tmp_path / "raw")
    labels = {"kind": "points", "path": "points.csv", "without_label": "unlabelled"}
    table = run(tmp_path, data={"labels": labels})
    assert table["points"].to_dict() == {"p1": 3, "p2": 3, "p3": 0}
    assert set(table["mask"]) == {""}
    points = pd.read_csv(tmp_path / "data/x/points.csv")
    assert points.to_numpy().tolist()[:2] == [["p1", 1, 0, 0], ["p1", 1, 1, 1]]
    assert "6 points: a 33.3%, b 33.3%, c 33.3%" in capsys.readouterr().out


def test_no_labels_at_all(tmp_path: Path):
    write_images(tmp_path / "raw", "train/p1 test/t")
    table = run(tmp_path, data={"test": "test/{id}.png"})
    assert table["split"].to_dict() == {"p1": "unlabelled", "t": "test"}
    with pytest.raises(UserError, match="5 folds of 0 labelled images"):
        make_folds.main(
            make_parser("").parse_args(["--config", str(tmp_path / "x.yaml"), "--workspace", str(tmp_path)])
        )


# --- hidden labels ---------------------------------------------------------------------------------------------------


def write_many(raw: Path, count: int) -> dict[str, np.ndarray]:
    truth = labels_of([f"p{number}" for number in range(1, count + 1)])
    write_images(raw, " ".join(f"train/{name}" for name in truth))
    for name, mask in truth.items():
        save(raw / f"masks/{name}.png", mask)
    return truth


@pytest.mark.parametrize("hidden", ["unlabelled", "test"])
def test_labels_beyond_keep_are_hidden(tmp_path: Path, hidden: str):
    truth = write_many(tmp_path / "raw", 12)
    labels = {"kind": "masks", "path": "masks/{id}.png", "keep": 4}
    values = {"data": {"labels": labels, "solution_of": hidden}}
    table = run(tmp_path, **values)
    kept = written(tmp_path, table)
    assert len(kept) == 4
    assert table["split"].value_counts().to_dict() == {"unlabelled": 8, "labelled": 4}
    assert (table["split"][table["mask"] != ""] == "labelled").all()
    assert {path.stem for path in (tmp_path / "data/x/masks").iterdir()} == kept.keys()
    solution = tmp_path / "data/x/solution"
    hidden_masks = {path.stem: read_mask(path) for path in solution.iterdir()} if solution.exists() else {}
    assert hidden_masks.keys() == (truth.keys() - kept.keys() if hidden == "unlabelled" else set())
    check_masks(kept | hidden_masks, {name: truth[name] for name in kept | hidden_masks})
    coverage = pd.read_csv(tmp_path / "data/x/coverage.csv")
    assert set(coverage["image_id"]) == kept.keys()
    assert written(tmp_path, run(tmp_path, "--fresh", **values)).keys() == kept.keys()
    assert written(tmp_path, run(tmp_path, "--fresh", seed=1, **values)).keys() != kept.keys()


@pytest.mark.parametrize(("hidden", "pool"), [("test", 3), ("unlabelled", 3), ("test", None)])
def test_labels_can_be_shared_out(tmp_path: Path, hidden: str, pool: int | None):
    truth = write_many(tmp_path / "raw", 12)
    labels = {"kind": "masks", "path": "masks/{id}.png", "keep": 4, "keep_test": 2, "keep_unlabelled": pool}
    values = {"data": {"labels": labels, "solution_of": hidden}}
    table = run(tmp_path, **values)
    expected = {"labelled": 4, "test": 2, "unlabelled": 6 if pool is None else pool}
    assert table["split"].value_counts().to_dict() == expected
    assert written(tmp_path, table).keys() == set(table.index[table["split"] == "labelled"])
    found = {path.stem: read_mask(path) for path in (tmp_path / "data/x/solution").iterdir()}
    assert found.keys() == set(table.index[table["split"] == hidden])
    check_masks(found, {name: truth[name] for name in found})
    again = run(tmp_path, "--fresh", **values)
    assert again["split"].to_dict() == table["split"].to_dict()


def test_points_beyond_keep_are_hidden(tmp_path: Path):
    write_images(tmp_path / "raw", "train/p1 train/p2 train/p3")
    write_points(tmp_path / "raw", 3)
    labels = {"kind": "points", "path": "points.csv", "keep": 2}
    table = run(tmp_path, data={"labels": labels, "solution_of": "unlabelled"})
    assert sorted(table["points"]) == [0, 3, 3]
    assert len(pd.read_csv(tmp_path / "data/x/points.csv")) == 6
    (hidden,) = (tmp_path / "data/x/solution").iterdir()
    assert table.loc[hidden.stem, "points"] == 0
    assert (read_mask(hidden) != 255).sum() == 3


@pytest.mark.parametrize("kind", ["masks", "rle"])
def test_a_solution_of_the_test_images(tmp_path: Path, kind: str):
    raw, truth = tmp_path / "raw", labels_of(["p1", "p2", "t1", "t2"])
    write_images(raw, "train/p1 train/p2 test/t1 test/t2")
    rows = {"p": [], "t": []}
    for name, mask in truth.items():
        save(raw / f"masks/{name[0]}/{name}.png", mask)
        rows[name[0]] += [(name, letter, encode(mask == number)) for number, letter in enumerate(LETTERS)]
    for part, table in rows.items():
        pd.DataFrame(table, columns=["id", "class", "rle"]).to_csv(raw / f"{part}.csv", index=False)
    path = {"masks": "masks/{}/{{id}}.png", "rle": "{}.csv"}[kind]
    labels = {"kind": kind, "path": path.format("p"), "format": "image_class"}
    table = run(tmp_path, data={"labels": labels, "test": "test/{id}.png", "solution": path.format("t")})
    assert table["mask"].to_dict() == {
        "p1": "data/x/masks/p1.png", "p2": "data/x/masks/p2.png", "t1": "", "t2": ""}  # fmt: skip
    hidden = {path.stem: read_mask(path) for path in (tmp_path / "data/x/solution").iterdir()}
    check_masks(hidden, {name: truth[name] for name in ("t1", "t2")})


# --- done, done again, and not half done -----------------------------------------------------------------------------


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


# --- bad input -------------------------------------------------------------------------------------------------------

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
    "keep more than there is": (lambda raw: None, {"labels": MASKS | {"keep": 4}}, r"labels\.keep: 4, but 3 images"),
    "share out more than there is": (
        lambda raw: None,
        {"labels": MASKS | {"keep": 1, "keep_test": 1, "keep_unlabelled": 2}},
        r"labels\.keep, keep_test and keep_unlabelled: 1 \+ 1 \+ 2 images, but 3 have labels",
    ),
    "keep nothing": (lambda raw: None, {"labels": MASKS | {"keep": 0}}, r"labels\.keep: 0, but 3 images"),
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


@pytest.mark.skipif(not (SHARED / "dsb2018").is_dir(), reason="../shared/data/dsb2018 is not here")
def test_dsb2018_nuclei_lie_on_their_image():
    config = load_config(SRC.parent / "configs/dsb2018.yaml")
    images = list_images(config.data, SHARED / "dsb2018")
    assert len(images) == 513 + 128
    labelled = [image for image in images if image.split == "labelled"]
    labels = config.data.labels
    arrays = prepare.read_label_arrays(
        config, SHARED / "dsb2018", labelled, labels.path, "data.labels.path", table=True
    )
    image_id, nuclei = next(arrays)
    image = next(image for image in images if image.image_id == image_id)
    pixels = read_image(image.path, 3).mean(axis=2)
    assert nuclei.shape == pixels.shape
    rows = (SHARED / "dsb2018" / labels.path).read_text().count(image_id)
    assert len(np.unique(nuclei)) == rows + 1
    assert pixels[nuclei > 0].mean() > 3 * pixels[nuclei == 0].mean()  # bright nuclei on black


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
