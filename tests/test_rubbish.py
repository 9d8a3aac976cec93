"""Rubbish from strangers: each ends in one line that names it and exit code 2, or in the right result.

Nothing hangs, nothing asks for more memory than there is, nothing is written outside the workspace. Every case runs a
script's command line in this process, on two images of 12x16. What single functions say of bad input stands in their
own tests; mistakes in a command stand in test_bad_input.py, files that would run code in test_hostile.py.
"""

import re
import resource
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helpers
import pytest
from helpers import leftovers, run
from rubbish import make_base
from rubbish_files import CONFIGS, FILES, PATHS, POINT_TABLES, TABLES
from rubbish_pictures import IMAGES, MASK_FILES

import memory

CASES = IMAGES | MASK_FILES | TABLES | POINT_TABLES | CONFIGS | PATHS | FILES


@contextmanager
def bounds() -> Iterator[None]:
    """Twenty seconds of processor time, and three gigabytes beyond what is in use already."""

    def too_long(*_: Any) -> None:
        raise TimeoutError("a case takes more than 20 seconds")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, 20)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)


def test_the_table_is_as_long_as_it_should_be() -> None:
    parts = (IMAGES, MASK_FILES, TABLES, POINT_TABLES, CONFIGS, PATHS, FILES)
    assert sum(map(len, parts)) == len(CASES) > 150


@pytest.mark.parametrize("case", CASES)
def test_rubbish_is_told_in_one_line_or_read_rightly(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil, wanted = CASES[case]
    folder = tmp_path / "work"
    make_base(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command = spoil(folder) or ["prepare"]
    monkeypatch.setattr(memory, "memory_size", lambda: 2**30)
    around = {path for path in tmp_path.rglob("*") if path.parent == tmp_path}
    monkeypatch.chdir(folder)
    with bounds(), warnings.catch_warnings():
        warnings.simplefilter("error")
        if isinstance(wanted, str):
            error = helpers.fail(command[0], folder, *command[1:], monkeypatch=monkeypatch, capsys=capfd)
            assert re.search(wanted, error), error
            assert len(error) < 1100
        else:
            run(command[0], folder, *command[1:])
            wanted(folder)
    assert leftovers(folder) == []
    assert {record.name for record in caplog.records} <= {"prepare"}
    assert not (folder / "burst").exists()
    assert {path for path in tmp_path.rglob("*") if path.parent == tmp_path} == around
