"""What the integration tests share: tiny competitions, tiny configs, and scripts run as a person would run them.

spec = write_config(tmp_path, rounds=[{}])
folder = prepare_data(tmp_path)
run("train", folder, "--round", "0")
"""

import copy
import functools
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from artifacts import TOP, Paths, read_json
from cli import make_parser, run_script
from config import Config
from disk import locked
from errors import UserError
from scenes import write_competition
from settings import load_config, merge, parse_config

SRC = TOP / "src"
NAME = "tiny"
TINY: dict[str, Any] = {
    "classes": ["building"],
    "data": {
        "root": "raw",
        "unlabelled": "unlabelled/{id}.png",
        "test": "test/{id}.png",
        "labels": {"kind": "rle", "path": "train.csv"},
        "sample_submission": "sample_submission.csv",
        "solution": "hidden/solution.csv",
    },
    "folds": {"count": 2},
    # timm's own model for tests, a tenth of a second to build
    "model": {"encoder": "tu-test_efficientnet", "weights": "none", "decoder_channels": [16, 8, 8, 8, 8]},
    "train": {
        "epochs": 3,
        "steps_per_epoch": 2,
        "batch_size": 4,
        "learning_rate": 0.005,
        "precision": "fp32",
        "augment": {"crop": 32, "cutmix": 0.5, "rotate": 30},
    },
    "predict": {"window": 64, "tta": "none"},
}
JOINT = {"phase": "joint", "start": "previous", "pseudo": {"pixel_confidence": 0.5, "tta": False}}


def write_config(folder: Path, **values: Any) -> Path:
    """`folder/tiny.yaml`: TINY with `values` laid over it, section by section."""
    path = folder / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(merge(copy.deepcopy(TINY), values)))
    return path


def make_workspace(folder: Path, *, seed: int = 0, labelled: int = 8, size: int = 64, **values: Any) -> Path:
    """A workspace with a config and a competition of its own: nothing is prepared yet."""
    folder.mkdir(parents=True, exist_ok=True)
    write_competition(folder / "raw", seed, labelled=labelled, unlabelled=6, test=4, size=size)
    write_config(folder, **values)
    return folder


def config_fault(values: dict[str, Any]) -> str:
    """The one line that values no config may have end in."""
    with pytest.raises(UserError) as caught:
        parse_config({"name": "fields"} | values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def prepare_data(folder: Path) -> Path:
    """Run the two stages before training."""
    run("prepare", folder)
    run("make_folds", folder)
    return folder


def link_workspace(data: Path, folder: Path, **values: Any) -> Path:
    """A workspace with the same images, prepared by links, and a config of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("raw", "data", "folds"):
        (folder / name).symlink_to(data / name)
    write_config(folder, **values)
    return folder


def train_first_fold(folder: Path) -> Path:
    """A workspace in which fold 0 of the first of two rounds is trained and has predicted."""
    make_workspace(folder, rounds=[{}, JOINT], train={"epochs": 1})
    prepare_data(folder)
    run("train", folder, "--fold", "0")
    run("predict", folder, "--fold", "0")
    return folder


def open_workspace(folder: Path, *overrides: str) -> tuple[Config, Paths]:
    return load_config(folder / f"{NAME}.yaml", overrides), Paths(folder, NAME)


def run(script: str, folder: Path, *arguments: str) -> None:
    """Run a script's main in this process. A user's mistake comes as UserError."""
    module = importlib.import_module(script)
    AcceleratorState._reset_state(reset_partial_state=True)  # a script is started anew, maybe with another precision
    module.main(_parser(script).parse_args([*switches(folder), *arguments]))


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def fail(script: str, folder: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """Run a script that must end with exit code 2 and one line on standard error; return that line."""
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *switches(folder), *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_script(module.main, _parser(script))
    assert caught.value.code == 2
    # a progress bar wipes itself with carriage returns
    error = capsys.readouterr().err.split("\r")[-1]
    assert error.startswith(f"{script}.py: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error
    assert leftovers(folder) == []
    return error


def call(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script as a process of its own, from a folder that is not the project's."""
    command = [sys.executable, str(SRC / f"{script}.py"), *switches(folder), *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def run_and_kill(jobs: list[dict[str, Any]]) -> list[int]:
    """Run jobs as killer.py says; returns how often each was killed. Every job must come to its end."""
    command = [sys.executable, str(TOP / "tests" / "killer.py")]
    given = json.dumps(jobs)
    answer = subprocess.run(command, input=given, env=environment(), capture_output=True, text=True, timeout=900)
    assert answer.returncode == 0, answer.stderr[-3000:]
    results = json.loads(answer.stdout.splitlines()[-1])
    faults = [line[-300:] for line in answer.stderr.splitlines() if "Error" in line or "File " in line][-12:]
    assert not any(code for _, code in results), (results, faults)
    return [kills for kills, _ in results]


@contextmanager
def held(path: Path, orphan: bool = False) -> Iterator[int]:
    """Another process holds the lock of `path`; its number. It is killed at the end, when the lock must be free, even
    where (`orphan`) a process that it forked lives on."""
    reader, writer = os.pipe()
    over, end = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(end)
            with locked(path):
                if orphan and not os.fork():
                    os.read(over, 1)
                    os._exit(0)
                os.write(writer, b"held")
                os.read(over, 1)  # until the test has ended
        finally:
            os._exit(1)
    os.close(over)
    try:
        assert os.read(reader, 4) == b"held"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if orphan:
            with locked(path):
                pass
        for one in (reader, writer, end):
            os.close(one)


def environment() -> dict[str, str]:
    """One thread a process: tiny tensors are slower on more."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def switches(folder: Path) -> list[str]:
    return ["--config", str(folder / f"{NAME}.yaml"), "--workspace", str(folder)]


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that an atomic write should have taken away."""
    return sorted(path for path in folder.rglob(".*tmp*"))


def same_tensors(ours: Any, theirs: Any) -> bool:
    """Whether two checkpoints hold the same values, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same_tensors(ours[key], theirs[key]) for key in ours)
    return ours == theirs


def read_log(folder: Path) -> list[dict[str, Any]]:
    """A run's log.jsonl without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: one for key, one in line.items() if key not in ("seconds", "images_per_second")} for line in lines]


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dice(truth: np.ndarray, mask: np.ndarray) -> float:
    """Dice of two masks of 0 and 1, by its words; 1 of two empty ones."""
    both, all = int((truth & mask).sum()), int(truth.sum()) + int(mask.sum())
    return 2 * both / all if all else 1.0


def seen_ids(paths: Paths, round: int, fold: int) -> set[str]:
    return set(read_json(paths.run(round, fold) / "manifest.json")["seen_ids"])


@functools.cache
def _parser(script: str) -> Any:
    module = importlib.import_module(script)
    numbered = script in ("train", "predict", "make_pseudo_labels")
    parser = make_parser(module.__doc__, fold=numbered, round=numbered)
    if script in ("evaluate", "make_submission"):
        module.add_arguments(parser)
    return parser
