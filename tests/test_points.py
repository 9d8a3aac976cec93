"""Points drawn once from masks: which pixels they are, and what prepare.py writes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import fail as fail_script
from helpers import make_workspace, open_workspace, run
from hypothesis import given, settings
from hypothesis import strategies as st

from config import DrawnPoints
from errors import UserError
from images import read_mask
from index import read_index
from points import join_points, load_points, rasterise, sample_points
from settings import parse_config
from transforms import shrink_sparse

POINTS = {"labels": {"points": {"count": 40}}}


# --- drawing ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.integers(3, 40), st.sampled_from([1.0, 0.5, 0.37]))
def test_drawn_points_lie_in_the_label_and_a_larger_number_holds_the_smaller(
    seed: int, height: int, width: int, scale: float
) -> None:
    label = np.random.default_rng(seed).choice(np.uint8([0, 1, 2, 255]), (height, width))
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    few, many = (sample_points(label, DrawnPoints(count=count), seed, shape) for count in (5, 12))
    assert few.tolist() == many[: len(few)].tolist()
    assert len({(x, y) for x, y, _ in many.tolist()}) == len(many) <= 12
    assert all(label[y, x] == value != 255 for x, y, value in many.tolist())
    if scale == 1.0:
        assert len(many) == min(12, (label != 255).sum())
    assert (rasterise(many, shape, (height, width)) != 255).sum() == len(many), "each has its own pixel"


def test_counts_shares_and_counts_a_class() -> None:
    label = np.zeros((50, 40), np.uint8)
    label[:3, :2], label[40:] = 1, 255
    assert len(sample_points(label, DrawnPoints(density=0.05), 1)) == 100
    assert len(sample_points(label, DrawnPoints(density=0.05, grid="working"), 1, (25, 20))) == 25
    assert len(sample_points(label, DrawnPoints(density=1.0), 1)) == 1600
    assert len(sample_points(label, DrawnPoints(density=1e-9), 1)) == 1
    drawn = sample_points(label, DrawnPoints(per_class=20), 1)[:, 2]
    assert np.bincount(drawn).tolist() == [20, 6]
    assert len(sample_points(np.full((4, 4), 255, np.uint8), DrawnPoints(per_class=2), 1)) == 0
    others = [sample_points(label, DrawnPoints(count=9), seed).tolist() for seed in (1, 1, 2)]
    assert others[0] == others[1] != others[2]


def test_points_are_drawn_evenly() -> None:
    label = np.repeat(np.uint8([0, 1]), 32).reshape(8, 8)
    drawn = np.concatenate([sample_points(label, DrawnPoints(count=8), seed) for seed in range(400)])
    hits = np.bincount(drawn[:, 1] * 8 + drawn[:, 0], minlength=64)
    assert hits.sum() == 3200
    assert 25 < hits.min() < hits.max() < 85  # 50 each, with a deviation of 7


def test_a_table_of_points_reads_back(tmp_path: Path) -> None:
    table = join_points({"Tile 1/a": np.int32([[1, 2, 0], [3, 4, 1]]), "007": np.int32([[5, 6, 2]])})
    table.to_csv(tmp_path / "p.csv", index=False)
    again = load_points(tmp_path / "p.csv")
    assert again.to_numpy().tolist() == [["Tile 1/a", 1, 2, 0], ["Tile 1/a", 3, 4, 1], ["007", 5, 6, 2]]
    (tmp_path / "p.csv").write_text("image_id,x\na,1\n")
    with pytest.raises(UserError, match=r"p\.csv: no table of points"):
        load_points(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"kind": "points", "points": {"count": 3}}, "drawn from dense labels alone"),
        ({"kind": "masks", "points": {"count": 3, "density": 0.1}}, "give one of count, density and per_class"),
        ({"kind": "masks", "points": {}}, "give one of count, density and per_class"),
        ({"kind": "masks", "points": {"density": 0.0}}, "density"),
    ],
)
def test_impossible_points_are_told(labels: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({"name": "x", "data": {"labels": labels}})


def test_shrinking_loses_no_point_that_has_a_place() -> None:
    label = np.full((10, 10), 255, np.uint8)
    label[[0, 3, 9], [0, 5, 9]] = [1, 0, 2]
    small = shrink_sparse(label, 4)
    assert {(int(r), int(c)): int(small[r, c]) for r, c in np.argwhere(small != 255)} == {
        (0, 0): 1,
        (1, 2): 0,
        (3, 3): 2,
    }


# --- prepare ---------------------------------------------------------------------------------------------------------


def test_points_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A second prepare changes nothing, another seed all; training's index knows no mask."""
    folder = make_workspace(tmp_path, labelled=4, data=POINTS)
    run("prepare", folder)
    _, paths = open_workspace(folder)
    index = read_index(paths)
    labelled = index[index["split"] == "labelled"]
    assert labelled["points"].tolist() == [40] * 4
    assert not labelled["mask"].any()
    points = load_points(paths.points)
    for image_id, own in points.groupby("image_id"):
        mask = read_mask(paths.data / "dense" / f"{image_id}.png")
        assert (mask[own["y"], own["x"]] == own["class"]).all()
    coverage = pd.read_csv(paths.data / "coverage.csv")
    assert coverage["labelled"].tolist() == [40] * 4, "folds are dealt by what the points show"
    before = paths.points.read_bytes()
    run("prepare", folder)
    run("prepare", folder, "--set", "data.labels.points.judge=masks")
    assert paths.points.read_bytes() == before
    changed = ("--set", "data.labels.points.count=50")
    message = fail_script("prepare", folder, *changed, monkeypatch=monkeypatch, capsys=capsys)
    assert "data.labels.points.count: 40 -> 50" in message
    run("prepare", folder, "--fresh")
    assert paths.points.read_bytes() == before
    run("prepare", folder, "--fresh", "--set", "data.labels.points.count=50")
    more = load_points(paths.points)
    assert more.groupby("image_id").head(40).reset_index(drop=True).equals(points), "40 of 50 are the same"
    run("prepare", folder, "--fresh", "--set", "seed=1")
    assert set(map(tuple, load_points(paths.points).to_numpy())) != set(map(tuple, points.to_numpy()))
    run("prepare", folder, "--fresh", "--set", "data.labels.points=null")
    assert not (paths.data / "dense").exists()
    assert not paths.points.exists()


def test_images_that_lose_their_label_keep_their_whole_mask_as_the_hidden_one(tmp_path: Path) -> None:
    data = {"labels": {"points": {"count": 30}, "keep": 2}, "solution": "", "solution_of": "unlabelled"}
    folder = make_workspace(tmp_path, labelled=4, data=data)
    run("prepare", folder)
    _, paths = open_workspace(folder)
    hidden = sorted(path.stem for path in (paths.data / "solution").iterdir())
    assert len(hidden) == 2
    assert not set(hidden) & {path.stem for path in (paths.data / "dense").iterdir()}
    assert not set(hidden) & set(load_points(paths.points)["image_id"])
    assert (read_mask(paths.data / "solution" / f"{hidden[0]}.png") != 255).all()
