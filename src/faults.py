"""What is wrong with a submission, a line a fault, each with its row: anybody's file, with or without the images.

for fault in validate_submission(path, find_format("airbus"), ["ship"], sizes): print(fault)
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rle
from competitions import FORMATS
from config import TableFormat
from detections import check_patch, decode_values, image_shape, parse_mask, split_row
from errors import UserError
from tables import (
    COCO,
    INSTANCES,
    VALUED,
    Key,
    Size,
    class_field,
    class_words,
    find_format,
    listed,
    named,
    read_header,
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
    # where the competition fixes the classes, each image has a row for each, and their numbers are known
    fixed = fmt.rows == "image_class" and tuple(classes) == fmt.classes
    words = class_words(fmt, classes, "multilabel" if fixed else None)
    expected = None if sample is None else sample_keys(sample, fmt, words)
    images = {written_id(fmt, image_id): size for image_id, size in (sizes or {}).items()}
    wanted = set(expected or ())
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
                if expected is not None and fmt.rows not in INSTANCES and key not in wanted:
                    raise ValueError(f"row {number}: the sample has no row for {named(key, words)}; leave it out")
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
    if sizes is None and fixed:
        images = {image_id: None for image_id, _ in found}
    if expected is not None:
        faults += _misplaced(expected, found, fmt, words)
    if fmt.file == "csv":
        faults += [
            f"row {number}: the table ends with no row for {named(key, words)}"
            for key in (_expected(fmt, images, found, range(len(classes) * fixed)) if expected is None else expected)
            if key not in found
        ]
    return faults + find_overlaps(claimed)


def unchecked(fmt: TableFormat, sizes: Mapping[str, Size] | None) -> str:
    """What `validate_submission` cannot check for want of the images' sizes, "" where it checks everything."""
    if sizes is not None or fmt.size or fmt.file == "coco" or {"height", "width"} <= set(fmt.columns.values()):
        return ""
    what = "the masks themselves" if fmt.codec in (*COCO, *VALUED) else "whether runs end inside their image"
    return f"without the images' sizes, {what} and missing images are not checked; give --images or --masks"


def guess_formats(path: Path) -> list[tuple[str, str]]:
    """The formats whose header, ids and run-length texts fit a file → (name, why), best first.

    Raises UserError for a missing file and where no format fits.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found = []
    for name, fmt in FORMATS.items():
        if (share := _fitting_share(path, fmt)) is not None:
            found.append((-share[0], -share[1], name, share[2]))
    if not found:
        raise UserError(f"{path}: no format of src/competitions.py fits; write your own, with columns: as the header")
    # a stable sort: among equals the order of the table stands
    return [(name, why) for *_, name, why in sorted(found, key=lambda one: one[:2])]


def _fitting_share(path: Path, fmt: TableFormat) -> tuple[float, int, str] | None:
    """How well a file fits: the share of rows (the first thousand), how telling the fit is, and both in words."""
    faults: list[str] = []
    numbers = class_words(fmt, fmt.classes or tuple(map(str, range(1000))), None)
    telling = 2 * bool(fmt.classes) + 2 * (fmt.id != "{id}") + (fmt.size is not None)
    rows, tokens, seen = 0, 0, set()
    try:
        header = read_header(path) if fmt.file == "csv" else list(fmt.columns)
        telling += 4 * (header == list(fmt.columns))
        for number, row in itertools.islice(read_rows(path, fmt, faults=faults), 1000):
            rows += 1
            tokens += row["rle"] == fmt.empty != ""
            try:
                words = _any_words(fmt, row) if class_field(fmt) == "class" and not fmt.classes else numbers
                key = row_key(fmt, words, number, row)
                if fmt.rows != "instance" and (key, row.get("class")) in seen:
                    raise ValueError("a second row of one image")
                seen.add((key, row.get("class")))
                _check_row(fmt, 0, words, number, row, key, image_shape(fmt, number, row, key[0], {}))
            except ValueError as error:
                faults.append(str(error))
    except ValueError:
        return None
    fit = 1 - len(faults) / rows if rows else float(fmt.file == "csv")
    if fit <= 0.5:
        return None
    extra = "" if header == list(fmt.columns) else ", but the file has more columns"
    return fit, telling + 2 * (tokens > 0), f"{fit:.0%} of {rows} rows fit{extra}"


def _any_words(fmt: TableFormat, row: Mapping[str, Any]) -> dict[str, int]:
    """The class names of one row, whatever they are."""
    if fmt.rows == "detections":
        place = fmt.cell.index("class")
        return dict.fromkeys(row["rle"].split()[place :: len(fmt.cell)], 0)
    return {row.get("class", ""): 0}


def _expected(
    fmt: TableFormat, images: Mapping[str, Size | None], found: Mapping[Key, int], fixed: Iterable[int]
) -> list[Key]:
    """Every row that images without a sample call for; which classes do is learnt from those found, unless fixed."""
    if fmt.rows == "patch":
        return [(image_id, place) for image_id, size in images.items() for place in patch_places(fmt, fmt.size or size)]
    seen = dict.fromkeys(fixed or (index for _, index in found)) or {None: None}
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
        raise ValueError(f"row {number}: class {word!r} is none of {listed(words)}")
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
    if fmt.rows in INSTANCES:
        return []
    answered = [key for key in expected if key in found]
    for (key, number), wanted in zip(found.items(), answered, strict=True):
        if key != wanted:
            return [f"row {number}: {named(key, words)} stands where the sample has {named(wanted, words)}"]
    return []


def find_overlaps(claimed: Mapping[str, list[tuple[int, rle.Runs]]]) -> list[str]:
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
