"""What all tests share: hypothesis tries the same examples every time, and never minds a slow machine."""

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("fewmask", deadline=None, derandomize=True)
settings.load_profile("fewmask")


@pytest.fixture
def work() -> Callable[[], float]:
    """Seconds the processor has spent on processes started so far; other work on the machine does not count."""
    return lambda: os.times().children_user + os.times().children_system
