"""Unpacking: nested zips land where one expects them, and no zip gets out of its folder or fills the disk."""

import contextlib
import io
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from zips import unpack

Entries = dict[str | zipfile.ZipInfo, bytes]


def pack(entries: Entries) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_zip(folder: Path, content: bytes | Entries) -> Path:
    path = folder / "all.zip"
    path.write_bytes(content if isinstance(content, bytes) else pack(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_nested_zips_become_folders_of_their_names(tmp_path: Path) -> None:
    deep = pack({"deep/x.png": b"x"})
    entries: Entries = {
        "train.zip": pack({"images/a.png": b"a", "masks/a.png": b"A", "deep.zip": deep}),
        "test.ZIP": pack({"test/b.png": b"b"}),
        "train.csv.zip": pack({"train.csv": b"id\n"}),
        "sub\\c.png": b"c",
        "empty/": b"",
        "not.zip": b"not a zip",
        "mac.zip": pack({"mac/d.png": b"d", "__MACOSX/mac/._d.png": b"?", "__MACOSX/._mac": b"?"}),
        "__MACOSX/._mac.zip": pack({"?": b"?"}),
    }
    unpack(write_zip(tmp_path, entries), tmp_path / "raw")
    assert contents(tmp_path / "raw") == {
        "train/images/a.png": b"a",
        "train/masks/a.png": b"A",
        "train/deep/x.png": b"x",
        "test/b.png": b"b",
        "train.csv": b"id\n",
        "sub/c.png": b"c",
        "mac/d.png": b"d",
        "not.zip": b"not a zip",
    }
    assert (tmp_path / "raw" / "empty").is_dir()


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


BAD: dict[str, tuple[Entries, str]] = {
    "parent": ({"../out.png": b"x"}, "points out of its folder"),
    "parent within": ({"a/../../out.png": b"x"}, "points out of its folder"),
    "backslash": ({"..\\out.png": b"x"}, "points out of its folder"),
    "absolute": ({"/tmp/fewmask-out.png": b"x"}, "points out of its folder"),
    "drive": ({"C:/out.png": b"x"}, "points out of its folder"),
    "zip of dots": ({"...zip": pack({"out.png": b"x"})}, "points out of its folder"),
    "cut short within": ({"a.zip": pack({"b": bytes(range(256)) * 9})[:-30]}, "a.zip: broken"),
    "nested": ({"a.zip": pack({"../../out.png": b"x"})}, "points out of its folder"),
    "link": ({link("a"): b"/etc", "a/out.png": b"x"}, "is a link or a device"),
    "pipe": ({link("a", stat.S_IFIFO): b""}, "is a link or a device"),
    "two of a name": ({"a.csv": b"x", "a.csv.zip": pack({"a.csv": b"y"})}, "cannot write 'a.csv'"),
    "file as folder": ({"a": b"x", "a/b": b"y"}, "cannot write 'a/b'"),
    "long name": ({"n" * 300: b"x"}, "cannot write"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, case: str) -> None:
    entries, reason = BAD[case]
    (tmp_path / "work").mkdir()
    with pytest.raises(UserError, match=reason):
        unpack(write_zip(tmp_path / "work", entries), tmp_path / "work" / "raw")
    outside = [path for path in contents(tmp_path) if not path.startswith("work/raw/")]
    assert outside == ["work/all.zip"]


def forge(archive: bytes, size: int) -> bytes:
    """The same zip of one file, its directory declaring another size."""
    at = archive.rindex(b"PK\x01\x02")
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


def test_a_bomb_is_stopped_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path, {"zeros.bin": b"\0" * 10_000_000})
    assert archive.stat().st_size < 20_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**7, 10**7))
    with pytest.raises(UserError, match="free some space"):
        unpack(archive, tmp_path / "raw")
    assert contents(tmp_path / "raw") == {}
    liar = write_zip(tmp_path, forge(archive.read_bytes(), 100))
    with pytest.raises(UserError, match="broken at 'zeros.bin'"):
        unpack(liar, tmp_path / "liar")
    assert all(len(content) <= 100 for content in contents(tmp_path / "liar").values()), "no more than it declares"


def test_zips_without_end_are_stopped(tmp_path: Path) -> None:
    inner = pack({"x": b"x"})
    for number in range(8):
        inner = pack({f"{number}.zip": inner})
    with pytest.raises(UserError, match="5 levels deep"):
        unpack(write_zip(tmp_path, inner), tmp_path / "raw")


def test_a_locked_archive_is_named(tmp_path: Path) -> None:
    content = bytearray(pack({"a": b"a"}))
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + offset] |= 1
    with pytest.raises(UserError, match=r"cannot read 'a' .*password.*unpack it by hand"):
        unpack(write_zip(tmp_path, bytes(content)), tmp_path / "raw")


@given(st.data())
@settings(max_examples=150)
def test_a_damaged_zip_harms_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("zip")
    names = st.text(st.sampled_from("a./\\:zipé "), min_size=1, max_size=8)
    inner = pack(dict.fromkeys(data.draw(st.lists(names, max_size=2, unique=True)), b"inner"))
    content = bytearray(pack(dict.fromkeys(data.draw(st.lists(names, max_size=3, unique=True)), inner)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    archive = write_zip(folder, bytes(content))
    with contextlib.suppress(UserError):
        unpack(archive, folder / "raw")
    assert {path.name for path in folder.iterdir()} <= {"all.zip", "raw"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    shutil.rmtree(folder)
