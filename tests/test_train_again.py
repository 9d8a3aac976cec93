"""train.py started again: what is done is skipped, what was deleted is made anew, other data and folds are refused."""

from collections.abc import Callable
from pathlib import Path

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
