"""What a file's header or a training asks for is held against this machine's memory before it is taken.

check_memory(4 * height * width, "65535x65535 pixels")
Needs(fixed=2 * 10**9, per_image=10**8, room=memory_size()).fitting(8)
"""

import os
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # version 2 and 1


@dataclass(frozen=True)
class Needs:
    """The bytes a training takes at its peak, and those that there are."""

    fixed: int  # whatever the batch
    per_image: int  # of a batch
    room: int
    place: str = "memory"

    def total(self, batch: int) -> int:
        return self.fixed + batch * self.per_image

    def fitting(self, failed: int) -> int:
        """The batch that should fit where one of `failed` images did not; 0 where none does.

        Half of it where it should have fitted: then something else has taken the memory.
        """
        count = max(0, self.room - self.fixed) // max(1, self.per_image)
        return count if count < failed else failed // 2


def amount(size: float) -> str:
    """Bytes as people say them: 2.1 GB, or 35 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def used_memory() -> int:
    """The most bytes that this process has held so far.

    getrusage's own word, where Linux does not tell more, counts what the process that started this one held by then.
    """
    status = STATUS.read_text(encoding="utf-8") if STATUS.is_file() else ""
    if peak := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
        return int(peak[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, a GPU's, or torch's own word for a processor's."""
    said = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or ("DefaultCPUAllocator" in said and "memory" in said)
    )


def memory_size() -> int:
    """The machine's memory in bytes, or what its container may take of it."""
    told = [path.read_text(encoding="utf-8").strip() for path in LIMITS if path.is_file()]
    limits = [int(limit) for limit in told if limit.isdecimal()]  # "max" where there is none
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def check_memory(needed: int, what: str) -> None:
    """Raises ValueError where something takes more bytes than the machine has."""
    if needed > memory_size():
        raise ValueError(f"{what} take {needed / 1e9:.1f} GB, more memory than there is here")
