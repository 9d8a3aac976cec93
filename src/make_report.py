"""Write one HTML file a person opens offline: scores, curves, what the pseudo-labels kept, and pictures.

    python src/make_report.py
    python src/make_report.py --config configs/dubai.yaml

It holds its images and styles itself and asks nothing of the network. Ids and names come from other people's files, so
all of them are escaped. Beside it: curves.png, and results.png with images, labels and predictions side by side.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import Paths, Stage, atomic, fingerprint, settings_hash
from cli import make_parser, open_config, run_script
from config import IGNORE_INDEX, Config
from errors import UserError
from layouts import Postprocessing, Scores, Summary, Weights, read_checked, read_epochs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from pictures import Curves

TEMPLATE = Path(__file__).with_name("report.html.jinja")
SHOWN = 3  # pictures a kind
SHOWN_TEST = 6


@dataclass(frozen=True)
class Table:
    """The index by id, the points of all images and each labelled image's fold."""

    rows: dict[str, dict[str, Any]]
    points: "pd.DataFrame | None"
    folds: dict[str, int]

    def ids(self, split: str) -> list[str]:
        return [image_id for image_id, row in self.rows.items() if row["split"] == split]

    def sparse(self, image_id: str) -> bool:
        return bool(self.rows[image_id]["points"]) and not self.rows[image_id]["mask"]


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    stage = report_stage(config, paths)
    with stage.claim(args.fresh) as todo:
        if todo:
            write_report(config, paths)
            stage.finish(config_hash=settings_hash(config), sha256=fingerprint(paths.report))
        else:
            print(f"{paths.report}: made already")


def write_report(config: Config, paths: Paths) -> None:
    from sheets import write_curves, write_results

    page = render(collect(config, paths))
    _, names = read_scores(config, paths)
    write_curves(paths, read_curves(read_logs(config, paths)), names, config.metric)
    write_results(config, paths)
    with atomic(paths.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{paths.report}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")


def read_scores(config: Config, paths: Paths) -> tuple[dict[str, Any], list[str]]:
    """The table of phases, and what it calls each round. Raises UserError where it is of other rounds."""
    scores, names = read_checked(paths.scores, Scores), {}
    for phase in scores["phases"]:
        names.setdefault(phase["round"], phase["name"])
    if list(names) != list(range(len(config.rounds))):
        raise UserError(f"{paths.scores}: its phases are not of the config's rounds; run evaluate.py --fresh")
    return scores, list(names.values())


def report_stage(config: Config, paths: Paths) -> Stage:
    runs = [paths.run(round, fold) for round in range(len(config.rounds)) for fold in range(config.folds.count)]
    inputs = [paths.scores, paths.postprocess, paths.index, paths.folds, paths.runs / "ensemble" / "manifest.json"]
    inputs += [run / "manifest.json" for run in runs]
    settings = config.model_dump(mode="json")
    outputs = (paths.report, paths.curves, paths.results)
    return Stage(paths.report.with_name("manifest.json"), settings, tuple(inputs), outputs)


def render(values: dict[str, Any]) -> str:
    """The page of the template, with everything escaped that is not ours."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def collect(config: Config, paths: Paths) -> dict[str, Any]:
    """Everything the template shows, by its names there."""
    import yaml

    from pictures import BOTH, FALSE_NEGATIVE, FALSE_POSITIVE, class_colours, hex_colour
    from rules import METRIC_WORDS
    from sheets import list_class_weights, list_machines

    (scores, names), table = read_scores(config, paths), read_table(paths)
    phases = [phase | known_scores(phase) for phase in scores["phases"]]
    values = class_colours(config.task, len(config.classes))
    labels = ("background", *config.classes) if config.task in ("binary", "instances") else config.classes
    colours = {name: hex_colour(colour) for name, colour in zip(labels, values, strict=True)}
    error_colours = {"extra": FALSE_POSITIVE, "missed": FALSE_NEGATIVE, "both": BOTH}
    logs = read_logs(config, paths)
    return {
        "config": config,
        "metric_words": METRIC_WORDS[config.metric],
        "counts": {split: len(table.ids(split)) for split in ("labelled", "unlabelled", "test")},
        "sparse": any(table.sparse(image_id) for image_id in table.folds),
        "hidden_of": scores["hidden"],
        "final": next(phase for phase in reversed(phases) if phase.get("used", True)),
        "judges": scores["judges"],
        "class_weights": list_class_weights(config, paths, names),
        **phase_table(phases),
        **curves(config, logs, names),
        "pseudo": [
            pseudo_round(config, paths, table, round, names[round])
            for round, one in enumerate(config.rounds)
            if one.pseudo is not None
        ],
        "groups": oof_pictures(config, paths, table),
        "tests": test_pictures(config, paths, table),
        "colours": colours,
        "error_colours": {name: hex_colour(colour) for name, colour in error_colours.items()},
        "post": read_checked(paths.postprocess, Postprocessing),
        "weights": read_checked(paths.runs / "ensemble" / "weights.json", Weights),
        "times": [(names[round], [sum(line["seconds"] for line in log) for log in one]) for round, one in logs.items()],
        "machines": list_machines(config, paths),
        "yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    }


def read_table(paths: Paths) -> Table:
    from index import read_folds, read_index
    from points import load_points

    index = read_index(paths)
    folds = read_folds(paths)
    return Table(
        {row["image_id"]: row for row in index.to_dict("records")},
        load_points(paths.points) if index["points"].any() else None,
        dict(zip(folds["image_id"], folds["fold"].tolist(), strict=True)),
    )


def known_scores(phase: dict[str, Any]) -> dict[str, Any]:
    """A phase's scores with None for NaN, and without the folds of which nothing is known."""
    values = {key: None if phase[key] != phase[key] else phase[key] for key in ("oof", "hidden")}
    return values | {"folds": [value for value in phase["folds"] if value == value]}


def phase_table(phases: list[dict[str, Any]]) -> dict[str, Any]:
    """The phases and the scale of the little plots: left and right end, and each value's place in per cent."""
    values = [
        value for phase in phases for value in (phase["oof"], phase["hidden"], *phase["folds"]) if value is not None
    ] or [0.0, 1.0]
    pad = 0.04 * (max(values) - min(values)) or 0.02
    low, high = max(0.0, min(values) - pad), min(1.0, max(values) + pad)

    def place(value: float) -> float:
        return round(100 * (value - low) / ((high - low) or 1.0), 2)

    return {"phases": phases, "low": low, "high": high, "place": place}


def read_logs(config: Config, paths: Paths) -> dict[int, list[list[dict[str, Any]]]]:
    """Of every round and fold, the lines of its log. Raises UserError naming a log that is missing or broken."""
    logs: dict[int, list[list[dict[str, Any]]]] = {}
    for round in range(len(config.rounds)):
        for fold in range(config.folds.count):
            logs.setdefault(round, []).append(read_epochs(paths.run(round, fold) / "log.jsonl"))
    return logs


def read_curves(logs: dict[int, list[list[dict[str, Any]]]]) -> "list[Curves]":
    return [
        {fold: [(line["step"], line["loss"], line.get("score")) for line in log] for fold, log in enumerate(one)}
        for one in logs.values()
    ]


def curves(config: Config, logs: dict[int, list[list[dict[str, Any]]]], names: list[str]) -> dict[str, Any]:
    from markupsafe import Markup

    from pictures import fold_colour, hex_colour, plot_curves

    rounds = read_curves(logs)
    drawn = [Markup(svg) for svg in plot_curves(rounds, config.metric)]  # numbers and our own words
    return {
        "curves": list(zip((names[round] for round in logs), drawn, strict=True)),
        "fold_colours": [hex_colour(fold_colour(fold)) for fold in range(config.folds.count)],
    }


def pseudo_round(config: Config, paths: Paths, table: Table, round: int, name: str) -> dict[str, Any]:
    """What each student of a round was given, and pictures of the surest, the middle and the least sure kept image."""
    from index import PSEUDO_COLUMNS, read_stage_table
    from sheets import spread

    rows = []
    for fold in range(config.folds.count):
        summary = read_checked(paths.pseudo(round, fold) / "summary.json", Summary)
        leaked = sum(table.folds.get(image_id) == fold for image_id in summary["seen_ids"])
        rows.append(summary | {"fold": fold, "seen": len(summary["seen_ids"]), "leaked": leaked})
    index = read_stage_table(paths.pseudo(round, 0) / "index.csv", PSEUDO_COLUMNS)
    kept = index[index["kept"] == "1"].to_dict("records")
    kept.sort(key=lambda row: (-float(row["confidence"]), row["image_id"]))
    chosen = spread(kept, SHOWN)
    return {"name": name, "rows": rows, "pictures": [pseudo_picture(config, paths, table, row) for row in chosen]}


def pseudo_picture(config: Config, paths: Paths, table: Table, row: dict[str, str]) -> dict[str, Any]:
    from images import read_mask
    from pictures import data_uri, draw_label
    from postprocess import resize_probabilities, starting_parameters, to_label
    from stores import ProbabilityStore
    from transforms import UNKNOWN_INSTANCE

    own, path, unknown = table.rows[row["image_id"]], paths.resolve(row["mask"]), None
    if path.suffix == ".zarr":  # soft labels: every pixel is learned from, by its probabilities
        probabilities = ProbabilityStore(path).read(row["image_id"])
        probabilities = resize_probabilities(probabilities, (own["height"], own["width"]))
        label = to_label(probabilities, config.task, starting_parameters(config))
    else:
        label = read_mask(path)
    if config.task == "instances":
        label, unknown = label & (UNKNOWN_INSTANCE - 1), label >= UNKNOWN_INSTANCE
    picture = open_picture(paths, own)
    drawn = draw_label(picture, label, config.task, unknown)
    note = f"{float(row['confidence']):.0%} of its pixels are sure"
    return card(row["image_id"], note, {"image": data_uri(picture), "pseudo-label": data_uri(drawn)})


def oof_pictures(config: Config, paths: Paths, table: Table) -> list[tuple[str, list[dict[str, Any]]]]:
    """Cards of the best, the middle and the worst out-of-fold images by the config's metric."""
    from postprocess import to_label
    from predictions import judged_by_masks, load_parameters, read_oof
    from sheets import best_middle_worst

    store, parameters, scores, nothing = paths.ensemble("oof"), load_parameters(paths), {}, set()
    for fold in range(config.folds.count):
        for image_id, truth, probabilities in read_oof(paths, store, fold, dense=judged_by_masks(config)):
            if config.task != "multiclass" and not ((truth > 0) & (truth != IGNORE_INDEX)).any():
                nothing.add(image_id)
            scores[image_id] = image_score(config, truth, to_label(probabilities, config.task, parameters))
    groups = best_middle_worst(scores, SHOWN)
    chosen, cards = {image_id for ids in groups.values() for image_id in ids}, {}
    for fold in sorted({table.folds[image_id] for image_id in chosen}):
        for image_id, truth, probabilities in read_oof(paths, store, fold, chosen):
            prediction = to_label(probabilities, config.task, parameters)
            pictures = compare(config, paths, table, image_id, truth, prediction)
            place = f", fold {fold}" * (config.folds.count > 1)
            note = f"{config.metric} {scores[image_id]:.4f}{place}{', nothing to find' * (image_id in nothing)}"
            cards[image_id] = card(image_id, note, pictures)
    return [(name, [cards[image_id] for image_id in ids]) for name, ids in groups.items() if ids]


def compare(
    config: Config, paths: Paths, table: Table, image_id: str, truth: "np.ndarray", prediction: "np.ndarray"
) -> dict[str, str]:
    """An image, its label, its prediction and its errors; and the mask its points were drawn from, if they were."""
    from images import read_mask
    from pictures import class_colours, data_uri, draw_errors, draw_label, draw_point_errors, draw_points
    from scoring import dense_truth

    picture = open_picture(paths, table.rows[image_id])
    predicted = draw_label(picture, prediction, config.task)
    if table.sparse(image_id):
        points = table.points[table.points["image_id"] == image_id]
        colours = class_colours(config.task, len(config.classes))
        label = draw_points(picture, points, truth.shape[:2], colours)
        errors = draw_point_errors(picture, points, prediction, config.task, colours)
    else:
        label = draw_label(picture, truth, config.task)
        errors = draw_errors(picture, truth, prediction, config.task)
    shown = {"image": picture, "label": label, "prediction": predicted, "errors": errors}
    if mask := dense_truth(paths, image_id):
        shown["mask"] = draw_label(picture, read_mask(mask), config.task)
    return {name: data_uri(one) for name, one in shown.items()}


def test_pictures(config: Config, paths: Paths, table: Table) -> list[dict[str, Any]]:
    """Test images from all over the index, with their score where there is a hidden label."""
    from images import read_mask
    from pictures import data_uri, draw_label
    from postprocess import to_label
    from predictions import load_parameters, read_split
    from scoring import hidden_truth
    from sheets import spread

    chosen, parameters, cards = spread(table.ids("test"), SHOWN_TEST), load_parameters(paths), []
    if not chosen:
        return []
    for image_id, probabilities in read_split(paths, paths.ensemble("test"), "test", chosen):
        prediction = to_label(probabilities, config.task, parameters)
        hidden, note = hidden_truth(paths, image_id), ""
        if hidden:
            note = f"{config.metric} {image_score(config, read_mask(hidden), prediction):.4f} on its hidden label"
        picture = open_picture(paths, table.rows[image_id])
        drawn = draw_label(picture, prediction, config.task)
        cards.append(card(image_id, note, {"image": data_uri(picture), "prediction": data_uri(drawn)}))
    return cards


def image_score(config: Config, truth: "np.ndarray", prediction: "np.ndarray") -> float:
    """One image's score by the config's metric; NaN where no pixel of it counts."""
    import warnings

    from scoring import score_pairs

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # one empty image has no IoU
        return score_pairs(config, [(truth, prediction)])[config.metric]


def open_picture(paths: Paths, row: dict[str, Any]) -> "np.ndarray":
    from images import read_image
    from pictures import show_image

    return show_image(read_image(paths.resolve(row["image"])))


def card(image_id: str, note: str, pictures: dict[str, str]) -> dict[str, Any]:
    return {"id": image_id, "note": note, "pictures": pictures}


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
