"""Files of masks: every competition's folder or zip as another reader sees it, and each kind of bad one."""

import errno
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, run, write_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from archives import class_names, find_archive, find_spec, validate_archive, write_archive
from artifacts import Paths
from competitions import ARCHIVES
from config import ArchiveFormat
from errors import UserError
from images import read_mask


def place(folder: Path, name: str) -> Path:
    return folder / ("out.zip" if find_archive(name).container == "zip" else "out")


def a_label(rng: np.random.Generator, fmt: ArchiveFormat, shape: tuple[int, int]) -> np.ndarray:
    label = rng.integers(0, len(class_names(fmt)) or 919, shape)
    return label.astype(np.int32)


def pixels(path: Path) -> dict[str, np.ndarray]:
    """What Pillow sees in each file of a folder or zip."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()}
    files = [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): np.asarray(Image.open(file)) for file in files}


def spelled(fmt: ArchiveFormat, label: np.ndarray) -> np.ndarray:
    """Class indices as the format's pixels."""
    if fmt.encoding == "rgb_id":
        return np.stack([label % 256, label // 256, 0 * label], axis=-1)
    codes = fmt.palette if fmt.encoding == "palette" else fmt.values
    return np.array(list(codes.values()))[label] if codes else label


@pytest.mark.parametrize("name", ARCHIVES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_every_archive_holds_what_was_written(tmp_path_factory, name, seed, shape):
    rng, fmt = np.random.default_rng(seed), find_archive(name)
    path = place(tmp_path_factory.mktemp("masks"), name)
    labels = {image_id: a_label(rng, fmt, shape) for image_id in ("0007", "Tile 1/ä", "x.1")}
    assert write_archive(path, fmt, labels.items(), labels) == 3
    assert validate_archive(path, fmt, dict.fromkeys(labels, shape)) == []
    written = pixels(path)
    assert written.keys() == {fmt.name.replace("{id}", image_id) for image_id in labels}
    for image_id, label in labels.items():
        np.testing.assert_array_equal(written[fmt.name.replace("{id}", image_id)], spelled(fmt, label))


@pytest.mark.parametrize(
    ("name", "label", "file", "wanted"),
    [
        ("cityscapes", [[0, 18]], "a.png", [[7, 33]]),
        ("loveda", [[0, 6]], "a.png", [[1, 7]]),
        ("loveda_test", [[0, 6]], "a.png", [[0, 6]]),
        ("isprs", [[0, 1, 2], [3, 4, 5]], "a.tif", None),
        ("deepglobe", [[1, 5]], "a_mask.png", [[[255, 255, 0], [255, 255, 255]]]),
        ("imagenet_s", [[7, 700]], "a.png", [[[7, 0, 0], [188, 2, 0]]]),
        ("inria", [[0, 1]], "a.tif", [[0, 255]]),
        ("on_cloud_n", [[0, 1]], "a.tif", [[0, 1]]),
        ("xview2_localization", [[0, 1]], "test_localization_a_prediction.png", [[0, 1]]),
        ("xview2_damage", [[0, 4]], "test_damage_a_prediction.png", [[0, 4]]),
    ],
)
def test_pixels_are_those_of_the_competition(tmp_path, name, label, file, wanted):
    path = place(tmp_path, name)
    write_archive(path, find_archive(name), [("a", np.array(label, np.uint8 if name != "imagenet_s" else np.int32))])
    if name == "isprs":
        wanted = [[[255, 255, 255], [0, 0, 255], [0, 255, 255]], [[0, 255, 0], [255, 255, 0], [255, 0, 0]]]
    assert {name: one.tolist() for name, one in pixels(path).items()} == {file: wanted}
    first = path.read_bytes() if path.is_file() else b""
    if first:
        path.unlink()
        write_archive(path, find_archive(name), [("a", np.array(label))])
        assert path.read_bytes() == first, "the same masks are the same bytes"


def test_ignored_pixels_are_never_written(tmp_path):
    Image.fromarray(np.array([[0, 1, 7]], np.uint8)).save(tmp_path / "a.png")
    assert validate_archive(tmp_path, ARCHIVES["loveda"], None) == ["file a.png: 1 pixels have no class"]
    with pytest.raises(UserError, match="id 'a': value -1 is none of the 7 classes"):
        write_archive(tmp_path / "new", ARCHIVES["loveda"], [("a", np.array([[-1, 0, 6]]))])
    with pytest.raises(UserError, match="value that means unknown"):
        write_archive(tmp_path / "new", ARCHIVES["imagenet_s"], [("a", np.array([[1000]]))])
    assert not (tmp_path / "new").exists()


def test_every_fault_is_listed_with_its_file(tmp_path):
    def save(name: str, values: list, dtype: type = np.uint8) -> None:
        Image.fromarray(np.array(values, dtype)).save(tmp_path / name)

    save("good.png", [[1, 2]])
    save("strange.png", [[1, 9]])
    save("large.png", [[1, 1, 1]])
    save("colour.png", [[[1, 2, 3], [0, 0, 0]]])
    save("extra.png", [[1, 1]])
    save("notes.bmp", [[1, 1]])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    sizes = dict.fromkeys(("good", "strange", "large", "colour", "broken", "missing"), (1, 2))
    faults = validate_archive(tmp_path, ARCHIVES["loveda"], sizes)
    assert [fault.partition(" (")[0] for fault in faults] == [
        "file broken.png: cannot be read",
        "file colour.png: a grey mask is asked for, not",
        "file extra.png: id 'extra' is not among the images to predict",
        "file large.png: a mask of 1x3, the image has 1x2",
        "file notes.bmp: not named like '{id}.png'",
        "file strange.png: 1 pixels are of no class, the first of value 9",
        "file missing.png: missing",
    ]


@pytest.mark.parametrize(
    ("ids", "message"),
    [(("a", "a"), "'a' comes twice"), (("c",), "'c' is not among"), (("a",), "'b' has no mask"), (("../a",), "leaves")],
)
def test_a_bad_archive_is_not_written(tmp_path, ids, message):
    masks = [(image_id, np.zeros((2, 2), np.uint8)) for image_id in ids]
    wanted = ("a", "b") if ".." not in ids[0] else ids
    with pytest.raises(UserError, match=message):
        write_archive(tmp_path / "out.zip", ARCHIVES["inria"], masks, wanted)
    assert list(tmp_path.iterdir()) == []


def test_what_lies_there_is_not_overwritten(tmp_path):
    masks = [("a", np.zeros((2, 2), np.uint8))]
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="something lies there already"):
        write_archive(tmp_path, ARCHIVES["loveda"], masks)
    with pytest.raises(UserError, match="the format is a zip; name --output so"):
        write_archive(tmp_path / "out", ARCHIVES["inria"], masks)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=60), name=st.sampled_from(["inria", "imagenet_s"]), head=st.sampled_from([b"", b"PK"]))
def test_any_bytes_are_masks_or_one_clear_line(tmp_path_factory, raw, name, head):
    folder = tmp_path_factory.mktemp("any")
    good = folder / "good.zip"
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("a.tif" if name == "inria" else "a.png", raw)
    (folder / "bad.zip").write_bytes(head + raw)
    whole = good.read_bytes()
    (folder / "cut.zip").write_bytes(whole[: len(raw)] + raw + whole[len(raw) :])
    for path in sorted(folder.iterdir()):
        answer = faults_or_message(path, ARCHIVES[name])
        assert answer
        assert all("\n" not in fault for fault in answer)


def faults_or_message(path: Path, fmt: ArchiveFormat) -> list[str]:
    try:
        return validate_archive(path, fmt, None)
    except UserError as error:
        return [str(error)]


def test_a_full_disk_is_not_the_archives_fault(tmp_path, monkeypatch):
    path = tmp_path / "out.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("austin1.tif", b"x")

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("archives.shutil.copyfileobj", fill)
    with pytest.raises(OSError, match="No space left"):
        validate_archive(path, ARCHIVES["inria"], None)


def test_a_path_in_a_zip_cannot_leave_it(tmp_path):
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.tif", b"x")
    [fault] = validate_archive(path, ARCHIVES["inria"], None)
    assert fault.startswith("file ../../evil.tif: ")
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "evil.zip"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x.png", "must hold {id} once"),
        ("name: '{id}.jpg'", "must end in .png or .tif"),
        ("name: ../{id}.png", "leaves its folder"),
        ("encoding: palette", "give each class a colour"),
        ("values: {a: 1, b: 1}", "two classes share one value"),
        ("values: {a: 300}", "a value is not in 0 to 255"),
        ("ignore: [[1, 2, 3]]", "colours for a palette, else numbers"),
        ("colour: red", "colour: Extra inputs"),
        ("columns: {id: id}", "exactly one must hold the rle"),
        ("columns: [", "while parsing"),
        ("- a", "a mapping of keys"),
    ],
)
def test_a_bad_spec_of_ones_own_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        find_spec(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nearly_one_is_named():
    with pytest.raises(UserError, match="no format 'lovda'; did you mean 'loveda'"):
        find_spec("lovda")
    with pytest.raises(UserError, match="airbus: a table, not files of masks"):
        find_archive("airbus")
    for name, fmt in ARCHIVES.items():
        assert find_archive(fmt) == find_archive(name) == find_spec(name)


@pytest.mark.parametrize(("name", "ending"), [("loveda", "png"), ("deepglobe", "png"), ("isprs", "tif")])
def test_prepare_reads_masks_by_the_competitions_name(tmp_path, name, ending):
    fmt = find_archive(name)
    classes = list(class_names(fmt))
    rng = np.random.default_rng(0)
    labels = {image_id: rng.integers(0, len(classes), (32, 32)) for image_id in "abc"}
    images = tmp_path / "raw" / "train"
    images.mkdir(parents=True)
    for image_id in labels:
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(images / f"{image_id}.png")
    write_archive(tmp_path / "raw" / "masks", fmt.model_copy(update={"name": f"{{id}}.{ending}"}), labels.items())
    said = {"kind": "masks", "path": f"masks/{{id}}.{ending}", "format": name}
    data = TINY["data"] | {"unlabelled": "", "test": "", "labels": said, "sample_submission": "", "solution": ""}
    write_config(tmp_path, task="multiclass", classes=classes, data=data)
    run("prepare", tmp_path)
    for image_id, label in labels.items():
        mask = read_mask(Paths(tmp_path, "tiny").data / "masks" / f"{image_id}.png")
        np.testing.assert_array_equal(mask, label)
