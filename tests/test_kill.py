"""Every stage killed while it writes, and started again: the workspace is byte for byte that of an unbroken run.

Training in every form is killed in test_train.py; here it is one stage of the whole job.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_workspace, read_log, run_and_kill

ROUNDS = ["--set", "rounds=[{}, {phase: joint, start: previous, pseudo: {pixel_confidence: 0.5, tta: false}}]"]
# each stage with its arguments, and the moments it is killed at one after the other, as killer.py reads them
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "prepare": ([], ["torn rename .*masks.*png", "rename .*manifest.json"]),
    "make_folds": ([], ["torn rename .*tiny.csv", "rename .*folds.json"]),
    "train": ([], ["torn rename .*progress.pt", "step", "torn rename .*last.pt", "rename .*manifest.json"]),
    "predict": (ROUNDS, ["open .*0000.0.0.0", "rename .*oof.zarr$", "rename .*test.json"]),
    "make_pseudo_labels": ([*ROUNDS, "--round", "1"], ["torn rename .*masks.*png", "torn rename .*summary.json"]),
    "ensemble": ([], ["open .*test.*0001.0.0.0", "rename .*weights.json"]),
    "evaluate": ([], ["torn rename .*postprocess.json", "rename .*evaluation.json"]),
    "make_submission": ([], ["torn rename .*tiny.csv", "torn rename .*tiny.json"]),
    "make_report": ([], ["torn rename .*results.png"]),
}


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The workspace after each stage, unbroken and killed, and how often each stage was killed."""
    top, rng, jobs = tmp_path_factory.mktemp("kill"), np.random.default_rng(0), []
    before = make_workspace(
        top / "raw" / "whole",
        labelled=6,
        folds={"count": 1, "validation": 3},
        train={"epochs": 2, "steps_per_epoch": 1},
        ensemble={"rounds": "all", "fit_weights": False},
        postprocess={"fit": False},
    )
    for script, (arguments, aimed) in STAGES.items():
        common: dict[str, Any] = {"copy_of": str(before), "script": script, "arguments": arguments}
        unbroken, killed = (top / kind / script / "whole" for kind in ("unbroken", "killed"))
        drawn = [] if script == "make_report" else [rng.random()]
        jobs.append(common | {"folder": str(unbroken), "moments": []})
        jobs.append(common | {"folder": str(killed), "moments": [*aimed, *drawn]})
        before = unbroken
    return top, dict(zip(STAGES, run_and_kill(jobs)[1::2], strict=True))


def contents(folder: Path) -> dict[str, Any]:
    """What each file of a workspace holds, but for the times in logs and the events for TensorBoard, whose names hold
    one."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "log.jsonl":
            found[name] = json.dumps(read_log(path.parent))
        elif path.is_file() and path.parent.name != "tensorboard":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir():
            found[name] = "folder"
    return found


@pytest.mark.parametrize("script", STAGES)
def test_a_killed_stage_ends_as_an_unbroken_one(workspaces: tuple[Path, dict[str, int]], script: str) -> None:
    top, kills = workspaces
    assert kills[script] >= len(STAGES[script][1]), "every aimed moment came"
    unbroken, killed = (contents(top / kind / script / "whole") for kind in ("unbroken", "killed"))
    assert len(unbroken) > len(contents(top / "raw" / "whole"))
    assert {name: killed.get(name) for name in unbroken} == unbroken
    assert sorted(killed.keys() - unbroken.keys()) == [], "nothing half-written is left behind"


def test_there_were_many_kills(workspaces: tuple[Path, dict[str, int]]) -> None:
    assert sum(workspaces[1].values()) >= 20
