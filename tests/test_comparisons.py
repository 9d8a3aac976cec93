"""The comparisons of bench/: arms take equal steps on equal images, a seed counts once, a sweep ends in its table."""

import argparse
import importlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
import yaml
from helpers import make_workspace, run

from artifacts import TOP, read_json
from cli import make_parser
from config import Config
from errors import UserError
from settings import load_config
from sources import split_batch
from stages import list_stages

DUBAI = 56  # its labelled photos


@pytest.mark.parametrize(("pseudo", "start"), [(False, "encoder"), (True, "encoder"), (True, "previous")])
def test_both_arms_take_the_same_steps_and_predict_what_is_read(
    pseudo: bool, start: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    compare_pseudo = importlib.import_module("compare_pseudo")
    joint = {"phase": "joint", "start": start, "train": {"epochs": 5, "batch_size": 6}}
    joint |= {"pseudo": {}} if pseudo else {"consistency": {}}
    values = {"name": "t", "rounds": [{}, joint, {"phase": "finetune"}], "train": {"epochs": 3, "steps_per_epoch": 7}}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    args, commands = argparse.Namespace(config=tmp_path / "t.yaml", workspace=tmp_path, fresh=False), []
    monkeypatch.setattr(compare_pseudo, "run_told", commands.append)
    steps = {}
    for arm in ("supervised", "joint"):
        overrides = compare_pseudo.arm_overrides(load_config(args.config, []), arm, joint=1, seed=4)
        config = load_config(args.config, overrides)
        rounds = config.rounds[:2]
        steps[arm] = sum(one.train.epochs * one.train.steps_per_epoch for one in rounds)
        compare_pseudo.run_arm(args, overrides, rounds)
        if arm == "supervised":
            assert all(one.pseudo is None and one.consistency is None for one in rounds)
            sizes = [one.train.batch_size for one in rounds]
    assert steps == {"supervised": 56, "joint": 56}
    assert sizes == ([8, 6] if start == "previous" else [8]), "the same rounds, or one schedule"
    in_rounds = [command for command in commands if "--round" in command]
    said = [" ".join([Path(command[1]).stem, *command[command.index("--round") :]]) for command in in_rounds]
    plain = " --set predict.tta=none --set predict.scales=[1.0]"
    taught = ["predict --round 0 --fold 0", "make_pseudo_labels --round 1 --fold 0"] if pseudo else []
    alone = ["train --round 1 --fold 0", f"predict --round 1 --fold 0{plain}"]
    assert said == [
        "train --round 0 --fold 0",
        *(alone if start == "previous" else [f"predict --round 0 --fold 0{plain}"]),
        "train --round 0 --fold 0",
        *taught,
        "train --round 1 --fold 0",
        f"predict --round 1 --fold 0{plain}",
    ]
    assert not any("--fresh" in command for command in commands)
    commands.clear()
    args.fresh = True
    compare_pseudo.run_arm(args, overrides, rounds)
    assert commands
    assert all("--fresh" in command for command in commands)


def run_here(folder: Path, scripts: list[str], command: list[str]) -> None:
    """Run the command of a stage in this process, and note its script."""
    script, arguments = Path(command[1]).stem, command[2:]
    places = [arguments.index(name) for name in ("--config", "--workspace")]
    rest = [word for n, word in enumerate(arguments) if not any(n in (place, place + 1) for place in places)]
    scripts.append(script)
    run(script, folder, *rest)


@pytest.mark.parametrize("name", ["compare_pseudo", "compare_configs", "sweep_density"])
def test_a_seed_given_twice_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    with pytest.raises(UserError, match="^--seeds 0 1 0: each counts once, so give it once$"):
        importlib.import_module(name).main(argparse.Namespace(seeds=[0, 1, 0]))


def test_a_ceiling_is_judged_on_images_that_no_arm_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import compare_pseudo

    labels = {"kind": "rle", "path": "train.csv", "keep": 4}
    rounds = [{"phase": "warmup"}, {"phase": "joint", "start": "previous", "pseudo": {}}]
    settings = {"train": {"epochs": 1, "steps_per_epoch": 1}, "rounds": rounds}
    data = {"labels": labels, "unlabelled": "", "solution": "", "solution_of": "unlabelled"}
    folder = make_workspace(tmp_path, labelled=12, data=data, **settings)
    monkeypatch.setattr(compare_pseudo, "run_told", partial(run_here, folder, []))
    args = argparse.Namespace(config=folder / "tiny.yaml", workspace=folder, overrides=[], seeds=[0], ceiling=8)
    args.fresh = False
    compare_pseudo.main(args)
    rows = read_json(folder / "runs/compare_pseudo.json")
    names = {"supervised": "tiny_supervised_seed0", "joint": "tiny", "ceiling": "tiny_ceiling8_seed0"}
    assert [row["arm"] for row in rows] == list(names)
    hidden = {arm: compare_pseudo.hidden_ids(args, [f"name={name}"]) for arm, name in names.items()}
    assert [len(ids) for ids in hidden.values()] == [8, 8, 4]
    assert {row["images"] for row in rows} == {len(set.intersection(*hidden.values()))}
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(table) == 6, "a line an arm, a head and two gains"
    folds = {
        arm: set(pd.read_csv(folder / f"folds/{name}.csv").query("fold == 0")["image_id"])
        for arm, name in names.items()
    }
    assert folds["supervised"] == folds["joint"] != folds["ceiling"]
    assert [line.split()[2] == "-" for line in table[-2:]] == [False, True], "a gain on the same images, or none"
    args.ceiling = 0
    with pytest.raises(UserError, match="data.labels.keep"):
        compare_pseudo.main(args)
    args.overrides = ["train.steps_per_epoch=0"]
    with pytest.raises(UserError, match="train.steps_per_epoch: give a number"):
        compare_pseudo.main(args)


def test_a_density_sweep_ends_in_a_table_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import compare_pseudo
    import sweep_density

    folder, commands = make_workspace(tmp_path, labelled=4, train={"epochs": 3, "steps_per_epoch": 1}), []
    monkeypatch.setattr(compare_pseudo, "run_told", partial(run_here, folder, commands))
    parser = make_parser(sweep_density.__doc__)
    for name, kind in (("--points", str), ("--seeds", int)):
        parser.add_argument(name, type=kind, nargs="+")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    line = ["--config", str(folder / "tiny.yaml"), "--workspace", str(folder), "--epochs", "1", "--seeds", "0"]
    sweep_density.main(parser.parse_args([*line, "--points", "20", "1%", "dense"]))
    assert commands == ["prepare", "make_folds", "train", "predict"] * 3
    assert "100.0000%" in capsys.readouterr().out
    rows = read_json(folder / "runs/tiny_density.json")
    assert [row["an_image"] for row in rows] == [20.0, 41.0, 4096.0]
    assert len(read_json(folder / "runs/tiny_20_seed0/round0/fold0/manifest.json")["train_ids"]) == 2
    assert cv2.imread(str(folder / "reports/tiny/density.png")).shape[1] > 600
    with pytest.raises(UserError, match="--points 0: give numbers"):
        sweep_density.main(parser.parse_args([*line, "--points", "0"]))


def test_whole_runs_of_configs_are_compared_on_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import compare_configs

    labels = {"kind": "rle", "path": "train.csv", "points": {"count": 40}}
    settings = {"train": {"epochs": 2, "steps_per_epoch": 1}, "data": {"labels": labels}}
    folder = make_workspace(tmp_path, labelled=6, **settings)
    file = folder / "tiny.yaml"

    def in_this_process(command: list[str]) -> None:
        assert Path(command[1]).name == "run_stages.py"
        changes = [word for word in command if "=" in word]
        words = [word for change in changes for word in ("--set", change)]
        for script, *arguments in list_stages(load_config(file, changes)):
            if script not in ("make_submission.py", "make_report.py"):
                run(Path(script).stem, folder, *arguments, *words)

    monkeypatch.setattr(compare_configs, "run_told", in_this_process)
    parser = make_parser(compare_configs.__doc__)
    compare_configs.add_arguments(parser)
    arms = ["--arm", "short", str(file), "train.epochs=1", "--arm", "long", str(file)]
    shared = ["folds.count=1", "folds.validation=2", "postprocess.fit=false", "ensemble.fit_weights=false"]
    line = [*arms, "--seeds", "0", "1", "--workspace", str(folder), *(w for one in shared for w in ("--set", one))]
    compare_configs.main(parser.parse_args(line))
    rows = read_json(folder / "runs/compare_configs.json")
    assert [(row["arm"], row["seed"]) for row in rows if row["phase"] == "supervised"] == [
        ("short", 0),
        ("long", 0),
        ("short", 1),
        ("long", 1),
    ]
    runs = {(row["arm"], row["seed"]): folder / "runs" / f"tiny_{row['arm']}_seed{row['seed']}" for row in rows}
    seen = {key: read_json(path / "round0/fold0/manifest.json")["train_ids"] for key, path in runs.items()}
    assert seen["short", 0] == seen["long", 0] != seen["short", 1]
    first = read_json(runs["short", 0] / "scores.json")["phases"][0]
    assert rows[0]["scores"] == first["other_scores"] != first["oof_scores"], "masks judge, and points do not"
    lines = (runs["long", 0] / "round0/fold0/log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert rows[len(rows) // 4]["minutes"] == pytest.approx(sum(json.loads(one)["seconds"] for one in lines) / 60)
    table = capsys.readouterr().out.splitlines()[-8:]
    values = [row["scores"]["dice"] for row in rows if row["arm"] == "long" and row["phase"] == "supervised"]
    assert any("long" in one and "supervised" in one and f"{sum(values) / 2:.4f} ± " in one for one in table)
    with pytest.raises(UserError, match="--arm: give each a name"):
        compare_configs.main(parser.parse_args(["--arm", "short", str(file), "--arm", "short", str(file)]))


def test_a_stage_that_fails_ends_a_comparison_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import compare_configs

    folder = make_workspace(tmp_path)
    for image in (folder / "raw" / "train").iterdir():
        image.unlink()
    parser = make_parser(compare_configs.__doc__)
    compare_configs.add_arguments(parser)
    line = ["--arm", "ours", str(folder / "tiny.yaml"), "--seeds", "0", "--workspace", str(folder)]
    with pytest.raises(SystemExit) as caught:
        compare_configs.main(parser.parse_args(line))
    assert caught.value.code == 2
    told = capfd.readouterr().err
    assert told.startswith("prepare.py: ")
    assert "Traceback" not in told


def steps_in_all(config: Config) -> int:
    """The steps of all rounds of a single split, as train.py counts them."""
    images = (config.data.labels.keep or DUBAI) - config.folds.validation
    steps = 0
    for round, one in enumerate(config.rounds):
        each = one.train.steps_per_epoch or images // split_batch(config, round)["labelled"]
        steps += one.train.epochs * each
    return steps


@pytest.mark.parametrize("system", [one.stem for one in sorted((TOP / "configs/originals").glob("*.yaml"))])
def test_each_system_is_compared_with_its_original_on_the_same_labels(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import compare_configs

    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    command = ["bash", str(TOP / "bench/compare_systems.sh"), system, "--seeds", "3"]
    told = subprocess.run(command, env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=True)
    script, *words = told.stdout.split("\0")[:-1]
    assert Path(script) == TOP / "bench/compare_configs.py"
    parser = make_parser(compare_configs.__doc__)
    compare_configs.add_arguments(parser)
    args = parser.parse_args(words)
    assert args.seeds == [3]
    arms = {name: load_config(Path(file), [*args.overrides, *changes]) for name, file, *changes in args.arm}
    assert arms["original"].name == f"{system}_original"
    assert arms["ours"].name == system
    for section in ("folds", "classes"):
        assert len({str(getattr(config, section)) for config in arms.values()}) == 1, section
    labels = [config.data.model_dump(exclude={"kaggle", "solution_of"}) for config in arms.values()]
    for one in labels:
        (one["labels"]["points"] or {}).pop("grid", None)  # the same number; dubai_points draws on another grid
    assert all(one == labels[0] for one in labels)
    assert {config.model.encoder for config in arms.values()} == {"tu-tf_efficientnet_lite0"}
    alike = "longer" if "longer" in arms else "original"
    assert steps_in_all(arms[alike]) == steps_in_all(arms["ours"])


def test_an_unknown_system_is_told_by_name() -> None:
    told = subprocess.run(["bash", str(TOP / "bench/compare_systems.sh"), "potsdam"], capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.startswith("compare_systems.sh: no system potsdam; take satellite_pseudo, ")
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize("switches", [[], ["--fresh"]])
def test_whole_runs_are_done_again_when_asked(
    switches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import compare_configs

    commands: list[list[str]] = []
    monkeypatch.setattr(compare_configs, "run_told", commands.append)
    args = make_parser("").parse_args(["--workspace", str(tmp_path), *switches])
    with pytest.raises(UserError, match="scores.json: missing"):
        compare_configs.run_arm(args, "a", TOP / "configs/sample.yaml", [])
    assert [one for one in commands[0] if one == "--fresh"] == switches
