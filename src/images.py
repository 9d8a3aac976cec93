"""Reading and writing images and masks: PNG, JPG, TIFF and NPY; 8 or 16 bit, float, grey, colour, palettes, channels.

    image = read_image(Path("train/a.jpg"), channels=3)  # (H, W, 3) uint8
    height, width = image_size(Path("train/a.jpg"))  # from the header alone

A photo's EXIF orientation is applied, to pixels and size alike: browsers and the tools that masks are drawn in show the
upright picture (https://www.w3.org/TR/css-images-3/#the-image-orientation). A mask file's own is applied as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from artifacts import atomic
from config import IGNORE_INDEX
from decoders import TIFF, open_tiff, read_header, read_pixels, readable, tiff_orientation
from errors import UserError

EXACT = 2**53  # the largest whole number up to which floats hold them all
# pixel scale, tie points, transformation, and the directory of the CRS with its numbers and texts (OGC 19-008)
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
MAX_INSTANCES = 32767  # in a label: a 16-bit PNG holds more, but its highest bit marks a doubtful pixel


def read_image(path: Path, channels: int | None = None) -> np.ndarray:
    """An image as `(H, W, C)`: uint8 or uint16 where the file has that depth, float32 for any other.

    `channels` asks for a count: a grey image is repeated, a colour image is made grey (by luminance, ITU-R BT.601), a
    channel beyond it that is alpha is dropped. Raises UserError where the file is missing, broken, cut short, holds NaN
    or infinity, or has other channels.
    """
    image = read_pixels(path, colours=True)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    elif np.iscomplexobj(image):
        raise UserError(f"{path}: holds complex numbers; save their size or their parts as channels")
    elif image.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told
            image = image.astype(np.float32)
        if not np.isfinite(image).all():
            raise UserError(f"{path}: holds NaN or infinite pixels; fill them with a number first")
    return image if channels is None else fit_channels(image, channels, path)


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of the upright image, from its header. Raises UserError where it is missing or unreadable."""
    size, orientation = read_header(path)
    return size if orientation < 5 else size[::-1]


def is_turned(path: Path) -> bool:
    """Whether an EXIF orientation changes how a picture's pixels lie. Raises UserError as `image_size` does."""
    return read_header(path)[1] != 1


def full_scale(image: np.ndarray) -> float:
    """The value that means white, so that `image / full_scale(image)` is in [0, 1] (float images are left alone)."""
    return {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(image.dtype, 1.0)


def read_label_file(path: Path, colours: bool) -> np.ndarray:
    """A mask file as it is: `(H, W)` of integers, or `(H, W, C)` for colour and many-channel files.

    A palette file gives its colours, or with `colours` False its indices. Raises UserError as `read_image` does.
    """
    mask = read_pixels(path, colours)
    if mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    if np.issubdtype(mask.dtype, np.floating):
        if not ((np.abs(mask) <= EXACT).all() and (mask == np.rint(mask)).all()):
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


def check_instances(instances: np.ndarray, name: str) -> None:
    """Raises UserError, naming the file or image, where instances 1, 2, … are more than a label can number."""
    if instances.max() > MAX_INSTANCES:
        raise UserError(f"{name}: more than {MAX_INSTANCES} instances; cut the image into parts")


def number_instances(values: np.ndarray, name: object) -> np.ndarray:
    """Instance numbers of a file as a label has them: int32, those too large for it numbered anew. Raises UserError."""
    if values.min(initial=0) < 0:
        raise UserError(f"{name}: instance number {values.min()}; use 0 for the background and 1 and up for instances")
    if values.max(initial=0) > MAX_INSTANCES:
        values = np.searchsorted(np.unique(np.append(values, 0)), values)
        check_instances(values, str(name))
    return values.astype(np.int32)


def resize_label(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`(H, W)` or `(H, W, C)` labels of any dtype to another size by the nearest pixel centre."""
    if label.shape[:2] == shape:
        return label
    sides = zip(shape, label.shape[:2], strict=True)
    # in whole numbers, where OpenCV rounds; rows first, which is faster than both axes at once
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in sides)
    return label[rows][:, columns]


def read_geo_tags(path: Path) -> list[tuple[int, str, int, Any, bool]]:
    """Where a GeoTIFF lies on the Earth: its tags of CRS and transform, as tifffile writes them; [] for any other file.

    Raises UserError for one whose pixels would have to be turned first.
    """
    if path.suffix.lower() not in TIFF:
        return []
    with readable(path), open_tiff(path) as file:
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
