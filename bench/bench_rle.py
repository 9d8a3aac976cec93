"""How fast masks become text and back: against pycocotools and against the kernel everyone copies, in one run.

    python bench/bench_rle.py
    python bench/bench_rle.py --repeats 9 --skip-large   # a quick look, without the mask of 900 megapixels

Milliseconds are medians; the contestants take turns, so that a busy machine slows all alike. pycocotools is no
requirement of the project: without it (pip install pycocotools) its columns stay empty. All three decoders give masks
that lie in memory column by column.
"""

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import rle
from competitions import FORMATS
from formats import write_submission

MASKS = (((256, 1600), 1003), ((768, 768), 372), ((5000, 5000), 48_945))  # and how many runs, about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31, help="turns of each contestant (default: 31)")
    parser.add_argument("--skip-large", action="store_true", help="leave out the mask of 30,000 x 30,000")
    parser.add_argument("--large", metavar="HOW", choices=("nothing", "F", "C"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.large:
        encode_large(args.large)
        return
    if importlib.util.find_spec("pycocotools") is None:
        print("pycocotools is not installed: its columns stay empty")
    print(f"{'mask':<12} {'runs':>6}  {'':<6} {'ours':>8} {'pycocotools':>12} {'kernel':>8}   {'ratios':>12}")
    for shape, count in MASKS:
        compare(shape, count, args.repeats if shape[0] < 5000 else max(3, args.repeats // 4))
    submission_of_18000()
    if not args.skip_large:
        # a process of its own each, since the highest memory of one is never forgotten
        nothing, *others = (large_memory(how) for how in ("nothing", "F", "C"))
        for order, (seconds, peak) in zip("FC", others, strict=True):
            more = (peak - nothing[1]) / 900
            print(f"30,000 x 30,000, order {order}: {seconds:.2f} s, memory beyond the mask {more:.2f} of its size")


def compare(shape: tuple[int, int], count: int, repeats: int) -> None:
    mask = draw_blobs(shape, count)
    runs = rle.mask_runs(mask)[0].size
    text = rle.encode(mask)
    encoders: dict[str, Callable] = {"ours": lambda: rle.encode(mask), "kernel": lambda: kernel_encode(mask)}
    decoders: dict[str, Callable] = {
        "ours": lambda: rle.decode(text, shape),
        "kernel": lambda: kernel_decode(text, shape),
    }
    assert encoders["ours"]() == encoders["kernel"]()
    assert all((decode() == mask).all() for decode in decoders.values())
    if importlib.util.find_spec("pycocotools"):
        from pycocotools import mask as coco

        packed = coco.encode(np.asfortranarray(mask))
        assert packed["counts"].decode() == rle.encode_coco(mask)
        encoders["pycocotools"] = lambda: coco.encode(np.asfortranarray(mask))
        decoders["pycocotools"] = lambda: coco.decode(packed)
    for what, contestants in (("encode", encoders), ("decode", decoders)):
        times = median_times(contestants, repeats)
        cells = [f"{times[name]:.2f}" if name in times else "-" for name in ("ours", "pycocotools", "kernel")]
        ratios = [f"{times[name] / times['ours']:.1f}x" for name in ("pycocotools", "kernel") if name in times]
        size = f"{shape[0]}x{shape[1]}"
        print(
            f"{size:<12} {runs:>6}  {what:<6} {cells[0]:>8} {cells[1]:>12} {cells[2]:>8}   {' '.join(ratios):>12}",
            flush=True,
        )


def median_times(contestants: dict[str, Callable], repeats: int) -> dict[str, float]:
    """The median milliseconds of each, taking turns after one turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(one) for name, one in times.items()}


def draw_blobs(shape: tuple[int, int], count: int) -> np.ndarray:
    """A mask of smooth blobs with `count` column-major runs, or as near as blobs of a whole size come."""
    low, high, best = 2, max(shape), (np.inf, np.zeros(shape, np.uint8))
    while low <= high:
        cell = (low + high) // 2  # pixels from one random value to the next
        grid = [max(2, round(side / cell) + 1) for side in shape]
        noise = np.random.default_rng(count).random(grid, dtype=np.float32)
        mask = (cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC) > 0.5).astype(np.uint8)
        found = rle.mask_runs(mask)[0].size
        if abs(found - count) < best[0]:
            best = (abs(found - count), mask)
        low, high = (cell + 1, high) if found > count else (low, cell - 1)
    return best[1]


def kernel_encode(mask: np.ndarray) -> str:
    """The idea of the well-known kernel: frame the flat mask with zeros, compare neighbours, join every number."""
    flat = np.concatenate([[0], mask.T.flatten(), [0]])
    edges = np.where(flat[1:] != flat[:-1])[0] + 1
    edges[1::2] -= edges[::2]
    return " ".join(str(number) for number in edges)


def kernel_decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """And back: a slice a run."""
    words = text.split()
    starts, lengths = (np.asarray(part, dtype=int) for part in (words[0::2], words[1::2]))
    flat = np.zeros(shape[0] * shape[1], np.uint8)
    for start, end in zip(starts - 1, starts - 1 + lengths, strict=True):
        flat[start:end] = 1
    return flat.reshape(shape[::-1]).T


def submission_of_18000() -> None:
    """TGS Salt's own test set: masks to a validated CSV."""
    masks = [draw_blobs((101, 101), 60 + place) for place in range(50)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        labels = ((f"{place:010x}", masks[place % len(masks)]) for place in range(18_000))
        write_submission(Path(folder) / "out.csv", FORMATS["tgs_salt"], ["salt"], "binary", labels)
        print(f"18,000 masks of 101x101 to a validated CSV: {time.perf_counter() - start:.1f} s", flush=True)


def large_memory(how: str) -> tuple[float, float]:
    """Seconds and the highest memory, in MB, of a process that encodes a mask of 900 megapixels."""
    command = [sys.executable, __file__, "--large", how]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, answer.split())
    return seconds, peak


def encode_large(how: str) -> None:
    mask = np.zeros((30_000, 30_000), np.uint8)
    mask[:] = 0  # every page, so that the mask itself is in memory
    for place in range(0, 29_000, 1000):
        cv2.circle(mask, (place + 500, place + 500), 400, 1, -1)
    start = time.perf_counter()
    if how != "nothing":
        assert rle.encode(mask, how)
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
