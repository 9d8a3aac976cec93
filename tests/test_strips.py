"""Images too large to hold: windows that are the whole image's, rows decoded once, files written in bands."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

import strips
from config import Image
from dataset import load_image
from errors import UserError
from strips import open_strips, write_class_tiff_bands, write_picture_bands
from transforms import normalise

GREY = Image(channels=1, mean=(0.3,), std=(0.2,))
COLOUR = Image(mean=(0.1, 0.2, 0.3), std=(0.2, 0.4, 0.6))


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "LARGE", 1000)


def draw(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize(
    ("image", "options", "settings"),
    [
        (draw(150, 90, 3), {"tile": (32, 64), "compression": "zlib"}, COLOUR),
        (draw(150, 90, 4), {"rowsperstrip": 7, "extrasamples": ["unassalpha"]}, COLOUR),
        (draw(150, 90, dtype=np.uint16), {"tile": (16, 16), "photometric": "minisblack"}, GREY),
        (draw(150, 90), {"tile": (64, 32), "photometric": "minisblack"}, COLOUR),
    ],
    ids=["tiles", "strips and alpha", "16 bit", "grey as colour"],
)
def test_windows_are_the_whole_images_and_rows_are_decoded_once(
    tmp_path: Path, image: np.ndarray, options: dict, settings: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **{"photometric": "rgb"} | options)
    pixels, mean, std = load_image(path, settings)
    whole = normalise(pixels, mean, std, 255.0 if pixels.dtype == np.uint8 else 1.0)
    decoded, most = [], 0
    decode = strips.Strips._decode
    monkeypatch.setattr(
        strips.Strips, "_decode", lambda self, top, end: decoded.extend(range(top, end)) or decode(self, top, end)
    )
    opened = open_strips(path, settings)
    assert opened.shape == whole.shape == (settings.channels, 150, 90)
    for left in (0, 50):
        for top in (0, 20, 33, 70, 110):
            window = (slice(None), slice(top, top + 40), slice(left, left + 40))
            np.testing.assert_array_equal(opened[window], whole[window])
            most = max(most, len(opened._rows))
    assert decoded == 2 * list(range(150))
    assert most <= 40 + 2 * opened.step
    np.testing.assert_array_equal(opened[:, 5:9, 30:40], whole[:, 5:9, 30:40])  # back at the top
    assert opened._rows.shape[1] == 10, "only the columns that are asked for"


def test_what_is_not_so_simple_is_read_whole(tmp_path: Path) -> None:
    def save(name: str, image: np.ndarray, **options: object) -> Path:
        tifffile.imwrite(tmp_path / name, image, **options)
        return tmp_path / name

    plain = save("plain.tif", draw(50, 40, 3), photometric="rgb")
    assert open_strips(plain, COLOUR) is not None
    assert open_strips(plain, COLOUR.model_copy(update={"long_side": 45})) is None
    assert open_strips(plain, Image(normalise="image")) is None
    assert open_strips(save("small.tif", draw(30, 30, 3), photometric="rgb"), COLOUR) is None
    assert open_strips(save("float.tif", np.zeros((50, 40), np.float32)), GREY) is None
    turned = [(274, "H", 1, 6, True)]
    assert open_strips(save("turned.tif", draw(50, 40), photometric="minisblack", extratags=turned), GREY) is None
    assert open_strips(save("planes.tif", draw(3, 50, 40), planarconfig="separate", photometric="rgb"), COLOUR) is None
    assert open_strips(save("white.tif", draw(50, 40), photometric="miniswhite"), GREY) is None
    table = np.zeros((3, 256), np.uint16)
    assert open_strips(save("table.tif", draw(50, 40), photometric="palette", colormap=table), COLOUR) is None
    assert open_strips(tmp_path / "a.png", COLOUR) is None
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0nothing")
    with pytest.raises(UserError, match="broken.tif: cannot be read"):
        open_strips(broken, COLOUR)
    cut = save("cut.tif", draw(50, 40, 3), photometric="rgb", rowsperstrip=5)
    with pytest.raises(UserError, match=r"cut.tif: has 3 channels where image.channels says 2"):
        open_strips(cut, Image(channels=2, mean=(0, 0), std=(1, 1)))[:, :5, :5]


@pytest.mark.parametrize("heights", [[300], [1, 255, 44], [100, 100, 100]])
def test_bands_are_written_as_one_picture(tmp_path: Path, heights: list[int]) -> None:
    picture, label = draw(300, 270, 3), draw(300, 270) % 3
    ends = np.cumsum(heights)[:-1]
    write_picture_bands(tmp_path / "a.png", (300, 270), np.split(picture, ends))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)
    colours = [(0, 0, 0), (1, 2, 3), (255, 128, 0)]
    write_class_tiff_bands(tmp_path / "a.tif", (300, 270), np.split(label, ends), colours)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.asarray(), label)
        assert file.pages.first.colormap[:, 2].tolist() == [255 * 257, 128 * 257, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.tif"]
