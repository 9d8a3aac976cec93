"""Processes that a stage starts: none outlives it, and a stop is the parent's to tell.

answers = call_beside(score_parts, [(config, paths, parts) for parts in jobs])
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from errors import UserError

Answer = TypeVar("Answer")
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with_parent(parent: int | None = None) -> None:
    """Have the system kill this process when its parent is gone, however that ended; elsewhere than on Linux, nothing.

    The parent is of this id, or the one that `multiprocessing` knows; it may be gone already.
    """
    if parent is None and (known := multiprocessing.parent_process()):
        parent = known.pid
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def call_beside(function: Callable[..., Answer], jobs: Sequence[tuple[Any, ...]]) -> list[Answer]:
    """`[function(*job) for job in jobs]` in processes of their own, one a core.

    Raises UserError where the system ended one of them. Function, jobs and answers are pickled.
    """
    # a forked child would wait for ever on locks that torch holds in its parent
    spawn, count = multiprocessing.get_context("spawn"), min(count_cores(), len(jobs))
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=end_with_parent) as pool:
        # a terminal's Ctrl-C goes to all: each child would show where it was
        heed = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            waiting = [pool.submit(function, *job) for job in jobs]
        finally:
            signal.signal(signal.SIGINT, heed)
        try:
            return [one.result() for one in waiting]
        except BrokenProcessPool:
            raise UserError(
                "a process of this stage was ended by the system; where that was for want of memory, give it more and "
                "start again"
            ) from None
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
