"""Score every phase out of fold and on hidden labels, fit the postprocessing, and print the table of phases.

    python src/evaluate.py
    python src/evaluate.py --config configs/dubai.yaml --print
    python src/evaluate.py --format tgs_salt --submission submission.csv --solution solution.csv

The last one needs no config and no run: it scores any submission as its competition does.

Out of fold, each labelled image is scored by the models that never saw it. The fitted row is nested: each fold is
scored with what was fitted on the others. Hidden labels, where the data has any, are scored and nothing else.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import PATCHES, Paths, Stage, stage_settings, write_json
from cli import make_parser, open_config, run_script
from config import Config
from errors import UserError
from layouts import Contents, Scores, read_checked

if TYPE_CHECKING:
    import numpy as np

    from fitting import Fitted
    from postprocess import Parameters
    from predictions import Scored


@dataclass(frozen=True)
class Part:
    """Images of one store to be scored: those of a fold out of fold, or (fold None) those with a hidden label.

    Out of fold, by their labels or (dense) by the masks that their points were drawn from.
    """

    store: Path
    parameters: "Parameters"
    fold: int | None
    dense: bool = False
    patch: int | None = None  # the side of the centre crops that the store holds, None where it holds whole images


@dataclass(frozen=True)
class Phase:
    """A row of the table: the parts scored together out of fold, and the stores scored one by one on hidden labels."""

    name: str
    round: int
    oof: tuple[Part, ...]
    hidden: tuple[Part, ...]


def main(args: argparse.Namespace) -> None:
    if any((args.format, args.submission, args.solution)):
        score_submission(args)
        return
    config, paths = open_config(args)
    if args.print:
        print(format_table(read_checked(paths.scores, Scores)))
        return
    stage = evaluate_stage(config, paths)
    with stage.claim(args.fresh) as todo:
        if todo:
            result = evaluate(config, paths)
            stage.finish()
            print(format_table(result))
        else:
            print("evaluated already")


def evaluate(config: Config, paths: Paths) -> dict[str, Any]:
    """Score every phase, fit the postprocessing and write both; returns the table of phases."""
    from postprocess import starting_parameters

    start = starting_parameters(config)
    rows = score_phases(config, paths, list_phases(config, paths, start))
    post: dict[str, Any] = {"metric": config.metric, "fitted": False, "parameters": asdict(start)}
    if config.postprocess.fit:
        fitted = fit(config, paths)
        row = score_phases(config, paths, [fitted_phase(config, paths, fitted)])[0]
        # thresholds that do not pay on folds they were not fitted on are not used
        helps = row["oof"] > rows[-1]["oof"]
        scores = {"unfitted": rows[-1]["oof"], "plain": fitted.plain, "nested": row["oof"]}
        post |= {"fitted": helps, "out_of_fold": scores, "tried": asdict(fitted.parameters)}
        if helps:
            post["parameters"] = asdict(fitted.parameters)
        rows.append(row | {"used": helps})
    write_json(paths.postprocess, post)
    result = {"metric": config.metric, "task": config.task, "hidden": config.data.solution_of, "phases": rows}
    result["judges"] = judges(config)
    write_json(paths.scores, result)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This script's own switches."""
    parser.add_argument("--print", action="store_true", help="only print the table of the last evaluation")
    files = parser.add_argument_group("score a file")
    files.add_argument("--format", metavar="NAME", help="the competition, a name of src/competitions.py")
    files.add_argument("--submission", type=Path, metavar="FILE", help="what is scored")
    files.add_argument(
        "--solution", type=Path, metavar="FILE", help="the truth, written alike; may have a Usage column"
    )
    files.add_argument("--solution-format", metavar="NAME", help="where it is written otherwise (siim_acr_train)")
    files.add_argument("--size", metavar="HxW", help="of every image, where neither file nor competition tells it")
    files.add_argument("--images", type=Path, metavar="DIR", help="the images, where they differ in size")


def score_submission(args: argparse.Namespace) -> None:
    """Print a submission's scores: a line for all of it, and one for its public and private part."""
    from answers import Sizes
    from contests import score_files

    for switch in ("format", "submission", "solution"):
        if getattr(args, switch) is None:
            raise UserError(f"--{switch} is missing; to score a file, give --format, --submission and --solution")
    size = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", args.size or "")
    if args.size and not size:
        raise UserError(f"--size {args.size}: write height and width like 768x1024")
    sizes = Sizes((int(size[1]), int(size[2])) if size else None, args.images)
    parts = score_files(args.format, args.submission, args.solution, sizes, args.solution_format)
    for part in parts:
        scores = ", ".join(f"{name} {value:.6f}" for name, value in part.scores.items())
        print(f"{part.name:<8} {scores} ({part.images} images)")


def evaluate_stage(config: Config, paths: Paths) -> Stage:
    settings = stage_settings(config, "task", "classes", "postprocess") | {"judges": judges(config)}
    settings["solution"] = read_checked(paths.contents, Contents)["solution"]
    manifests = [
        paths.run(round, fold) / "manifest.json"
        for round in range(len(config.rounds))
        for fold in range(config.folds.count)
    ]
    inputs = (paths.index, paths.folds, paths.runs / "ensemble" / "manifest.json", *manifests)
    return Stage(paths.runs / "evaluation.json", settings, inputs, outputs=(paths.postprocess, paths.scores))


def judges(config: Config) -> list[str]:
    """What out-of-fold predictions are scored by where points were drawn from masks: first what chooses, then the
    other. Else there is but one kind of label."""
    points = config.data.labels.points
    return [] if points is None else ["masks", "points"] if points.judge == "masks" else ["points", "masks"]


def list_phases(config: Config, paths: Paths, start: "Parameters") -> list[Phase]:
    """supervised → + each pseudo-label round → + fine-tune → + TTA → + ensemble, all with the config's thresholds.

    Where centre crops were predicted, their scores follow each round's.
    """
    from predictions import judged_by_masks

    folds, last, split = range(config.folds.count), len(config.rounds) - 1, config.data.solution_of
    dense = judged_by_masks(config)

    def phase(name: str, round: int, tta: bool, patch: int | None = None) -> Phase:
        end = PATCHES if patch else ""
        stores = [(paths.probabilities(round, fold, "oof" + end, tta), fold) for fold in folds]
        hidden = (paths.probabilities(round, fold, split + end, tta) for fold in folds)
        oof = tuple(Part(store, start, fold, dense, patch) for store, fold in stores)
        return Phase(name, round, oof, tuple(Part(store, start, None, patch=patch) for store in hidden))

    phases = []
    for round in range(last + 1):
        name = phase_name(config, round)
        phases.append(phase(name, round, False))
        if config.predict.patch:
            phases.append(phase(f"{name}, patches", round, False, config.predict.patch))
    if config.predict.augments:
        phases.append(phase("+ TTA", last, True))
    oof = tuple(Part(paths.ensemble("oof"), start, fold, dense) for fold in folds)
    return [*phases, Phase("+ ensemble", last, oof, (Part(paths.ensemble(split), start, None),))]


def phase_name(config: Config, round: int) -> str:
    names = {"warmup": "supervised", "joint": "+ pseudo-labels", "finetune": "+ fine-tune"}
    one = config.rounds[round]
    name = "+ mean teacher" if one.phase == "joint" and one.pseudo is None else names[one.phase]
    name = "+ supervised" if round and one.phase == "warmup" else name
    same = sum(config.rounds[other].phase == one.phase for other in range(len(config.rounds)))
    return f"{name}, round {round}" if same > 1 else name


def fitted_phase(config: Config, paths: Paths, fitted: "Fitted") -> Phase:
    from predictions import judged_by_masks

    store, dense = paths.ensemble("oof"), judged_by_masks(config)
    oof = tuple(Part(store, parameters, fold, dense) for fold, parameters in sorted(fitted.by_fold.items()))
    hidden = (Part(paths.ensemble(config.data.solution_of), fitted.parameters, None),)
    return Phase("+ fitted thresholds", len(config.rounds) - 1, oof, hidden)


def fit(config: Config, paths: Paths) -> "Fitted":
    """Fit the postprocessing on the ensemble's out-of-fold predictions."""
    from fitting import fit_parameters
    from predictions import judged_by_masks, read_oof

    def images() -> Iterator[tuple[int, "np.ndarray", "np.ndarray"]]:
        for fold in range(config.folds.count):
            for _, truth, probabilities in read_oof(paths, paths.ensemble("oof"), fold, dense=judged_by_masks(config)):
                yield fold, truth, probabilities

    return fit_parameters(config, images())


def score_phases(config: Config, paths: Paths, phases: list[Phase]) -> list[dict[str, Any]]:
    """A row a phase: its pooled out-of-fold scores, those of each fold, the mean of its stores' hidden scores, and what
    the other judge says out of fold."""
    from children import call_beside

    jobs: list[tuple[Part, ...]] = []
    for phase in phases:
        jobs += [phase.oof, *((part,) for part in phase.oof), *((part,) for part in phase.hidden)]
        jobs += [tuple(replace(part, dense=not part.dense) for part in phase.oof)] if judges(config) else []
    scores, rows = iter(call_beside(score_parts, [(config, paths, job) for job in jobs])), []
    for phase in phases:
        pooled, folds = next(scores), [next(scores) for _ in phase.oof]
        hidden = [answer for answer in (next(scores) for _ in phase.hidden) if answer]
        other = next(scores) if judges(config) else {}
        means = {key: sum(one[key] for one in hidden) / len(hidden) for key in hidden[0]} if hidden else {}
        rows.append(
            {
                "name": phase.name,
                "round": phase.round,
                "oof": pooled[config.metric],
                "folds": [one[config.metric] for one in folds],
                "hidden": means.get(config.metric),
                "other": other.get(config.metric),
                "oof_scores": pooled,
                "hidden_scores": means,
                "other_scores": other,
            }
        )
    return rows


def score_parts(config: Config, paths: Paths, parts: tuple[Part, ...]) -> dict[str, float]:
    """Scores of all images of some parts together; {} where none of them has a label."""
    from postprocess import to_label
    from scoring import score_pairs

    def pairs() -> Iterator[tuple["np.ndarray", "np.ndarray"]]:
        for part in parts:
            for _, truth, probabilities in read_part(paths, part):
                yield truth, to_label(probabilities, config.task, part.parameters)

    if parts[0].fold is None and not (paths.data / "solution").is_dir():
        return {}
    return score_pairs(config, pairs())


def read_part(paths: Paths, part: Part) -> "Iterator[Scored]":
    """`(image_id, truth, probabilities)` at each image's or patch's own size, joined on ids."""
    from predictions import read_hidden, read_oof

    if part.fold is None:
        return read_hidden(paths, part.store, part.patch)
    return read_oof(paths, part.store, part.fold, dense=part.dense, patch=part.patch)


def format_table(result: dict[str, Any]) -> str:
    """The table of phases in 80 columns. "-" is what nothing is known of, and the span of fewer than two folds."""

    def shown(value: float | None) -> str:
        return "-" if value is None or value != value else f"{value:.4f}"

    metric, phases, judges = result["metric"], result["phases"], result["judges"]
    first, second = (f"on {judges[0]}", f" {'on ' + judges[1]:>9}") if judges else ("out of fold", "")
    lines = [f"{metric:<25} {first:>11} {'over folds':>14} {'hidden':>8}{second}"]
    for row in phases:
        known = [value for value in row["folds"] if value == value]
        folds = f"{min(known):.4f}-{max(known):.4f}" if len(known) > 1 else "-"
        other = f" {shown(row['other']):>9}" if judges else ""
        unused = "" if row.get("used", True) else " (unused)" if judges else "  (not used)"
        lines.append(f"{row['name']:<25} {shown(row['oof']):>11} {folds:>14} {shown(row['hidden']):>8}{other}{unused}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    add_arguments(parser)
    run_script(main, parser)
