"""A person's own folder of masks → what a format's writer takes: no training, no config.

for image_id, mask in read_folder(masks, fmt, classes, task, details): ...

Masks are PNG or TIFF: 0/1 or 0/255, class indices, planes, or instance numbers (16 bit, or values above 1). A file
`instances.csv` among them may give instances a class and a score: `image_id,instance,class,score`.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import rle
from config import IGNORE_INDEX, ArchiveFormat, TableFormat
from detections import cut_instances, read_instances
from errors import UserError
from formats import Detections
from images import TIFF, image_size, read_label_file, resize_label
from index import fill, find_files
from listing import files_below
from tables import INSTANCES, VALUED, Size, class_field

Details = dict[str, dict[int, tuple[int, float]]]  # image id → instance → class index, score

PICTURES = (".png", ".jpg", ".jpeg", ".npy", *TIFF)


def find_pictures(folder: Path, name: str = "", image_id: str = "{id}") -> dict[str, Path]:
    """The image files below a folder by id: their path without its ending, or the fields of the template `name`.

    Raises UserError for a missing or empty folder and for two files of one id.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {'a file, not a folder' if folder.is_file() else 'no such folder'}")
    if name:
        pairs = [(fill(image_id, fields, "--id", name), path) for path, fields in find_files(folder, name, "--name")]
    else:
        paths = [path for path in files_below(folder) if path.suffix.lower() in PICTURES and path.name[0] != "."]
        pairs = [(path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths]
    found: dict[str, Path] = {}
    for one, path in pairs:
        if one in found:
            raise UserError(f"{path}: the id {one!r} is also that of {found[one]}; keep one or use --name and --id")
        found[one] = path
    if not found:
        raise UserError(f"{folder}: no PNG, JPG or TIFF file here")
    return found


def picture_sizes(folder: Path, name: str = "", image_id: str = "{id}") -> dict[str, Size]:
    """The (height, width) of every image below a folder, from the headers, by id."""
    return {one: image_size(path) for one, path in find_pictures(folder, name, image_id).items()}


def read_details(folder: Path, classes: Sequence[str]) -> Details:
    """`instances.csv` of a folder of masks → class and score by image and instance; {} where there is none.

    Raises UserError naming the row that does not fit.
    """
    path, details = folder / "instances.csv", {}
    if not path.is_file():
        return details
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True, strict=True)
        try:
            if not {"image_id", "instance"} <= set(reader.fieldnames or ()):
                raise ValueError("the header is not image_id,instance,class,score")
            for row in reader:
                image_id, word, score = row["image_id"], row.get("class") or "", row.get("score") or "1"
                if not re.fullmatch("[0-9]{1,9}", row["instance"] or "") or row.get(None):
                    raise ValueError(
                        f"instance {row['instance']!r} is not a number; write image_id,instance,class,score"
                    )
                if word not in classes and (word or len(classes) > 1):
                    raise ValueError(f"class {word!r} is none of {', '.join(classes)}")
                one = details.setdefault(image_id, {})
                if int(row["instance"]) in one:
                    raise ValueError(f"instance {row['instance']} of {image_id!r} occurs twice")
                one[int(row["instance"])] = (classes.index(word) if word else 0, _number(score))
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path} row {reader.line_num}: {error}") from None
    return details


def read_folder(
    masks: Mapping[str, Path],
    fmt: TableFormat | ArchiveFormat,
    classes: Sequence[str],
    task: str,
    details: Details,
    *,
    separate: bool = False,
) -> Iterator[tuple[str, np.ndarray | Detections]]:
    """Mask files → (id, label array) as the task wants it, or Detections for a format of instances.

    Raises UserError naming the file whose values or planes do not fit.
    """
    of_instances = isinstance(fmt, TableFormat) and fmt.rows in INSTANCES
    if of_instances and (unknown := sorted(details.keys() - masks.keys())):
        raise UserError(
            f"instances.csv: image_id {unknown[0]!r} is no mask's ({len(unknown)} such); write it like {min(masks)!r}"
        )
    for image_id, path in masks.items():
        raw = read_label_file(path, colours=False)
        if of_instances:
            label, kind = _instance_label(raw, path, len(classes), task, image_id in details)
            given = details.get(image_id, {})
            if kind == "instances":
                there = set(np.unique(label[label > 0]).tolist())
                needed = details or (class_field(fmt) and len(classes) > 1)
                if bare := there - given.keys() if needed else ():
                    raise UserError(f"{path}: instance {min(bare)} has no class or score; add its row to instances.csv")
                if odd := given.keys() - there:
                    raise UserError(f"{path}: instance {min(odd)} of instances.csv has no pixel; drop its row")
            label = resize_label(label, fmt.size or label.shape[:2])
            found = cut_instances(label, kind, fmt.order, separate=separate, details=given)
            yield image_id, Detections(label.shape[:2], found)
        else:
            yield image_id, read_label(raw, path, len(classes), task)


def read_results(
    path: Path, fmt: TableFormat, classes: Sequence[str], sizes: Mapping[str, Size]
) -> Iterator[tuple[str, Detections]]:
    """COCO results → (id, Detections) for another format of instances; an image without a result has none.

    Raises UserError as `read_instances` does.
    """
    found = dict(read_instances(path, "coco", classes, sizes))
    for image_id, size in sizes.items():
        instances, shape = found.pop(image_id, []), fmt.size or size
        if fmt.order == "C" or shape != size:
            masks = [resize_label(rle.draw_runs(one.runs, size), shape) for one in instances]
            pairs = [(one, rle.mask_runs(mask, fmt.order)) for one, mask in zip(instances, masks, strict=True)]
            instances = [replace(one, runs=runs) for one, runs in pairs if runs[0].size]
        yield image_id, Detections(shape, instances)
    if found:
        raise UserError(f"{path}: image {next(iter(found))!r} is not among the images; take the right folder")


def read_label(raw: np.ndarray, path: Path, class_count: int, task: str) -> np.ndarray:
    """A mask file's pixels → a label array. Raises UserError for values that the task's labels cannot have.

    A multilabel file has a plane a class, or one plane where k is class k counted from 1 and 0 is none of them.
    """
    if raw.ndim == 3 and task == "multilabel":
        if raw.shape[2] != class_count:
            raise UserError(f"{path}: {raw.shape[2]} planes for {class_count} classes; a plane a class")
        return (raw != 0).astype(np.uint8)
    raw = _flat(raw, path)
    if task == "binary" or (task == "multilabel" and class_count == 1):
        if not is_binary(raw):
            raise UserError(f"{path}: value {raw.max()} in a mask of one class; it has 0 and 1, or 0 and 255")
        label = (raw != 0).astype(np.uint8)
        return label if task == "binary" else label[..., None]
    if raw.dtype == np.uint8 and (raw == IGNORE_INDEX).any() and class_count <= IGNORE_INDEX:
        raise UserError(f"{path}: its mask has unknown pixels ({IGNORE_INDEX}); a submission needs a class")
    highest = class_count if task == "multilabel" else class_count - 1
    if task != "instances" and raw.max(initial=0) > highest:
        raise UserError(f"{path}: value {raw.max()}, but the {class_count} classes go to {highest}")
    if task == "multilabel":
        return (raw[..., None] == np.arange(1, class_count + 1)).astype(np.uint8)
    return raw.astype(np.int32)


def default_task(fmt: TableFormat | ArchiveFormat, class_count: int) -> str:
    """What a folder's masks are taken for, where nobody says."""
    if isinstance(fmt, ArchiveFormat):
        return "binary" if class_count == 2 else "multiclass"
    if fmt.rows in INSTANCES:
        return "instances"
    return "multilabel" if fmt.rows == "image_class" else "multiclass" if fmt.codec in VALUED else "binary"


def is_binary(raw: np.ndarray) -> bool:
    """Whether an array holds 0 and at most one of 1 and 255."""
    values = raw[raw != 0]
    return values.size == 0 or (values[0] in (1, IGNORE_INDEX) and bool((values == values[0]).all()))


def _instance_label(raw: np.ndarray, path: Path, class_count: int, task: str, listed: bool) -> tuple[np.ndarray, str]:
    """A mask file for a format of instances → a label array and what it holds."""
    if task != "instances":
        return read_label(raw, path, class_count, task), task
    raw = _flat(raw, path)
    if raw.dtype == np.uint8 and not listed and is_binary(raw):
        return (raw != 0).astype(np.uint8), "binary"
    if raw.max(initial=0) > np.iinfo(np.int32).max:
        raise UserError(f"{path}: instance number {raw.max()} is too large; number them from 1")
    return raw.astype(np.int32), "instances"


def _flat(raw: np.ndarray, path: Path) -> np.ndarray:
    if raw.ndim == 3:
        planes = raw[..., :3] if raw.shape[2] == 4 else raw[..., :1] if raw.shape[2] == 2 else raw
        if (planes != planes[..., :1]).any():
            raise UserError(f"{path}: a colour mask; save it with one plane of numbers")
        raw = planes[..., 0]
    if raw.min(initial=0) < 0:
        raise UserError(f"{path}: value {raw.min()} is below 0")
    return raw


def _number(text: str) -> float:
    score = float(text)
    if not np.isfinite(score):
        raise ValueError(f"score {text!r} is not a number")
    return score
