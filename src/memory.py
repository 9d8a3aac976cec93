"""What a file's header asks for is held against this machine's memory before it is taken.

check_memory(4 * height * width, "65535x65535 pixels")
"""

import os


def memory_size() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(needed: int, what: str) -> None:
    """Raises ValueError where something takes more bytes than the machine has."""
    if needed > memory_size():
        raise ValueError(f"{what} take {needed / 1e9:.1f} GB, more memory than this machine has")
