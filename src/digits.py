"""Columns of whole numbers ⇄ one line of decimal text, "1 5 20 3", as fast as NumPy allows.

text = join_columns(starts, lengths)
starts, lengths = parse_columns(text, width=2, largest=mask.size)
"""

import functools

import numpy as np

_DIGITS_AND_SPACE = b"0123456789 "
_SEVEN_DIGITS = 10**7
_SPACE = np.uint64(ord(" ") << 56)


def join_columns(*columns: np.ndarray) -> str:
    """Columns of integers, none below 0 → their rows, parted by spaces."""
    numbers = np.empty((columns[0].size, len(columns)), np.int64)
    for place, column in enumerate(columns):
        numbers[:, place] = column
    numbers = numbers.ravel()
    largest = numbers.max(initial=0)
    if numbers.size < 50 or largest >= _SEVEN_DIGITS**2:
        return " ".join(map(str, numbers.tolist()))
    if largest < _SEVEN_DIGITS:
        words = _spell(numbers)
    else:
        high, low = np.divmod(numbers, _SEVEN_DIGITS)
        long = high > 0
        words = np.stack([(_spell(high) & ~_SPACE) * long, _spell(low + _SEVEN_DIGITS * long)], axis=1)
    return words.tobytes().translate(None, b"\0")[:-1].decode("ascii")


def parse_columns(text: str, width: int, largest: int) -> tuple[np.ndarray, ...]:
    """Plain integers parted by spaces, in rows of `width` → int64 columns. Raises ValueError."""
    raw = text.encode("utf-8", "replace")
    if raw.translate(None, _DIGITS_AND_SPACE):
        raise ValueError(f"only digits and spaces may stand in a run-length text: {shorten(text)}")
    # a number past int64 is read as the largest one, so the check below finds it
    numbers = np.fromstring(raw, dtype=np.int64, sep=" ") if raw.strip() else np.empty(0, np.int64)
    if numbers.size % width:
        raise ValueError(f"{numbers.size} integers are not whole groups of {width}: {shorten(text)}")
    if numbers.size and numbers.max() > largest:
        raise ValueError(f"{numbers.max()} lies beyond the image or the values allowed ({largest})")
    return tuple(numbers.reshape(-1, width).T)


def shorten(text: str) -> str:
    """The beginning of a text, quoted, for an error's one line."""
    return repr(text if len(text) <= 24 else text[:21] + "...")


def _spell(numbers: np.ndarray) -> np.ndarray:
    """Numbers → eight bytes each: up to seven digits and a space, zero bytes where no digit is.

    A number from `_SEVEN_DIGITS` on has seven digits after its own first, leading zeros and all.
    """
    head, tail = _digit_tables()
    high = numbers // 10_000
    low = numbers - high * 10_000
    # where there are higher digits, zeros lead the lower ones
    return head[high] | tail[np.minimum(numbers, low + 10_000)]


@functools.cache
def _digit_tables() -> tuple[np.ndarray, np.ndarray]:
    """The first three bytes of `_spell` for 0 ... 999 and the other five for 0 ... 9999, first without leading zeros,
    then with them."""
    tables = []
    for places, empty in (((100, 10, 1), 0), ((1000, 100, 10, 1), 1)):
        numbers = np.arange(10 * places[0])[:, None]
        digits = (numbers // np.array(places) % 10 + ord("0")).astype(np.uint8)
        short = np.where((numbers >= places) | (np.array(places) == empty), digits, 0).astype(np.uint8)
        tables.append(np.concatenate([short, digits]))
    head, tail = (np.zeros((len(table), 8), np.uint8) for table in tables)
    head[:, :3], tail[:, 3:7], tail[:, 7] = *tables, ord(" ")
    return head.view("<u8").ravel(), tail.view("<u8").ravel()
