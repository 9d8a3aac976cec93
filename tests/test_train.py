"""Training: killed and resumed bit for bit, schedules, accumulation, early stopping, what a round learns from."""

import shutil
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    JOINT,
    leftovers,
    link_workspace,
    make_workspace,
    open_workspace,
    prepare_data,
    read_log,
    run,
    run_and_kill,
    same_tensors,
)
from torch import nn

import engine
import validation
from artifacts import load_checkpoint, read_json
from config import Train
from images import read_mask
from members import open_predictor
from models import build_model

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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared workspace that tests copy from."""
    return prepare_data(make_workspace(tmp_path_factory.mktemp("data") / "whole"))


def make_job(folder: Path, round: int, moments: list[Any]) -> dict[str, Any]:
    arguments = ["--fold", "0", "--round", str(round)]
    return {"folder": str(folder), "copy_of": "", "script": "train", "arguments": arguments, "moments": moments}


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, int]]:
    """Each of RUNS twice, unbroken and killed at seeded moments: both run folders, and how often it was killed."""
    top, jobs, places = tmp_path_factory.mktemp("killed"), [], {}
    for name, values in RUNS.items():
        round = len(values.get("rounds", [0])) - 1
        drawn = np.random.default_rng(len(name)).uniform(0.05, 0.6, 4).tolist()
        for kind, moments in (("unbroken", []), ("killed", ["torn rename .*progress.pt", *drawn])):
            folder = link_workspace(data, top / name / kind / "whole", **values)
            if round:
                run("train", folder, "--fold", "0")
                run("predict", folder, "--fold", "0")
                run("make_pseudo_labels", folder, "--round", "1", "--fold", "0")
            jobs.append(make_job(folder, round, moments))
            places[name, kind] = open_workspace(folder)[1].run(round, 0)
    for workers in (1, 2):
        folder = link_workspace(data, top / "workers" / str(workers) / "whole", train={"workers": workers})
        jobs.append(make_job(folder, 0, []))
    kills = run_and_kill(jobs)[1:-2:2]
    return {
        name: (places[name, "unbroken"], places[name, "killed"], count) for name, count in zip(RUNS, kills, strict=True)
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
    # killed between its manifest and this, a finished run does it when it is asked again
    run("train", resumed.parents[3], "--fold", "0", "--round", resumed.parent.name.removeprefix("round"))
    assert sorted(path.name for path in resumed.glob("*.*")) == sorted(path.name for path in unbroken.glob("*.*"))


# --- what is saved, skipped and logged -------------------------------------------------------------------------------


def test_loader_workers_change_no_byte(killed: dict[str, tuple[Path, Path, int]], tmp_path: Path) -> None:
    unbroken, top = killed["onecycle"][0].parents[3], killed["onecycle"][1].parents[6]
    folders = [tmp_path / "whole", *(top / "workers" / str(workers) / "whole" for workers in (1, 2))]
    shutil.copytree(unbroken, folders[0], symlinks=True)
    for folder in folders[::2]:
        run("predict", folder, "--fold", "0")
    fold = Path("runs/tiny/round0/fold0")
    for name in ("last.pt", "best.pt"):
        assert len({(folder / fold / name).read_bytes() for folder in folders}) == 1, name
    chunks = sorted(path.relative_to(folders[0]) for path in (folders[0] / fold).glob("*.zarr/**/*") if path.is_file())
    assert len(chunks) > 8
    for name in chunks:
        assert (folders[0] / name).read_bytes() == (folders[2] / name).read_bytes(), name


def test_the_log_says_what_each_source_taught(killed: dict[str, tuple[Path, Path, int]]) -> None:
    lines = read_log(killed["joint"][0])
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert {"loss", "labelled", "pseudo", "consistency", "kept", "learning_rate", "score", "scores"} <= line.keys()
        assert 0.0 <= line["kept"] <= 1.0
        assert line["score"] == line["scores"]["dice"]
    every_second = [("score" in line) for line in read_log(killed["cosine"][0])]
    assert every_second == [False, True, True], "every second epoch and the last"


def last_model(folder: Path, fold: int = 0) -> dict[str, torch.Tensor]:
    return load_checkpoint(open_workspace(folder)[1].run(0, fold) / "last.pt")["model"]


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return sum(float((ours[key].double() - theirs[key].double()).square().sum()) for key in ours) ** 0.5


def test_accumulated_batches_make_the_step_of_a_whole_one(data: Path, tmp_path: Path) -> None:
    models = {}
    for name, size, parts in (("whole", 8, 1), ("parts", 4, 2), ("half", 4, 1), ("start", 8, 1)):
        settings = {"epochs": 1, "batch_size": size, "accumulate": parts, "ema": 0.0, "schedule": "constant"}
        settings |= {"loss": {"dice": 0.0}, "learning_rate": 1e-12 if name == "start" else 0.002, "weight_decay": 0.0}
        folder = link_workspace(data, tmp_path / name, train=settings, model={"norm": "group"})
        run("train", folder, "--fold", "0")
        models[name] = last_model(folder)
    moved = distance(models["whole"], models["start"])
    # Adam makes a whole step of the smallest gradient, whose sign rounding may decide
    assert distance(models["whole"], models["parts"]) < 2e-2 * moved
    assert distance(models["whole"], models["half"]) > 0.1 * moved


def test_an_epoch_goes_once_through_the_images_however_they_are_batched(data: Path, tmp_path: Path) -> None:
    for number, (size, parts, steps) in enumerate(((2, 1, 2), (1, 2, 2), (2, 2, 1), (16, 1, 1))):
        settings = {"epochs": 1, "steps_per_epoch": 0, "batch_size": size, "accumulate": parts}
        folder = link_workspace(data, tmp_path / str(number), train=settings, model={"norm": "group"})
        run("train", folder, "--fold", "0")
        assert read_log(open_workspace(folder)[1].run(0, 0))[0]["step"] == steps


def test_bf16_trains_too(data: Path, tmp_path: Path) -> None:
    folder = link_workspace(data, tmp_path, train={"epochs": 1, "precision": "bf16"})
    run("train", folder, "--fold", "0")
    assert all(torch.isfinite(one).all() for one in last_model(folder).values())
    assert {one.dtype for one in last_model(folder).values()} == {torch.float32, torch.int64}
    run("predict", folder, "--fold", "0")


def test_compiled_steps_end_with_the_same_names_and_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []

    def as_it_is(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        """A back end whose code is the very operations: what a real one makes of them differs in the last bits."""
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=as_it_is))
    teacher = {"phase": "joint", "consistency": {"share": 0.5, "threshold": 0.5}}
    models = []
    for compile in (False, True):
        folder = link_workspace(
            data, tmp_path / str(compile), rounds=[{}, teacher], train={"compile": compile, "epochs": 2}
        )
        run("train", folder, "--round", "1", "--fold", "0")
        models.append(load_checkpoint(open_workspace(folder)[1].run(1, 0) / "last.pt"))
        assert len(graphs) >= 2 * compile, "the student's and the teacher's"
    assert same_tensors(*models)


def test_a_model_that_cannot_be_compiled_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., str]
) -> None:
    def broken(*_: Any) -> Any:
        raise FileNotFoundError("no C++ compiler")

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=broken))
    error = fail("train", link_workspace(data, tmp_path, train={"compile": True}), "--fold", "0")
    assert error.startswith("train.py: train.compile: torch.compile fails here (")
    assert "no C++ compiler" in error
    assert error.endswith("; set train.compile=false\n")


def test_class_weights_reach_the_loss(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, real = [], engine.segmentation_loss

    def watched(logits: Any, target: Any, loss: Any, task: Any, class_weights: Any, average: Any) -> torch.Tensor:
        given.append(class_weights)
        return real(logits, target, loss, task, class_weights, average)

    monkeypatch.setattr(engine, "segmentation_loss", watched)
    folder = link_workspace(data, tmp_path, train={"epochs": 1, "loss": {"class_weights": "frequency"}})
    run("train", folder, "--fold", "0")
    config, paths = open_workspace(folder)
    ids = read_json(paths.run(0, 0) / "manifest.json")["train_ids"]
    share = np.mean([read_mask(paths.data / "masks" / f"{image_id}.png") for image_id in ids])
    expected = np.array([1 / (1 - share), 1 / share]) / 2
    assert given
    for weights in given:
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-5)


def score_as(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every evaluation answer the next of these scores."""
    left = iter(scores)
    monkeypatch.setattr(validation, "evaluate", lambda *_: {"dice": next(left), "miou": 0.0})


@pytest.mark.parametrize(
    ("patience", "scores", "epochs", "best"),
    [(2, [0.5, 0.6, 0.4, 0.6, 0.9], 4, 2), (2, [0.1, 0.2, 0.3, 0.4, 0.5], 5, 5), (0, [0.5, 0.4, 0.3, 0.2, 0.1], 5, 1)],
)
def test_early_stopping_and_the_best_epoch(
    data: Path, tmp_path: Path, patience: int, scores: list[float], epochs: int, best: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = {"epochs": 5, "steps_per_epoch": 1, "early_stopping": patience, "batch_size": 2}
    # a batch norm would be worked into its convolution, and the weights be others
    folder = link_workspace(data, tmp_path, train=settings | {"select": "best"}, model={"norm": "group"})
    score_as(scores, monkeypatch)
    run("train", folder, "--fold", "0")
    config, paths = open_workspace(folder)
    assert len(read_log(paths.run(0, 0))) == epochs
    checkpoints = {name: load_checkpoint(paths.run(0, 0) / f"{name}.pt") for name in ("best", "last")}
    assert (checkpoints["best"]["epoch"], checkpoints["last"]["epoch"]) == (best, epochs)
    chosen = build_model(config.model, config.image.channels, config.channels, with_weights=False).eval()
    chosen.load_state_dict(checkpoints["best"]["model"])
    predictor, images = open_predictor(config, paths, 0, 0, tta=False), torch.rand(1, config.image.channels, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(predictor(images), chosen(images).sigmoid(), rtol=1e-3, atol=1e-4)


def test_early_stopping_ends_with_a_score(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs after the best is no epoch that is scored."""
    settings = {"epochs": 12, "steps_per_epoch": 1, "early_stopping": 4, "evaluate_every": 3, "batch_size": 2}
    folder = link_workspace(data, tmp_path, train=settings)
    score_as([0.5, 0.4, 0.3, 0.2], monkeypatch)
    run("train", folder, "--fold", "0")
    log = read_log(open_workspace(folder)[1].run(0, 0))
    assert len(log) == 9
    assert log[-1]["score"] == 0.3


def test_a_later_round_starts_where_the_one_before_ended(data: Path, tmp_path: Path) -> None:
    still = {"train": {"learning_rate": 1e-12, "ema": 0.0, "weight_decay": 0.0, "epochs": 1}}
    rounds = [{}, {"phase": "finetune", "start": "previous"} | still, {"phase": "finetune", "start": "encoder"} | still]
    folder = link_workspace(data, tmp_path, rounds=rounds, model={"norm": "group"})
    for number in range(3):
        run("train", folder, "--fold", "0", "--round", str(number))
    first, second, third = (
        load_checkpoint(open_workspace(folder)[1].run(number, 0) / "last.pt")["model"] for number in range(3)
    )
    assert distance(first, second) < 1e-4
    assert distance(first, third) > 0.1


# --- schedules -------------------------------------------------------------------------------------------------------


def rates(**settings: Any) -> np.ndarray:
    """The rate of each of 4 epochs of 5 steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    train_settings = Train(epochs=4, learning_rate=0.1, **settings)
    schedule, found = engine.make_schedule(optimizer, train_settings, 5), []
    for _ in range(20):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(type(rate) is float for rate in found), "a checkpoint holds plain numbers"
    return np.array(found)


@pytest.mark.parametrize("steps", range(1, 41))
def test_onecycle_bears_any_number_of_steps(steps: int) -> None:
    """Of nine, a tenth of the ten that torch is told is one step: its climb is from the first step to the first."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = engine.make_schedule(optimizer, Train(epochs=1, warmup=0.1), steps)
    for _ in range(steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= 0.1
        optimizer.step()
        schedule.step()


def test_onecycle_climbs_and_falls() -> None:
    found = rates(schedule="onecycle", warmup=0.25)
    assert found[0] == pytest.approx(0.1 / 25)
    assert found.argmax() in (4, 5)
    assert found.max() == pytest.approx(0.1, rel=0.01)
    assert (np.diff(found[:5]) > 0).all()
    assert (np.diff(found[5:]) < 0).all()
    assert found[-1] < 0.1 / 100


def test_cosine_warms_up_and_falls_to_nothing() -> None:
    found, steps = rates(schedule="cosine", warmup=0.25), np.arange(20)
    expected = np.where(steps < 5, (steps + 1) / 5, 0.5 * (1 + np.cos(np.pi * (steps - 5) / 15)))
    np.testing.assert_allclose(found, 0.1 * expected)
    np.testing.assert_allclose(rates(schedule="cosine", warmup=0.0), 0.05 * (1 + np.cos(np.pi * steps / 20)))


def test_steps_and_a_constant() -> None:
    np.testing.assert_allclose(rates(schedule="step", step_epochs=2, gamma=0.1), 0.1 * 0.1 ** (np.arange(20) // 10))
    np.testing.assert_allclose(rates(schedule="constant"), 0.1)


def test_a_plateau_lowers_the_rate(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"epochs": 6, "steps_per_epoch": 1, "batch_size": 2, "schedule": "plateau", "patience": 1, "gamma": 0.1}
    folder = link_workspace(data, tmp_path, train=settings)
    score_as([0.5, 0.6, 0.6, 0.5, 0.7, 0.6], monkeypatch)
    run("train", folder, "--fold", "0")
    found = [line["learning_rate"] for line in read_log(open_workspace(folder)[1].run(0, 0))]
    np.testing.assert_allclose(found, [0.005] * 4 + [0.0005] * 2)


@pytest.mark.parametrize(("every", "patience", "evaluations"), [(1, 3, 4), (2, 3, 2), (2, 4, 3), (5, 3, 1)])
def test_a_plateau_counts_epochs_however_often_they_are_scored(every: int, patience: int, evaluations: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    settings = Train(schedule="plateau", patience=patience, evaluate_every=every)
    schedule, worse = engine.make_schedule(optimizer, settings, 1), 0
    schedule.step(0.5)
    while optimizer.param_groups[0]["lr"] == 0.1:
        schedule.step(0.4)
        worse += 1
    assert worse == evaluations
