"""Run-length codecs against plain loops and real competitions' rows."""

import csv
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rle
import runs
from digits import join_columns

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "formats" / "vectors"
SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 9))
MASKS = hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 1))
LABELS = hnp.arrays(np.int32, SHAPES, elements=st.integers(0, 4))
OPTIONS = st.tuples(st.sampled_from("FC"), st.sampled_from([0, 1]), st.booleans())
few = settings(max_examples=60, deadline=None)

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no real rows at {VECTORS}")


def loop_runs(flat: list[int]) -> list[tuple[int, int, int]]:
    """[start, length, value] of every run, one pixel at a time."""
    found: list[tuple[int, int, int]] = []
    for position, value in enumerate(flat):
        if found and found[-1][2] == value:
            found[-1] = (found[-1][0], found[-1][1] + 1, value)
        else:
            found.append((position, 1, value))
    return found


def loop_encode(mask: np.ndarray, order: str, base: int, relative: bool) -> str:
    words, end = [], 0
    for start, length, value in loop_runs(mask.ravel(order).tolist()):
        if value:
            first = not words
            words += [start - end + (base if first else 0) if relative else start + base, length]
            end = start + length
    return " ".join(map(str, words))


def loop_coco(counts: list[int]) -> str:
    """`rleToString` of COCO's maskApi.c, line by line."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


def column(file: str, name: str, **options: bool) -> list[str]:
    with (VECTORS / file).open(newline="", encoding="utf-8") as opened:
        return [row[name] for row in csv.DictReader(opened, **options)]


@few
@given(MASKS, OPTIONS)
def test_start_length_is_what_a_loop_writes_and_reads_back(mask, options):
    text = rle.encode(mask, *options)
    assert text == loop_encode(mask, *options)
    back = rle.decode(text, mask.shape, *options)
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous if options[0] == "C" else back.flags.f_contiguous
    np.testing.assert_array_equal(back, mask)


@few
@given(LABELS, OPTIONS)
def test_instances_in_one_pass_are_what_one_pass_an_id_writes(labels, options):
    wanted = {number: rle.encode(labels == number, *options) for number in np.unique(labels[labels > 0]).tolist()}
    assert rle.encode_instances(labels, *options) == wanted


@few
@given(LABELS, st.sampled_from("FC"), st.sampled_from([0, 1]))
def test_label_maps_round_trip_and_match_a_loop(labels, order, base):
    found = loop_runs(labels.ravel(order).tolist())
    triples = rle.encode_start_length_value(labels, order, base)
    assert triples == " ".join(f"{start + base} {length} {value}" for start, length, value in found if value)
    np.testing.assert_array_equal(rle.decode_start_length_value(triples, labels.shape, order, base), labels)
    pairs = rle.encode_count_value(labels, order)
    assert pairs == " ".join(f"{length} {value}" for _, length, value in found)
    np.testing.assert_array_equal(rle.decode_count_value(pairs, labels.shape, order), labels)


@few
@given(MASKS)
def test_coco_is_what_the_c_code_writes_and_reads_back(mask):
    counts = rle.coco_counts(mask)
    found = loop_runs(mask.ravel("F").tolist())
    assert counts == ([0] if not found or found[0][2] else []) + [length for _, length, _ in found]
    assert rle.encode_coco(mask) == loop_coco(counts)
    for back in (
        rle.decode_coco_counts(counts, mask.shape),
        rle.decode_coco(rle.encode_coco(mask), mask.shape),
        rle.decode_coco_zlib(rle.encode_coco_zlib(mask), mask.shape),
    ):
        np.testing.assert_array_equal(back, mask)


def test_long_coco_counts_need_several_characters():
    mask = np.zeros((700, 900), np.uint8)
    mask[350:, 450:] = 1
    mask[3, 5] = 1
    text = rle.encode_coco(mask)
    assert text == loop_coco(rle.coco_counts(mask))
    assert len(text) > 400
    np.testing.assert_array_equal(rle.decode_coco(text, mask.shape), mask)


def test_any_memory_layout_and_any_nonzero_value_is_a_mask():
    mask = np.random.default_rng(0).integers(0, 2, (40, 60)).astype(np.uint8)
    wanted = rle.encode(mask)
    assert rle.encode(np.asfortranarray(mask)) == wanted
    assert rle.encode(np.repeat(mask, 2, axis=1)[:, ::2]) == wanted
    assert rle.encode(mask[::-1, ::-1][::-1, ::-1]) == wanted
    for dtype in (bool, np.uint16, np.int32, np.int64, np.float32):
        assert rle.encode(mask.astype(dtype)) == wanted
    speckled = mask * np.random.default_rng(1).integers(1, 256, mask.shape).astype(np.uint8)
    assert rle.encode(speckled) == wanted


@pytest.mark.parametrize("order", ["F", "C"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(0, 40), st.integers(0, 700)))
def test_large_masks_go_through_strips(order, seed, shape):
    rng = np.random.default_rng(seed)
    mask = (np.cumsum(rng.random(shape) < 0.02, axis=1) % 2).astype(rng.choice([np.uint8, bool, np.int64]))
    flat = np.concatenate([[0], mask.ravel(order), [0]])
    edges = np.flatnonzero(np.diff(flat.astype(int))).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_STRIP", 64)
        for array in (mask, np.asfortranarray(mask), mask[::-1][::-1]):
            starts, lengths = rle.mask_runs(array, order)
            assert starts.tolist() == edges[:, 0].tolist()
            assert (starts + lengths).tolist() == edges[:, 1].tolist()
        np.testing.assert_array_equal(rle.decode(rle.encode(mask, order), shape, order), mask)
        back = rle.draw_runs((starts, lengths), shape, order)
        assert back.flags.c_contiguous
        np.testing.assert_array_equal(back, mask)


@few
@given(
    st.lists(
        st.integers(0, 12)
        | st.integers(0, 2**40)
        | st.sampled_from([9999, 10_000, 10**7 - 1, 10**7, 10**14 - 1, 10**14]),
        min_size=1,
    ),
    st.sampled_from([10**7 - 1, 10**14 - 1, 2**62]),
)
def test_numbers_are_written_as_python_writes_them(numbers, largest):
    for array in (np.minimum(numbers, largest), np.resize(np.minimum(numbers, largest), 120)):
        assert join_columns(array) == " ".join(map(str, array.tolist()))
        assert join_columns(array, array) == " ".join(f"{one} {one}" for one in array.tolist())


def test_a_mask_is_encoded_without_a_second_copy():
    mask = np.zeros((3000, 20_000), np.uint8)
    mask[100:2900, 300:19_000] = 1
    for order in "FC":
        tracemalloc.start()
        try:
            assert rle.mask_runs(mask, order)[1].sum() == 2800 * 18_700
            assert tracemalloc.get_traced_memory()[1] < mask.nbytes / 8
        finally:
            tracemalloc.stop()


def test_order_and_base_are_not_to_be_confused():
    mask = np.zeros((3, 5), np.uint8)
    mask[0, 1:4] = 1
    assert rle.encode(mask) == "4 1 7 1 10 1"
    assert rle.encode(mask, "C") == rle.encode(mask.T) == "2 3"
    assert rle.encode(mask, "C", 0) == "1 3"
    assert rle.encode(mask, "F", 0, True) == "3 1 2 1 2 1"
    with pytest.raises(ValueError, match="before the first pixel"):
        rle.decode(rle.encode(np.ones((3, 5)), base=0), (3, 5), base=1)
    with pytest.raises(ValueError, match="ends beyond the image's 15 pixels"):
        rle.decode(rle.encode(np.ones((3, 5)), base=1), (3, 5), base=0)


@needs_vectors
@pytest.mark.parametrize(
    ("file", "name", "shape", "order"),
    [
        ("airbus/train_ship_segmentations_v2.excerpt.csv", "EncodedPixels", (768, 768), "F"),
        ("carvana/train_masks.head_TRUNCATED.csv", "rle_mask", (1280, 1918), "C"),
        ("clouds/train.head_TRUNCATED.csv", "EncodedPixels", (1400, 2100), "F"),
        ("hubmap_hpa_2022/test_metadata_10078_AUTHOR_MASK.csv", "rle", (2023, 2023), "F"),
        ("severstal/train_row_ImageId_ClassId.csv", "EncodedPixels", (256, 1600), "F"),
        ("severstal/val_df_excerpt.csv", "c3", (256, 1600), "F"),
        ("ultrasound_nerve/train_masks_row.csv", "pixels", (420, 580), "F"),
        ("uwmgi/train_values.csv", "segmentation", (310, 360), "C"),
    ],
)
def test_real_rows_round_trip_byte_for_byte(file, name, shape, order):
    texts = column(file, name)
    assert any(texts)
    for text in texts:
        mask = rle.decode(text, shape, order)
        assert rle.encode(mask, order) == text
        if text:
            assert rle.encode(mask, "C" if order == "F" else "F") != text
            assert rle.encode(mask, order, base=0) != text


@needs_vectors
def test_tgs_values_round_trip():
    texts = (VECTORS / "tgs_salt" / "train_rle_values.txt").read_text().splitlines()
    for text in texts:
        assert rle.encode(rle.decode(text, (101, 101))) == text


@needs_vectors
def test_siim_rows_are_relative_0_based_and_end_on_the_bottom_row():
    texts = column("siim_acr/fin_excerpt.csv", "EncodedPixels", skipinitialspace=True)
    texts = [text for text in texts if text != "-1"]
    assert texts
    for text in texts:
        mask = rle.decode(text, (1024, 1024), base=0, relative=True)
        assert rle.encode(mask, base=0, relative=True) == text
        with pytest.raises(ValueError, match="before the run before|beyond"):
            rle.decode(text, (1024, 1024), base=0)


@needs_vectors
def test_open_images_cells_are_byte_exact():
    with (VECTORS / "openimages_hpa" / "sample_rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        text = row["PredictionString"].split()[2]
        mask = rle.decode_coco_zlib(text, (int(row["ImageHeight"]), int(row["ImageWidth"])))
        assert mask.any()
        assert rle.encode_coco_zlib(mask) == text
