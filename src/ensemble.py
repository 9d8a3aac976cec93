"""Blend the rounds' and folds' predictions, with weights fitted on out-of-fold predictions.

    python src/ensemble.py --config configs/dubai.yaml

A labelled image is blended over rounds from its own fold's models, with weights fitted on the other folds; a test or
pool image is blended over all folds and rounds. Everything is joined on image ids.
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from artifacts import Paths, Stage, stage_settings, write_json
from cli import make_parser, open_config, run_script
from config import Config

if TYPE_CHECKING:
    import numpy as np

SAMPLED = 4000  # pixels an image that the weights are fitted on


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    stage = ensemble_stage(config, paths)
    if stage.done(args.fresh):
        print("ensemble: done already")
        return
    import numpy as np

    rounds, folds = member_rounds(config), range(config.folds.count)
    samples = {fold: sample_pixels(config, paths, rounds, fold) for fold in folds}

    def fit(chosen: list[int]) -> "np.ndarray":
        if not config.ensemble.fit_weights or len(rounds) == 1:
            return np.full(len(rounds), 1.0 / len(rounds))
        return fit_weights(np.concatenate([samples[fold] for fold in chosen], axis=1), config.ensemble.mean)

    nested = {fold: fit([other for other in folds if other != fold]) for fold in folds}
    weights = fit(list(folds))
    write_oof(config, paths, rounds, nested)
    for split in blended_splits(config):
        write_split(config, paths, rounds, weights, split)
    shown = dict(zip((f"round {round}" for round in rounds), (round_to(weight) for weight in weights), strict=True))
    write_json(paths.runs / "ensemble" / "weights.json", {"mean": config.ensemble.mean, "weights": shown})
    stage.finish()
    print("ensemble weights:", ", ".join(f"{name} {weight:.2f}" for name, weight in shown.items()))


def ensemble_stage(config: Config, paths: Paths) -> Stage:
    splits, tta = ["oof", *blended_splits(config)], config.predict.tta != "none"
    stores = [
        paths.probabilities(round, fold, split, tta).with_suffix(".json")
        for round in member_rounds(config)
        for fold in range(config.folds.count)
        for split in splits
    ]
    settings = stage_settings(config, "task", "classes", "ensemble", "seed")
    return Stage(paths.runs / "ensemble" / "manifest.json", settings, (paths.index, paths.folds, *stores))


def member_rounds(config: Config) -> list[int]:
    last = len(config.rounds) - 1
    return [last] if config.ensemble.rounds == "last" else list(range(last + 1))


def blended_splits(config: Config) -> list[str]:
    return ["test"] + (["unlabelled"] if config.data.solution_of == "unlabelled" else [])


def sample_pixels(config: Config, paths: Paths, rounds: list[int], fold: int) -> "np.ndarray":
    """`(rounds, pixels) float64`: the probability that each round's model of a fold gave the truth, on that fold."""
    import numpy as np

    from artifacts import ProbabilityStore
    from dataset import load_label, make_records
    from index import read_index
    from points import load_points
    from runtime import derive_seed
    from transforms import instance_classes

    table = read_index(paths)
    points = load_points(paths.points) if table["points"].any() else None
    tta = config.predict.tta != "none"
    stores = [ProbabilityStore(paths.probabilities(round, fold, "oof", tta)) for round in rounds]
    chosen = []
    for record in make_records(table[table["image_id"].isin(stores[0].image_ids)], points):
        answers = np.stack([store.read(record.image_id) for store in stores])
        truth = load_label(record, config, paths, answers.shape[2:])
        if config.task == "instances":
            truth = instance_classes(truth, config.postprocess.border_width)
        if config.task in ("multiclass", "instances"):
            known = np.flatnonzero(truth.ravel() != 255)
            answers, truth = answers.reshape(len(rounds), answers.shape[1], -1), truth.ravel().astype(np.int64)
        else:
            planes = truth[None] if truth.ndim == 2 else truth.transpose(2, 0, 1)
            known = np.flatnonzero(planes.ravel() != 255)
            flat = answers.reshape(len(rounds), -1)
            answers, truth = np.stack([1.0 - flat, flat], axis=1), planes.ravel().astype(np.int64)
        rng = np.random.default_rng(derive_seed(config.seed, "ensemble", record.image_id))
        picked = rng.choice(known, min(SAMPLED, len(known)), replace=False)
        chosen.append(answers[:, truth[picked], picked])
    return np.concatenate(chosen, axis=1).astype(np.float64)


def fit_weights(truth_probabilities: "np.ndarray", mean: str) -> "np.ndarray":
    """Weights `(members,)` ≥ 0 of sum 1 that make the blend's log-loss on out-of-fold pixels the least.

    `truth_probabilities` `(members, pixels)` is what each member gave the true class; for the geometric mean the
    blend's normaliser is left out, which bounds the loss from above.
    """
    import numpy as np
    from scipy.optimize import minimize

    given = np.clip(truth_probabilities, 1.0 / 512.0, 1.0)
    logs = np.log(given)

    def loss(free: "np.ndarray") -> float:
        weights = np.exp(free - free.max())
        weights /= weights.sum()
        blended = np.log(weights @ given) if mean == "arithmetic" else weights @ logs
        return float(-blended.mean())

    found = minimize(loss, np.zeros(len(given)), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-7}).x
    weights = np.exp(found - found.max())
    return weights / weights.sum()


def blend(answers: "np.ndarray", weights: "np.ndarray", mean: str, exclusive: bool) -> "np.ndarray":
    """`(members, K, H, W)` → `(K, H, W) float32`: the weighted arithmetic mean, or the geometric one, normalised."""
    import numpy as np

    weights = np.asarray(weights, np.float32) / np.float32(np.sum(weights))
    if mean == "arithmetic":
        return np.tensordot(weights, answers, axes=1)
    logs = np.log(np.clip(answers, 1.0 / 512.0, 1.0 - 1.0 / 512.0))
    present = np.exp(np.tensordot(weights, logs, axes=1))
    if exclusive:
        return present / present.sum(0, keepdims=True)
    absent = np.exp(np.tensordot(weights, np.log1p(-np.exp(logs)), axes=1))
    return present / (present + absent)


def blend_stores(config: Config, stores: list, weights: "np.ndarray") -> Iterator[tuple[str, "np.ndarray"]]:
    """Every image of the first store, blended with the same image of the others."""
    import numpy as np

    exclusive = config.task in ("multiclass", "instances")
    for image_id in stores[0].image_ids:
        answers = np.stack([store.read(image_id) for store in stores])
        yield image_id, blend(answers, weights, config.ensemble.mean, exclusive)


def write_oof(config: Config, paths: Paths, rounds: list[int], nested: dict[int, "np.ndarray"]) -> None:
    from artifacts import ProbabilityStore, ProbabilityWriter

    tta = config.predict.tta != "none"
    with ProbabilityWriter(paths.ensemble("oof")) as writer:
        for fold, weights in nested.items():
            stores = [ProbabilityStore(paths.probabilities(round, fold, "oof", tta)) for round in rounds]
            for image_id, probabilities in blend_stores(config, stores, weights):
                writer.add(image_id, probabilities)


def write_split(config: Config, paths: Paths, rounds: list[int], weights: "np.ndarray", split: str) -> None:
    import numpy as np

    from artifacts import ProbabilityStore, ProbabilityWriter

    tta = config.predict.tta != "none"
    places = [(round, fold) for round in rounds for fold in range(config.folds.count)]
    stores = [ProbabilityStore(paths.probabilities(round, fold, split, tta)) for round, fold in places]
    with ProbabilityWriter(paths.ensemble(split)) as writer:
        for image_id, probabilities in blend_stores(config, stores, np.repeat(weights, config.folds.count)):
            writer.add(image_id, probabilities)


def round_to(weight: float) -> float:
    return round(float(weight), 4)


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
