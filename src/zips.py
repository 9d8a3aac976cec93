"""Unpack a zip that came from elsewhere, and the zips in it, so that nothing leaves its folder or fills the disk.

with atomic(root) as folder:
    unpack(archive, folder)
"""

import errno
import lzma
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from errors import UserError

DEEPEST = 4  # zips within zips; a deeper nest is a trap
BLOCK = 4096  # what a file takes on the disk beyond its bytes, at most
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`, and every zip in it: train.zip becomes train/ and is deleted.

    Where all that train.zip holds is a folder train (or train.csv.zip a file train.csv), it stands there once. What a
    Mac adds for itself is left out.
    Raises UserError, naming archive and entry, for a path out of the folder, a link, a path that comes twice, more
    bytes than the disk has free, an archive that is broken, encrypted or of an unknown compression, and nests deeper
    than 4. What is unpacked by then stays, for the caller to throw away.
    """
    waiting = [(archive, folder, 0)]
    while waiting:
        path, target, depth = waiting.pop()
        if depth > DEEPEST:
            raise UserError(f"{path}: a zip in a zip {depth} levels deep; unpack it by hand if you trust it")
        inner = _unpack_one(path, target)
        if path != archive:
            path.unlink()
        waiting += [(one, _inner_target(one), depth + 1) for one in inner]


def _inner_target(path: Path) -> Path:
    """Where a zip in a zip is unpacked: a folder of its name, unless it brings just that itself."""
    try:
        with zipfile.ZipFile(path) as opened:
            tops = {_plain_name(info.filename).parts[:1] for info in opened.infolist() if not _is_macs(info)}
    except BROKEN:
        tops = set()  # told when it is unpacked
    return path.parent if tops == {(path.stem,)} else path.with_suffix("")


def _unpack_one(archive: Path, folder: Path) -> list[Path]:
    """Returns the zips among the unpacked files."""
    entry = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            for info in entries:
                entry = info.filename
                _check_entry(archive, info)
            _check_space(archive, folder, entries)
            inner = []
            for info in entries:
                entry = info.filename
                path = folder / _plain_name(entry)
                if _is_macs(info):
                    continue
                if info.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                # never more bytes than the directory declares: zipfile stops there and compares the checksum
                with opened.open(info) as source, path.open("xb") as file:
                    shutil.copyfileobj(source, file, 2**20)
                if path.suffix.lower() == ".zip" and _begins_as_zip(path):
                    inner.append(path)
            return inner
    except BROKEN as error:
        raise UserError(f"{archive}: broken at {entry!r} ({error}); delete it and download it again") from None
    except RuntimeError as error:  # an unknown compression, a password
        raise UserError(f"{archive}: cannot read {entry!r} ({error}); unpack it by hand") from None
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL):
            raise
        raise UserError(f"{archive}: cannot write {entry!r} ({error.strerror}); unpack it by hand") from None


def _plain_name(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))  # some zips made on Windows separate so


def _is_macs(info: zipfile.ZipInfo) -> bool:
    """Whether an entry only says how a Mac shows another one: "__MACOSX/._train.zip" is no zip."""
    name = _plain_name(info.filename)
    return name.parts[:1] == ("__MACOSX",) or name.name.startswith("._")


def _begins_as_zip(path: Path) -> bool:
    """A zip that was cut short does, and is told as broken when it is unpacked; a file only called so does not."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _check_entry(archive: Path, info: zipfile.ZipInfo) -> None:
    """Raises UserError for an entry that is no plain file or folder below the archive's own."""
    name, kind = _plain_name(info.filename), stat.S_IFMT(info.external_attr >> 16)
    parts = {*name.parts, name.stem}  # "...zip" would be unpacked as ".."
    if name.is_absolute() or ".." in parts or not name.parts or re.match(r"[A-Za-z]:", info.filename):
        raise UserError(f"{archive}: {info.filename!r} points out of its folder; nothing of it can be trusted")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive}: {info.filename!r} is a link or a device; nothing of it can be trusted")


def _check_space(archive: Path, folder: Path, entries: list[zipfile.ZipInfo]) -> None:
    needed = sum(info.file_size + BLOCK for info in entries)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{archive}: unpacks to {needed / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB free; "
            "free some space and start again, or choose another --workspace"
        )
