"""A submission beside its solution: both files read whole, joined on ids, their masks drawn one at a time.

    truth, found, usage = read_pair("severstal", Path("submission.csv"), Path("solution.csv"), Sizes())
    for image_id, index in usage: draw_plane(truth, image_id, index)

Besides its format's columns a solution may have Kaggle's `Usage` (Public, Private or Ignored), and either file the
height and width of its images.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import rle
from competitions import FORMATS
from config import TableFormat
from detections import Instance, Row, collect_rows, decode_values, parse_row
from errors import UserError
from faults import find_overlaps
from images import image_size
from listing import files_below
from memory import check_memory
from rules import Rule
from tables import (
    VALUED,
    Key,
    Size,
    class_field,
    class_words,
    find_format,
    named,
    read_header,
    read_rows,
    row_key,
    row_size,
)

_EXTRA = {"usage": "usage"} | {
    f"{prefix}{side}": side for side in ("height", "width") for prefix in ("", "img_", "image_", "image")
}
_PARTS = ("public", "private", "ignored")


@dataclass(frozen=True)
class Sizes:
    """What the command line says of the images' (height, width): one for all, or the folder they lie in."""

    all: Size | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Answers:
    """One of the two files: each image's masks as it has them, and the size they are drawn at."""

    path: Path
    fmt: TableFormat
    rows: dict[str, list[Row]]
    sizes: Mapping[str, Size]
    words: Mapping[Key, str]  # what a row says besides its mask: an image's class, or whether a patch is foreground


@dataclass
class Listing:
    """What a first reading of a file finds: each key's row, and what its row says besides the mask."""

    rows: dict[Key, int] = field(default_factory=dict)
    usage: dict[Key, str] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    words: dict[Key, str] = field(default_factory=dict)


def read_pair(
    name: str, rule: Rule, submission: Path, solution: Path, sizes: Sizes, solution_format: str | None = None
) -> tuple[Answers, Answers, dict[Key, str]]:
    """The solution, the submission, and the part of the test set that each key belongs to: "public", "private" or "".

    Ignored keys are left out. Raises UserError, one line that names file and row or id, where either file is not what
    the format says, an id or class is missing or one too many, and where an image's size is not known.
    """
    fmt = find_format(name)
    true_fmt = _solution_format(name, fmt, solution, solution_format)
    fmt, true_fmt = _with_extras(submission, fmt), _with_extras(solution, true_fmt)
    classes = fmt.classes or _find_classes(true_fmt, solution)
    if rule.task == "detections" and not fmt.classes:  # a class that is never true does not count, and is no mistake
        others = _find_classes(fmt, submission)
        numbered = class_field(fmt) == "class_number"
        classes += others[len(classes) :] if numbered else tuple(name for name in others if name not in classes)
    wanted, given = list_keys(solution, true_fmt, classes), list_keys(submission, fmt, classes)
    _compare_keys(wanted, given, submission, solution, class_words(fmt, classes, "multilabel"), fmt.file == "coco")
    usage = {key: wanted.usage.get(key, "") for key in wanted.rows}
    if not wanted.rows:
        raise UserError(f"{solution}: it has no rows, so there is nothing to score; take another file")
    if all(part == "ignored" for part in usage.values()):
        raise UserError(f"{solution}: the Usage of every row is Ignored; take that column out to score them all")
    shapes = _image_sizes(rule, fmt, wanted, given, sizes, solution)
    truth, found = (
        Answers(path, one, *collect_rows(path, one, class_words(one, classes, "multilabel"), shapes), listing.words)
        for path, one, listing in ((solution, true_fmt, wanted), (submission, fmt, given))
    )
    return truth, found, {key: part for key, part in usage.items() if part != "ignored"}


def list_keys(path: Path, fmt: TableFormat, classes: tuple[str, ...]) -> Listing:
    """A file's keys and what stands beside its masks. Raises UserError naming file and row."""
    listing, words = Listing(), class_words(fmt, classes, "multilabel")
    try:
        for number, row in read_rows(path, fmt):
            key = row_key(fmt, words, number, row)
            listing.rows.setdefault(key, number)
            if (size := row_size(number, row)) is not None:
                listing.sizes[key[0]] = size
            if fmt.rows == "patch":
                listing.words[key] = row["rle"]
            elif fmt.codec in VALUED and class_field(fmt):
                listing.words[key] = row[class_field(fmt)]
            if "usage" in row:
                part = row["usage"].lower()
                if part not in _PARTS:
                    raise ValueError(f"row {number}: Usage {row['usage'][:24]!r} is none of Public, Private, Ignored")
                if listing.usage.setdefault(key, part) != part:
                    raise ValueError(f"row {number}: {named(key, words)} is {part} here and {listing.usage[key]} above")
    except ValueError as error:
        raise UserError(f"{path} {error}") from None
    return listing


def draw_plane(answers: Answers, image_id: str, index: int | None) -> np.ndarray:
    """`(H, W) uint8`: the pixels of all of an image's masks of one class."""
    size, order = answers.sizes[image_id], answers.fmt.order
    rows = [row for row in answers.rows[image_id] if row.mask != "" and row.class_index == (index or 0)]
    masks = [parse_row(answers.path, answers.fmt, row, size) for row in rows]
    if len(masks) == 1:
        return rle.draw_runs(masks[0], size, order)
    plane = np.zeros(size[0] * size[1], np.uint8)
    for runs in masks:
        plane[rle.run_pixels(runs)] = 1
    return rle.unflatten(plane, size, order)


def draw_classes(answers: Answers, image_id: str, largest: int) -> np.ndarray:
    """`(H, W) int32`: a whole label map. Raises UserError for a class above the `largest`."""
    size, row = answers.sizes[image_id], answers.rows[image_id][0]
    if row.mask == "":
        return np.zeros(size, np.int32)
    try:
        return decode_values(answers.fmt, row.mask, size, largest)
    except ValueError as error:
        raise UserError(
            f"{answers.path} row {row.number}: {error}; the image is {size[0]}x{size[1]}, mend the row"
        ) from None


def list_instances(answers: Answers, image_id: str, order: str) -> list[Instance]:
    """An image's instances in file order, their runs in the given order of pixels.

    Raises UserError where they overlap and the format forbids it.
    """
    rows = [row for row in answers.rows.get(image_id, ()) if row.mask != ""]
    masks = [parse_row(answers.path, answers.fmt, row, answers.sizes[image_id]) for row in rows]
    if masks and answers.fmt.overlap == "forbid":
        claims = [(row.number, runs) for row, runs in zip(rows, masks, strict=True)]
        if faults := find_overlaps({image_id: claims}):
            raise UserError(f"{answers.path} {faults[0]}; give each pixel to one")
    if answers.fmt.order != order:
        size = answers.sizes.get(image_id, (0, 0))
        masks = [rle.mask_runs(rle.draw_runs(runs, size, answers.fmt.order), order) for runs in masks]
    return [Instance(row.class_index, row.score, runs) for row, runs in zip(rows, masks, strict=True)]


def _solution_format(name: str, fmt: TableFormat, solution: Path, given: str | None) -> TableFormat:
    """The format a solution is written in: as said, the submission's, or that of the training table."""
    if given is not None:
        return find_format(given)
    train = FORMATS.get(f"{name}_train")
    if train is None or (fmt.file == train.file == "csv" and set(fmt.columns) <= set(_header(solution))):
        return fmt
    if train.file == "csv":
        return train if set(train.columns) <= set(_header(solution)) else fmt
    return fmt if solution.suffix == ".csv" else train


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        return read_header(path)
    except UnicodeDecodeError:
        raise UserError(f"{path} row 1: not UTF-8 text; save the table as UTF-8") from None
    except ValueError as error:
        raise UserError(f"{path} {error}") from None


def _with_extras(path: Path, fmt: TableFormat) -> TableFormat:
    """The format with the columns for usage and size that a CSV has besides."""
    if fmt.file != "csv":
        return fmt
    held = set(fmt.columns.values())
    named_so = {name: _EXTRA.get(name.lower()) for name in _header(path) if name not in fmt.columns}
    extra = {name: what for name, what in named_so.items() if what is not None and what not in held}
    return fmt.model_copy(update={"columns": fmt.columns | extra})


def _find_classes(fmt: TableFormat, solution: Path) -> tuple[str, ...]:
    """The classes a solution names, where its format does not."""
    written = class_field(fmt)
    if not written or fmt.codec in VALUED:
        return ("foreground",)
    found: dict[str, str] = {}
    try:
        for number, row in read_rows(solution, fmt):
            if fmt.rows == "detections":
                words = row["rle"].split()
                found |= dict.fromkeys(words[fmt.cell.index(written) :: len(fmt.cell)], "")
            elif written in row:
                found[row[written]] = row.get("class", row[written])
            elif f"{{{written}}}" in fmt.id:
                raise ValueError(f"row {number}: which part of {row['id']!r} is its class cannot be told")
    except ValueError as error:
        raise UserError(f"{solution} {error}") from None
    if written == "class" or not all(re.fullmatch("[0-9]{1,5}", word) for word in found):
        return tuple(found)
    names = {int(word): name for word, name in found.items()}
    return tuple(names.get(number, str(number)) for number in range(fmt.class_base, max(names, default=0) + 1))


def _compare_keys(
    wanted: Listing, given: Listing, submission: Path, solution: Path, words: Mapping[str, int], sparse: bool
) -> None:
    """Both files answer for the same keys; a `sparse` submission has no row for an image without instances."""
    for key, number in given.rows.items():
        if key not in wanted.rows:
            raise UserError(f"{submission} row {number}: {named(key, words)} is not in {solution}; drop the row")
    missing = [key for key in wanted.rows if key not in given.rows]
    if missing and not sparse:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{submission}: no row for {named(missing[0], words)}{more}, which {solution} has; add it")


def _image_sizes(
    rule: Rule, fmt: TableFormat, wanted: Listing, given: Listing, sizes: Sizes, solution: Path
) -> dict[str, Size]:
    """The size of every image, from the first that tells it: the files, the command line, the competition."""
    if sizes.all and fmt.size and sizes.all != fmt.size:
        raise UserError(f"--size: the format's masks are {fmt.size[0]}x{fmt.size[1]}; leave it out")
    one = sizes.all or fmt.size or rule.size
    if fmt.rows == "patch":
        one = one or _patched_size(fmt, wanted)
    files = {} if sizes.folder is None else _files_by_id(sizes.folder)
    shapes = {}
    for image_id, _ in wanted.rows:
        if image_id in shapes:
            continue
        size = wanted.sizes.get(image_id) or given.sizes.get(image_id) or one
        if size is None and image_id in files:
            size = image_size(files[image_id])
        if size is None:
            way = f"{sizes.folder} does not hold it" if sizes.folder else "say --size HxW or --images DIR"
            raise UserError(f"{solution}: the size of image {image_id!r} is not known; {way}")
        if fmt.size not in (None, size):
            said, scored = (f"{one[0]}x{one[1]}" for one in (size, fmt.size))
            raise UserError(f"{solution}: image {image_id!r} is {said}, but {scored} is scored; resize its masks")
        try:
            check_memory(4 * size[0] * size[1], f"masks of {size[0]}x{size[1]}")
        except ValueError as error:
            raise UserError(f"{solution}: image {image_id!r}: {error}; check its size") from None
        shapes[image_id] = size
    return shapes


def _patched_size(fmt: TableFormat, wanted: Listing) -> Size:
    """A size that holds every patch."""
    corners = np.array([place for _, place in wanted.rows] or [(0, 0)])
    width, height = (int(side) + fmt.patch for side in corners.max(axis=0))
    return height, width


def _files_by_id(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    paths = [path for path in files_below(folder) if not path.name.startswith(".")]
    return {path.stem: path for path in paths} | {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in paths
    }
