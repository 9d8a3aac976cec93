"""Images too large to hold: TIFFs read window by window, pictures and masks written band by band.

image = open_strips(Path("slide.tif"), config.image)  # None for an image that is better read whole
tile = image[:, 1024:1536, 512:1024]  # (C, 512, 512) float32
write_picture_bands(Path("mask.png"), (height, width), bands)
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from artifacts import atomic
from config import Image
from decoders import TIFF, open_tiff, readable, tiff_orientation
from images import fit_channels, full_scale
from transforms import normalise, working_shape

LARGE = 2**24  # pixels from which an image is read in windows: whole, it takes a dozen bytes each
TILE = 256  # a side of the tiles that are written


@dataclass
class Strips:
    """`(C, H, W) float32`, normalised, of which `image[:, top:bottom, left:right]` is read when it is asked for.

    A row is decoded once where the windows are asked for from top to bottom and are of the same columns; only their
    rows are in memory.
    """

    path: Path
    shape: tuple[int, int, int]
    settings: Image
    step: int  # rows that are decoded together
    _file: Any
    _top: int = 0
    _columns: tuple[int, int] = (0, 0)
    _rows: np.ndarray | None = field(default=None, repr=False)

    def __getitem__(self, window: tuple[slice, slice, slice]) -> np.ndarray:
        _, rows, columns = window
        top, bottom, _ = rows.indices(self.shape[1])
        self._read(top, bottom, columns.indices(self.shape[2])[:2])
        tile = self._rows[top - self._top : bottom - self._top]
        mean, std = np.float32(self.settings.mean), np.float32(self.settings.std)
        if tile.dtype == np.uint8:
            return normalise(tile, mean, std, 255.0)
        return normalise(tile.astype(np.float32) / full_scale(tile), mean, std, 1.0)

    def _read(self, top: int, bottom: int, columns: tuple[int, int]) -> None:
        """Hold the rows from `top` to `bottom` at least, without decoding again what is held."""
        if self._rows is None or top < self._top or columns != self._columns:
            self._top, self._columns = top - top % self.step, columns
            self._rows = self._decode(self._top, self._top)
        end = self._top + len(self._rows)
        if bottom > end:
            drop = min(top - top % self.step - self._top, len(self._rows))
            wanted = min(self.shape[1], bottom + -bottom % self.step)
            self._rows = np.concatenate([self._rows[drop:], self._decode(end, wanted)])
            self._top += drop

    def _decode(self, top: int, bottom: int) -> np.ndarray:
        with readable(self.path):
            rows = self._file[top:bottom, slice(*self._columns)]
        return fit_channels(rows if rows.ndim == 3 else rows[..., None], self.shape[0], self.path)


def open_strips(path: Path, settings: Image) -> Strips | None:
    """A TIFF of more than LARGE pixels of 8 or 16 bit, upright, seen at its own size and normalised by fixed numbers;
    None for anything else. Raises UserError where its header cannot be read."""
    if path.suffix.lower() not in TIFF or settings.normalise != "fixed":
        return None
    with readable(path):
        file = open_tiff(path)
        page = file.pages.first
        size = (page.imagelength, page.imagewidth)
        plain = page.axes in ("YX", "YXS") and page.dtype in (np.uint8, np.uint16) and tiff_orientation(page) == 1
        plain &= page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        plain &= len(file.series[0].pages) == 1
        if not plain or size[0] * size[1] <= LARGE or working_shape(*size, settings) != size:
            file.close()
            return None
        import zarr

        rows = zarr.open(page.aszarr(), mode="r")
    return Strips(path, (settings.channels, *size), settings, min(rows.chunks[0], size[0]), rows)


def write_picture_bands(path: Path, shape: tuple[int, int], bands: Iterable[np.ndarray]) -> None:
    """Write bands `(h, W, 3) uint8`, from top to bottom, as one PNG of this height and width, whole or not at all."""
    height, width = shape
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        packer = zlib.compressobj(3)
        for band in bands:
            rows = np.zeros((len(band), 1 + 3 * width), np.uint8)  # each row begins with its filter: none
            rows[:, 1:] = band.reshape(len(band), -1)
            _write_chunk(file, b"IDAT", packer.compress(rows))
        _write_chunk(file, b"IDAT", packer.flush())
        _write_chunk(file, b"IEND", b"")


def write_class_tiff_bands(
    path: Path,
    shape: tuple[int, int],
    bands: Iterable[np.ndarray],
    colours: Sequence[tuple[int, int, int]],
    tags: Sequence[tuple] = (),
) -> None:
    """Classes, in bands `(h, W) uint8` from top to bottom, as a tiled TIFF with a colour table, class i in
    `colours[i]`, and with geographic `tags`."""
    table = np.zeros((3, 256), np.uint16)
    table[:, : len(colours)] = np.transpose(colours) * 257
    options = {"photometric": "palette", "colormap": table, "compression": "zlib", "metadata": None, "software": False}
    with atomic(path) as temporary:
        tiles = _cut_tiles(bands, shape[1])
        tifffile.imwrite(
            temporary, tiles, shape=shape, dtype=np.uint8, tile=(TILE, TILE), extratags=list(tags), **options
        )


def _cut_tiles(bands: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Bands of any heights → their tiles, row by row of tiles; the last ones are filled up with 0."""
    waiting = np.zeros((0, width), np.uint8)
    for band in bands:
        waiting = np.concatenate([waiting, band])
        while len(waiting) >= TILE:
            yield from _tile_row(waiting[:TILE])
            waiting = waiting[TILE:]
    if len(waiting):
        yield from _tile_row(waiting)


def _tile_row(rows: np.ndarray) -> Iterator[np.ndarray]:
    padded = np.pad(rows, ((0, TILE - len(rows)), (0, -rows.shape[1] % TILE)))
    for left in range(0, padded.shape[1], TILE):
        yield np.ascontiguousarray(padded[:, left : left + TILE])


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if kind != b"IDAT" or data:
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
