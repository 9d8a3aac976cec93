"""bench_speed.py's file of results: rows are put in their place, and others stay as they are."""

import ast
import importlib
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


def test_what_the_rows_import_exists() -> None:
    """Rows import where they need it, some of them after minutes of work: a moved name would show only then."""
    for file in sorted((TOP / "bench").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (TOP / "src" / f"{node.module}.py").is_file():
                module = importlib.import_module(node.module)
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{file.name}, line {node.lineno}: {node.module} has no {', '.join(missing)}"
