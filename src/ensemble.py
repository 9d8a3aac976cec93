"""Blend the rounds' and folds' predictions, with weights fitted on out-of-fold predictions.

    python src/ensemble.py --config configs/dubai.yaml

A labelled image is blended over rounds from its own fold's models, with weights fitted on the other folds; a test or
pool image is blended over all folds and rounds. Everything is joined on image ids.
"""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from artifacts import Paths, Stage, stage_settings, write_json
from cli import make_parser, open_config, run_script
from config import IGNORE_INDEX, Config
from members import blend_stores, member_rounds, write_blend

if TYPE_CHECKING:
    import numpy as np

SAMPLED = 4000  # pixels an image that the weights are fitted on
SAMPLED_IN_ALL = 2_000_000
LEAST = 1.0 / 512.0  # what a stored probability of 0 may have been


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    stage = ensemble_stage(config, paths)
    with stage.claim(args.fresh) as todo:
        if todo:
            make_ensemble(config, paths)
            stage.finish()
        else:
            print("ensemble: done already")


def make_ensemble(config: Config, paths: Paths) -> None:
    """Fit the weights and write the blended stores."""
    import numpy as np

    rounds, folds = member_rounds(config), range(config.folds.count)
    samples = {fold: sample_pixels(config, paths, rounds, fold) for fold in folds}

    def fit(chosen: list[int]) -> "np.ndarray":
        if not config.ensemble.fit_weights or len(rounds) == 1:
            return np.full(len(rounds), 1.0 / len(rounds))
        return fit_weights(np.concatenate([samples[fold] for fold in chosen], axis=2), config.ensemble.mean)

    nested = {fold: fit([other for other in folds if other != fold]) for fold in folds}
    weights = fit(list(folds))
    write_oof(config, paths, rounds, nested)
    for split in blended_splits(config):
        write_split(config, paths, rounds, weights, split)
    shown = dict(zip((f"round {round}" for round in rounds), weights.tolist(), strict=True))
    write_json(paths.runs / "ensemble" / "weights.json", {"mean": config.ensemble.mean, "weights": shown})
    print("ensemble weights:", ", ".join(f"{name} {weight:.2f}" for name, weight in shown.items()))


def ensemble_stage(config: Config, paths: Paths) -> Stage:
    splits, tta = ["oof", *blended_splits(config)], config.predict.augments
    stores = [
        paths.probabilities(round, fold, split, tta).with_suffix(".json")
        for round in member_rounds(config)
        for fold in range(config.folds.count)
        for split in splits
    ]
    settings = stage_settings(config, "task", "classes", "ensemble", "seed")
    if config.data.labels.points is not None:
        settings["judge"] = config.data.labels.points.judge
    outputs = (paths.runs / "ensemble" / "weights.json", *(paths.ensemble(split) for split in splits))
    return Stage(paths.runs / "ensemble" / "manifest.json", settings, (paths.index, paths.folds, *stores), outputs)


def blended_splits(config: Config) -> list[str]:
    return ["test"] + (["unlabelled"] if config.data.solution_of == "unlabelled" else [])


def sample_pixels(config: Config, paths: Paths, rounds: list[int], fold: int) -> "np.ndarray":
    """`(rounds, classes, pixels) float32`: what each round's model of a fold gave to some of that fold's pixels.

    The true class stands first. A binary or multilabel plane has two classes.
    """
    import numpy as np

    from dataset import load_label, make_records
    from index import read_index
    from points import load_points
    from predictions import judged_by_masks
    from runtime import derive_seed
    from scoring import dense_truth
    from stores import ProbabilityStore
    from transforms import instance_classes

    table = read_index(paths)
    points = load_points(paths.points) if table["points"].any() else None
    tta = config.predict.augments
    stores = [ProbabilityStore(paths.probabilities(round, fold, "oof", tta)) for round in rounds]
    records = make_records(table[table["image_id"].isin(stores[0].image_ids)], points)
    if judged_by_masks(config):
        masks = ((record, paths.relative(dense_truth(paths, record.image_id))) for record in records)
        records = [replace(record, points=None, mask=mask) for record, mask in masks]
    count = min(SAMPLED, SAMPLED_IN_ALL // (len(records) * config.folds.count) + 1)
    chosen = []
    for record in records:
        answers = np.stack([store.read(record.image_id) for store in stores])
        truth = load_label(record, config, paths, answers.shape[2:])
        if config.task == "instances":
            truth = instance_classes(truth, config.postprocess.border_width)
        if config.task in ("binary", "multilabel"):
            truth = truth if truth.ndim == 2 else truth.transpose(2, 0, 1)
            flat = answers.reshape(len(rounds), 1, -1)
            answers = np.concatenate([1.0 - flat, flat], axis=1)
        answers, truth = answers.reshape(len(rounds), answers.shape[1], -1), truth.ravel()
        known = np.flatnonzero(truth != IGNORE_INDEX)
        rng = np.random.default_rng(derive_seed(config.seed, "ensemble", record.image_id))
        picked = rng.choice(known, min(count, len(known)), replace=False)
        chosen.append(put_first(answers[:, :, picked], truth[picked].astype(np.int64)))
    return np.concatenate(chosen, axis=2)


def put_first(answers: "np.ndarray", classes: "np.ndarray") -> "np.ndarray":
    """`(members, K, pixels)` with the class of each pixel, `(pixels,)`, in the first place; the first goes to its."""
    import numpy as np

    order = np.repeat(np.arange(answers.shape[1])[:, None], len(classes), axis=1)
    order[classes, np.arange(len(classes))] = 0
    order[0] = classes
    return np.take_along_axis(answers, np.broadcast_to(order, answers.shape), axis=1)


def fit_weights(answers: "np.ndarray", mean: str) -> "np.ndarray":
    """Weights `(members,)` ≥ 0 of sum 1 that make the blend's log-loss on out-of-fold pixels the least.

    `answers` `(members, classes, pixels)` are the members' probabilities, the true class first.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    given = np.clip(answers, LEAST, 1.0).astype(np.float64)
    logs, true = np.log(given), given[:, 0]

    def loss(free: "np.ndarray") -> float:
        weights = np.exp(free - free.max())
        weights /= weights.sum()
        if mean == "arithmetic":
            return float(-np.log(weights @ true).mean())
        blended = np.tensordot(weights, logs, axes=1)
        return float((logsumexp(blended, axis=0) - blended[0]).mean())

    found = minimize(loss, np.zeros(len(given)), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-7}).x
    weights = np.exp(found - found.max())
    return weights / weights.sum()


def write_oof(config: Config, paths: Paths, rounds: list[int], nested: dict[int, "np.ndarray"]) -> None:
    from stores import ProbabilityStore, ProbabilityWriter

    tta = config.predict.augments
    with ProbabilityWriter(paths.ensemble("oof")) as writer:
        for fold, weights in nested.items():
            stores = [ProbabilityStore(paths.probabilities(round, fold, "oof", tta)) for round in rounds]
            for image_id, probabilities in blend_stores(config, stores, weights):
                writer.add(image_id, probabilities)


def write_split(config: Config, paths: Paths, rounds: list[int], weights: "np.ndarray", split: str) -> None:
    tta = config.predict.augments
    places = [(round, fold) for round in rounds for fold in range(config.folds.count)]
    members = [paths.probabilities(round, fold, split, tta) for round, fold in places]
    write_blend(config, members, weights, paths.ensemble(split))


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
