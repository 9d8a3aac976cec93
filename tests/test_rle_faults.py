"""Run-length texts that are no mask: each is told what is wrong, any text is a mask or an error, no bomb unpacks."""

import base64
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rle

SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "whole groups of 2"),
        ("1 2 3", "whole groups of 2"),
        ("-1", "only digits"),
        ("+1 2", "only digits"),
        ("1.0 2", "only digits"),
        ("1e2 2", "only digits"),
        ("nan", "only digits"),
        ("1\n2", "only digits"),
        ("1,2", "only digits"),
        ("١ ٢", "only digits"),
        ("1 \ud800", "only digits"),
        ("1 2\x00", "only digits"),
        ("1 0", "run 1 has no length"),
        ("0 1", "run 1 starts before the first pixel"),
        ("1 16", "beyond"),
        ("15 2", "run 1 ends beyond"),
        ("16 1", "beyond"),
        ("1 1 99999999999999999999999999999 1", "beyond"),
        ("1 9223372036854775807", "beyond"),
        ("9223372036854775807 9223372036854775807", "beyond"),
        ("5 1 3 1", "run 2 starts before the run before it ends"),
        ("1 3 3 1", "run 2 starts before the run before it ends"),
        ("1 1 1 1", "run 2 starts before the run before it ends"),
    ],
)
def test_a_bad_text_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        rle.decode(text, (3, 5))


def test_runs_that_touch_and_extra_spaces_are_fine():
    np.testing.assert_array_equal(rle.decode("  1  2 3 1 ", (3, 1)), np.ones((3, 1)))
    assert rle.decode("   ", (3, 5)).sum() == 0


def mask_or_message(read, text, shape) -> np.ndarray | str:
    try:
        return read(text, shape)
    except ValueError as error:
        return str(error)


READERS = (
    rle.decode,
    lambda text, shape: rle.decode(text, shape, "C", 0, True),
    rle.decode_start_length_value,
    rle.decode_count_value,
    rle.decode_coco,
    rle.decode_coco_zlib,
    lambda text, shape: rle.decode_coco_zlib(base64.b64encode(zlib.compress(text.encode("utf-8"))).decode(), shape),
)
TEXTS = (
    st.text()
    | st.text("0123456789 ", max_size=60)
    | st.text("".join(map(chr, range(48, 112))), max_size=30)
    | st.lists(st.integers(0, 30), max_size=12).map(lambda numbers: " ".join(map(str, numbers)))
    | st.binary(max_size=30).map(lambda raw: base64.b64encode(raw).decode())
)


@pytest.mark.parametrize("read", READERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS.filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)), shape=SHAPES)
def test_any_text_is_a_mask_or_a_value_error(read, text, shape):
    answer = mask_or_message(read, text, shape)
    if isinstance(answer, str):
        assert 0 < len(answer) < 200
        assert "\n" not in answer
    else:
        assert answer.shape == shape
        assert answer.dtype == np.uint8


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-3, 20) | st.just(2**70) | st.text() | st.floats() | st.none(), max_size=8), SHAPES)
def test_any_counts_are_a_mask_or_a_value_error(counts, shape):
    answer = mask_or_message(rle.decode_coco_counts, counts, shape)
    assert answer if isinstance(answer, str) else answer.shape == shape


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (rle.decode_start_length_value, "1 2 0", "a value is not in 1"),
        (rle.decode_start_length_value, "1 2 256", "a value is not in 1|beyond"),
        (rle.decode_start_length_value, "1 2", "whole groups of 3"),
        (rle.decode_start_length_value, "1 2 1 2 1 1", "run 2 starts before"),
        (rle.decode_count_value, "14 0", "14 pixels, the image 15"),
        (rle.decode_count_value, "15 0 1 1", "16 pixels, the image 15"),
        (rle.decode_count_value, "0 1 15 0", "no length"),
        (rle.decode_count_value, "15 256", "not in 0 ... 255|beyond"),
        (rle.decode_count_value, "", "0 pixels, the image 15"),
        (rle.decode_coco, "", "not COCO counts"),
        (rle.decode_coco, "?" * 3 + "P", "not COCO counts"),
        (rle.decode_coco, "P" * 9 + "0", "too many digits"),
        (rle.decode_coco, "/", "not COCO counts"),
        (rle.decode_coco, "é", "not COCO counts"),
        (rle.decode_coco, "8", "8 pixels, the image 15"),
        (rle.decode_coco_zlib, "x", "not base64"),
        (rle.decode_coco_zlib, "aGVsbG8=", "not base64"),
    ],
)
def test_the_other_readers_name_what_is_wrong(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text, (3, 5))


def test_streams_cut_short_prolonged_or_huge_are_refused_without_unpacking_them():
    whole = zlib.compress(rle.encode_coco(np.eye(5)).encode(), 9)
    for raw in (whole[:-3], whole + b"more"):
        with pytest.raises(ValueError, match="cut short or longer"):
            rle.decode_coco_zlib(base64.b64encode(raw).decode(), (5, 5))
    bomb = base64.b64encode(zlib.compress(b"0" * 20_000_000, 9)).decode()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="longer than the image needs"):
            rle.decode_coco_zlib(bomb, (5, 5))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_worst_mask_still_fits_the_unpacking_limit():
    for pattern in ((1, 0), (1, 1, 1, 0), (1,) * 17 + (0,), (0,) * 513 + (1,)):
        mask = np.resize(np.array(pattern, np.uint8), 4096).reshape(64, 64)
        np.testing.assert_array_equal(rle.decode_coco_zlib(rle.encode_coco_zlib(mask), (64, 64)), mask)
