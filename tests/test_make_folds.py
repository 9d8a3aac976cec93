"""Folds that resemble each other, keep groups together or spread them, and are the same every time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold

import make_folds as script
from artifacts import Paths
from cli import make_parser
from errors import UserError
from make_folds import check_folds, hold_out, make_folds
from strata import deal, deal_groups, features


def competition(count: int, groups: int = 0, seed: int = 0) -> pd.DataFrame:
    """Coverage of images of two kinds (a quarter dark ones), with two common classes and one that is rare."""
    rng = np.random.default_rng(seed)
    dark = rng.random(count) < 0.25
    shares = rng.dirichlet((2, 1, 0.2), count)
    shares[:, 2] *= rng.random(count) < 0.3
    table = pd.DataFrame({f"pixels:{name}": (10000 * shares[:, i]).astype(int) for i, name in enumerate("abc")})
    return table.assign(
        image_id=[f"{number:04}" for number in range(count)],
        labelled=10000,
        instances=rng.poisson(np.where(dark, 5, 40)),
        brightness=np.where(dark, 0.1, 0.7) + rng.normal(0, 0.03, count),
        saturation=0.2,
        height=100,
        width=np.where(rng.random(count) < 0.3, 200, 100),
        group=[f"g{number}" for number in rng.integers(0, groups, count)] if groups else "",
    )


def unlikeness(table: pd.DataFrame, fold: np.ndarray) -> float:
    """How far the folds' mean features are from the whole's, in standard errors of a random split, squared."""
    values = features(table)
    parts = [values[fold == number] for number in np.unique(fold)]
    return float(np.mean([len(part) * np.square(part.mean(axis=0)).mean() for part in parts]))


def sklearn_folds(splitter: object, table: pd.DataFrame, strata: np.ndarray | None = None) -> np.ndarray:
    fold = np.full(len(table), -1)
    groups = table["group"].to_numpy() if "group" in table else None
    for number, (_, held_out) in enumerate(splitter.split(table, strata, groups)):
        fold[held_out] = number
    return fold


def test_a_single_fold_holds_out_some_and_trains_on_the_others():
    table, likeness = competition(40), []
    for seed in range(4):
        folds = hold_out(table, 8, seed, stratify=True, group=True)
        check_folds(folds, 1, group=True)
        assert folds["fold"].value_counts().to_dict() == {-1: 32, 0: 8}
        assert folds.equals(hold_out(table.sample(frac=1, random_state=seed), 8, seed, stratify=True, group=True))
        random = np.random.default_rng(seed).permutation(folds["fold"].to_numpy())
        likeness.append(unlikeness(table, folds["fold"].to_numpy()) - unlikeness(table, random))
    assert np.mean(likeness) < 0
    with pytest.raises(UserError, match=r"folds\.validation: 40 of 40 labelled images leaves none to train on"):
        hold_out(table, 40, 0, stratify=True, group=True)
    with pytest.raises(UserError, match=r"folds\.validation: .* say folds\.group false"):
        hold_out(competition(40, groups=5), 8, 0, stratify=True, group=True)


@pytest.mark.parametrize("count", [20, 51, 300])
def test_folds_resemble_each_other_more_than_random_ones(count: int):
    ours, random = [], []
    for seed in range(3):
        table = competition(count, seed=seed)
        ours.append(unlikeness(table, make_folds(table, 4, seed, stratify=True, group=True)["fold"].to_numpy()))
        splitters = [KFold(4, shuffle=True, random_state=number) for number in range(10)]
        random += [unlikeness(table, sklearn_folds(splitter, table.drop(columns="group"))) for splitter in splitters]
    assert 0.6 < np.mean(random) < 0.9  # a random split of four: 1 - 1/4
    assert np.mean(ours) < 0.3 * np.mean(random)
    assert max(ours) < min(random)


def test_a_rare_class_is_in_every_fold():
    table = competition(60).assign(**{"pixels:c": 0})
    table.loc[[3, 17, 18, 44], "pixels:c"] = 50
    fold = make_folds(table, 4, 0, stratify=True, group=True)["fold"]
    assert sorted(fold[table["pixels:c"] > 0]) == [0, 1, 2, 3]


def test_grouped_folds_beat_the_usual_ones():
    ours, plain, stratified = [], [], []
    for seed in range(4):
        table = competition(200, groups=25, seed=seed)
        folds = make_folds(table, 5, seed, stratify=True, group=True)
        check_folds(folds, 5, group=True)
        sizes = folds["fold"].value_counts()
        assert sizes.max() - sizes.min() <= 8
        ours.append(unlikeness(table, folds["fold"].to_numpy()))
        plain.append(unlikeness(table, sklearn_folds(GroupKFold(5), table)))
        strata = (table["pixels:c"] > 0).to_numpy().astype(int) + 2 * (table["brightness"] > 0.4)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        stratified.append(unlikeness(table, sklearn_folds(splitter, table, strata)))
    assert np.mean(ours) < 0.6 * np.mean(stratified)
    assert np.mean(ours) < 0.6 * np.mean(plain)


def test_groups_are_spread_where_they_are_not_kept():
    table = competition(56, groups=8)
    folds = make_folds(table, 4, 0, stratify=True, group=False)
    spread = pd.crosstab(folds["group"], folds["fold"])
    assert (spread.max(axis=1) - spread.min(axis=1)).max() <= 1
    assert unlikeness(table, folds["fold"].to_numpy()) < 0.5
    assert set(folds["fold"].value_counts()) == {14}


def test_the_same_folds_every_time_whatever_the_order():
    table = competition(40, groups=9)
    for group in (False, True):
        first = make_folds(table, 3, 7, stratify=True, group=group)
        pd.testing.assert_frame_equal(first, make_folds(table, 3, 7, stratify=True, group=group))
        shuffled = table.sample(frac=1.0, random_state=1)
        pd.testing.assert_frame_equal(first, make_folds(shuffled, 3, 7, stratify=True, group=group))
        assert (first["fold"] != make_folds(table, 3, 8, stratify=True, group=group)["fold"]).any()


def test_points_alone_are_enough():
    table = competition(24)
    points = table.assign(labelled=10, **{f"pixels:{name}": table[f"pixels:{name}"] // 1000 for name in "abc"})
    folds = make_folds(points, 3, 0, stratify=True, group=True)
    assert unlikeness(points, folds["fold"].to_numpy()) < 0.5


@settings(max_examples=25)
@given(st.data())
def test_every_split_holds_its_promises(data: st.DataObject):
    count = data.draw(st.integers(2, 5))
    table = competition(data.draw(st.integers(count, 40)), groups=data.draw(st.integers(0, 12)), seed=count)
    stratify, group, seed = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.integers(0, 9))
    has_groups = table["group"].any()
    if group and has_groups and table["group"].nunique() < count:
        with pytest.raises(UserError, match=r"folds\.count: .* groups"):
            make_folds(table, count, seed, stratify, group)
        return
    folds = make_folds(table, count, seed, stratify, group)
    check_folds(folds, count, group)
    sizes = folds["fold"].value_counts()
    if not (group and has_groups):
        assert sizes.max() - sizes.min() <= 1
    if stratify and has_groups and not group:
        spread = pd.crosstab(folds["group"], folds["fold"]).reindex(columns=range(count), fill_value=0)
        assert (spread.max(axis=1) - spread.min(axis=1)).max() <= 1


def test_dealing_into_unequal_bins():
    table = competition(200)
    values = features(table)
    chosen = deal(values, [20, 180], seed=0)
    assert np.bincount(chosen).tolist() == [20, 180]
    rng = np.random.default_rng(0)
    random = [np.square(values[rng.permutation(200)[:20]].mean(axis=0)).mean() for _ in range(50)]
    assert np.square(values[chosen == 0].mean(axis=0)).mean() < 0.5 * min(random)


def test_one_giant_group_leaves_no_fold_empty():
    groups = ["big"] * 30 + ["x", "y", "z"]
    bins = deal_groups(features(competition(33)), groups, 4, seed=0)
    assert set(bins) == {0, 1, 2, 3}


def test_thousands_of_images_take_a_moment():
    table = competition(5000)
    fold = make_folds(table, 5, 0, stratify=True, group=True)["fold"].to_numpy()
    assert unlikeness(table, fold) < 0.1


def test_too_few_images_or_groups():
    with pytest.raises(UserError, match=r"folds\.count: 4 folds of 3 labelled images; set it to 3 or less"):
        make_folds(competition(3), 4, 0, stratify=True, group=True)
    table = competition(30, groups=3)
    with pytest.raises(UserError, match=r"folds\.count: 4 folds of 3 groups; make it 3 or folds\.group false"):
        make_folds(table, 4, 0, stratify=True, group=True)
    check_folds(make_folds(table, 4, 0, stratify=True, group=False), 4, group=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "", 0), ("a", "", 1)], "an image is in two folds"),
        ([("a", "", 0), ("b", "", 0)], "fold 0 leaves nothing"),
        ([("a", "", 1), ("b", "", 1)], "fold 0 is empty"),
        ([("a", "", 0), ("b", "", 2)], "below folds.count"),
        ([("a", "g", 0), ("b", "g", 1)], "a group is in two folds"),
    ],
)
def test_check_folds(rows: list[tuple], message: str):
    with pytest.raises(AssertionError, match=message):
        check_folds(pd.DataFrame(rows, columns=["image_id", "group", "fold"]), 2, group=True)


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture):
    paths, table = Paths(tmp_path, "x"), competition(12, groups=4)
    paths.data.mkdir(parents=True)
    index = table[["image_id", "group", "height", "width"]].assign(image="i", mask="m", points=0, split="labelled")
    pool = index.head(1).assign(image_id="pool", split="unlabelled")
    columns = ["image_id", "image", "mask", "points", "group", "split", "height", "width"]
    pd.concat([index, pool])[columns].to_csv(paths.index, index=False)
    table.drop(columns="group").assign(label="").to_csv(paths.data / "coverage.csv", index=False)
    config = {"name": "x", "task": "multiclass", "classes": list("abc"), "folds": {"count": 3}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--config", str(tmp_path / "x.yaml"), "--workspace", str(tmp_path)]
    script.main(make_parser("").parse_args(arguments))
    folds = pd.read_csv(paths.folds, dtype=str)
    assert folds.columns.tolist() == ["image_id", "group", "fold"]
    assert folds["image_id"].tolist() == table["image_id"].tolist()
    out = capsys.readouterr().out
    assert out.splitlines()[0].split("  ")[-1].strip() == "c in"
    assert len(out.splitlines()) == 4
    first = paths.folds.read_bytes()
    script.main(make_parser("").parse_args(arguments))
    assert "made already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"made with other settings \(settings\.folds\.count: 3 -> 2\)"):
        script.main(make_parser("").parse_args([*arguments, "--set", "folds.count=2"]))
    script.main(make_parser("").parse_args([*arguments, "--fresh"]))
    assert paths.folds.read_bytes() == first
    paths.index.unlink()
    with pytest.raises(UserError, match=r"index\.csv: missing; run the stage that writes it first"):
        script.main(make_parser("").parse_args(arguments))
