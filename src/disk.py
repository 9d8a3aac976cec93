"""What a disk refuses, told in one line, and who may write where.

with locked(paths.run(0, 2) / "manifest.json"):
    ...
"""

import errno
import fcntl
import glob
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from errors import UserError

ELSEWHERE = "write elsewhere, by --workspace, --output or --masks"
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and start again",
    errno.EDQUOT: "the disk quota is used up; free some space and start again",
    errno.EFBIG: f"the disk takes no file of this size; {ELSEWHERE}",
    errno.EROFS: f"the folder is read-only; {ELSEWHERE}",
    errno.EACCES: f"no permission to write here; {ELSEWHERE}",
    errno.EPERM: f"no permission to write here; {ELSEWHERE}",
    errno.ENAMETOOLONG: "its name is too long for this disk; make the image's id shorter",
    errno.ENOTDIR: f"a file stands where a folder should be; {ELSEWHERE}",
}
SCRATCH, SCRATCH_LOCK = "fewmask-", ".in-use"
VANISHED = "its folder vanished while it was written; start again, and leave the folder where it is"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Raise UserError naming `path` where the disk refuses what the block writes there."""
    try:
        yield
    except OSError as error:
        reason = REFUSALS.get(error.errno)
        if isinstance(error, FileExistsError) and not path.parent.is_dir():
            reason = REFUSALS[errno.ENOTDIR]
        if isinstance(error, FileNotFoundError) and (
            not path.parent.is_dir() or f"{path.parent}/.{path.stem}.tmp" in str(error.filename)
        ):
            reason = VANISHED
        if reason is None:
            raise
        raise UserError(f"{path}: {reason}") from error


def remove(path: Path) -> None:
    """Delete a file or a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(path: Path, stem: str | None = None) -> None:
    """Delete what killed processes left beside `path`, whose lock is held: its own temporary files, or those of `stem`.

    "*" for a folder that has but one writer.
    """
    for left in path.parent.glob(f".{stem or glob.escape(path.stem)}.tmp*"):
        remove(left)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder below `parent`, or the system's own for temporary files, that goes when the block ends.

    What killed processes left there goes first.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for left in parent.glob(f"{SCRATCH}*/{SCRATCH_LOCK}"):
        if _is_free(left):
            shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=parent) as name, (Path(name) / SCRATCH_LOCK).open("w") as lock:
        with suppress(OSError):  # without locks nothing is ever found free
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(name)


def _is_free(lock: Path) -> bool:
    """Whether a lock file's process is gone. One that is a moment old may be about to be locked."""
    try:
        with lock.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return time.time() - lock.stat().st_mtime > 60.0
    except OSError:
        return False


def lock_file(path: Path) -> Path:
    """Stands beside `path` while somebody writes it, and says who."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that writes `path` until the block ends. Raises UserError naming the one that does already.

    The system lets go of the lock when its process ends, however it ends. A record lock and not `flock`, which the
    loader's workers would inherit, and hold for seconds after their parent was killed. Where the file system knows no
    locks, one line says so, and the block runs without.
    """
    lock = lock_file(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _take(lock, path)
    try:
        with told(path):
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')} "
                f"({shlex.join(sys.argv)})"
            )
            file.flush()
        yield
    finally:
        if _is_at(file, lock):
            lock.unlink()
        file.close()


def _take(lock: Path, path: Path) -> IO[str]:
    while True:
        file = lock.open("a+", encoding="utf-8", errors="backslashreplace")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = " ".join(file.read().split()) or "another process"
            file.close()
            raise UserError(f"{path}: in work by {holder}; wait until it ends, or end it") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{path.parent}: no locks on this file system; start nothing twice at once", file=sys.stderr)
        if _is_at(file, lock):
            return file
        file.close()  # its last holder has just deleted it


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
