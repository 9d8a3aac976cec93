"""Tables of points: read and checked, parted by image, drawn on a raster."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from errors import UserError
from points import load_points, points_by_image, rasterise, read_points

LETTERS = ["a", "b", "c"]
SIZES = {"a": (4, 6), "Tile 1/b": (10, 10)}


def write_points(path: Path, *rows: str, header: str = "image_id,x,y,class") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_points_by_name_or_number(tmp_path: Path):
    path = write_points(tmp_path / "p.csv", "a,5,3,b", "Tile 1/b,0,9,2", "", "a,5,3,1")
    points = read_points(path, LETTERS, SIZES)
    assert points.to_numpy().tolist() == [["a", 5, 3, 1], ["Tile 1/b", 0, 9, 2]]
    points.to_csv(tmp_path / "again.csv", index=False)
    again = load_points(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(again.astype({"image_id": str}), points, check_dtype=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0,0,a", "q,0,0,a"], r"p\.csv row 3: id 'q' has no image; add the image or drop the row"),
        (["a,6,0,a"], r"row 2: \(6, 0\) is outside 'a' of 6x4"),
        (["", "a,0,4,a"], r"row 3: \(0, 4\) is outside"),
        (["a,-1,0,a"], "row 2: .* is outside"),
        (["a,1.5,0,a"], "row 2: x '1.5', y '0' are not whole numbers"),
        (["a,,0,a"], "row 2: x '', y '0' are not whole"),
        (["a,0,0,d"], "row 2: no class 'd'; use one of a, b, c or its number 0 to 2"),
        (["a,0,0,3"], "row 2: no class '3'"),
        (["a,0,0,-1"], "row 2: no class '-1'"),
        (["a,1,2,a", "a,1,2,b"], r"row 3: pixel \(1, 2\) of 'a' is 'b' here but 'a' in a row before; keep one"),
        (["a,1,2"], "row 2: 3 values; a point has image_id,x,y,class"),
    ],
)
def test_bad_points(tmp_path: Path, rows: list[str], message: str):
    with pytest.raises(UserError, match=message):
        read_points(write_points(tmp_path / "p.csv", *rows), LETTERS, SIZES)


def test_bad_points_files(tmp_path: Path):
    with pytest.raises(UserError, match="row 1: header id,x; a points table has image_id,x,y,class"):
        read_points(write_points(tmp_path / "p.csv", header="id,x"), LETTERS, SIZES)
    (tmp_path / "p.csv").write_bytes(b"image_id,x,y,class\n\xff,0,0,a\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_points(tmp_path / "p.csv", LETTERS, SIZES)
    with pytest.raises(UserError, match="missing; put the points table there"):
        read_points(tmp_path / "none.csv", LETTERS, SIZES)


def test_points_by_image():
    ids = ["b", "a", "b", "10", "a", "b"]
    table = pd.DataFrame({"image_id": ids, "x": range(6), "y": range(10, 16), "class": [0, 1, 2, 0, 1, 2]})
    for given in (table, table.astype({"image_id": "category"})):
        found = points_by_image(given)
        assert {one: points.tolist() for one, points in found.items()} == {
            one: table[table["image_id"] == one][["x", "y", "class"]].to_numpy().tolist() for one in ("a", "b", "10")
        }
        assert found["a"].base is not None  # a view: a million images share one array
    assert points_by_image(table[:0]) == {}


def test_rasterise():
    points = np.int32([[0, 0, 1], [5, 3, 0], [3, 2, 2]])
    label = rasterise(points, (4, 6))
    assert label.dtype == np.uint8
    assert {(y, x): int(label[y, x]) for y, x in np.argwhere(label != 255)} == {(0, 0): 1, (3, 5): 0, (2, 3): 2}
    half = rasterise(points, (2, 3), (4, 6))
    assert {(y, x): int(half[y, x]) for y, x in np.argwhere(half != 255)} == {(0, 0): 1, (1, 2): 0, (1, 1): 2}
    double = rasterise(points, (8, 12), (4, 6))
    assert double[7, 11] == 0
    assert (rasterise(points, (1, 1), (4, 6)) == 255).all()  # all three on one pixel: nobody knows
