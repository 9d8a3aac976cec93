"""The probability store: per-image probabilities on disk, 8 bits each, compressed, read and written in bands.

with ProbabilityWriter(path) as writer:
    writer.add(image_id, probabilities)  # (C, H, W) float32
probabilities = ProbabilityStore(path).read(image_id)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import atomic
from errors import UserError
from memory import check_memory


class ProbabilityWriter:
    """Writes a store of per-image probabilities, `(C, H, W)` in [0, 1], quantised to 8 bits and compressed.

    Use it as a context: the store appears under its name when the block ends well. Each image is an array of its own,
    chunked by rows, so that a band of a huge image can be written and read alone.
    """

    def __init__(self, path: Path):
        self.path = path
        self._ids: list[str] = []

    def __enter__(self) -> "ProbabilityWriter":
        import zarr

        with ExitStack() as stack:
            folder = stack.enter_context(atomic(self.path))
            self._group = zarr.open_group(folder, mode="w", zarr_format=2)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        with self._stack:  # a disk that fills up in here is told like one that fills up in the block
            if failure[1] is not None:
                raise failure[1]
            self._group.attrs["image_ids"] = self._ids

    def create(self, image_id: str, shape: tuple[int, int, int]) -> "BandSink":
        """Add an image of `(C, H, W)` whose rows follow in any order through the sink's `write`."""
        from numcodecs import Blosc

        rows = max(1, min(shape[1], 2**22 // max(1, shape[0] * shape[2])))
        array = self._group.create_array(
            f"{len(self._ids):06d}",
            shape=shape,
            chunks=(shape[0], rows, shape[2]),
            dtype="uint8",
            compressors=Blosc("zstd", clevel=3, shuffle=Blosc.NOSHUFFLE),
        )
        self._ids.append(image_id)
        return BandSink(array)

    def add(self, image_id: str, probabilities: np.ndarray) -> None:
        """Add a whole image, `(C, H, W) float32`."""
        self.create(image_id, probabilities.shape).write(0, probabilities)


@dataclass(frozen=True)
class BandSink:
    """Rows of one image of a store."""

    array: Any

    def write(self, top: int, probabilities: np.ndarray) -> None:
        """Write `(C, h, W) float32` at row `top`. Raises ValueError where a value is not finite."""
        self.array[:, top : top + probabilities.shape[1]] = quantise(probabilities)


class ProbabilityStore:
    """Reads what `ProbabilityWriter` wrote, and nothing else: a codec of other arrays might run code.

    Raises UserError where the store is missing or broken, is no such store or has no such id.
    """

    def __init__(self, path: Path):
        import zarr

        if not path.is_dir():
            raise UserError(f"{path}: no predictions here; run predict.py for this fold and round first")
        self.path = path
        with self._readable():
            self._group = zarr.open_group(path, mode="r", zarr_format=2)
            self.image_ids: list[str] = list(self._group.attrs["image_ids"])
        self._position = {image_id: number for number, image_id in enumerate(self.image_ids)}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._position

    def raw(self, image_id: str) -> np.ndarray:
        """One image's `(C, H, W) uint8`, 255 meaning 1."""
        with self._array(image_id) as array:
            check_memory(array.nbytes, f"probabilities of {array.shape}")
            return array[:]

    def bands(self, image_id: str) -> Iterator[np.ndarray]:
        """The same as `raw` in bands of whole chunks, from top to bottom: `(C, h, W) uint8`."""
        with self._array(image_id) as array:
            for top in range(0, array.shape[1], array.chunks[1]):
                yield array[:, top : top + array.chunks[1]]

    def read(self, image_id: str) -> np.ndarray:
        """One image's probabilities, `(C, H, W) float32` in [0, 1]."""
        return dequantise(self.raw(image_id))

    def shape(self, image_id: str) -> tuple[int, int, int]:
        """One image's `(C, H, W)`."""
        with self._array(image_id) as array:
            return array.shape

    @contextmanager
    def _array(self, image_id: str) -> Iterator[Any]:
        """One image as it lies on the disk; its bytes are unpacked within the block alone."""
        import zarr
        from numcodecs import Blosc

        if image_id not in self._position:
            raise UserError(f"{self.path}: no image {image_id!r}; its predictions are of other data, predict again")
        with self._readable():
            array = self._group[f"{self._position[image_id]:06d}"]
            if not isinstance(array, zarr.Array) or array.dtype != np.uint8 or array.ndim != 3:
                raise ValueError(f"image {image_id!r} is no array of probabilities")
            if array.filters or [type(one) for one in array.compressors] != [Blosc]:
                raise ValueError(f"image {image_id!r} is packed in a way of its own")
            yield array

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
            raise UserError(f"{self.path}: no store of predictions ({error}); delete it and predict again") from error


def dequantise(stored: np.ndarray) -> np.ndarray:
    """uint8 → float32 in [0, 1]."""
    return stored.astype(np.float32) / 255.0


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8, rounding; raises ValueError where a value is not finite."""
    if not np.isfinite(probabilities).all():
        raise ValueError("a predicted probability is not finite")
    return np.rint(np.clip(probabilities, 0.0, 1.0) * 255.0).astype(np.uint8)
