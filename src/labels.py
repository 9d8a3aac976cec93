"""Label files of any encoding → label arrays, what each image's label covers, and how an image looks.

label = decode_mask(Path("masks/a.png"), config, unknown)  # see README.md, "Labels", for the shapes
row = coverage(label, config)
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from competitions import ARCHIVES
from config import IGNORE_INDEX, Config
from errors import UserError
from images import colours_to_classes, full_scale, number_instances, read_label_file, resize_label

if TYPE_CHECKING:
    import pandas as pd

Colour = tuple[int, int, int]
LOOKS = ("height", "width", "brightness", "saturation")  # columns of coverage.csv


def label_names(config: Config) -> tuple[str, ...]:
    """The class of each label value: a binary task's 0 is "background", any other task's 0 is its first class."""
    return ("background", *config.classes) if config.task == "binary" else config.classes


def name_encoding(config: Config) -> Config:
    """The config with its mask files' encoding spelled out, where `data.labels.format` names it."""
    labels = config.data.labels
    if labels.kind != "masks" or labels.format not in ARCHIVES:
        return config
    fmt = ARCHIVES[labels.format]
    known = {"encoding": fmt.encoding, "values": fmt.values, "palette": fmt.palette, "ignore": fmt.ignore}
    data = config.data.model_copy(update={"labels": labels.model_copy(update=known)})
    return config.model_copy(update={"data": data})


def check_encoding(config: Config) -> None:
    """Raises UserError where labels.encoding, palette, values or ignore do not fit the task and the classes."""
    labels, names = config.data.labels, label_names(config)
    fitting = {
        "binary": ("index", "binary", "otsu", "palette", "rgb_id"),
        "multiclass": ("index", "binary", "palette", "rgb_id"),
        "multilabel": ("binary",),  # a file with one plane a class; classes may overlap, which no single value can say
        "instances": ("instances", "rgb_id", "index"),
    }[config.task]
    if labels.encoding not in fitting:
        raise UserError(f"data.labels.encoding: {labels.encoding} holds no {config.task} labels; use {fitting[0]}")
    if config.task == "instances" and labels.ignore:
        raise UserError("data.labels.ignore: an instance map has no ignored pixels; leave it empty")
    for key, table in (("palette", labels.palette), ("values", labels.values)):
        for name in table:
            if name not in names:
                raise UserError(f"data.labels.{key}: no class {name!r}; the classes are {', '.join(names)}")
        if len(set(table.values())) < len(table):
            raise UserError(f"data.labels.{key}: two classes share one value; give each its own")
        used = labels.encoding == "palette" if key == "palette" else bool(table)
        absent = [name for name in names if name not in table and not (config.task == "binary" and name == names[0])]
        if used and absent:
            raise UserError(f"data.labels.{key}: class {absent[0]!r} has no value; give it one")
    wanted = tuple if labels.encoding == "palette" else int
    for value in labels.ignore:
        if not isinstance(value, wanted):
            kind = "colour [r, g, b]" if wanted is tuple else "number"
            raise UserError(f"data.labels.ignore: {value!r} is no {kind}; {labels.encoding} masks need one")


def decode_mask(path: Path, config: Config, unknown: Counter[Colour]) -> np.ndarray:
    """A mask file as a label array of the task; pixels of colours outside the palette are added to `unknown`.

    Binary and multiclass give `(H, W)` uint8 with 255 ignored, multilabel `(H, W, C)` uint8, instances `(H, W)` int32.
    Raises UserError naming the file for a value outside the classes and a shape the encoding cannot have.
    """
    labels = config.data.labels
    raw = read_label_file(path, colours=labels.encoding in ("palette", "rgb_id", "binary", "otsu"))
    if labels.encoding == "palette":
        return _from_colours(_rgb(raw, path), config, unknown)
    if labels.encoding in ("binary", "otsu"):
        return _from_binary(raw, path, config)
    if labels.encoding == "rgb_id":
        rgb = _rgb(raw, path).astype(np.int32)
        values = rgb[..., 0] + 256 * rgb[..., 1]
        if config.task == "binary" and not labels.values:  # whatever the id, it is the foreground
            values = np.where(np.isin(values, labels.ignore), values, values > 0)
    else:
        values = _one_plane(raw, path, labels.encoding).astype(np.int64)
    if config.task == "instances":
        return number_instances(values, path)
    return _from_values(values, path, config)


def join_parts(files: Sequence[tuple[Path, str]], size: tuple[int, int], config: Config) -> np.ndarray:
    """The label array of `size` that an image's files make together, each the mask of one instance or class.

    What is not 0 is in the mask; a file of another size is stretched. Of pixels in two masks the earlier file keeps
    them, save for multilabel. Pixels in none are background, in multiclass unknown. Raises UserError naming the file
    for a class the config does not have, and for more instances than a label holds.
    """
    planes, several = len(config.classes), config.task in ("multiclass", "multilabel")
    label = np.zeros((*size, planes) if config.task == "multilabel" else size, np.int32)
    for instance, (path, name) in enumerate(files, 1):
        if several and not name:
            raise UserError(f"data.labels.path: names no {{class}}, without which {path} is of none; put it in")
        if name and name not in config.classes:
            raise UserError(f"{path}: {name!r} is none of classes ({', '.join(config.classes)}); add it or rename it")
        grey = _brightest(read_label_file(path, colours=True))
        shown = _split_grey(grey) if _is_lossy(grey, path) else grey != 0
        mask = resize_label(shown.astype(np.uint8), size) > 0
        if config.task == "multilabel":
            label[mask, config.classes.index(name)] = 1
        else:
            number = instance if config.task == "instances" else 1 + (config.classes.index(name) if several else 0)
            label[mask & (label == 0)] = number
    if config.task == "instances":
        return number_instances(label.astype(np.int64), files[-1][0])
    # in bytes, 0 - 1 is IGNORE_INDEX
    return label.astype(np.uint8) - np.uint8(config.task == "multiclass")


def add_empty(
    labels: Iterable[tuple[str, np.ndarray]], sizes: Mapping[str, tuple[int, int]], config: Config
) -> Iterator[tuple[str, np.ndarray]]:
    """The labels of some images, then for each of the others in `sizes` one that shows nothing, or only class 0."""
    seen = set()
    for image_id, label in labels:
        seen.add(image_id)
        yield image_id, label
    planes = (len(config.classes),) if config.task == "multilabel" else ()
    for image_id, size in sizes.items():
        if image_id not in seen:
            yield image_id, np.zeros((*size, *planes), np.int32 if config.task == "instances" else np.uint8)


def warn_of_colours(unknown: Counter[Colour], key: str) -> None:
    """Tell of pixels outside the palette, in one line."""
    if unknown:
        shown = ", ".join("#{:02X}{:02X}{:02X} {}x".format(*colour, count) for colour, count in unknown.most_common(5))
        logging.getLogger("prepare").warning(
            "%s: %d pixels of %d colours outside data.labels.palette are ignored: %s",
            key,
            unknown.total(),
            len(unknown),
            shown,
        )


def label_digest(label: np.ndarray) -> str:
    """A short hash of a label's pixels: another label, another digest, though it may show as much of each class."""
    return hashlib.sha256(f"{label.shape}".encode() + np.ascontiguousarray(label).tobytes()).hexdigest()[:12]


def coverage(label: np.ndarray, config: Config) -> dict[str, int | str]:
    """What a label array shows: pixels of each class, pixels labelled at all, instances; and its digest."""
    if config.task == "instances":
        pixels = [int(np.count_nonzero(label))]
        labelled, instances = label.size, int(np.unique(label[label > 0]).size)
    elif config.task == "multilabel":
        pixels = np.count_nonzero(label == 1, axis=(0, 1)).tolist()
        labelled, instances = int((label != IGNORE_INDEX).any(axis=2).sum()), 0
    else:
        counts = np.bincount(label.ravel(), minlength=256)
        pixels = counts[: len(label_names(config))].tolist()[-len(config.classes) :]
        labelled, instances = int(label.size - counts[IGNORE_INDEX]), 0
    return {f"pixels:{name}": count for name, count in zip(config.classes, pixels, strict=True)} | {
        "labelled": labelled,
        "instances": instances,
        "label": label_digest(label),
    }


def coverage_columns(config: Config) -> list[str]:
    """The columns of coverage.csv: an image's id, what its label shows and is, its size and its look."""
    pixels = [f"pixels:{name}" for name in config.classes]
    return ["image_id", *pixels, "labelled", "instances", "label", *LOOKS]


def add_looks(coverage: "pd.DataFrame", sizes: "dict[str, tuple[int, int]]", looks: np.ndarray) -> "pd.DataFrame":
    """The table with each image's size, by id, and how it looks, `(images, 2)`, beside it; sorted by image_id."""
    import pandas as pd

    seen = pd.DataFrame(list(sizes.values()), columns=list(LOOKS[:2]), index=list(sizes))
    seen[list(LOOKS[2:])] = looks
    return coverage.join(seen, on="image_id").sort_values("image_id")


def check_classes(config: Config, coverage: "pd.DataFrame") -> None:
    """Raises UserError for a class that no label shows."""
    for name in config.classes if len(coverage) else ():
        if not coverage[f"pixels:{name}"].sum():
            kept = " kept" if config.data.labels.keep is not None else ""
            way = "draw more points" if config.data.labels.points else "take it out of classes or check data.labels"
            raise UserError(f"classes: {name!r} occurs in none of the {len(coverage)}{kept} labels; {way}")


def count_points(points: "pd.DataFrame", config: Config) -> "pd.DataFrame":
    """What each image's points show, a row an image: image_id, and what `coverage` has but in points, without digest:
    the table of points is itself watched."""
    names, ids = label_names(config), points["image_id"].astype(str)
    shown = {f"pixels:{name}": points["class"] == names.index(name) for name in config.classes}
    table = points[[]].assign(**shown, labelled=1, instances=0).astype("int64")
    return table.groupby(ids).sum().rename_axis("image_id").reset_index().assign(label="")


def appearance(image: np.ndarray) -> tuple[float, float]:
    """How an image `(H, W, C)` looks, on a coarse grid: mean brightness and mean spread between channels, in [0, 1]."""
    pixels = image[::4, ::4].astype(np.float32) / full_scale(image)
    spread = pixels[..., :3].max(axis=2) - pixels[..., :3].min(axis=2)
    return round(float(pixels.mean()), 5), round(float(spread.mean()), 5)


def _rgb(raw: np.ndarray, path: Path) -> np.ndarray:
    if raw.ndim == 2:
        raw = np.repeat(raw[..., None], 3, axis=2)
    if raw.shape[2] == 2 or raw.dtype != np.uint8:
        raise UserError(f"{path}: a colour mask has 8-bit red, green and blue, not {raw.dtype} {raw.shape}")
    return raw[..., :3]


def _one_plane(raw: np.ndarray, path: Path, encoding: str) -> np.ndarray:
    if raw.ndim == 2:
        return raw
    planes = raw[..., :3] if raw.shape[2] == 4 else raw[..., :1] if raw.shape[2] == 2 else raw
    if (planes != planes[..., :1]).any():
        raise UserError(f"{path}: a colour mask, but data.labels.encoding is {encoding}; use palette or rgb_id")
    return planes[..., 0]


def _from_colours(rgb: np.ndarray, config: Config, unknown: Counter[Colour]) -> np.ndarray:
    labels = config.data.labels
    # a binary task may leave its background out of the palette: it is black
    palette = [labels.palette.get(name, (0, 0, 0)) for name in label_names(config)]
    classes, others = colours_to_classes(rgb, palette, labels.ignore)
    unknown.update(others)
    return classes


def _from_binary(raw: np.ndarray, path: Path, config: Config) -> np.ndarray:
    if config.task == "multilabel":
        if raw.ndim != 3 or raw.shape[2] != len(config.classes):
            raise UserError(f"{path}: {raw.shape}; a multilabel mask has one plane for each of the classes")
        return (raw != 0).astype(np.uint8)
    raw = _brightest(raw)
    ignored = np.isin(raw, config.data.labels.ignore)
    grey = np.where(ignored, 0, raw).astype(raw.dtype)
    if _is_lossy(grey, path):
        binary = _split_grey(grey)
    elif config.data.labels.encoding == "otsu" and np.ptp(grey):
        binary = grey > threshold_otsu(grey)
    else:
        binary = grey != 0
    return np.where(ignored, IGNORE_INDEX, binary).astype(np.uint8)


def _brightest(raw: np.ndarray) -> np.ndarray:
    """One plane of a mask: of its colours, but not of its opacity, the largest value."""
    return raw if raw.ndim == 2 else raw[..., : {2: 1, 4: 3}.get(raw.shape[2], raw.shape[2])].max(axis=2)


def _is_lossy(grey: np.ndarray, path: Path) -> bool:
    """True for a JPEG, and for values crowding around 0 and 255: a mask that was a JPEG once, or was resized."""
    if grey.dtype != np.uint8:
        return False
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return True
    counts = np.bincount(grey.ravel(), minlength=256)
    others = counts[1:255].sum()
    return 0 < others < 0.2 * grey.size and counts[240:].sum() > others


def _split_grey(grey: np.ndarray) -> np.ndarray:
    if np.ptp(grey) < 64:  # one class fills the image, and Otsu's threshold would split its noise
        return grey > 127
    return cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1] > 0


def _from_values(values: np.ndarray, path: Path, config: Config) -> np.ndarray:
    labels, names = config.data.labels, label_names(config)
    wanted = labels.values and ({names[0]: 0} if config.task == "binary" else {}) | labels.values
    codes = [wanted[name] for name in names] if wanted else list(range(len(names)))
    label = np.full(values.shape, IGNORE_INDEX, np.uint8)
    known = np.isin(values, labels.ignore)
    if labels.encoding == "index":
        known |= values == IGNORE_INDEX
    for number, code in enumerate(codes):
        hits = values == code
        label[hits] = number
        known |= hits
    if not known.all():
        value = int(values[~known][0])
        count = int(np.count_nonzero(values == value))
        raise UserError(
            f"{path}: value {value} ({count} pixels) is none of the {len(names)} classes; name it in "
            "data.labels.values, or in data.labels.ignore if it means unknown"
        )
    return label
