"""Every kind of image and mask file, read and written."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from errors import UserError
from images import colours_to_classes, full_scale, image_size, read_image, read_label_file, read_mask, write_mask

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    if dtype.startswith("float"):
        return RNG.random(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype)


def save_png(path: Path, array: np.ndarray) -> None:
    """By OpenCV, which writes 16-bit colour."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(array.shape[-1] if array.ndim == 3 else 0)
    cv2.imwrite(str(path), array if order is None else cv2.cvtColor(array, order))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_comes_back(tmp_path: Path, dtype: str, channels: int):
    array = noise(20, 30, channels, dtype=dtype)
    save_png(tmp_path / "a.png", array)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, array)
    assert image_size(tmp_path / "a.png") == (20, 30)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_comes_back(tmp_path: Path, dtype: str, compression: str | None, channels: int, planar: bool):
    array, path = noise(20, 30, channels, dtype=dtype), tmp_path / "a.tif"
    layout = {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
    stored = np.moveaxis(array, 2, 0) if planar else array
    photometric = "rgb" if channels in (3, 4) else "minisblack"
    tifffile.imwrite(path, stored, photometric=photometric, compression=compression, **layout)
    image = read_image(path)
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, array)
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize(
    ("stored", "options", "wanted"),
    [
        pytest.param(noise(5, 20, 30), {}, lambda a: np.moveaxis(a, 0, 2), id="bands as pages"),
        pytest.param(noise(40, 30, 6), {}, lambda a: a, id="H, W, C without a word"),
        pytest.param(noise(20, 30, dtype="uint16"), {"byteorder": ">"}, lambda a: a[..., None], id="big-endian"),
        pytest.param(noise(20, 30) > 99, {}, lambda a: np.uint8(255) * a[..., None], id="bilevel"),
        pytest.param(noise(20, 30, dtype="int16"), {}, lambda a: np.float32(a)[..., None], id="signed"),
        pytest.param(noise(64, 80, 3), {"tile": (16, 16), "photometric": "rgb"}, lambda a: a, id="tiled"),
    ],
)
def test_tiff_layouts(tmp_path: Path, stored: np.ndarray, options: dict, wanted):
    tifffile.imwrite(tmp_path / "a.tiff", stored, **{"photometric": "minisblack", **options})
    image, expected = read_image(tmp_path / "a.tiff"), wanted(stored)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == expected.dtype
    assert image.dtype.isnative
    assert image_size(tmp_path / "a.tiff") == expected.shape[:2]


@pytest.mark.parametrize("stored", [noise(20, 30), noise(20, 30, dtype="uint16"), noise(20, 30) > 99])
def test_black_is_zero_where_a_tiff_has_white_there(tmp_path: Path, stored: np.ndarray):
    full = np.iinfo(stored.dtype).max if stored.dtype != bool else True
    tifffile.imwrite(tmp_path / "a.tif", stored ^ full, photometric="miniswhite")
    np.testing.assert_array_equal(read_label_file(tmp_path / "a.tif", colours=False), stored)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.uint8(255) * stored[..., None]
                                  if stored.dtype == bool else stored[..., None])  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", stored.astype(np.float32), photometric="miniswhite")
    with pytest.raises(UserError, match=r"a\.tif: its 0 is white and its numbers are float32"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_without_a_word_on_white_has_black_for_0(tmp_path: Path):
    stored = noise(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages.first.tags["PhotometricInterpretation"].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place : place + 2] = (300).to_bytes(2, "little")  # a number that means nothing
    (tmp_path / "a.tif").write_bytes(content)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert "PhotometricInterpretation" not in file.pages.first.tags
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], stored)


def test_other_colours_than_red_green_and_blue_are_refused(tmp_path: Path):
    for kind, channels, said in (("separated", 4, "CMYK"), ("cielab", 3, "CIELAB"), ("ycbcr", 3, "YCBCR")):
        tifffile.imwrite(tmp_path / "a.tif", noise(16, 16, channels), photometric=kind)
        with pytest.raises(UserError, match=rf"a\.tif: its colours are {said}; save it as RGB$"):
            read_image(tmp_path / "a.tif", 3)
    smooth = Image.fromarray(np.full((16, 16, 3), (200, 10, 30), np.uint8))
    smooth.save(tmp_path / "a.tif", compression="jpeg")  # YCbCr within, as JPEG is
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - (200, 10, 30)).max() <= 3


@pytest.mark.parametrize(("axes", "shape"), [("CYX", (3, 20, 30)), ("YXS", (20, 30, 3)), ("ZCYX", (1, 5, 20, 30))])
def test_a_tiff_reads_no_other_file(tmp_path: Path, axes: str, shape: tuple[int, ...]):
    """OME-TIFF may spread a picture over files, which its text names, wherever they lie."""
    stored = noise(*shape)
    kind = "rgb" if axes == "YXS" else "minisblack"
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, metadata={"axes": axes}, photometric=kind)
    flat = stored.reshape(shape[-3:])
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.ome.tif"), flat if axes == "YXS" else flat.transpose(1, 2, 0)
    )
    tifffile.imwrite(tmp_path / "secret.tif", noise(20, 30), photometric="minisblack")
    planes = "".join(
        f'<TiffData FirstC="{number}" IFD="0"><UUID FileName="{name}">urn:uuid:{number}</UUID></TiffData>'
        for number, name in enumerate(("a.ome.tif", "../secret.tif"))
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:0"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="30" '
        f'SizeY="20" SizeC="2" SizeZ="1" SizeT="1">{planes}</Pixels></Image></OME>'
    )
    (tmp_path / "x").mkdir()
    one = noise(20, 30)
    tifffile.imwrite(tmp_path / "x/a.ome.tif", one, photometric="minisblack", description=text, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "x/a.ome.tif"), one[..., None])


def test_palette_files_give_colours_or_indices(tmp_path: Path):
    indices = noise(20, 30) % 4
    colours = noise(256, 3)
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "a.png")
    tifffile.imwrite(
        tmp_path / "a.tif", indices, photometric="palette", colormap=(colours.T.astype(np.uint16) << 8 | colours.T)
    )
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name, 3), colours[indices])
        np.testing.assert_array_equal(read_label_file(tmp_path / name, colours=True), colours[indices])
        np.testing.assert_array_equal(read_label_file(tmp_path / name, colours=False), indices)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path: Path, orientation: int):
    picture = Image.fromarray(noise(20, 30, 3))
    exif = picture.getexif()
    exif[274] = orientation
    for name in ("a.jpg", "a.png", "a.tif"):
        picture.save(tmp_path / name, exif=exif)
        image = read_image(tmp_path / name)
        with Image.open(tmp_path / name) as stored:
            np.testing.assert_array_equal(image, np.asarray(ImageOps.exif_transpose(stored)))
        assert image_size(tmp_path / name) == image.shape[:2]


def test_channels_fit_what_is_asked(tmp_path: Path):
    grey, colour, alpha = noise(8, 9), noise(8, 9, 3), noise(8, 9, 4)
    for name, array in {"grey": grey, "colour": colour, "alpha": alpha}.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "both.png")
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "print.jpg")
    three = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", 3), three)
    np.testing.assert_array_equal(read_image(tmp_path / "both.png", 3), three)
    np.testing.assert_array_equal(read_image(tmp_path / "both.png", 1), grey[..., None])
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png", 3), alpha[..., :3])
    assert read_image(tmp_path / "alpha.png", 4).shape == (8, 9, 4)
    assert read_image(tmp_path / "print.jpg", 3).shape == (8, 9, 3)
    for name, array in {"colour": colour, "alpha": alpha[..., :3]}.items():
        luminance = array @ np.array([0.299, 0.587, 0.114])
        assert np.abs(read_image(tmp_path / f"{name}.png", 1)[..., 0] - luminance).max() < 1
    with pytest.raises(UserError, match=r"colour\.png: has 3 channels where image\.channels says 4"):
        read_image(tmp_path / "colour.png", 4)
    with pytest.raises(UserError, match=r"grey\.png: has 1 channels"):
        read_image(tmp_path / "grey.png", 4)


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255.0), ("uint16", 65535.0), ("float32", 1.0)])
def test_full_scale(dtype: str, white: float):
    assert full_scale(np.zeros((2, 2, 1), dtype)) == white


def write_whole(path: Path) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, noise(60, 60, 3), photometric="rgb", compression="zlib" if path.stem == "z" else None)
    else:
        array = noise(60, 60, 3, dtype="uint16" if path.stem == "deep" else "uint8")
        save_png(path, array)


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.tif", "z.tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_file_cut_short_is_told(tmp_path: Path, name: str, share: float):
    path = tmp_path / name
    write_whole(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_image, lambda path: read_label_file(path, colours=True)):
        with pytest.raises(UserError, match=rf"{name}: cannot be read \(.*\); fetch the file again") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_size_is_read_from_the_header_alone(tmp_path: Path):
    for name in ("a.png", "a.jpg"):
        write_whole(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert image_size(tmp_path / name) == (60, 60)


def test_other_unreadable_files_are_told(tmp_path: Path):
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "text.tif").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    tifffile.imwrite(tmp_path / "film.tif", noise(2, 3, 8, 8), photometric="minisblack")
    for name in ("text.jpg", "text.tif", "folder.png", "film.tif"):
        for read in (read_image, image_size):
            with pytest.raises(UserError, match=f"{name}: cannot be read"):
                read(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.png: missing"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_must_be_finite(tmp_path: Path, value: float):
    array = np.zeros((8, 8), np.float32)
    array[1, 2] = value
    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(UserError, match=r"a\.tif: holds NaN or infinite pixels"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: a mask of fractions or NaN"):
        read_label_file(tmp_path / "a.tif", colours=False)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("classes.png", np.array([[0, 1, 255], [2, 3, 4]], np.uint8)),
        ("instances.png", np.array([[0, 1, 65535], [2, 300, 4]], np.int32)),
        ("labels.tif", noise(7, 5, 3) % 2),
        ("label.tif", noise(7, 5, 1) % 2),
        ("tall.tif", noise(40, 5, 2) % 2),
    ],
)
def test_masks_come_back(tmp_path: Path, name: str, mask: np.ndarray):
    write_mask(tmp_path / "Tile 1" / name, mask)
    again = read_mask(tmp_path / "Tile 1" / name)
    assert again.dtype == mask.dtype
    np.testing.assert_array_equal(again, mask)
    first = (tmp_path / "Tile 1" / name).read_bytes()
    write_mask(tmp_path / "Tile 1" / name, mask)
    assert (tmp_path / "Tile 1" / name).read_bytes() == first
    assert [path.name for path in (tmp_path / "Tile 1").iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("a.png", np.zeros((4, 4, 3), np.uint8)),
        ("a.tif", np.zeros((4, 4), np.uint8)),
        ("a.png", np.zeros((4, 4), np.float32)),
        ("a.png", np.full((4, 4), 65536, np.int32)),
        ("a.png", np.full((4, 4), -1, np.int32)),
    ],
)
def test_masks_that_no_file_holds(tmp_path: Path, name: str, mask: np.ndarray):
    with pytest.raises(ValueError, match="no .* file holds|do not fit"):
        write_mask(tmp_path / name, mask)
    assert not any(tmp_path.iterdir())


def test_colours_against_a_plain_loop():
    palette, ignore = [(60, 16, 152), (0, 0, 1), (1, 0, 0)], [(9, 9, 9)]
    others = [(155, 155, 155), (0, 1, 0)]
    table = np.array([*palette, *ignore, *others], np.uint8)
    mask = table[RNG.integers(0, len(table), (13, 17))]
    classes, unknown = colours_to_classes(mask, palette, ignore)
    for row, column in np.ndindex(mask.shape[:2]):
        colour = tuple(mask[row, column].tolist())
        assert classes[row, column] == (palette.index(colour) if colour in palette else 255)
    assert unknown == {colour: int((mask == colour).all(axis=2).sum()) for colour in others}
    assert colours_to_classes(mask, [*palette, *others], ignore)[1] == {}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">f4"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 8)])
def test_numpy_files_come_back(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array, path = noise(*shape, dtype="float32" if "f4" in dtype else dtype).astype(dtype), tmp_path / "a.npy"
    np.save(path, array)
    image = read_image(path)
    assert image_size(path) == (20, 30)
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image, array.reshape(20, 30, -1))


@pytest.mark.parametrize("dtype", ["bool", "int32", "float64"])
def test_a_numpy_mask_is_read(tmp_path: Path, dtype: str) -> None:
    mask = noise(20, 30, 1) % 2
    np.save(tmp_path / "a.npy", mask.astype(dtype))
    np.testing.assert_array_equal(read_label_file(tmp_path / "a.npy", colours=True), mask[..., 0])


@pytest.mark.parametrize("array", [np.array([[{}]], object), np.zeros(5), np.zeros((2, 2, 2, 2)), np.zeros((0, 4))])
def test_what_is_no_picture_in_a_numpy_file_is_told(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"a\.npy: cannot be read \("):
            read(tmp_path / "a.npy")


def test_a_numpy_file_cut_short_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(20, 30))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-5])
    with pytest.raises(UserError, match=r"a\.npy: cannot be read \("):
        read_image(tmp_path / "a.npy")
