"""A run on points drawn from masks: what it learns, what judges it, and what it makes of new images."""

import concurrent.futures
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import dice, make_workspace, open_workspace, run, seen_ids, write_config

from artifacts import Paths, read_json
from errors import UserError
from images import read_mask
from instances import part_touching
from points import load_points
from pseudo import keep_known
from sources import gather_records
from stages import list_stages
from stores import ProbabilityStore

POINTS = {"labels": {"points": {"count": 40}}}
TAUGHT = {
    "phase": "joint",
    "start": "previous",
    "pseudo": {"pixel_confidence": 0.4, "tta": False, "pool": ["labelled", "test"]},
}


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_what_is_known_stays_as_it_is(task: str) -> None:
    rng = np.random.default_rng(3)
    classes = 1 if task == "binary" else 3
    probabilities = rng.random((classes, 7, 9)).astype(np.float32)
    truth = rng.choice(np.uint8([0, 1, 255]), (7, 9))
    label, sure = rng.integers(0, max(2, classes), (7, 9)).astype(np.uint8), rng.random((7, 9)) < 0.5
    got, got_sure, soft = keep_known(truth, label, sure, probabilities, task)
    for place in np.ndindex(7, 9):
        if truth[place] == 255:
            assert (got[place], got_sure[place]) == (label[place], sure[place])
            assert soft[:, *place].tolist() == probabilities[:, *place].tolist()
        else:
            assert (got[place], got_sure[place]) == (truth[place], True)
            wanted = [float(truth[place])] if task == "binary" else [float(truth[place] == n) for n in range(3)]
            assert soft[:, *place].tolist() == wanted


def test_a_known_instance_map_stays_as_it_is() -> None:
    truth = np.zeros((30, 40), np.int32)
    truth[3:12, 4:14], truth[3:12, 14:22], truth[20:23, 30:33] = 1, 2, 3
    guess = np.random.default_rng(0).random((3, 30, 40)).astype(np.float32)
    label, sure, soft = keep_known(truth, np.zeros_like(truth), np.zeros(truth.shape, bool), guess, "instances")
    assert (label == truth).all()
    assert sure.all()
    parted = part_touching(soft[0] < 0.5, soft[1])
    pairs = np.unique(np.stack([truth.ravel(), parted.ravel()]), axis=1)
    assert pairs[0].tolist() == [0, 1, 2, 3]  # each of one number alone
    assert len(set(pairs[1].tolist())) == 4


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A run on points from data to report: a warm-up and a round that learns its own images' unknown pixels."""
    loss = {"dice": 0.0, "gated_crf": 0.1, "focal_gamma": 2.0, "class_weights": "frequency"}
    folder = make_workspace(
        tmp_path_factory.mktemp("points") / "whole",
        data=POINTS,
        train={"epochs": 1, "steps_per_epoch": 1, "loss": loss},
        rounds=[{}, TAUGHT],
        postprocess={"fit": False},
    )
    config, paths = open_workspace(folder)
    with pytest.MonkeyPatch.context() as patch:  # evaluate.py's own processes would each load torch again
        patch.setattr(
            concurrent.futures, "ProcessPoolExecutor", lambda count, **_: concurrent.futures.ThreadPoolExecutor(1)
        )
        for script, *arguments in list_stages(config):
            run(script.removesuffix(".py"), folder, *arguments)
    return paths


def test_teachers_label_the_unknown_pixels_of_training_images(done: Paths) -> None:
    points = load_points(done.points)
    for fold in (0, 1):
        folds = pd.read_csv(done.folds, dtype={"image_id": str})
        training = set(folds.loc[folds["fold"] != fold, "image_id"])
        store = ProbabilityStore(done.probabilities(0, fold, "labelled", False))
        assert set(store.image_ids) == training
        made = pd.read_csv(done.pseudo(1, fold) / "index.csv", dtype={"image_id": str})
        mine = made[made["image_id"].isin(training)]
        assert set(mine["image_id"]) == training
        assert not set(made["image_id"]) & set(folds.loc[folds["fold"] == fold, "image_id"])
        assert mine["kept"].all()
        for row in mine.to_dict("records"):
            label = read_mask(done.resolve(row["mask"]))
            own = points[points["image_id"] == row["image_id"]]
            assert (label[own["y"], own["x"]] == own["class"]).all()
            assert (label != 255).sum() > 40
        assert seen_ids(done, 1, fold) == training


def test_a_pseudo_label_of_the_own_fold_is_a_leak(done: Paths) -> None:
    config, _ = open_workspace(done.root)
    index = done.pseudo(1, 0) / "index.csv"
    good, other = index.read_text(), (done.pseudo(1, 1) / "index.csv").read_text()
    try:
        index.write_text(other)
        with pytest.raises(UserError, match="of its own fold was seen in training"):
            gather_records(config, done, 1, 0)
    finally:
        index.write_text(good)


def test_points_and_masks_both_judge(done: Paths) -> None:
    scores = read_json(done.scores)
    assert scores["judges"] == ["points", "masks"]
    last = read_json(done.run(1, 0) / "manifest.json")["scores"]
    assert {"dice", "masks_dice"} <= last.keys()
    for row in scores["phases"]:
        assert 0.0 <= row["other"] <= 1.0
    # by hand: the first phase's masks
    dices = []
    for fold in (0, 1):
        store = ProbabilityStore(done.probabilities(0, fold, "oof", False))
        for image_id in store.image_ids:
            truth = read_mask(done.data / "dense" / f"{image_id}.png")
            dices.append(dice(truth, (store.read(image_id)[0] >= 0.5).astype(np.uint8)))
    assert scores["phases"][0]["other"] == pytest.approx(np.mean(dices), abs=1e-6)
    assert scores["phases"][0]["other"] != scores["phases"][0]["oof"]


def test_masks_judge_where_they_are_asked_to(done: Paths) -> None:
    from evaluate import list_phases, score_parts
    from postprocess import starting_parameters

    config, _ = open_workspace(done.root, "data.labels.points.judge=masks")
    phase = list_phases(config, done, starting_parameters(config))[0]
    scores = read_json(done.scores)["phases"][0]
    assert score_parts(config, done, phase.oof)["dice"] == pytest.approx(scores["other"])


def test_class_weights_are_saved_and_shown(done: Paths) -> None:
    weights = read_json(done.run(0, 0) / "manifest.json")["class_weights"]
    folds = pd.read_csv(done.folds, dtype={"image_id": str})
    points = load_points(done.points)
    own = points[points["image_id"].isin(folds.loc[folds["fold"] != 0, "image_id"])]["class"]
    share = (own == 1).mean()
    assert weights == pytest.approx({"background": 0.5 / (1 - share), "building": 0.5 / share}, rel=1e-5)
    page = done.report.read_text()
    assert "Class weights" in page
    assert "<td>supervised</td><td>" in page


def test_sheets_lie_beside_the_report(done: Paths) -> None:
    curves, results = (cv2.imread(str(done.report.with_name(name))) for name in ("curves.png", "results.png"))
    assert curves.shape[1] > 600
    # image, truth, points, prediction: four columns of square pictures, six rows
    assert results.shape[0] > results.shape[1]
    assert results.std() > 20


def test_the_consistency_pool_may_be_the_training_images(done: Paths) -> None:
    joint = {"phase": "joint", "start": "previous", "consistency": {"pool": ["labelled"]}}
    before = (done.root / "tiny.yaml").read_text()
    path = write_config(done.root, data=POINTS, rounds=[{}, joint])
    try:
        config, _ = open_workspace(done.root)
        sources, validation, _ = gather_records(config, done, 1, 0)
    finally:
        path.write_text(before)
    own = {record.image_id for record in sources[0].records}
    assert {record.image_id for record in sources[1].records} == own
    assert all(record.points is None and not record.mask for record in sources[1].records)
    assert not own & {record.image_id for record in validation}


# --- new images ------------------------------------------------------------------------------------------------------


GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 368000.0, 5808000.0, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 25833), True),  # ETRS89 / UTM 33N
    (34737, "s", 0, "ETRS89|", True),
]


def write_photos(folder: Path) -> dict[str, tuple[int, int]]:
    """Pictures of odd sizes and kinds; the (height, width) of each by its stem."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "a.png"), rng.integers(0, 255, (33, 47, 3), np.uint8))
    cv2.imwrite(str(folder / "grey.JPG"), rng.integers(0, 255, (64, 20), np.uint8))
    cv2.imwrite(str(folder / "long.jpeg"), rng.integers(0, 255, (20, 150, 3), np.uint8))
    tifffile.imwrite(folder / "deep.tif", rng.integers(0, 65535, (40, 41, 3), np.uint16))
    place = {"photometric": "rgb", "extratags": GEO}
    tifffile.imwrite(folder / "map.tiff", rng.integers(0, 255, (70, 50, 3), np.uint8), **place)
    (folder / "notes.txt").write_text("no picture")
    return {"a": (33, 47), "grey": (64, 20), "long": (20, 150), "deep": (40, 41), "map": (70, 50)}


def test_a_folder_of_any_pictures_becomes_masks(done: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataset
    import infer
    import strips
    import validation
    from images import image_size
    from index import ImageFile
    from members import label_images

    sizes = write_photos(tmp_path / "photos")
    monkeypatch.setattr(infer, "AT_ONCE", 3)
    folder, out = tmp_path / "photos", tmp_path / "photos_masks"
    monkeypatch.chdir(folder)
    line = ["--config", str(done.root / "tiny.yaml"), "--workspace", str(done.root), "--images", "."]
    infer.main(infer.make_infer_parser().parse_args([*line, "--overlay"]))
    names = {f"{stem}_{kind}.png" for stem in sizes for kind in ("mask", "overlay")} | {"map_mask.tif"}
    assert {path.name for path in out.iterdir()} == names
    config, paths = open_workspace(done.root)
    for stem, size in sizes.items():
        mask = cv2.imread(str(out / f"{stem}_mask.png"))
        assert mask.shape == (*size, 3)
        assert cv2.imread(str(out / f"{stem}_overlay.png")).shape == (*size, 3)
        assert set(np.unique(mask)) <= {0, 255}
    path = folder / "map.tiff"
    image = ImageFile("map", path, {}, "", "test", image_size(path))
    ((_, label),) = label_images(config, paths, [image], tmp_path)
    assert (cv2.imread(str(out / "map_mask.png"))[..., 0] == label * 255).all()
    with tifffile.TiffFile(out / "map_mask.tif") as file:
        page = file.pages.first
        assert {code: page.tags[code].value for code, *_ in GEO} == {
            code: value.rstrip("\0") if isinstance(value, str) else value for code, _, _, value, _ in GEO
        }
        assert (page.asarray() == label).all()
        assert page.colormap[:, 1].tolist() == [65535] * 3
    written = {one.name: one.read_bytes() for one in out.iterdir()}
    decoded: list[str] = []
    load = dataset.load_image
    monkeypatch.setattr(validation, "load_image", lambda path, *more: decoded.append(path.name) or load(path, *more))
    monkeypatch.setattr(strips, "LARGE", 70 * 50 - 1)  # the map is read in windows, the others whole, and each once
    assert infer.label_folder(config, paths, folder, out, fresh=True) == 5
    assert sorted(decoded) == sorted({one.name for one in folder.iterdir()} - {"map.tiff", "notes.txt"})
    assert all((out / name).read_bytes() == written[name] for name in written if "overlay" not in name)
    decoded.clear()
    (out / "a_mask.png").write_text("by hand")
    (out / "map_mask.tif").unlink()
    assert infer.label_folder(config, paths, folder, out, overlay=True) == 1, "what is there stays as it is"
    assert decoded == [], "the map alone is read, in windows"
    assert (out / "a_mask.png").read_text() == "by hand"
    assert (out / "map_mask.tif").read_bytes() == written["map_mask.tif"]
    with pytest.raises(UserError, match="the images lie there"):
        infer.label_folder(config, paths, folder, folder)
    (folder / "a.jpg").write_bytes((folder / "grey.JPG").read_bytes())
    with pytest.raises(UserError, match=r"a\.png: its mask would have the name of a\.jpg's"):
        infer.label_folder(config, paths, folder, out)
    with pytest.raises(UserError, match="no PNG, JPG or TIFF there"):
        infer.label_folder(config, paths, done.root, out)


def test_a_turned_geotiff_is_refused(tmp_path: Path) -> None:
    from images import read_geo_tags

    tags = [*GEO, (274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((4, 6), np.uint8), extratags=tags)
    with pytest.raises(UserError, match="a GeoTIFF with an Orientation tag"):
        read_geo_tags(tmp_path / "t.tif")
