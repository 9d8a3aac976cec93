"""What test_rubbish.py puts in place of good files: each function returns what spoils a small workspace.

make_base(folder)  # two images of 12x16 with masks
image("a.jpg", picture(), cut=0.7)(folder)
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from helpers import run, write_config
from PIL import Image

HEIGHT, WIDTH = SIZE = (12, 16)
PLAIN = {"unlabelled": "", "test": "", "sample_submission": "", "solution": "", "images": "train/{id}.{ending}"}
MASKS = {"kind": "masks", "path": "masks/{id}.png", "encoding": "index"}
TABLE = {"kind": "rle", "path": "train.csv", "format": "image"}
POINTS = {"kind": "points", "path": "points.csv"}

Spoil = Callable[[Path], list[str] | None]  # what makes the rubbish; it may name another command than prepare


def picture(seed: int = 0, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    shape = SIZE if channels == 1 else (*SIZE, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def half() -> np.ndarray:
    """A mask whose upper left quarter is foreground: no turn or mirror leaves it as it is."""
    mask = np.zeros(SIZE, np.uint8)
    mask[: HEIGHT // 2, : WIDTH // 2] = 1
    return mask


def make_base(folder: Path) -> None:
    for name in "ab":
        write(folder / f"raw/train/{name}.png", picture())
        write(folder / f"raw/masks/{name}.png", half())
    configure(folder)


def configure(folder: Path, labels: dict[str, Any] = MASKS, data: dict[str, Any] | None = None, **values: Any) -> None:
    write_config(folder, data=PLAIN | {"labels": labels} | (data or {}), **values)


def write(path: Path, content: Any, **options: Any) -> None:
    """An array, bytes or text as a file, by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, (bytes, str)):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif path.suffix == ".tif":
        tifffile.imwrite(path, content, **({"photometric": "minisblack"} | options))
    else:
        Image.fromarray(content).save(path, **options)


# --- rubbish of each kind --------------------------------------------------------------------------------------------


def image(name: str, content: Any, cut: float = 1.0, **options: Any) -> Spoil:
    """Instead of train/a.png, or beside it, another file, of which only a share is left."""

    def spoil(folder: Path) -> None:
        path = folder / "raw/train" / name
        if path.stem == "a":
            (folder / "raw/train/a.png").unlink()
        else:
            configure(folder, MASKS | {"without_label": "unlabelled"})
        write(path, content, **options)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * cut)])

    return spoil


def mask(content: Any, name: str = "a.png", task: str = "binary", **labels: Any) -> Spoil:
    """Instead of masks/a.png, another file."""

    def spoil(folder: Path) -> None:
        (folder / "raw/masks/a.png").unlink()
        write(folder / "raw/masks" / name, content)
        configure(folder, MASKS | {"path": "masks/{id}.{of}"} | labels, task=task)

    return spoil


def table(content: str | bytes, labels: dict[str, Any] = TABLE, **data: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        write(folder / "raw" / labels["path"], content)
        configure(folder, labels, data)

    return spoil


def points(*rows: str) -> Spoil:
    return table("\n".join(["image_id,x,y,class", *rows]) + "\n", POINTS | {"without_label": "unlabelled"})


def coco(content: str) -> Spoil:
    return table(content, {"kind": "rle", "path": "labels.json", "format": "coco"})


def config(text: str | bytes) -> Spoil:
    return lambda folder: write(folder / "tiny.yaml", text)


def setting(*overrides: str) -> Spoil:
    return lambda _: ["prepare", *(word for one in overrides for word in ("--set", one))]


def submission(text: str | bytes, name: str = "image", *more: str) -> Spoil:
    def spoil(folder: Path) -> list[str]:
        write(folder / "theirs.csv", text)
        return ["make_submission", "--format", name, "--validate", str(folder / "theirs.csv"), *more]

    return spoil


def scored(given: str | bytes, truth: str | bytes, *more: str, name: str = "tgs_salt") -> Spoil:
    def spoil(folder: Path) -> list[str]:
        write(folder / "mine.csv", given)
        write(folder / "truth.csv", truth)
        files = ("--submission", str(folder / "mine.csv"), "--solution", str(folder / "truth.csv"))
        return ["evaluate", "--format", name, *files, *more]

    return spoil


def png(width: int, height: int, depth: int = 8, colour: int = 2, extra: bytes = b"", data: bytes = b"") -> bytes:
    """A PNG of any header, right in form."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", data or zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


def jpg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than its pixels have."""
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tif(width: int, height: int) -> bytes:
    """Likewise a TIFF, whose strips stay those of a small image."""
    data = encoded("TIFF")
    for tag, value in ((256, width), (257, height)):
        at = data.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in data else -1
        at = at if at >= 0 else data.index(struct.pack("<HH", tag, 3))
        data = data[: at + 2] + struct.pack("<HII", 4, 1, value) + data[at + 12 :]
    return data


def tif_of_strips(rows: int) -> bytes:
    """A TIFF of three strips of four rows, whose header says more of them."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture(), photometric="rgb", rowsperstrip=4)
    data = buffer.getvalue()
    at = data.index(struct.pack("<HH", 257, 4))
    return data[: at + 8] + struct.pack("<I", rows) + data[at + 12 :]


def encoded(kind: str, array: np.ndarray | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture() if array is None else array).save(buffer, kind, **options)
    return buffer.getvalue()


def tagged(orientation: int | bytes) -> Image.Exif | bytes:
    """EXIF with an orientation, a text of three letters if need be."""
    if isinstance(orientation, bytes):
        tags = struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 274, 2, 4, orientation + bytes(1), 0)
        return b"Exif" + bytes(2) + tags
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def turn_back(array: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores so that the EXIF orientation makes `array` of it (CIPA DC-008, table of tag 274)."""
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array.swapaxes(0, 1) if orientation >= 5 else array)


def photo(orientation: int, *, both: bool = False, stored_mask: bool = False) -> Spoil:
    """A turned photo, bright where its mask is. The mask is of the upright picture, or turned with a tag of its own, or
    of the stored pixels without one."""

    def spoil(folder: Path) -> None:
        bright = np.repeat(half()[..., None] * 255, 3, axis=2)
        for name in "ab":
            (folder / f"raw/train/{name}.png").unlink()
            stored = turn_back(bright, orientation)
            write(folder / f"raw/train/{name}.jpg", stored, exif=tagged(orientation), quality=100)
            if both or stored_mask:
                options = {"exif": tagged(orientation)} if both else {}
                write(folder / f"raw/masks/{name}.png", turn_back(half(), orientation), **options)

    return spoil


FLOATS = np.full((*SIZE, 3), 0.5, np.float32)


def spoilt(value: float, dtype: str = "float32") -> np.ndarray:
    array = FLOATS.astype(dtype)
    array[1, 2, 0] = value
    return array


def palette_mask() -> bytes:
    """Indices whose colours say something else, the foreground half transparent."""
    picture = Image.fromarray(half())
    picture.putpalette([255, 255, 255, 0, 0, 0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=b"\x00\x80")
    return buffer.getvalue()


def aliases(levels: int) -> str:
    """`laughs`: a mapping of nine mappings of nine mappings …, a kilobyte that says billions."""
    lines = ["l0: &l0 {a: 1}"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} {{{', '.join(f'k{n}: *l{level - 1}' for n in range(9))}}}")
    return "\n".join(lines) + "\n"


def rename(old: str, new: str | bytes) -> Spoil:
    """Image and mask a under another name, which keeps its ending."""

    def spoil(folder: Path) -> None:
        for kind in ("train", "masks"):
            source = folder / "raw" / kind / f"{old}.png"
            target = os.fsencode(source.parent) + b"/" + os.fsencode(new) + b".png"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(source, target)

    return spoil


def link(place: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / place
        if path.exists():
            (folder / "outside").mkdir()
            path.rename(folder / "outside" / path.name)
        path.symlink_to(target)

    return spoil


def folder_at(place: str) -> Spoil:
    def spoil(folder: Path) -> None:
        if (folder / place).is_file():
            (folder / place).unlink()
        (folder / place).mkdir(parents=True)

    return spoil


def file_at(place: str) -> Spoil:
    def spoil(folder: Path) -> None:
        if (folder / place).is_dir():
            (folder / place).rename(folder / "moved")
        write(folder / place, "not a folder")

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> list[str] | None:
        return [one(folder) for one in spoils][-1]

    return spoil


def to_submission(*more: str, output: str = "out.csv", name: str = "tgs_salt") -> Spoil:
    def spoil(folder: Path) -> list[str]:
        where = ["--masks", str(folder / "raw/masks"), "--output", str(folder / output)]
        return ["make_submission", "--format", name, *where, *(one.replace("@", str(folder)) for one in more)]

    return spoil


def zipped(entries: dict[str, bytes]) -> Spoil:
    def spoil(folder: Path) -> list[str]:
        with zipfile.ZipFile(folder / "theirs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return ["make_submission", "--format", "inria", "--validate", str(folder / "theirs.zip")]

    return spoil


def edited(place: str, content: str | bytes, *command: str) -> Spoil:
    """A stage's own file, spoilt after the stage."""

    def spoil(folder: Path) -> list[str]:
        run("prepare", folder)
        write(folder / place, content)
        return list(command)

    return spoil
