"""bench_speed.py: its rows are put in their place, find what they import, and can be measured."""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
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
    assert all(part.endswith("|\n\n") for part in again.split("## ")[1:-1]), "an empty line before the next machine"


def test_every_row_has_its_function(bench: ModuleType) -> None:
    for row in bench.ROWS:
        assert f"def measure_{row.name}(" in (TOP / "bench" / f"{row.module}.py").read_text(encoding="utf-8")


def test_the_gpus_row_can_be_measured(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, as far as a processor goes: the row itself says that there is none."""
    monkeypatch.syspath_prepend(TOP / "bench")
    speed_gpu = importlib.import_module("speed_gpu")
    monkeypatch.setattr(importlib.import_module("speed_training"), "CROP", 64)
    if speed_gpu.best_device().type != "cuda":
        assert speed_gpu.measure_gpu(quick=True) == ("no GPU here", None)
    figures = speed_gpu.measure_training(tmp_path, "resnet18", compiled=False, batch=2, steps=2, turns=1)
    assert figures["speed"] > 0
    assert figures["bare"] > 0
    assert 0 < figures["busy"] <= 1


def test_what_the_rows_import_exists() -> None:
    """Rows import where they need it, some of them after minutes of work: a moved name would show only then."""
    ours = {path.stem for path in (TOP / "src").glob("*.py")}
    for file in sorted((TOP / "bench").glob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        whole = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names} & ours
        used = [(node.module, name.name) for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names]
        named = [one for one in nodes if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name)]
        used += [(one.value.id, one.attr) for one in named if one.value.id in whole]
        for module, name in used:
            assert module not in ours or hasattr(importlib.import_module(module), name), f"{file.name}: {module}.{name}"


def test_the_ensembles_row_predicts_in_each_of_its_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOP / "bench"))
    import speed_prediction

    speed_prediction.write_small(tmp_path / "photos", 2)
    for folds in (1, 2):
        model = speed_prediction.TINY | {"decoder_channels": [16, 8, 8]}
        speed_prediction.write_workspace(tmp_path / str(folds), folds, model, {"tta": "mirror", "window": 128})
        *_, decoded, batches = speed_prediction.call("ensemble", str(tmp_path / str(folds)), str(tmp_path / "photos"))
        assert decoded == 2
        assert batches > 0
