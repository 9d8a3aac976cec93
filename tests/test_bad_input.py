"""Every mistake a user can make ends in one line that names it and says what to do, exit code 2, and nothing torn.

What prepare.py finds wrong with labels stands in test_prepare_faults.py in every form; here each kind goes once through
a script's whole command line, and the later stages' mistakes are added. What a disk refuses stands in
test_full_disk.py.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    call,
    copy_of,
    leftovers,
    open_workspace,
    prepare_data,
    run,
    switches,
    write_config,
)
from PIL import Image

import engine
import infer
from artifacts import load_checkpoint, save_checkpoint, write_json
from errors import UserError

# --- the data --------------------------------------------------------------------------------------------------------


def first_image(folder: Path) -> Path:
    return sorted((folder / "raw/train").iterdir())[0]


def edit_rows(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        table = folder / "raw/train.csv"
        table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")

    return spoil


def write_masks(folder: Path, size: tuple[int, int] = (64, 64), value: int = 1, **labels: Any) -> None:
    """Mask files instead of the table; the last one has a size and a value of its own."""
    (folder / "raw/masks").mkdir()
    images = sorted((folder / "raw/train").iterdir())
    for image in images:
        mask = np.eye(64, dtype=np.uint8)
        if image == images[-1]:
            mask = np.full(size, value, np.uint8)
        Image.fromarray(mask).save(folder / "raw/masks" / image.name)
    labels = {"kind": "masks", "path": "masks/{id}.png", "encoding": "index"} | labels
    write_config(folder, data={"labels": labels})


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DATA_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing image": (lambda one: first_image(one).unlink(), r"train\.csv row \d+: .*no image"),
    "an unreadable image": (lambda one: tear(first_image(one)), r"raw/train/\w+\.png: cannot be read"),
    "an unreadable test image": (
        lambda one: tear(sorted((one / "raw/test").iterdir())[0]), r"raw/test/\w+\.png: cannot be read"),
    "a file that is no image": (
        lambda one: first_image(one).write_text("no image"), r"raw/train/\w+\.png: "),
    "an image without a label": (
        edit_rows(lambda rows: rows[:-1]), r"raw/train/\w+\.png: image '\w+' has no label in train\.csv; add one"),
    "an id without an image": (edit_rows(lambda rows: [*rows, "stranger,1 2"]), r"train\.csv row 10: .*'stranger'"),
    "an id twice": (edit_rows(lambda rows: [*rows, rows[1]]), r"train\.csv row 10: "),
    "a run beyond the image": (
        edit_rows(lambda rows: [*rows[:-1], f"{rows[-1].split(',')[0]},4090 99"]), r"train\.csv row 9: "),
    "a run that is no number": (
        edit_rows(lambda rows: [*rows[:-1], f"{rows[-1].split(',')[0]},1 x"]), r"train\.csv row 9: "),
    "another header": (edit_rows(lambda rows: ["a,b", *rows[1:]]), r"train\.csv"),
    "a mask of another size": (
        lambda one: write_masks(one, size=(32, 40)), r"masks/\w+\.png: mask of 40x32 for image '\w+' of 64x64; make"),
    "a label outside the classes": (
        lambda one: write_masks(one, value=7), r"masks/\w+\.png: value 7 \(4096 pixels\) is none of the 2 classes"),
    "an empty folder": (
        lambda one: empty(one / "raw/train"), r"data\.images: no file matches 'train/\{id\}\.png' below .*; "),
    "no folder": (lambda one: shutil.rmtree(one / "raw"), r"data\.\w+.*: no f(older|ile) .*; (unpack|put)"),
    "a class that never occurs": (
        edit_rows(lambda rows: [rows[0], *(row.split(",")[0] + "," for row in rows[1:])]),
        r"classes: 'building' occurs in none of the 8 labels; take it out"),
    "an unknown key": (
        lambda one: write_config(one, train={"learning_rat": 1}), r"unknown key train\.learning_rat.*'learning_rate'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_a_fault_of_the_data_is_found_by_prepare(raw: Path, tmp_path: Path, fault: str, fail: Callable) -> None:
    folder = copy_of(raw, tmp_path)
    spoil, message = DATA_FAULTS[fault]
    spoil(folder)
    error = fail("prepare", folder)
    assert re.search(message, error), error
    assert not (folder / "data/tiny/manifest.json").exists()
    assert not (folder / "data/tiny/index.csv").exists()


def test_fewer_images_than_folds(raw: Path, tmp_path: Path, fail: Callable) -> None:
    folder = copy_of(raw, tmp_path)
    write_config(folder, folds={"count": 9})
    run("prepare", folder)
    assert "folds.count: 9 folds of 8 labelled images; set it to 8 or less" in fail("make_folds", folder)
    assert not (folder / "folds").exists()


# --- the command line ------------------------------------------------------------------------------------------------

COMMANDS = {
    "a wrong fold": (["train", "--fold", "2"], "--fold 2: .* has folds 0 to 1"),
    "a wrong round": (["train", "--round", "2"], "--round 2: .* has rounds 0 to 1"),
    "a wrong fold to predict": (["predict", "--fold", "-1"], "--fold -1: .* has folds 0 to 1"),
    "an unknown key": (["train", "--set", "train.epoch=3"], "unknown key .*epoch.*'epochs'"),
    "a value of the wrong kind": (["train", "--set", "train.epochs=many"], r"train\.epochs: .*'many'"),
    "no such config": (["train", "--config", "nowhere.yaml"], "nowhere.yaml: no such config"),
    "other settings": (
        ["train", "--fold", "0", "--set", "train.batch_size=3"], "batch_size: 4 -> 3.*--fresh makes it again"),
    "another seed": (["train", "--fold", "0", "--set", "seed=1"], r"seed: 0 -> 1.*--fresh"),
    "a round without teachers": (
        ["make_pseudo_labels", "--round", "1", "--fold", "1"], "round0/fold1/manifest.json: missing; run the stage"),
    "no pseudo-labels in this round": (["make_pseudo_labels", "--round", "0"], "round 0: .*has no pseudo: section"),
    "a round before its labels": (["train", "--round", "1", "--fold", "0"], "pseudo/manifest.json: missing"),
    "nothing trained": (["predict", "--fold", "1"], "round0/fold1/manifest.json: missing; run the stage"),
    "nothing predicted": (["ensemble"], r"\.json: missing; run the stage"),
    "nothing blended": (["evaluate"], r"\.json: missing; run the stage"),
    "nothing evaluated": (["evaluate", "--print"], r"scores\.json: missing; run the stage"),
    "nothing to submit": (["make_submission"], r"\.json: missing; run the stage"),
    "rules that nothing passes": (
        ["make_pseudo_labels", "--round", "1", "--fold", "0", "--set", "rounds.1.pseudo.pixel_confidence=1"],
        r"no pseudo-label passes the rules; loosen rounds\.1\.pseudo"),
    "a predictor of another model": (
        ["predict", "--fold", "0", "--fresh", "--set", "model.encoder=tu-test_resnet"],
        r"fold0: trained with other settings \(model\.encoder: 'tu-test_efficientnet' -> 'tu-test_resnet'\)"),
    "a predictor of other images": (
        ["predict", "--fold", "0", "--fresh", "--set", "image.normalise=image"], r"image\.normalise: 'fixed' -> 'im"),
    "a precision that this machine has not": (
        ["train", "--fold", "1", "--set", "train.precision=fp16"], "train.precision: fp16 needs a GPU; say auto"),
    "one pixel for a batch norm": (
        ["train", "--fold", "1", "--set", "train.batch_size=1"],
        r"train\.batch_size 1, train\.augment\.crop 32: .* raise train\.batch_size or .* set model\.norm=group"),
    "one pixel for an instance norm": (
        ["train", "--fold", "1", "--set", "model.norm=instance"], "for instance norms, .*; raise train.augment.crop, "),
    "one pixel for a group norm": (
        ["train", "--fold", "1", "--set", "model.norm=group", "--set", "model.arch=PlainUnet", "--set",
         "model.decoder_channels=[8,8,8,8,8,8]"], "for group norms, .*; raise train.augment.crop$"),
    "an unknown encoder": (
        ["train", "--fold", "1", "--set", "model.encoder=resnet1"], r"model\.encoder 'resnet1': "),
    "weights that are not there": (
        ["train", "--fold", "1", "--set", "model.weights=nowhere.pth"], r"model\.weights nowhere\.pth: no file"),
    "shares that leave nothing": (
        ["train", "--fold", "0", "--round", "1", "--set", "rounds.1.pseudo.share=1"], "missing|leave no room"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", COMMANDS)
def test_a_mistake_in_a_command_is_told(
    trained: Path, tmp_path: Path, mistake: str, fail: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = copy_of(trained, tmp_path)
    arguments, message = COMMANDS[mistake]
    before = sorted(path for path in (folder / "runs").rglob("manifest.json"))
    error = fail(arguments[0], folder, *arguments[1:])
    assert re.search(message, error), error
    assert sorted(path for path in (folder / "runs").rglob("manifest.json")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scratch", "nowhere"), "--scratch nowhere: no such folder"),
        (("--overlay",), "--masks and --overlay go with --images"),
        (("--masks", "out"), "--masks and --overlay go with --images"),
        (("--images", "nowhere"), "--images nowhere: no such folder"),
        (("--images", "/"), "--images /: say with --masks where"),
    ],
)
def test_a_mistake_in_a_command_of_infer_is_told(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    write_config(tmp_path)
    with pytest.raises(UserError, match=message):
        infer.main(infer.make_infer_parser().parse_args([*switches(tmp_path), *arguments]))


def test_a_mean_teacher_needs_an_average(raw: Path, tmp_path: Path, fail: Callable) -> None:
    folder = prepare_data(copy_of(raw, tmp_path))
    write_config(folder, train={"ema": 0.0}, rounds=[{}, {"phase": "joint", "consistency": {}}])
    assert "rounds.1.train.ema: 0, but" in fail("train", folder, "--round", "1")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_network_is_refused(trained: Path, tmp_path: Path, fail: Callable) -> None:
    folder = copy_of(trained, tmp_path)
    path = open_workspace(folder)[1].run(0, 0) / "last.pt"
    state = load_checkpoint(path)
    name = next(iter(state["model"]))
    whole = dict(state["model"])
    for spoilt in (
        {key: value for key, value in whole.items() if key != name},
        whole | {"stranger": torch.zeros(1)},
        whole | {name: torch.zeros(1, 2)},
    ):
        save_checkpoint(path, state | {"model": spoilt})
        error = fail("predict", folder, "--fold", "0", "--fresh")
        assert "fold0/last.pt: weights of another model (" in error
        assert "--fresh" in error
    tear(path)
    assert "fold0/last.pt: not a readable checkpoint" in fail("predict", folder, "--fold", "0", "--fresh")
    path.unlink()
    assert "fold0/last.pt: no checkpoint here; train" in fail("predict", folder, "--fold", "0", "--fresh")


def test_an_interrupted_run_goes_on_only_with_its_own_settings(
    raw: Path, tmp_path: Path, fail: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare_data(copy_of(raw, tmp_path))
    real, epochs = engine.train_one_epoch, []

    def stop_at_second(*arguments: Any) -> dict[str, float]:
        epochs.append(arguments[3])  # learner, batches, count, epoch, title
        if len(epochs) == 2:
            raise InterruptedError
        return real(*arguments)

    monkeypatch.setattr(engine, "train_one_epoch", stop_at_second)
    with pytest.raises(InterruptedError):
        run("train", folder, "--fold", "0")
    error = fail("train", folder, "--fold", "0", "--set", "train.learning_rate=0.001")
    assert "learning_rate: 0.005 -> 0.001" in error
    assert "--fresh" in error
    run("train", folder, "--fold", "0")
    assert epochs == [0, 1, 1, 2]
    run("train", folder, "--fold", "0", "--fresh", "--set", "train.learning_rate=0.001")
    assert epochs == [0, 1, 1, 2, 0, 1, 2]
    names = {path.name for path in open_workspace(folder)[1].run(0, 0).iterdir()}
    assert names == {"best.pt", "last.pt", "log.jsonl", "manifest.json", "config.yaml", "tensorboard"}


# --- the exit code ---------------------------------------------------------------------------------------------------


def test_a_process_of_its_own_says_it_in_one_line(trained: Path, tmp_path: Path) -> None:
    """What no test in one process can show: the exit code and the whole of standard error, from another folder."""
    folder = copy_of(trained, tmp_path)
    manifest = open_workspace(folder)[1].run(0, 0) / "manifest.json"
    values = json.loads(manifest.read_text())
    values["seen_ids"].append("x")
    write_json(manifest, values)
    answer = call("predict", folder, "--fold", "0")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert re.match(r"predict\.py: .*oof\.zarr|predict\.py: .*made with other settings \(inputs", answer.stderr)
    answer = call("predict", folder, "--fold", "0", "--debug")
    assert answer.stderr.startswith("Traceback")
    assert leftovers(folder) == []
