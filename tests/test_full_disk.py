"""A disk that is full, held, read-only or gone, and numbers that run away: one line each, and nothing torn."""

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import copy_of, held, open_workspace, run

import engine
from disk import lock_file

# --- disks -----------------------------------------------------------------------------------------------------------

# each writing stage: its arguments, a file that it writes half-way, and its manifest
WRITERS: dict[str, tuple[list[str], str, str]] = {
    "prepare": (["--fresh"], "coverage.csv", "data/tiny/manifest.json"),
    "make_folds": (["--fresh"], "tiny.csv", "data/tiny/folds.json"),
    "train": (["--fold", "1", "--set", "train.epochs=2"], "progress.pt", "runs/tiny/round0/fold1/manifest.json"),
    "predict": (["--fold", "0", "--fresh"], "oof.zarr", "runs/tiny/round0/fold0/oof.json"),
    "make_pseudo_labels": (["--fold", "0", "--round", "1"], "index.csv", "runs/tiny/round1/fold0/pseudo/manifest.json"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def before_it_is_named(name: str, strike: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen at the moment when a file or folder of this name is whole and gets it."""
    replace = os.replace

    def struck(source: Any, target: Any) -> None:
        if Path(target).name == name:
            strike(Path(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", struck)


@pytest.mark.parametrize("script", WRITERS)
def test_a_full_disk_is_told_and_leaves_nothing_torn(
    trained: Path, tmp_path: Path, script: str, fail: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is renamed into its place when it is whole; the disk is full at that very moment."""
    folder, (arguments, torn, done) = copy_of(trained, tmp_path), WRITERS[script]

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        before_it_is_named(torn, full, patched)
        error = fail(script, folder, *arguments)
    assert f"{torn}: the disk is full; free some space and start again" in error
    assert not (folder / done).exists()
    run(script, folder, *arguments)
    assert (folder / done).exists()


@pytest.mark.parametrize("script", WRITERS)
def test_a_folder_that_vanishes_is_told(
    trained: Path, tmp_path: Path, script: str, fail: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (arguments, torn, done) = copy_of(trained, tmp_path), WRITERS[script]
    before_it_is_named(torn, lambda target: shutil.rmtree(target.parent), monkeypatch)
    assert ": its folder vanished while it was written; start again" in fail(script, folder, *arguments)
    assert not (folder / done).exists()


@pytest.mark.parametrize(("script", "limit"), [("train", 20_000), ("predict", 1_000)])
def test_a_disk_that_ends_within_a_file_is_told(
    trained: Path, tmp_path: Path, script: str, limit: int, fail: Callable
) -> None:
    """By the system's own limit, so that whatever writes a checkpoint or a store must pass its word on."""
    folder, (arguments, _, done) = copy_of(trained, tmp_path), WRITERS[script]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        error = fail(script, folder, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the disk takes no file of this size" in error
    assert not (folder / done).exists()


@pytest.mark.parametrize("script", WRITERS)
@pytest.mark.parametrize("kind", ["held", "read-only"])
def test_a_stage_that_another_process_is_at_or_that_cannot_be_written_is_left_alone(
    trained: Path, tmp_path: Path, script: str, kind: str, fail: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (arguments, _, done) = copy_of(trained, tmp_path), WRITERS[script]
    before, opened = contents(folder), Path.open

    def refuse(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "r":
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, mode, *arguments, **options)

    if kind == "held":
        with held(folder / done) as holder:
            error = fail(script, folder, *arguments)
        assert f"{done}: in work by process {holder} on " in error
        lock_file(folder / done).unlink()  # the killed holder's
    else:
        monkeypatch.setattr(Path, "open", refuse)
        error = fail(script, folder, *arguments)
        assert "the folder is read-only; write elsewhere, by --workspace" in error
        monkeypatch.undo()
    assert contents(folder) == before


def test_a_workspace_below_a_file_is_told(raw: Path, tmp_path: Path, fail: Callable) -> None:
    below = ["--workspace", str(raw / "tiny.yaml" / "w"), "--set", f"data.root={raw / 'raw'}"]
    assert "a file stands where a folder should be" in fail("prepare", raw, *below)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_weights_that_run_away_are_told(trained: Path, tmp_path: Path, fail: Callable) -> None:
    folder = copy_of(trained, tmp_path)
    error = fail("train", folder, "--fold", "1", "--set", "train.learning_rate=1e36", "--set", "train.clip=0")
    assert re.search(r"step \d: the (loss is not finite \(images .+\)|weights are not finite); .*lower", error), error
    assert not (open_workspace(folder)[1].run(0, 1) / "manifest.json").exists()


def test_a_loss_that_is_no_number_names_its_images(
    trained: Path, tmp_path: Path, fail: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = copy_of(trained, tmp_path), engine.labelled_loss
    monkeypatch.setattr(engine, "labelled_loss", lambda *arguments: real(*arguments) * float("nan"))
    error = fail("train", folder, "--fold", "1")
    named = re.search(r"step 0: the loss is not finite \(images (.+)\); look at these images, lower train", error)
    ids = {path.stem for path in (folder / "raw/train").iterdir()}
    assert named
    assert set(named[1].split(", ")) <= ids
    assert len(named[1].split(", ")) == 4
