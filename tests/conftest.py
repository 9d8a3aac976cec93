"""What all tests share: hypothesis tries the same examples every time, and never minds a slow machine.

Two processes share the test files; each keeps to one thread, and so do the scripts they start.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("fewmask", deadline=None, derandomize=True)
settings.load_profile("fewmask")


@pytest.fixture(autouse=True)
def no_accelerator() -> None:
    """Accelerate keeps the first precision of its process; which test came before is the scheduler's choice."""
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition that nothing has been made of, to copy from."""
    from helpers import make_workspace

    return make_workspace(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its first fold trained, and asked for what teachers need."""
    from helpers import train_first_fold

    return train_first_fold(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a script that must end in one line on standard error; that line."""
    from helpers import fail

    return lambda *arguments: fail(*arguments, monkeypatch=monkeypatch, capsys=capsys)


@pytest.fixture
def work() -> Callable[[], float]:
    """Seconds the processor has spent on processes started so far; other work on the machine does not count."""
    return lambda: os.times().children_user + os.times().children_system
