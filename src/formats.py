"""Label arrays ⇄ a competition's CSV: read label tables, write and validate submissions, over `rle.py` and `tables.py`.

from formats import find_format, read_labels, write_submission
for image_id, label in read_labels(path, find_format("tgs_salt"), config.classes, config.task, sizes): ...
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

import rle
from artifacts import atomic
from config import IGNORE_INDEX, TableFormat
from errors import UserError
from tables import (
    FORMATS,
    VALUED,
    Key,
    Size,
    check_size,
    check_task,
    class_words,
    csv_line,
    find_format,
    named,
    read_rows,
    row_key,
    sample_keys,
    table_line,
)

__all__ = ["FORMATS", "find_format", "read_labels", "validate_submission", "write_submission"]

log = logging.getLogger(__name__)

_LARGEST_ID = np.iinfo(np.int32).max


def read_labels(
    path: Path, fmt: TableFormat, classes: Sequence[str], task: str, sizes: Mapping[str, Size]
) -> Iterator[tuple[str, np.ndarray]]:
    """A label table → (id, label array) of each image in it, one at a time, in order of first appearance.

    Label arrays: binary and multiclass (H, W) uint8, multilabel (H, W, C) uint8, instances (H, W) int32, ids in row
    order. In a multiclass table of masks, pixels without a class are class 0, or 255 (unknown) where class 0 has rows
    of its own. Where masks of instances or classes overlap, the earlier row keeps the pixels, counted in a warning. A
    blank run-length text is an empty mask, as is the format's own token.

    Raises UserError naming file and row for a header, text, id, class or run that does not fit, and for a duplicate.
    """
    fmt = find_format(fmt)
    check_task(fmt, task)
    words, images, seen = class_words(fmt, classes, task), {}, set()
    try:
        for number, row in read_rows(path, fmt):
            key = row_key(fmt, words, number, row)
            if key[0] not in sizes:
                raise ValueError(f"row {number}: id {key[0]!r} has no image; add the image or drop the row")
            if fmt.rows != "instance" and key in seen:
                raise ValueError(f"row {number}: {named(key, words)} occurs twice; keep one of its rows")
            seen.add(key)
            check_size(number, row, key[0], sizes[key[0]])
            images.setdefault(key[0], []).append((number, key[1], row["rle"]))
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    # with no rows for class 0, what no row claims is background; with rows, it is unknown
    background = 0 if all(key[1] != 0 for key in seen) else IGNORE_INDEX
    return _read_images(path, fmt, len(classes), task, sizes, images, background)


def _read_images(
    path: Path,
    fmt: TableFormat,
    class_count: int,
    task: str,
    sizes: Mapping[str, Size],
    images: dict[str, list[tuple[int, int | None, str]]],
    background: int,
) -> Iterator[tuple[str, np.ndarray]]:
    overlapping, overlapped = 0, 0
    for image_id in list(images):
        shape = fmt.size or sizes[image_id]
        label, pixels = _draw(path, fmt, class_count, task, images.pop(image_id), shape)
        if task == "multiclass" and fmt.codec not in VALUED and background == 0:
            label[label == IGNORE_INDEX] = 0
        overlapping, overlapped = overlapping + pixels, overlapped + (pixels > 0)
        yield image_id, _resize(label, sizes[image_id])
    if overlapping:
        log.warning(
            "%s: %d pixels of %d images lie in two masks; the earlier row keeps them", path, overlapping, overlapped
        )


def _draw(
    path: Path, fmt: TableFormat, class_count: int, task: str, rows: list[tuple[int, int | None, str]], shape: Size
) -> tuple[np.ndarray, int]:
    """One image's rows → its label array and how many pixels two masks claimed. Raises UserError naming the row."""
    planes = np.zeros(
        (class_count if task == "multilabel" else 1, shape[0] * shape[1]), np.int32 if task == "instances" else np.uint8
    )
    overlapping = 0
    for position, (number, class_index, text) in enumerate(rows):
        if text in ("", fmt.empty):
            continue
        try:
            if fmt.codec in VALUED:
                largest = {"binary": 1, "instances": _LARGEST_ID}.get(task, class_count - 1)
                return _decode_values(fmt, text, shape, largest).astype(planes.dtype), 0
            pixels = rle.run_pixels(_parse(fmt, text, shape[0] * shape[1]))
        except ValueError as error:
            height, width = shape
            raise UserError(f"{path} row {number}: {error}; the image is {height}x{width}, mend the row") from None
        if task == "binary":
            planes[0, pixels] = 1
        elif task == "multilabel":
            planes[class_index, pixels] = 1
        else:
            free = pixels[planes[0, pixels] == 0]
            overlapping += pixels.size - free.size
            planes[0, free] = 1 + (position if task == "instances" else class_index)
    if task == "multiclass" and fmt.codec not in VALUED:
        planes -= 1  # class c stood as c + 1, so that a pixel without a class wraps to 255
    label = [rle.unflatten(plane, shape, fmt.order) for plane in planes]
    return (np.stack(label, axis=2) if task == "multilabel" else label[0]), overlapping


def write_submission(
    path: Path,
    fmt: TableFormat,
    classes: Sequence[str],
    task: str,
    masks: Iterable[tuple[str, np.ndarray]],
    sample: Path | None = None,
) -> int:
    """Label arrays of (id, mask) → a submission; returns its number of rows. Atomic, validated before the rename.

    Masks are encoded as they come, and wait as text on the disk: memory does not grow with their number. A sample file
    gives ids and order; its images without a mask get the empty token, counted in a warning. Instance rows of a binary
    mask are its 8-connected components. A format's fixed size resizes by nearest neighbour.

    Raises UserError for an id that is not in the sample or comes twice, for unknown (255) or, where the format forbids
    it, overlapping pixels, and for a sample that does not fit the format.
    """
    fmt = find_format(fmt)
    check_task(fmt, task)
    words = class_words(fmt, classes, task)
    spelling = {index: word for word, index in words.items()}
    order = None if sample is None else sample_keys(sample, fmt, words)
    known = None if order is None else {image_id for image_id, _ in order}
    sizes: dict[str, Size] = {}
    places: dict[Key, tuple[int, int]] = {}
    with atomic(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spool:
        for image_id, label in masks:
            if image_id in sizes:
                raise UserError(f"{path}: id {image_id!r} is predicted twice; ids must be unique")
            if known is not None and image_id not in known:
                raise UserError(f"{path}: id {image_id!r} is not in {sample}; drop the image or take the right sample")
            sizes[image_id] = label.shape[:2]
            shape = fmt.size or label.shape[:2]
            for index, texts in _encode_label(fmt, classes, task, image_id, _resize(label, shape)):
                line = "".join(
                    table_line(fmt, image_id, spelling.get(index, ""), text, shape) for text in texts
                ).encode()
                places[image_id, index if fmt.rows == "image_class" else None] = (spool.tell(), len(line))
                spool.write(line)
        if order is not None and (missing := known - sizes.keys()):
            log.warning("%s: %d of the sample's images have no prediction and get an empty mask", path, len(missing))
        rows = 0
        with temporary.open("wb") as file:
            file.write(csv_line(fmt.columns).encode())
            for key in places if order is None else order:
                if key in places:
                    offset, length = places[key]
                    spool.seek(offset)
                    line = spool.read(length)
                else:
                    line = table_line(fmt, key[0], spelling.get(key[1], ""), fmt.empty, fmt.size).encode()
                file.write(line)
                rows += line.count(b"\n")
        faults = validate_submission(temporary, fmt, classes, sizes, sample)
        if faults:
            raise UserError(f"{path} {faults[0]} ({len(faults)} such faults); nothing was written")
    return rows


def validate_submission(
    path: Path, fmt: TableFormat, classes: Sequence[str], sizes: Mapping[str, Size], sample: Path | None = None
) -> list[str]:
    """What is wrong with a submission, a line a fault, each with its row; [] where nothing is.

    Checks the header, every id and class, that each of the sample's rows (or each of `sizes`' ids) is answered, in the
    sample's order where a row is an image or class, that runs lie inside the image and apart, and, where the format
    forbids it, that masks of an image do not overlap. An image without a size has only its id checked.

    Raises UserError for a file that is missing and for a sample that does not fit the format.
    """
    fmt = find_format(fmt)
    words = class_words(fmt, classes, None)
    expected = None if sample is None else sample_keys(sample, fmt, words)
    known = sizes if expected is None else {image_id for image_id, _ in expected}
    faults: list[str] = []
    found: dict[Key, int] = {}
    claimed: dict[str, list[tuple[int, rle.Runs]]] = {}
    number = 1
    try:
        for number, row in read_rows(path, fmt, exact=True):
            try:
                key = row_key(fmt, words, number, row)
                if key[0] not in known:
                    raise ValueError(f"row {number}: id {key[0]!r} is not among the images to predict")
                if fmt.rows != "instance" and key in found:
                    raise ValueError(f"row {number}: {named(key, words)} occurs twice")
                found.setdefault(key, number)
                if key[0] in sizes:
                    size = fmt.size or sizes[key[0]]
                    check_size(number, row, key[0], size)
                    runs = _check_text(fmt, len(classes), words, number, row, size)
                    if fmt.overlap == "forbid":
                        claimed.setdefault(key[0], []).append((number, runs))
            except ValueError as error:
                faults.append(str(error))
    except ValueError as error:
        return [*faults, str(error)]
    if expected is None:
        seen = dict.fromkeys(index for _, index in found) or {None: None}
        expected = [(image_id, index) for image_id in sizes for index in seen]
    else:
        faults += _misplaced(expected, found, fmt, words)
    faults += [
        f"row {number}: the table ends with no row for {named(key, words)}" for key in expected if key not in found
    ]
    return faults + _overlaps(claimed)


def _check_text(
    fmt: TableFormat, class_count: int, words: Mapping[str, int], number: int, row: Mapping[str, str], size: Size
) -> rle.Runs:
    """The runs of a row's mask (none of a valued one). Raises ValueError where a reader would stumble."""
    nothing = np.empty(0, np.int64), np.empty(0, np.int64)
    word = row.get("class", row.get("class_number"))
    if fmt.rows == "image" and word is not None and word not in words:
        raise ValueError(f"row {number}: class {word!r} is none of {', '.join(words)}")
    text = row["rle"]
    if text == fmt.empty:
        return nothing
    try:
        if text == "":
            raise ValueError(f"the mask is blank, but an empty one is written {fmt.empty!r}")
        if fmt.codec in VALUED:
            _decode_values(fmt, text, size, class_count - 1 if class_count > 1 else _LARGEST_ID)
            return nothing
        return _parse(fmt, text, size[0] * size[1])
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from None


def _misplaced(
    expected: Sequence[Key], found: Mapping[Key, int], fmt: TableFormat, words: Mapping[str, int]
) -> list[str]:
    """The first row out of the sample's order, where rows have one."""
    answered = [key for key in expected if key in found]
    for (key, number), wanted in zip(found.items(), answered, strict=False):
        if fmt.rows != "instance" and key != wanted:
            return [f"row {number}: {named(key, words)} stands where the sample has {named(wanted, words)}"]
    return []


def _overlaps(claimed: Mapping[str, list[tuple[int, rle.Runs]]]) -> list[str]:
    faults = []
    for image_id, rows in claimed.items():
        starts = np.concatenate([runs[0] for _, runs in rows])
        ends = starts + np.concatenate([runs[1] for _, runs in rows])
        numbers = np.repeat([number for number, _ in rows], [runs[0].size for _, runs in rows])
        order = np.argsort(starts, kind="stable")
        clash = np.flatnonzero(starts[order][1:] < ends[order][:-1])
        if clash.size:
            first, second = sorted(numbers[order][clash[0] : clash[0] + 2].tolist())
            faults.append(f"row {second}: overlaps row {first} of image {image_id!r}, which the format forbids")
    return faults


def _encode_label(
    fmt: TableFormat, classes: Sequence[str], task: str, image_id: str, label: np.ndarray
) -> Iterator[tuple[int | None, list[str]]]:
    """A label array → for each of its row keys, the class and the run-length texts."""
    if task != "instances" and (label == IGNORE_INDEX).any():
        raise UserError(f"id {image_id!r}: its mask has unknown pixels ({IGNORE_INDEX}); a submission needs a class")
    if fmt.rows == "instance":
        instances = label if task == "instances" else cv2.connectedComponents(np.ascontiguousarray(label))[1]
        if fmt.codec == "start_length":
            texts = list(rle.encode_instances(instances, fmt.order, fmt.base, fmt.relative).values())
        else:
            texts = [_encode(fmt, instances == number) for number in np.unique(instances[instances > 0])]
        yield None, texts or [fmt.empty]
    elif fmt.rows == "image_class":
        if fmt.overlap == "forbid" and task == "multilabel" and label.sum(axis=2, dtype=np.int64).max(initial=0) > 1:
            raise UserError(f"id {image_id!r}: its classes overlap, which the format forbids; make them disjoint")
        for index in range(len(classes)):
            plane = label[:, :, index] if task == "multilabel" else label == (index if task == "multiclass" else 1)
            yield index, [_encode(fmt, plane)]
    else:
        # a class column beside a whole label map holds the image's class: its commonest but the background
        areas = np.bincount(label.ravel(), minlength=2) if task != "instances" else np.zeros(2, np.int64)
        yield int(areas[1:].argmax()) + 1 if areas[1:].any() else 0, [_encode(fmt, label)]


def _encode(fmt: TableFormat, label: np.ndarray) -> str:
    if fmt.codec == "count_value":
        return rle.encode_count_value(label, fmt.order)
    if not label.any():
        return fmt.empty
    if fmt.codec == "start_length_value":
        return rle.encode_start_length_value(label, fmt.order, fmt.base)
    if fmt.codec == "coco_counts":
        return rle.encode_coco(label)
    if fmt.codec == "coco_zlib_b64":
        return rle.encode_coco_zlib(label)
    return rle.encode(label, fmt.order, fmt.base, fmt.relative)


def _parse(fmt: TableFormat, text: str, size: int) -> rle.Runs:
    if fmt.codec == "coco_counts":
        return rle.parse_coco(text, size)
    if fmt.codec == "coco_zlib_b64":
        return rle.parse_coco_zlib(text, size)
    return rle.parse_runs(text, size, fmt.base, fmt.relative)


def _decode_values(fmt: TableFormat, text: str, shape: Size, largest: int) -> np.ndarray:
    if fmt.codec == "count_value":
        label = rle.decode_count_value(text, shape, fmt.order, np.int32)
    else:
        label = rle.decode_start_length_value(text, shape, fmt.order, fmt.base, np.int32)
    if label.max(initial=0) > largest:
        raise ValueError(f"value {label.max()} is not a class; the largest is {largest}")
    return label


def _resize(label: np.ndarray, size: Size) -> np.ndarray:
    """Nearest neighbour by pixel centres, for any dtype and number of planes."""
    if label.shape[:2] == size:
        return label
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, label.shape, strict=False))
    return label[np.ix_(rows, columns)]
