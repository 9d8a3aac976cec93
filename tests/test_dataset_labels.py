"""What training reads: targets of every kind of label, points, and images of any depth."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from test_dataset import RAW, STILL, make_config

from artifacts import Paths
from config import Image
from dataset import Record, Source, TrainingDataset, load_image, load_label, make_records, part_soft_instances
from errors import UserError
from images import write_mask
from make_pseudo_labels import write_label
from settings import parse_config
from stores import ProbabilityWriter
from train import count_classes
from transforms import UNKNOWN_INSTANCE, instance_classes


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "t")


def test_instance_targets_have_borders_and_doubt(paths: Paths) -> None:
    ids = np.zeros((32, 32), np.int32)
    ids[4:20, 4:16], ids[4:20, 16:28] = 1, 700
    ids[6, 6] |= UNKNOWN_INSTANCE
    write_mask(paths.root / "m.png", ids)
    cv2.imwrite(str(paths.root / "a.png"), np.zeros((32, 32, 3), np.uint8))
    source = [Source("pseudo", [Record("a", "a.png", (32, 32), "m.png")], 1)]
    for foreground in (0.0, 1.0):
        config = make_config("instances", STILL | {"foreground": foreground})
        target = TrainingDataset(source, config, paths, 0, 0)[(0, 0)]["target"].numpy()
        assert target[6, 6] == 255
        assert (target == 255).sum() == 1
        assert (target[8:16, 15:17] == 2).all()
        assert (target[8:16, 6:14] == 1).all()
        assert (target[22:] == 0).all()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "instances"])
def test_a_soft_or_absent_label_has_its_shape(task: str, paths: Paths) -> None:
    config = make_config(task, STILL)
    cv2.imwrite(str(paths.root / "a.png"), np.zeros((32, 32, 3), np.uint8))
    absent = Record("a", "a.png", (32, 32))
    label = load_label(absent, config, paths, (32, 32))
    target = TrainingDataset([Source("labelled", [absent], 1)], config, paths, 0, 0)[(0, 0)]["target"]
    assert label.shape == ((32, 32, 2) if task == "multilabel" else (32, 32))
    assert (target == 255).all()
    soft = np.random.default_rng(0).random((config.channels, 32, 32)).astype(np.float32)
    with ProbabilityWriter(paths.root / "soft.zarr") as writer:
        writer.add("a", soft)
    record = Record("a", "a.png", (32, 32), soft="soft.zarr")
    target = TrainingDataset([Source("pseudo", [record], 1)], config, paths, 0, 0)[(0, 0)]["target"]
    assert target.dtype == torch.float32
    if task == "instances":  # where the border runs is drawn anew
        np.testing.assert_allclose(target.sum(0), 1.0, atol=1e-6)
        soft, target = soft[:1], target[:1]
    np.testing.assert_allclose(target, soft, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("zoom", [0.4, 1.0, 1.7])
def test_a_soft_border_is_as_wide_as_a_mask_s_at_every_zoom(zoom: float, paths: Paths) -> None:
    ids = np.zeros((160, 160), np.uint16)
    for number, centre in enumerate([(40, 50), (64, 50), (90, 110), (120, 40), (120, 64), (30, 120)], 1):
        disc = cv2.circle(np.zeros(ids.shape, np.uint8), centre[::-1], 13, 1, -1) > 0
        ids[disc & (ids == 0)] = number
    cv2.imwrite(str(paths.root / "a.png"), np.zeros((160, 160, 3), np.uint8))
    write_mask(paths.root / "m.png", ids.astype(np.int32))
    classes = instance_classes(ids, 1)
    with ProbabilityWriter(paths.root / "soft.zarr") as writer:
        writer.add("a", (classes == np.arange(3)[:, None, None]).astype(np.float32))
    augment = STILL | {"crop": round(160 * zoom) // 32 * 32, "scale": [zoom, zoom]}
    config = make_config("instances", augment)
    targets = []
    for label in ({"mask": "m.png"}, {"soft": "soft.zarr"}):
        source = [Source("pseudo", [Record("a", "a.png", (160, 160), **label)], 1)]
        targets.append(TrainingDataset(source, config, paths, 0, 0)[(0, 0)]["target"].numpy())
    mask, soft = targets[0], targets[1].argmax(0)
    assert (mask == 2).sum() > 100
    assert (soft == mask).mean() > 0.99
    assert (soft == 2).sum() == pytest.approx((mask == 2).sum(), rel=0.05)


def test_more_instances_than_ids_are_told(paths: Paths) -> None:
    soft = np.zeros((3, 400, 400), np.float32)
    soft[0] = 1.0
    soft[:, ::2, ::2] = np.float32([0.0, 1.0, 0.0])[:, None, None]
    message = "^a: more than 32767 instances; cut the image into parts$"
    with pytest.raises(UserError, match=message):
        part_soft_instances(np.rint(soft.transpose(1, 2, 0) * 255).astype(np.uint8), 0.8, "a")
    label = np.zeros((400, 400), np.int32)
    label[::2, ::2] = np.arange(1, 40001).reshape(200, 200)
    with pytest.raises(UserError, match=message):
        write_label(paths, paths.root, "a", label, label >= 0, soft, "instances", None)


def test_a_mask_of_one_label_keeps_its_axis(paths: Paths) -> None:
    config = parse_config(
        {"name": "t", "task": "multilabel", "classes": ["a"], "train": {"augment": {"crop": 16}}, "image": RAW}
    )
    write_mask(paths.root / "m.tif", np.ones((40, 40, 1), np.uint8))
    cv2.imwrite(str(paths.root / "a.png"), np.zeros((40, 40, 3), np.uint8))
    record = Record("a", "a.png", (40, 40), "m.tif")
    assert load_label(record, config, paths, (20, 20)).shape == (20, 20, 1)
    sample = TrainingDataset([Source("labelled", [record], 1)], config, paths, 0, 0)[(0, 0)]
    assert sample["target"].shape == (1, 16, 16)


def test_points_are_drawn_at_the_working_scale(paths: Paths) -> None:
    record = Record("a", "a.png", (40, 100), points=np.int32([[99, 0, 1], [50, 31, 0]]))
    label = load_label(record, make_config(), paths, (20, 50))
    assert label[0, 49] == 1
    assert label[15, 25] == 0
    assert (label != 255).sum() == 2


def test_records_prefer_a_mask_to_points() -> None:
    columns = ["image_id", "image", "mask", "points", "height", "width"]
    rows = [("a", "a.png", "a_m.png", 3, 4, 5), ("b", "b.png", "", 2, 4, 5), ("c", "c.png", "", 0, 4, 5)]
    points = pd.DataFrame([("b", 1, 2, 0), ("a", 0, 0, 1), ("b", 2, 2, 1)], columns=["image_id", "x", "y", "class"])
    a, b, c = make_records(pd.DataFrame(rows, columns=columns), points)
    assert (a.mask, a.points) == ("a_m.png", None)
    assert b.points.tolist() == [[1, 2, 0], [2, 2, 1]]
    assert (c.mask, c.points) == ("", None)
    assert a.size == (4, 5)


@pytest.mark.parametrize("kind", ["uint16", "float32", "uint8"])
@pytest.mark.parametrize("normalising", ["fixed", "image"])
def test_every_depth_reaches_one(tmp_path: Path, kind: str, normalising: str) -> None:
    values = np.random.default_rng(0).random((20, 30, 3))
    values[0, 0] = 1.0
    values[0, 1] = 0.0
    scale = {"uint16": 65535, "float32": 1.0, "uint8": 255}[kind]
    stored = (values * scale).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb")
    settings = Image(normalise=normalising)
    image, mean, std = load_image(tmp_path / "a.tif", settings)
    top = 255 if kind == "uint8" else 1.0
    assert image.dtype == (np.uint8 if kind == "uint8" else np.float32)
    np.testing.assert_allclose(image / top, values, atol=1 / 250)
    expected = (values.mean((0, 1)), values.std((0, 1))) if normalising == "image" else ((0.5,) * 3, (0.5,) * 3)
    np.testing.assert_allclose(mean, expected[0], atol=5e-3)
    np.testing.assert_allclose(std, expected[1], atol=5e-3)


def test_float_images_beyond_one_are_stretched_or_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(300, 90, (20, 30, 1)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values[..., 0])
    image, mean, std = load_image(tmp_path / "a.tif", Image(channels=1, normalise="image"))
    assert image.min() == 0.0
    assert image.max() == 1.0
    np.testing.assert_allclose((image - mean) / std, (values - values.mean()) / values.std(), atol=1e-3)
    with pytest.raises(UserError, match=r"a\.tif: values from .* image.normalise=image"):
        load_image(tmp_path / "a.tif", Image(channels=1, mean=(0.5,), std=(0.5,)))


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_photometry_does_not_drown_a_dark_image(tmp_path: Path, kind: type) -> None:
    """Of 12 bits in 16, noise in shares of the whole scale would leave nothing."""
    rng = np.random.default_rng(0)
    values = np.kron(rng.random((8, 8)), np.ones((8, 8)))
    top = {np.uint16: 4095, np.float32: 0.01}[kind]
    tifffile.imwrite(tmp_path / "a.tif", (values * top).astype(kind))
    settings = {"channels": 1, "normalise": "image"}
    augment = {"crop": 64, "scale": [1, 1], "colour": 0.4, "noise": 1.0, "flips": False, "rotate90": False}
    config = parse_config({"name": "t", "image": settings, "train": {"augment": augment | {"blur": 0.0}}})
    dataset = TrainingDataset(
        [Source("labelled", [Record("a", "a.tif", (64, 64))], 1)], config, Paths(tmp_path, "t"), 0, 0
    )
    for number in range(12):
        view = dataset[(0, number)]["image"][0].numpy()
        assert np.corrcoef(view.ravel(), values.ravel())[0, 1] > 0.9


def test_cutmix_normalises_each_image_by_itself(tmp_path: Path) -> None:
    """One of 8 bits and bright, the other of 16 and dark."""
    pixels, records = np.random.default_rng(0).integers(0, 100, (32, 32)), []
    for name, kind, low in (("a", np.uint8, 120), ("b", np.uint16, 500)):
        tifffile.imwrite(tmp_path / f"{name}.tif", (pixels + low).astype(kind))
        records.append(Record(name, f"{name}.tif", (32, 32)))
    still = {"crop": 32, "scale": [1, 1], "colour": 0, "noise": 0, "blur": 0, "flips": False, "rotate90": False}
    settings = {"channels": 1, "normalise": "image"}
    config = parse_config({"name": "t", "image": settings, "train": {"augment": still | {"cutmix": 1.0}}})
    dataset = TrainingDataset([Source("labelled", records, 1)], config, Paths(tmp_path, "t"), 0, 0)
    wanted = (pixels - pixels.mean()) / pixels.std()
    for number in range(8):
        np.testing.assert_allclose(dataset[(0, number)]["image"][0], wanted, atol=0.02)


def test_cutmix_keeps_instances_of_two_images_apart(tmp_path: Path) -> None:
    """Both have but the instance 1, which is everywhere: a border runs where one image ends."""
    records = []
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((32, 32, 3), np.uint8))
        write_mask(tmp_path / f"{name}_mask.png", np.ones((32, 32), np.int32))
        records.append(Record(name, f"{name}.png", (32, 32), f"{name}_mask.png"))
    values = {"name": "t", "task": "instances", "classes": ["a"], "postprocess": {"border_width": 1}}
    config = parse_config(values | {"train": {"augment": {"crop": 32, "scale": [1, 1], "cutmix": 1.0}}})
    dataset = TrainingDataset([Source("labelled", records, 1)], config, Paths(tmp_path, "t"), 0, 0)
    for number in range(4):
        target = dataset[(0, number)]["target"].numpy()
        assert set(np.unique(target)) == {1, 2}


def test_class_weights_of_instances_are_counted_where_their_border_is_drawn(paths: Paths) -> None:
    """At the working scale: twice as large, an instance has half as much border."""
    ids = np.zeros((20, 20), np.int32)
    ids[4:16, 4:16] = 1
    write_mask(paths.root / "m.png", ids)
    values = {"name": "t", "task": "instances", "image": {"scale": 2}, "postprocess": {"border_width": 2}}
    weights = count_classes(parse_config(values), paths, [Record("a", "a.png", (20, 20), "m.png")], "frequency")
    counts = np.bincount(instance_classes(np.kron(ids, np.ones((2, 2))).astype(np.uint16), 2).ravel())
    np.testing.assert_allclose(weights.numpy(), 40 * 40 / 3 / counts, rtol=1e-5)


def test_points_of_an_elongated_image_stay_in_their_place(tmp_path: Path) -> None:
    """Its short side is rounded for itself: by the other's factor, a point would land beside its pixel."""
    size, shape = (31, 3000), (10, 1000)
    points = np.int32([[x, 15, 0] for x in (0, 1499, 2999)])
    config = parse_config({"name": "t", "image": {"long_side": 1000}})
    label = load_label(Record("a", "a.png", size, points=points), config, Paths(tmp_path, "t"), shape)
    assert np.argwhere(label == 0).tolist() == [[5, 0], [5, 499], [5, 999]]
