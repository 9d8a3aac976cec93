"""What a run says it will take, beside what it takes; and what it says when memory runs out or a loss is no number."""

import json
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    JOINT,
    environment,
    fail,
    make_workspace,
    open_workspace,
    prepare_data,
    run,
    same_tensors,
)
from test_dataset import make_config

import engine
import foresight
import memory
from artifacts import Paths, load_checkpoint
from config import Augment, Config, Train
from dataset import Picture, Record, Source, TrainingDataset
from errors import UserError
from memory import Needs, amount, out_of_memory
from runtime import make_accelerator
from settings import parse_config
from stores import ProbabilityStore, ProbabilityWriter
from trouble import told_too_large

GB = 10**9
# a training step as it is taken, and the most that the process then holds beyond what it held before
MEASURE = """
import os, sys
sys.path[:0] = {paths!r}
import torch
import test_foresight as tests
from memory import used_memory
learner, sources = tests.open_learner(batch_size=16, crop=128)
before = used_memory()
needs = tests.foresight.foretell_memory(learner, sources)
batch = dict(labelled=tests.foresight._blank(learner.config, "labelled", 16, 128))
held = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
loss, _ = tests.engine.step_loss(learner, batch, 0)
loss.backward()
tests.engine.apply_step(learner)
print(needs.total(16) - before, used_memory() - held)
"""


def open_learner(batch_size: int = 4, crop: int = 32, **model: object) -> tuple[engine.Learner, list[Source]]:
    """A plain U-Net's learner, and what it would learn from."""
    model = {"arch": "PlainUnet", "weights": "none", "decoder_channels": [64, 32, 16]} | model
    train = {"batch_size": batch_size, "augment": {"crop": crop}, "precision": "fp32"}
    config = parse_config({"name": "tiny", "model": model, "train": train})
    learner = engine.make_learner(config, config.rounds[0], make_accelerator("fp32"), 1, None)
    return learner, [Source("labelled", [Record("a", "a.png", (50, 100), mask="a.png")], batch_size)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_workspace(
        tmp_path_factory.mktemp("foresight"), train={"epochs": 1}, rounds=[{}, {"phase": "finetune"}]
    )
    return prepare_data(folder)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    return partial(fail, monkeypatch=monkeypatch, capsys=capsys)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="what a process holds now is read from Linux")
def test_the_foretold_memory_is_about_what_a_step_takes() -> None:
    here = Path(__file__).resolve().parent
    code = MEASURE.format(paths=[str(here.parent / "src"), str(here)])
    answer = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    foretold, measured = map(int, answer.stdout.split())
    assert measured > 10**8, "the step must stand out from the process"
    assert measured / 2 < foretold < 2 * measured


@pytest.mark.parametrize(("limits", "size"), [(["5000000"], 5000000), (["max", "7000000"], 7000000), (["9" * 19], 0)])
def test_a_containers_memory_is_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: list[str], size: int
) -> None:
    paths = [tmp_path / str(number) for number in range(3)]  # one of them is not there
    for path, limit in zip(paths[: len(limits)], limits, strict=True):
        path.write_text(limit + "\n")
    monkeypatch.setattr(memory, "LIMITS", ())
    whole = memory.memory_size()
    monkeypatch.setattr(memory, "LIMITS", paths)
    assert memory.memory_size() == (size or whole)


@pytest.mark.skipif(not memory.STATUS.is_file(), reason="elsewhere the system's word is all there is")
def test_what_the_process_that_started_this_one_holds_is_not_counted() -> None:
    held = np.ones(400_000_000, np.uint8)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from memory import used_memory; print(used_memory())"
    command = [sys.executable, "-c", code, str(Path(memory.__file__).parent)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(answer.stdout) < held.nbytes / 2
    assert memory.used_memory() > held.nbytes


def test_the_most_is_told_where_the_system_has_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory.used_memory()
    (tmp_path / "status").write_text("Name: python\n")
    for name in ("status", "nowhere"):
        monkeypatch.setattr(memory, "STATUS", tmp_path / name)
        assert memory.used_memory() >= here / 2


def test_memory_grows_with_the_crop_and_not_with_the_batch() -> None:
    small, large, many = (
        foresight.foretell_memory(*open_learner(size, crop)) for size, crop in ((4, 32), (4, 64), (64, 32))
    )
    assert large.per_image == pytest.approx(4 * small.per_image, rel=0.05)
    assert many.per_image == small.per_image
    assert small.total(8) - small.total(4) == 4 * small.per_image


def test_images_are_counted_up_to_the_cache() -> None:
    learner, (source,) = open_learner()
    one = foresight.foretell_memory(learner, [source]).fixed
    many = [Source("labelled", source.records * 10**5, 4)]
    gigabytes = 50 * 100 * 4 * (10**5 - 1)
    assert foresight.foretell_memory(learner, many).fixed - one == pytest.approx(gigabytes, rel=0.02)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "instances"])
def test_an_image_is_counted_with_its_label(task: str, soft: bool, tmp_path: Path) -> None:
    config = make_config(task)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 50, 3), np.uint8))
    with ProbabilityWriter(tmp_path / "soft.zarr") as writer:
        writer.add("a", np.zeros((config.channels, 40, 50), np.float32))
    sources = [Source("pseudo", [Record("a", "a.png", (40, 50), soft="soft.zarr" if soft else "")], 1)]
    image, label = (getattr(load_picture(sources, config, tmp_path), name).nbytes for name in ("image", "label"))
    assert foresight._pictures_size(config, sources) == image + label


def load_picture(sources: list[Source], config: Config, folder: Path) -> Picture:
    return TrainingDataset(sources, config, Paths(folder, config.name), 0, 0)._picture(0, 0)


def test_measuring_leaves_the_learner_as_it_was() -> None:
    learner, sources = open_learner(dropout=0.5)
    before = {name: one.clone() for name, one in learner.plain_model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    random = torch.get_rng_state()
    foresight.foretell_memory(learner, sources)
    assert same_tensors(before, learner.plain_model.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    assert all(one.grad is None for one in learner.plain_model.parameters())


def test_the_line_names_a_way_out_where_memory_will_not_do() -> None:
    disk = foresight.Disk(checkpoints=GB, stores=GB, free=54 * GB)
    said = foresight.describe(Needs(GB, GB // 4, 24 * GB, "GPU memory"), disk, 8)
    assert said == "about 3.0 GB of GPU memory (of 24.0 GB); the run: at most 2.0 GB of disk (of 54.0 GB)"
    said = foresight.describe(Needs(GB, GB, 4 * GB), disk, 8)
    assert "9.0 GB of memory (of 4.0 GB); lower train.batch_size, to about 3; the run" in said
    assert amount(35_400_000) == "35 MB"


# --- disk ------------------------------------------------------------------------------------------------------------


def test_the_foretold_disk_is_what_the_run_writes(data: Path, capsys: pytest.CaptureFixture) -> None:
    config, paths = open_workspace(data)
    paths.runs.mkdir(parents=True)
    model = engine.build_model(config.model, config.image.channels, config.channels, with_weights=False)
    _, (source,) = open_learner()
    learner = engine.make_learner(config, config.rounds[0], make_accelerator("fp32"), 1, model.state_dict())
    before = foresight.foretell_disk(config, paths, learner)
    for round in ("0", "1"):
        run("train", data, "--round", round)
        run("predict", data, "--round", round)
    lines = re.findall(r"^round \d fold \d: about .*$", capsys.readouterr().out, re.MULTILINE)
    assert len(lines) == 4
    assert all(re.search(r"about [\d.]+ [GM]B of memory \(of [\d.]+ GB\); the run: at most", line) for line in lines)
    after = foresight.foretell_disk(config, paths, learner)
    states = [load_checkpoint(path) for path in paths.runs.glob("round*/fold*/*.pt")]
    tensors = [one for state in states for half in ("model", "student") for one in state[half].values()]
    assert len(states) == 8
    assert before.checkpoints - after.checkpoints == sum(one.nbytes for one in tensors)
    stores = [ProbabilityStore(path) for path in paths.runs.glob("round*/fold*/*.zarr")]
    written = sum(store.raw(image_id).nbytes for store in stores for image_id in store.image_ids)
    assert before.stores - after.stores == written
    run("ensemble", data)
    blended = [ProbabilityStore(path) for path in (paths.runs / "ensemble").glob("*.zarr")]
    assert after.stores == sum(store.raw(image_id).nbytes for store in blended for image_id in store.image_ids)


@pytest.mark.parametrize(("scale", "pool"), [(1.5, ["unlabelled"]), (0.5, ["labelled"]), (0.5, ["unlabelled"])])
def test_soft_labels_are_foretold_too(scale: float, pool: list[str], tmp_path: Path) -> None:
    """A training image's lie at its own size, for its points' sake, the others' at the working scale."""
    joint = JOINT | {"pseudo": {"labels": "soft", "tta": False, "pool": pool}}
    folder = make_workspace(tmp_path, rounds=[{}, joint], train={"epochs": 1}, image={"scale": scale})
    prepare_data(folder)
    run("train", folder, "--fold", "0")
    run("predict", folder, "--fold", "0")
    config, paths = open_workspace(folder)
    learner = engine.make_learner(config, config.rounds[0], make_accelerator("fp32"), 1, None)
    before = foresight.foretell_disk(config, paths, learner)
    run("make_pseudo_labels", folder, "--round", "1", "--fold", "0")
    foretold = before.stores - foresight.foretell_disk(config, paths, learner).stores
    store = ProbabilityStore(paths.pseudo(1, 0) / "soft.zarr")
    written = sum(store.raw(image_id).nbytes for image_id in store.image_ids)
    assert foretold == written if scale > 1.0 or pool == ["labelled"] else foretold > written


@pytest.mark.parametrize(("image", "side"), [({"long_side": 32}, 12), ({"scale": 2.0}, 48), ({}, 24)])
def test_patches_are_foretold_at_the_scale_of_their_image(image: dict, side: int) -> None:
    config = parse_config({"name": "t", "image": image, "predict": {"patch": 24}})
    table = pd.DataFrame({"height": [64] * 3, "width": [48] * 3})
    assert foresight._count_pixels(config, table)[1] == 3 * side * side


def test_a_disk_that_is_too_small_ends_it_before_the_first_epoch(
    data: Path, failing: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(foresight, "disk_usage", lambda _: usage(10**5))
    monkeypatch.setattr(engine, "train_one_epoch", lambda *_: pytest.fail("it trained"))
    error = failing("train", data, "--fold", "0", "--fresh")
    assert re.search(r"0 MB of disk are free, and the run's checkpoints take \d+ MB, its .* free some space", error)


def test_stores_that_may_be_compressed_do_not_end_it() -> None:
    foresight.Disk(checkpoints=10, stores=1000, free=100).check(Path())
    for disk in (foresight.Disk(10, 1000, 25), foresight.Disk(101, 0, 100)):
        with pytest.raises(UserError, match="free some space or choose another --workspace"):
            disk.check(Path("runs"))


# --- out of memory ---------------------------------------------------------------------------------------------------

ERRORS = (
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
)


@pytest.mark.parametrize("error", ERRORS, ids=("processor", "gpu", "python"))
def test_a_batch_that_is_too_large_names_the_one_that_fits(
    data: Path, error: Exception, failing: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine, "step_loss", step)
    monkeypatch.setattr(foresight, "foretell", lambda *_: Needs(GB, GB, 4 * GB + 1, "GPU memory"))
    said = failing("train", data, "--fold", "0", "--fresh", "--set", "train.batch_size=8")
    assert said == (
        "train.py: train.batch_size=8 does not fit into 4.0 GB of GPU memory; about 3 fit: --set train.batch_size=3 "
        "(and --set train.accumulate=3 for as many images a step)\n"
    )


def test_what_the_processor_itself_refuses_is_told() -> None:
    with (
        pytest.raises(UserError, match="about 2 fit: --set train.batch_size=2"),
        told_too_large(Train(batch_size=4), None),
    ):
        torch.empty(2**50, dtype=torch.uint8)


def test_a_single_image_that_does_not_fit_names_the_crop() -> None:
    train = Train(batch_size=1, augment=Augment(crop=4096))
    with (
        pytest.raises(UserError, match=r"batch_size=1 with train.augment.crop=4096 does not fit into 4.0 GB of memory"),
        told_too_large(train, Needs(GB, 4 * GB, 4 * GB)),
    ):
        raise MemoryError


def test_another_error_stays_what_it_is() -> None:
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not out_of_memory(other)
    with pytest.raises(RuntimeError, match="mat1"), told_too_large(Train(), None):
        raise other


def test_the_fitting_batch_is_smaller_than_the_one_that_failed() -> None:
    assert Needs(0, 10, 35).fitting(8) == 3
    assert Needs(0, 10, 1000).fitting(8) == 4, "something else holds the memory"
    assert Needs(100, 10, 35).fitting(8) == 0


# --- a loss that is no number ----------------------------------------------------------------------------------------


def test_the_batch_of_a_loss_that_is_no_number_is_kept(
    data: Path, failing: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = engine.labelled_loss, []

    def broken(*arguments: object) -> torch.Tensor:
        calls.append(real(*arguments))
        return calls[-1] * (float("nan") if len(calls) == 3 else 1.0)  # the first measures what a step takes

    monkeypatch.setattr(engine, "labelled_loss", broken)
    error = failing("train", data, "--fold", "0", "--fresh")
    path = open_workspace(data)[1].run(0, 0) / "not_finite.json"
    named = re.search(r"step 1: the loss is not finite \(images (.+)\); .*; the batch is kept in (.+)\n", error)
    kept = json.loads(path.read_text())
    assert named[2] == str(path)
    assert (kept["step"], kept["epoch"]) == (1, 0)
    assert kept["images"] == {"labelled": named[1].split(", ")}
    assert len(kept["images"]["labelled"]) == 4
    assert kept["losses"] == {"labelled": "nan", "loss": "nan"}
    monkeypatch.undo()
    run("train", data, "--fold", "0", "--fresh")
    assert not path.exists(), "it is of a run that is over"
