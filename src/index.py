"""From whatever layout the data came in to one list of images, and the index every other stage reads.

    images = list_images(config.data, root)  # which files are images, of which id, group and split
    masks = match_masks(config.data, root, images, config.data.labels.path)  # id → mask file
    index = read_index(paths)  # the table prepare.py wrote, a row an image

A template is a path below the data's root: `{tile}/images/{part}.jpg`. A named field matches anything but `/` and must
read the same wherever it is repeated; `*` matches anything but `/`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import Paths, show_changes, stage_settings
from config import Config, Data
from errors import UserError
from images import image_size
from layouts import Manifest, read_checked
from listing import FIELD, SPLITS, TABLES, check_root, glob_of, pattern_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image_id", "image", "mask", "points", "group", "split", "height", "width")
PSEUDO_COLUMNS = ("image_id", "mask", "confidence", "kept", "teachers")  # of the pseudo-labels' index.csv


@dataclass(frozen=True, slots=True)  # there may be a million
class ImageFile:
    """One image as the layout has it. Those of `data.images` are "labelled" until a label turns out to be missing."""

    image_id: str
    path: Path
    fields: dict[str, str]
    group: str
    split: str
    size: tuple[int, int]  # height, width


def read_index(paths: Paths) -> "pd.DataFrame":
    """The index, sorted by image_id; points, height and width are integers, all else is text.

    Raises UserError where it is missing or is no index.
    """
    if not paths.index.is_file():
        raise UserError(f"{paths.index}: missing; run python src/prepare.py with this config first")
    table = read_stage_table(paths.index, COLUMNS)
    for image_id in table["image_id"]:
        if not names_a_file(image_id):
            raise UserError(f"{paths.index}: image_id {image_id!r} leaves its folder; run prepare.py --fresh")
    try:
        return table.astype({"points": int, "height": int, "width": int})
    except ValueError as error:
        raise UserError(f"{paths.index}: {error}; run prepare.py --fresh") from None


def read_folds(paths: Paths) -> "pd.DataFrame":
    """What make_folds.py wrote, or a person edited: image_id, group, fold (-1 is never held out). Raises UserError."""
    table = read_stage_table(paths.folds, ("image_id", "group", "fold"), image_id=str, group=str)
    if table["fold"].dtype != "int64":
        raise UserError(f"{paths.folds}: its column fold holds more than whole numbers; make the folds again")
    return table


def read_training_folds(config: Config, paths: Paths, index: "pd.DataFrame") -> "pd.DataFrame":
    """The folds, which a person may have edited, of data prepared for the config's classes.

    Raises UserError where the data were prepared for others, and, naming the image, where the folds are none of the
    index's labelled images.
    """
    wanted = stage_settings(config, "task", "classes")
    made = read_checked(paths.data / "manifest.json", Manifest)["made_from"]["settings"]
    if shown := show_changes({key: made.get(key) for key in wanted}, wanted):
        raise UserError(f"{paths.data}: prepared for others ({shown}); put the setting back, or run prepare.py --fresh")
    folds, labelled = read_folds(paths), set(index.loc[index["split"] == "labelled", "image_id"])
    last = config.folds.count - 1
    faults = {
        "is no labelled image; take its row out": ~folds["image_id"].isin(labelled),
        f"is in none of the folds -1 to {last}; give it one of these": ~folds["fold"].between(-1, last),
    }
    for said, where in faults.items():
        for image_id in folds.loc[where, "image_id"]:
            raise UserError(f"{paths.folds}: {image_id!r} {said}")
    return folds


def read_stage_table(path: Path, columns: Sequence[str], **types: type) -> "pd.DataFrame":
    """A CSV that a stage wrote, a row an image; all is text unless `types` gives the text columns, the rest numbers.

    Raises UserError where it is no such table, lacks one of the `columns` or has an image twice.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=types or str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; run the stage that writes it first (bash run.sh does all in order)"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: no table of a stage ({error}); delete it and run its stage again") from None
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"{path}: it has no column {missing[0]}; delete it and run its stage again")
    for name in table if types and len(table) else ():
        if name not in types and not pd.api.types.is_numeric_dtype(table[name]):
            raise UserError(f"{path}: column {name} holds more than numbers; delete it and run its stage again")
    for image_id in table.loc[table["image_id"].duplicated(), "image_id"]:
        raise UserError(f"{path}: {image_id!r} is in it twice; keep one row, or delete it and run its stage again")
    return table


def list_images(data: Data, root: Path) -> list[ImageFile]:
    """All images of the data, sorted by id. Raises UserError for an empty folder, a template that nothing matches, two
    images of one id, an id or group of unknown fields, and an image whose header cannot be read."""
    check_root(root)
    if data.labels.kind != "none" and not (data.images and data.labels.path):
        raise UserError("data.images and data.labels.path: say where the labelled images and their labels are")
    # "{id}.tif" also matches what "{id}_mask.tif" does
    labels = data.labels.path if data.labels.kind == "masks" else ""
    hidden = "" if data.solution.endswith(TABLES) else data.solution
    masks: set[Path] = set()
    for key, template in (("data.labels.path", labels), ("data.solution", hidden)):
        if template not in ("", data.images, data.unlabelled, data.test):
            masks |= {path for path, _ in find_files(root, template, key, needed=key == "data.labels.path")}
    images: dict[str, ImageFile] = {}
    for split, template in zip(SPLITS, (data.images, data.unlabelled, data.test), strict=True):
        key = "data.images" if split == "labelled" else f"data.{split}"
        found = find_files(root, template, key) if template else []
        _add_images(images, data, split, template, [one for one in found if one[0] not in masks])
    return [images[image_id] for image_id in sorted(images)]


def list_test_images(data: Data, root: Path) -> list[ImageFile]:
    """The images of `data.test` alone, sorted by id; none is fine, since a hidden test set may be empty where it can be
    seen. Raises UserError as `list_images` does."""
    if not root.is_dir() or not data.test:
        raise UserError(f"data.test: no folder {root}" if data.test else "data.test: say where the test images lie")
    images: dict[str, ImageFile] = {}
    _add_images(images, data, "test", data.test, find_files(root, data.test, "data.test", needed=False))
    return [images[image_id] for image_id in sorted(images)]


def _add_images(
    images: dict[str, ImageFile], data: Data, split: str, template: str, found: list[tuple[Path, dict[str, str]]]
) -> None:
    for path, fields in found:
        image_id = fill(data.id, fields, "data.id", template)
        if image_id != image_id.strip() and (split == "test" or data.labels.kind in ("rle", "points")):
            raise UserError(f"{path}: {image_id!r} has a blank at its end, which no table keeps; rename the file")
        if not names_a_file(image_id):
            raise UserError(
                f"data.id: {image_id!r} leaves the folder of masks; let it start with a name, and without .."
            )
        # a pool or test set may lie outside the groups
        grouped = split == "labelled" or field_names(data.group) <= fields.keys()
        group = fill(data.group, fields, "data.group", template) if grouped else ""
        if image_id in images:
            other = images[image_id].path
            raise UserError(f"data.id: {other} and {path} are both {image_id!r}; use more of the template's fields")
        images[image_id] = ImageFile(image_id, path, fields, group, split, image_size(path))


def find_files(root: Path, template: str, key: str, needed: bool = True) -> list[tuple[Path, dict[str, str]]]:
    """Files below `root` that match a template, sorted, with what each field read. `key` names the template in errors.

    Raises UserError, with an example of what is there, where nothing matches, if `needed`.
    """
    if not template or template.startswith("/") or ".." in template.split("/"):
        raise UserError(f"{key}: {template!r} is no path below data.root ({root}); write it from there")
    found = []
    for path in sorted(root.glob(glob_of(template))):
        relative = path.relative_to(root).as_posix()
        match = pattern_of(template).fullmatch(relative)
        hidden = any(part.startswith(".") for part in relative.split("/"))  # ".DS_Store", "._a.jpg"
        if match and not hidden and path.is_file():
            try:
                relative.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(f"{path}: its name is not UTF-8; rename the file") from None
            if "\r" in relative:  # tables end their rows by it
                raise UserError(f"{str(path)!r}: a carriage return in its name; rename the file")
            found.append((path, match.groupdict()))
    if needed and not found:
        raise UserError(f"{key}: no file matches {template!r} below {root}; {_example(root, template)}")
    return found


def match_masks(
    data: Data, root: Path, images: Sequence[ImageFile], template: str, *, key: str, complete: bool = True
) -> dict[str, Path]:
    """Which mask file belongs to which image id: over the fields both templates share, or by stem or last number.

    Images without a mask are left out. Raises UserError for two masks of one image and, if `complete`, for a mask
    without an image.
    """
    number = data.labels.match == "number"
    if not images:
        raise UserError(f"{key}: {template!r} matches every image there is; name the masks otherwise")
    shared = field_names(template) & set.intersection(*(set(image.fields) for image in images))
    if number:  # the number stands for the file's name, so only its folders have to agree
        shared &= field_names(template.rpartition("/")[0])
    elif not shared:
        raise UserError(f"{key}: {template!r} shares no field with data.images; name one alike, or match: number")
    found = find_files(root, template, key)
    # by number, files of one stem belong together before their numbers are looked at
    stems = {_stem_key(image.path, image.fields, shared) for image in images} if number else set()
    stems &= {_stem_key(path, fields, shared) for path, fields in found}
    masks: dict[tuple[str | int, ...], Path] = {}
    for path, fields in found:
        join = _join_key(path, fields, shared, number, stems)
        if join in masks:
            raise UserError(f"{key}: {masks[join]} and {path} are masks of one image; keep one or name more fields")
        masks[join] = path
    matched: dict[str, Path] = {}
    owners: dict[tuple[str | int, ...], Path] = {}
    for image in images:
        join = _join_key(image.path, image.fields, shared, number, stems)
        if join in masks:
            if join in owners:
                raise UserError(f"{key}: {masks[join]} fits {owners[join]} and {image.path}; name more fields")
            owners[join] = image.path
            matched[image.image_id] = masks[join]
    orphans = [path for join, path in masks.items() if join not in owners]
    if complete and orphans:
        raise UserError(f"{orphans[0]}: a mask without an image ({len(orphans)} such); add its image or remove it")
    return matched


def is_parted(template: str, images: Sequence[ImageFile]) -> bool:
    """Whether a template names a file an instance or class, `{instance}` or `{class}`, and not a mask an image."""
    return bool(_part_fields(template, images))


def match_parts(
    root: Path,
    images: Sequence[ImageFile],
    template: str,
    classes: Sequence[str],
    *,
    key: str,
    complete: bool = True,
) -> dict[str, list[tuple[Path, str]]]:
    """The files of each image id that together are its label, each with its class, "" where the template names none.

    Images without any are left out. Raises UserError for two images of the same files and, if `complete`, for a file
    without an image.
    """
    known = set.intersection(*(set(image.fields) for image in images))
    shared = sorted((field_names(template) - _part_fields(template, images)) & known)
    if not shared:
        raise UserError(f"{key}: {template!r} shares no field with data.images; name one alike")
    owners: dict[tuple[str, ...], ImageFile] = {}
    for image in images:
        first = owners.setdefault(tuple(image.fields[name] for name in shared), image)
        if first is not image:
            raise UserError(f"{key}: {template!r} fits {first.path} and {image.path}; name more fields")
    parts: dict[str, list[tuple[Path, str]]] = {}
    for path, fields in find_files(root, template, key):
        relative = path.relative_to(root).as_posix()
        # the longest class with an image: {id}_{class} may be read in several ways where a class holds a "_"
        words = sorted((word for word in classes if word in relative), key=len, reverse=True)
        read = [pattern_of(template, re.escape(word)).fullmatch(relative) for word in words if "class" in fields]
        for one in (*(match.groupdict() for match in read if match), fields):
            if owner := owners.get(tuple(one[name] for name in shared)):
                break
        if owner is not None:
            parts.setdefault(owner.image_id, []).append((path, one.get("class", "")))
        elif complete:
            raise UserError(f"{path}: a mask without an image; add its image or remove it")
    return parts


def _part_fields(template: str, images: Sequence[ImageFile]) -> set[str]:
    return (field_names(template) & {"instance", "class"}).difference(*(image.fields for image in images))


def settle_splits(data: Data, images: Sequence[ImageFile], labelled: set[str]) -> list[ImageFile]:
    """Give every image its split, now that it is known which have a label.

    Raises UserError for an image without one where `labels.without_label` is "error", and for a split that stays empty.
    """
    instead = "unlabelled" if data.labels.kind == "none" else data.labels.without_label
    settled = []
    for image in images:
        if image.split == "labelled" and image.image_id not in labelled:
            if instead in ("error", "empty"):  # points of nothing say nothing
                raise UserError(
                    f"{image.path}: image {image.image_id!r} has no label in {data.labels.path}; add one, remove "
                    "the image, or set data.labels.without_label to unlabelled, test or, unless of points, empty"
                )
            image = replace(image, split=instead)
        settled.append(image)
    needed = {"labelled"} if data.labels.kind != "none" else set()
    if instead == "test":
        needed.add("test")
    for split in sorted(needed - {image.split for image in settled}):
        raise UserError(f"data: no image is {split}; check data.labels.path and data.labels.without_label")
    return settled


def names_a_file(image_id: str) -> bool:
    """Whether a file named by an id lies below the folder it is meant for."""
    return not image_id.startswith("/") and ".." not in image_id.split("/")


def field_names(template: str) -> set[str]:
    return {part[1] for part in FIELD.finditer(template) if part[1]}


def fill(template: str, fields: dict[str, str], key: str, source: str) -> str:
    """Put a file's fields into an id or a group. Raises UserError for a field its template does not name."""
    missing = field_names(template) - fields.keys()
    if missing:
        raise UserError(f"{key}: {template!r} uses {{{min(missing)}}}, which {source!r} does not name")
    return FIELD.sub(lambda part: fields[part[1]] if part[1] else part[0], template)


def _stem_key(path: Path, fields: dict[str, str], shared: set[str]) -> tuple[str, ...]:
    return (*(fields[name] for name in sorted(shared)), path.stem)


def _join_key(
    path: Path, fields: dict[str, str], shared: set[str], number: bool, stems: set[tuple[str, ...]]
) -> tuple[str | int, ...]:
    *key, stem = _stem_key(path, fields, shared)
    if not number:
        return tuple(key)
    if (*key, stem) in stems:
        return (*key, stem)
    digits = re.findall(r"\d+", path.stem)
    if not digits:
        raise UserError(f"{path}: neither a number in its name nor a file of its stem; rename it or use match: fields")
    return (*key, int(digits[-1]))


def _example(root: Path, template: str) -> str:
    """What lies where a template should have matched, for the person who wrote it."""
    folder = root
    for part in Path(template).parts[:-1]:
        if FIELD.search(part) or not (folder / part).is_dir():
            break
        folder = folder / part
    files: Iterator[Path] = (path for path in sorted(folder.iterdir()) for path in [path, *path.rglob("*")])
    first = next((path for path in files if path.is_file() and not path.name.startswith(".")), None)
    return f"there is for example {first.relative_to(root).as_posix()}" if first else f"{folder} is empty"
