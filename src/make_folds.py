"""Deal the labelled images into folds that resemble each other.

    python src/make_folds.py --config configs/dubai.yaml

Writes folds/<name>.csv: image_id, group, fold; fold -1 is trained on and never held out. Folds are balanced by the
share and presence of each class, the number of instances and how images look. A group stays in one fold (folds.group),
or else is spread evenly over all of them.
"""

import argparse
from typing import TYPE_CHECKING

from artifacts import Paths, Stage, atomic, stage_settings
from cli import make_parser, open_config, run_script
from config import Config
from errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    # beside the data, not beside the folds: those are kept in git, and a fresh copy makes the same ones again
    settings = stage_settings(config, "folds", "seed")
    stage = Stage(paths.data / "folds.json", settings, (paths.index, paths.coverage), outputs=(paths.folds,))
    with stage.claim(args.fresh) as todo:
        if todo:
            table = write_folds(config, paths)
            stage.finish(images=len(table))
            print(describe(table, config.classes).to_string(index=False))
        else:
            print(f"{paths.folds}: made already")


def write_folds(config: Config, paths: Paths) -> "pd.DataFrame":
    """Write the folds; returns each labelled image's coverage with its fold."""
    table, settings = read_coverage(config, paths), config.folds
    if settings.validation is None:
        folds = make_folds(table, settings.count, config.seed, settings.stratify, settings.group)
    else:
        folds = hold_out(table, settings.validation, config.seed, settings.stratify, settings.group)
    check_folds(folds, settings.count, settings.group)
    with atomic(paths.folds) as temporary:
        folds.to_csv(temporary, index=False, lineterminator="\n")
    return table.merge(folds, on=["image_id", "group"])


def read_coverage(config: Config, paths: Paths) -> "pd.DataFrame":
    """What each labelled image shows, with its group; sorted by image_id."""
    from index import read_index, read_stage_table
    from labels import coverage_columns

    index = read_index(paths)
    coverage = read_stage_table(paths.coverage, coverage_columns(config), image_id=str, label=str)
    return coverage.merge(index[index["split"] == "labelled"][["image_id", "group"]], on="image_id", validate="1:1")


def make_folds(table: "pd.DataFrame", count: int, seed: int, stratify: bool, group: bool) -> "pd.DataFrame":
    """Deal images into `count` folds of (nearly) equal size: image_id, group, fold; the same for the same seed.

    `table` is `coverage.csv` with each image's group ("" where there are none). With `group`, a group's images share a
    fold; without, they are spread evenly over the folds. Raises UserError for fewer images or groups than folds.
    """
    import numpy as np

    from strata import deal, deal_groups, features

    if len(table) < count:
        raise UserError(f"folds.count: {count} folds of {len(table)} labelled images; set it to {len(table)} or less")
    table = table.sort_values("image_id", ignore_index=True)
    has_groups = (table["group"] != "").any()
    values = features(table) if stratify else np.zeros((len(table), 0))
    if has_groups and group:
        groups = table["group"].nunique()
        if groups < count:
            raise UserError(f"folds.count: {count} folds of {groups} groups; make it {groups} or folds.group false")
        fold = deal_groups(values, table["group"].tolist(), count, seed)
    else:
        sizes = [len(table) // count + (number < len(table) % count) for number in range(count)]
        fold = deal(values, sizes, seed, spread=table["group"].tolist() if has_groups and stratify else None)
    return table[["image_id", "group"]].assign(fold=fold)


def hold_out(table: "pd.DataFrame", held_out: int, seed: int, stratify: bool, group: bool) -> "pd.DataFrame":
    """A single fold of `held_out` images that are like the others, which are fold -1; otherwise as `make_folds`."""
    import numpy as np

    from strata import deal, features

    if held_out >= len(table):
        raise UserError(
            f"folds.validation: {held_out} of {len(table)} labelled images leaves none to train on; lower it"
        )
    if group and (table["group"] != "").any():
        raise UserError("folds.validation: a fixed number of images cannot keep groups whole; say folds.group false")
    table = table.sort_values("image_id", ignore_index=True)
    values = features(table) if stratify else np.zeros((len(table), 0))
    return table[["image_id", "group"]].assign(fold=-deal(values, [held_out, len(table) - held_out], seed))


def check_folds(folds: "pd.DataFrame", count: int, group: bool) -> None:
    """Assert what training relies on: each fold has images and leaves some, none is in two, no group is split."""
    assert folds["image_id"].is_unique, "an image is in two folds"
    assert set(folds["fold"]) <= set(range(-1, count)), "a fold has no number below folds.count"
    for fold in range(count):
        held_out = set(folds["image_id"][folds["fold"] == fold])
        rest = set(folds["image_id"][folds["fold"] != fold])
        assert held_out, f"fold {fold} is empty"
        assert rest, f"fold {fold} leaves nothing to train on"
        assert not held_out & rest, f"fold {fold} meets the rest"
    grouped = folds[folds["group"] != ""]
    if group and len(grouped):
        assert (grouped.groupby("group")["fold"].nunique() == 1).all(), "a group is in two folds"


def describe(table: "pd.DataFrame", classes: tuple[str, ...]) -> "pd.DataFrame":
    """A row a fold: images, groups, the share of each class in percent and how many images show it."""
    import pandas as pd

    rows = []
    for fold, part in table.groupby("fold"):
        row = {"fold": fold, "images": len(part), "groups": part["group"].nunique() if part["group"].any() else 0}
        if part["instances"].any():
            row["instances"] = part["instances"].sum()
        for name in classes:
            pixels = part[f"pixels:{name}"]
            row[f"{name} %"] = round(100 * (pixels / part["labelled"]).mean(), 1)
            row[f"{name} in"] = int((pixels > 0).sum())
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
