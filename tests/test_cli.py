"""The shared command line: switches, exit codes, and one line for a mistake."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts import TOP
from cli import DEFAULT_CONFIG, chosen_folds, make_parser, open_config
from errors import UserError

SCRIPT = """\
import sys
sys.path.insert(0, {src!r})
from cli import make_parser, open_config, run_script
from errors import UserError

def main(args):
    {body}

if __name__ == "__main__":
    run_script(main, make_parser("Do it.", fold=True, round=True))
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fields.yaml"
    path.write_text("folds: {count: 3}\nrounds: [{}, {phase: finetune}]\n")
    return path


def run(folder: Path, body: str, *arguments: str) -> subprocess.CompletedProcess:
    script = folder / "do_it.py"
    script.write_text(SCRIPT.format(src=str(TOP / "src"), body=body))
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60)


def test_the_switches_and_their_defaults(config: Path) -> None:
    args = make_parser("", fold=True, round=True).parse_args([])
    assert (args.config, args.workspace, args.overrides) == (DEFAULT_CONFIG, TOP, [])
    assert (args.fresh, args.debug, args.fold, args.round) == (False, False, None, 0)
    said = ["--config", str(config), "--set", "seed=1", "--set", "classes=[a b]", "--workspace", "w", "--fold", "2"]
    args = make_parser("", fold=True, round=True).parse_args([*said, "--round", "1", "--fresh"])
    opened, paths = open_config(args)
    assert (opened.seed, opened.classes, paths.root, paths.name) == (1, ("a b",), Path("w"), "fields")
    assert (args.fold, args.round, args.fresh) == (2, 1, True)


def test_folds_are_all_or_the_one_that_is_named(config: Path) -> None:
    parser = make_parser("", fold=True)
    for said, folds in (([], [0, 1, 2]), (["--fold", "0"], [0])):
        args = parser.parse_args(["--config", str(config), *said])
        assert chosen_folds(args, open_config(args)[0]) == folds


@pytest.mark.parametrize(
    ("switch", "number", "said"),
    [("--fold", "3", "folds 0 to 2"), ("--fold", "-1", "folds 0 to 2"), ("--round", "2", "rounds 0 to 1")],
)
def test_a_wrong_number_says_which_there_are(config: Path, switch: str, number: str, said: str) -> None:
    args = make_parser("", fold=True, round=True).parse_args(["--config", str(config), switch, number])
    with pytest.raises(UserError, match=f"{switch} {number}: .*{said}"):
        open_config(args)


def test_a_script_without_folds_takes_none(config: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        make_parser("").parse_args(["--fold", "0"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --fold" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_code_2(tmp_path: Path) -> None:
    answer = run(tmp_path, "raise UserError('train.csv row 7: no image')")
    assert (answer.returncode, answer.stdout, answer.stderr) == (2, "", "do_it.py: train.csv row 7: no image\n")


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    answer = run(tmp_path, "raise UserError('no image')", "--debug")
    assert answer.returncode == 2
    assert answer.stderr.startswith("Traceback")
    assert answer.stderr.endswith("\ndo_it.py: no image\n")


def test_an_unknown_config_or_key_is_told(tmp_path: Path, config: Path) -> None:
    answer = run(tmp_path, "open_config(args)", "--config", str(config), "--set", "folds.cuont=2")
    assert answer.returncode == 2
    assert answer.stderr == f"do_it.py: {config}: unknown key folds.cuont; the nearest is 'count'\n"


def test_a_full_disk_is_told_wherever_it_shows(tmp_path: Path) -> None:
    body = f"raise OSError({errno.ENOSPC}, 'No space left on device')"
    answer = run(tmp_path, body, "--workspace", str(tmp_path))
    assert answer.returncode == 2
    assert answer.stderr == f"do_it.py: {tmp_path}: the disk is full; free some space and start again\n"


def test_a_bug_is_not_passed_off_as_a_mistake(tmp_path: Path) -> None:
    for body in ("raise ValueError('oh')", "open('/nowhere/at/all')"):
        answer = run(tmp_path, body)
        assert answer.returncode == 1
        assert answer.stderr.startswith("Traceback")


def test_stopping_by_hand_says_that_it_goes_on(tmp_path: Path) -> None:
    answer = run(tmp_path, "raise KeyboardInterrupt")
    assert (answer.returncode, answer.stderr) == (130, "do_it.py: stopped; the same command goes on where it was\n")
