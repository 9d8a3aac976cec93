"""The stages' own files, changed by hand into well-formed nonsense: told by file and key, or harmless."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_make_report import make_run

import make_report
from artifacts import Paths, load_checkpoint, save_checkpoint
from errors import UserError
from index import PSEUDO_COLUMNS, read_folds, read_index, read_stage_table
from labels import coverage_columns
from layouts import read_epochs
from make_folds import read_coverage
from make_pseudo_labels import check_teachers
from members import check_training, read_weights
from predictions import load_parameters
from settings import load_config

NONSENSE = (None, [], {}, "x", -1.5, [[]], {"x": []})


def changed(values: Any) -> Iterator[tuple[str, Any]]:
    """(where, the whole) with one value of it after the other, at any depth, gone or nonsense."""
    for word in NONSENSE:
        yield "", word
    places = [()]
    while places:
        place = places.pop()
        inside = values
        for key in place:
            inside = inside[key]
        keys = list(inside) if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        for key in keys:
            places.append((*place, key))
            for word in ("gone", *NONSENSE):
                whole = copy.deepcopy(values)
                holder = whole
                for part in place:
                    holder = holder[part]
                if word == "gone":
                    del holder[key]
                else:
                    holder[key] = word
                yield ".".join(map(str, (*place, key))), whole


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder


@pytest.fixture
def page(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make the report's page, without its pictures and curves."""
    config, paths = load_config(run / "x.yaml"), Paths(run, "x")
    for name in ("oof_pictures", "test_pictures"):
        monkeypatch.setattr(make_report, name, lambda *_: [])
    monkeypatch.setattr(make_report, "pseudo_picture", lambda *_: {"id": "", "note": "", "pictures": {}})
    monkeypatch.setattr("pictures.plot_curves", lambda rounds, _: ["" for _ in rounds])
    return lambda: make_report.render(make_report.collect(config, paths))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("scores.json", 200),
        ("postprocess.json", 20),
        ("ensemble/weights.json", 20),
        ("round1/fold0/pseudo/summary.json", 60),
        ("round1/fold1/manifest.json", 20),
    ],
)
def test_a_changed_file_never_ends_in_a_stack_trace(run: Path, page: Callable[[], str], name: str, least: int) -> None:
    found = [path for path in (run / "runs").rglob(Path(name).name) if str(path).endswith(name)]
    path, told = found[0], []
    text = path.read_text()
    page()
    try:
        for where, values in changed(json.loads(text)):
            path.write_text(json.dumps(values))
            try:
                page()
            except UserError as error:
                told.append(f"{where}: {error}")
    finally:
        path.write_text(text)
    assert len(told) >= least
    assert all(str(path) in line for line in told)


def test_what_other_stages_read_is_told_by_file_and_key(run: Path) -> None:
    config, paths = load_config(run / "x.yaml"), Paths(run, "x")
    manifest, weights = paths.run(0, 0) / "manifest.json", paths.runs / "ensemble" / "weights.json"
    cases = (
        (manifest, {"seen_ids": "a"}, lambda: check_teachers(paths, [0], 0), "made_from: Field required"),
        (manifest, {"made_from": {"settings": {}}, "seen_ids": "a"}, lambda: check_teachers(paths, [0], 0), "seen_ids"),
        (manifest, {}, lambda: check_training(config, manifest.parent), "made_from: Field required"),
        (manifest, {"made_from": {"settings": {}}}, lambda: check_training(config, manifest.parent), "other settings"),
        (weights, {"mean": "arithmetic", "weights": {}}, lambda: read_weights(config, paths), "weights"),
        (weights, {"mean": "arithmetic", "weights": {"round 0": "1"}}, lambda: read_weights(config, paths), "round 0"),
        (paths.postprocess, {"fitted": False, "parameters": {"neck": []}}, lambda: load_parameters(paths), r"\(neck\)"),
        (paths.postprocess, {"fitted": False, "parameters": {"odd": 1}}, lambda: load_parameters(paths), r"\(odd\)"),
    )
    for path, values, read, said in cases:
        text = path.read_text()
        path.write_text(json.dumps(values))
        try:
            with pytest.raises(UserError, match=re.escape(str(path.parent)) + ".*" + said):
                read()
        finally:
            path.write_text(text)


def test_a_logs_odd_line_is_told_by_its_number(tmp_path: Path) -> None:
    path, line = tmp_path / "log.jsonl", '{"step": 1, "loss": 0.5, "seconds": 2.0, "epoch": 0}\n'
    path.write_text(line)
    assert read_epochs(path) == [json.loads(line)], "a line may hold more than others read"
    for odd, said in (("[]", "line 2"), ('{"step": "1"}', "line 2"), ("{", "no readable log"), ("[" * 10**5, "log")):
        path.write_text(line + odd)
        with pytest.raises(UserError, match=rf"log\.jsonl.*{said}"):
            read_epochs(path)


@pytest.mark.parametrize("table", ["index", "folds", "coverage", "pseudo"])
def test_a_changed_table_is_told_by_column_or_image(tmp_path: Path, table: str) -> None:
    make_run(tmp_path)
    config, paths = load_config(tmp_path / "x.yaml"), Paths(tmp_path, "x")
    looks = dict.fromkeys(coverage_columns(config)[1:], 1)
    pd.DataFrame([{"image_id": name} | looks for name in "ab"]).to_csv(paths.coverage, index=False)
    read = {
        "index": lambda: read_index(paths),
        "folds": lambda: read_folds(paths),
        "coverage": lambda: read_coverage(config, paths),
        "pseudo": lambda: read_stage_table(path, PSEUDO_COLUMNS),
    }[table]
    path = {"index": paths.index, "folds": paths.folds, "coverage": paths.coverage}.get(table)
    path = path or paths.pseudo(1, 0) / "index.csv"
    whole = pd.read_csv(path, dtype=str, keep_default_na=False)
    read()
    for name in [one for one in whole if not one.startswith("Unnamed")]:
        whole.drop(columns=name).to_csv(path, index=False)
        with pytest.raises(UserError, match=re.escape(f"{path}: it has no column {name};")):
            read()
    pd.concat([whole, whole.head(1)]).to_csv(path, index=False)
    with pytest.raises(UserError, match=re.escape(f"{path}: {whole['image_id'][0]!r} is in it twice")):
        read()
    if table in ("folds", "coverage"):
        whole.assign(**{whole.columns[-1]: "x"}).to_csv(path, index=False)
        with pytest.raises(UserError, match="holds more than numbers"):
            read()


@pytest.mark.parametrize("model", [None, {}, [], "x"])
def test_a_checkpoint_without_weights_starts_no_training(tmp_path: Path, model: Any) -> None:
    save_checkpoint(tmp_path / "last.pt", {"model": model})
    with pytest.raises(UserError, match=r"its model has no weights\); delete it and train again"):
        load_checkpoint(tmp_path / "last.pt", "model")
