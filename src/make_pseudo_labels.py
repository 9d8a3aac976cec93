"""Make the pseudo-labels that each student of a round learns from.

    python src/make_pseudo_labels.py --round 1

Student k's labels come only from models that never saw fold k: a teacher's manifest lists every labelled id that its
weights or labels have met, and one that meets fold k is refused. So the pool "labelled" is student k's own training
images, by a teacher of the same fold; what their labels know stays as it is. Before anything is trained on them, the
share kept, the balance of the classes, and how precise this rule's labels are on out-of-fold images are printed and
saved.
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from artifacts import Paths, Stage, atomic, stage_settings, write_json
from cli import chosen_folds, make_parser, open_config, run_script
from config import Config, Pseudo
from disk import remove
from errors import UserError
from layouts import Training, read_checked

if TYPE_CHECKING:
    import numpy as np


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    rules = config.rounds[args.round].pseudo
    if rules is None:
        raise UserError(f"--round {args.round}: this round of {args.config} has no pseudo: section")
    for fold in chosen_folds(args, config):
        stage = pseudo_stage(config, paths, args.round, fold, rules)
        with stage.claim(args.fresh) as todo:
            if not todo:
                print(f"round {args.round} fold {fold}: pseudo-labels made already")
                continue
            seen = check_teachers(paths, teachers_of(rules, args.round), fold)
            summary = label_pool(config, paths, args.round, fold, rules)
            write_json(paths.pseudo(args.round, fold) / "summary.json", summary | {"seen_ids": seen})
            stage.finish(kept_images=summary["kept_images"])
            print_summary(args.round, fold, summary)


def teachers_of(rules: Pseudo, round: int) -> list[int]:
    """The rounds whose models of the same fold teach."""
    return [round - 1] if rules.teachers == "previous" else list(range(round))


def pseudo_stage(config: Config, paths: Paths, round: int, fold: int, rules: Pseudo) -> Stage:
    settings = stage_settings(config, "task", "classes") | {"rules": rules.model_dump(mode="json")}
    settings["postprocess"] = config.postprocess.model_dump(mode="json", exclude={"fit", "metric"})
    inputs = [paths.index, *([paths.points] if config.data.labels.sparse else [])]
    for teacher in teachers_of(rules, round):
        inputs.append(paths.run(teacher, fold) / "manifest.json")
        stores = (paths.probabilities(teacher, fold, split, rules.tta) for split in ("oof", *rules.pool))
        inputs += [store.with_suffix(".json") for store in stores]
    outputs = tuple(paths.pseudo(round, fold) / name for name in ("index.csv", "summary.json"))
    return Stage(paths.pseudo(round, fold) / "manifest.json", settings, tuple(inputs), outputs)


def check_teachers(paths: Paths, rounds: list[int], fold: int) -> list[str]:
    """Every labelled id the teachers have seen. Raises UserError naming the image if one is of the student's fold."""
    from index import read_folds

    folds = read_folds(paths)
    held_out = set(folds.loc[folds["fold"] == fold, "image_id"])
    seen: set[str] = set()
    for round in rounds:
        manifest = paths.run(round, fold) / "manifest.json"
        ids = set(read_checked(manifest, Training)["seen_ids"])
        if leaked := ids & held_out:
            raise UserError(
                f"{manifest}: this teacher has seen {sorted(leaked)[0]!r}, an image of fold {fold} that its student is "
                "judged on; train it again with --fresh on these folds"
            )
        seen |= ids
    return sorted(seen)


def label_pool(config: Config, paths: Paths, round: int, fold: int, rules: Pseudo) -> dict[str, Any]:
    """Write the labels of all kept pool images and the index of all; return the summary."""
    import numpy as np
    import pandas as pd

    from dataset import make_records
    from index import PSEUDO_COLUMNS, read_index
    from points import load_points
    from postprocess import resize_probabilities, starting_parameters
    from pseudo import confidence_histogram, count_agreement, keep_known, label_pixels, quantile_thresholds
    from validation import record_truth

    teachers, table = teachers_of(rules, round), read_index(paths)
    points = load_points(paths.points) if config.data.labels.sparse else None
    records = {one.image_id: one for one in make_records(table[table["split"] == "labelled"], points)}
    sizes = dict(zip(table["image_id"], zip(table["height"], table["width"], strict=True), strict=True))
    classes = 2 if config.task in ("binary", "instances") else len(config.classes)
    histograms = np.zeros((classes, 256), np.int64)
    for split in rules.pool:
        for _, probabilities in average_stores(paths, teachers, fold, split, rules.tta):
            histograms += confidence_histogram(probabilities, config.task, classes)
    if not histograms.sum():
        raise UserError(f"rounds.{round}.pseudo.pool: {', '.join(rules.pool)} has no images; name another pool")
    thresholds, parameters = quantile_thresholds(histograms, rules), starting_parameters(config)

    folder = paths.pseudo(round, fold)
    for leftover in ("masks", "soft.zarr"):
        remove(folder / leftover)
    rows, counts = [], np.zeros(classes, np.int64)
    with open_soft_store(folder, rules) as soft:
        for split in rules.pool:
            for image_id, answer in average_stores(paths, teachers, fold, split, rules.tta):
                probabilities = resize_probabilities(answer, sizes[image_id])
                label, sure = label_pixels(probabilities, config.task, rules, thresholds, parameters)
                if split == "labelled":
                    truth = record_truth(records[image_id], paths)
                    label, sure, answer = keep_known(truth, label, sure, probabilities, config.task)
                kept = bool(sure.mean() >= rules.image_confidence and sure.any())
                mask = ""
                if kept:
                    mask = write_label(paths, folder, image_id, label, sure, answer, config.task, soft)
                rows.append((image_id, mask, f"{sure.mean():.4f}", int(kept), " ".join(map(str, teachers))))
                counts += count_agreement(label, sure, label, config.task, classes)[:, 1] * kept
    if not counts.any():
        raise UserError(f"round {round} fold {fold}: no pseudo-label passes the rules; loosen rounds.{round}.pseudo")
    index = pd.DataFrame(rows, columns=PSEUDO_COLUMNS)
    with atomic(folder / "index.csv") as temporary:
        index.to_csv(temporary, index=False)

    agreement = np.zeros((classes, 2), np.int64)
    for image_id, probabilities in average_stores(paths, teachers, fold, "oof", rules.tta):
        truth = record_truth(records[image_id], paths)
        probabilities = resize_probabilities(probabilities, truth.shape[:2])
        label, sure = label_pixels(probabilities, config.task, rules, thresholds, parameters)
        if sure.mean() >= rules.image_confidence:
            agreement += count_agreement(label, sure, truth, config.task, classes)
    names = ("background", *config.classes) if classes > len(config.classes) else config.classes
    return summarise(index, names, counts, agreement, thresholds, teachers, fold, rules)


def average_stores(
    paths: Paths, rounds: list[int], fold: int, split: str, tta: bool
) -> Iterator[tuple[str, "np.ndarray"]]:
    """The teachers' mean probabilities `(K, H, W) float32` of every image of a split, joined on ids."""
    from stores import ProbabilityStore

    stores = [ProbabilityStore(paths.probabilities(round, fold, split, tta)) for round in rounds]
    for image_id in stores[0].image_ids:
        yield image_id, sum(store.read(image_id) for store in stores) / len(stores)


def open_soft_store(folder: Any, rules: Pseudo) -> Any:
    """Where soft labels go; hard labels are files."""
    from contextlib import nullcontext

    from stores import ProbabilityWriter

    return ProbabilityWriter(folder / "soft.zarr") if rules.labels == "soft" else nullcontext()


def write_label(
    paths: Paths, folder: Any, image_id: str, label: Any, sure: Any, probabilities: Any, task: str, soft: Any
) -> str:
    """Keep one label, hard with its doubtful pixels ignored, or soft as it is, at whatever scale: thin borders do not
    outlive two changes of size. Return where it lies."""
    from images import check_instances, write_mask
    from pseudo import ignore_doubtful

    if soft is not None:
        soft.add(image_id, probabilities)
        return paths.relative(folder / "soft.zarr")
    if task == "instances":
        check_instances(label, image_id)
    path = folder / "masks" / f"{image_id}{'.tif' if task == 'multilabel' else '.png'}"
    write_mask(path, ignore_doubtful(label, sure, task))
    return paths.relative(path)


def summarise(
    index: Any, names: Any, counts: Any, agreement: Any, thresholds: Any, teachers: list[int], fold: int, rules: Pseudo
) -> dict[str, Any]:
    """What was kept, in which balance, and how often the same rule is right on out-of-fold images."""
    kept = index["kept"] == 1
    right, known = agreement[:, 0], agreement[:, 1]
    precision = {name: right[n] / known[n] if known[n] else None for n, name in enumerate(names)}
    return {
        "teachers": [{"round": teacher, "fold": fold} for teacher in teachers],
        "images": len(index),
        "kept_images": int(kept.sum()),
        "kept_share": float(index.loc[kept, "confidence"].astype(float).mean() * kept.mean()),
        "class_balance": {name: float(counts[n] / counts.sum()) for n, name in enumerate(names)},
        "precision": {"all": float(right.sum() / known.sum()) if known.sum() else None} | precision,
        "thresholds": {name: float(thresholds[n]) for n, name in enumerate(names)},
        "rules": rules.model_dump(mode="json"),
    }


def print_summary(round: int, fold: int, summary: dict[str, Any]) -> None:
    print(
        f"round {round} fold {fold}: {summary['kept_images']} of {summary['images']} images kept, "
        f"{summary['kept_share']:.1%} of all pixels"
    )
    for name, share in summary["class_balance"].items():
        precision = summary["precision"][name]
        shown = "-" if precision is None else f"{precision:.1%}"
        print(f"  {name:<16} {share:>6.1%} of the kept pixels, {shown:>6} right on out-of-fold images")


if __name__ == "__main__":
    run_script(main, make_parser(__doc__, fold=True, round=True))
