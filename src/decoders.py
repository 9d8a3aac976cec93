"""From an image file's bytes to its pixels, upright: TIFF by tifffile, NumPy's files, all others by Pillow.

    pixels = read_pixels(Path("train/a.png"), colours=False)  # (H, W) palette indices
    (height, width), orientation = read_header(Path("train/a.jpg"))

Whatever bytes it is given, a file ends in an array or in one UserError: no reader that starts another program or runs
what it finds, and no more memory than there is.
"""

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image

from errors import UserError
from memory import check_memory

TIFF = (".tif", ".tiff")
# what Pillow may open, whatever a file's name says: no format whose reader starts another program, as PostScript's does
PILLOW_FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "BMP", "GIF", "WEBP", "PPM")
OTHER_COLOURS = ("SEPARATED", "YCBCR", "CIELAB", "ICCLAB", "ITULAB", "CFA", "LOGL", "LOGLUV")
# what the libraries raise for bytes that are no such file
BROKEN = (
    *(OSError, ValueError, RuntimeError, SyntaxError, LookupError, TypeError, ArithmeticError),
    *(MemoryError, struct.error, zlib.error),
)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise UserError naming the file where the block finds it missing or broken."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: missing; put it back or take it out of the data") from None
    except BROKEN as error:
        reason = " ".join(str(error).replace(repr(str(path)), "it").replace(str(path), "it").split())
        raise UserError(f"{path}: cannot be read ({reason}); fetch the file again or remove it") from error


def _open(path: Path) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # the limit guards servers from uploads; a slide of 200 megapixels is fine here
    # a photo whose tags are broken is as upright as its pixels
    warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
    return Image.open(path, formats=PILLOW_FORMATS)


def open_tiff(path: Path) -> tifffile.TiffFile:
    """A TIFF, whose reader says nothing of what it can do without, and opens no other file that this one names."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it cannot do without, it raises as well
    return tifffile.TiffFile(path, is_ome=False, is_mmstack=False, is_ndtiff=False)


def _check_size(size: tuple[int, int], pixel_bytes: int) -> None:
    """Raises ValueError for no pixels at all, and for more than fit into memory twice: as read, and as turned."""
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"{width}x{height} pixels")
    check_memory(2 * height * width * pixel_bytes, f"{width}x{height} pixels")


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """`(height, width)` as the pixels lie in the file, and the EXIF orientation, 1 to 8, of NumPy's files always 1.

    Raises UserError where the file is missing or unreadable.
    """
    with readable(path):
        if path.suffix.lower() in TIFF:
            with open_tiff(path) as file:
                size, orientation = _tiff_layout(_first_series(file))[1], tiff_orientation(file.pages.first)
        elif path.suffix.lower() == ".npy":
            size, orientation = _open_array(path).shape[:2], 1
        else:
            with _open(path) as picture:
                size, orientation = picture.size[::-1], _orientation(picture)
        _check_size(size, 0)
    return size, orientation


def read_pixels(path: Path, colours: bool) -> np.ndarray:
    """A file's upright pixels as they are, `(H, W)` or `(H, W, C)`, of any dtype.

    A palette file gives its colours, or with `colours` False its indices. Raises UserError where the file is missing,
    broken, cut short or larger than the memory.
    """
    with readable(path):
        if path.suffix.lower() in TIFF:
            return _read_tiff(path, colours)
        return _read_array(path) if path.suffix.lower() == ".npy" else _read_picture(path, colours)


def _open_array(path: Path) -> np.ndarray:
    """NumPy's own file, mapped: its header is read, and no object in it."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3):
        raise ValueError(f"an array of {array.shape} is no (height, width) or (height, width, channels)")
    return array


def _read_array(path: Path) -> np.ndarray:
    array = _open_array(path)
    _check_size(array.shape[:2], array.nbytes // (array.shape[0] * array.shape[1] or 1))
    array = array[..., 0] if array.shape[2:] == (1,) else array
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _read_picture(path: Path, colours: bool) -> np.ndarray:
    """Pillow, which reports a file cut short and keeps palettes; libpng for 16-bit colour, which Pillow cuts to 8."""
    with _open(path) as picture:
        orientation = _orientation(picture)
        # in Pillow's memory a pixel of several bands, or of more than 8 bits, takes 4 bytes
        _check_size(picture.size[::-1], 1 if picture.mode in ("1", "L", "P") else 4)
        if picture.mode in ("RGB", "RGBA") and _is_deep_png(path):
            array = _read_deep_png(path)
        else:
            if picture.mode in ("P", "PA") and colours:
                picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            elif picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "F") and "16" not in picture.mode:
                picture = picture.convert("RGB")
            array = np.asarray(picture)
    return _upright(array, orientation)


def _is_deep_png(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(25)
    return header.startswith(b"\x89PNG") and header[24] == 16


def _read_deep_png(path: Path) -> np.ndarray:
    return imagecodecs.png_decode(path.read_bytes())


def _read_tiff(path: Path, colours: bool) -> np.ndarray:
    with open_tiff(path) as file:
        series, page = _first_series(file), file.pages.first
        order, (height, width) = _tiff_layout(series)
        _check_size((height, width), series.nbytes // (height * width or 1))
        if len(page.dataoffsets) < math.prod(page.chunked):  # tifffile would fill them up with zeros
            raise ValueError(f"{len(page.dataoffsets)} strips or tiles where its header says {math.prod(page.chunked)}")
        array = black_is_zero(series.asarray(), page, path).transpose(order).reshape(height, width, -1)
        array = array[..., 0] if array.shape[2] == 1 else array
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and colours and array.ndim == 2:
            array = (page.colormap.T >> 8).astype(np.uint8)[array]
        return _upright(array, tiff_orientation(page))


def black_is_zero(array: np.ndarray, page: tifffile.TiffPage, path: Path) -> np.ndarray:
    """A TIFF's numbers such that black is 0, as everybody expects them.

    Raises UserError where they are neither grey, nor red, green and blue, nor numbers of a palette.
    """
    kind = tifffile.PHOTOMETRIC(page.photometric)
    if kind is tifffile.PHOTOMETRIC.MINISWHITE and "PhotometricInterpretation" in page.tags:
        if array.dtype.kind not in "ub":
            raise UserError(f"{path}: its 0 is white and its numbers are {array.dtype}; save it with 0 for black")
        return ~array if array.dtype.kind == "b" else array.dtype.type(2**page.bitspersample - 1) - array
    jpeg = "JP" in tifffile.COMPRESSION(page.compression).name  # which the reader has turned into red, green and blue
    if kind.name in OTHER_COLOURS and not (jpeg and kind is tifffile.PHOTOMETRIC.YCBCR):
        raise UserError(f"{path}: its colours are {kind.name.replace('SEPARATED', 'CMYK')}; save it as RGB")
    return array


def _first_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if not len(file.pages) or not {"Y", "X"} <= set(file.series[0].axes):
        raise ValueError("it holds no picture")
    return file.series[0]


def _tiff_layout(series: tifffile.TiffPageSeries) -> tuple[list[int], tuple[int, int]]:
    """The order of axes that makes a series (H, W, others…), and (H, W); its bands may be planes, pages or samples."""
    axes, shape = series.axes, series.shape
    rows, columns = axes.index("Y"), axes.index("X")
    others = [axis for axis in range(len(axes)) if axis not in (rows, columns)]
    long = [axis for axis in others if shape[axis] != 1]
    if len(long) > 1:
        raise ValueError(f"its axes {axes} of {shape} are more than height, width and channels")
    if long and axes[long[0]] == "Q" and shape[columns] <= 16 and shape[columns] < shape[long[0]]:
        # (H, W, C) saved without a word on its axes lies in the file as H pages of W by C
        rows, columns, others = long[0], rows, [axis for axis in range(len(axes)) if axis not in (long[0], rows)]
    return [rows, columns, *others], (shape[rows], shape[columns])


def tiff_orientation(page: tifffile.TiffPage) -> int:
    """1 to 8, as EXIF numbers them; 1 is upright."""
    tag = page.tags.get("Orientation")
    return _known(tag.value if tag else 1)


def _orientation(picture: Image.Image) -> int:
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        return 1  # Pillow would decode the whole file to look for a tag behind the pixels
    return _known(picture.getexif().get(ExifTags.Base.Orientation))


def _known(orientation: Any) -> int:
    """An orientation as the standard numbers them, 1 to 8; viewers leave a picture of any other as it is."""
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1 to 8: 5 and above are transposed, then some are mirrored."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
