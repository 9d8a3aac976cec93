"""PNG sheets beside the report: the training curves, and image, truth, points and prediction side by side.

    write_curves(paths, rounds, names, "miou")
    write_results(config, paths)

Predictions are out of fold: by models that never saw the image.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts import Paths, atomic
from config import Config
from images import read_image, read_mask, resize_label
from index import read_folds, read_index
from labels import label_names, name_encoding
from layouts import Training, read_checked
from pictures import (
    Colour,
    Curves,
    class_colours,
    draw_curve_sheet,
    draw_label,
    draw_points,
    hex_colour,
    paint_label,
    show_image,
    to_png,
)
from points import load_points
from postprocess import to_label
from predictions import load_parameters, read_oof
from scoring import dense_truth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # images on the sheet
UNKNOWN: Colour = (128, 128, 128)


def label_palette(config: Config) -> dict[str, Colour]:
    """The colour of each label value by its class: those of the data's own palette, or else the report's."""
    config, names = name_encoding(config), label_names(config)
    own = config.data.labels.palette
    if config.data.labels.encoding == "palette":
        return {name: own.get(name, (0, 0, 0)) for name in names}
    # an instances task has no name for its background
    colours = class_colours(config.task, len(config.classes))[-len(names) :]
    return dict(zip(names, colours, strict=True))


def spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` of them, first and last among them, evenly spaced between."""
    if len(items) <= count:
        return items
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]


def best_middle_worst(scores: dict[str, float], count: int) -> dict[str, list[str]]:
    """Ids by score, no id twice: the best first, the middle around the median, the worst first. NaN is left out."""
    order = sorted((one for one in scores if scores[one] == scores[one]), key=lambda one: (-scores[one], one))
    count = min(count, -(-len(order) // 3))
    best, rest = order[:count], order[count:]
    worst, middle = rest[-count:][::-1] if count else [], rest[: max(0, len(rest) - count)]
    start = max(0, (len(middle) - count) // 2)
    return {"The best": best, "The middle": middle[start : start + count], "The worst": worst}


def list_class_weights(config: Config, paths: Paths, names: list[str]) -> list[tuple[str, dict[str, float]]]:
    """The class weights of each round that has some: the mean over its folds."""
    found = []
    for round, name in enumerate(names):
        places = [paths.run(round, fold) for fold in range(config.folds.count)]
        manifests = [read_checked(place / "manifest.json", Training) for place in places]
        if folds := [one["class_weights"] for one in manifests if one.get("class_weights")]:
            found.append((name, {key: sum(one[key] for one in folds) / len(folds) for key in folds[0]}))
    return found


def list_machines(config: Config, paths: Paths) -> list[dict[str, Any]]:
    """The different machines that the folds were trained on, each as its manifest says."""
    places = [paths.run(round, fold) for round in range(len(config.rounds)) for fold in range(config.folds.count)]
    found = [read_checked(place / "manifest.json", Training).get("machine") for place in places]
    return [one for number, one in enumerate(found) if one and one not in found[:number]]


def write_curves(paths: Paths, rounds: Sequence[Curves], names: Sequence[str], metric: str) -> None:
    with atomic(paths.curves) as temporary:
        temporary.write_bytes(draw_curve_sheet(rounds, names, metric))


def write_results(config: Config, paths: Paths) -> None:
    """Held-out images from all over the index with their truth, their points where they have some, and predictions."""
    table, folds = read_index(paths), read_folds(paths)
    held_out = folds.loc[folds["fold"].isin(range(config.folds.count)), "image_id"]  # one split holds out but some
    rows = {row["image_id"]: row for row in table[table["image_id"].isin(set(held_out))].to_dict("records")}
    chosen = spread(list(rows), SHOWN)
    points = load_points(paths.points) if table["points"].any() else None
    parameters, drawn = load_parameters(paths), {}
    for fold in range(config.folds.count):
        for image_id, _, probabilities in read_oof(paths, paths.ensemble("oof"), fold, chosen):
            prediction = to_label(probabilities, config.task, parameters)
            drawn[image_id] = _side_by_side(config, paths, rows[image_id], prediction, points)
    with atomic(paths.results) as temporary:
        temporary.write_bytes(draw_picture_sheet(sorted(drawn.items()), label_palette(config) | {"unknown": UNKNOWN}))


def _side_by_side(
    config: Config, paths: Paths, row: dict[str, Any], prediction: np.ndarray, points: Any
) -> dict[str, np.ndarray]:
    picture = show_image(read_image(paths.resolve(row["image"])))
    colours = list(label_palette(config).values())

    def show(label: np.ndarray) -> np.ndarray:
        if config.task in ("binary", "multiclass"):
            return paint_label(resize_label(label, picture.shape[:2]), colours, UNKNOWN)
        return draw_label(picture, label, config.task)

    shown = {"image": picture}
    mask = paths.resolve(row["mask"]) if row["mask"] else dense_truth(paths, row["image_id"])
    if mask is not None:
        shown["truth"] = show(read_mask(mask))
    if points is not None:
        own = points[points["image_id"] == row["image_id"]]
        shown["points"] = draw_points(picture, own, (row["height"], row["width"]), colours)
    return shown | {"prediction": show(prediction)}


def draw_picture_sheet(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], legend: Mapping[str, Colour]) -> bytes:
    """Pictures side by side as a PNG: a row an image, `(its name, {title: picture})`, and a legend of class colours."""
    from matplotlib.figure import Figure

    titles = list(rows[0][1])
    ratio = rows[0][1][titles[0]].shape[0] / rows[0][1][titles[0]].shape[1]
    figure = Figure(figsize=(2.9 * len(titles), (2.9 * ratio + 0.3) * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for places, (name, pictures) in zip(grid, rows, strict=True):
        for axes, title in zip(places, titles, strict=True):
            axes.imshow(pictures[title], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{_short(name)}: {title}" if title == titles[0] else title, fontsize=8, parse_math=False)
    _add_legend(figure, legend)
    return to_png(figure)


def _add_legend(figure: "Figure", colours: Mapping[str, Colour]) -> None:
    """What each colour means, below, in as many columns as fit the figure's width, 8 at most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Patch

    renderer = FigureCanvasAgg(figure).get_renderer()
    patches = [
        Patch(facecolor=hex_colour(colour), edgecolor="grey", label=_short(name)) for name, colour in colours.items()
    ]
    for columns in range(min(len(patches), 8), 0, -1):
        legend = figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
        if legend.get_window_extent(renderer).width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def _short(name: str, longest: int = 30) -> str:
    """A name as it fits over a picture: some competitions' ids have 64 letters, and those in the middle tell least."""
    return name if len(name) <= longest else f"{name[: longest * 2 // 3]}…{name[-(longest // 3 - 1) :]}"
