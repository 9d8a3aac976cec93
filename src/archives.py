"""Label arrays → a competition's files of masks, in a folder or a zip: PNG or TIFF, grey values or colours.

from archives import find_archive, validate_archive, write_archive
write_archive(Path("inria.zip"), find_archive("inria"), [("austin1", label)])

A label array is (H, W) of class indices, the position of a class in the format's `values` or `palette`; without either
a value is its own class.
"""

import difflib
import errno
import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import tifffile
from pydantic import ValidationError

from artifacts import atomic
from competitions import ARCHIVES, FORMATS
from config import ArchiveFormat, TableFormat
from errors import UserError
from images import TIFF, image_size, pack_colours, read_label_file
from listing import files_below
from tables import find_format
from yamls import read_yaml
from zips import BROKEN

Size = tuple[int, int]  # (height, width)

_LARGEST = 2**27  # pixels of an image whose size only its own header tells
_LARGEST_FILE = 2**32  # bytes of one file in a zip


def find_archive(fmt: str | ArchiveFormat) -> ArchiveFormat:
    """A format by its name, or one given whole, checked. Raises UserError naming the nearest name or what is wrong."""
    if isinstance(fmt, str):
        spec = find_spec(fmt)
        if isinstance(spec, TableFormat):
            raise UserError(f"{fmt}: a table, not files of masks")
        return spec
    colours = fmt.encoding == "palette"
    codes = list((fmt.palette if colours else fmt.values).values())
    highest = {"index": 255, "rgb_id": 65535, "palette": 255}[fmt.encoding]
    numbers = [number for code in [*codes, *fmt.ignore] for number in (code if isinstance(code, tuple) else (code,))]
    checks = (
        (fmt.name.count("{id}") == 1, f"name: {fmt.name!r} must hold {{id}} once"),
        (Path(fmt.name).suffix in (".png", *TIFF), f"name: {fmt.name!r} must end in .png or .tif"),
        (not fmt.name.startswith("/") and ".." not in fmt.name.split("/"), f"name: {fmt.name!r} leaves its folder"),
        (not colours or codes, "palette: give each class a colour"),
        (len(set(codes)) == len(codes), "two classes share one value"),
        (all(isinstance(one, tuple) == colours for one in fmt.ignore), "ignore: colours for a palette, else numbers"),
        (all(0 <= number <= highest for number in numbers), f"a value is not in 0 to {highest}"),
    )
    for right, message in checks:
        if not right:
            raise UserError(f"file format: {message}")
    return fmt


def find_spec(name: str) -> TableFormat | ArchiveFormat:
    """A table's or archive's format by its name, or from a YAML file with a user's own. Raises UserError."""
    if Path(name).suffix not in (".yaml", ".yml"):
        if name in FORMATS or name in ARCHIVES:
            return FORMATS.get(name) or ARCHIVES[name]
        near = difflib.get_close_matches(name, [*FORMATS, *ARCHIVES], 1, 0.0)[0]
        every = ", ".join([*FORMATS, *ARCHIVES])
        raise UserError(f"no format {name!r}; did you mean {near!r}? There are {every}, or a .yaml file with your own")
    try:
        values = read_yaml(Path(name).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("a format is a mapping of keys to values")
        if "columns" in values:
            return find_format(TableFormat.model_validate(values))
        return find_archive(ArchiveFormat.model_validate(values))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{name}: {where}: {fault['msg']}; src/config.py lists the keys") from None
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except (ValueError, UserError) as error:
        raise UserError(f"{name}: {error}") from None


def class_names(fmt: ArchiveFormat) -> tuple[str, ...]:
    return tuple(fmt.palette if fmt.encoding == "palette" else fmt.values)


def write_archive(
    path: Path, fmt: ArchiveFormat, masks: Iterable[tuple[str, np.ndarray]], ids: Iterable[str] | None = None
) -> int:
    """Label arrays of (id, (H, W) integers) → the competition's folder or zip; returns its number of files. Atomic.

    Raises UserError for an id that comes twice, a value that is no class, a size other than the format's, a folder
    that holds something already and, where the `ids` of all images are given, one that is missing or not among them.
    """
    fmt = find_archive(fmt)
    if (fmt.container == "zip") != (path.suffix.lower() == ".zip"):
        raise UserError(f"{path}: the format is a {fmt.container}; name --output so")
    if path.is_file() != (fmt.container == "zip") and path.exists() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path}: something lies there already; choose a new name")
    wanted, written = None if ids is None else set(ids), set()
    with atomic(path) as temporary, _writer(temporary, fmt.container) as put:
        for image_id, label in masks:
            if image_id in written or (wanted is not None and image_id not in wanted):
                why = "comes twice" if image_id in written else "is not among the images"
                raise UserError(f"{path}: id {image_id!r} {why}; take one mask an image")
            if image_id.startswith("/") or ".." in image_id.split("/"):
                raise UserError(f"{path}: id {image_id!r} leaves the folder; rename the image")
            written.add(image_id)
            try:
                put(fmt.name.replace("{id}", image_id), _encode(fmt, label))
            except ValueError as error:
                raise UserError(f"{path}: id {image_id!r}: {error}") from None
        if wanted is not None and (missing := sorted(wanted - written)):
            raise UserError(f"{path}: id {missing[0]!r} has no mask ({len(missing)} such); every image needs one")
    return len(written)


def validate_archive(path: Path, fmt: ArchiveFormat, sizes: Mapping[str, Size] | None) -> list[str]:
    """What is wrong with a folder or zip of masks, a line a fault, each with its file; [] where nothing is.

    Checks names, that each of `sizes`' ids has a file and no other has, sizes, and that every value is a class. Without
    `sizes` (None) any id and size is taken. Raises UserError where there is no such folder or zip.
    """
    fmt = find_archive(fmt)
    faults, found = [], set()
    with _files(path) as files:
        for name, fetch in files:
            image_id = _image_id(fmt, name)
            if image_id is None:
                faults.append(f"file {name}: not named like {fmt.name!r}")
            elif sizes is not None and image_id not in sizes:
                faults.append(f"file {name}: id {image_id!r} is not among the images to predict")
            elif image_id in found:
                faults.append(f"file {name}: a second mask of {image_id!r}")
            else:
                found.add(image_id)
                try:
                    label = _decode(fmt, fetch(), None if sizes is None else sizes[image_id])
                    if (label < 0).any():
                        faults.append(f"file {name}: {(label < 0).sum()} pixels have no class")
                except (ValueError, UserError) as error:
                    faults.append(f"file {name}: {error}")
    return faults + [f"file {fmt.name.replace('{id}', one)}: missing" for one in sorted((sizes or {}).keys() - found)]


@contextmanager
def _files(path: Path) -> Iterator[Iterator[tuple[str, Callable[[], Path]]]]:
    """The files of a folder or zip: each one's name and what puts it on the disk, one at a time."""
    if path.is_dir():
        yield ((file.relative_to(path).as_posix(), lambda file=file: file) for file in files_below(path))
        return
    if not path.is_file():
        raise UserError(f"{path}: no such folder or zip")
    try:
        archive = zipfile.ZipFile(path)
    except (*BROKEN, RuntimeError, OSError) as error:
        if not _is_to_blame(error):
            raise
        raise UserError(f"{path}: not a zip ({error}); send a zip or a folder of masks") from None
    with archive, tempfile.TemporaryDirectory() as folder:
        entries = sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)
        yield ((one.filename, lambda one=one: _unpack(archive, one, Path(folder))) for one in entries)


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> Path:
    """One file under a name of our own, so that no path can escape. Raises ValueError for a broken or giant one."""
    if entry.file_size > _LARGEST_FILE:
        raise ValueError(f"{entry.file_size} bytes are too many for a mask")
    target = folder / f"mask{Path(entry.filename).suffix.lower()}"
    try:
        with archive.open(entry) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    except (*BROKEN, RuntimeError, OSError) as error:
        if not _is_to_blame(error):
            raise
        raise ValueError(f"cannot be unpacked ({error})") from None
    return target


def _is_to_blame(error: Exception) -> bool:
    """Whether the zip is at fault, with an offset or a name that cannot be, and not a full disk or its rights."""
    return not isinstance(error, OSError) or error.errno in (errno.EINVAL, errno.ENAMETOOLONG)


@contextmanager
def _writer(path: Path, container: str) -> Iterator[Callable[[str, bytes], None]]:
    """What puts a file's bytes under a name into a new folder or zip."""
    if container == "folder":
        path.mkdir()

        def put(name: str, data: bytes) -> None:
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

        yield put
        return
    with zipfile.ZipFile(path, "w") as archive:
        # a fixed date, so that the same masks are the same bytes; images are compressed already
        yield lambda name, data: archive.writestr(zipfile.ZipInfo(name), data)


def _image_id(fmt: ArchiveFormat, name: str) -> str | None:
    start, _, end = fmt.name.partition("{id}")
    match = re.fullmatch(f"{re.escape(start)}(.+){re.escape(end)}", name, re.DOTALL)
    return match[1] if match else None


def _codes(fmt: ArchiveFormat) -> np.ndarray | None:
    """Each class's pixel as one number, None where a value is its own class."""
    if fmt.encoding == "palette":
        return pack_colours(np.array(list(fmt.palette.values()), np.uint8)[None])[0].astype(np.int64)
    return np.array(list(fmt.values.values()), np.int64) if fmt.values else None


def _decode(fmt: ArchiveFormat, path: Path, size: Size | None) -> np.ndarray:
    """One mask file → (H, W) int32, -1 where ignored. Raises ValueError for what the format cannot hold."""
    try:
        height, width = image_size(path)
        wanted = fmt.size or size
        if wanted not in (None, (height, width)):
            raise ValueError(f"a mask of {height}x{width}, the image has {wanted[0]}x{wanted[1]}")
        if wanted is None and height * width > _LARGEST:
            raise ValueError(f"a mask of {height}x{width}; give the folder of images to believe that")
        raw = read_label_file(path, colours=fmt.encoding != "index")
    except UserError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from None
    if raw.ndim != (2 if fmt.encoding == "index" else 3) or (raw.ndim == 3 and raw.shape[2] != 3):
        raise ValueError(f"{'a grey' if fmt.encoding == 'index' else 'an RGB'} mask is asked for, not {raw.shape}")
    if fmt.encoding == "palette":
        pixels, ignore = (
            pack_colours(raw).astype(np.int64),
            pack_colours(np.array([fmt.ignore or [(0, 0, 0)]], np.uint8)),
        )
        ignored = np.isin(pixels, ignore[0]) if fmt.ignore else np.zeros(pixels.shape, bool)
    else:
        pixels = raw.astype(np.int64) if raw.ndim == 2 else raw[..., 0] + 256 * raw[..., 1].astype(np.int64)
        ignored = np.isin(pixels, np.array(fmt.ignore, np.int64))
    codes = _codes(fmt)
    if codes is None:
        return np.where(ignored, -1, pixels).astype(np.int32)
    order = np.argsort(codes)
    label = order[np.searchsorted(codes[order], pixels).clip(max=codes.size - 1)]
    strange = (codes[label] != pixels) & ~ignored
    if strange.any():
        raise ValueError(f"{strange.sum()} pixels are of no class, the first {_spelled(fmt, pixels[strange][0])}")
    return np.where(ignored, -1, label).astype(np.int32)


def _spelled(fmt: ArchiveFormat, code: int) -> str:
    return f"#{code:06X}" if fmt.encoding == "palette" else f"of value {code}"


def _encode(fmt: ArchiveFormat, label: np.ndarray) -> bytes:
    """(H, W) class indices → a PNG's or TIFF's bytes. Raises ValueError for a value that is no class."""
    if label.ndim != 2 or fmt.size not in (None, label.shape):
        raise ValueError(
            f"a mask of {'x'.join(map(str, label.shape))}, the format wants {fmt.size or 'height x width'}"
        )
    codes = _codes(fmt)
    count = codes.size if codes is not None else 256 if fmt.encoding == "index" else 65536
    if label.size and (label.min() < 0 or label.max() >= count):
        raise ValueError(f"value {label.min() if label.min() < 0 else label.max()} is none of the {count} classes")
    pixels = label.astype(np.int64) if codes is None else codes[label]
    if not fmt.values and np.isin(pixels, np.array([one for one in fmt.ignore if isinstance(one, int)])).any():
        raise ValueError("its mask has pixels of the value that means unknown; a submission needs a class")
    if fmt.encoding == "index":
        image = pixels.astype(np.uint8)
    elif fmt.encoding == "palette":
        image = np.stack([pixels >> 16, pixels >> 8 & 255, pixels & 255], axis=2).astype(np.uint8)
    else:
        image = np.stack([pixels & 255, pixels >> 8, np.zeros_like(pixels)], axis=2).astype(np.uint8)
    if fmt.name.endswith(TIFF):
        buffer = io.BytesIO()
        photometric = "rgb" if image.ndim == 3 else "minisblack"
        tifffile.imwrite(buffer, image, photometric=photometric, metadata=None, software=False, compression="zlib")
        return buffer.getvalue()
    return cv2.imencode(".png", image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
