"""Images and masks that test_rubbish.py tries: cut short, of no size or a giant one, turned, of odd values."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from helpers import open_workspace
from PIL import Image
from rubbish import SIZE, Check, Spoil, both, folder_at, half, image, mask, masks_of, picture, right, write

from images import read_image, read_mask
from index import read_index

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\nshowpage\n%%EOF\n"
FLOATS = np.full((*SIZE, 3), 0.5, np.float32)


def png(width: int, height: int, depth: int = 8, colour: int = 2, extra: bytes = b"", data: bytes = b"") -> bytes:
    """A PNG of any header, right in form."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", data or zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


def jpg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than its pixels have."""
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tif(width: int, height: int) -> bytes:
    """Likewise a TIFF, whose strips stay those of a small image."""
    data = encoded("TIFF")
    for tag, value in ((256, width), (257, height)):
        at = data.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in data else -1
        at = at if at >= 0 else data.index(struct.pack("<HH", tag, 3))
        data = data[: at + 2] + struct.pack("<HII", 4, 1, value) + data[at + 12 :]
    return data


def tif_of_strips(rows: int) -> bytes:
    """A TIFF of three strips of four rows, whose header says more of them."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture(), photometric="rgb", rowsperstrip=4)
    data = buffer.getvalue()
    at = data.index(struct.pack("<HH", 257, 4))
    return data[: at + 8] + struct.pack("<I", rows) + data[at + 12 :]


def encoded(kind: str, array: np.ndarray | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture() if array is None else array).save(buffer, kind, **options)
    return buffer.getvalue()


def tagged(orientation: int | bytes) -> Image.Exif | bytes:
    """EXIF with an orientation, a text of three letters if need be."""
    if isinstance(orientation, bytes):
        tags = struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 274, 2, 4, orientation + bytes(1), 0)
        return b"Exif" + bytes(2) + tags
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def turn_back(array: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores so that the EXIF orientation makes `array` of it (CIPA DC-008, table of tag 274)."""
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array.swapaxes(0, 1) if orientation >= 5 else array)


def photo(orientation: int, *, both: bool = False, stored_mask: bool = False) -> Spoil:
    """A turned photo, bright where its mask is. The mask is of the upright picture, or turned with a tag of its own, or
    of the stored pixels without one."""

    def spoil(folder: Path) -> None:
        bright = np.repeat(half()[..., None] * 255, 3, axis=2)
        for name in "ab":
            (folder / f"raw/train/{name}.png").unlink()
            stored = turn_back(bright, orientation)
            write(folder / f"raw/train/{name}.jpg", stored, exif=tagged(orientation), quality=100)
            if both or stored_mask:
                options = {"exif": tagged(orientation)} if both else {}
                write(folder / f"raw/masks/{name}.png", turn_back(half(), orientation), **options)

    return spoil


def spoilt(value: float, dtype: str = "float32") -> np.ndarray:
    array = FLOATS.astype(dtype)
    array[1, 2, 0] = value
    return array


def palette_mask() -> bytes:
    """Indices whose colours say something else, the foreground half transparent."""
    picture = Image.fromarray(half())
    picture.putpalette([255, 255, 255, 0, 0, 0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=b"\x00\x80")
    return buffer.getvalue()


def size_is(height: int, width: int) -> Check:
    def check(folder: Path) -> None:
        row = read_index(open_workspace(folder)[1]).set_index("image_id").loc["a"]
        assert (row["height"], row["width"]) == (height, width)

    return check


def pixels_are(expected: np.ndarray) -> Check:
    def check(folder: Path) -> None:
        _, paths = open_workspace(folder)
        row = read_index(paths).set_index("image_id").loc["a"]
        np.testing.assert_array_equal(read_image(paths.resolve(row["image"]), 3), expected)

    return check


def aligned(folder: Path) -> None:
    """The photo as training reads it is bright exactly where its mask is."""
    _, paths = open_workspace(folder)
    for row in read_index(paths).to_dict("records"):
        pixels = read_image(paths.resolve(row["image"]), 3)
        assert pixels.shape[:2] == SIZE == (row["height"], row["width"])
        np.testing.assert_array_equal(pixels[..., 0] > 127, read_mask(paths.resolve(row["mask"])) == 1)


IMAGES: dict[str, tuple[Spoil, str | Check]] = {
    "jpg cut short": (image("a.jpg", picture(), 0.7), r"train/a\.jpg: cannot be read \(.*\); fetch the file again"),
    "jpg without a pixel": (image("a.jpg", picture(), 0.1), r"train/a\.jpg: cannot be read"),
    "tiff cut short": (image("a.tif", picture(), 0.6, photometric="rgb"), r"train/a\.tif: cannot be read"),
    "packed tiff cut short": (image("a.tif", picture(), 0.8, photometric="rgb", compression="zlib"), r"a\.tif: cannot"),
    "deep png cut short": (image("a.png", png(16, 12, depth=16)), r"train/a\.png: cannot be read"),
    "png of another checksum": (
        image("a.png", encoded("PNG").replace(b"IDAT", b"IDAX")), r"train/a\.png: cannot be read"),
    "empty file": (image("a.png", b""), r"train/a\.png: cannot be read"),
    "text named tif": (image("a.tif", b"II*\0 no picture"), r"train/a\.tif: cannot be read"),
    "png named tif": (image("a.tif", encoded("PNG")), r"train/a\.tif: cannot be read \(.*TIFF.*\)"),
    "zip named png": (image("a.png", b"PK\3\4" + b"\0" * 64), r"train/a\.png: cannot be read"),
    "postscript named png": (image("a.png", EPS), r"train/a\.png: cannot be read"),
    "jpg named png": (
        image("a.png", encoded("JPEG")), pixels_are(np.asarray(Image.open(io.BytesIO(encoded("JPEG")))))),
    "tiff of a wrong byte order": (image("a.tif", b"MM" + encoded("TIFF")[2:]), r"train/a\.tif: cannot be read"),
    "tiff that is its own next page": (
        image("a.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), r"train/a\.tif: cannot be read"),
    "png of 0x0": (image("a.png", png(0, 0)), r"train/a\.png: cannot be read"),
    "png of 0x12": (image("a.png", png(0, 12)), r"train/a\.png: cannot be read"),
    "jpg of 0x0": (image("a.jpg", jpg(0, 0)), r"train/a\.jpg: cannot be read"),
    "tiff of 0x0": (image("a.tif", tif(0, 0)), r"train/a\.tif: cannot be read"),
    "tiff of no row": (image("a.tif", tif(16, 0)), r"train/a\.tif: cannot be read"),
    "65,535 wide": (image("a.png", np.zeros((1, 65535, 3), np.uint8)), r"masks/a\.png: mask of 16x12 .* 65535x1;"),
    "png of 65,535 square": (image("c.png", png(65535, 65535)), r"train/c\.png: cannot be read \(65535x65535 pixels"),
    "deep png of 65,535 square": (
        image("c.png", png(65535, 65535, depth=16)), r"train/c\.png: cannot be read \(65535x65535 pixels"),
    "png of 2,147,483,647 square": (
        image("c.png", png(2**31 - 1, 2**31 - 1)), r"train/c\.png: cannot be read"),
    "jpg of 65,535 square": (image("c.jpg", jpg(65500, 65500)), r"train/c\.jpg: cannot be read \(65500x65500 pixels"),
    "tiff of 65,535 square": (image("c.tif", tif(65535, 65535)), r"train/c\.tif: cannot be read \(65535x65535 pixels"),
    "tiff of 4,294,967,295 square": (image("c.tif", tif(2**32 - 1, 2**32 - 1)), r"train/c\.tif: cannot be read"),
    "tiff of fewer strips than it says": (
        image("c.tif", tif_of_strips(16)), r"train/c\.tif: cannot be read \(3 strips or tiles where its header says 4"),
    "NaN": (image("a.tif", spoilt(np.nan), photometric="rgb"), r"train/a\.tif: holds NaN or infinite pixels; fill"),
    "infinity": (image("a.tif", spoilt(-np.inf), photometric="rgb"), r"train/a\.tif: holds NaN or infinite"),
    "beyond single precision": (
        image("a.tif", spoilt(1e300, "float64"), photometric="rgb"), r"train/a\.tif: holds NaN or infinite"),
    "complex numbers": (image("a.tif", FLOATS.astype("complex64")), r"train/a\.tif: .*complex"),
    "grey where colours were": (
        image("a.png", picture(channels=1)), pixels_are(np.repeat(picture(channels=1)[..., None], 3, axis=2))),
    "two channels": (image("a.tif", picture(channels=2), planarconfig="contig"), size_is(*SIZE)),
    "five channels": (
        image("a.tif", picture(channels=5), planarconfig="contig"), r"a\.tif: has 5 channels where image\.channels"),
    "two pages of colours": (
        image("a.tif", np.stack([picture(), picture(1)]), photometric="rgb"), r"a\.tif: cannot be read \(its axes"),
    "a moving picture": (
        image("a.png", encoded("PNG", save_all=True, append_images=[Image.fromarray(picture(1))])),
        pixels_are(picture())),
    "a text that unpacks to a gigabyte": (
        image("a.png", png(16, 12, extra=b"".join(
            struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
            for body in [b"k\0\0" + zlib.compress(b"\0" * 10**7)]))), r"train/a\.png: cannot be read"),
    "no orientation at all": (image("a.jpg", picture(), exif=tagged(0)), size_is(*SIZE)),
    "an orientation of 9": (image("a.jpg", picture(), exif=tagged(9)), size_is(*SIZE)),
    "an orientation in words": (image("a.jpg", picture(), exif=tagged(b"up ")), size_is(*SIZE)),
    "a tiff's orientation in words": (
        image("a.tif", picture(), photometric="rgb", extratags=[(274, "s", 0, "left", True)]), size_is(*SIZE)),
    "broken EXIF": (image("a.jpg", picture(), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), size_is(*SIZE)),
} | {
    f"photo turned by EXIF {orientation}": (photo(orientation), aligned) for orientation in range(1, 9)
} | {
    f"photo and mask turned by EXIF {orientation}": (photo(orientation, both=True), aligned) for orientation in (3, 6)
} | {
    f"mask of the pixels before EXIF {orientation}": (
        photo(orientation, stored_mask=True),
        r"masks/a\.png: mask of 12x16 for image 'a' of 16x12; .*EXIF orientation") for orientation in (5, 6, 7, 8)
}  # fmt: skip


MASK_FILES: dict[str, tuple[Spoil, str | Check]] = {
    "a row too many": (mask(np.zeros((13, 16), np.uint8)), r"masks/a\.png: mask of 16x13 for image 'a' of 16x12; make"),
    "a column too few": (mask(np.zeros((12, 15), np.uint8)), r"masks/a\.png: mask of 15x12 for image 'a' of 16x12"),
    "mask of 0x0": (mask(png(0, 0, colour=0)), r"masks/a\.png: cannot be read"),
    "giant mask": (mask(png(65535, 65535, colour=0)), r"masks/a\.png: cannot be read \(65535x65535 pixels"),
    "palette with alpha": (mask(palette_mask()), right()),
    "palette with alpha, by its colours": (
        both(
            lambda one: write(one / "raw/masks/b.png", palette_mask()),
            mask(palette_mask(), encoding="palette", palette={"background": [255, 255, 255], "building": [0, 0, 0]})),
        right()),
    "16-bit labels": (mask(half().astype(np.uint16)), right()),
    "16-bit value": (mask(half().astype(np.uint16) * 300), r"masks/a\.png: value 300 \(48 pixels\) is none of the 2"),
    "32-bit labels": (mask(half().astype(np.int32), "a.tif"), right()),
    "64-bit labels": (mask(half().astype(np.int64), "a.tif"), right()),
    "one-bit labels": (mask(encoded("PNG", half() > 0)), right()),
    "truth values": (mask(half() > 0, "a.tif"), right()),
    "negative labels": (mask(-half().astype(np.int16), "a.tif"), r"masks/a\.tif: value -1 \(48 pixels\)"),
    "whole numbers as floats": (mask(half().astype(np.float32), "a.tif"), right()),
    "fractions": (mask(half() * np.float32(0.5), "a.tif"), r"masks/a\.tif: a mask of fractions or NaN"),
    "NaN in a mask": (mask(half() * np.float32(np.nan), "a.tif"), r"masks/a\.tif: a mask of fractions or NaN"),
    "floats beyond any integer": (mask(half() * np.float64(1e30), "a.tif"), r"masks/a\.tif: a mask of fractions"),
    "four planes that are grey": (mask(np.dstack([half()] * 3 + [half() * 0 + 255])), right()),
    "colours where numbers were": (mask(picture()), r"masks/a\.png: a colour mask, but .*encoding is index; use"),
    "a jpg of numbers": (mask(half() * 255, "a.jpg"), r"masks/a\.jpg: value \d+ \(\d+ pixels\) is none of the 2"),
    "a colour of 16 bits": (
        mask(np.repeat(half()[..., None], 3, axis=2).astype(np.uint16), "a.tif", encoding="rgb_id"),
        r"masks/a\.tif: a colour mask has 8-bit red"),
    "instance numbers up to 1,920,000,000": (
        mask(np.arange(1, 12 * 16 + 1, dtype=np.int32).reshape(SIZE) * 10**7, "a.tif", "instances"),
        lambda folder: np.testing.assert_array_equal(masks_of(folder)["a"], np.arange(1, 193).reshape(SIZE))),
    "negative instances": (
        mask(-half().astype(np.int16), "a.tif", "instances"), r"masks/a\.tif: instance number -1; use 0"),
    "a folder named like a mask": (
        folder_at("raw/masks/a.png"),
        r"train/a\.png: image 'a' has no label in masks/\{id\}\.png"),
}  # fmt: skip
