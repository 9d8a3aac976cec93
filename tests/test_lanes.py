"""Folds beside each other: each its part of the machine, the same bytes as alone, and no process left behind."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import SRC, environment, make_workspace, same_tensors, switches

import lanes
from artifacts import Paths, load_checkpoint
from cli import tell

COUNT = 3
# what each fold does is in `work`; two cores, whatever there are
PROGRAM = """
import argparse, json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {src!r})
import torch
from tqdm import tqdm
from cli import guard
from errors import UserError
from lanes import run_folds
here, todo = Path({here!r}), {todo!r}
def meet(fold, others):
    (here / f"here{{fold}}").touch()
    end = time.monotonic() + 100
    while not all((here / f"here{{other}}").exists() for other in others):
        assert time.monotonic() < end, "nobody came"
        time.sleep(0.01)
def work(fold):
{work}
    note = [os.getpid(), torch.get_num_threads(), tqdm([], disable=None, file=sys.stderr).disable]
    (here / f"{{fold}}.json").write_text(json.dumps(note))
guard(lambda args: run_folds(args, {count}, todo, work), argparse.Namespace(fold={fold}, debug=False, workspace=here))
print("all done", os.getpid())
"""


def start(here: Path, work: str, todo: tuple[int, ...] = (0, 1, 2), fold: int | None = None) -> subprocess.Popen:
    body = "\n".join("    " + line for line in work.splitlines())
    program = PROGRAM.format(src=str(SRC), here=str(here), todo=list(todo), work=body, count=COUNT, fold=fold)
    command = [sys.executable, "-c", program]
    given = environment() | {"OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    said, told = process.communicate(timeout=120)
    return process.returncode, said, told


def notes(here: Path) -> dict[int, tuple[int, int]]:
    """By fold: its process and its threads."""
    found = {int(path.stem): json.loads(path.read_text()) for path in here.glob("?.json")}
    return {fold: (process, threads) for fold, (process, threads, _) in sorted(found.items())}


def test_two_folds_go_at_once_and_the_last_has_all_cores(tmp_path: Path) -> None:
    code, said, told = finish(start(tmp_path, "meet(fold, {0: [1], 1: [0], 2: []}[fold])"))
    assert code == 0, told
    own = int(said.split()[-1])
    found = notes(tmp_path)
    assert [threads for _, threads in found.values()] == [1, 1, 2]
    assert len({found[0][0], found[1][0], own}) == 3
    assert found[2][0] == own


def test_what_is_left_to_do_has_the_cores_it_would_have_had(tmp_path: Path) -> None:
    assert finish(start(tmp_path, "pass", todo=(1,)))[0] == 0
    assert [threads for _, threads in notes(tmp_path).values()] == [1]


def test_a_fold_that_is_named_has_all_cores(tmp_path: Path) -> None:
    code, said, _ = finish(start(tmp_path, "pass", todo=(1,), fold=1))
    assert code == 0
    assert notes(tmp_path) == {1: (int(said.split()[-1]), 2)}


def test_a_mistake_is_told_once_and_the_other_fold_ends(tmp_path: Path) -> None:
    work = "meet(fold, [0, 1])\nif fold == 0: raise UserError('a.png: no image; take it away')\ntime.sleep(0.3)"
    code, said, told = finish(start(tmp_path, work))
    assert (code, said) == (2, "")
    assert told == "-c: a.png: no image; take it away\n"
    assert list(notes(tmp_path)) == [1], "and the third is not begun"


def test_a_fold_that_the_system_ends_is_named(tmp_path: Path) -> None:
    code, _, told = finish(start(tmp_path, "if fold == 1: os.kill(os.getpid(), signal.SIGKILL)"))
    assert code == 2
    assert told.startswith("-c: fold 1: its process was ended by SIGKILL; ")
    assert len(told.splitlines()) == 1


def test_a_killed_run_leaves_no_fold_behind(tmp_path: Path) -> None:
    work = "(here / f'pid{fold}').write_text(str(os.getpid()))\nmeet(fold, [0, 1])\ntime.sleep(60)"
    process = start(tmp_path, work, todo=(0, 1))
    end = time.monotonic() + 100
    while len(list(tmp_path.glob("here?"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)  # its pipes close when the last process that holds them has gone
    children = [int((tmp_path / f"pid{fold}").read_text()) for fold in (0, 1)]
    end = time.monotonic() + 20  # one is gone a moment after its pipes are
    while any(alive(child) for child in children) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(child) for child in children)


def test_stopped_by_hand_it_says_so_once(tmp_path: Path) -> None:
    # a shell has its background jobs ignore the signal, and what they start does too
    work = "signal.signal(signal.SIGINT, signal.default_int_handler)\nmeet(fold, [0, 1])\n"
    work += "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)"
    code, _, told = finish(start(tmp_path, work, todo=(0, 1)))
    assert (code, told) == (130, "")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_one_bar_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    work = "bar = tqdm(range(2), f'fold {fold}', file=sys.stderr)\nlist(bar)\nmeet(fold, {0: [1], 1: [0], 2: []}[fold])"
    _, _, told = finish(start(tmp_path, work, todo=(0, 1)))
    assert "fold 0" in told
    assert "fold 1" not in told


def test_a_line_stands_where_another_folds_bar_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for kind, expected in ((Terminal, "\r\x1b[Kfold 1: done\n"), (io.StringIO, "fold 1: done\n")):
        monkeypatch.setattr(sys, "stdout", kind())
        tell("fold 1: done")
        assert sys.stdout.getvalue() == expected


@pytest.mark.parametrize(
    ("device", "gpus", "threads", "memory", "world", "expected"),
    [
        ("cpu", 0, 2, 24, "1", 2),
        ("cpu", 0, 16, 128, "1", 5),
        ("cpu", 0, 16, 16, "1", 2),
        ("cpu", 0, 4, 4, "1", 1),
        ("cpu", 0, 16, 128, "2", 1),
        ("cuda", 1, 16, 128, "1", 1),
        ("cuda", 2, 4, 16, "1", 2),
        ("cuda", 8, 64, 128, "1", 5),
        ("mps", 0, 8, 32, "1", 1),
    ],
)
def test_the_machine_says_how_many(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, threads: int, memory: int, world: str, expected: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setattr("runtime.best_device", lambda: torch.device(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(lanes, "memory_size", lambda: memory * 10**9)
    assert lanes.count_lanes(5) == expected


def test_asking_for_a_gpu_leaves_it_to_the_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append(os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    lanes.count_lanes(2)
    assert asked
    assert set(asked) == {"1"}


def test_folds_beside_each_other_end_with_the_bytes_they_have_alone(tmp_path: Path) -> None:
    """Trained and predicted; and the thread count is the one of a part of the machine."""
    settings = {"labelled": 6, "folds": {"count": 2}, "train": {"epochs": 1, "steps_per_epoch": 2}}
    together, alone = (make_workspace(tmp_path / name / "w", **settings) for name in ("together", "alone"))
    for folder, cores, folds in ((together, "2", [[]]), (alone, "1", [["--fold", "0"], ["--fold", "1"]])):
        for script in ("prepare", "make_folds", "train", "predict"):
            for fold in folds if script in ("train", "predict") else [[]]:
                command = [sys.executable, str(SRC / f"{script}.py"), *switches(folder), *fold]
                given = environment() | {"OMP_NUM_THREADS": cores}
                answer = subprocess.run(command, env=given, capture_output=True, text=True, timeout=300)
                assert answer.returncode == 0, answer.stderr
    for fold in (0, 1):
        runs = [Paths(folder, "tiny").run(0, fold) for folder in (together, alone)]
        ours, theirs = (load_checkpoint(run / "last.pt", "model")["model"] for run in runs)
        assert same_tensors(ours, theirs)
        assert json.loads((runs[0] / "manifest.json").read_text()) == json.loads(
            (runs[1] / "manifest.json").read_text()
        )
        stores = [Paths(folder, "tiny").probabilities(0, fold, "oof", False) for folder in (together, alone)]
        first, second = ({p.relative_to(s): p.read_bytes() for p in s.rglob("*") if p.is_file()} for s in stores)
        assert first == second
        assert first
