"""make_submission.py without a config: any folder of masks to any competition's file."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import fail, run
from PIL import Image

import rle
from competitions import ARCHIVES, FORMATS
from detections import read_instances
from errors import UserError
from faults import guess_formats, validate_submission
from folders import default_task, find_pictures, read_details
from formats import read_labels
from images import resize_label
from tables import class_field

CLASSES = ("cell", "scratch", "dust")


def save(path: Path, values: np.ndarray | list, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype)).save(path)


def blobs(count: int, shape: tuple[int, int] = (12, 9)) -> np.ndarray:
    """Rectangles numbered 1 ... count that do not touch."""
    label = np.zeros(shape, np.uint8)
    for number in range(1, count + 1):
        label[3 * number - 2 : 3 * number, 1 : 2 + number] = number
    return label


def convert(folder: Path, name: str, *more: str, output: str = "out.csv") -> str:
    path = folder / output
    run("make_submission", folder, "--format", name, "--masks", str(folder / "masks"), "--output", str(path), *more)
    return path.read_text() if path.suffix == ".csv" else ""


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.file != "polygons"])
def test_a_folder_of_masks_becomes_every_competitions_table(tmp_path, capsys, name):
    fmt = FORMATS[name]
    count = 1 if default_task(fmt, 1) == "binary" else 3
    labels = {"7_001": blobs(count), "7_002": blobs(0)}
    task = default_task(fmt, count)
    for image_id, label in labels.items():
        values = label * 255 if task == "binary" else label.astype(np.uint16) if task == "instances" else label
        save(tmp_path / "masks" / f"{image_id}.png", values, values.dtype)
    classes = CLASSES
    if task == "multiclass":
        classes = ("sky", *CLASSES)
    elif task == "binary" or (task == "instances" and not class_field(fmt)):
        classes = CLASSES[:1]
    elif task == "instances":
        rows = [f"7_001,{number},{word},0.{number}" for number, word in enumerate(CLASSES, 1)]
        (tmp_path / "masks" / "instances.csv").write_text("\n".join(["image_id,instance,class,score", *rows]))
    convert(tmp_path, name, "--classes", ",".join(classes))
    path, sizes = tmp_path / "out.csv", dict.fromkeys(labels, (12, 9))
    assert validate_submission(path, fmt, classes, sizes) == []
    run("make_submission", tmp_path, "--format", name, "--validate", str(path), "--classes", ",".join(classes))
    assert "no fault found" in capsys.readouterr().out
    if not fmt.classes:  # or else the three here are others
        assert name in [one for one, _ in guess_formats(path)]
    if task == "instances":
        found = dict(read_instances(path, name, classes, sizes))["7_001"]
        if class_field(fmt):
            assert [one.class_index for one in found] == [0, 1, 2]
        if fmt.rows == "detections" or fmt.file == "coco":
            assert [one.score for one in found] == [0.1, 0.2, 0.3]
        shape = fmt.size or (12, 9)
        drawn = sum(rle.draw_runs(one.runs, shape, fmt.order) * (place + 1) for place, one in enumerate(found))
        np.testing.assert_array_equal(drawn, resize_label(labels["7_001"], shape))
        return
    if fmt.size or fmt.rows == "patch":
        return  # read back in pieces larger than these blobs
    back = dict(read_labels(path, fmt, classes, task, sizes))
    for image_id, label in labels.items():
        planes = (label[..., None] == [1, 2, 3]).astype(np.uint8) if task == "multilabel" else label
        np.testing.assert_array_equal(back[image_id], planes)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_folder_of_masks_becomes_every_competitions_files(tmp_path, capsys, name):
    save(tmp_path / "masks" / "a.png", blobs(1) * (255 if len(ARCHIVES[name].values) == 2 else 1))
    save(tmp_path / "images" / "a.png", blobs(1))
    output = f"out{'.zip' if ARCHIVES[name].container == 'zip' else ''}"
    convert(tmp_path, name, "--images", str(tmp_path / "images"), output=output)
    switches = ("--format", name, "--validate", str(tmp_path / output), "--images", str(tmp_path / "images"))
    run("make_submission", tmp_path, *switches)
    assert "no fault found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "image", "mask"),
    [
        ("deepglobe", "7_sat.jpg", "7_mask.png"),
        ("xview2_localization", "test_pre_00007.png", "test_localization_00007_prediction.png"),
        ("xview2_damage", "test_post_00007.png", "test_damage_00007_prediction.png"),
    ],
)
def test_images_named_as_the_competition_names_them_fit_its_files(tmp_path, capsys, name, image, mask):
    for file in (image, mask, "test_none_1.png"):
        save(tmp_path / "images" / file, blobs(0))
    save(tmp_path / "masks" / mask, blobs(1))
    switches = ("--images", str(tmp_path / "images"))
    convert(tmp_path, name, "--name", ARCHIVES[name].name, *switches, output="out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [mask]
    run("make_submission", tmp_path, "--format", name, "--validate", str(tmp_path / "out"), *switches)
    assert "no fault found" in capsys.readouterr().out


def test_ids_and_order_come_from_the_sample_and_names_from_a_template(tmp_path):
    save(tmp_path / "masks" / "case1" / "slice_2_pred.png", blobs(1))
    save(tmp_path / "masks" / "case1" / "thumbs.png", blobs(3))
    (tmp_path / "sample.csv").write_text("img,pixels\n7,\ncase1_2,\n")
    more = ("--sample", str(tmp_path / "sample.csv"), "--name", "{case}/slice_{n}_pred.png", "--id", "{case}_{n}")
    assert convert(tmp_path, "ultrasound_nerve", *more) == "img,pixels\n7,\ncase1_2,14 2 26 2\n"


def test_roads_are_written_in_patches(tmp_path):
    mask = np.zeros((32, 40), np.uint8)
    mask[:8, :8] = 255  # exactly a quarter of its patch, which is not more than a quarter
    mask[16:32, 16:20] = 255
    mask[0:9, 32:] = 255  # a patch cut by the border counts as it is
    save(tmp_path / "masks" / "test_7.png", mask)
    wanted = "id,prediction\n007_0_0,0\n007_0_16,0\n007_16_0,0\n007_16_16,0\n007_32_0,1\n007_32_16,0\n"
    assert convert(tmp_path, "epfl_roads", "--name", "test_{id}.png") == wanted
    [(_, label)] = read_labels(tmp_path / "out.csv", FORMATS["epfl_roads"], ["road"], "binary", {"7": (32, 40)})
    assert label.sum() == 16 * 8
    assert label[:16, 32:].all()


def test_touching_objects_are_parted_when_asked(tmp_path):
    rows, columns = np.mgrid[:40, :60]
    mask = np.minimum((rows - 20) ** 2 + (columns - 20) ** 2, (rows - 20) ** 2 + (columns - 36) ** 2) <= 81
    save(tmp_path / "masks" / "a.png", mask * 255)
    assert convert(tmp_path, "dsb2018").count("\n") == 2
    assert convert(tmp_path, "dsb2018", "--separate").count("\n") == 3


def test_coco_results_become_another_format(tmp_path):
    save(tmp_path / "images" / "0012.png", np.zeros((3, 5)))
    save(tmp_path / "images" / "0013.png", np.zeros((3, 5)))
    strong, weak = np.zeros((3, 5), np.uint8), np.zeros((3, 5), np.uint8)
    strong[0, :3] = weak[0:2, 2:4] = 1
    results = [
        {
            "image_id": 12,
            "category_id": 1,
            "segmentation": {"size": [3, 5], "counts": rle.encode_coco(one)},
            "score": score,
        }
        for one, score in ((weak, 0.3), (strong, 0.8))
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    switches = ("--masks", str(tmp_path / "results.json"), "--images", str(tmp_path / "images"))
    run("make_submission", tmp_path, "--format", "sartorius", "--output", str(tmp_path / "out.csv"), *switches)
    assert (tmp_path / "out.csv").read_text() == "id,predicted\n0012,4 1 8 2\n0012,1 3\n0013,\n"
    run("make_submission", tmp_path, "--format", "imaterialist2019", "--output", str(tmp_path / "out.csv"), *switches)
    found = dict(read_instances(tmp_path / "out.csv", "imaterialist2019", FORMATS["imaterialist2019"].classes, {}))
    masks = [rle.draw_runs(one.runs, (512, 512)) for one in found["0012"]]
    assert (masks[0] | masks[1]).tolist() == resize_label(weak | strong, (512, 512)).tolist()


def test_a_format_of_ones_own_stands_in_yaml(tmp_path):
    save(tmp_path / "masks" / "a.png", blobs(1))
    spec = {"columns": {"pic": "id", "mask": "rle"}, "order": "C", "base": 0, "empty": "none", "id": "{id}.tif"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    assert convert(tmp_path, str(tmp_path / "mine.yaml")) == "pic,mask\na.tif,10 2 19 2\n"
    (tmp_path / "files.yaml").write_text(yaml.safe_dump({"name": "p_{id}.png", "values": {"no": 3, "yes": 4}}))
    convert(tmp_path, str(tmp_path / "files.yaml"), output="folder")
    assert np.asarray(Image.open(tmp_path / "folder" / "p_a.png")).tolist() == (blobs(1) + 3).tolist()


@pytest.mark.parametrize(("name", "output"), [("tgs_salt", "out.csv"), ("sartorius", "out.csv"), ("inria", "out.zip")])
def test_a_mask_of_another_size_than_its_image_is_told(tmp_path, name, output):
    save(tmp_path / "images" / "a.png", np.zeros((6, 8)))
    save(tmp_path / "masks" / "a.png", np.eye(3))
    with pytest.raises(UserError, match="the mask of 'a' is 3x3, its image 6x8; resize it"):
        convert(tmp_path, name, "--images", str(tmp_path / "images"), output=output)
    assert not (tmp_path / output).exists()
    save(tmp_path / "masks" / "a.png", np.eye(6, 8))
    convert(tmp_path, name, "--images", str(tmp_path / "images"), output=output)


def test_a_mask_of_another_size_than_the_samples_is_told(tmp_path):
    save(tmp_path / "masks" / "a.png", np.eye(3))
    (tmp_path / "masks" / "instances.csv").write_text("image_id,instance,class,score\na,1,Nucleoli,0.5\n")
    (tmp_path / "sample.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\na,8,6,\n")
    with pytest.raises(UserError, match=r"the mask of 'a' is \(3, 3\), but .*sample\.csv says \(6, 8\); resize it"):
        convert(tmp_path, "hpa2021", "--sample", str(tmp_path / "sample.csv"))


def test_classes_that_are_only_numbered_keep_their_numbers(tmp_path):
    save(tmp_path / "masks" / "a.png", blobs(2))
    (tmp_path / "masks" / "instances.csv").write_text("image_id,instance,class,score\na,1,7,0.9\na,2,9,0.8\n")
    spec = {"columns": {"i": "id", "c": "class_number", "r": "rle"}, "rows": "instance"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    assert [row.split(",")[:2] for row in convert(tmp_path, str(tmp_path / "mine.yaml")).splitlines()[1:]] == [
        ["a", "7"],
        ["a", "9"],
    ]
    convert(tmp_path, "coco", output="out.json")
    assert [one["category_id"] for one in json.loads((tmp_path / "out.json").read_text())] == [7, 9]
    (tmp_path / "masks" / "instances.csv").write_text("image_id,instance,class\na,1,cat\na,2,dog\n")
    categories = [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]
    tests = {"images": [{"id": 1, "file_name": "a.png"}], "categories": categories}
    (tmp_path / "tests.json").write_text(json.dumps(tests))
    switches = ("--classes", "cat,dog", "--sample", str(tmp_path / "tests.json"))
    convert(tmp_path, "coco", *switches, output="out.json")
    assert [one["category_id"] for one in json.loads((tmp_path / "out.json").read_text())] == [3, 18]
    run("make_submission", tmp_path, "--format", "coco", "--validate", str(tmp_path / "out.json"), *switches)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec | {"rows": "image_class"}, sort_keys=False))
    with pytest.raises(UserError, match="has a row for each class; say which there are"):
        convert(tmp_path, str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "a.png,1,,0.3\na.png,2,,0.2\n",
            r"instances\.csv: image_id 'a\.png' is no mask's .*; write it like 'a'",
        ),
        ("a,1,,0.3\n", r"a\.png: instance 2 has no class or score; add its row to instances\.csv"),
        ("a,1,,0.3\na,2,,0.3\na,3,,0.3\n", r"a\.png: instance 3 of instances\.csv has no pixel; drop its row"),
    ],
)
def test_scores_that_belong_to_no_instance_are_told(tmp_path, rows, message):
    save(tmp_path / "masks" / "a.png", blobs(2))
    (tmp_path / "masks" / "instances.csv").write_text(f"image_id,instance,class,score\n{rows}")
    with pytest.raises(UserError, match=message):
        convert(tmp_path, "coco", "--classes", "cell", output="out.json")


def test_linked_folders_are_followed_but_not_round_and_round(tmp_path):
    save(tmp_path / "elsewhere" / "b.png", [[0, 1]])
    save(tmp_path / "masks" / "a.png", [[0, 1]])
    (tmp_path / "masks" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "masks")
    assert list(find_pictures(tmp_path / "masks")) == ["a", "linked/b"]


def test_a_file_is_no_folder(tmp_path):
    save(tmp_path / "a.png", [[0, 1]])
    with pytest.raises(UserError, match=r"a\.png: a file, not a folder"):
        find_pictures(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "values", "more", "message"),
    [
        ("tgs_salt", [[0, 3]], (), "a.png: value 3 in a mask of one class"),
        ("tgs_salt", [[[1, 2, 3]]], (), "a.png: a colour mask"),
        ("uwmgi", [[0, 4]], (), "a.png: value 4, but the 3 classes go to 3"),
        ("uwmgi", [[0, 255]], (), "a.png: its mask has unknown pixels"),
        ("openimages2019", [[0, 1]], (), "--classes: the format openimages2019 names classes"),
        ("openimages2019", [[0, 1]], ("--classes", "a,a"), "classes: 'a' is there twice; give each class its own name"),
        ("hpa2021", [[0, 2]], (), "a.png: instance 2 has no class or score; add its row to instances.csv"),
        ("loveda", [[0, 7]], (), "a.png: value 7, but the 7 classes go to 6"),
        ("tgs_salt", [[0, 1]], ("--images", "masks2"), "no such folder"),
        ("tgs_salt", [[0, 1]], ("--name", "{id}.tif"), "--name: no file matches '{id}.tif'"),
        ("airbuss", [[0, 1]], (), "no format 'airbuss'; did you mean 'airbus'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, monkeypatch, capsys, name, values, more, message):
    save(tmp_path / "masks" / "a.png", values)
    switches = ("--format", name, "--masks", str(tmp_path / "masks"), "--output", str(tmp_path / "out.csv"), *more)
    output = switches if name != "loveda" else (*switches[:-1], str(tmp_path / "out"))
    assert message in fail("make_submission", tmp_path, *output, monkeypatch=monkeypatch, capsys=capsys)
    assert not (tmp_path / "out.csv").exists()


def test_switches_that_do_nothing_are_refused(tmp_path, monkeypatch, capsys):
    said = fail("make_submission", tmp_path, "--format", "airbus", monkeypatch=monkeypatch, capsys=capsys)
    assert "--format NAME goes with --masks DIR --output FILE" in said
    save(tmp_path / "images" / "b.png", blobs(0))
    save(tmp_path / "masks" / "a.png", blobs(0))
    with pytest.raises(UserError, match="no mask of image 'b'"):
        convert(tmp_path, "tgs_salt", "--images", str(tmp_path / "images"))
    save(tmp_path / "masks" / "a.tif", blobs(0))
    with pytest.raises(UserError, match=r"the id 'a' is also that of"):
        find_pictures(tmp_path / "masks")


def test_a_list_of_instances_is_read_strictly(tmp_path):
    path = tmp_path / "instances.csv"
    assert read_details(tmp_path, CLASSES) == {}
    path.write_text("image_id,instance,class,score\na,1,dust,0.5\na,2,cell,\n")
    assert read_details(tmp_path, CLASSES) == {"a": {1: (2, 0.5), 2: (0, 1.0)}}
    for row, message in (
        ("a,x,dust,1", "instance 'x' is not a number"),
        ("a,1,boat,1", "class 'boat' is none of cell"),
        ("a,1,,1", "class '' is none of"),
        ("a,1,dust,nan", "score 'nan'"),
        ("a,1,dust,1,1", "is not a number; write"),
    ):
        path.write_text(f"image_id,instance,class,score\n{row}\n")
        with pytest.raises(UserError, match=f"instances.csv row 2: .*{message}"):
            read_details(tmp_path, CLASSES)
    path.write_text("image_id,class\n")
    with pytest.raises(UserError, match="row 1: the header is not"):
        read_details(tmp_path, CLASSES)


def test_the_readmes_format_of_ones_own_works(tmp_path):
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    [text] = [part.partition("```")[0] for part in readme.split("```yaml\n") if part.startswith("columns:")]
    (tmp_path / "mine.yaml").write_text(text)
    save(tmp_path / "masks" / "a.png", [[0, 2], [1, 1]])
    written = convert(tmp_path, str(tmp_path / "mine.yaml"), "--classes", "x,y,z")
    assert written == "ImageId,ClassId,EncodedPixels\na.jpg,1,2 2\na.jpg,2,1 1\na.jpg,3,-1\n"
