"""Two processes on the CPU take the same steps as one with twice the batch, and write every file once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    SRC,
    environment,
    make_workspace,
    open_workspace,
    prepare_data,
    read_log,
    run,
    switches,
    write_config,
)

from artifacts import load_checkpoint
from images import read_mask

EPOCHS = 4
TEACHER = {"phase": "joint", "consistency": {"share": 0.5, "loss": "mse", "ramp_epochs": 0, "cutmix": 1.0}}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with very unequal numbers of labelled points."""
    folder = prepare_data(make_workspace(tmp_path_factory.mktemp("sparse") / "whole"))
    rng, rows = np.random.default_rng(0), []
    for number, path in enumerate(sorted((folder / "data/tiny/masks").iterdir())):
        mask = read_mask(path)
        for y, x in rng.integers(0, 64, (4 ** (number % 4 + 1), 2)):
            rows.append((path.stem, x, y, "building" if mask[y, x] else "background"))
    pd.DataFrame(rows, columns=["image_id", "x", "y", "class"]).to_csv(folder / "raw/points.csv", index=False)
    return folder


def make_run(sparse: Path, folder: Path, batch: int) -> Path:
    """A workspace whose second round trains a model without batch statistics on points and a mean teacher."""
    folder.mkdir(parents=True)
    (folder / "raw").symlink_to(sparse / "raw")
    settings = {"epochs": EPOCHS, "steps_per_epoch": 0, "batch_size": batch, "ema": 0.9, "clip": 0.1}
    # small steps: large ones make channels of 2x2 pixels constant, and rounding then decides what passes a ReLU
    settings |= {"learning_rate": 0.0002, "augment": {"crop": 64}}
    labels = {"kind": "points", "path": "points.csv"}
    write_config(folder, data={"labels": labels}, train=settings, model={"norm": "group"}, rounds=[{}, TEACHER])
    return prepare_data(folder)


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Two processes as `accelerate launch` starts them on two GPUs; with --cpu it starts but one, so torchrun does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    settings = environment() | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, str(SRC / "train.py"), *switches(folder), *arguments],
        cwd=folder, env=settings, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


def moved(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return sum(float((ours[key].double() - theirs[key].double()).square().sum()) for key in ours) ** 0.5


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the launched processes have it: another order of sums would move weights of almost no gradient, by Adam."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_take_the_step_of_one(sparse: Path, tmp_path: Path) -> None:
    arguments = ["--round", "1", "--fold", "0"]
    one, two = (make_run(sparse, tmp_path / name / "whole", batch) for name, batch in (("one", 8), ("two", 4)))
    run("train", one, *arguments)
    answer = launch(two, *arguments)
    assert answer.returncode == 0, answer.stderr[-3000:]
    places = [open_workspace(folder)[1].run(1, 0) for folder in (one, two)]
    states = [load_checkpoint(place / "last.pt") for place in places]
    start = make_run(sparse, tmp_path / "start" / "whole", 8)
    run("train", start, *arguments, "--set", "train.learning_rate=1e-12", "--set", "train.weight_decay=0")
    untrained = load_checkpoint(open_workspace(start)[1].run(1, 0) / "last.pt")
    for name in ("model", "student"):
        way = moved(states[0][name], untrained[name])
        assert way > 0.01
        assert moved(states[0][name], states[1][name]) < 1e-3 * way, name
    for alone, together in zip(*(read_log(place) for place in places), strict=True):
        assert alone["step"] == together["step"] == alone["epoch"] + 1
        assert alone.keys() == together.keys()
        for key in ("loss", "labelled", "consistency", "kept", "learning_rate", "score"):
            assert together[key] == pytest.approx(alone[key], rel=1e-3, abs=1e-5), key
    # a file written by both processes would stand twice or be said twice
    assert len(list((places[1] / "tensorboard").iterdir())) == EPOCHS
    assert answer.stdout.count(f"epoch {EPOCHS}/{EPOCHS}: loss") == 1
    assert sorted(os.listdir(places[0])) == sorted(os.listdir(places[1]))
    manifests = [json.loads((place / "manifest.json").read_text()) for place in places]
    assert manifests[0]["train_ids"] == manifests[1]["train_ids"]
