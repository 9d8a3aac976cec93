"""What all tests share: hypothesis tries the same examples every time, and never minds a slow machine.

Two processes share the test files; each keeps to one thread, and so do the scripts they start.
"""

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("fewmask", deadline=None, derandomize=True)
settings.load_profile("fewmask")


@pytest.fixture
def work() -> Callable[[], float]:
    """Seconds the processor has spent on processes started so far; other work on the machine does not count."""
    return lambda: os.times().children_user + os.times().children_system
