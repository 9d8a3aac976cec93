"""Instances with a class and a score: read from any table or JSON that holds them, cut from label maps, made disjoint.

for image_id, instances in read_instances(path, "hpa2021", classes, sizes): ...

A run's pixels count along `fmt.order`: column-major for every codec of COCO and for polygons.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import rle
from config import TableFormat
from errors import UserError
from instances import part_touching
from tables import (
    INSTANCES,
    Size,
    class_words,
    find_format,
    listed,
    lookalike,
    named,
    read_rows,
    row_class,
    row_key,
    row_size,
    written_id,
)

log = logging.getLogger(__name__)

_LARGEST = 2**27  # pixels of an image whose size only the file itself tells
_LARGEST_ID = np.iinfo(np.int32).max
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

Patch = tuple[int, int]  # x, y of its first pixel


@dataclass(frozen=True)
class Instance:
    """One object of an image: the index of its class, how sure its maker was, and its pixels."""

    class_index: int
    score: float
    runs: rle.Runs


@dataclass(frozen=True)
class Row:
    """One mask as a table has it: text, or what `records.py` gives."""

    number: int
    class_index: int
    score: float
    mask: Any


def read_instances(
    path: Path, fmt: str | TableFormat, classes: Sequence[str], sizes: Mapping[str, Size]
) -> Iterator[tuple[str, list[Instance]]]:
    """A file with a row an instance, prediction strings or COCO JSON → each image's id and instances, in file order.

    `sizes` gives each image's (height, width); it may lack an image whose size the format fixes or the file tells. An
    image of empty rows comes with an empty list. Without a class column the class is 0, without a score 1.0.

    Raises UserError naming file and row for whatever does not fit.
    """
    fmt = find_format(fmt)
    if fmt.rows not in INSTANCES:
        raise UserError(f"{path}: a table of {fmt.rows} rows holds no instances; choose another format")
    rows, shapes = collect_rows(path, fmt, class_words(fmt, classes, "instances"), sizes, own_sizes=True)
    return _parse_images(path, fmt, rows, shapes)


def _parse_images(
    path: Path, fmt: TableFormat, images: dict[str, list[Row]], sizes: Mapping[str, Size]
) -> Iterator[tuple[str, list[Instance]]]:
    for image_id in list(images):
        rows = images.pop(image_id)
        yield (
            image_id,
            [
                Instance(row.class_index, row.score, parse_row(path, fmt, row, sizes[image_id]))
                for row in rows
                if row.mask != ""
            ],
        )


def collect_rows(
    path: Path, fmt: TableFormat, words: Mapping[str, int], sizes: Mapping[str, Size], *, own_sizes: bool = False
) -> tuple[dict[str, list[Row]], dict[str, Size]]:
    """A table's rows by image, in file order, and the size each image's masks are drawn at.

    With `own_sizes` an image may be missing from `sizes` where the format or its rows tell its size. A JSON file's
    annotations of a class outside `words` are left out, counted in a warning. Raises UserError naming file and row.
    """
    images: dict[str, list[Row]] = {}
    shapes: dict[str, Size] = {}
    ids = {written_id(fmt, image_id): image_id for image_id in sizes}
    seen, others = set(), 0
    try:
        for number, row in read_rows(path, fmt):
            key = row_key(fmt, words, number, row)
            image_id = ids.get(key[0], key[0])
            if image_id not in sizes and not own_sizes:
                hint = lookalike(image_id, sizes)
                raise ValueError(f"row {number}: id {image_id!r} has no image{hint}; add the image or drop the row")
            shape = image_shape(fmt, number, row, image_id, sizes)
            if shape is None:
                raise ValueError(
                    f"row {number}: the size of image {image_id!r} is not known; give the folder of images"
                )
            shapes[image_id] = shape
            if fmt.rows != "instance" and key in seen:
                raise ValueError(f"row {number}: {named(key, words)} occurs twice; keep one of its rows")
            seen.add(key)
            rows = images.setdefault(image_id, [])
            if fmt.file != "csv" and row.get("class", "") not in ("", *words):
                others += 1
            else:
                rows += split_row(fmt, words, number, row, key[1])
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    if others:
        log.warning("%s: %d annotations of classes other than %s are left out", path, others, listed(words))
    return images, shapes


def image_shape(
    fmt: TableFormat, number: int, row: Mapping[str, Any], image_id: str, sizes: Mapping[str, Size]
) -> Size | None:
    """The (height, width) a row's mask is drawn at, None where nothing tells. Raises ValueError where it is told in two
    ways, and for a giant size that stands in the file alone."""
    told = row_size(number, row)
    size = fmt.size or sizes.get(image_id, told)
    if told not in (None, size):
        place = int(told[0] == size[0])
        side = ("height", "width")[place]
        raise ValueError(f"row {number}: {side} {str(told[place])!r} of {image_id!r}, the image has {size[place]}")
    if size and image_id not in sizes and size[0] * size[1] > _LARGEST:
        raise ValueError(f"row {number}: an image of {size[0]}x{size[1]}; give the folder of images to believe that")
    return size


def split_row(
    fmt: TableFormat, words: Mapping[str, int], number: int, row: Mapping[str, Any], place: int | Patch | None = None
) -> list[Row]:
    """The masks of one row, each detection of a cell; an empty mask is "". Raises ValueError opening with the row.

    `place` is the class or patch that the row's key holds; a patch's mask is that place, where it is foreground.
    """
    text = row["rle"]
    if fmt.rows == "patch":
        if text not in ("0", "1"):
            raise ValueError(f"row {number}: a patch is 0 or 1, not {text[:24]!r}")
        return [Row(number, 0, 1.0, place)] * int(text)
    if isinstance(text, str) and (text == fmt.empty or (text == "0" and fmt.codec == "start_length_value")):
        text = ""
    if fmt.rows != "detections":
        classless = fmt.rows == "image" or (fmt.rows == "instance" and text == "")
        known = place if fmt.rows == "image_class" else 0 if classless else row_class(words, number, row)
        return [Row(number, known, _score(number, row.get("score") or "1"), text)]
    parts, width = text.split(), len(fmt.cell)
    if len(parts) % width:
        raise ValueError(f"row {number}: {len(parts)} words are not whole groups of {' '.join(fmt.cell)}")
    cells = [dict(zip(fmt.cell, parts[start : start + width], strict=True)) for start in range(0, len(parts), width)]
    return [
        Row(number, row_class(words, number, cell), _score(number, cell.get("score", "1")), cell["rle"])
        for cell in cells
    ]


def parse_row(path: Path, fmt: TableFormat, row: Row, size: Size) -> rle.Runs:
    """A mask's runs. Raises UserError naming file and row."""
    try:
        return parse_mask(fmt, row.mask, size)
    except ValueError as error:
        height, width = size
        raise UserError(f"{path} row {row.number}: {error}; the image is {height}x{width}, mend the row") from None


def parse_mask(fmt: TableFormat, mask: Any, size: Size) -> rle.Runs:
    """Run-length text, COCO's counts or polygons → runs, in the format's order. Raises ValueError."""
    pixels = size[0] * size[1]
    if isinstance(mask, tuple):
        return rle.mask_runs(fill_polygons(mask, size, fmt.file))
    if isinstance(mask, list):
        return rle.parse_coco_counts(mask, pixels)
    if fmt.codec == "coco_counts":
        return rle.parse_coco(mask, pixels)
    if fmt.codec == "coco_zlib_b64":
        return rle.parse_coco_zlib(mask, pixels)
    return rle.parse_runs(mask, pixels, fmt.base, fmt.relative)


def join_mask(fmt: TableFormat, runs: rle.Runs, size: Size) -> str:
    """Runs in the format's order → its text; its empty token where there are none."""
    if not runs[0].size:
        return fmt.empty
    if fmt.codec == "coco_counts":
        return rle.join_coco(runs, size[0] * size[1])
    if fmt.codec == "coco_zlib_b64":
        return rle.join_coco_zlib(runs, size[0] * size[1])
    return rle.join_runs(runs, fmt.base, fmt.relative)


def decode_values(fmt: TableFormat, text: str, shape: Size, largest: int | None = None) -> np.ndarray:
    """A whole label map's text → (H, W) int32. Raises ValueError, also for a value above the `largest`."""
    if fmt.codec == "count_value":
        label = rle.decode_count_value(text, shape, fmt.order, np.int32)
    else:
        label = rle.decode_start_length_value(text, shape, fmt.order, fmt.base, np.int32)
    if label.max(initial=0) > (_LARGEST_ID if largest is None else largest):
        raise ValueError(f"value {label.max()} is not a class; the largest is {largest}")
    return label


def check_patch(fmt: TableFormat, place: Patch, size: Size) -> None:
    """Raises ValueError for a patch that is not one of the image's."""
    if place[0] % fmt.patch or place[1] % fmt.patch or place[0] >= size[1] or place[1] >= size[0]:
        raise ValueError(f"no patch of {fmt.patch} pixels starts at {place[0]}, {place[1]}")


def fill_polygons(rings: Sequence[np.ndarray], size: Size, kind: str) -> np.ndarray:
    """Rings of `(N, 2)` x, y → (H, W) uint8 of 0 and 1. Raises ValueError for a ring outside the image.

    Of kind coco, x and y are lengths from the image's corner, a pixel is set where its centre lies inside, and rings
    add up. Of kind polygons they are pixels, the border's own belong to the mask, and a ring in a ring is a hole.
    """
    for ring in rings:
        if ring.min() < -1 or (ring.max(axis=0) > (size[1] + 1, size[0] + 1)).any():
            raise ValueError("a polygon leaves the image")
    mask = np.zeros(size, np.uint8)
    if kind == "polygons":
        cv2.fillPoly(mask, [np.rint(ring).astype(np.int32) for ring in rings], 1)
        return mask
    from skimage.draw import polygon

    for ring in rings:
        mask[polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, size)] = 1
    return mask


def cut_instances(
    label: np.ndarray, task: str, order: str, *, separate: bool = False, details: Mapping[int, tuple[int, float]] = {}
) -> list[Instance]:
    """A label array → its instances, in one pass over each plane.

    Of a task instances, (H, W) integers: each number is one, of the class and score in `details` or else 0 and 1.0. Of
    any other, each class's 8-connected parts, split where they touch with `separate`; a multiclass 0 is background.
    """
    if task == "instances":
        runs = rle.instance_runs(label, order)
        return [Instance(*details.get(number, (0, 1.0)), runs) for number, runs in runs.items()]
    if task == "multilabel":
        planes = [(index, label[:, :, index]) for index in range(label.shape[2])]
    elif task == "multiclass":
        planes = [(index, label == index) for index in np.unique(label[label > 0]).tolist()]
    else:
        planes = [(0, label)]
    found = []
    for index, plane in planes:
        mask = np.ascontiguousarray(plane != 0)
        if separate:
            parts = part_touching(mask, mask.astype(np.float32))
        else:
            parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
        found += [Instance(index, 1.0, runs) for runs in rle.instance_runs(parts, order).values()]
    return found


def make_disjoint(instances: Sequence[Instance]) -> list[Instance]:
    """The same instances, of one pixel order, without shared pixels: the higher score keeps them, then the earlier.

    What has no pixel left is dropped; instances that share nothing come back as they are.
    """
    starts, lengths = (
        np.concatenate([one.runs[part] for one in instances] or [[]]).astype(np.int64) for part in (0, 1)
    )
    order = np.argsort(starts)
    if not (starts[order][1:] < (starts + lengths)[order][:-1]).any():
        return list(instances)
    taken = np.zeros((starts + lengths).max(), bool)
    left: dict[int, Instance] = {}
    for place in sorted(range(len(instances)), key=lambda place: -instances[place].score):
        pixels = rle.run_pixels(instances[place].runs)
        free = pixels[~taken[pixels]]
        taken[free] = True
        if free.size:
            left[place] = replace(instances[place], runs=rle.pixel_runs(free))
    return [left[place] for place in sorted(left)]


def _score(number: int, text: str) -> float:
    score = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(score):
        raise ValueError(f"row {number}: score {text[:24]!r} is not a number")
    return score
