"""Rows of a competition's table ⇄ ids and classes, by its format. `formats.py` reads and writes the masks in them.

    from tables import find_format
    find_format("severstal").columns

A class is written by its name (`class`) or its number (`class_number`): its index in a multiclass task, whose class 0
is the background, and its position counted from `class_base` otherwise. The codecs that hold a value a run hold the
same number; beside such a whole label map the class column names the image's class, 0 where all of it is background.
"""

import csv
import difflib
import io
import itertools
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from competitions import ARCHIVES, FORMATS
from config import TableFormat
from errors import UserError
from records import read_categories, read_records

Size = tuple[int, int]  # (height, width)
# an image's id, and its class where a row answers for one class, or (x, y) where it answers for a patch
Key = tuple[str, int | tuple[int, int] | None]

VALUED = ("start_length_value", "count_value")  # codecs that hold a whole label map
COCO = ("coco_counts", "coco_zlib_b64")
INSTANCES = ("instance", "detections")  # rows that hold instances

_CLASS = ("class", "class_number")


class Numbered(TableFormat):
    """A format whose classes have the numbers that the categories of a COCO file give them."""

    source: Path
    numbers: dict[str, int]


def find_format(fmt: str | TableFormat) -> TableFormat:
    """A format by its name, or one given whole, checked. Raises UserError naming the nearest name or what is wrong."""
    if isinstance(fmt, str):
        if fmt not in FORMATS:
            if fmt in ARCHIVES:
                raise UserError(f"{fmt}: files of masks, not a table; name a format of a table")
            near = difflib.get_close_matches(fmt, FORMATS, 1, 0.0)[0]
            raise UserError(f"no table format {fmt!r}; did you mean {near!r}? There are {', '.join(FORMATS)}")
        return FORMATS[fmt]
    fields, instances = list(fmt.columns.values()), fmt.rows in INSTANCES
    try:
        parts = [part for part in string.Formatter().parse(fmt.id) if part[1] is not None]
    except ValueError as error:
        raise UserError(f"table format: id {fmt.id!r} is not a template ({error}); write it like {{id}}.jpg") from None
    places = [name for _, name, _, _ in parts]
    plain = all(
        not conversion and re.fullmatch("|0>[1-9]" * (name == "id"), spec) for _, name, spec, conversion in parts
    )
    squares = {"x", "y"} if fmt.rows == "patch" else set()
    class_places = [name for name in fields + places if name in _CLASS]
    checks = (
        (fields.count("rle") == 1, "columns: exactly one must hold the rle"),
        ("id" in fields, "columns: one must hold the id"),
        (places.count("id") == 1, f"id: {fmt.id!r} must hold {{id}} once"),
        (
            plain and squares <= set(places) <= {"id", *_CLASS} | squares,
            f"id: {fmt.id!r} may hold {{id}}, {{class}}, {{class_number}}, and for a patch must hold {{x}} and {{y}}",
        ),
        (len(class_places) <= 1, "the class stands in two places; keep one"),
        (fmt.rows != "image_class" or class_places, "rows: image_class needs a class column or a class in the id"),
        (not instances or not set(places) & {*_CLASS}, f"rows: {fmt.rows} cannot have a class in the id"),
        (fmt.rows not in ("detections", "patch") or not class_places, f"rows: {fmt.rows} cannot have a class column"),
        (fmt.rows != "detections" or fmt.codec in COCO, f"rows: detections needs codec: {' or '.join(COCO)}"),
        (
            len(set(fmt.cell)) == len(fmt.cell) and "rle" in fmt.cell and not {*_CLASS} <= set(fmt.cell),
            "cell: it holds the rle once, and at most one class and one score",
        ),
        (fmt.rows != "patch" or fmt.empty == "0", "empty: of a patch it is 0"),
        (fmt.rows == "instance" or "score" not in fields, "columns: a score needs rows: instance"),
        (fmt.rows == "instance" or fmt.file == "csv", f"file: {fmt.file} needs rows: instance"),
        (fmt.file != "coco" or fmt.codec == "coco_counts", "file: coco needs codec: coco_counts"),
        (fmt.codec not in VALUED or fmt.rows == "image", f"codec: {fmt.codec} needs rows: image"),
        (fmt.codec not in COCO or fmt.order == "F", f"codec: {fmt.codec} is always column-major; set order: F"),
        (fmt.rows != "image" or fmt.codec in VALUED or not class_places, "rows: a class needs rows: image_class"),
        (len(set(fmt.classes)) == len(fmt.classes), "classes: one is named twice"),
    )
    for right, message in checks:
        if not right:
            raise UserError(f"table format: {message}")
    return fmt


def number_classes(fmt: TableFormat, source: Path | None) -> TableFormat:
    """COCO's format with the category ids of an annotation file; any other, and with a list of results, as it is."""
    if source is None or fmt.file != "coco" or not (numbers := read_categories(source)):
        return fmt
    return Numbered(**fmt.model_dump(), source=source, numbers=numbers)


def check_task(fmt: TableFormat, task: str) -> None:
    """Raises UserError where a format cannot hold a task's labels."""
    has_class = class_field(fmt) != ""
    if fmt.rows in INSTANCES:
        fitting: tuple[str, ...] = ("binary", "instances", *(("multiclass", "multilabel") if has_class else ()))
    elif fmt.rows == "image_class":
        fitting = ("binary", "multiclass", "multilabel")
    elif fmt.codec in VALUED:
        fitting = ("binary", "multiclass") if has_class else ("binary", "multiclass", "instances")
    else:
        fitting = ("binary",)
    if task not in fitting:
        raise UserError(
            f"task {task}: a table of {fmt.rows} rows with codec {fmt.codec} holds {' or '.join(fitting)} labels; "
            "choose another format or task"
        )


def class_field(fmt: TableFormat) -> str:
    """How the format writes a class: "class" by name, "class_number", or "" where it does not."""
    fields = [*fmt.columns.values(), *(fmt.cell if fmt.rows == "detections" else ())]
    return next((field for field in _CLASS if field in fields or f"{{{field}}}" in fmt.id), "")


def class_words(fmt: TableFormat, classes: Sequence[str], task: str | None) -> dict[str, int]:
    """How the table writes a class → its index. With no task, numbers are taken as keys: either way of counting.

    Raises UserError for a name that the format's cells cannot hold, that two classes have, or that is no category.
    """
    names, base = {name: index for index, name in enumerate(classes)}, fmt.class_base
    if class_field(fmt) == "class" and len(names) < len(classes):
        twice = next(name for index, name in enumerate(classes) if names[name] != index)
        raise UserError(f"classes: {twice!r} is there twice; give each class its own name")
    if class_field(fmt) != "class_number":
        if fmt.rows == "detections" and (spaced := [name for name in classes if name.split() != [name]]):
            raise UserError(f"classes: {spaced[0]!r} has a space, which parts the words of a cell; name it without")
        return names
    if isinstance(fmt, Numbered):
        numbers = {str(fmt.numbers[name]): index for name, index in names.items() if name in fmt.numbers}
        if absent := [name for name in classes[task in (None, "multiclass") :] if name not in fmt.numbers]:
            raise UserError(f"classes: {absent[0]!r} is no category of {fmt.source}: {listed(fmt.numbers)}; rename it")
    elif task is None or (task == "binary" and fmt.codec in VALUED):
        numbers = {str(index): index for index in range(len(classes) + base)}
    elif task == "multiclass":  # counted from 0, the background has no number
        numbers = {str(index + base - 1): index for index in range(1 - base, len(classes))}
    else:
        numbers = {str(index + base): index for index in range(len(classes))}
    # annotations name what results number, and a number that is a name as well is the number
    others = {name: index for name, index in names.items() if fmt.file == "coco" and name not in numbers}
    return others | numbers


def written_id(fmt: TableFormat, image_id: str) -> str:
    """An image's id as the format's rows have it: padded ("{id:0>3}"), or COCO's number of 000000000139.jpg."""
    if fmt.file == "coco" and image_id.isascii() and image_id.isdigit() and len(image_id) < 1000:
        return str(int(image_id))
    padding = next((part[2] for part in string.Formatter().parse(fmt.id) if part[1] == "id"), "")
    return format(image_id, padding or "")


def read_rows(
    path: Path, fmt: TableFormat, exact: bool = False, faults: list[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """A table's rows → (line in the file, {field: text}), BOM, CRLF and spaces after commas forgiven.

    A JSON file's are elements or lines (`records.py`), and its masks need not be text. Columns the format does not know
    are left out, unless `exact`. Raises UserError for a missing file and ValueError, opening with the row, for what is
    not such a table; given a list of `faults`, a bad row is added there and skipped.
    """
    if fmt.file != "csv":
        yield from read_records(path, fmt.file, fmt.columns, faults)
        return
    if not path.is_file():
        raise UserError(f"{path}: no such table; check the path")
    csv.field_size_limit(2**31 - 1)  # a whole slide's runs are longer than csv's own limit of 128 KiB
    number = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            number = 1
            missing = [name for name in fmt.columns if header.count(name) != 1]
            if missing or (exact and header != list(fmt.columns)):
                raise ValueError(f"row 1: the header is {','.join(header)!r}, the format's {','.join(fmt.columns)!r}")
            columns = [(header.index(name), field) for name, field in fmt.columns.items()]
            for cells in reader:
                number = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    fault = f"row {number}: {len(cells)} cells, the header has {len(header)}"
                    if faults is None:
                        raise ValueError(fault)
                    faults.append(fault)
                    continue
                row = {field: cells[position].strip() for position, field in columns}
                row["id"] = "_".join(cells[position].strip() for position, field in columns if field == "id")
                yield number, row
        except UnicodeDecodeError:
            raise ValueError(f"row {number + 1} or later: not UTF-8 text; save the table as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"row {number + 1}: not a CSV row ({error})") from None


def read_header(path: Path) -> list[str]:
    """A CSV's column names. Raises ValueError where its first line is none."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return [name.strip() for name in next(csv.reader(file, skipinitialspace=True, strict=True), [])]
        except csv.Error as error:
            raise ValueError(f"row 1: not a CSV row ({error})") from None


def row_key(fmt: TableFormat, words: Mapping[str, int], number: int, row: Mapping[str, str]) -> Key:
    """The image and class a row answers for. Raises ValueError where they are not written as the format says."""
    classed = any(f"{{{field}}}" in fmt.id for field in _CLASS)
    choices = "|".join(map(re.escape, words)) if classed else ""
    # the shortest id: "a_big_ship" is class big_ship of a, where there is such a class, and not ship of a_big
    fields = {"id": "(?P<id>.+?)", "x": "(?P<x>[0-9]{1,6})", "y": "(?P<y>[0-9]{1,6})"} | dict.fromkeys(
        _CLASS, f"(?P<word>{choices})"
    )
    parts = string.Formatter().parse(fmt.id)
    pattern = "".join(re.escape(literal) + fields.get(name or "", "") for literal, name, _, _ in parts)
    match = re.fullmatch(pattern, row["id"], re.DOTALL)
    if match is None:
        hint = f" with a class of {listed(words)}" if classed else ""
        raise ValueError(f"row {number}: id {row['id']!r} is not written like {fmt.id!r}{hint}")
    image_id = written_id(fmt, match["id"])
    if fmt.rows == "patch":
        return image_id, (int(match["x"]), int(match["y"]))
    if fmt.rows != "image_class":
        return image_id, None
    return image_id, words[match["word"]] if "word" in match.groupdict() else row_class(words, number, row)


def row_class(words: Mapping[str, int], number: int, row: Mapping[str, str]) -> int:
    """The class of a row's own column; 0 where it has none. Raises ValueError for one that is not among the words."""
    word = row.get("class", row.get("class_number"))
    if word is None:
        return 0
    if word in words:
        return words[word]
    if "class_number" in row and (bare := word.partition("_")[0]) in words:
        return words[bare]  # attributes follow the class (iMaterialist 2019: 6_12_31)
    raise ValueError(f"row {number}: class {word!r} is none of {listed(words)}")


def sample_keys(sample: Path, fmt: TableFormat, words: Mapping[str, int]) -> dict[Key, Size | None]:
    """What a sample file asks for, in its order, and the image's size where its rows tell it.

    Raises UserError where it does not fit the format.
    """
    try:
        rows = read_rows(sample, fmt, exact=True)
        return {row_key(fmt, words, number, row): row_size(number, row) for number, row in rows}
    except ValueError as error:
        raise UserError(f"{sample} {error}; set submission: to the sample's format") from None


def row_size(number: int, row: Mapping[str, str]) -> Size | None:
    """The size a row gives its image, if it does. Raises ValueError for what is none."""
    if "height" not in row or "width" not in row:
        return None
    if not all(re.fullmatch("[1-9][0-9]{0,5}", row[side]) for side in ("height", "width")):
        raise ValueError(f"row {number}: {row['height']!r} x {row['width']!r} is no size in pixels")
    return int(row["height"]), int(row["width"])


def listed(words: Iterable[str]) -> str:
    """Some words for a message; of many, the first."""
    few = list(itertools.islice(words, 33))
    return ", ".join(few[:32]) + (" ..." if len(few) > 32 else "")


def lookalike(image_id: str, ids: Iterable[str]) -> str:
    """A hint where an id that is not among the `ids` looks like one that is."""
    shown = unicodedata.normalize("NFC", image_id)
    alike = any(unicodedata.normalize("NFC", one) == shown for one in ids)
    return " (one looks alike, in other code points: Unicode's NFC and NFD)" if alike else ""


def named(key: Key, words: Mapping[str, int]) -> str:
    if isinstance(key[1], tuple):
        return f"id {key[0]!r}, patch {key[1][0]}, {key[1][1]}"
    spelled = [word for word, index in words.items() if index == key[1]]
    return f"id {key[0]!r}" + (f", class {spelled[0]!r}" if spelled else "")


def table_line(
    fmt: TableFormat, image_id: str, text: str, size: Size | None, word: str = "", score: float = 1.0, **xy: int
) -> str:
    """One row of the table, its line end included, or one element of a COCO file."""
    written = fmt.id.format(**{"id": image_id, "class": word, "class_number": word, **xy})
    height, width = size or ("", "")
    values: dict[str, Any] = {"class": word, "class_number": word, "rle": text, "height": height, "width": width}
    values |= {"score": repr(score)}
    if fmt.file == "coco":
        number = int(written) if written.isascii() and written.isdigit() else written
        values |= {"id": number, "score": score, "rle": {"size": [height, width], "counts": text}}
        values |= {"class_number": int(word)} if word else {}
        return json.dumps({name: values[field] for name, field in fmt.columns.items()}) + "\n"
    count = list(fmt.columns.values()).count("id")
    ids = iter(written.rsplit("_", count - 1))
    return csv_line([next(ids, "") if field == "id" else str(values[field]) for field in fmt.columns.values()])


def csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
