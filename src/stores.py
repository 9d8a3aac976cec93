"""The probability store: per-image probabilities on disk, 8 bits each, compressed, read and written in bands.

with ProbabilityWriter(path) as writer:
    writer.add(image_id, probabilities)  # (C, H, W) float32
probabilities = ProbabilityStore(path).read(image_id)

A store is a Zarr group of format 2 (https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html), an array an image, which
any Zarr library opens. It is written and read here because the library takes several milliseconds for each image: more
than a small image's prediction.
"""

import json
import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import atomic
from errors import UserError
from memory import check_memory

CHUNK = 2**22  # bytes, about
BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 0, "blocksize": 0}


class ProbabilityWriter:
    """Writes a store of per-image probabilities, `(C, H, W)` in [0, 1], quantised to 8 bits and compressed.

    Use it as a context: the store appears under its name when the block ends well. Each image is an array of its own,
    chunked by rows, so that a band of a huge image can be written and read alone.
    """

    def __init__(self, path: Path):
        self.path = path
        self._ids: list[str] = []

    def __enter__(self) -> "ProbabilityWriter":
        with ExitStack() as stack:
            self._folder = stack.enter_context(atomic(self.path))
            self._folder.mkdir()
            _write_json(self._folder / ".zgroup", {"zarr_format": 2})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        with self._stack:  # a disk that fills up in here is told like one that fills up in the block
            if failure[1] is not None:
                raise failure[1]
            _write_json(self._folder / ".zattrs", {"image_ids": self._ids})

    def create(self, image_id: str, shape: tuple[int, int, int]) -> "StoredImage":
        """Add an image of `(C, H, W)` whose parts follow in any order through its `write`."""
        rows = max(1, min(shape[1], CHUNK // max(1, shape[0] * shape[2])))
        folder = self._folder / f"{len(self._ids):06d}"
        folder.mkdir()
        layout = {"shape": shape, "chunks": (shape[0], rows, shape[2]), "dtype": "|u1", "order": "C", "zarr_format": 2}
        _write_json(folder / ".zarray", layout | {"compressor": BLOSC, "filters": None, "fill_value": 0})
        self._ids.append(image_id)
        return StoredImage(folder, shape, rows)

    def add(self, image_id: str, probabilities: np.ndarray) -> None:
        """Add a whole image, `(C, H, W) float32`."""
        self.create(image_id, probabilities.shape).write((0, 0), probabilities)


@dataclass(frozen=True)
class StoredImage:
    """One image as it lies on the disk: `(C, H, W) uint8`, 255 meaning 1, in chunks of rows."""

    folder: Path
    shape: tuple[int, int, int]
    rows: int  # of a chunk

    def write(self, place: tuple[int, int], probabilities: np.ndarray) -> None:
        """Write a part, `(C, h, w) float32`, at `(top, left)`. Raises ValueError where a value is not finite."""
        from numcodecs import blosc

        top, left = place
        part, bottom = quantise(probabilities), top + probabilities.shape[1]
        for number in range(top // self.rows, -(-bottom // self.rows)):
            start, path = number * self.rows, self._file(number)
            first, last = max(top, start), min(bottom, start + self.rows)
            chunk = self._read(path) if path.exists() else np.zeros(self._chunk, np.uint8)
            chunk[:, first - start : last - start, left : left + part.shape[2]] = part[:, first - top : last - top]
            path.write_bytes(blosc.compress(chunk, b"zstd", BLOSC["clevel"], blosc.NOSHUFFLE))

    def bands(self) -> Iterator[np.ndarray]:
        """Its chunks from top to bottom. Raises ValueError where one is of another size."""
        for number in range(-(-self.shape[1] // self.rows)):
            yield self._read(self._file(number))[:, : self.shape[1] - number * self.rows]

    @property
    def _chunk(self) -> tuple[int, int, int]:
        return self.shape[0], self.rows, self.shape[2]

    def _file(self, number: int) -> Path:
        return self.folder / f"0.{number}.0"

    def _read(self, path: Path) -> np.ndarray:
        from numcodecs import blosc

        packed, size = path.read_bytes(), math.prod(self._chunk)
        # a Blosc header says at its bytes 4 and 12 how long the chunk is, unpacked and packed
        if len(packed) < 16 or struct.unpack_from("<I4xI", packed, 4) != (size, len(packed)):
            raise ValueError(f"{path.name} is not a chunk of {self._chunk}")
        chunk = np.empty(self._chunk, np.uint8)
        blosc.decompress(packed, chunk)
        return chunk


class ProbabilityStore:
    """Reads what `ProbabilityWriter` wrote, and nothing else: a codec of other arrays might run code.

    Raises UserError where the store is missing or broken, is no such store or has no such id.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise UserError(f"{path}: no predictions here; run predict.py for this fold and round first")
        self.path = path
        with self._readable():
            if _read_json(path / ".zgroup")["zarr_format"] != 2:
                raise ValueError("not of format 2")
            self.image_ids: list[str] = list(_read_json(path / ".zattrs")["image_ids"])
            self._position = {image_id: number for number, image_id in enumerate(self.image_ids)}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._position

    def raw(self, image_id: str) -> np.ndarray:
        """One image's `(C, H, W) uint8`, 255 meaning 1."""
        with self._array(image_id) as array:
            check_memory(math.prod(array.shape), f"probabilities of {array.shape}")
            parts = list(array.bands())
            return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def bands(self, image_id: str) -> Iterator[np.ndarray]:
        """The same as `raw` in bands of whole chunks, from top to bottom: `(C, h, W) uint8`."""
        with self._array(image_id) as array:
            yield from array.bands()

    def read(self, image_id: str) -> np.ndarray:
        """One image's probabilities, `(C, H, W) float32` in [0, 1]."""
        return dequantise(self.raw(image_id))

    def shape(self, image_id: str) -> tuple[int, int, int]:
        """One image's `(C, H, W)`."""
        with self._array(image_id) as array:
            return array.shape

    @contextmanager
    def _array(self, image_id: str) -> Iterator[StoredImage]:
        """One image as it lies on the disk; its bytes are unpacked within the block alone."""
        if image_id not in self._position:
            raise UserError(f"{self.path}: no image {image_id!r}; its predictions are of other data, predict again")
        with self._readable():
            folder = self.path / f"{self._position[image_id]:06d}"
            layout = _read_json(folder / ".zarray")
            shape, chunks = layout["shape"], layout["chunks"]
            whole = len(shape) == len(chunks) == 3 and all(
                isinstance(side, int) and side > 0 for side in shape + chunks
            )
            if layout["dtype"] != "|u1" or not whole or (chunks[0], chunks[2]) != (shape[0], shape[2]):
                raise ValueError(f"image {image_id!r} is no array of probabilities")
            if layout["filters"] or layout["compressor"] != BLOSC:
                raise ValueError(f"image {image_id!r} is packed in a way of its own")
            yield StoredImage(folder, tuple(shape), chunks[1])

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
            raise UserError(f"{self.path}: no store of predictions ({error}); delete it and predict again") from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def dequantise(stored: np.ndarray) -> np.ndarray:
    """uint8 → float32 in [0, 1]."""
    return stored.astype(np.float32) / 255.0


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8, rounding; raises ValueError where a value is not finite."""
    if not np.isfinite(probabilities).all():
        raise ValueError("a predicted probability is not finite")
    return np.rint(np.clip(probabilities, 0.0, 1.0) * 255.0).astype(np.uint8)
