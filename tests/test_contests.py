"""Submissions scored as their competitions do: against other libraries, plain loops and numbers worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, fbeta_score, jaccard_score

import rle
from answers import Sizes
from competitions import FORMATS
from contests import Part, score_files
from errors import UserError
from formats import write_submission
from rules import RULES
from surfaces import boundary_f, surface_dice

IDS = {
    "uwmgi": ["case1_day2_slice_0001", "case1_day2_slice_0002", "case1_day3_slice_0001", "case1_day3_slice_0002"],
    "sennet": ["kidney_1_0000", "kidney_1_0001", "kidney_2_0000", "kidney_2_0001"],
    "coco": ["1", "2", "3", "4"],
    "epfl_roads": ["001", "002", "003", "004"],
}
COUNTED = ("openimages2019", "coco", "image_class")
Labels = list[np.ndarray]


def classes_of(name: str) -> tuple[str, ...]:
    if RULES[name].task == "multiclass":
        return ("nothing", "cat", "dog")
    return FORMATS[name].classes or (("c1", "c2") if name in COUNTED else ("foreground",))


def task_of(name: str) -> str:
    return {"detections": "instances", "patches": "binary"}.get(RULES[name].task, RULES[name].task)


def make_labels(name: str, seed: int = 0, side: int = 48) -> Labels:
    """Four square label arrays that a transposition changes; the last is empty."""
    rng, task = np.random.default_rng(seed), task_of(name)
    side = FORMATS[name].size[0] if FORMATS[name].size else side
    labels = []
    for number in range(4):
        depth = len(classes_of(name)) if task == "multilabel" else 1
        label = np.zeros((side, side, depth), np.int32)
        for layer in range(depth):
            for value in range(1, 4 if number < 3 else 1):
                y, x = rng.integers(0, side // 2, 2)
                value = min(value, {"instances": 3, "multiclass": 2}.get(task, 1))
                label[y : y + side // 4, x : x + side // 3, layer] = value
        labels.append(label if task == "multilabel" else label[..., 0])
    return labels if task == "instances" else [label.astype(np.uint8) for label in labels]


def write(path: Path, name: str, labels: Labels) -> Path:
    ids = IDS.get(name, ["a", "b", "c", "d"])
    write_submission(path, FORMATS[name], classes_of(name), task_of(name), zip(ids, labels, strict=True))
    return path


def scored(name: str, submission: Path, solution: Path, **sizes: Any) -> dict[str, float]:
    return score_files(name, submission, solution, Sizes(**sizes))[0].scores


def first(scores: dict[str, float]) -> float:
    return next(iter(scores.values()))


def write_table(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("name", [name for name in RULES if name != "clouds"])
def test_the_truth_scores_best_a_part_less_and_a_transpose_less(name: str, tmp_path: Path) -> None:
    labels = make_labels(name)
    size = labels[0].shape[:2]
    truth = write(tmp_path / "truth.csv", name, labels)
    sizes = {} if FORMATS[name].size else {"all": size}
    best = 0.9 if RULES[name].composite else 1.0  # the weights of that page add up to 0.9
    assert first(scored(name, truth, truth, **sizes)) == pytest.approx(best)
    part = [label * (np.arange(size[1]) < size[1] // 3).reshape(1, -1, *[1] * (label.ndim - 2)) for label in labels]
    turned = [label.swapaxes(0, 1) for label in labels]
    for worse in (part, turned):
        answer = write(tmp_path / "answer.csv", name, [label.astype(labels[0].dtype) for label in worse])
        assert first(scored(name, answer, truth, **sizes)) < 0.9 * best


def test_every_competition_has_a_rule() -> None:
    assert {name for name in FORMATS if not name.endswith("_train")} == set(RULES)


def test_the_order_of_rows_and_instances_does_not_matter(tmp_path: Path) -> None:
    for name in ("airbus", "severstal", "uwmgi", "hpa2021", "sennet"):
        labels, others = make_labels(name), make_labels(name, seed=1)
        truth, answer = write(tmp_path / "truth.csv", name, labels), write(tmp_path / "answer.csv", name, others)
        before = scored(name, answer, truth, all=(48, 48))
        header, *rows = answer.read_text().splitlines()
        write_table(answer, header, *rows[::-1])
        assert scored(name, answer, truth, all=(48, 48)) == pytest.approx(before)


def test_three_ways_to_average_dice(tmp_path: Path) -> None:
    """Three images of 4x4: 4 pixels of 8 found (Dice 4 * 2 / 12), nothing on either side, and one false pixel."""
    solution = write_table(tmp_path / "a.csv", "id,rle", "a,1 8", "b,", "c,")
    answer = write_table(tmp_path / "b.csv", "id,rle", "a,1 4", "b,", "c,16 1")
    assert scored("image", answer, solution, all=(4, 4)) == {"dice": pytest.approx((2 / 3 + 1 + 0) / 3)}
    solution = write_table(tmp_path / "a.csv", "record_id,encoded_pixels", "a,1 8", "b,-", "c,-")
    answer = write_table(tmp_path / "b.csv", "record_id,encoded_pixels", "a,1 4", "b,-", "c,16 1")
    assert scored("contrails", answer, solution) == {"dice": pytest.approx(8 / 13)}
    names = [f"{image}.jpg_{index}" for image in "ab" for index in range(1, 5)]
    texts = ["1 8", "", "", "", "", "", "", ""]
    lines = [f"{name},{text}" for name, text in zip(names, texts, strict=True)]
    solution = write_table(tmp_path / "a.csv", "ImageId_ClassId,EncodedPixels", *lines)
    lines[0], lines[7] = "a.jpg_1,1 4", "b.jpg_4,7 2"
    answer = write_table(tmp_path / "b.csv", "ImageId_ClassId,EncodedPixels", *lines)
    assert scored("severstal", answer, solution) == {"dice": pytest.approx((2 / 3 + 6 + 0) / 8)}


def test_tgs_and_its_public_and_private_parts(tmp_path: Path) -> None:
    """8 of 10 pixels: an IoU of 0.8, which is above six of the ten thresholds."""
    rows = ("a,1 8,Public", "b,,Public", "c,5 4,Private", "d,9 9,Ignored")
    solution = write_table(tmp_path / "a.csv", "id,rle_mask,Usage", *rows)
    answer = write_table(tmp_path / "b.csv", "id,rle_mask", "c,5 4", "d,", "a,1 10", "b,")
    assert score_files("tgs_salt", answer, solution, Sizes()) == [
        Part("all", 3, {"map": pytest.approx((0.6 + 1 + 1) / 3)}),
        Part("public", 2, {"map": pytest.approx(0.8)}),
        Part("private", 1, {"map": 1.0}),
    ]


def test_instances_with_the_sizes_the_solution_tells(tmp_path: Path) -> None:
    """Image a of 2x6: two objects of 4 pixels, column-major; one found whole, one by 3 pixels, and a false one."""
    rows = ("a,1 4,2,6,Public", "a,5 4,2,6,Public", "b,1 1,3,3,Private")
    solution = write_table(tmp_path / "a.csv", "ImageId,EncodedPixels,Height,Width,Usage", *rows)
    answer = write_table(tmp_path / "b.csv", "ImageId,EncodedPixels", "a,9 2", "a,6 3", "a,1 4", "b,9 1")
    # an IoU of 0.75 is above 0.5 ... 0.7: five times 2 / 3, then five times 1 / 4
    parts = score_files("dsb2018", answer, solution, Sizes())
    precision = (5 * 2 / 3 + 5 * 1 / 4) / 10
    assert [part.scores["map"] for part in parts] == pytest.approx([precision / 2, precision, 0.0])
    solution.write_text(solution.read_text().replace("3,3", "1,4"))
    with pytest.raises(UserError, match=r"b.csv row 5: 9 lies beyond the image .*; the image is 1x4"):
        score_files("dsb2018", answer, solution, Sizes())


def test_airbus_weighs_misses(tmp_path: Path) -> None:
    header = "ImageId,EncodedPixels"
    solution = write_table(tmp_path / "a.csv", header, "a.jpg,1 4", "a.jpg,9 4", "b.jpg,", "c.jpg,")
    answer = write_table(tmp_path / "b.csv", header, "a.jpg,1 4", "b.jpg,", "c.jpg,1 1")
    assert scored("airbus", answer, solution) == {"f2": pytest.approx((5 / (5 + 4) + 1 + 0) / 3)}


def test_an_instance_of_another_class_is_no_hit(tmp_path: Path) -> None:
    header = "ImageId,EncodedPixels,ClassId"
    solution = write_table(tmp_path / "a.csv", header, "a.jpg,1 4,6", "a.jpg,9 4,33")
    answer = write_table(tmp_path / "b.csv", header, "a.jpg,1 4,6", "a.jpg,9 4,23")
    assert scored("imaterialist2019", answer, solution) == {"map": pytest.approx(1 / 3)}
    solution = write_table(tmp_path / "c.csv", f"Height,Width,{header}", "8,8,a.jpg,1 4,6")
    with pytest.raises(UserError, match=r"c.csv: image 'a' is 8x8, but 512x512 is scored"):
        score_files("imaterialist2019", answer, solution, Sizes(), "imaterialist2019_train")


def test_f_half_of_fragments_agrees_with_scikit_learn(tmp_path: Path) -> None:
    labels, others = make_labels("vesuvius"), make_labels("vesuvius", seed=3)
    truth, answer = write(tmp_path / "a.csv", "vesuvius", labels), write(tmp_path / "b.csv", "vesuvius", others)
    wanted = [
        fbeta_score(one.ravel(), two.ravel(), beta=0.5) for one, two in list(zip(labels, others, strict=True))[:3]
    ]
    assert scored("vesuvius", answer, truth, all=(48, 48)) == {"f0.5": pytest.approx(np.mean(wanted))}


def test_uw_madison_agrees_with_scipy(tmp_path: Path) -> None:
    labels, others = make_labels("uwmgi", side=16), make_labels("uwmgi", seed=5, side=16)
    others[3][..., 2] = labels[3][..., 2] = 0
    truth, answer = write(tmp_path / "a.csv", "uwmgi", labels), write(tmp_path / "b.csv", "uwmgi", others)
    dices, lengths = [], []
    for day in (slice(0, 2), slice(2, 4)):
        for index in range(3):
            true, said = (np.stack([one[..., index] for one in side[day]]) for side in (labels, others))
            pairs = [(one.ravel(), two.ravel()) for one, two in zip(true, said, strict=True)]
            dices += [f1_score(*pair) for pair in pairs if pair[0].any() or pair[1].any()]
            ours, theirs = (np.argwhere(one) / true.shape for one in (true, said))
            if len(ours) and len(theirs):
                both = (directed_hausdorff(ours, theirs)[0], directed_hausdorff(theirs, ours)[0])
                lengths.append(max(both) / math.sqrt(3))
            elif len(ours) or len(theirs):
                lengths.append(1.0)
    scores = scored("uwmgi", answer, truth, all=(16, 16))
    assert scores["dice"] == pytest.approx(np.mean(dices))
    assert scores["hausdorff"] == pytest.approx(np.mean(lengths))
    assert first(scores) == pytest.approx(0.4 * np.mean(dices) + 0.6 * (1 - np.mean(lengths)))


def test_uw_madison_by_hand(tmp_path: Path) -> None:
    """A volume of 2 slices of 4x4. The large bowel: one pixel, found a column aside; the small: missed; no stomach."""
    header = "id,class,predicted"
    kinds = ("large_bowel", "small_bowel", "stomach")
    names = [f"case1_day1_slice_000{number},{kind}" for number in (1, 2) for kind in kinds]
    rows = [f"{name}," for name in names]
    solution = write_table(tmp_path / "a.csv", header, rows[0] + "1 1", rows[1] + "3 2", *rows[2:])
    answer = write_table(tmp_path / "b.csv", header, rows[0] + "2 1", *rows[1:])
    scores = scored("uwmgi", answer, solution, all=(4, 4))
    assert scores["dice"] == 0.0  # of two planes; four empty ones are left out
    assert scores["hausdorff"] == pytest.approx((0.25 / math.sqrt(3) + 1) / 2)


def test_sennet_is_a_mean_of_volumes(tmp_path: Path) -> None:
    labels, others = make_labels("sennet"), make_labels("sennet", seed=1)
    others[0] = labels[0]
    truth, answer = write(tmp_path / "a.csv", "sennet", labels), write(tmp_path / "b.csv", "sennet", others)
    kidneys = (slice(0, 2), slice(2, 4))
    ratios = [surface_dice(*(np.stack(side[kidney]) for side in (labels, others))) for kidney in kidneys]
    wanted = np.mean([part / whole for part, whole in ratios])
    assert scored("sennet", answer, truth, all=(48, 48)) == {"surface_dice": pytest.approx(wanted)}


def detection(label: str, score: float, start: int, length: int) -> str:
    """A run down the columns of an image of 8x8."""
    return f"{label} {score} {rle.join_coco_zlib((np.array([start]), np.array([length])), 64)}"


def test_detections_by_hand(tmp_path: Path) -> None:
    """Class 0, a true bar in a and in b, by confidence: found (0.9), false (0.8), found with an IoU of 7 / 10 (0.7).
    The precision is 1 up to a recall of 1/2, then 2/3. Class 3: an IoU of 5 / 10, below 0.6. Class 7 is never true."""
    header = "ID,ImageWidth,ImageHeight,PredictionString"
    true_a, true_b = [detection("0", 1, 0, 10), detection("3", 1, 20, 10)], [detection("0", 1, 30, 10)]
    solution = write_table(
        tmp_path / "a.csv", header, f"a,8,8,{' '.join(true_a)}", f"b,8,8,{' '.join(true_b)}", "c,8,8,"
    )
    said_a = [detection("0", 0.9, 0, 10), detection("3", 0.5, 20, 5), detection("7", 0.99, 50, 5)]
    said_b = [detection("0", 0.8, 50, 10), detection("0", 0.7, 30, 7)]
    answer = write_table(tmp_path / "b.csv", header, f"a,8,8,{' '.join(said_a)}", f"b,8,8,{' '.join(said_b)}", "c,8,8,")
    assert scored("hpa2021", answer, solution) == {"map": pytest.approx(((0.5 + 0.5 * 2 / 3) + 0) / 2)}


def test_coco_results_against_annotations(tmp_path: Path) -> None:
    square = [2, 2, 10, 2, 10, 10, 2, 10]
    images = [{"id": 7, "file_name": "000000000012.jpg", "height": 20, "width": 20}]
    categories = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    annotation = {"image_id": 7, "category_id": 9, "segmentation": [square]}
    data = {"images": images, "categories": categories, "annotations": [annotation]}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    mask = np.zeros((20, 20), np.uint8)
    mask[2:10, 2:9] = 1  # 56 of 64 pixels: an IoU of 0.875, which reaches eight of the ten thresholds
    counts = {"size": [20, 20], "counts": rle.encode_coco(mask)}
    result = {"image_id": 12, "category_id": 9, "segmentation": counts, "score": 0.5}
    (tmp_path / "answer.json").write_text(json.dumps([result]))
    assert scored("coco", tmp_path / "answer.json", tmp_path / "truth.json") == {"map": pytest.approx(0.8)}
    (tmp_path / "answer.json").write_text("[]")
    assert scored("coco", tmp_path / "answer.json", tmp_path / "truth.json") == {"map": 0.0}
    never_true = [result | {"category_id": number, "score": 0.9} for number in (3, 10)]
    (tmp_path / "answer.json").write_text(json.dumps([*never_true, result]))
    assert scored("coco", tmp_path / "answer.json", tmp_path / "truth.json") == {"map": pytest.approx(0.8)}


def test_prediction_strings_against_polygons(tmp_path: Path) -> None:
    square = [[[2, 2], [6, 2], [6, 6], [2, 6]]]  # 5x5 pixels, as the border's own belong to it
    entries = [{"type": "blood_vessel", "coordinates": square}, {"type": "unsure", "coordinates": square}]
    (tmp_path / "truth.jsonl").write_text(json.dumps({"id": "a", "annotations": entries}) + "\n")
    header = "id,height,width,prediction_string"
    for columns, wanted in ((3, 1.0), (2, 0.0)):  # IoU 3 / 5, which reaches 0.6, and 2 / 5
        runs = np.array([8 * x + 2 for x in range(2, 2 + columns)]), np.full(columns, 5)
        text = f"0 0.5 {rle.join_coco_zlib(runs, 64)}"
        answer = write_table(tmp_path / "b.csv", header, f"a,8,8,{text}")
        assert scored("hubmap2023", answer, tmp_path / "truth.jsonl") == {"map": wanted}


def test_a_class_that_is_never_true_does_not_count(tmp_path: Path) -> None:
    header = "ImageID,ImageWidth,ImageHeight,PredictionString"
    solution = write_table(tmp_path / "a.csv", header, f"a,8,8,{detection('/m/cat', 1, 0, 10)}")
    said = f"{detection('/m/cow', 1, 0, 10)} {detection('/m/cat', 0.5, 0, 6)}"
    answer = write_table(tmp_path / "b.csv", header, f"a,8,8,{said}")
    assert scored("openimages2019", answer, solution) == {"map": 1.0}


def test_patches_agree_with_scikit_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"{image:03}_{x}_{y}" for image in (1, 2) for x in range(0, 64, 16) for y in range(0, 48, 16)]
    true, said = rng.integers(0, 2, (2, len(names)))
    paths = []
    for path, values in ((tmp_path / "a.csv", true), (tmp_path / "b.csv", said)):
        paths.append(write_table(path, "id,prediction", *(f"{n},{v}" for n, v in zip(names, values, strict=True))))
    assert scored("epfl_roads", paths[1], paths[0]) == {"f1": pytest.approx(f1_score(true, said))}


def test_label_maps_agree_with_scikit_learn(tmp_path: Path) -> None:
    labels, others = make_labels("imagenet_s_2025"), make_labels("imagenet_s_2025", seed=2)
    truth, answer = (write(tmp_path / f"{n}.csv", "imagenet_s_2025", one) for n, one in enumerate((labels, others)))
    scores = scored("imagenet_s_2025", answer, truth)
    true, said = (np.concatenate([one.ravel() for one in side]) for side in (labels, others))
    assert first(scores) == scores["miou"] == pytest.approx(jaccard_score(true, said, average="macro"))
    assert scores["pixel accuracy"] == pytest.approx(accuracy_score(true, said))


def test_more_classes_than_a_byte_holds_and_unknown_pixels(tmp_path: Path) -> None:
    """Half the true pixels are 1000, unknown; of the rest 255 and 700 are found, and 300 is said for half of 600."""
    header, quarter = "ID,Label,MASK_RLE", 224 * 56
    counts = f"{2 * quarter} 1000 {quarter} 255 {quarter // 2} 700 {quarter // 2} 600"
    solution = write_table(tmp_path / "a.csv", header, f"a,255,{counts}")
    counts = f"{2 * quarter} 5 {quarter} 255 {quarter // 2} 700 {quarter // 4} 600 {quarter // 4} 300"
    answer = write_table(tmp_path / "b.csv", header, f"a,7,{counts}")
    scores = scored("imagenet_s_2025", answer, solution)
    assert scores["miou"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert scores["pixel accuracy"] == pytest.approx(1 - 1 / 8)
    assert scores["class accuracy"] == 0.0


def test_the_sum_of_imagenet_s_2026(tmp_path: Path) -> None:
    labels, others = make_labels("imagenet_s_2026"), make_labels("imagenet_s_2026", seed=4)
    truth, answer = (write(tmp_path / f"{n}.csv", "imagenet_s_2026", one) for n, one in enumerate((labels, others)))
    scores = scored("imagenet_s_2026", answer, truth, all=(48, 48))
    true, said = (np.concatenate([one.ravel() for one in side]) for side in (labels, others))
    ious = jaccard_score(true, said, average=None)
    rare = min((1, 2), key=lambda index: (true == index).sum())
    edges = []
    for one, two in zip(labels, others, strict=True):
        edges += [
            boundary_f(one == index, two == index)[0]
            for index in (1, 2)
            if (one == index).any() or (two == index).any()
        ]
    commonest = [[int(np.bincount(one[one > 0], minlength=1).argmax()) for one in side] for side in (labels, others)]
    seg = 0.7 * ious.mean() + 0.2 * np.mean(edges) + 0.1 * ious[rare]
    assert scores["seg"] == pytest.approx(seg)
    assert first(scores) == pytest.approx(0.7 * seg + 0.2 * balanced_accuracy_score(*commonest))
