"""Whole runs of tiny competitions: `bash run.sh` for a binary one, every other task stage by stage in this process."""

import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import JOINT, TINY, environment, make_workspace, open_workspace, run, write_config
from PIL import Image

from artifacts import TOP, Paths, read_json
from disk import remove
from formats import find_format, read_labels, validate_submission
from images import write_mask
from postprocess import resize_probabilities, to_label
from predictions import load_parameters
from rle import encode
from stages import list_stages
from stores import ProbabilityStore

CLASSES = ["land", "water", "road"]
SIZE = 48


def check_submission(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Read the file back, compare it with the ensemble's probabilities, and return its masks."""
    config, paths = open_workspace(folder)
    fmt, store = find_format(config.submission), ProbabilityStore(paths.ensemble("test"))
    sizes = dict.fromkeys(store.image_ids, (size, size))
    sample = folder / "raw" / config.data.sample_submission if config.data.sample_submission else None
    assert validate_submission(paths.submission, fmt, config.classes, sizes, sample) == []
    masks = dict(read_labels(paths.submission, fmt, config.classes, config.task, sizes))
    parameters = load_parameters(paths)
    for image_id in store.image_ids:
        probabilities = resize_probabilities(store.read(image_id), (size, size))
        expected = to_label(probabilities, config.task, parameters)
        found = masks.get(image_id, np.zeros_like(expected))
        np.testing.assert_array_equal(found > 0, expected > 0)
        if config.task != "instances":
            np.testing.assert_array_equal(found, expected)
    return masks


def run_sh(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """From another folder than the project's, as it may be called from anywhere."""
    command = ["bash", str(TOP / "run.sh"), str(folder / "tiny.yaml"), "--workspace", str(folder), *arguments]
    settings = environment() | {"PYTHON": sys.executable} | variables
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=900)


def stamps(folder: Path) -> dict[str, int]:
    """When each file of a workspace was written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != "tiny.yaml"
    }


def test_from_a_config_to_a_submission_and_a_report(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 2}
    folder = make_workspace(tmp_path / "a b", rounds=[{}, JOINT], train=settings, predict={"tta": "flips"})
    first = run_sh(folder, TQDM_DISABLE="1")
    assert first.returncode == 0, first.stdout[-1000:] + first.stderr[-3000:]
    assert "it/s" not in first.stderr, "progress bars can be switched off"
    table = first.stdout.splitlines()[-6:]
    assert [line[:20].strip() for line in table] == [
        "dice", "supervised", "+ pseudo-labels", "+ TTA", "+ ensemble", "+ fitted thresholds"]  # fmt: skip
    _, paths = open_workspace(folder)
    check_submission(folder, 64)
    assert read_json(paths.submission.with_suffix(".json"))["rows"] == 4
    page = paths.report.read_text(encoding="utf-8")
    assert "supervised" in page

    before = stamps(folder)
    second = run_sh(folder, PYTHONPROFILEIMPORTTIME="1")
    assert second.returncode == 0, second.stderr[-3000:]
    assert second.stdout.splitlines()[-6:] == table
    assert stamps(folder) == before, "a second run writes nothing"
    imported = set(re.findall(r"\| +([\w.]+)$", second.stderr, flags=re.MULTILINE))
    assert "pydantic" in imported
    assert not imported & {"torch", "sklearn", "scipy", "matplotlib", "albumentations"}, "it loads nothing heavy"

    changed = run_sh(folder, "--set", "train.epochs=2")
    assert changed.returncode == 2
    refusal = [line for line in changed.stderr.splitlines() if line.startswith("train.py: ")]
    assert len(refusal) == 1
    assert "round0/fold0: made with other settings (settings.round.train.epochs: 1 -> 2); --fresh" in refusal[0]
    assert "Traceback" not in changed.stderr
    assert stamps(folder) == before, "a refusal changes nothing"

    deleted = [paths.pseudo(1, 0) / "summary.json", paths.pseudo(1, 1) / "index.csv", paths.ensemble("oof")]
    deleted += [paths.ensemble("test"), paths.runs / "ensemble" / "weights.json", paths.curves]
    for path in deleted:
        remove(path)
    mended = run_sh(folder)
    assert mended.returncode == 0, mended.stderr[-3000:]
    assert mended.stdout.splitlines()[-6:] == table
    assert all(path.exists() for path in deleted), "what was deleted is made again"
    assert stamps(folder).keys() == before.keys()


# --- other tasks, in this process ------------------------------------------------------------------------------------


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of discs of two kinds on noise and its label: instances 1, 2, … whose parity is their kind."""
    rng = np.random.default_rng(number)
    label = np.zeros((SIZE, SIZE), np.int32)
    for count, (y, x) in enumerate(((12, 12), (12, 36), (36, 12), (36, 36)), start=1):
        right, down, radius = (int(one) for one in rng.integers((-3, -3, 5), (4, 4, 9)))
        cv2.circle(label, (x + right, y + down), radius, count, -1)
    image = rng.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
    image[label % 2 == 1] += np.uint8([150, 20, 20])
    image[(label > 0) & (label % 2 == 0)] += np.uint8([20, 20, 150])
    return image, label


def make_task(folder: Path, task: str) -> Path:
    """A workspace of 8 labelled, 4 pool and 4 test images with labels as such a competition has them."""
    rows, masks = [], folder / "raw" / "masks"
    masks.mkdir(parents=True)
    for split, first, count in (("train", 0, 8), ("unlabelled", 50, 4), ("test", 90, 4)):
        (folder / "raw" / split).mkdir()
        for number in range(first, first + count):
            image, label = draw(number)
            Image.fromarray(image).save(folder / "raw" / split / f"p{number}.png")
            kinds = np.where(label == 0, 0, 1 + label % 2)
            if split == "train" and task == "instances":
                rows += [(f"p{number}", encode(label == one)) for one in range(1, 5)]
            elif split == "train" and task == "multilabel":
                write_mask(masks / f"p{number}.tif", np.stack([kinds == 1, kinds == 2], axis=2).astype(np.uint8))
            elif split == "train":
                write_mask(masks / f"p{number}.png", kinds.astype(np.uint8))
    labels: dict[str, Any] = {"kind": "masks", "path": "masks/{id}.png", "encoding": "index"}
    if task == "multilabel":
        labels |= {"path": "masks/{id}.tif", "encoding": "binary"}
    if task == "instances":
        pd.DataFrame(rows, columns=["ImageId", "EncodedPixels"]).to_csv(folder / "raw/train.csv", index=False)
        labels = {"kind": "rle", "path": "train.csv", "format": "dsb2018"}
    classes = {"instances": ["disc"], "multilabel": CLASSES[1:]}.get(task, CLASSES)
    data = TINY["data"] | {"labels": labels, "sample_submission": "", "solution": ""}
    write_config(
        folder,
        task=task,
        classes=classes,
        data=data,
        submission="dsb2018" if task == "instances" else "image_class",
        rounds=[{"train": {"epochs": 15}}, JOINT | {"train": {"epochs": 1}}],
        train={"steps_per_epoch": 4, "learning_rate": 0.02},
    )
    return folder


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "instances"])
def test_every_task_ends_in_a_submission_that_has_learnt(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda count, **_: pool(1))
    folder = make_task(tmp_path / "whole", task)
    config, paths = open_workspace(folder)
    for script, *arguments in list_stages(config):
        run(script.removesuffix(".py"), folder, *arguments)
    masks = check_submission(folder, SIZE)
    found = []
    for number in range(90, 94):
        truth, mask = draw(number)[1] > 0, masks[f"p{number}"]
        mask = mask.any(axis=2) if task == "multilabel" else mask > 0
        found.append(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
    assert np.mean(found) > 0.6, "discs on noise are easily learnt"
    phases = read_json(paths.scores)["phases"]
    assert all(0.0 <= row["oof"] <= 1.0 for row in phases)


def test_fresh_starts_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = make_workspace(tmp_path / "whole", train={"epochs": 1, "steps_per_epoch": 1})
    paths: Paths = open_workspace(folder)[1]
    stages = [("prepare",), ("make_folds",), ("train", "--fold", "0"), ("predict", "--fold", "0")]
    for script, *arguments in stages:
        run(script, folder, *arguments)
    before = {name: stamp for name, stamp in stamps(folder).items() if not name.startswith("raw/")}
    weights = (paths.run(0, 0) / "last.pt").read_bytes()
    (paths.run(0, 0) / "last.pt").write_bytes(b"spoilt")
    for script, *arguments in stages:
        run(script, folder, *arguments, "--fresh")
    assert "already" not in capsys.readouterr().out
    after = stamps(folder)
    unchanged = {name for name, stamp in before.items() if after.get(name) == stamp}
    assert unchanged == set(), "every file is made anew"
    assert (paths.run(0, 0) / "last.pt").read_bytes() == weights
    assert os.listdir(folder / "folds") == ["tiny.csv"]
