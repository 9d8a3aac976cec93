"""bench_speed.py's file of results: rows are put in their place, and others stay as they are."""

import importlib.util
import sys
from types import ModuleType

import pytest

from artifacts import TOP


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("bench_speed", TOP / "bench" / "bench_speed.py")
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "bench_speed", module)
    specification.loader.exec_module(module)
    return module


def test_rows_are_merged_under_their_machine(bench: ModuleType) -> None:
    rows = {row.name: row for row in bench.ROWS}
    text = ""
    for where, name, said in (("here", "help", "0.3 s"), ("there", "books", "old"), ("here", "loading", "3×")):
        text = bench.merge_row(text, where, bench.format_row(rows[name], said, True, quick=False))
    assert text.index("## here") < text.index("`loading`") < text.index("`help`") < text.index("## there")
    again = bench.merge_row(text, "there", bench.format_row(rows["books"], "new", False, quick=True))
    assert again == text.replace("| old | yes |", "| new (--quick) | no |")
    assert again.count("| `") == 3
    assert again.count(bench.HEADER) == 2


def test_every_row_has_its_function(bench: ModuleType) -> None:
    for row in bench.ROWS:
        assert f"def measure_{row.name}(" in (TOP / "bench" / f"{row.module}.py").read_text(encoding="utf-8")
