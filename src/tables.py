"""What a competition's CSV looks like: the table of formats, and rows ⇄ ids and classes. `formats.py` reads the masks.

    from tables import find_format
    find_format("severstal").columns

A class is written by its name (`class`) or its number (`class_number`): its index in a multiclass task, whose class 0
is the background, and its position counted from 1 otherwise. The codecs that hold a value a run hold the same number;
beside such a whole label map the class column names the image's class, 0 where all of it is background.
"""

import csv
import difflib
import io
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from config import TableFormat
from errors import UserError

Size = tuple[int, int]  # (height, width)
Key = tuple[str, int | None]  # an image's id, and its class where a row answers for one class

VALUED = ("start_length_value", "count_value")  # codecs that hold a whole label map
COCO = ("coco_counts", "coco_zlib_b64")


def _table(columns: str, **settings: object) -> TableFormat:
    """`"ImageId:id EncodedPixels:rle"` → the format."""
    return TableFormat(columns=dict(column.rsplit(":", 1) for column in columns.split()), **settings)


# From the competitions' pages, public code and real rows; where they differ, the sample file is the
# judge of header, ids and order. `_train` stands where the training table has other columns than the submission.
FORMATS: dict[str, TableFormat] = {
    "image": _table("id:id rle:rle"),
    "image_class": _table("id:id class:class rle:rle", rows="image_class"),
    "instance": _table("id:id rle:rle", rows="instance"),
    "tgs_salt": _table("id:id rle_mask:rle"),
    "airbus": _table("ImageId:id EncodedPixels:rle", rows="instance", id="{id}.jpg", overlap="forbid"),
    "carvana": _table("img:id rle_mask:rle", order="C", id="{id}.jpg"),
    "dsb2018": _table("ImageId:id EncodedPixels:rle", rows="instance", overlap="forbid"),
    "ultrasound_nerve_train": _table("subject:id img:id pixels:rle"),
    "ultrasound_nerve": _table("img:id pixels:rle"),
    "siim_acr_train": _table("ImageId:id EncodedPixels:rle", rows="instance", base=0, relative=True, empty="-1"),
    "siim_acr": _table("ImageId:id EncodedPixels:rle", base=0, relative=True, empty="-1"),
    "severstal": _table("ImageId_ClassId:id EncodedPixels:rle", rows="image_class", id="{id}.jpg_{class_number}"),
    "severstal_class_column": _table(
        "ImageId:id ClassId:class_number EncodedPixels:rle", rows="image_class", id="{id}.jpg"
    ),
    "clouds_train": _table("Image_Label:id EncodedPixels:rle", rows="image_class", id="{id}.jpg_{class}"),
    "clouds": _table("Image_Label:id EncodedPixels:rle", rows="image_class", id="{id}.jpg_{class}", size=(350, 525)),
    "hubmap2021_train": _table("id:id encoding:rle"),
    "hubmap2021": _table("id:id predicted:rle"),
    "hubmap2022": _table("id:id rle:rle"),
    "sartorius_train": _table("id:id annotation:rle", rows="instance", order="C"),
    "sartorius": _table("id:id predicted:rle", rows="instance", order="C", overlap="forbid"),
    "uwmgi_train": _table("id:id class:class segmentation:rle", rows="image_class", order="C"),
    "uwmgi": _table("id:id class:class predicted:rle", rows="image_class", order="C"),
    "contrails": _table("record_id:id encoded_pixels:rle", empty="-"),
    "vesuvius": _table("Id:id Predicted:rle", order="C"),
    "sennet": _table("id:id rle:rle", order="C", empty="1 0"),
    "imagenet_s_2025": _table(
        "ID:id Label:class_number MASK_RLE:rle", codec="count_value", order="C", size=(224, 224), empty="50176 0"
    ),
    "imagenet_s_2026": _table(
        "image:id class_id:class_number segmentation_rle:rle", codec="start_length_value", order="C"
    ),
}


def find_format(fmt: str | TableFormat) -> TableFormat:
    """A format by its name, or one given whole, checked. Raises UserError naming the nearest name or what is wrong."""
    if isinstance(fmt, str):
        if fmt not in FORMATS:
            near = difflib.get_close_matches(fmt, FORMATS, 1, 0.0)[0]
            raise UserError(f"no table format {fmt!r}; did you mean {near!r}? There are {', '.join(FORMATS)}")
        return FORMATS[fmt]
    fields = list(fmt.columns.values())
    try:
        places = [name for _, name, _, _ in string.Formatter().parse(fmt.id) if name is not None]
    except ValueError as error:
        raise UserError(f"table format: id {fmt.id!r} is not a template ({error}); write it like {{id}}.jpg") from None
    class_places = [name for name in fields + places if name in ("class", "class_number")]
    checks = (
        (fields.count("rle") == 1, "columns: exactly one must hold the rle"),
        ("id" in fields, "columns: one must hold the id"),
        (places.count("id") == 1, f"id: {fmt.id!r} must hold {{id}} once"),
        (
            set(places) <= {"id", "class", "class_number"},
            f"id: {fmt.id!r} may hold {{id}}, {{class}}, {{class_number}}",
        ),
        (len(class_places) <= 1, "the class stands in two places; keep one"),
        (fmt.rows != "image_class" or class_places, "rows: image_class needs a class column or a class in the id"),
        (fmt.rows != "instance" or not class_places, "rows: instance cannot have a class"),
        (fmt.codec not in VALUED or fmt.rows == "image", f"codec: {fmt.codec} needs rows: image"),
        (fmt.codec not in COCO or fmt.order == "F", f"codec: {fmt.codec} is always column-major; set order: F"),
        (fmt.rows != "image" or fmt.codec in VALUED or not class_places, "rows: a class needs rows: image_class"),
    )
    for right, message in checks:
        if not right:
            raise UserError(f"table format: {message}")
    return fmt


def check_task(fmt: TableFormat, task: str) -> None:
    """Raises UserError where a format cannot hold a task's labels."""
    has_class = not {"class", "class_number"}.isdisjoint(fmt.columns.values())
    if fmt.rows == "instance":
        fitting: tuple[str, ...] = ("binary", "instances")
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


def class_words(fmt: TableFormat, classes: Sequence[str], task: str | None) -> dict[str, int]:
    """How the table writes a class → its index. With no task, numbers are taken as keys: either way of counting."""
    if "class_number" not in fmt.columns.values() and "{class_number}" not in fmt.id:
        return {name: index for index, name in enumerate(classes)}
    if task is None or (task == "binary" and fmt.codec in VALUED):
        return {str(index): index for index in range(len(classes) + 1)}
    return {str(index + (task != "multiclass")): index for index in range(len(classes))}


def read_rows(path: Path, fmt: TableFormat, exact: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """A table's rows → (line in the file, {field: text}), BOM, CRLF and spaces after commas forgiven.

    Columns the format does not know are left out, unless `exact`. Raises UserError for a missing file and ValueError,
    opening with the row, for what is not such a table.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; check the path in the config")
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
                    raise ValueError(f"row {number}: {len(cells)} cells, the header has {len(header)}")
                row = {field: cells[position].strip() for position, field in columns}
                row["id"] = "_".join(cells[position].strip() for position, field in columns if field == "id")
                yield number, row
        except UnicodeDecodeError:
            raise ValueError(f"row {number + 1} or later: not UTF-8 text; save the table as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"row {number + 1}: not a CSV row ({error})") from None


def row_key(fmt: TableFormat, words: Mapping[str, int], number: int, row: Mapping[str, str]) -> Key:
    """The image and class a row answers for. Raises ValueError where they are not written as the format says."""
    choices = "|".join(map(re.escape, words))
    # the shortest id: "a_big_ship" is class big_ship of a, where there is such a class, and not ship of a_big
    fields = {"id": "(?P<id>.+?)", "class": f"(?P<word>{choices})", "class_number": f"(?P<word>{choices})"}
    parts = string.Formatter().parse(fmt.id)
    pattern = "".join(re.escape(literal) + fields.get(name or "", "") for literal, name, _, _ in parts)
    match = re.fullmatch(pattern, row["id"], re.DOTALL)
    if match is None:
        hint = f" with a class of {', '.join(words)}" if "word" in pattern else ""
        raise ValueError(f"row {number}: id {row['id']!r} is not written like {fmt.id!r}{hint}")
    if fmt.rows != "image_class":
        return match["id"], None
    word = match["word"] if "word" in match.groupdict() else row.get("class", row.get("class_number", ""))
    if word not in words:
        raise ValueError(f"row {number}: class {word!r} is none of {', '.join(words)}")
    return match["id"], words[word]


def sample_keys(sample: Path, fmt: TableFormat, words: Mapping[str, int]) -> list[Key]:
    """What a sample file asks for, in its order. Raises UserError where it does not fit the format."""
    try:
        keys = [row_key(fmt, words, number, row) for number, row in read_rows(sample, fmt, exact=True)]
    except ValueError as error:
        raise UserError(f"{sample} {error}; set submission: to the sample's format") from None
    return list(dict.fromkeys(keys))


def check_size(number: int, row: Mapping[str, str], image_id: str, size: Size) -> None:
    for field, wanted in zip(("height", "width"), size, strict=True):
        if field in row and row[field] != str(wanted):
            raise ValueError(f"row {number}: {field} {row[field]!r} of {image_id!r}, the image has {wanted}")


def named(key: Key, words: Mapping[str, int]) -> str:
    spelled = [word for word, index in words.items() if index == key[1]]
    return f"id {key[0]!r}" + (f", class {spelled[0]!r}" if spelled else "")


def table_line(fmt: TableFormat, image_id: str, word: str, text: str, size: Size | None) -> str:
    """One row of the table, its line end included."""
    written = fmt.id.format(**{"id": image_id, "class": word, "class_number": word})
    count = list(fmt.columns.values()).count("id")
    ids = iter(written.rsplit("_", count - 1))
    height, width = size or ("", "")
    values = {"class": word, "class_number": word, "rle": text, "height": str(height), "width": str(width)}
    return csv_line([next(ids, "") if field == "id" else values[field] for field in fmt.columns.values()])


def csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
