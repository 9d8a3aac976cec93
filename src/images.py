"""Reading and writing images and masks: PNG, JPG and TIFF, 8 and 16 bit, float, grey, colour, palettes, many channels.

    image = read_image(Path("train/a.jpg"), channels=3)  # (H, W, 3) uint8
    height, width = image_size(Path("train/a.jpg"))  # from the header alone

A photo's EXIF orientation is applied, to pixels and size alike: people draw masks on the upright picture.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image

from artifacts import atomic
from config import IGNORE_INDEX
from errors import UserError

TIFF = (".tif", ".tiff")
# pixel scale, tie points, transformation, and the directory of the CRS with its numbers and texts (OGC 19-008)
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
MAX_INSTANCES = 32767  # in a label: a 16-bit PNG holds more, but its highest bit marks a doubtful pixel


def read_image(path: Path, channels: int | None = None) -> np.ndarray:
    """An image as `(H, W, C)`: uint8 or uint16 where the file has that depth, float32 for any other.

    `channels` asks for a count: a grey image is repeated, a colour image is made grey (by luminance, ITU-R BT.601), a
    channel beyond it that is alpha is dropped. Raises UserError where the file is missing, broken, cut short, holds NaN
    or infinity, or has other channels.
    """
    with readable(path):
        image = _read_tiff(path, colours=True) if path.suffix.lower() in TIFF else _read_picture(path, colours=True)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    elif image.dtype not in (np.uint8, np.uint16):
        image = image.astype(np.float32)
        if not np.isfinite(image).all():
            raise UserError(f"{path}: holds NaN or infinite pixels; fill them with a number first")
    return image if channels is None else fit_channels(image, channels, path)


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of the upright image, from its header. Raises UserError where it is missing or unreadable."""
    with readable(path):
        if path.suffix.lower() in TIFF:
            with tifffile.TiffFile(path) as file:
                size = _tiff_layout(file.series[0])[1]
                return size if tiff_orientation(file.pages.first) < 5 else size[::-1]
        with _open(path) as picture:
            return picture.size[::-1] if _orientation(picture) < 5 else picture.size


def full_scale(image: np.ndarray) -> float:
    """The value that means white, so that `image / full_scale(image)` is in [0, 1] (float images are left alone)."""
    return {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(image.dtype, 1.0)


def read_label_file(path: Path, colours: bool) -> np.ndarray:
    """A mask file as it is: `(H, W)` of integers, or `(H, W, C)` for colour and many-channel files.

    A palette file gives its colours, or with `colours` False its indices. Raises UserError as `read_image` does.
    """
    with readable(path):
        mask = _read_tiff(path, colours) if path.suffix.lower() in TIFF else _read_picture(path, colours)
    if mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    if np.issubdtype(mask.dtype, np.floating):
        if not (np.isfinite(mask).all() and (mask == np.rint(mask)).all()):
            raise UserError(f"{path}: a mask of fractions or NaN; save it with whole numbers")
        mask = mask.astype(np.int64)
    return mask


def read_mask(path: Path) -> np.ndarray:
    """A normalised label file, as `write_mask` wrote it: uint8 `(H, W)` classes, int32 `(H, W)` instances or uint8
    `(H, W, C)` labels. Raises UserError where it is missing or broken."""
    mask = read_label_file(path, colours=False)
    if path.suffix in TIFF:
        return mask if mask.ndim == 3 else mask[..., None]
    return mask.astype(np.int32) if mask.dtype == np.uint16 else mask


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a label array whole or not at all: `(H, W)` uint8 classes or int32 instances (up to 65535) as PNG,
    `(H, W, C)` uint8 as TIFF. Raises ValueError for anything else."""
    if mask.ndim == 3 and mask.dtype == np.uint8 and path.suffix in TIFF:
        with atomic(path) as temporary:
            options = {"photometric": "minisblack", "metadata": None, "software": False, "compression": "zlib"}
            if mask.shape[2] == 1:
                tifffile.imwrite(temporary, mask[..., 0], **options)
            else:
                tifffile.imwrite(temporary, mask, planarconfig="contig", **options)
        return
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.int32) or path.suffix != ".png":
        raise ValueError(f"no {path.suffix} file holds a mask of {mask.dtype} {mask.shape}")
    if mask.dtype == np.int32 and (mask.min(initial=0) < 0 or mask.max(initial=0) > 65535):
        raise ValueError(f"instance numbers {mask.min()} to {mask.max()} do not fit in 16 bits; number them from 1")
    data = cv2.imencode(".png", mask if mask.dtype == np.uint8 else mask.astype(np.uint16))[1]
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write `(H, W, 3) uint8` as PNG, whole or not at all."""
    data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1]
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())


def read_geo_tags(path: Path) -> list[tuple[int, str, int, Any, bool]]:
    """Where a GeoTIFF lies on the Earth: its tags of CRS and transform, as tifffile writes them; [] for any other file.

    Raises UserError for one whose pixels would have to be turned first.
    """
    if path.suffix.lower() not in TIFF:
        return []
    with readable(path), tifffile.TiffFile(path) as file:
        page = file.pages.first
        found = [page.tags[code] for code in GEO_TAGS if code in page.tags]
        turned = tiff_orientation(page) != 1
        tags = [(tag.code, *_tag_kind(tag.value), tag.value, True) for tag in found]
    if tags and turned:
        raise UserError(f"{path}: a GeoTIFF with an Orientation tag; save it upright, so that its transform fits")
    return tags


def _tag_kind(value: Any) -> tuple[str, int]:
    """tifffile's letter and count for a tag's value: text, doubles or short integers."""
    if isinstance(value, str):
        return "s", 0
    values = value if isinstance(value, tuple) else (value,)
    return "d" if any(isinstance(one, float) for one in values) else "H", len(values)


def colours_to_classes(
    mask: np.ndarray, palette: Sequence[tuple[int, int, int]], ignore: Sequence[tuple[int, int, int]] = ()
) -> tuple[np.ndarray, dict[tuple[int, int, int], int]]:
    """A colour mask `(H, W, 3)` uint8 → classes `(H, W)` uint8, class i having `palette[i]`.

    Colours in `ignore` become 255; so do unknown ones, which come back with their number of pixels.
    """
    codes = pack_colours(mask)
    known = np.array([*map(_pack, palette), *map(_pack, ignore)], np.uint32)
    values = np.array([*range(len(palette)), *[IGNORE_INDEX] * len(ignore)], np.uint8)
    order = np.argsort(known)
    position = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    found = known[order][position] == codes
    classes = np.where(found, values[order][position], IGNORE_INDEX).astype(np.uint8)
    if found.all():
        return classes, {}
    unknown, counts = np.unique(codes[~found], return_counts=True)
    colours = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in unknown]
    return classes, dict(zip(colours, counts.tolist(), strict=True))


def pack_colours(mask: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 → `(H, W)` uint32, red in the highest byte."""
    parts = mask.astype(np.uint32)
    return parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]


def _pack(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def fit_channels(image: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """`(H, W, C)` with the channels asked for, as `read_image` makes them. Raises UserError where that cannot be."""
    has = image.shape[2]
    if has in (2, 4) and channels == has - 1:  # alpha
        return image[..., :channels]
    if has in (1, 2) and channels == 3:  # grey, or grey and alpha
        return np.repeat(image[..., :1], 3, axis=2)
    if has in (3, 4) and channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)[..., None]
    if has != channels:
        raise UserError(f"{path}: has {has} channels where image.channels says {channels}; set it to {has}, or convert")
    return image


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: missing; put it back or take it out of the data") from None
    except (OSError, ValueError, RuntimeError, SyntaxError, IndexError, struct.error, zlib.error) as error:
        reason = " ".join(str(error).replace(str(path), "it").split())
        raise UserError(f"{path}: cannot be read ({reason}); fetch the file again or remove it") from error


def _open(path: Path) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = None  # the limit guards servers from uploads; a slide of 200 megapixels is fine here
    return Image.open(path)


def _read_picture(path: Path, colours: bool) -> np.ndarray:
    """Pillow, which reports a file cut short and keeps palettes; OpenCV for 16-bit colour, which Pillow cuts to 8."""
    with _open(path) as picture:
        orientation = _orientation(picture)
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
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise OSError("broken or cut short")
    return cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _read_tiff(path: Path, colours: bool) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        order, (height, width) = _tiff_layout(series)
        array = series.asarray().transpose(order).reshape(height, width, -1)
        array = array[..., 0] if array.shape[2] == 1 else array
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and colours and array.ndim == 2:
            array = (page.colormap.T >> 8).astype(np.uint8)[array]
    return _upright(array, tiff_orientation(page))


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
    """The EXIF orientation, 1 for upright."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag else 1


def _orientation(picture: Image.Image) -> int:
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        return 1  # Pillow would decode the whole file to look for a tag behind the pixels
    return picture.getexif().get(ExifTags.Base.Orientation, 1)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1 to 8: 5 and above are transposed, then some are mirrored."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
