"""What the report and its sheets draw: images, errors and curves, the legend, titles, and which images are chosen."""

from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import sheets
from pictures import (
    BACKGROUND,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    FOREGROUND,
    PALETTE,
    class_colours,
    draw_errors,
    draw_label,
    draw_point_errors,
    plot_curves,
    show_image,
)
from settings import parse_config
from sheets import best_middle_worst, label_palette


@pytest.mark.parametrize(
    ("task", "classes", "colours"),
    [
        ("binary", ["a"], {"background": BACKGROUND, "a": FOREGROUND}),
        ("instances", ["a"], {"a": FOREGROUND}),
        ("multiclass", ["a", "b"], {"a": PALETTE[0], "b": PALETTE[1]}),
    ],
)
def test_the_sheets_legend_names_each_class_beside_its_colour(task: str, classes: list[str], colours: dict) -> None:
    assert label_palette(parse_config({"name": "x", "task": task, "classes": classes})) == colours


@pytest.mark.parametrize("shape", [(30, 40, 1), (1000, 500, 3), (5, 900, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_image_is_shown_at_a_readable_size(shape: tuple[int, int, int], dtype: type) -> None:
    image = (np.random.default_rng(0).random(shape) * 50).astype(dtype)
    shown = show_image(image)
    assert shown.dtype == np.uint8
    assert shown.shape[2] == 3
    assert 256 <= max(shown.shape) <= 384
    assert shown.max() > 200, "dark images are brightened"
    assert show_image(np.zeros(shape, dtype)).max() == 0


def test_errors_have_their_colours() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    truth, prediction = np.zeros((2, 64, 64), np.uint8)
    truth[:20], prediction[10:30], truth[60:] = 1, 1, 255
    drawn = draw_errors(picture, truth, prediction, "binary").astype(int)
    assert np.abs(drawn[5, 5] - FALSE_NEGATIVE).max() < 30
    assert np.abs(drawn[25, 5] - FALSE_POSITIVE).max() < 30
    assert drawn[15, 5].min() > 120
    assert drawn[50].max() < 40, "what is right and empty stays pale"
    assert drawn[62].min() > 60, "unknown pixels are hatched"
    assert (draw_label(picture, truth, "binary")[62] > 60).all()
    points = pd.DataFrame({"x": [5, 40], "y": [5, 15], "class": [1, 1]})
    drawn = draw_point_errors(picture, points, prediction, "binary", class_colours("binary", 1))
    assert tuple(drawn[5, 5]) == FALSE_NEGATIVE
    assert tuple(drawn[15, 40]) == (255, 255, 255)


def test_curves_take_what_a_log_has() -> None:
    drawn = plot_curves([{0: [(1, 0.5, None)], 1: []}, {0: [(1, float("nan"), 0.1), (2, 0.3, 0.2)], 1: []}], "dice")
    assert len(drawn) == 2
    assert all(svg.startswith("<svg viewBox=") and "currentColor" in svg for svg in drawn)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8, 9, 30])
def test_best_middle_and_worst_share_no_image(count: int) -> None:
    scores = {f"{number:02}": number / 30 for number in range(count)} | {"nan": float("nan")}
    groups = list(best_middle_worst(scores, 3).values())
    ids = [one for group in groups for one in group]
    assert len(set(ids)) == len(ids) <= 9
    assert "nan" not in ids
    if count == 30:
        assert groups == [["29", "28", "27"], ["16", "15", "14"], ["00", "01", "02"]]
    if count > 1:
        assert groups[0][0] == f"{count - 1:02}"
        assert groups[2][0] == "00"


@pytest.mark.parametrize("name", ["a1", "0" * 30, "45bf49ad6f1d4c71cdb18f1cb78a8e06fd2f53767e28f727cb81" * 3])
def test_a_names_length_does_not_leave_the_sheet(name: str) -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)
    sheet = sheets.draw_picture_sheet([(name, {"image": grey, "truth": grey, "prediction": grey})], {})
    drawn = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR)
    assert (drawn[:, :2] == 255).all(), "nothing is cut off at the left"
    titles = drawn[: drawn.shape[0] // 6].min(axis=(0, 2)) < 255
    first, second = drawn.shape[1] // 3, drawn.shape[1] // 2
    assert titles[:first].any()
    gap = titles[first:second]
    assert np.diff(gap.astype(int)).tolist().count(1) >= 1
    assert not gap[:4].any(), "it ends before the next picture's title"


@pytest.mark.parametrize(
    "names",
    [
        ["land", "water"],
        ["building", "pervious surface", "impervious surface", "bare soil", "water", "coniferous", "deciduous"]
        + ["brushwood", "vineyard", "herbaceous vegetation", "agricultural land", "plowed land"],
        ["n" * 200, "cost $x_{$ (k)", "$5 to $10"],
    ],
)
@pytest.mark.parametrize("titles", [2, 4])
def test_a_legend_stays_on_its_sheet(names: list[str], titles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(sheets, "to_png", lambda figure: figures.append(figure) or b"")
    grey = np.full((40, 40, 3), 128, np.uint8)
    sheets.draw_picture_sheet([("a", {str(one): grey for one in range(titles)})], dict.fromkeys(names, (200, 0, 0)))
    canvas = FigureCanvasAgg(figures[0])
    canvas.draw()
    (legend,) = figures[0].legends
    box, sheet = legend.get_window_extent(canvas.get_renderer()), figures[0].bbox
    assert sheet.x0 <= box.x0 < box.x1 <= sheet.x1
    assert sheet.y0 <= box.y0 < box.y1 <= figures[0].axes[0].get_window_extent().y0
    assert len(legend.get_texts()) == len(names)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_multilabel_mask_of_any_number_of_classes_is_drawn(classes: int) -> None:
    label = np.zeros((20, 30, classes), np.uint8)
    label[4:9, 5:15] = 1
    drawn = draw_label(np.zeros((40, 60, 3), np.uint8), label, "multilabel")
    assert drawn[8:18, 10:30].any()
    assert not drawn[:6].any()
