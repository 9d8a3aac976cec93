"""JSON files of labels as rows, like those of a table: COCO's results and annotations, and a JSON line an image.

for number, row in read_records(path, "coco", {"image_id": "id", "segmentation": "rle"}): ...

A row's "rle" is COCO's compressed counts (`str`), its uncompressed ones (`list[int]`) or polygons: a tuple of rings,
each `(N, 2) float64` of x and y. An image without an annotation gives one row whose "rle" is "".
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from errors import UserError

log = logging.getLogger(__name__)

Record = dict[str, Any]


def read_records(
    path: Path, kind: str, columns: Mapping[str, str], faults: list[str] | None = None
) -> Iterator[tuple[int, Record]]:
    """The rows of a JSON file of `kind` coco or polygons → (element or line, counted from 1, {field: value}).

    COCO: a list of results (https://cocodataset.org/#format-results) or a mapping with images, annotations and maybe
    categories, whose images are named by their file. Polygons: lines `{"id": …, "annotations": [{…}]}` (HuBMAP 2023).
    `columns` maps keys, of an annotation or else of what holds it, to fields. Raises UserError for a missing file and
    ValueError, opening with the row, for anything else; given a list of `faults`, a bad row is added there and skipped.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    number = 1
    try:
        for number, entry in _polygon_entries(path) if kind == "polygons" else _coco_entries(path, columns):
            try:
                yield number, _record(entry, columns)
            except ValueError as error:
                if faults is None:
                    raise
                faults.append(f"row {number}: {error}")
    except RecursionError:
        raise ValueError(f"row {number} or later: not such a JSON file (too deep)") from None
    except UnicodeDecodeError:
        raise ValueError(f"row {number} or later: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"row {number} or later: not JSON ({error})") from None
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from None


def read_categories(path: Path) -> dict[str, int]:
    """The id of each category that a COCO annotation file names; {} of a list of results. Raises UserError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        categories = data.get("categories", []) if isinstance(data, dict) else []
        return {str(one["name"]): int(one["id"]) for one in categories if "name" in one}
    except FileNotFoundError:
        raise UserError(f"{path}: missing, but its categories number COCO results' classes; put it there") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path}: no COCO file whose categories have an id and a name; mend it") from None


def _polygon_entries(path: Path) -> Iterator[tuple[int, Record]]:
    """Each image's line → its annotations, each with the image's own keys below its own."""
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            line = json.loads(text)
            annotations = line.get("annotations", []) if isinstance(line, dict) else None
            if not _is_list_of_mappings(annotations):
                raise ValueError(f'line {number} is not {{"id": …, "annotations": [{{…}}]}}')
            for entry in annotations or [{}]:
                yield number, {**line, **entry}


def _coco_entries(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Record]]:
    with path.open(encoding="utf-8-sig") as file:
        data = json.load(file)
    if not isinstance(data, (list, dict)):
        raise ValueError("neither a list of results nor a mapping with images and annotations")
    yield from enumerate(data if isinstance(data, list) else _annotation_entries(data, columns), 1)


def _annotation_entries(data: Record, columns: Mapping[str, str]) -> Iterator[Record]:
    """A COCO annotation file → its annotations with names for numbers, then the images that have none."""
    lists = [data.get(key, []) for key in ("images", "annotations", "categories")]
    if not all(map(_is_list_of_mappings, lists)):
        raise ValueError("images, annotations and categories are not lists of mappings")
    images, annotations, categories = lists
    nameless = [place for place, one in enumerate(images, 1) if one.get("id") is None]
    if nameless:
        raise ValueError(f"image {nameless[0]} of the file has no id; give it one")
    key = {field: name for name, field in columns.items()}
    by_number = {json.dumps(one.get("id")): one for one in images}
    names = {json.dumps(one.get("id")): one.get("name") for one in categories}
    bare = dict.fromkeys(by_number)
    crowds = 0
    for entry in annotations:
        image = by_number.get(json.dumps(entry.get("image_id")))
        if image is None:
            raise ValueError(f"image_id {entry.get('image_id')!r} is not among the file's images")
        if entry.get("iscrowd"):
            crowds += 1
            continue
        bare.pop(json.dumps(entry["image_id"]), None)
        name = names.get(json.dumps(entry.get("category_id")))
        yield {**entry, key["id"]: _image_name(image), **_image_size(image)} | ({"class": name} if name else {})
    for number in bare:
        yield {key["id"]: _image_name(by_number[number]), **_image_size(by_number[number])}
    if crowds:
        log.warning("%d annotations of crowds are left out", crowds)


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _image_name(image: Record) -> Any:
    name = image.get("file_name")
    if not isinstance(name, str):
        return image.get("id")
    stem, dot, ending = name.rpartition(".")
    return stem if dot and "/" not in ending else name


def _image_size(image: Record) -> Record:
    return {key: image[key] for key in ("height", "width") if key in image}


def _record(entry: Any, columns: Mapping[str, str]) -> Record:
    """One entry's fields, checked."""
    if not isinstance(entry, dict):
        raise ValueError(f"not a mapping of keys to values: {str(entry)[:24]!r}")
    row: Record = {"rle": ""}
    for name, field in columns.items():
        value = entry.get(name)
        if field == "rle":
            row |= _mask(value)
        elif value is not None:
            row[field] = _word(name, value)
        elif field == "id":
            raise ValueError(f"{name} is missing")
    row |= {field: _word(field, entry[field]) for field in ("class", "height", "width") if field in entry}
    if row["rle"] == "" and not row.keys().isdisjoint(("class", "class_number")):
        raise ValueError("there is a class but no mask")
    return row


def _word(name: str, value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and len(text := str(value)) < 10_000:
        return text.strip()
    raise ValueError(f"{name} is neither a number nor a text: {str(value)[:24]!r}")


def _mask(value: Any) -> Record:
    if value is None:
        return {}
    if isinstance(value, list):
        return {"rle": tuple(_ring(ring) for ring in value)}
    if not isinstance(value, dict):
        raise ValueError(f"the mask is neither polygons nor counts: {str(value)[:24]!r}")
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"the mask's size is not [height, width]: {str(size)[:24]!r}")
    if not isinstance(counts, str) and not (isinstance(counts, list) and all(type(one) is int for one in counts)):
        raise ValueError("the mask's counts are neither a text nor a list of whole numbers")
    return {"rle": counts, "height": str(size[0]), "width": str(size[1])}


def _ring(values: Any) -> np.ndarray:
    """[x, y, x, y, …] or [[x, y], …] → (N, 2) float64."""
    flat = values if isinstance(values, list) else []
    if flat and all(isinstance(pair, list) and len(pair) == 2 for pair in flat):
        flat = [number for pair in flat for number in pair]
    numbers = all(isinstance(number, (int, float)) and abs(number) < 1e9 for number in flat)  # NaN is not below either
    if not numbers or len(flat) < 6 or len(flat) % 2:
        raise ValueError(f"a polygon is not three or more points x, y: {str(values)[:24]!r}")
    return np.array(flat, np.float64).reshape(-1, 2)
