"""Runs stages in forked children of one process and kills them while they write.

    python tests/killer.py < jobs.json

A job is {"folder", "copy_of", "script", "arguments", "moments"}: the folder is made as a copy of another one (or, where
that is "", used as it is), and a child runs the script there for each moment, is killed at it, and the next child goes
on. The last one is left alone. Moments are counted in the child's touches of the disk below its folder, which Python
tells its audit hooks, and in training steps:

    0.3                    at this share of what the last job without moments had
    "rename .*last.pt"     before the first that this fits: step, open, mkdir, rename, remove, rmdir, rmtree
    "torn rename .*csv"    the same, with only half of the file written that was to get its name

The answer is a list of [children killed, exit code of the last one], job by job; it ends at the first that fails.
"""

import json
import math
import os
import re
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "src"), str(TOP / "tests")]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """Counts what happens, and kills its own process at the moment."""

    def __init__(self, folder: str, moment: str | int | None):
        self.folder, self.count = folder, 0
        self.number = moment if isinstance(moment, int) else 0
        self.torn, self.pattern = False, None
        if isinstance(moment, str):
            self.torn = moment.startswith("torn ")
            self.pattern = re.compile(moment.removeprefix("torn "))
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        kind = event.removeprefix("os.").removeprefix("shutil.")
        if kind == "open":
            kind = "open" if arguments[2] & WRITING else ""
        if kind not in ("open", "mkdir", "rename", "remove", "rmdir", "rmtree"):
            return
        paths = [os.fspath(one) for one in arguments[:2] if isinstance(one, (str, os.PathLike))]
        inside = any(one.startswith(self.folder) for one in paths)
        if inside or (kind in ("remove", "rmdir") and arguments[-1] != -1):  # names within a folder that is removed
            self.event(" ".join([kind, *paths]), paths[0] if kind == "rename" else "")

    def event(self, what: str, source: str = "") -> None:
        self.count += 1
        if self.count == self.number or (self.pattern and self.pattern.match(what)):
            if self.torn:
                os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def run_child(job: dict[str, Any], moment: str | int | None, answer: int) -> None:
    import concurrent.futures

    from helpers import run

    import engine

    # what a stage starts in processes of their own would not be killed with it
    pool = concurrent.futures.ThreadPoolExecutor
    concurrent.futures.ProcessPoolExecutor = lambda count, **_: pool(1)
    watch, step = Watch(job["folder"], moment), engine.apply_step

    def watched_step(learner: Any) -> None:
        watch.event("step")
        step(learner)

    engine.apply_step = watched_step
    run(job["script"], Path(job["folder"]), *job["arguments"])
    os.write(answer, str(watch.count).encode())


def fork(job: dict[str, Any], moment: str | int | None) -> tuple[int, int]:
    """A child's wait status, and what it counted if it came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            run_child(job, moment, writer)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as counted:
        count = counted.read()
    return os.waitpid(child, 0)[1], int(count or 0)


def main() -> None:
    # what the children need; nothing may be computed here, since threads do not survive a fork
    from runtime import mend_torchvision

    mend_torchvision()
    import accelerate  # noqa: F401
    import albumentations  # noqa: F401
    import helpers  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import segmentation_models_pytorch  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import engine  # noqa: F401
    import sheets  # noqa: F401

    results, whole = [], 0
    for job in json.load(sys.stdin):
        if job["copy_of"]:
            shutil.copytree(job["copy_of"], job["folder"])
        kills, status = 0, 0
        for moment in [*job["moments"], None]:
            status, count = fork(job, math.ceil(moment * whole) if isinstance(moment, float) else moment)
            if os.WIFSIGNALED(status):
                kills += 1
            elif not job["moments"]:
                whole = count
        results.append([kills, os.waitstatus_to_exitcode(status)])
        if status:
            break
    print(json.dumps(results), file=sys.__stdout__)


if __name__ == "__main__":
    main()
