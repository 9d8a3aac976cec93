"""train.py started again: what is done is skipped, what was deleted is made anew, other data and folds are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers import link_workspace, make_workspace, open_workspace, prepare_data, run, write_config

from errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared workspace that tests copy from."""
    return prepare_data(make_workspace(tmp_path_factory.mktemp("data") / "whole"))


def test_a_fold_that_is_done_is_skipped(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = link_workspace(data, tmp_path, train={"epochs": 1})
    run("train", folder, "--fold", "1")
    before = (open_workspace(folder)[1].run(0, 1) / "last.pt").stat().st_mtime_ns
    capsys.readouterr()
    run("train", folder, "--fold", "1")
    assert capsys.readouterr().out == "round 0 fold 1: trained already\n"
    assert (open_workspace(folder)[1].run(0, 1) / "last.pt").stat().st_mtime_ns == before


def test_a_fold_without_its_weights_is_trained_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = link_workspace(data, tmp_path, train={"epochs": 1})
    run("train", folder, "--fold", "1")
    weights = open_workspace(folder)[1].run(0, 1) / "last.pt"
    before = weights.read_bytes()
    weights.unlink()
    run("train", folder, "--fold", "1")
    assert "already" not in capsys.readouterr().out
    assert weights.read_bytes() == before


def test_other_labels_of_like_classes_are_another_training(tmp_path: Path) -> None:
    """A table read in the wrong order has as many pixels of each class as in the right one."""
    labels = {"format": {"columns": {"id": "id", "rle": "rle"}, "order": "F"}}
    folder = prepare_data(make_workspace(tmp_path / "whole", train={"epochs": 1}, data={"labels": labels}))
    run("train", folder, "--fold", "0")
    paths = open_workspace(folder)[1]
    index, folds = paths.index.read_bytes(), paths.folds.read_bytes()
    write_config(folder, train={"epochs": 1}, data={"labels": {"format": labels["format"] | {"order": "C"}}})
    run("prepare", folder, "--fresh")
    run("make_folds", folder, "--fresh")
    assert (paths.index.read_bytes(), paths.folds.read_bytes()) == (index, folds), "nothing else tells of it"
    with pytest.raises(UserError, match=r"round0/fold0: made with other settings \(inputs.*coverage\.csv"):
        run("train", folder, "--fold", "0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, rows[1]], "is in it twice; keep one row, or delete it"),
        (lambda rows: [*rows, "nobody,,0"], "'nobody' is no labelled image; take its row out"),
        (lambda rows: [*rows[:-1], rows[-1][:-1] + "2"], "is in none of the folds -1 to 1; give it one of these"),
    ],
)
def test_folds_that_a_person_edited_fit_the_images(
    data: Path, tmp_path: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    folder = link_workspace(data, tmp_path)
    paths = open_workspace(folder)[1]
    rows = paths.folds.read_text().splitlines()
    (folder / "folds").unlink()
    (folder / "folds").mkdir()
    paths.folds.write_text("\n".join(change(rows)) + "\n")
    with pytest.raises(UserError, match=f"tiny.csv: .*{said}"):
        run("train", folder, "--fold", "0")


@pytest.mark.parametrize(
    ("key", "said"), [("task=multilabel", "task: 'binary' -> 'multilabel'"), ("classes=[a]", "classes.0: ")]
)
def test_data_prepared_for_others_are_refused(data: Path, tmp_path: Path, key: str, said: str) -> None:
    folder = link_workspace(data, tmp_path)
    with pytest.raises(UserError, match=rf"data/tiny: prepared for others \({said}.*run prepare.py --fresh"):
        run("train", folder, "--fold", "0", "--set", key)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"select": "best"}, "postprocess.metric=miou"),
        ({"schedule": "plateau"}, "postprocess.threshold=0.3"),
        ({"early_stopping": 2}, "predict.overlap=0.5"),
    ],
)
def test_what_judges_epochs_belongs_to_a_training_that_heeds_it(
    data: Path, tmp_path: Path, settings: dict[str, Any], key: str, capsys: pytest.CaptureFixture
) -> None:
    folder = link_workspace(data, tmp_path, train={"epochs": 1} | settings)
    run("train", folder, "--fold", "0")
    name = key.partition("=")[0].rpartition(".")[2]
    with pytest.raises(UserError, match=rf"made with other settings \(settings\.judged\.{name}: "):
        run("train", folder, "--fold", "0", "--set", key)
    write_config(folder, train={"epochs": 1})
    run("train", folder, "--fold", "0", "--fresh")
    capsys.readouterr()
    run("train", folder, "--fold", "0", "--set", key)
    assert "trained already" in capsys.readouterr().out


def test_replaced_images_and_hidden_labels_make_their_stages_anew(tmp_path: Path) -> None:
    """Of a test image no other file tells, of its hidden label none: the index has their names and sizes alone."""
    mean_teacher = {"phase": "joint", "start": "previous", "consistency": {"share": 0.5, "pool": ["unlabelled"]}}
    folder = prepare_data(make_workspace(tmp_path / "whole", train={"epochs": 1}, rounds=[{}, mean_teacher]))
    config, paths = open_workspace(folder)
    order = [("train", "0"), ("predict", "0"), ("train", "1"), ("predict", "1")]
    for script, round in order:
        run(script, folder, "--round", round)
    for script in ("ensemble", "evaluate"):
        run(script, folder)
    index = paths.index.read_bytes()

    def replace(path: Path) -> None:
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), image[::-1])
        run("prepare", folder, "--fresh")
        assert paths.index.read_bytes() == index, "nothing else tells of it"

    solution = folder / "raw/hidden/solution.csv"
    header, first, *rows = solution.read_text().splitlines()
    solution.write_text("\n".join([header, f"{first.partition(',')[0]},1 1", *rows]) + "\n")
    run("prepare", folder, "--fresh")
    run("ensemble", folder)
    with pytest.raises(UserError, match=r"made with other settings \(settings\.solution: "):
        run("evaluate", folder)
    run("evaluate", folder, "--fresh")
    replace(next((folder / "raw/test").iterdir()))
    for script, round in order[::2]:
        run(script, folder, "--round", round)
    for script, round in order[1::2]:
        with pytest.raises(UserError, match=r"made with other settings \(settings\.images: "):
            run(script, folder, "--round", round)
        run(script, folder, "--round", round, "--fresh")
    with pytest.raises(UserError, match=r"made with other settings \(inputs.*test\.json: "):
        run("ensemble", folder)
    replace(next((folder / "raw/unlabelled").iterdir()))
    run("train", folder, "--round", "0")
    with pytest.raises(UserError, match=r"made with other settings \(settings\.pool\.unlabelled: "):
        run("train", folder, "--round", "1")


def test_a_fold_of_which_nothing_is_known_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = link_workspace(data, tmp_path, train={"epochs": 1})
    monkeypatch.setattr("validation.evaluate", lambda *_: {"dice": float("nan")})
    with pytest.raises(UserError, match=r"tiny\.csv: fold 0: nothing is known of the images it holds out.*no dice;"):
        run("train", folder, "--fold", "0")
