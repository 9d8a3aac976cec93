"""prepare.py on tiny competitions: every way labels come in, and what is hidden."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from preparing import LETTERS, SIZE, check_masks, labels_of, run, save, write_images, write_many, write_points, written

import make_folds
import prepare
from cli import make_parser
from errors import UserError
from images import read_image, read_mask
from index import COLUMNS, list_images
from rle import encode
from settings import load_config

SRC = Path(__file__).resolve().parent.parent / "src"
SHARED = SRC.parent / "../shared/data"
PALETTE = {"a": (10, 0, 0), "b": (0, 20, 0), "c": (0, 0, 30)}


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


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "JPEG"])
def test_a_file_an_instance_is_read_as_a_whole_mask_is(tmp_path: Path, mode: str):
    """Opacity is no mask, a palette's colours are, and a JPEG's noise is none."""
    write_images(tmp_path / "raw" / "train", "a")
    mask = np.zeros(SIZE, np.uint8)
    mask[2:7, 1:6] = 255
    picture = Image.fromarray(mask)
    path = tmp_path / "raw" / "masks" / f"a_1.{'jpg' if mode == 'JPEG' else 'png'}"
    path.parent.mkdir(parents=True)
    if mode == "P":
        picture = Image.fromarray((mask == 0).astype(np.uint8), "P")
        picture.putpalette([255, 255, 255, 0, 0, 0])
    elif mode != "JPEG":
        picture = picture.convert("RGB" if mode == "RGBA" else "L")
        picture.putalpha(255)
    picture.save(path)
    labels = {"kind": "masks", "path": f"masks/{{id}}_{{instance}}{path.suffix}", "encoding": "instances"}
    table = run(tmp_path, task="instances", classes=["nucleus"], data={"labels": labels})
    check_masks(written(tmp_path, table), {"a": (mask > 0).astype(np.int32)})


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


def test_the_longest_class_in_a_files_name_is_its_class(tmp_path: Path):
    write_images(tmp_path / "raw" / "train", "a a_large")
    mask = np.eye(*SIZE, dtype=np.uint8)
    for name in ("a_vehicle", "a_large_vehicle", "a_large_large_vehicle"):
        save(tmp_path / "raw" / "masks" / f"{name}.png", mask)
    labels = {"kind": "masks", "path": "masks/{id}_{class}.png", "encoding": "binary"}
    table = run(tmp_path, task="multilabel", classes=["vehicle", "large_vehicle"], data={"labels": labels})
    wanted = {"a": np.stack([mask, mask], axis=2), "a_large": np.stack([mask * 0, mask], axis=2)}
    check_masks(written(tmp_path, table), wanted)


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
    data = {"labels": labels | {"without_label": "empty"}}
    table = run(tmp_path, "--fresh", task=task, classes=classes, data=data)
    check_masks(written(tmp_path, table), truth | {"p3": np.zeros_like(truth["p1"])})


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


# --- hidden labels ---------------------------------------------------------------------------------------------------


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
