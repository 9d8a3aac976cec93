"""run.sh and the list it works through, in a small copy of the project whose stages only note their arguments."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from artifacts import TOP, Paths
from settings import parse_config
from stages import list_stages

STAGE = """\
import json, os, sys
from pathlib import Path
name = Path(sys.argv[0]).name
with open(Path(__file__).parent.parent / "notes.jsonl", "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == os.environ.get("FAILS"):
    sys.exit(7)
if "--print" in sys.argv:
    print("the table")
"""
STAGES = "prepare make_folds make_pseudo_labels train predict ensemble evaluate make_submission make_report".split()
ROUNDS = """\
rounds:
  - {}
  - {phase: joint, start: previous, pseudo: {}}
  - {phase: joint, start: previous, consistency: {}}
  - {phase: finetune, start: previous}
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of run.sh with the real list of stages, in a folder with a space in its name."""
    top = tmp_path / "few masks"
    (top / "src").mkdir(parents=True)
    (top / "configs").mkdir()
    shutil.copy(TOP / "run.sh", top)
    names = "errors memory yamls config settings disk children artifacts cli stages run_stages"
    for name in names.split():
        shutil.copy(TOP / "src" / f"{name}.py", top / "src")
    for name in STAGES:
        (top / "src" / f"{name}.py").write_text(STAGE)
    # in place of the libraries, a module that notes when it is imported
    (top / "src" / "runtime.py").write_text("def mend_torchvision(): pass")
    (top / "src" / "library.py").write_text("print('loading')")
    runner = top / "src" / "run_stages.py"
    runner.write_text(re.sub(r"^USED = \(.*?\)$", 'USED = ("library",)', runner.read_text(), flags=re.M | re.S))
    (top / "configs" / "sample.yaml").write_text("predict: {tta: none}\n")
    (top / "requirements.txt").write_text(f"# pins\nPyYAML=={version('PyYAML')}  # yaml\n\n# for the tests\n")
    return top


def run(house: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "FAILS", "PYTHONPATH")}
    command = ["bash", str(house / "run.sh"), *arguments]
    settings = inherited | {"PYTHON": sys.executable} | environment
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=300)


def notes(house: Path) -> list[list[str]]:
    path = house / "notes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_stage_is_a_script() -> None:
    rounds = [{}, {"phase": "joint", "pseudo": {}}]
    config = parse_config({"name": "fields", "rounds": rounds, "data": {"test": "a/{id}.png"}})
    named = {script for script, *_ in list_stages(config)}
    assert {f"{name}.py" for name in STAGES} == named


def test_the_default_run_prints_its_stages_and_ends_with_the_table(house: Path) -> None:
    answer = run(house)
    assert answer.returncode == 0, answer.stderr
    headings = [line.partition("  (")[0] for line in answer.stdout.splitlines() if line.startswith("[")]
    assert headings[0] == "[1/7] prepare.py"
    assert headings[2:] == [
        "[3/7] train.py --round 0",
        "[4/7] predict.py --round 0",
        "[5/7] ensemble.py",
        "[6/7] evaluate.py",
        "[7/7] make_report.py",
    ]
    assert answer.stdout.endswith("\nthe table\n")
    assert [note[:3] for note in notes(house)[2:4]] == [["train.py", "--round", "0"], ["predict.py", "--round", "0"]]
    assert notes(house)[-1][0] == "evaluate.py"
    assert notes(house)[-1][-1] == "--print"


def test_the_libraries_are_loaded_once_and_only_where_something_is_to_train(house: Path) -> None:
    (house / "configs" / "sample.yaml").write_text("data: {test: 'test/{id}.png'}\n" + ROUNDS)
    assert run(house).stdout.splitlines().count("loading") == 1
    report = Paths(house, "sample").report
    report.parent.mkdir(parents=True)
    report.touch()
    assert "loading" not in run(house).stdout
    assert run(house, "--fresh").stdout.splitlines().count("loading") == 1


def test_the_libraries_are_loaded_while_the_data_are_prepared(house: Path) -> None:
    (house / "src" / "library.py").write_text("from pathlib import Path; Path('loaded').touch()")
    waits = "import time\nfrom pathlib import Path\nend = time.time() + 60\n"
    waits += "while not Path('loaded').exists():\n    assert time.time() < end\n    time.sleep(0.01)\n"
    (house / "src" / "prepare.py").write_text(waits)
    answer = run(house, cwd=house)
    assert answer.returncode == 0, answer.stderr


def test_a_stage_that_ends_at_once_is_not_kept_waiting_for_libraries(house: Path) -> None:
    runner = house / "src" / "run_stages.py"
    runner.write_text(re.sub(r"^USED = \(.*?\)$", 'USED = ("slow", "library")', runner.read_text(), flags=re.M | re.S))
    (house / "src" / "slow.py").write_text("import time; time.sleep(3)")
    (house / "src" / "prepare.py").write_text("import sys; sys.exit(2)")
    answer = run(house)
    assert answer.returncode == 2
    assert "loading" not in answer.stdout


def test_a_stage_is_a_process_of_its_own(house: Path) -> None:
    (house / "src" / "train.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    answer = run(house)
    assert answer.returncode == 137
    assert "stage 3, train.py --round 0, failed (exit code 137); once mended" in answer.stderr


def test_where_no_process_can_be_forked_each_stage_is_started(house: Path) -> None:
    runner = house / "src" / "run_stages.py"
    runner.write_text(re.sub("^FORKS = .*$", "FORKS = False", runner.read_text(), flags=re.M))
    answer = run(house, FAILS="predict.py")
    assert answer.returncode == 7
    assert [note[0] for note in notes(house)] == ["prepare.py", "make_folds.py", "train.py", "predict.py"]
    assert "loading" not in answer.stdout, "each loads what it needs"


def test_the_list_is_for_a_scheduler(house: Path) -> None:
    command = [sys.executable, str(house / "src" / "run_stages.py"), "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed[2:4] == ["train.py --round 0", "predict.py --round 0"]
    assert notes(house) == []


def test_what_is_left_is_told_once_like_stages_have_run(house: Path) -> None:
    (house / "configs" / "sample.yaml").write_text("data: {test: 'test/{id}.png'}\n" + ROUNDS)
    stages = house / "src" / "stages.py"
    stages.write_text(stages.read_text().replace("SHORTEST = 20", "SHORTEST = 0"))
    answer = run(house)
    assert answer.returncode == 0, answer.stderr
    lines = [line for line in answer.stdout.splitlines() if line.startswith("[")]
    assert max(map(len, lines)) <= 80
    told = [line.partition("left)")[1] != "" for line in lines]
    # from the second stage on there is one to come that has a like, until the last prediction
    assert told == [False, False, False, *[True] * 8, *[False] * 4]
    assert re.fullmatch(r"\[5/15\] make_pseudo_labels.py --round 1  \(0:\d\d, more than 1 min left\)", lines[4])


def test_arguments_reach_every_stage_as_they_were_given(house: Path, tmp_path: Path) -> None:
    config = tmp_path / "my fields.yaml"
    config.write_text("name: fields\n" + ROUNDS)
    values = ["--set", "classes=['a $HOME * it''s']", "--set=seed=3", "--workspace", str(tmp_path / "w s")]
    answer = run(house, "my fields.yaml", *values, "--debug", "--fresh", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    changes = ["--set", "classes=['a $HOME * it''s']", "--set", "seed=3"]
    passed = ["--config", "my fields.yaml", "--workspace", str(tmp_path / "w s"), *changes, "--debug"]
    assert notes(house)[0] == ["prepare.py", *passed, "--fresh"]
    assert ["make_pseudo_labels.py", "--round", "1", *passed, "--fresh"] in notes(house)
    assert ["predict.py", "--round", "3", *passed, "--fresh"] in notes(house)
    assert notes(house)[-1] == ["evaluate.py", *passed, "--print"], "the table is shown, not made afresh"


def test_a_failing_stage_ends_the_run_with_its_code_and_name(house: Path) -> None:
    answer = run(house, FAILS="predict.py")
    assert answer.returncode == 7
    assert [note[0] for note in notes(house)] == ["prepare.py", "make_folds.py", "train.py", "predict.py"]
    said = (
        "run_stages.py: stage 4, predict.py --round 0, failed (exit code 7); once mended, "
        "the same command goes on from there"
    )
    assert answer.stderr == said + "\n"
    assert "the same command without --fresh goes on" in run(house, "--fresh", FAILS="predict.py").stderr


def test_a_table_that_fails_is_a_failure(house: Path) -> None:
    (house / "src" / "evaluate.py").write_text("import sys; sys.exit(3 if '--print' in sys.argv else 0)")
    assert run(house).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["configs/none.yaml"], "run_stages.py: configs/none.yaml: no such config"),
        (["--set", "seeed=1"], "unknown key seeed; the nearest is 'seed'"),
        (["--set"], "run.sh: --set needs a value"),
        (["--frsh"], "run.sh: unknown option --frsh"),
        (["a.yaml", "b.yaml"], "run.sh: one config at a time, not a.yaml and b.yaml"),
        (["setup", "now"], "run.sh: setup takes no arguments"),
    ],
)
def test_a_mistake_in_the_command_runs_no_stage(house: Path, arguments: list[str], said: str) -> None:
    answer = run(house, *arguments)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert notes(house) == []


def test_help_shows_the_commands(house: Path) -> None:
    answer = run(house, "--help")
    assert answer.returncode == 0
    assert "bash run.sh test" in answer.stdout
    assert "set -euo" not in answer.stdout


def test_set_up_is_skipped_where_python_has_all_the_pins(house: Path) -> None:
    answer = run(house, "setup")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert not (house / ".venv").exists()


def test_the_same_major_and_minor_version_fits(house: Path, tmp_path: Path) -> None:
    major, minor = version("PyYAML").split(".")[:2]
    (house / "requirements.txt").write_text(f"pyyaml=={major}.{minor}.99\n# for the tests\nno-such-package==1.0\n")
    assert run(house).returncode == 0
    assert not (house / ".venv").exists()
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    answer = run(house, "setup", PYTHONPATH=str(tmp_path))
    assert "has no venv" in answer.stderr, "the tests need their pins too, so set-up wants an environment of its own"


def put_wheel(folder: Path, number: str) -> None:
    """A package of one line, as pip takes it."""
    info = f"fewmask_probe-{number}.dist-info"
    with zipfile.ZipFile(folder / f"fewmask_probe-{number}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("fewmask_probe.py", f"number = {number!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fewmask-probe\nVersion: {number}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_set_up_makes_an_environment_and_keeps_it(house: Path, tmp_path: Path, work: Callable[[], float]) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number in ("1.0", "2.0"):
        put_wheel(wheels, number)
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    python, stamp = house / ".venv" / "bin" / "python", house / ".venv" / "set-up.txt"

    def installed() -> str:
        code = "import fewmask_probe; print(fewmask_probe.number)"
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    # an environment that was killed half-way, without its pip
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", house / ".venv"], check=True)
    (house / "requirements.txt").write_text("fewmask-probe==1.0\n")
    answer = run(house, "setup", **pip)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.startswith("setting up .venv, since ")
    assert installed() == "1.0"

    start = work()
    again = run(house, "setup", **pip)
    assert work() - start < 2.0, "pip alone would take longer"
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert run(house, "setup", **pip, PYTHON="").stderr == "", "it is used whatever python3 is"

    # a pin that cannot be had: pip's reason shows, and what stands no longer counts as whole
    (house / "requirements.txt").write_text("fewmask-probe==3.0\n")
    answer = run(house, "setup", **pip)
    assert answer.returncode == 1
    assert "No matching distribution found for fewmask-probe==3.0" in answer.stderr
    assert "run.sh: pip could not install requirements.txt" in answer.stderr
    assert not stamp.exists()

    (house / "requirements.txt").write_text("fewmask-probe==2.0\n")
    assert run(house, "setup", **pip).returncode == 0
    assert installed() == "2.0"
    assert stamp.exists()


def test_a_python_that_is_too_old_or_missing_is_told_in_one_line(house: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    for python, said in ((str(old), "is Python 3.9.1, too old"), ("no-such-python", "no no-such-python here")):
        answer = run(house, "setup", PYTHON=python)
        assert answer.returncode == 2
        assert said in answer.stderr
        assert "PYTHON=" in answer.stderr
        assert len(answer.stderr.splitlines()) == 1


def test_a_python_without_venv_is_told_in_one_line(house: Path, tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    (house / "requirements.txt").write_text("no-such-package==1.0\n")
    answer = run(house, "setup", PYTHONPATH=str(tmp_path))
    assert answer.returncode == 2
    assert "has no venv or no pip" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(("faults", "code"), [((), 0), (("ruff",), 4), (("pytest",), 5), (("ruff", "pytest"), 5)])
def test_the_tests_run_even_where_ruff_complains(house: Path, tmp_path: Path, faults: tuple, code: int) -> None:
    for name, number in (("ruff", 4), ("pytest", 5)):
        ends = number if name in faults else 0
        (tmp_path / f"{name}.py").write_text(f"import os, sys; print({name!r}, sys.argv[1:]); sys.exit({ends})")
    answer = run(house, "test", "-k", "a or b", PYTHONPATH=str(tmp_path))
    assert answer.stdout.splitlines() == ["ruff ['check', '.']", "pytest ['-k', 'a or b']"]
    assert answer.returncode == code


def test_the_check_runs_the_tests_with_nobody_at_the_keyboard(house: Path, tmp_path: Path) -> None:
    shutil.copytree(TOP / ".ci", house / ".ci")
    (tmp_path / "ruff.py").touch()
    (tmp_path / "pytest.py").write_text(
        "import os, sys; print(os.environ['CI'], repr(sys.stdin.read()), os.getcwd()); sys.exit(1)"
    )
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    command = [str(house / ".ci" / "run")]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, input="y", capture_output=True, text=True)
    assert answer.stdout == f"true '' {house}\n"
    assert answer.returncode == 1
