"""Instances with a class and a score: every format there and back, JSON files, polygons, overlaps, touching objects."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

import rle
from competitions import FORMATS
from detections import Instance, cut_instances, fill_polygons, make_disjoint, read_instances
from errors import UserError
from faults import validate_submission
from formats import Detections, find_format, read_labels, write_submission
from tables import INSTANCES, class_field, number_classes

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "formats" / "vectors"
WRITTEN = [name for name, fmt in FORMATS.items() if fmt.rows in INSTANCES and fmt.file != "polygons"]
CLASSES = ("cell", "scratch", "dust")


def as_masks(instances: list[Instance], shape: tuple[int, int], order: str) -> list[tuple[int, float, list]]:
    return [(one.class_index, one.score, rle.draw_runs(one.runs, shape, order).tolist()) for one in instances]


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_instances_come_back_with_class_score_and_pixels(tmp_path_factory, name, seed, shape):
    rng, fmt = np.random.default_rng(seed), find_format(name).model_copy(update={"size": None})
    path = tmp_path_factory.mktemp("table") / "out.csv"
    scored = fmt.rows == "detections" or "score" in fmt.columns.values()
    images = {}
    for image_id in ("7_12", "b", "ü x"):
        instances = []
        for _ in range(rng.integers(1, 5)):
            mask = rng.random(shape) < 0.6
            mask[0, 0] = True
            score = float(rng.random()) if scored else 1.0
            runs = rle.mask_runs(mask, fmt.order)
            instances.append(Instance(int(rng.integers(0, 3)) if class_field(fmt) else 0, score, runs))
        images[image_id] = make_disjoint(instances) if fmt.overlap == "forbid" else instances
    images["none"] = []
    detections = [(image_id, Detections(shape, instances)) for image_id, instances in images.items()]
    write_submission(path, fmt, CLASSES, "instances", detections)
    sizes = dict.fromkeys(images, shape)
    assert validate_submission(path, fmt, CLASSES, sizes) == []
    back = dict(read_instances(path, fmt, CLASSES, sizes))
    if fmt.file == "coco":
        del images["none"]  # results hold nothing of an image without any
    assert list(back) == list(images)
    for image_id, instances in images.items():
        assert as_masks(back[image_id], shape, fmt.order) == as_masks(instances, shape, fmt.order)
    if {"height", "width"} <= set(fmt.columns.values()) or fmt.file == "coco":
        assert list(dict(read_instances(path, fmt, CLASSES, {}))) == list(images), "the file tells the sizes"


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no real rows at {VECTORS}")
def test_real_prediction_strings_round_trip_byte_for_byte(tmp_path):
    source, path, fmt = VECTORS / "openimages_hpa" / "sample_rows.csv", tmp_path / "out.csv", find_format("hpa2021")
    found = dict(read_instances(source, fmt, fmt.classes, {}))
    assert [(one.class_index, one.score) for [one] in found.values()] == [(0, 0.637833), (16, 0.85117)]
    sizes = {"721568e01a744247": (1600, 1118), "7b018c5e3a20daba": (1066, 1600)}
    images = [(image_id, Detections(sizes[image_id], instances)) for image_id, instances in found.items()]
    write_submission(path, fmt, fmt.classes, "instances", images[::-1], source)
    assert path.read_bytes().split() == source.read_bytes().split()
    write_submission(path, fmt, fmt.classes, "instances", [], source)
    assert path.read_text().splitlines()[1] == "721568e01a744247,1118,1600,", "a missing image keeps the sample's size"
    with pytest.raises(UserError, match=r"row 2: height '1600' of '721568e01a744247', the image has 1118"):
        read_instances(source, fmt, fmt.classes, {one: size[::-1] for one, size in sizes.items()})


def test_rows_are_written_as_the_competitions_write_them(tmp_path):
    mask = np.zeros((3, 4), np.uint8)
    mask[1, 1:3] = 1
    text = rle.encode_coco_zlib(mask)
    cases = {
        "hubmap2023": f"id,height,width,prediction_string\na,3,4,0 0.5 {text}\nb,2,2,\n",
        "hpa2021": f"ID,ImageWidth,ImageHeight,PredictionString\na,4,3,0 0.5 {text}\nb,2,2,\n",
        "openimages2019": f"ImageID,ImageWidth,ImageHeight,PredictionString\na,4,3,cell 0.5 {text}\nb,2,2,\n",
        "imaterialist2019": "ImageId,EncodedPixels,ClassId\na.jpg,5 1 8 1,0\nb.jpg,,0\n",
        "imaterialist2020": "ImageId,EncodedPixels,ClassId\na,5 1 8 1,0\nb,,0\n",
    }
    for name, wanted in cases.items():
        images = [
            ("a", Detections((3, 4), [Instance(0, 0.5, rle.mask_runs(mask))])),
            ("b", Detections((2, 2), [])),
        ]
        fmt = find_format(name).model_copy(update={"size": None})
        write_submission(tmp_path / name, fmt, ("cell",), "instances", images)
        assert (tmp_path / name).read_text() == wanted
    path = tmp_path / "coco.json"
    images = [("000139", np.array([[0, 2], [1, 1]], np.int32)), ("b", np.zeros((2, 2), np.int32))]
    write_submission(path, find_format("coco"), ("cell",), "instances", images)
    counts = [rle.encode_coco(mask) for mask in (np.array([[0, 0], [1, 1]]), np.array([[0, 1], [0, 0]]))]
    assert json.loads(path.read_text()) == [
        {"image_id": 139, "category_id": 1, "segmentation": {"size": [2, 2], "counts": one}, "score": 1.0}
        for one in counts
    ]


ANNOTATIONS = {
    "images": [
        {"id": 5, "file_name": "sub/x.1.jpg", "height": 6, "width": 6},
        {"id": 6, "file_name": "y.jpg", "height": 6, "width": 6},
    ],
    "categories": [{"id": 90, "name": "cell"}, {"id": 7, "name": "dust"}, {"id": 8, "name": "hair"}],
    "annotations": [
        {"image_id": 5, "category_id": 7, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "iscrowd": 0},
        {"image_id": 5, "category_id": 90, "segmentation": {"size": [6, 6], "counts": [0, 2, 34]}},
        {"image_id": 5, "category_id": 90, "segmentation": {"size": [6, 6], "counts": [0, 36]}, "iscrowd": 1},
        {"image_id": 5, "category_id": 8, "segmentation": {"size": [6, 6], "counts": [0, 36]}},
    ],
}


def test_a_coco_annotation_file_names_images_and_classes(tmp_path, caplog):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(ANNOTATIONS))
    with caplog.at_level(logging.WARNING):
        found = dict(read_instances(path, "coco", CLASSES, {}))
    assert "1 annotations of crowds" in caplog.text
    assert "1 annotations of classes other than" in caplog.text
    assert list(found) == ["sub/x.1", "y"]
    assert found["y"] == []
    dust, cell = found["sub/x.1"]
    wanted = np.zeros((6, 6), int)
    wanted[1:3, 1:4] = 1
    assert (dust.class_index, cell.class_index) == (2, 0)
    assert rle.draw_runs(dust.runs, (6, 6)).tolist() == wanted.tolist()
    assert cell.runs[1].tolist() == [2]
    labels = dict(read_labels(path, FORMATS["coco"], ["sky", *CLASSES], "multiclass", dict.fromkeys(found, (6, 6))))
    assert labels["sub/x.1"].tolist() == (wanted * 3 + np.pad([[1], [1]], ((0, 4), (0, 5)))).tolist()
    assert not labels["y"].any()


def test_coco_results_carry_the_category_ids_of_the_annotations(tmp_path):
    source, path = tmp_path / "instances.json", tmp_path / "results.json"
    sizes = dict.fromkeys(("sub/x.1", "y"), (6, 6))
    source.write_text(json.dumps(ANNOTATIONS))
    fmt, classes = number_classes(FORMATS["coco"], source), ["sky", "cell", "dust"]
    labels = dict(read_labels(source, fmt, classes, "multiclass", sizes))
    write_submission(path, fmt, classes, "multiclass", labels.items(), source)
    assert [one["category_id"] for one in json.loads(path.read_text())] == [90, 7]
    assert validate_submission(path, fmt, classes, sizes) == []
    [(_, back)] = read_labels(path, fmt, classes, "multiclass", sizes)
    assert back.tolist() == labels["sub/x.1"].tolist()
    assert number_classes(FORMATS["coco"], path) is FORMATS["coco"], "results name no categories"
    with pytest.raises(UserError, match=r"'nut' is no category of .*instances.json: cell, dust, hair; rename it"):
        write_submission(path, fmt, ["nut"], "instances", [])
    source.write_text('{"categories": [5]}')
    with pytest.raises(UserError, match=r"instances.json: no COCO file whose categories have an id and a name"):
        number_classes(FORMATS["coco"], source)


def test_polygon_lines_give_instances(tmp_path):
    path = tmp_path / "polygons.jsonl"
    square = [[[1, 1], [3, 1], [3, 3], [1, 3]]]
    lines = [
        {"id": "a", "annotations": [{"type": "vessel", "coordinates": square}, {"type": "x", "coordinates": square}]},
        {"id": "b", "annotations": []},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    labels = dict(read_labels(path, FORMATS["hubmap2023_train"], ["vessel"], "instances", {"a": (5, 6), "b": (5, 6)}))
    wanted = np.zeros((5, 6), int)
    wanted[1:4, 1:4] = 1
    assert labels["a"].tolist() == wanted.tolist()
    assert not labels["b"].any()
    with pytest.raises(UserError, match=r"polygons.jsonl row 1: a polygon leaves the image; the image is 3x1"):
        dict(read_instances(path, "hubmap2023_train", ["vessel"], {"a": (3, 1), "b": (3, 1)}))
    with pytest.raises(UserError, match="read, not written"):
        write_submission(tmp_path / "x", FORMATS["hubmap2023_train"], ["vessel"], "instances", [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 70)), min_size=3, max_size=7))
def test_cocos_polygons_hold_the_pixels_whose_centre_lies_inside(points):
    ring = np.array(points) / 10
    mask = fill_polygons([ring], (7, 9), "coco")
    rows, columns = np.mgrid[:7, :9]
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
    inside, sure = (Outline(ring).contains_points(centres, radius=radius) for radius in (1e-6, -1e-6))
    crossing = inside != sure  # a centre on the outline may fall either way
    loose = (mask.ravel() != inside) & ~crossing
    twice = _winding(ring, centres) % 2 == 0  # matplotlib fills what is wound around twice, COCO does not say
    assert not (loose & ~twice).any()


def _winding(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How often a ray to the right of each point crosses the ring."""
    crossings = np.zeros(len(points), int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        spans = (y0 > points[:, 1]) != (y1 > points[:, 1])
        at = x0 + (points[:, 1] - y0) / (y1 - y0 if y1 != y0 else 1) * (x1 - x0)
        crossings += spans & (points[:, 0] < at)
    return crossings


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_the_higher_score_keeps_shared_pixels(seed, count):
    rng = np.random.default_rng(seed)
    masks = [rng.random((5, 6)) < 0.3 for _ in range(count)]
    scores = [float(one) for one in rng.integers(0, 3, count)]
    given_instances = [Instance(0, score, rle.mask_runs(mask)) for mask, score in zip(masks, scores, strict=True)]
    taken, wanted = np.zeros((5, 6), bool), {}
    for place in sorted(range(count), key=lambda place: (-scores[place], place)):
        wanted[place] = masks[place] & ~taken
        taken |= masks[place]
    wanted = [wanted[place].tolist() for place in sorted(wanted)]
    disjoint = [rle.draw_runs(one.runs, (5, 6)).astype(bool).tolist() for one in make_disjoint(given_instances)]
    assert [one for one in disjoint if np.any(one)] == [one for one in wanted if np.any(one)]


def test_forbidden_overlap_is_resolved_when_written(tmp_path):
    strong, weak = np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]])
    instances = [Instance(0, 0.2, rle.mask_runs(weak)), Instance(0, 0.9, rle.mask_runs(strong))]
    write_submission(tmp_path / "a", FORMATS["airbus"], ["x"], "instances", [("a", Detections((1, 4), instances))])
    assert (tmp_path / "a").read_text() == "ImageId,EncodedPixels\na.jpg,3 1\na.jpg,1 2\n"
    write_submission(tmp_path / "b", FORMATS["instance"], ["x"], "instances", [("a", Detections((1, 4), instances))])
    assert (tmp_path / "b").read_text() == "id,rle\na,2 2\na,1 2\n"


def test_what_touches_is_parted_where_asked():
    rows, columns = np.mgrid[:60, :60]
    mask = np.uint8(np.minimum(np.hypot(rows - 20, columns - 20), np.hypot(rows - 20, columns - 36)) <= 9)
    together, apart = (cut_instances(mask, "binary", "F", separate=one) for one in (False, True))
    assert (len(together), len(apart)) == (1, 2)


def test_semantic_masks_become_instances_of_their_classes():
    label = np.array([[1, 1, 0, 2], [0, 0, 0, 0], [1, 0, 2, 2]], np.uint8)
    found = cut_instances(label, "multiclass", "C")
    assert [(one.class_index, int(one.runs[1].sum())) for one in found] == [(1, 2), (1, 1), (2, 1), (2, 2)]
    found = cut_instances(np.dstack([label == 1, label == 2]).astype(np.uint8), "multilabel", "C")
    assert [(one.class_index, int(one.runs[1].sum())) for one in found] == [(0, 2), (0, 1), (1, 1), (1, 2)]
    found = cut_instances(label.astype(np.int32), "instances", "C", details={2: (3, 0.5)})
    assert [(one.class_index, one.score) for one in found] == [(0, 1.0), (3, 0.5)]
