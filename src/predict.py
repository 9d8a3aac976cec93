"""Predict with the trained folds of one round: their own fold, the test images, and the pool where it is needed.

    python src/predict.py --round 0
    python src/predict.py --config configs/dubai.yaml --round 1 --fold 0

Writes a probability store for each purpose, and one more with test-time augmentation where the config asks for it.
"""

import argparse
import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from artifacts import PATCHES, Paths, Stage, stage_settings
from cli import chosen_folds, make_parser, open_config, run_script, tell
from config import Config
from lanes import run_folds
from layouts import Contents, read_checked
from members import open_predictor, write_stores
from stages import needed_stores

if TYPE_CHECKING:
    import pandas as pd

    from inference import Predictor


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    work = partial(predict_fold, config, paths, args.round, fresh=args.fresh)
    folds = chosen_folds(args, config)
    todo = [fold for fold in folds if args.fresh or not predicted(config, paths, args.round, fold)]
    for fold in folds:
        if fold not in todo:
            work(fold)  # which only says so
    run_folds(args, config.folds.count, todo, work)


def predicted(config: Config, paths: Paths, round: int, fold: int) -> bool:
    """Whether every store of a fold is there."""
    stores = needed_stores(config, round)
    return all(predict_stage(config, paths, round, fold, split, tta).done() for split, tta in stores)


def predict_fold(config: Config, paths: Paths, round: int, fold: int, fresh: bool) -> None:
    """Write the stores of a fold that are not there already."""
    model = cache(partial(open_predictor, config, paths, round, fold, tta=True))
    for split, ways in groupby(needed_stores(config, round), key=itemgetter(0)):
        predict_split(config, paths, round, fold, split, [tta for _, tta in ways], model, fresh)


def predict_stage(config: Config, paths: Paths, round: int, fold: int, split: str, tta: bool) -> Stage:
    settings = stage_settings(config, "task", "image", "predict")
    if not tta:
        settings["predict"] |= {"tta": "none", "scales": []}
    part = split.removesuffix(PATCHES)
    settings["images"] = read_checked(paths.contents, Contents)["labelled" if part == "oof" else part]
    inputs = (paths.index, paths.run(round, fold) / "manifest.json")
    store = paths.probabilities(round, fold, split, tta)
    return Stage(store.with_suffix(".json"), settings, inputs, outputs=(store,))


def predict_split(
    config: Config,
    paths: Paths,
    round: int,
    fold: int,
    split: str,
    ways: list[bool],
    model: "Callable[[], Predictor]",
    fresh: bool,
) -> None:
    """Write the stores of a split, plain, with TTA or both in one pass, unless they are there already."""
    with ExitStack() as stack:
        todo = {}
        for tta in ways:
            stage = predict_stage(config, paths, round, fold, split, tta)
            if stack.enter_context(stage.claim(fresh)):
                todo[tta] = stage
            else:
                tell(f"round {round} fold {fold} {split}{' with TTA' if tta else ''}: predicted already")
        if not todo:
            return
        table = split_rows(paths, fold, split)
        images = list(zip(table["image_id"], table["image"], strict=True))
        named = {(False,): "", (True,): " with TTA", (False, True): ", plain and with TTA"}[tuple(todo)]
        predictor = dataclasses.replace(model(), tta=True in todo, plain_too=len(todo) == 2)
        stores = [paths.probabilities(round, fold, split, tta) for tta in todo]
        patch = config.predict.patch if split.endswith(PATCHES) else None
        write_stores(config, paths, predictor, images, stores, f"round {round} fold {fold} {split}{named}", patch)
        for stage in todo.values():
            stage.finish(images=len(images))


def split_rows(paths: Paths, fold: int, split: str) -> "pd.DataFrame":
    """Index rows to predict: the fold's own labelled images ("oof"), those it trained on ("labelled"), or all of the
    pool or test set."""
    from index import read_folds, read_index

    split = split.removesuffix(PATCHES)
    table = read_index(paths)
    if split not in ("oof", "labelled"):
        return table[table["split"] == split]
    folds = read_folds(paths)
    mine = (folds["fold"] == fold) == (split == "oof")
    return table[table["image_id"].isin(set(folds.loc[mine, "image_id"]))]


if __name__ == "__main__":
    run_script(main, make_parser(__doc__, fold=True, round=True))
