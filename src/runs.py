"""Masks ⇄ runs of pixels, as numbers: where each begins and how long it is. `rle.py` writes them as text.

    from runs import draw_runs, mask_runs
    starts, lengths = mask_runs(mask)  # column-major, counted from 0
    mask = draw_runs((starts, lengths), mask.shape)

`order` is "F" (column-major) or "C" (row-major).
"""

from collections.abc import Iterator

import cv2
import numpy as np

Shape = tuple[int, int]
Runs = tuple[np.ndarray, np.ndarray]  # starts (0-based) and lengths, int64, ascending and apart

_STRIP = 2**20  # pixels of a large mask looked at together: they stay in the processor's cache


def flatten(array: np.ndarray, order: str = "F") -> np.ndarray:
    """(H, W) → (H·W,) in pixel order; a view where it can be."""
    if order == "C" or array.flags.f_contiguous or array.size == 0:
        return array.ravel(order)
    # OpenCV transposes in blocks, three times as fast as NumPy's strided copy
    return cv2.transpose(np.ascontiguousarray(array)).ravel()


def unflatten(flat: np.ndarray, shape: Shape, order: str = "F") -> np.ndarray:
    """(H·W,) in pixel order → (H, W), C-contiguous."""
    if order == "C" or flat.size == 0:
        return flat.reshape(shape)
    return cv2.transpose(flat.reshape(shape[::-1]))


def find_runs(labels: np.ndarray, order: str = "F") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every run of equal values of an (H, W) array, 0 included → starts (0-based), lengths, values, in pixel order."""
    flat = flatten(labels, order)
    if flat.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), flat
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return starts, np.diff(starts, append=flat.size), flat[starts]


def mask_runs(mask: np.ndarray, order: str = "F") -> Runs:
    """The runs of an (H, W) mask's pixels that are not 0 → starts (0-based), lengths.

    Goes through the mask in strips: beside it, only its edges are in memory.
    """
    edges, end, last = [], 0, False
    for strip in _strips(mask, order):
        edges.append(_changes(strip, last))
        edges[-1] += end
        end, last = end + strip.size, bool(strip[-1])
    # a run that the mask's end cuts off ends there
    pairs = np.concatenate([*edges, np.full(int(last), end)]).reshape(-1, 2)
    starts, ends = pairs[:, 0], pairs[:, 1]
    return starts, ends - starts


def instance_runs(labels: np.ndarray, order: str = "F") -> dict[int, Runs]:
    """(H, W) integer map of instance ids, 0 background → {id: its runs}, ids ascending, in one pass."""
    starts, lengths, values = find_runs(labels.astype(np.int32, copy=False), order)
    by_id = np.flatnonzero(values)
    by_id = by_id[np.argsort(values[by_id], kind="stable")]
    starts, lengths, values = starts[by_id], lengths[by_id], values[by_id]
    ids, first = np.unique(values, return_index=True)
    bounds = [*first.tolist(), values.size]
    return {
        instance: (starts[begin:end], lengths[begin:end])
        for instance, begin, end in zip(ids.tolist(), bounds[:-1], bounds[1:], strict=True)
    }


def draw_runs(runs: Runs, shape: Shape, order: str = "F") -> np.ndarray:
    """Checked runs → (H, W) uint8 of 0 and 1."""
    edges = np.empty(2 * runs[0].size, np.int64)
    edges[::2], edges[1::2] = runs[0], runs[0] + runs[1]
    if order == "C" or shape[0] * shape[1] <= _STRIP:
        return unflatten(_draw_span(edges, 0, shape[0] * shape[1]), shape, order)
    mask = np.empty(shape, np.uint8)
    height, step = shape[0], _strip_width(shape[0])
    for left in range(0, shape[1], step):
        right = min(left + step, shape[1])
        span = _draw_span(edges, left * height, right * height)
        mask[:, left:right] = cv2.transpose(span.reshape(-1, height))
    return mask


def run_pixels(runs: Runs) -> np.ndarray:
    """The flat index of every pixel of some checked runs, int64, ascending."""
    starts, lengths = runs
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def pixel_runs(pixels: np.ndarray) -> Runs:
    """Flat indices, ascending and each once → their runs."""
    first = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
    return pixels[first], np.diff(first, append=pixels.size)


def _strips(array: np.ndarray, order: str) -> Iterator[np.ndarray]:
    """An (H, W) array's pixels in order, some at a time: flat copies or views."""
    if array.size == 0:
        return
    if order == "F" and not array.flags.f_contiguous:
        step = _strip_width(array.shape[0])
        for left in range(0, array.shape[1], step):
            strip = array[:, left : left + step]
            # OpenCV transposes in blocks, several times as fast as NumPy's strided copy
            yield cv2.transpose(strip if strip.dtype == np.uint8 else (strip != 0).view(np.uint8)).ravel()
        return
    rows = array if order == "C" else array.T
    step = max(1, _STRIP // rows.shape[1])
    for top in range(0, rows.shape[0], step):
        yield rows[top : top + step].ravel()


def _changes(strip: np.ndarray, last: bool) -> np.ndarray:
    """Where a flat strip turns from 0 to something or back, `last` standing before it; int64, ascending.

    64 pixels to a word: a word is compared with itself a pixel later, and only bytes that differ are looked into.
    """
    packed = np.packbits(strip if strip.dtype == np.uint8 else strip != 0, bitorder="little")
    words = np.zeros(-(-strip.size // 64), "<u8")
    words.view(np.uint8)[: packed.size] = packed
    changed = words ^ (words << np.uint64(1))
    changed[1:] ^= words[:-1] >> np.uint64(63)
    changed[0] ^= np.uint64(last)
    in_bytes = changed.view(np.uint8)
    places = np.flatnonzero(in_bytes != 0)  # of what is bool NumPy finds it ten times as fast
    bits = np.flatnonzero(np.unpackbits(in_bytes[places], bitorder="little").view(bool))
    found = 8 * places[bits >> 3] + (bits & 7)
    # the last word is filled up with 0
    return found[:-1] if found.size and found[-1] == strip.size else found


def _strip_width(height: int) -> int:
    return max(256, _STRIP // max(1, height))  # narrower ones would read each row's memory in crumbs


def _draw_span(edges: np.ndarray, start: int, end: int) -> np.ndarray:
    """Pixels start ... end - 1 of a mask that changes at `edges`, 0 before the first."""
    first, last = (0, edges.size) if start == 0 and end >= edges[-1:].sum() else np.searchsorted(edges, (start, end))
    bounds = np.empty(last - first + 2, np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = start, edges[first:last], end
    values = np.zeros(bounds.size - 1, np.uint8)
    values[1 - first % 2 :: 2] = 1
    return np.repeat(values, bounds[1:] - bounds[:-1])
