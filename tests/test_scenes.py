"""The embedded competition: the same bytes for a seed, a layout as Kaggle has it, scenes worth learning from."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import hashes

import scenes
from districts import DISTRICTS
from errors import UserError
from rle import decode
from scenes import draw_scene, write_competition
from settings import load_config

SMALL = {"labelled": 14, "unlabelled": 7, "test": 8, "size": 64}
FOLDERS = {"train": 14, "unlabelled": 7, "test": 8}


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "raw"
    write_competition(folder, 3, **SMALL)
    return folder


def read_table(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "rle"]
    return [(row[0], row[1]) for row in rows]


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def masks(folder: Path, table: str) -> list[np.ndarray]:
    return [decode(rle, (64, 64)) for _, rle in read_table(folder / table)]


def test_one_seed_gives_the_same_bytes_whatever_the_threads(competition: Path, tmp_path: Path) -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1 if threads > 1 else 4)
        write_competition(tmp_path / "again", 3, **SMALL)
    finally:
        cv2.setNumThreads(threads)
    assert hashes(tmp_path / "again") == hashes(competition)


def test_another_seed_gives_another_competition(competition: Path, tmp_path: Path) -> None:
    write_competition(tmp_path / "other", 4, labelled=2, unlabelled=1, test=1, size=64)
    old, new = hashes(competition), hashes(tmp_path / "other")
    images = {name for name in new if name.endswith(".png")}
    assert not images & old.keys()
    assert not {new[name] for name in images} & set(old.values())


def test_the_layout_is_kaggles(competition: Path) -> None:
    for split, count in FOLDERS.items():
        assert len(stems(competition / split)) == count
    assert {path.name for path in competition.iterdir()} == {*FOLDERS, "train.csv", "sample_submission.csv", "hidden"}
    sample = read_table(competition / "sample_submission.csv")
    assert {rle for _, rle in sample} == {""}
    solution = [image_id for image_id, _ in read_table(competition / "hidden" / "solution.csv")]
    assert {image_id for image_id, _ in sample} == set(solution) == stems(competition / "test")
    assert [image_id for image_id, _ in sample] != solution, "the sample's order must not be the ids' own"
    assert [image_id for image_id, _ in read_table(competition / "train.csv")] == sorted(stems(competition / "train"))


def test_no_id_and_no_image_occurs_twice(competition: Path) -> None:
    images = list(competition.rglob("*.png"))
    assert len({path.stem for path in images}) == len(images) == sum(FOLDERS.values())
    assert len({path.read_bytes() for path in images}) == len(images)


def test_images_are_colour_photographs(competition: Path) -> None:
    for path in competition.rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5, f"{path.name} shows next to nothing"


def test_masks_are_sensible_and_some_are_empty(competition: Path) -> None:
    for table, count in (("train.csv", 14), ("hidden/solution.csv", 8)):
        shares = [mask.mean() for mask in masks(competition, table)]
        assert len(shares) == count
        assert 0 < shares.count(0) < count / 2, "some scenes, not most, have no building"
        assert 0.02 < np.mean(shares) < 0.35
        assert max(shares) < 0.8


def test_the_mask_lies_on_the_buildings() -> None:
    """A roof's outline is an edge of the picture: the gradient there is well above the picture's own."""
    ratios = []
    for number in range(12):
        image, mask = draw_scene(0, "test", number, DISTRICTS[number % len(DISTRICTS)], 96, empty=False)
        assert set(np.unique(mask)) <= {0, 1}
        grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1)
        gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        if outline.any():
            ratios.append(gradient[outline].mean() / gradient[~outline].mean())
    assert np.median(ratios) > 1.4


def test_an_empty_scene_has_no_building_and_is_not_blank() -> None:
    image, mask = draw_scene(0, "train", 0, DISTRICTS[0], 64, empty=True)
    assert not mask.any()
    assert image.std() > 5


def test_every_district_is_labelled_at_the_default_count_but_unevenly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = {"train": [], "test": []}

    def note(seed: int, split: str, number: int, district: object, size: int, empty: bool) -> tuple:
        drawn[split].append(district)
        return np.full((8, 8, 3), number, np.uint8), np.zeros((8, 8), np.uint8)

    monkeypatch.setattr(scenes, "draw_scene", note)
    write_competition(tmp_path / "raw", 0, unlabelled=0, test=80)
    labelled = [drawn["train"].count(district) for district in DISTRICTS]
    assert min(labelled) >= 1
    assert max(labelled) >= 5
    assert [drawn["test"].count(district) for district in DISTRICTS] == [10] * len(DISTRICTS)


def test_nothing_is_left_when_it_fails_midway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail_late(seed: int, split: str, number: int, *rest: object) -> tuple:
        if split == "test":
            raise OSError(28, "No space left on device")
        return np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)

    monkeypatch.setattr(scenes, "draw_scene", fail_late)
    with pytest.raises(OSError, match="No space left"):
        write_competition(tmp_path / "data" / "raw", 0, **SMALL)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(competition: Path) -> None:
    before = hashes(competition)
    with pytest.raises(UserError, match="something lies here already; delete it"):
        write_competition(competition, 3, **SMALL)
    assert hashes(competition) == before


def test_the_sample_config_names_what_is_written(competition: Path) -> None:
    config = load_config(Path(__file__).parent.parent / "configs" / "sample.yaml")
    data = config.data
    assert data.generator == "scenes"
    for template in (data.images, data.unlabelled, data.test):
        assert list(competition.glob(template.format(id="*")))
    for table in (data.labels.path, data.sample_submission, data.solution):
        assert (competition / table).is_file()
    assert data.labels.format == config.submission == "image"
