"""What is wrong with a submission, a line a fault, each with its row: anybody's file, with or without the images.

for fault in validate_submission(path, find_format("airbus"), ["ship"], sizes): print(fault)
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rle
from config import TableFormat
from detections import check_patch, decode_values, image_shape, parse_mask, split_row
from tables import (
    COCO,
    INSTANCES,
    VALUED,
    Key,
    Size,
    class_words,
    find_format,
    named,
    read_rows,
    row_key,
    sample_keys,
    written_id,
)

_ANY_SIZE = (2**24, 2**24)  # of an image nobody knows: only the form and order of its runs can be checked


def validate_submission(
    path: Path, fmt: TableFormat, classes: Sequence[str], sizes: Mapping[str, Size] | None, sample: Path | None = None
) -> list[str]:
    """What is wrong with a submission, a line a fault, each with its row; [] where nothing is.

    Checks the header, every id and class, that each of the sample's rows (or each of `sizes`' ids) is answered, in the
    sample's order where a row is an image or class, that runs lie inside the image and apart, and, where the format
    forbids it, that masks of an image do not overlap. Of an image whose size neither `sizes`, the format nor its own
    row tells, only the form of the runs is checked. With no `sizes` at all (None) and no sample, any id is taken.

    Raises UserError for a file that is missing and for a sample that does not fit the format.
    """
    fmt = find_format(fmt)
    words = class_words(fmt, classes, None)
    expected = None if sample is None else sample_keys(sample, fmt, words)
    images = {written_id(fmt, image_id): size for image_id, size in (sizes or {}).items()}
    known = {image_id for image_id, _ in expected} if expected is not None else None if sizes is None else images
    faults: list[str] = []
    found: dict[Key, int] = {}
    claimed: dict[str, list[tuple[int, rle.Runs]]] = {}
    number = 1
    try:
        for number, row in read_rows(path, fmt, exact=True, faults=faults):
            try:
                key = row_key(fmt, words, number, row)
                if known is not None and key[0] not in known:
                    raise ValueError(f"row {number}: id {key[0]!r} is not among the images to predict")
                if fmt.rows != "instance" and key in found:
                    raise ValueError(f"row {number}: {named(key, words)} occurs twice")
                found.setdefault(key, number)
                size = image_shape(fmt, number, row, key[0], images)
                for runs in _check_row(fmt, len(classes), words, number, row, key, size):
                    if fmt.overlap == "forbid":
                        claimed.setdefault(key[0], []).append((number, runs))
            except ValueError as error:
                faults.append(str(error))
    except ValueError as error:
        return [*faults, str(error)]
    if expected is not None:
        faults += _misplaced(expected, found, fmt, words)
    if fmt.file == "csv":
        faults += [
            f"row {number}: the table ends with no row for {named(key, words)}"
            for key in (_expected(fmt, images, found) if expected is None else expected)
            if key not in found
        ]
    return faults + _overlaps(claimed)


def unchecked(fmt: TableFormat, sizes: Mapping[str, Size] | None) -> str:
    """What `validate_submission` cannot check for want of the images' sizes, "" where it checks everything."""
    if sizes is not None or fmt.size or fmt.file == "coco" or {"height", "width"} <= set(fmt.columns.values()):
        return ""
    what = "the masks themselves" if fmt.codec in (*COCO, *VALUED) else "whether runs end inside their image"
    return f"without the images' sizes, {what} and missing images are not checked; give --images or --masks"


def _expected(fmt: TableFormat, images: Mapping[str, Size], found: Mapping[Key, int]) -> list[Key]:
    """Every row that images without a sample call for; which classes do is learnt from those found."""
    if fmt.rows == "patch":
        return [(image_id, place) for image_id, size in images.items() for place in patch_places(fmt, fmt.size or size)]
    seen = dict.fromkeys(index for _, index in found) or {None: None}
    return [(image_id, index) for image_id in images for index in seen]


def patch_places(fmt: TableFormat, size: Size) -> list[tuple[int, int]]:
    """x, y of each patch of an image, down its columns."""
    return [(x, y) for x in range(0, size[1], fmt.patch) for y in range(0, size[0], fmt.patch)]


def _check_row(
    fmt: TableFormat,
    class_count: int,
    words: Mapping[str, int],
    number: int,
    row: Mapping[str, Any],
    key: Key,
    size: Size | None,
) -> list[rle.Runs]:
    """The runs of a row's masks (none of a valued one). Raises ValueError where a reader would stumble."""
    word = row.get("class", row.get("class_number"))
    if fmt.rows == "image" and word is not None and word not in words:
        raise ValueError(f"row {number}: class {word!r} is none of {', '.join(words)}")
    if row["rle"] == "" and fmt.empty:
        raise ValueError(f"row {number}: the mask is blank, but an empty one is written {fmt.empty!r}")
    found = []
    for mask in split_row(fmt, words, number, row, key[1]):
        try:
            if mask.mask == "":
                continue
            if fmt.rows == "patch":
                check_patch(fmt, mask.mask, size or _ANY_SIZE)
            elif size is None and fmt.codec != "start_length":
                continue
            elif fmt.codec in VALUED:
                decode_values(fmt, mask.mask, size, class_count - 1 if class_count > 1 else None)
            else:
                found.append(parse_mask(fmt, mask.mask, size or _ANY_SIZE))
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
    return found


def _misplaced(
    expected: Iterable[Key], found: Mapping[Key, int], fmt: TableFormat, words: Mapping[str, int]
) -> list[str]:
    """The first row out of the sample's order, where rows have one."""
    answered = [key for key in expected if key in found]
    for (key, number), wanted in zip(found.items(), answered, strict=False):
        if fmt.rows not in INSTANCES and key != wanted:
            return [f"row {number}: {named(key, words)} stands where the sample has {named(wanted, words)}"]
    return []


def _overlaps(claimed: Mapping[str, list[tuple[int, rle.Runs]]]) -> list[str]:
    """Every row that shares a pixel with one before it."""
    faults = []
    for image_id, rows in claimed.items():
        starts = np.concatenate([runs[0] for _, runs in rows])
        ends = starts + np.concatenate([runs[1] for _, runs in rows])
        numbers = np.repeat([number for number, _ in rows], [runs[0].size for _, runs in rows])
        order = np.argsort(starts, kind="stable")
        starts, ends, numbers = starts[order], ends[order], numbers[order]
        furthest = np.maximum.accumulate(ends)
        holder = np.maximum.accumulate(np.where(ends == furthest, np.arange(ends.size), 0))
        clashes = np.flatnonzero(starts[1:] < furthest[:-1])
        pairs = {tuple(sorted((int(numbers[holder[one]]), int(numbers[one + 1])))) for one in clashes}
        faults += [
            f"row {second}: overlaps row {first} of image {image_id!r}, which the format forbids"
            for first, second in sorted(pairs)
        ]
    return faults
