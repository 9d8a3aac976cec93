"""Training: killed and resumed bit for bit, every schedule, accumulation, early stopping, and what a round learns from."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

import engine
import train
from artifacts import Stage, load_checkpoint, read_json
from config import Train
from errors import UserError
from helpers import (
    JOINT,
    SRC,
    environment,
    leftovers,
    make_workspace,
    open_workspace,
    prepare_data,
    read_log,
    run,
    same_tensors,
    switches,
    write_config,
)

# Runs train.py in forked children of one process. A job is [arguments, limits]: a child is killed at its event number
# `limit`, the next one goes on, and the last is left alone. Events are all that a kill could tear apart; the answer is
# how many children were killed and after how many events the last one ended, job by job.
KILLER = """\
import io, json, os, signal, sys, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runtime import mend_torchvision
mend_torchvision()
import accelerate, albumentations, pandas, segmentation_models_pytorch, torch, torch.utils.tensorboard
import artifacts, engine, train
from cli import make_parser

def run(arguments, limit):
    events, dying = 0, False
    def event():
        nonlocal events
        events += 1
        if events == limit:
            os.kill(os.getpid(), signal.SIGKILL)
    def around(function):
        def watched(*args, **kwargs):
            event()
            answer = function(*args, **kwargs)
            event()
            return answer
        return watched
    save = torch.save
    def torn_save(state, file):
        if events + 1 == limit:
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
        event()
        save(state, file)
    torch.save = torn_save
    engine.apply_step = around(engine.apply_step)
    os.replace = around(os.replace)
    Path.unlink = around(Path.unlink)
    train.main(make_parser("", fold=True, round=True).parse_args(arguments))
    return events

results = []
for arguments, limits in json.loads(sys.stdin.read()):
    kills = 0
    for limit in [*limits, 0]:
        child = os.fork()
        if not child:
            code = 1
            try:
                events = run(arguments, limit)
                Path("events.txt").write_text(str(events))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            break
        kills += 1
    results.append([kills, int(Path("events.txt").read_text()) if status == 0 else 0])
print(json.dumps(results), file=sys.__stdout__)
"""

# every schedule, optimizer, average and source of images is in one of these
RUNS: dict[str, dict[str, Any]] = {
    "onecycle": {},
    "plateau": {
        "train": {"schedule": "plateau", "patience": 1, "optimizer": "adam", "ema": 0.0, "early_stopping": 3,
                  "epochs": 4},
        "model": {"dropout": 0.2},
    },
    "cosine": {
        "train": {"schedule": "cosine", "accumulate": 2, "evaluate_every": 2, "loss": {"class_weights": "frequency"}},
        "model": {"norm": "group"},
    },
    "joint": {"rounds": [{"train": {"epochs": 1}}, JOINT | {"consistency": {"share": 0.25, "threshold": 0.5}}]},
}  # fmt: skip


def train_and_kill(jobs: list[tuple[list[str], list[int]]], folder: Path) -> list[list[int]]:
    command = [sys.executable, "-c", KILLER, str(SRC)]
    answer = subprocess.run(
        command, input=json.dumps(jobs), cwd=folder, env=environment(), capture_output=True, text=True, timeout=500
    )
    results = json.loads(answer.stdout.splitlines()[-1])
    faults = [line for line in answer.stderr.splitlines() if "Error" in line]
    assert all(events for _, events in results), (results, faults)
    return results


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared workspace that tests copy from."""
    return prepare_data(make_workspace(tmp_path_factory.mktemp("data") / "whole"))


def copy_of(data: Path, folder: Path, **values: Any) -> Path:
    """A workspace with the same images, prepared by links, and a config of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("raw", "data", "folds"):
        (folder / name).symlink_to(data / name)
    write_config(folder, **values)
    return folder


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, int]]:
    """Each of RUNS twice, unbroken and killed at seeded moments: both run folders, and how often it was killed."""
    top, jobs, places = tmp_path_factory.mktemp("killed"), [], {}
    for name, values in RUNS.items():
        round = len(values.get("rounds", [0])) - 1
        rng = np.random.default_rng(len(name))
        for kind, limits in (("unbroken", []), ("killed", rng.integers(2, 40, 5).tolist())):
            folder = copy_of(data, top / name / kind, **values)
            if round:
                run("train", folder, "--fold", "0")
                run("predict", folder, "--fold", "0")
                run("make_pseudo_labels", folder, "--round", "1", "--fold", "0")
            jobs.append(([*switches(folder), "--fold", "0", "--round", str(round)], limits))
            places[name, kind] = open_workspace(folder)[1].run(round, 0)
    print(results := train_and_kill(jobs, top))
    kills = [kills for kills, _ in results[1::2]]
    return {
        name: (places[name, "unbroken"], places[name, "killed"], count)
        for name, count in zip(RUNS, kills, strict=True)
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_with_the_same_weights(killed: dict[str, tuple[Path, Path, int]], name: str) -> None:
    unbroken, resumed, kills = killed[name]
    assert kills >= 2
    for file in ("last.pt", "best.pt"):
        assert same_tensors(load_checkpoint(unbroken / file), load_checkpoint(resumed / file)), file
    assert read_log(unbroken) == read_log(resumed)
    assert (unbroken / "manifest.json").read_bytes() == (resumed / "manifest.json").read_bytes()
    assert leftovers(resumed) == []
    assert sorted(path.name for path in resumed.glob("*.*")) == sorted(path.name for path in unbroken.glob("*.*"))
