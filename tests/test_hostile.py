"""Files that would run code or write elsewhere, if what guards against them were taken away.

A hostile file holds a bomb: a reader without the guard makes a folder `burst`. Paths out of a zip stand in test_zips.py
and test_archives.py, checkpoints that are pickles in test_artifacts.py, configs with tags and ids that leave their
folder in test_rubbish.py, names of markup in test_make_report.py.
"""

import ast
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs.pickles
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import memory
from archives import write_archive
from artifacts import TOP, load_checkpoint, save_checkpoint
from competitions import ARCHIVES
from config import Model
from errors import UserError
from images import image_size, read_image
from models import build_model
from stores import ProbabilityStore, ProbabilityWriter


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("burst",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- stores ----------------------------------------------------------------------------------------------------------

PICKLE = {"id": "pickle", "protocol": 5}
ZSTD = {"id": "zstd", "level": 1}


@pytest.fixture
def store(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good store, on a machine whose numcodecs may unpickle, as an environment variable lets it."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)
    path = here / "oof.zarr"
    with ProbabilityWriter(path) as writer:
        writer.add("a", np.full((1, 4, 5), 0.5, np.float32))
    return path


def edit(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda store: (store / name).write_text(json.dumps(json.loads((store / name).read_text()) | values)) and None


def replace_chunk(content: bytes) -> Callable[[Path], None]:
    return lambda store: (store / "000000" / "0.0.0").write_bytes(content) and None


STORES: dict[str, tuple[Callable[[Path], None], str]] = {
    "objects": (edit("000000/.zarray", dtype="|O", fill_value=None, compressor=None, filters=[PICKLE]), "no store of"),
    "packed as a pickle": (edit("000000/.zarray", compressor=PICKLE), "no store of"),
    "filtered as a pickle": (edit("000000/.zarray", filters=[PICKLE]), "no store of"),
    "packed otherwise": (edit("000000/.zarray", compressor=ZSTD), "image 'a' is packed in a way of its own"),
    "filtered": (edit("000000/.zarray", filters=[ZSTD]), "image 'a' is packed in a way of its own"),
    "floats": (edit("000000/.zarray", dtype="<f4"), "image 'a' is no array of probabilities"),
    "no dimensions": (edit("000000/.zarray", shape=[], chunks=[]), "image 'a' is no array of probabilities"),
    "terabytes of nothing": (
        edit("000000/.zarray", shape=[1, 10**6, 10**6], chunks=[1, 10**6, 10**6]), "take 1000.0 GB, more memory than"),
    "a broken chunk": (replace_chunk(b"\0" * 40), "no store of"),
    "no ids": (lambda store: (store / ".zattrs").unlink(), "no store of"),
    "ids that are a number": (edit(".zattrs", image_ids=7), "no store of"),
    "no group": (lambda store: (store / ".zgroup").unlink(), "no store of"),
    "no JSON": (lambda store: (store / ".zgroup").write_text("{") and None, "no store of"),
    "an image that is missing": (edit(".zattrs", image_ids=["b", "a"]), "no store of"),
}  # fmt: skip


@pytest.mark.parametrize("case", STORES)
def test_a_store_of_anything_else_is_refused(store: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_size", lambda: 2**30)
    spoil, reason = STORES[case]
    replace_chunk(pickle.dumps(Bomb()))(store)
    spoil(store)
    with pytest.raises(UserError, match=r"oof\.zarr: ") as caught:
        ProbabilityStore(store).raw("a")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("predict again")
    assert not Path("burst").exists()


def test_such_a_chunk_would_burst(store: Path) -> None:
    """Or else the test above would show nothing."""
    replace_chunk(pickle.dumps(Bomb()))(store)
    numcodecs.get_codec(PICKLE).decode((store / "000000" / "0.0.0").read_bytes())
    assert Path("burst").is_dir()


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb, 2))])
def test_pretrained_weights_run_no_code(here: Path, write: Callable[[Any, Path], None]) -> None:
    write({"state_dict": Bomb()}, here / "weights.pth")
    model = Model(encoder="tu-test_efficientnet", weights=str(here / "weights.pth"), decoder_channels=(16, 8, 8, 8, 8))
    with pytest.raises(UserError, match=r"weights\.pth: no readable weights"):
        build_model(model, 3, 1)
    assert not Path("burst").exists()


@pytest.mark.parametrize(("state", "reason"), [([1], "it holds a list"), ({"epoch": 1}, "it has no 'model'")])
def test_a_checkpoint_of_something_else_is_named(here: Path, state: Any, reason: str) -> None:
    save_checkpoint(here / "last.pt", state)
    with pytest.raises(UserError, match=rf"last\.pt: not a readable checkpoint \({reason}\); delete it"):
        load_checkpoint(here / "last.pt", "model")


# --- pictures --------------------------------------------------------------------------------------------------------

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_picture_starts_no_other_program(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    ghost = here / "gs"
    ghost.write_text("#!/bin/sh\nmkdir burst\n")
    ghost.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(ghost))
    (here / "a.png").write_bytes(POSTSCRIPT)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"a\.png: cannot be read"):
            read(here / "a.png")
    assert not Path("burst").exists()
    with Image.open(here / "a.png") as picture, pytest.raises(OSError, match="."):  # and so it would have
        picture.load()
    assert Path("burst").is_dir()


@pytest.mark.parametrize("image_id", ["../a", "/tmp/fewmask-a"])
def test_masks_are_not_written_out_of_their_folder(here: Path, image_id: str) -> None:
    with pytest.raises(UserError, match="leaves the folder"):
        write_archive(here / "out", ARCHIVES["loveda"], [(image_id, np.zeros((2, 2), np.uint8))])
    assert list(here.iterdir()) == []


# --- the code itself -------------------------------------------------------------------------------------------------

# what runs what it reads, and how it may be called all the same
DANGEROUS = {
    "eval": "", "exec": "", "compile": "", "os.system": "", "os.popen": "",
    "pickle.load": "", "pickle.loads": "", "pd.read_pickle": "", "marshal.loads": "", "shelve.open": "",
    "yaml.load": "", "yaml.unsafe_load": "", "yaml.full_load": "", "joblib.load": "",
    "torch.load": "weights_only=True", "np.load": "allow_pickle=False", "Environment": "autoescape=True",
}  # fmt: skip


def dangerous_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        said = {f"{one.arg}={ast.unparse(one.value)}" for one in node.keywords}
        if (name in DANGEROUS and DANGEROUS[name] not in said) or "shell=True" in said or name.endswith("extractall"):
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "path", sorted(path for part in ("src", "bench") for path in (TOP / part).glob("*.py")), ids=lambda path: path.name
)
def test_no_reader_runs_what_it_reads(path: Path) -> None:
    assert dangerous_calls(path.read_text(encoding="utf-8")) == []


def test_such_calls_would_be_found() -> None:
    source = "torch.load(x)\nnp.load(x, allow_pickle=True)\nf(x, shell=True)\narchive.extractall(x)\nre.compile(x)"
    assert [one.split(": ")[1] for one in dangerous_calls(source)] == [
        "torch.load",
        "np.load",
        "f",
        "archive.extractall",
    ]
