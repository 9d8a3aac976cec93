"""Sparse labels: a table of points, `image_id,x,y,class`, and points drawn as a label array.

points = read_points(Path("points.csv"), ("land", "water"), {"a": (256, 256)})
label = rasterise(points_by_image(points)["a"], (128, 128), (256, 256))
drawn = sample_points(dense_label, config.data.labels.points, seed=1)
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config import IGNORE_INDEX, DrawnPoints
from errors import UserError
from tables import lookalike

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["image_id", "x", "y", "class"]


def read_points(path: Path, names: Sequence[str], sizes: Mapping[str, tuple[int, int]]) -> "pd.DataFrame":
    """A points table as integers: image_id, x (column), y (row), class (index into `names`), in the file's order.

    `names` are the classes by label value, `sizes` the (height, width) of each image. Repeated rows count once. Raises
    UserError naming the row for an unknown image or class, a point outside its image or between pixels, and two
    classes at one pixel.
    """
    import pandas as pd

    labels: dict[tuple[str, int, int], int] = {}
    known = {image_id: image_id for image_id in sizes}  # one string an id, however many points name it
    for number, (image_id, x, y, name) in _read_rows(path):
        where = f"{path} row {number}"
        if image_id not in sizes:
            hint = lookalike(image_id, sizes)
            raise UserError(f"{where}: id {image_id!r} has no image{hint}; add the image or drop the row")
        height, width = sizes[image_id]
        if not (_is_whole(x) and _is_whole(y)):
            raise UserError(f"{where}: x {x!r}, y {y!r} are not whole numbers; give the pixel's column and row")
        if not (0 <= int(x) < width and 0 <= int(y) < height):
            raise UserError(f"{where}: ({x}, {y}) is outside {image_id!r} of {width}x{height}; drop the row")
        label = _class_number(name, names, where)
        other = labels.setdefault((known[image_id], int(x), int(y)), label)
        if other != label:
            raise UserError(
                f"{where}: pixel ({x}, {y}) of {image_id!r} is {names[label]!r} here but {names[other]!r} in a row "
                "before; keep one"
            )
    ids, xs, ys = ([place[axis] for place in labels] for axis in range(3))
    return pd.DataFrame(dict(zip(COLUMNS, (ids, xs, ys, list(labels.values())), strict=True)))


def load_points(path: Path) -> "pd.DataFrame":
    """The normalised table prepare.py wrote: image_id is categorical, x, y and class are integers.

    It may hold many millions of rows. Raises UserError if it is missing or is no such table.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path}: missing; run prepare.py with this config first")
    types = {"image_id": "category", "x": "int32", "y": "int32", "class": "uint8"}
    try:
        return pd.read_csv(path, dtype=types, keep_default_na=False, usecols=COLUMNS)[COLUMNS]
    except ValueError as error:
        raise UserError(f"{path}: no table of points ({error}); run prepare.py --fresh") from None


def points_by_image(table: "pd.DataFrame") -> dict[str, np.ndarray]:
    """Each image's points, `(N, 3) int32` of x, y and class in the table's order: views of one array, since there may
    be a million images."""
    ids = table["image_id"].astype("category").cat
    codes = ids.codes.to_numpy()
    rows = table[COLUMNS[1:]].to_numpy(np.int32)[np.argsort(codes, kind="stable")]
    ends = np.cumsum(np.bincount(codes, minlength=len(ids.categories)))
    return dict(zip(ids.categories.astype(str), np.split(rows, ends[:-1]), strict=True)) if len(ends) else {}


def sample_points(label: np.ndarray, drawn: DrawnPoints, seed: int, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Points of a dense label `(H, W) uint8`: `(N, 3) int32` of x, y and class, in random order, none twice.

    Known pixels are drawn evenly, or `per_class` of each class that occurs; where there are fewer, all are taken. A
    larger number drawn from one seed holds the smaller one's points. With the `shape` of a smaller working scale each
    point is the middle of another pixel of that grid, and `rasterise` at that shape brings back every one.
    """
    rows, columns = (_grid(side, count) for side, count in zip(label.shape, shape or label.shape, strict=True))
    grid = label[np.ix_(rows, columns)].ravel()
    order = np.random.default_rng(seed).permutation(np.flatnonzero(grid != IGNORE_INDEX))
    if drawn.per_class is not None:
        places = [np.flatnonzero(grid[order] == value)[: drawn.per_class] for value in np.unique(grid[order])]
        order = order[np.sort(np.concatenate(places))] if places else order
    else:
        order = order[: drawn.count or max(1, round((drawn.density or 0.0) * grid.size))]
    y, x = np.divmod(order, len(columns))
    return np.stack([columns[x], rows[y], grid[order]], axis=1).astype(np.int32)


def join_points(drawn: Mapping[str, np.ndarray]) -> "pd.DataFrame":
    """Points of many images, by id `(N, 3)` of x, y and class, as one table like that of `load_points`."""
    import pandas as pd

    counts = [len(points) for points in drawn.values()]
    rows = np.concatenate([*drawn.values(), np.zeros((0, 3), np.int32)])
    ids = pd.Categorical.from_codes(np.repeat(np.arange(len(counts)), counts), categories=list(drawn))
    table = pd.DataFrame(rows, columns=COLUMNS[1:]).astype({"class": np.uint8})
    table.insert(0, COLUMNS[0], ids)
    return table


def rasterise(points: np.ndarray, shape: tuple[int, int], size: tuple[int, int] | None = None) -> np.ndarray:
    """One image's points, `(N, 3)` of x, y and class, as `(H, W)` uint8 of a shape, which may be another than the
    image's own `size`.

    It is 255 where there is no point. Points of several classes that fall on one pixel there leave it at 255.
    """
    label = np.full(shape, IGNORE_INDEX, np.uint8)
    height, width = size or shape
    # a point is the middle of its pixel, whatever the scale; a side's is rounded for itself
    x = ((points[:, 0] + 0.5) * shape[1] / width).astype(int)
    y = ((points[:, 1] + 0.5) * shape[0] / height).astype(int)
    classes = points[:, 2].astype(np.uint8)
    label[y, x] = classes
    doubtful = label[y, x] != classes
    label[y[doubtful], x[doubtful]] = IGNORE_INDEX
    return label


def _grid(side: int, count: int) -> np.ndarray:
    """The own pixels, along one side, in the middle of each of the `count` pixels of a coarser grid."""
    return np.arange(side) if count >= side else ((np.arange(count) + 0.5) * side / count).astype(int)


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the four texts of each row that is not blank; the header is row 1."""
    if not path.is_file():
        raise UserError(f"{path}: missing; put the points table there or change data.labels.path")
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if header != COLUMNS:
                raise UserError(f"{path} row 1: header {','.join(header)}; a points table has {','.join(COLUMNS)}")
            for number, row in enumerate(rows, start=2):
                if len(row) not in (0, len(COLUMNS)):
                    raise UserError(f"{path} row {number}: {len(row)} values; a point has {','.join(COLUMNS)}")
                if row:
                    yield number, row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); save it as a CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} row {number + 1} or later: not a CSV row ({error}); mend it") from None


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,9}", text) is not None


def _class_number(name: str, names: Sequence[str], where: str) -> int:
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and len(name) < 6 and int(name) < len(names):
        return int(name)
    raise UserError(f"{where}: no class {name!r}; use one of {', '.join(names)} or its number 0 to {len(names) - 1}")
