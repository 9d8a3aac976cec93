"""Rule 1 of the house: no student learns from a model that saw its fold; hidden labels reach nothing but a score."""

import concurrent.futures
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pandas as pd
import pytest
from helpers import JOINT, make_workspace, open_workspace, run, seen_ids, write_config

from artifacts import Paths, read_json, write_json
from formats import find_format, read_labels
from stages import list_stages
from stores import ProbabilityStore

ROUNDS = [
    {},
    JOINT,
    {"phase": "joint", "start": "encoder", "pseudo": {"teachers": "all", "tta": False, "pool": ["unlabelled", "test"]}},
    {"phase": "finetune", "start": "previous"},
]


def run_stages(folder: Path, *, hide: bool = False) -> Paths:
    """Every stage up to the submission, in this process. `hide` deletes the hidden labels once data is prepared."""
    config, paths = open_workspace(folder)
    for script, *arguments in list_stages(config):
        if script != "make_report.py":
            run(script.removesuffix(".py"), folder, *arguments)
        if script == "prepare.py" and hide:
            shutil.rmtree(paths.data / "solution")
            shutil.rmtree(folder / "raw/hidden")
    return paths


@pytest.fixture(scope="module", autouse=True)
def _scored_in_threads() -> Iterator[None]:
    """evaluate.py's own processes would each load torch again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            concurrent.futures, "ProcessPoolExecutor", lambda count, **_: concurrent.futures.ThreadPoolExecutor(1)
        )
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    settings = {"train": {"epochs": 1, "steps_per_epoch": 1}, "rounds": ROUNDS, "postprocess": {"fit": False}}
    return run_stages(make_workspace(tmp_path_factory.mktemp("done") / "whole", **settings))


def fold_ids(paths: Paths) -> dict[int, set[str]]:
    folds = pd.read_csv(paths.folds, dtype={"image_id": str})
    return {int(fold): set(part["image_id"]) for fold, part in folds.groupby("fold")}


def test_no_student_has_seen_its_fold(done: Paths) -> None:
    held_out = fold_ids(done)
    everything = set.union(*held_out.values())
    for fold, ids in held_out.items():
        for round in range(len(ROUNDS)):
            manifest = read_json(done.run(round, fold) / "manifest.json")
            assert set(manifest["seen_ids"]) == everything - ids
            assert set(manifest["train_ids"]) == everything - ids
            if ROUNDS[round].get("pseudo"):
                summary = read_json(done.pseudo(round, fold) / "summary.json")
                assert set(summary["seen_ids"]) == everything - ids
                assert {teacher["fold"] for teacher in summary["teachers"]} == {fold}
                made = pd.read_csv(done.pseudo(round, fold) / "index.csv", dtype=str)
                assert not set(made["image_id"]) & everything


def test_each_store_holds_what_its_model_has_not_seen(done: Paths) -> None:
    for fold, ids in fold_ids(done).items():
        for round in range(len(ROUNDS)):
            assert set(ProbabilityStore(done.probabilities(round, fold, "oof", False)).image_ids) == ids
    assert set(ProbabilityStore(done.ensemble("oof")).image_ids) == set.union(*fold_ids(done).values())


def copy_workspace(done: Paths, folder: Path) -> Paths:
    shutil.copytree(done.root, folder, dirs_exist_ok=True)
    return open_workspace(folder)[1]


def tamper(paths: Paths, round: int, fold: int, image_id: str) -> None:
    path = paths.run(round, fold) / "manifest.json"
    manifest = read_json(path)
    write_json(path, manifest | {"seen_ids": sorted([*manifest["seen_ids"], image_id])})


@pytest.mark.parametrize(("round", "teacher"), [(1, 0), (2, 0), (2, 1)])
def test_a_teacher_that_saw_the_fold_is_refused(
    done: Paths, tmp_path: Path, round: int, teacher: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    paths = copy_workspace(done, tmp_path / "whole")
    image_id = min(fold_ids(paths)[1])
    tamper(paths, teacher, 1, image_id)
    arguments = ["--round", str(round), "--fold", "1", "--fresh"]
    error = helpers.fail("make_pseudo_labels", paths.root, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert f"round{teacher}/fold1/manifest.json: this teacher has seen {image_id!r}, an image of fold 1" in error
    assert not (paths.pseudo(round, 1) / "manifest.json").exists()


@pytest.mark.parametrize("source", ["weights", "labels"])
def test_training_refuses_what_has_met_its_fold(
    done: Paths, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """By the weights it starts from, or by the labels it is given."""
    paths = copy_workspace(done, tmp_path / "whole")
    image_id = min(fold_ids(paths)[0])
    if source == "weights":
        tamper(paths, 0, 0, image_id)
    else:
        summary = read_json(paths.pseudo(1, 0) / "summary.json")
        write_json(paths.pseudo(1, 0) / "summary.json", summary | {"seen_ids": [image_id]})
    arguments = ["--round", "1", "--fold", "0", "--fresh"]
    error = helpers.fail("train", paths.root, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert f"round 1 fold 0: {image_id!r} of its own fold was seen in training" in error
    assert not (paths.run(1, 0) / "manifest.json").exists()


def test_a_rounds_ledger_grows_with_what_its_teachers_saw(done: Paths, tmp_path: Path) -> None:
    """An id that a teacher has met, of neither fold, is handed on to all that learn from it."""
    paths = copy_workspace(done, tmp_path / "whole")
    tamper(paths, 0, 0, "another")
    run("predict", paths.root, "--round", "0", "--fold", "0", "--fresh")
    for round in (1, 2):
        run("make_pseudo_labels", paths.root, "--round", str(round), "--fold", "0", "--fresh")
        run("train", paths.root, "--round", str(round), "--fold", "0", "--fresh")
        assert "another" in seen_ids(paths, round, 0)
        run("predict", paths.root, "--round", str(round), "--fold", "0", "--fresh")


def test_the_submission_is_the_same_without_hidden_labels(done: Paths, tmp_path: Path) -> None:
    settings = {"train": {"epochs": 1, "steps_per_epoch": 1}, "rounds": ROUNDS, "postprocess": {"fit": False}}
    blind = run_stages(make_workspace(tmp_path / "whole", **settings), hide=True)
    assert blind.submission.read_bytes() == done.submission.read_bytes()
    hidden = [[row["hidden"] for row in read_json(paths.scores)["phases"]] for paths in (done, blind)]
    assert None not in hidden[0]
    assert set(hidden[1]) == {None}
    for place in ("oof", "folds"):
        assert [[row[place] for row in read_json(paths.scores)["phases"]] for paths in (done, blind)][0] == [
            row[place] for row in read_json(blind.scores)["phases"]
        ]


def test_the_submission_is_what_the_ensemble_says(done: Paths) -> None:
    config, _ = open_workspace(done.root)
    store = ProbabilityStore(done.ensemble("test"))
    sizes = dict.fromkeys(store.image_ids, (64, 64))
    masks = dict(read_labels(done.submission, find_format("image"), config.classes, "binary", sizes))
    assert masks.keys() == sizes.keys()
    for image_id, mask in masks.items():
        np.testing.assert_array_equal(mask, store.raw(image_id)[0] >= 128)


def test_dropped_labels_are_nowhere_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = make_workspace(tmp_path / "whole", labelled=12, train={"epochs": 1, "steps_per_epoch": 1})
    labels = {"keep": 6}
    rounds = [{}, JOINT]
    write_config(
        folder,
        data={"labels": labels, "solution": "", "solution_of": "unlabelled"},
        rounds=rounds,
        train={"epochs": 1, "steps_per_epoch": 1},
    )
    paths = run_stages(folder)
    index = pd.read_csv(paths.index, dtype=str, keep_default_na=False)
    of_train = index[index["image"].str.contains("raw/train/")]
    dropped = of_train[of_train["split"] == "unlabelled"]
    assert (len(of_train), len(dropped)) == (12, 6)
    assert set(dropped["mask"]) == {""}
    assert {path.stem for path in (paths.data / "masks").iterdir()} == set(of_train["image_id"]) - set(
        dropped["image_id"]
    )
    assert not set.union(*fold_ids(paths).values()) & set(dropped["image_id"])
    coverage = pd.read_csv(paths.data / "coverage.csv", dtype=str)
    assert not set(coverage["image_id"]) & set(dropped["image_id"])
    for round in range(2):
        for fold in range(2):
            assert not seen_ids(paths, round, fold) & set(dropped["image_id"])
    # they are in the pool like any other, and scored on their hidden labels
    made = pd.read_csv(paths.pseudo(1, 0) / "index.csv", dtype=str)
    assert set(dropped["image_id"]) <= set(made["image_id"])
    assert all(row["hidden"] is not None for row in json.loads(paths.scores.read_text())["phases"])
