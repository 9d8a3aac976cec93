"""Probability stores: what is written comes back, by id, whole or not at all, and the Zarr library agrees."""

import errno
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numcodecs import Blosc

import stores
from errors import UserError
from stores import ProbabilityStore, ProbabilityWriter, quantise

probabilities = arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.floats(0, 1, width=32))


@given(values=probabilities)
def test_quantising_is_within_half_a_step(values: np.ndarray) -> None:
    stored = quantise(values)
    assert stored.dtype == np.uint8
    assert np.abs(stored / 255.0 - values).max() <= 1 / 510 + 1e-7


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"), ProbabilityWriter(tmp_path / "oof.zarr") as writer:
        writer.add("a", np.full((1, 2, 2), value, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_store_reads_back_by_id(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = ["Tile 1/image_part_001", "Straße/ä ü.x", "000001", "日本"]
    images = {one: rng.random((2, 5 + place, 7), np.float32) for place, one in enumerate(ids)}
    path = tmp_path / "oof.zarr"
    with ProbabilityWriter(path) as writer:
        for image_id, image in images.items():
            writer.add(image_id, image)
        assert not path.exists(), "the store shows itself only when it is whole"
    store = ProbabilityStore(path)
    assert store.image_ids == ids
    for image_id in reversed(ids):
        back = store.read(image_id)
        assert back.dtype == np.float32
        assert back.shape == images[image_id].shape
        assert np.abs(back - images[image_id]).max() <= 1 / 510 + 1e-7
        assert np.array_equal(store.raw(image_id), quantise(images[image_id]))
    assert "Tile 1/image_part_001" in store
    assert "image_part_001" not in store


def test_parts_in_any_order_make_the_same_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((3, 40, 11), np.float32)
    with ProbabilityWriter(tmp_path / "test.zarr") as writer:
        sink = writer.create("wide", image.shape)
        for top in (32, 0, 16):
            sink.write((top, 5), image[:, top : top + 16, 5:])
            sink.write((top, 0), image[:, top : top + 16, :5])
        writer.add("whole", image)
    store = ProbabilityStore(tmp_path / "test.zarr")
    assert np.array_equal(store.raw("wide"), store.raw("whole"))


def test_a_store_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path, image = tmp_path / "oof.zarr", np.ones((1, 2, 2), np.float32)
    with ProbabilityWriter(path) as writer:
        writer.add("old", image)
    with pytest.raises(ZeroDivisionError), ProbabilityWriter(path) as writer:
        writer.add("new", image)
        raise ZeroDivisionError
    assert ProbabilityStore(path).image_ids == ["old"]
    assert [one.name for one in tmp_path.iterdir()] == ["oof.zarr"]


def test_a_disk_that_fills_up_at_the_very_end_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    writer = ProbabilityWriter(tmp_path / "oof.zarr")
    with pytest.raises(UserError, match=r"oof\.zarr: the disk is full"), writer:
        monkeypatch.setattr(stores, "_write_json", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_what_the_zarr_library_reads_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "CHUNK", 200)
    image = np.random.default_rng(0).random((3, 40, 11), np.float32)
    image[:, 6:12] = 0.0  # a chunk of zeros
    with ProbabilityWriter(tmp_path / "ours.zarr") as writer:
        writer.add("a", image)
    group = zarr.open_group(tmp_path / "ours.zarr", mode="r", zarr_format=2)
    assert group.attrs["image_ids"] == ["a"]
    assert group["000000"].chunks == (3, 6, 11)
    assert np.array_equal(group["000000"][:], quantise(image))

    theirs = zarr.open_group(tmp_path / "theirs.zarr", mode="w", zarr_format=2)
    packing = Blosc("zstd", clevel=3, shuffle=Blosc.NOSHUFFLE)
    array = theirs.create_array("000000", shape=(3, 40, 11), chunks=(3, 9, 11), dtype="uint8", compressors=packing)
    array[:] = np.maximum(quantise(image), 1)  # the library leaves chunks of zeros out
    theirs.attrs["image_ids"] = ["a"]
    assert np.array_equal(ProbabilityStore(tmp_path / "theirs.zarr").raw("a"), array[:])


def test_a_chunk_that_is_missing_is_not_taken_for_zeros(tmp_path: Path) -> None:
    with ProbabilityWriter(tmp_path / "oof.zarr") as writer:
        writer.create("a", (1, 4, 4))
    with pytest.raises(UserError, match=r"oof\.zarr: no store of predictions .*0\.0\.0"):
        ProbabilityStore(tmp_path / "oof.zarr").read("a")


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "oof.zarr"
    with pytest.raises(UserError, match=r"oof\.zarr: no predictions here"):
        ProbabilityStore(path)
    with ProbabilityWriter(path):
        pass
    with pytest.raises(UserError, match=r"oof\.zarr: no image 'Tile 1/a'"):
        ProbabilityStore(path).read("Tile 1/a")
