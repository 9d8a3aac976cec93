"""Label arrays ⇄ a competition's file: read labels and write submissions, over `tables.py` and `detections.py`.

from formats import find_format, read_labels, write_submission
for image_id, label in read_labels(path, find_format("tgs_salt"), config.classes, config.task, sizes): ...
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rle
from artifacts import Paths, atomic, raw_data, sample_file
from competitions import FORMATS
from config import IGNORE_INDEX, Config, TableFormat
from detections import (
    Instance,
    Row,
    check_patch,
    collect_rows,
    cut_instances,
    decode_values,
    join_mask,
    make_disjoint,
    parse_mask,
)
from errors import UserError
from faults import patch_places, validate_submission
from images import number_instances, resize_label
from tables import (
    INSTANCES,
    VALUED,
    Key,
    Numbered,
    Size,
    check_task,
    class_field,
    class_words,
    csv_line,
    find_format,
    number_classes,
    sample_keys,
    table_line,
    written_id,
)

__all__ = ["FORMATS", "Detections", "find_format", "read_labels", "validate_submission", "write_submission"]

log = logging.getLogger(__name__)

_LARGEST_ID = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Detections:
    """An image's instances, which may overlap, where a label array cannot say it; runs in the format's order."""

    size: Size
    instances: list[Instance]


def submission_format(config: Config, paths: Paths) -> TableFormat:
    """The format of a config's submission: a COCO sample, or else its labels, number the classes of COCO's results."""
    fmt, labels = number_classes(find_format(config.submission), sample_file(config, paths)), config.data.labels
    if isinstance(fmt, Numbered) or labels.kind != "rle" or find_format(labels.format).file != "coco":
        return fmt
    return number_classes(fmt, raw_data(config, paths) / labels.path)


def read_labels(
    path: Path, fmt: TableFormat, classes: Sequence[str], task: str, sizes: Mapping[str, Size]
) -> Iterator[tuple[str, np.ndarray]]:
    """A label table or JSON file → (id, label array) of each image in it, one at a time, in order of first appearance.

    Label arrays: binary and multiclass (H, W) uint8, multilabel (H, W, C) uint8, instances (H, W) int32, ids in row
    order. In a multiclass table of masks, pixels without a class are class 0, or 255 (unknown) where class 0 has rows
    of its own. Where masks of instances or classes overlap, the higher score keeps the pixels, then the earlier row,
    counted in a warning. A blank run-length text is an empty mask, as is the format's own token.

    Raises UserError naming file and row for a header, text, id, class or run that does not fit, and for a duplicate.
    """
    fmt = find_format(fmt)
    check_task(fmt, task)
    words = class_words(fmt, classes, task)
    images, shapes = collect_rows(path, fmt, words, sizes)
    # with no rows for class 0, what no row claims is background; with rows, it is unknown
    zeros = fmt.rows == "image_class" and any(row.class_index == 0 for rows in images.values() for row in rows)
    background = IGNORE_INDEX if zeros else 0
    return _read_images(path, fmt, len(classes), task, sizes, images, shapes, background)


def _read_images(
    path: Path,
    fmt: TableFormat,
    class_count: int,
    task: str,
    sizes: Mapping[str, Size],
    images: dict[str, list[Row]],
    shapes: Mapping[str, Size],
    background: int,
) -> Iterator[tuple[str, np.ndarray]]:
    overlapping, overlapped = 0, 0
    for image_id in list(images):
        label, pixels = _draw(path, fmt, class_count, task, images.pop(image_id), shapes[image_id])
        if task == "instances":
            label = number_instances(label, f"{path}: image {image_id!r}")
        if task == "multiclass" and fmt.codec not in VALUED and background == 0:
            label[label == IGNORE_INDEX] = 0
        overlapping, overlapped = overlapping + pixels, overlapped + (pixels > 0)
        yield image_id, resize_label(label, sizes[image_id])
    if overlapping:
        log.warning(
            "%s: %d pixels of %d images lie in two masks; the earlier row keeps them", path, overlapping, overlapped
        )


def _draw(
    path: Path, fmt: TableFormat, class_count: int, task: str, rows: list[Row], shape: Size
) -> tuple[np.ndarray, int]:
    """One image's rows → its label array and how many pixels two masks claimed. Raises UserError naming the row."""
    planes = np.zeros(
        (class_count if task == "multilabel" else 1, shape[0] * shape[1]), np.int32 if task == "instances" else np.uint8
    )
    overlapping = 0
    for position, row in sorted(enumerate(rows), key=lambda pair: -pair[1].score):
        if row.mask == "":
            continue
        try:
            if fmt.codec in VALUED:
                largest = {"binary": 1, "instances": _LARGEST_ID}.get(task, class_count - 1)
                return decode_values(fmt, row.mask, shape, largest).astype(planes.dtype), 0
            pixels = _patch_pixels(fmt, row.mask, shape) if fmt.rows == "patch" else _mask_pixels(fmt, row.mask, shape)
        except ValueError as error:
            height, width = shape
            raise UserError(f"{path} row {row.number}: {error}; the image is {height}x{width}, mend the row") from None
        if task == "binary":
            planes[0, pixels] = 1
        elif task == "multilabel":
            planes[row.class_index, pixels] = 1
        else:
            free = pixels[planes[0, pixels] == 0]
            overlapping += pixels.size - free.size
            planes[0, free] = 1 + (position if task == "instances" else row.class_index)
    if task == "multiclass" and fmt.codec not in VALUED:
        planes -= 1  # class c stood as c + 1, so that a pixel without a class wraps to 255
    label = [rle.unflatten(plane, shape, fmt.order) for plane in planes]
    return (np.stack(label, axis=2) if task == "multilabel" else label[0]), overlapping


def _mask_pixels(fmt: TableFormat, mask: object, shape: Size) -> np.ndarray:
    return rle.run_pixels(parse_mask(fmt, mask, shape))


def _patch_pixels(fmt: TableFormat, place: tuple[int, int], shape: Size) -> np.ndarray:
    check_patch(fmt, place, shape)
    square = np.zeros(shape, np.uint8)
    square[place[1] : place[1] + fmt.patch, place[0] : place[0] + fmt.patch] = 1
    return np.flatnonzero(rle.flatten(square, fmt.order))


def write_submission(
    path: Path,
    fmt: TableFormat,
    classes: Sequence[str],
    task: str,
    masks: Iterable[tuple[str, np.ndarray | Detections]],
    sample: Path | None = None,
    *,
    separate: bool = False,
) -> int:
    """Label arrays, or Detections, of (id, mask) → a submission; returns its number of rows. Atomic, validated before
    the rename.

    Masks are encoded as they come, and wait as text on the disk: memory does not grow with their number. A sample file
    gives ids and order; its images without a mask get the empty token, counted in a warning. Instance rows of a binary
    mask are its 8-connected components, split where they touch with `separate`. Where the format forbids overlap, the
    instance of the higher score keeps the pixels. A format's fixed size resizes label arrays by nearest neighbour.

    Raises UserError for an id that is not in the sample or comes twice, for unknown (255) or, where the format forbids
    it, overlapping pixels of classes, and for a sample that does not fit the format.
    """
    fmt = find_format(fmt)
    check_task(fmt, task)
    if fmt.file == "polygons":
        raise UserError(f"{path}: files of polygons are read, not written; choose the competition's submission format")
    words = class_words(fmt, classes, task)
    spelling = {index: word for word, index in words.items()}
    order = None if sample is None else sample_keys(sample, fmt, words)
    known = None if order is None else {image_id for image_id, _ in order}
    told = {image_id: size for (image_id, _), size in (order or {}).items()}
    sizes: dict[str, Size] = {}
    places: dict[Key, tuple[int, int]] = {}
    with atomic(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spool:
        for name, label in masks:
            image_id = written_id(fmt, name)
            if image_id in sizes:
                raise UserError(f"{path}: id {image_id!r} is predicted twice; ids must be unique")
            if known is not None and image_id not in known:
                raise UserError(f"{path}: id {image_id!r} is not in {sample}; drop the image or take the right sample")
            size = label.size if isinstance(label, Detections) else label.shape[:2]
            asked = None if order is None or fmt.size else told.get(image_id)
            if asked not in (None, size):
                raise UserError(f"{path}: the mask of {image_id!r} is {size}, but {sample} says {asked}; resize it")
            sizes[image_id] = size
            for index, lines in _lines(fmt, classes, task, image_id, label, spelling, separate):
                line = "".join(lines).encode()
                places[image_id, index] = (spool.tell(), len(line))
                spool.write(line)
        if order is not None and (missing := known - sizes.keys()):
            log.warning("%s: %d of the sample's images have no prediction and get an empty mask", path, len(missing))
        rows = 0
        with temporary.open("wb") as file:
            file.write(b"[" if fmt.file == "coco" else csv_line(fmt.columns).encode())
            for key in places if order is None else order:
                if key in places:
                    offset, length = places[key]
                    spool.seek(offset)
                    line = spool.read(length)
                else:
                    line = _empty_line(fmt, key, order[key], spelling).encode()
                if fmt.file == "coco" and line:
                    file.write((b",\n" if rows else b"\n") + line.rstrip(b"\n").replace(b"\n", b",\n"))
                else:
                    file.write(line)
                rows += line.count(b"\n")
            file.write(b"\n]\n" if fmt.file == "coco" else b"")
        faults = validate_submission(temporary, fmt, classes, sizes, sample)
        if faults:
            raise UserError(f"{path} {faults[0]} ({len(faults)} such faults); nothing was written")
    return rows


def _lines(
    fmt: TableFormat,
    classes: Sequence[str],
    task: str,
    image_id: str,
    label: np.ndarray | Detections,
    spelling: Mapping[int, str],
    separate: bool,
) -> Iterator[tuple[int | tuple[int, int] | None, list[str]]]:
    """One image → for each of its rows' keys, the class or patch and the lines."""
    if isinstance(label, Detections):
        if fmt.rows not in INSTANCES or fmt.size not in (None, label.size):
            raise UserError(f"id {image_id!r}: the format takes no instances of an image of {label.size}; give masks")
        yield None, _instance_lines(fmt, image_id, label, spelling)
        return
    label = resize_label(label, fmt.size or label.shape[:2])
    shape = label.shape[:2]
    if task != "instances" and label.dtype == np.uint8 and (label == IGNORE_INDEX).any():
        raise UserError(f"id {image_id!r}: its mask has unknown pixels ({IGNORE_INDEX}); a submission needs a class")
    if fmt.rows in INSTANCES:
        instances = cut_instances(label, task, fmt.order, separate=separate)
        yield None, _instance_lines(fmt, image_id, Detections(shape, instances), spelling)
    elif fmt.rows == "patch":
        for x, y in patch_places(fmt, shape):
            share = (label[y : y + fmt.patch, x : x + fmt.patch] != 0).mean()
            yield (x, y), [table_line(fmt, image_id, str(int(share > fmt.patch_share)), shape, x=x, y=y)]
    elif fmt.rows == "image_class":
        if fmt.overlap == "forbid" and task == "multilabel" and label.sum(axis=2, dtype=np.int64).max(initial=0) > 1:
            raise UserError(f"id {image_id!r}: its classes overlap, which the format forbids; make them disjoint")
        for index in sorted(spelling):  # counted from 0, a background has no number and no row
            plane = label[:, :, index] if task == "multilabel" else label == (index if task == "multiclass" else 1)
            text = join_mask(fmt, rle.mask_runs(plane, fmt.order), shape)
            yield index, [table_line(fmt, image_id, text, shape, spelling[index])]
    else:
        # a class column beside a whole label map holds the image's class: its commonest but the background
        areas = np.bincount(label.ravel(), minlength=2) if task != "instances" else np.zeros(2, np.int64)
        commonest = int(areas[1:].argmax()) + 1 if areas[1:].any() else 0
        yield None, [table_line(fmt, image_id, _encode(fmt, label), shape, spelling.get(commonest, ""))]


def _instance_lines(fmt: TableFormat, image_id: str, found: Detections, spelling: Mapping[int, str]) -> list[str]:
    """A line an instance, or one with all of them."""
    instances = make_disjoint(found.instances) if fmt.overlap == "forbid" else found.instances
    rows = []
    for one in instances:
        if class_field(fmt) and one.class_index not in spelling:
            raise UserError(f"id {image_id!r}: an instance of class {one.class_index}, which the format cannot write")
        word = spelling.get(one.class_index, "")
        rows.append((word, one.score, join_mask(fmt, one.runs, found.size)))
    if fmt.rows == "detections":
        fields = [
            {"class": word, "class_number": word, "score": repr(score), "rle": text} for word, score, text in rows
        ]
        cell = " ".join(one[field] for one in fields for field in fmt.cell)
        return [table_line(fmt, image_id, cell or fmt.empty, found.size)]
    lines = [table_line(fmt, image_id, text, found.size, word, score) for word, score, text in rows]
    return lines or [_empty_line(fmt, (image_id, None), found.size, spelling)]


def _empty_line(fmt: TableFormat, key: Key, size: Size | None, spelling: Mapping[int, str]) -> str:
    """The row of an image, class or patch without a mask; COCO's results have none."""
    if fmt.file == "coco":
        return ""
    if isinstance(key[1], tuple):
        return table_line(fmt, key[0], fmt.empty, fmt.size or size, x=key[1][0], y=key[1][1])
    first = min(spelling) if fmt.rows in INSTANCES else None  # a row must name some class, even of nothing
    return table_line(fmt, key[0], fmt.empty, fmt.size or size, spelling.get(key[1] if first is None else first, ""))


def _encode(fmt: TableFormat, label: np.ndarray) -> str:
    if fmt.codec == "count_value":
        return rle.encode_count_value(label, fmt.order)
    if fmt.codec == "start_length_value" and label.any():
        return rle.encode_start_length_value(label, fmt.order, fmt.base)
    return join_mask(fmt, rle.mask_runs(label, fmt.order), label.shape[:2])
