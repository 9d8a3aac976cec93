"""Who may write where, and what a disk refuses: one line that names the holder or the file."""

import errno
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import SRC, held

from artifacts import Stage, atomic
from disk import SCRATCH_LOCK, lock_file, locked, scratch_folder, told
from errors import UserError


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    path, other = tmp_path / "fold0" / "manifest.json", tmp_path / "fold1" / "manifest.json"
    with held(path) as holder:
        with pytest.raises(UserError) as caught, locked(path):
            pytest.fail("two hold it")
        said = str(caught.value)
        assert said.startswith(f"{path}: in work by process {holder} on {os.uname().nodename} since 20")
        assert f"({shlex.join(sys.argv)})" in said, "its command"
        assert said.endswith("; wait until it ends, or end it")
        assert "\n" not in said
        with locked(other):
            assert lock_file(path).exists(), "a refusal leaves the holder's file"
    assert lock_file(path).exists(), "the holder was killed"
    with locked(path):
        assert f"process {os.getpid()} on " in lock_file(path).read_text(), "and its lock went with it"
    assert not list(tmp_path.rglob("*.lock"))


def test_what_a_killed_holder_forked_does_not_hold_it(tmp_path: Path) -> None:
    with held(tmp_path / "manifest.json", orphan=True):
        pass


def test_a_lock_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with held(path):
        pass


def test_a_lock_that_was_deleted_in_between_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder deletes the file after it was opened here, and before it is locked."""
    lock, real, taken = lock_file(tmp_path / "manifest.json"), fcntl.lockf, []

    def late(file: object, kind: int) -> None:
        if not taken:
            lock.unlink()
        taken.append(real(file, kind))

    monkeypatch.setattr(fcntl, "lockf", late)
    with locked(tmp_path / "manifest.json"):
        assert lock.exists()
    assert len(taken) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", none)
    with locked(tmp_path / "manifest.json"):
        pass
    assert capsys.readouterr().err == f"{tmp_path}: no locks on this file system; start nothing twice at once\n"


def test_one_launch_of_many_processes_holds_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path / "manifest.json", {})
    with held(stage.manifest):
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError, match="in work by process"), stage.claim():
            pass
        monkeypatch.setenv("RANK", "1")
        with stage.claim() as todo:
            assert todo


def test_a_stage_done_meanwhile_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path / "manifest.json", {})

    @contextmanager
    def slow(path: Path) -> Iterator[None]:
        with locked(path):
            stage.finish()
        with locked(path):
            yield

    monkeypatch.setattr("artifacts.locked", slow)
    with stage.claim() as todo:
        assert not todo


def test_a_done_stage_needs_no_lock(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "manifest.json", {})
    with stage.claim():
        stage.finish()
    with held(stage.manifest), stage.claim() as todo:
        assert not todo


# --- what a disk refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [atomic, locked])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_file_where_a_folder_should_be(tmp_path: Path, write: Callable, depth: int) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / ("deep" if depth == 2 else "") / "table.csv"
    with pytest.raises(UserError, match=r"table\.csv: a file stands where a folder should be"), write(path):
        pytest.fail("it was written")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("kind", ["file", "folder", "remade"])
def test_a_folder_that_vanishes_while_it_is_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run" / "oof.zarr"
    with pytest.raises(UserError, match=r"oof\.zarr: its folder vanished while it was written"), atomic(path) as one:
        if kind == "folder":
            one.mkdir()
        shutil.rmtree(path.parent)
        if kind == "remade":
            path.parent.mkdir()
        if kind == "file":
            one.write_text("half")


def test_a_file_that_is_missing_elsewhere_is_no_vanished_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), told(tmp_path / "table.csv"):
        (tmp_path / "other.csv").read_text()


def test_what_a_killed_process_left_in_its_scratch_folder_goes(tmp_path: Path) -> None:
    """A folder in use stays, and so does one that no process of ours made, or that may be about to be locked."""
    code = "import sys, time, disk, pathlib\nwith disk.scratch_folder(pathlib.Path(sys.argv[1])) as place:\n"
    code += "    (place / 'big').touch()\n    print(place, flush=True)\n    time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(SRC)})
        for _ in range(2)
    ]
    folders = [Path(one.stdout.readline().strip()) for one in running]
    (tmp_path / "fewmask-own").mkdir()
    try:
        running[0].kill()
        running[0].wait()
        with scratch_folder(tmp_path):
            assert folders[0].is_dir(), "a moment old"
        for one in folders:
            os.utime(one / SCRATCH_LOCK, (0, 0))
        with scratch_folder(tmp_path) as mine:
            left = {mine, folders[1], tmp_path / "fewmask-own"}
            assert set(tmp_path.iterdir()) == left
        assert not mine.exists()
    finally:
        running[1].kill()
        running[1].wait()
