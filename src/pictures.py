"""Pictures for people: labels, points and errors drawn on images, and curves, in colours that colour-blind eyes tell
apart.

    picture = show_image(read_image(path))  # (h, w, 3) uint8, of a size for a page
    uri = data_uri(draw_label(picture, label, "binary"))

A label is drawn at the picture's size, so that outlines stay thin however large the image is.
"""

import base64
import colorsys
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from config import IGNORE_INDEX

if TYPE_CHECKING:
    import pandas as pd

Colour = tuple[int, int, int]
Curves = Mapping[int, Sequence[tuple[int, float, float | None]]]  # fold → (step, loss, validation score if measured)

LONG_SIDE = 384  # pixels on the page
JPEG_QUALITY = 85
MOST_DISCS = 1000  # points drawn as discs
LINES = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15}
# Okabe and Ito, "Color universal design", 2008
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
BACKGROUND: Colour = (170, 170, 170)
FOREGROUND: Colour = (240, 228, 66)
FALSE_POSITIVE: Colour = (236, 104, 0)
FALSE_NEGATIVE: Colour = (60, 160, 255)
BOTH: Colour = (255, 255, 255)


def class_colours(task: str, count: int) -> list[Colour]:
    """A colour a label value: background and foreground of the one-class tasks, or one a class."""
    if task in ("binary", "instances"):
        return [BACKGROUND, FOREGROUND]
    extra = [colorsys.hsv_to_rgb(number * 0.618 % 1.0, 0.5, 0.9) for number in range(count - len(PALETTE))]
    return [*PALETTE[:count], *(tuple(round(255 * part) for part in colour) for colour in extra)]


def hex_colour(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def show_image(image: np.ndarray) -> np.ndarray:
    """`(H, W, C)` of any depth → `(h, w, 3) uint8` as `brighten` has it, long side at most `LONG_SIDE`.

    Small images are enlarged by a whole factor.
    """
    return _fit(brighten(image), _shown_shape(image.shape[:2]), cv2.INTER_AREA)


def brighten(image: np.ndarray) -> np.ndarray:
    """`(H, W, C)` of any depth → `(H, W, 3) uint8`: the first three channels, dark and deep ones made lighter, for the
    eye alone."""
    channels = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    low, high = (0.0, 255.0) if image.dtype == np.uint8 else np.percentile(channels, (1, 99))
    if image.dtype == np.uint8 and (brightest := np.percentile(channels, 99.5)) < 128:
        high = brightest
    scaled = (channels.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def draw_label(picture: np.ndarray, label: np.ndarray, task: str, unknown: np.ndarray | None = None) -> np.ndarray:
    """A label array over a picture: outlines, or for multiclass a tint of every pixel.

    Unknown pixels, those of 255 and those of `unknown` `(H, W) bool`, are hatched in grey.
    """
    drawn = picture.copy()
    shape = picture.shape[:2]
    small = _fit(label if label.dtype == np.uint8 else label.astype(np.uint16), shape, cv2.INTER_NEAREST)
    hidden = np.zeros(shape, bool) if unknown is None else _fit(unknown.astype(np.uint8), shape, cv2.INTER_NEAREST) > 0
    if task != "instances":
        hidden |= (small == IGNORE_INDEX).any(-1) if small.ndim == 3 else small == IGNORE_INDEX
    colours = class_colours(task, label.shape[2] if label.ndim == 3 else 2)
    if task == "multiclass":
        for value in np.unique(small[~hidden]):
            _tint(drawn, small == value, class_colours(task, int(value) + 1)[-1], 0.55)
    elif task == "instances":
        edge = _inner_edge(small, 5)
        for number, colour in enumerate(PALETTE):
            mine = (small > 0) & (small % len(PALETTE) == number)
            _tint(drawn, mine, colour, 0.25)
            drawn[edge & mine] = colour
    else:
        planes = [small] if small.ndim == 2 else [small[..., number] for number in range(small.shape[2])]
        for plane, colour in zip(planes, colours[1:] if task == "binary" else colours, strict=True):
            _tint(drawn, plane == 1, colour, 0.2)
            drawn[_inner_edge((plane == 1).astype(np.uint8), 5)] = colour
    return _hatch(drawn, hidden)


def draw_points(
    picture: np.ndarray, points: "pd.DataFrame", shape: tuple[int, int], colours: list[Colour]
) -> np.ndarray:
    """Points (x, y, class at the image's own `(H, W)`) as discs of `colours[class]` with a white rim; where there are
    too many for that, as single pixels."""
    drawn = picture.copy()
    if len(points) > MOST_DISCS:
        columns, rows = _place(points["x"].to_numpy(), points["y"].to_numpy(), shape, drawn.shape)
        drawn[rows, columns] = np.array(colours, np.uint8)[points["class"].to_numpy()]
        return drawn
    for x, y, number in points[["x", "y", "class"]].itertuples(index=False):
        _disc(drawn, _place(x, y, shape, drawn.shape), colours[number])
    return drawn


def draw_errors(picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, task: str) -> np.ndarray:
    """Where a prediction is wrong, over a pale picture.

    Binary and multilabel: too much in `FALSE_POSITIVE`, missed in `FALSE_NEGATIVE`, right foreground white. Multiclass:
    wrong pixels in the predicted class's colour. Instances: outlines of the truth, the prediction, and both.
    """
    shape = picture.shape[:2]
    drawn = _pale(picture)
    if task == "instances":
        mine, theirs = (_fit(one.astype(np.uint16), shape, cv2.INTER_NEAREST) for one in (prediction, truth))
        mine, theirs = _inner_edge(mine, 5), _inner_edge(theirs, 5)
        for where, colour in ((mine, FALSE_POSITIVE), (theirs, FALSE_NEGATIVE), (mine & theirs, BOTH)):
            drawn[where] = colour
        return drawn
    truth, prediction = (_fit(one, shape, cv2.INTER_NEAREST) for one in (truth, prediction))
    known = truth != IGNORE_INDEX
    if task == "multiclass":
        for value in np.unique(prediction):
            _tint(drawn, known & (truth != value) & (prediction == value), class_colours(task, int(value) + 1)[-1], 0.9)
        return _hatch(drawn, ~known)
    missed, extra, right = (
        _any_plane(known & (truth == 1) & (prediction == 0)),
        _any_plane(known & (truth == 0) & (prediction == 1)),
        _any_plane(known & (truth == 1) & (prediction == 1)),
    )
    for where, colour, share in ((right, BOTH, 0.6), (extra, FALSE_POSITIVE, 0.9), (missed, FALSE_NEGATIVE, 0.9)):
        _tint(drawn, where, colour, share)
    return _hatch(drawn, ~known if known.ndim == 2 else ~known.any(-1))


def draw_point_errors(
    picture: np.ndarray, points: "pd.DataFrame", prediction: np.ndarray, task: str, colours: list[Colour]
) -> np.ndarray:
    """Only the points are known: a right one is a small white disc, a wrong one a large disc of its error's colour."""
    drawn = _pale(picture)
    for x, y, number in points[["x", "y", "class"]].itertuples(index=False):
        answer = int(prediction[y, x])
        wrong = colours[answer] if task == "multiclass" else FALSE_POSITIVE if answer else FALSE_NEGATIVE
        place = _place(x, y, prediction.shape[:2], drawn.shape)
        _disc(drawn, place, BOTH, 2) if answer == number else _disc(drawn, place, wrong, 6)
    return drawn


def paint_label(label: np.ndarray, colours: Sequence[Colour], unknown: Colour = (0, 0, 0)) -> np.ndarray:
    """A label `(H, W) uint8` in plain colours, `(H, W, 3) uint8`: `colours[class]`, and `unknown` where it is 255."""
    table = np.empty((256, 3), np.uint8)
    table[:] = unknown
    table[: len(colours)] = colours
    return table[label]


def data_uri(picture: np.ndarray) -> str:
    """`(h, w, 3) uint8` as a JPEG inside an address; colour at full resolution, or else thin outlines would fade."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), options)[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def plot_curves(rounds: Sequence[Curves], metric: str) -> list[str]:
    """An SVG element a round: the loss over steps and below it the validation score, a line a fold.

    All rounds share their vertical scales. Text and axes take the page's colour.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ink = "#010203"  # becomes the page's colour
    style = {"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9, "font.family": "sans-serif"}
    style |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    drawings = []
    with matplotlib.rc_context(style | LINES | {"grid.color": ink}):
        for one in rounds:
            figure = Figure(figsize=(3.4, 3.5), layout="constrained")
            _draw_curves(figure.subplots(2, sharex=True), one, metric, _curve_limits(rounds))
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            drawings.append(_inline(buffer.getvalue()).replace(ink, "currentColor"))
    return drawings


def draw_curve_sheet(rounds: Sequence[Curves], names: Sequence[str], metric: str) -> bytes:
    """The same curves as one PNG, a column a round."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LINES):
        figure = Figure(figsize=(0.6 + 3.4 * len(rounds), 4.6), layout="constrained")
        grid = figure.subplots(2, len(rounds), sharex="col", squeeze=False)
        for column, (one, name) in enumerate(zip(rounds, names, strict=True)):
            _draw_curves(grid[:, column], one, metric, _curve_limits(rounds))
            grid[0, column].set_title(name)
        if len(rounds[0]) > 1:
            for fold in rounds[0]:
                grid[1, 0].plot([], [], color=hex_colour(fold_colour(fold)), label=f"fold {fold}")
            grid[1, 0].legend(frameon=False, fontsize=8)
        return to_png(figure)


def fold_colour(fold: int) -> Colour:
    order = (4, 5, 2, 6, 0, 1, 3)  # the darker ones first: lines on a white page
    return PALETTE[order[fold % len(order)]]


def _draw_curves(places: Any, one: Curves, metric: str, limits: Sequence[Any]) -> None:
    """One round's losses on the first of two axes, its scores on the second."""
    from matplotlib.ticker import MaxNLocator

    for number, (axes, name) in enumerate(zip(places, ("loss", metric), strict=True)):
        for fold, line in one.items():
            found = [(step[0], step[1 + number]) for step in line if step[1 + number] is not None]
            mark = "o" if number or len(found) < 3 else ""
            colour = hex_colour(fold_colour(fold))
            axes.plot(*zip(*found, strict=True), color=colour, marker=mark, ms=3, lw=1.6) if found else None
        axes.set(ylabel=name, ylim=limits[number])
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _curve_limits(rounds: Sequence[Curves]) -> list[tuple[float, float] | None]:
    steps = [step for one in rounds for line in one.values() for step in line]
    return [_limits([step[1] for step in steps]), _limits([step[2] for step in steps])]


def to_png(figure: Any) -> bytes:
    """A matplotlib figure as a PNG: the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _limits(values: Sequence[float | None]) -> tuple[float, float] | None:
    found = [value for value in values if value is not None and np.isfinite(value)]
    if not found:
        return None
    pad = 0.06 * (max(found) - min(found)) or 0.05
    return min(found) - pad, max(found) + pad


def _inline(svg: str) -> str:
    """The bare element, of the width of its place: an HTML page needs neither header, namespaces nor metadata."""
    head, _, body = svg[svg.index("<svg") :].partition(">")
    box = head.partition('viewBox="')[2].partition('"')[0]
    if "<metadata>" in body:
        before, _, after = body.partition("<metadata>")
        body = before + after.partition("</metadata>")[2]
    return f'<svg viewBox="{box}" role="img" aria-label="loss and score over steps">{body}'


def _shown_shape(shape: tuple[int, int]) -> tuple[int, int]:
    longest = max(shape)
    factor = LONG_SIDE / longest if longest > LONG_SIDE else LONG_SIDE // longest
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _fit(array: np.ndarray, shape: tuple[int, int], shrink: int) -> np.ndarray:
    """Resize to `(h, w)`; a many-channel array plane by plane, so that any number of channels will do."""
    if array.shape[:2] == tuple(shape):
        return array
    how = shrink if shape[0] < array.shape[0] else cv2.INTER_NEAREST
    planes = [array] if array.ndim == 2 else [array[..., number] for number in range(array.shape[2])]
    resized = [cv2.resize(np.ascontiguousarray(plane), tuple(shape)[::-1], interpolation=how) for plane in planes]
    return resized[0] if array.ndim == 2 else np.stack(resized, axis=-1)


def _tint(picture: np.ndarray, where: np.ndarray, colour: Colour, share: float) -> None:
    picture[where] = np.rint(picture[where] * (1 - share) + np.float32(colour) * share).astype(np.uint8)


def _pale(picture: np.ndarray) -> np.ndarray:
    grey = picture.astype(np.float32).mean(-1, keepdims=True)
    return np.repeat(np.rint(grey * 0.45 + 25), 3, axis=-1).astype(np.uint8)


def _hatch(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(where.shape)
    _tint(picture, where, (128, 128, 128), 0.6)
    _tint(picture, where & ((rows + columns) % 8 < 2), (225, 225, 225), 0.7)
    return picture


def _inner_edge(label: np.ndarray, width: int) -> np.ndarray:
    """Where a label above 0 meets another value within a window of `width` pixels."""
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return (cv2.dilate(label, window) != cv2.erode(label, window)) & (label > 0)


def _any_plane(mask: np.ndarray) -> np.ndarray:
    return mask if mask.ndim == 2 else mask.any(-1)


def _place(x: Any, y: Any, shape: tuple[int, int], shown: tuple[int, ...]) -> tuple[Any, Any]:
    """The middle of an own pixel, or of each of many, in the picture."""
    column, row = (x + 0.5) * shown[1] / shape[1], (y + 0.5) * shown[0] / shape[0]
    return (column.astype(int), row.astype(int)) if isinstance(x, np.ndarray) else (int(column), int(row))


def _disc(picture: np.ndarray, place: tuple[int, int], colour: Colour, radius: int = 4) -> None:
    cv2.circle(picture, place, radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, place, radius, colour, -1, cv2.LINE_AA)
