"""make_submission.py: joined on ids whatever their order, in the sample's order, with where it came from beside it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import fail, open_workspace, run, write_config

from artifacts import TOP, Paths, read_json, write_json
from errors import UserError
from formats import find_format, read_labels, validate_submission
from index import COLUMNS
from stores import ProbabilityWriter

IDS = ["Tile 1/part_2", "0007", "ä", "Tile 1/part_10"]
SIZES = {image_id: (20 + place, 31) for place, image_id in enumerate(sorted(IDS))}
TASKS: dict[str, dict[str, Any]] = {
    "binary": {"classes": ["building"], "submission": "image"},
    "multiclass": {"classes": ["land", "water", "road"], "submission": "image_class"},
    "multilabel": {"classes": ["fish", "sugar"], "submission": "image_class"},
    "instances": {"classes": ["cell"], "submission": "instance"},
}


def make_probabilities(task: str, channels: int) -> dict[str, np.ndarray]:
    """Blobs that say clearly what they are, another each image."""
    rng, answers = np.random.default_rng(0), {}
    for image_id, (height, width) in SIZES.items():
        answer = np.full((channels, height, width), 0.1, np.float32)
        if task in ("multiclass", "instances"):
            answer[0] = 0.8
        for place in range(2):
            top, left = rng.integers(0, height - 9), 15 * place + rng.integers(0, 6)
            blob = np.s_[:, top : top + 8, left : left + 8]
            answer[blob] = 0.05
            answer[blob][1 if task == "instances" else (place + 1) % channels] = 0.9
        answers[image_id] = answer
    return answers


def plain_masks(task: str, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the probabilities say, without the code under test."""
    if task == "multiclass":
        return {image_id: answer.argmax(0) for image_id, answer in answers.items()}
    if task == "instances":
        return {image_id: answer[1] > answer[0] for image_id, answer in answers.items()}
    planes = {image_id: answer > 0.5 for image_id, answer in answers.items()}
    return {image_id: plane[0] if task == "binary" else plane.transpose(1, 2, 0) for image_id, plane in planes.items()}


def fabricate(folder: Path, task: str) -> tuple[Paths, dict[str, np.ndarray]]:
    """A workspace whose ensemble and evaluation are there; the store's order is not the index's."""
    write_config(folder, task=task, **TASKS[task])
    config, paths = open_workspace(folder)
    rows = [(image_id, "x.png", "", 0, "", "test", *SIZES[image_id]) for image_id in sorted(IDS)]
    paths.data.mkdir(parents=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(paths.index, index=False)
    answers = make_probabilities(task, config.channels)
    with ProbabilityWriter(paths.ensemble("test")) as writer:
        for image_id in IDS:
            writer.add(image_id, answers[image_id])
    write_json(paths.runs / "ensemble" / "manifest.json", {})
    count = len(config.classes)
    parameters = {"thresholds": [0.5] * count, "min_areas": [0] * count}
    write_json(paths.postprocess, {"fitted": False, "parameters": parameters})
    phase = {"round": 0, "hidden": None, "other": None, "oof_scores": {}, "hidden_scores": {}}
    phases = [phase | {"name": "supervised", "oof": 0.5, "folds": [0.4, 0.6]}]
    phases.append(phase | {"name": "+ fitted thresholds", "oof": 0.4, "folds": [0.3, 0.5], "used": False})
    write_json(paths.scores, {"metric": config.metric, "hidden": "test", "judges": [], "phases": phases})
    return paths, answers


def write_sample(folder: Path, task: str, ids: list[str]) -> None:
    """A sample file as such a competition has it, in an order of its own."""
    (folder / "raw").mkdir(exist_ok=True)
    classes = TASKS[task]["classes"] if TASKS[task]["submission"] == "image_class" else [None]
    columns = ["id", "class", "rle"] if classes != [None] else ["id", "rle"]
    find = [(one, name, "") if name else (one, "") for one in ids for name in reversed(classes)]
    pd.DataFrame(find, columns=columns).to_csv(folder / "raw" / "sample_submission.csv", index=False)


def read_back(folder: Path, task: str) -> dict[str, np.ndarray]:
    """The file's masks by id, after it has passed its validation against the sample."""
    config, paths = open_workspace(folder)
    fmt = find_format(config.submission)
    sample = folder / "raw" / "sample_submission.csv"
    assert validate_submission(paths.submission, fmt, config.classes, SIZES, sample) == []
    return dict(read_labels(paths.submission, fmt, config.classes, task, SIZES))


@pytest.mark.parametrize("task", TASKS)
def test_the_file_says_what_the_probabilities_say(tmp_path: Path, task: str) -> None:
    paths, answers = fabricate(tmp_path, task)
    write_sample(tmp_path, task, IDS)
    run("make_submission", tmp_path)
    masks, plain = read_back(tmp_path, task), plain_masks(task, answers)
    assert masks.keys() == plain.keys()
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(mask > 0 if task == "instances" else mask, plain[image_id])
    if task == "instances":
        assert {int(mask.max()) for mask in masks.values()} == {2}
    written = pd.read_csv(paths.submission, dtype=str, keep_default_na=False)
    assert list(dict.fromkeys(written.iloc[:, 0])) == IDS, "the sample's order"


def test_coco_results_have_the_labels_category_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths, _ = fabricate(tmp_path, "instances")
    data = {"labels": {"path": "train.json", "format": "coco"}, "sample_submission": ""}
    write_config(tmp_path, task="instances", **TASKS["instances"] | {"submission": "coco"}, data=data)
    said = fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert "train.json: missing, but its categories number COCO results" in said
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.json").write_text('{"categories": [{"id": 18, "name": "cell"}]}')
    run("make_submission", tmp_path)
    assert {one["category_id"] for one in read_json(paths.submission)} == {18}
    (tmp_path / "raw" / "train.json").write_text('{"categories": [{"id": 19, "name": "cell"}]}')
    with pytest.raises(UserError, match=r"made with other settings \(inputs.*train\.json"):
        run("make_submission", tmp_path)


def test_where_it_came_from_stands_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    paths, _ = fabricate(tmp_path, "binary")
    write_sample(tmp_path, "binary", IDS)
    run("make_submission", tmp_path)
    assert "4 rows, dice 0.5000 out of fold" in capsys.readouterr().out
    said = read_json(paths.submission.with_suffix(".json"))
    assert (said["config"], said["seed"], said["rows"]) == ("tiny", 0, 4)
    assert said["out_of_fold"] == {"dice": 0.5, "folds": [0.4, 0.6]}, "the last phase that is used"
    before = paths.submission.read_bytes()
    run("make_submission", tmp_path)
    assert "written already" in capsys.readouterr().out
    paths.submission.unlink()
    run("make_submission", tmp_path)
    assert paths.submission.read_bytes() == before


def test_another_sample_is_another_submission(tmp_path: Path) -> None:
    fabricate(tmp_path, "binary")
    write_sample(tmp_path, "binary", IDS)
    run("make_submission", tmp_path)
    write_sample(tmp_path, "binary", IDS[::-1])
    with pytest.raises(UserError, match=r"made with other settings \(inputs.*sample_submission\.csv"):
        run("make_submission", tmp_path)
    run("make_submission", tmp_path, "--fresh")
    paths = open_workspace(tmp_path)[1]
    assert list(dict.fromkeys(pd.read_csv(paths.submission, dtype=str).iloc[:, 0])) == IDS[::-1]


def test_a_prediction_that_the_sample_does_not_ask_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths, _ = fabricate(tmp_path, "binary")
    write_sample(tmp_path, "binary", IDS[:3])
    assert "Tile 1/part_10" in fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert not paths.submission.exists()
    assert not paths.submission.with_suffix(".json").exists()


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths, answers = fabricate(tmp_path, "binary")
    said = fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert "data.sample_submission: no file" in said
    write_sample(tmp_path, "binary", IDS)
    with ProbabilityWriter(paths.ensemble("test")) as writer:
        writer.add("0007", answers["0007"])
    said = fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert "test.zarr: no image 'Tile 1/part_10'" in said
    shutil.rmtree(paths.ensemble("test"))
    assert "no predictions here" in fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    paths.scores.unlink()
    assert "scores.json: missing" in fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert not paths.submission.exists()


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ({"thresholds": [0.5], "marker_threshold": 0.5}, "marker_threshold"),
        ({"thresholds": 0.5, "neck": "deep"}, "neck, thresholds"),
    ],
)
def test_parameters_of_another_version_are_told(
    tmp_path: Path, values: dict[str, Any], odd: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths, _ = fabricate(tmp_path, "binary")
    write_sample(tmp_path, "binary", IDS)
    write_json(paths.postprocess, {"fitted": False, "parameters": values})
    said = fail("make_submission", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert f"postprocess.json: not what masks are made with now ({odd}); run evaluate.py --fresh" in said


def test_what_is_committed_stands_in_no_runs_way() -> None:
    """A submission may lie in a clone, but not what it was made from: a stage made with other settings is refused."""
    if not (TOP / ".git").exists():
        pytest.skip("no clone of git's, so nothing is committed")
    listed = subprocess.run(["git", "ls-files", "submissions", "folds", "runs", "data", "reports"],
        cwd=TOP, capture_output=True, text=True, check=True).stdout.splitlines()  # fmt: skip
    assert "submissions/dubai.csv" in listed
    assert not [one for one in listed if one.endswith(".json")]
