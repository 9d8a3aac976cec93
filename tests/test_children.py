"""Processes that a stage starts: gone when it is, silent when it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import SRC

from artifacts import TOP
from children import call_beside
from errors import UserError

# each writes its id, then would sleep for a minute
SLEEPER = """
import os, time
from pathlib import Path

def sleep(folder):
    path = Path(folder) / f"{os.getpid()}"
    path.with_name("." + path.name).touch()
    path.with_name("." + path.name).rename(path)
    time.sleep(60)
"""
BESIDE = """
import sys
from children import call_beside
from sleeper import sleep

if __name__ == "__main__":
    try:
        call_beside(sleep, [(sys.argv[1],)] * 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""
STAGE = """
import sys
from pathlib import Path
import run_stages

run_stages.PATIENCE = 0.5
script = Path(sys.argv[1]).with_name("stage.py")
script.write_text(f"from sleeper import sleep\\nsleep({sys.argv[1]!r})")
try:
    run_stages.run_stage(str(script), [])
except KeyboardInterrupt:
    sys.exit(130)
"""
COMPARISON = f"""
import sys
from pathlib import Path
sys.path.append({str(TOP / "bench")!r})
from compare_pseudo import run_told

script = Path(sys.argv[1]).with_name("stage.py")
script.write_text(f"from sleeper import sleep\\nsleep({{sys.argv[1]!r}})")
try:
    run_told([sys.executable, str(script)])
except KeyboardInterrupt:
    sys.exit(130)
"""
PARENTS = pytest.mark.parametrize(
    ("code", "children"), [(BESIDE, 2), (STAGE, 1), (COMPARISON, 1)], ids=["beside", "stage", "comparison"]
)


def start(folder: Path, code: str, children: int) -> tuple[subprocess.Popen, list[int]]:
    """Run `code` in a group of its own until its children sleep; the process and their ids."""
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "main.py").write_text(code)
    (folder / "ids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(folder / "main.py"), str(folder / "ids")],
        env=os.environ | {"PYTHONPATH": f"{SRC}:{folder}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # where the tests run in a shell's background, it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    ids: list[int] = []
    for _ in range(600):
        ids = [int(path.name) for path in (folder / "ids").glob("[0-9]*")]
        if len(ids) == children:
            return parent, ids
        time.sleep(0.05)
    parent.kill()
    raise AssertionError(f"{ids} of {children} children: {parent.communicate()[1]}")


def gone(ids: list[int]) -> bool:
    """Whether none of these processes runs any more, some seconds from now at the latest."""
    for _ in range(100):
        if not any(Path(f"/proc/{one}/stat").exists() and " Z " not in state(one) for one in ids):
            return True
        time.sleep(0.05)
    return False


def state(number: int) -> str:
    try:
        return Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return " Z "


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")


@PARENTS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_none_outlives_its_parent(tmp_path: Path, code: str, children: int, number: signal.Signals) -> None:
    parent, ids = start(tmp_path, code, children)
    parent.send_signal(number)
    parent.wait(timeout=20)
    assert gone(ids)


@PARENTS
def test_a_stop_of_the_parent_alone_stops_all(tmp_path: Path, code: str, children: int) -> None:
    parent, ids = start(tmp_path, code, children)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=20) == 130
    assert gone(ids)


def test_a_terminals_stop_is_told_by_the_parent_alone(tmp_path: Path) -> None:
    parent, ids = start(tmp_path, BESIDE, 2)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=20) == 130
    assert parent.stderr.read() == ""
    assert gone(ids)


def test_answers_come_in_order() -> None:
    assert call_beside(divmod, [(7, 2), (9, 4), (5, 5)]) == [(3, 1), (2, 1), (1, 0)]


def test_a_fault_of_one_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        call_beside(divmod, [(7, 2), (7, 0)] + [(7, 1)] * 50)


def test_a_process_that_the_system_ends_is_told() -> None:
    with pytest.raises(UserError, match="a process of this stage was ended by the system"):
        call_beside(os._exit, [(9,)])
