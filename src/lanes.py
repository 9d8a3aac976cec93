"""Folds worked on beside each other: on a processor each on its part of the cores, on GPUs each on its own.

    run_folds(args, config.folds.count, todo, partial(train_one, config, paths))

A step on small crops keeps two cores less busy together than two steps keep them alone. How many run at once follows
from the machine and the number of folds alone, so that a run that goes on takes the cores it had, and ends with the
same bytes. OMP_NUM_THREADS says how many cores there are to share.
"""

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partialmethod

from children import end_with_parent
from cli import guard
from errors import UserError
from memory import memory_size

ROOM = 6 * 10**9  # bytes of memory for each fold on a processor


def run_folds(args: argparse.Namespace, count: int, todo: list[int], work: Callable[[int], None]) -> None:
    """Call `work(fold)` for each fold to do of `count`, some beside each other unless `--fold` names one.

    Beside each other they are processes of their own. Raises UserError where the system ended one of them, and exits
    with the code of one that told its mistake itself; what ran beside it has come to its end.
    """
    lanes = 1 if args.fold is not None or not todo else count_lanes(count)
    for first in range(0, count, lanes):
        wave = range(first, min(first + lanes, count))
        mine = [fold for fold in wave if fold in todo]
        if len(wave) == 1:
            for fold in mine:
                work(fold)
        else:
            _run_wave(args, mine, len(wave), work)


def count_lanes(folds: int) -> int:
    """How many of these folds to work on at once on this machine."""
    if sys.platform != "linux" or os.environ.get("WORLD_SIZE", "1") != "1":
        return 1  # a process that has loaded its libraries cannot be forked safely; and a launch has its own processes
    import torch

    from runtime import best_device

    if best_device().type == "cpu":
        return max(1, min(folds, torch.get_num_threads(), memory_size() // ROOM))
    return max(1, min(folds, torch.cuda.device_count()))


def _run_wave(args: argparse.Namespace, folds: list[int], lanes: int, work: Callable[[int], None]) -> None:
    context = multiprocessing.get_context("fork")
    given = [(args, work, fold, lane, lanes) for lane, fold in enumerate(folds)]
    running = [context.Process(target=_enter, args=one, name=f"fold {one[2]}") for one in given]
    for one in running:
        one.start()
    for one in running:
        one.join()
    for one in running:
        if one.exitcode < 0:
            name = signal.Signals(-one.exitcode).name
            raise UserError(
                f"{one.name}: its process was ended by {name}; where that was for want of memory, "
                "take a smaller train.batch_size, or one fold after the other with --fold"
            )
    if failed := [one.exitcode for one in running if one.exitcode]:
        sys.exit(failed[0])


def _enter(args: argparse.Namespace, work: Callable[[int], None], fold: int, lane: int, lanes: int) -> None:
    """Become the process of one fold: on its part of the machine, and gone when its parent is."""
    import cv2
    import torch
    from tqdm import tqdm

    end_with_parent()
    if torch.cuda.is_available():
        torch.cuda.set_device(lane)
    torch.set_num_threads(max(1, torch.get_num_threads() // lanes))
    cv2.setNumThreads(torch.get_num_threads())
    if lane:  # the first one's bar is there for all: they go at the same speed
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    try:
        guard(lambda _: work(fold), args)
    except KeyboardInterrupt:
        sys.exit(130)
