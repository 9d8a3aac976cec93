"""Run-length codecs: how competitions write a mask as a line of text, and back. Vectorised, and nothing else.

    from rle import decode, encode
    text = encode(mask)                       # column-major, 1-based "start length start length ..."
    mask = decode(text, mask.shape)

`order` is "F" (column-major) or "C" (row-major), `base` the number of the first pixel. Every reader takes any text and
gives an array or raises one ValueError; what it allocates is bounded by the image and the text.
"""

import base64
import zlib
from collections.abc import Sequence

import numpy as np

from digits import join_columns, parse_columns, shorten
from runs import (
    Runs,
    Shape,
    draw_runs,
    find_runs,
    flatten,
    instance_runs,
    mask_runs,
    pixel_runs,
    run_pixels,
    unflatten,
)

__all__ = [
    "Runs",
    "Shape",
    "coco_counts",
    "decode",
    "decode_coco",
    "decode_coco_counts",
    "decode_coco_zlib",
    "decode_count_value",
    "decode_start_length_value",
    "draw_runs",
    "encode",
    "encode_coco",
    "encode_coco_zlib",
    "encode_count_value",
    "encode_instances",
    "encode_start_length_value",
    "find_runs",
    "flatten",
    "instance_runs",
    "join_coco",
    "join_coco_zlib",
    "join_runs",
    "mask_runs",
    "parse_coco",
    "parse_coco_counts",
    "parse_coco_zlib",
    "parse_runs",
    "pixel_runs",
    "run_pixels",
    "unflatten",
]

_MAX_CHARACTERS = 7  # of one COCO count: 35 bits


def encode(mask: np.ndarray, order: str = "F", base: int = 1, relative: bool = False) -> str:
    """(H, W) bool or integer mask → "start length start length ..."; "" where no pixel is set.

    With `relative`, a start counts from the end of the run before it (SIIM-ACR); `base` is then the first run's alone.
    """
    return join_runs(mask_runs(mask, order), base, relative)


def join_runs(runs: Runs, base: int = 1, relative: bool = False) -> str:
    """Runs → "start length start length ...", as `encode` writes them."""
    starts, lengths = runs
    if relative and starts.size:
        starts = np.diff(starts, prepend=0) - np.concatenate(([0], lengths[:-1]))
        starts[0] += base
    else:
        starts = starts + base
    return join_columns(starts, lengths)


def decode(text: str, shape: Shape, order: str = "F", base: int = 1, relative: bool = False) -> np.ndarray:
    """What `encode` wrote → (H, W) uint8 of 0 and 1. Raises ValueError as `parse_runs` does.

    It lies in memory in `order`, column by column or row by row, as it was written; `draw_runs` always gives rows.
    """
    runs = parse_runs(text, shape[0] * shape[1], base, relative)
    return draw_runs(runs, shape, "C") if order == "C" else draw_runs(runs, shape[::-1], "C").T


def parse_runs(text: str, size: int, base: int = 1, relative: bool = False) -> Runs:
    """ "start length ..." of an image of `size` pixels → starts (0-based), lengths.

    Raises ValueError where the text is not whole pairs of plain integers, a run has no length or leaves the image, or
    starts do not ascend or runs overlap. Runs that touch are fine.
    """
    starts, lengths = parse_columns(text, 2, size)
    if relative and starts.size:
        starts = np.cumsum(starts + lengths) - lengths
    return _check_runs(starts - base, lengths, size)


def encode_instances(labels: np.ndarray, order: str = "F", base: int = 1, relative: bool = False) -> dict[int, str]:
    """(H, W) integer map of instance ids, 0 background → {id: "start length ..."}, ids ascending."""
    return {instance: join_runs(runs, base, relative) for instance, runs in instance_runs(labels, order).items()}


def encode_start_length_value(labels: np.ndarray, order: str = "C", base: int = 1) -> str:
    """(H, W) integer map → "start length value ..." over the pixels that are not 0; "" where there are none."""
    starts, lengths, values = find_runs(labels, order)
    inside = values != 0
    return join_columns(starts[inside] + base, lengths[inside], values[inside])


def decode_start_length_value(
    text: str, shape: Shape, order: str = "C", base: int = 1, dtype: type[np.integer] = np.uint8
) -> np.ndarray:
    """ "start length value ..." → (H, W) `dtype`, 0 where no run is.

    Raises ValueError as `parse_runs` does, and for a value of 0 or one that `dtype` cannot hold.
    """
    size = shape[0] * shape[1]
    starts, lengths, values = parse_columns(text, 3, max(size, np.iinfo(dtype).max))
    starts, lengths = _check_runs(starts - base, lengths, size)
    if values.size and (values.min() < 1 or values.max() > np.iinfo(dtype).max):
        raise ValueError(f"a value is not in 1 ... {np.iinfo(dtype).max}")
    row = np.zeros(2 * values.size + 1, dtype)
    row[1::2] = values
    return unflatten(np.repeat(row, _alternating((starts, lengths), size)), shape, order)


def encode_count_value(labels: np.ndarray, order: str = "C") -> str:
    """(H, W) integer map → "count value count value ..." over every pixel, 0 included."""
    _, lengths, values = find_runs(labels, order)
    return join_columns(lengths, values)


def decode_count_value(text: str, shape: Shape, order: str = "C", dtype: type[np.integer] = np.uint8) -> np.ndarray:
    """ "count value ..." → (H, W) `dtype`.

    Raises ValueError for what are not whole pairs of plain integers, counts that do not fill the image exactly or are
    0, and a value that `dtype` cannot hold.
    """
    size, largest = shape[0] * shape[1], np.iinfo(dtype).max
    counts, values = parse_columns(text, 2, max(size, largest))
    if counts.size and counts.min() < 1:
        raise ValueError("a run has no length")
    if counts.sum() != size:
        raise ValueError(f"the runs hold {counts.sum()} pixels, the image {size}")
    if values.size and values.max() > largest:
        raise ValueError(f"a value is not in 0 ... {largest}")
    return unflatten(np.repeat(values.astype(dtype), counts), shape, order)


def coco_counts(mask: np.ndarray) -> list[int]:
    """(H, W) mask → COCO's uncompressed counts: column-major lengths of zero- and one-runs by turns, zeros first."""
    return _coco_counts(mask_runs(mask), mask.size).tolist()


def decode_coco_counts(counts: Sequence[int], shape: Shape) -> np.ndarray:
    """COCO's uncompressed counts → (H, W) uint8. Raises ValueError as `parse_coco_counts` does."""
    return draw_runs(parse_coco_counts(counts, shape[0] * shape[1]), shape)


def parse_coco_counts(counts: Sequence[int], size: int) -> Runs:
    """COCO's uncompressed counts → starts, lengths. Raises ValueError where they do not fill `size` pixels exactly."""
    try:
        array = np.array(counts, dtype=np.int64).reshape(-1)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"not whole numbers of pixels: {error}") from None
    return _runs_of_counts(array, size)


def encode_coco(mask: np.ndarray) -> str:
    """(H, W) mask → COCO's compressed counts, byte for byte as pycocotools writes them (`rleToString`, maskApi.c)."""
    return join_coco(mask_runs(mask), mask.size)


def join_coco(runs: Runs, size: int) -> str:
    """Column-major runs of an image of `size` pixels → COCO's compressed counts."""
    rest = _coco_counts(runs, size)
    rest[3:] -= rest[1:-2].copy()
    digits = np.zeros((rest.size, _MAX_CHARACTERS), np.uint8)
    used = np.zeros(digits.shape, bool)
    more = np.ones(rest.size, bool)
    for place in range(_MAX_CHARACTERS):
        used[:, place] = more
        low = rest & 31
        rest >>= 5
        more &= np.where(low & 16, rest != -1, rest != 0)
        digits[:, place] = low + 32 * more + 48
    return digits[used].tobytes().decode("ascii")


def decode_coco(text: str, shape: Shape) -> np.ndarray:
    """COCO's compressed counts → (H, W) uint8. Raises ValueError as `parse_coco` does."""
    return draw_runs(parse_coco(text, shape[0] * shape[1]), shape)


def parse_coco(text: str, size: int) -> Runs:
    """COCO's compressed counts (`rleFrString`, maskApi.c) of an image of `size` pixels → starts, lengths.

    Raises ValueError for a character outside the alphabet, a broken number, or counts that do not fill the image.
    """
    digits = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError(f"not COCO counts: {shorten(text)}")
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = ends - starts + 1
    if widths.max() > _MAX_CHARACTERS:
        raise ValueError("a COCO count has too many digits")
    place = np.arange(digits.size) - np.repeat(starts, widths)
    counts = np.add.reduceat((digits & 31) << (5 * place), starts)
    counts -= np.where(digits[ends] & 16, 1 << (5 * widths), 0)
    # from the fourth on, a count is written as its difference to the one two before
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return _runs_of_counts(counts, size)


def encode_coco_zlib(mask: np.ndarray) -> str:
    """(H, W) mask → base64 of the zlib level-9 stream of `encode_coco` (Open Images 2019, HPA 2021, HuBMAP 2023)."""
    return join_coco_zlib(mask_runs(mask), mask.size)


def join_coco_zlib(runs: Runs, size: int) -> str:
    """Column-major runs of an image of `size` pixels → what `encode_coco_zlib` writes."""
    return base64.b64encode(zlib.compress(join_coco(runs, size).encode("ascii"), 9)).decode("ascii")


def decode_coco_zlib(text: str, shape: Shape) -> np.ndarray:
    """What `encode_coco_zlib` wrote → (H, W) uint8. Raises ValueError as `parse_coco_zlib` does."""
    return draw_runs(parse_coco_zlib(text, shape[0] * shape[1]), shape)


def parse_coco_zlib(text: str, size: int) -> Runs:
    """`encode_coco_zlib`'s text of an image of `size` pixels → starts, lengths.

    Raises ValueError for broken base64, zlib or counts, and for a stream that unpacks to more than `size` pixels need.
    """
    unpacker = zlib.decompressobj()
    try:
        # a pixel costs at most two characters; a longer stream is a bomb, and is never unpacked whole
        counts = unpacker.decompress(base64.b64decode(text, validate=True), 2 * size + 64)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"not base64 of a zlib stream ({error}): {shorten(text)}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("the zlib stream is cut short or longer than the image needs")
    return parse_coco(counts.decode("latin-1"), size)


def _alternating(runs: Runs, size: int) -> np.ndarray:
    """Runs → the lengths of gap, run, gap, ..., run, last gap."""
    starts, lengths = runs
    edges = np.zeros(2 * starts.size + 2, np.int64)
    edges[1:-1:2] = starts
    edges[2:-1:2] = starts + lengths
    edges[-1] = size
    return np.diff(edges)


def _coco_counts(runs: Runs, size: int) -> np.ndarray:
    counts = _alternating(runs, size)
    return counts[:-1] if counts[-1] == 0 and counts.size > 1 else counts


def _runs_of_counts(counts: np.ndarray, size: int) -> Runs:
    if counts.size and (counts.min() < 0 or counts.max() > size):
        raise ValueError(f"a count is not in 0 ... {size}, the image's pixels")
    if counts.sum() != size:
        raise ValueError(f"the counts hold {counts.sum()} pixels, the image {size}")
    starts, lengths = (np.cumsum(counts) - counts)[1::2], counts[1::2]
    return starts[lengths > 0], lengths[lengths > 0]


def _check_runs(starts: np.ndarray, lengths: np.ndarray, size: int) -> Runs:
    ends = starts + lengths
    if not starts.size or (
        starts[0] >= 0 and ends[-1] <= size and lengths.min() > 0 and (starts[1:] >= ends[:-1]).all()
    ):
        return starts, lengths
    faults = (
        (starts < 0, "starts before the first pixel"),
        (lengths < 1, "has no length"),
        (ends > size, f"ends beyond the image's {size} pixels"),
        (starts < np.concatenate(([0], ends[:-1])), "starts before the run before it ends"),
    )
    wrong, what = next(fault for fault in faults if fault[0].any())
    raise ValueError(f"run {int(wrong.argmax()) + 1} {what}")
