"""What lies in the data's folder, so that a new image or a corrected label is noticed before anything is read.

label_tables(config.data, root)  # (root / "train.csv",)
list_contents(config.data, root)  # {"data.images": "56 files, 0a1b2c3d4e5f", "data.labels.path": …}
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from artifacts import fingerprint
from config import Data
from errors import UserError

SPLITS = ("labelled", "unlabelled", "test")
TABLES = (".csv", ".json", ".jsonl")  # files that hold the labels of many images
FIELD = re.compile(r"\{([A-Za-z_]\w*)\}|(\*+)")  # of a template: see index.py


def check_root(root: Path) -> None:
    """Raises UserError where the data's folder is not there."""
    if not root.is_dir():
        raise UserError(f"data.root: no folder {root}; unpack the data there or set data.root to where it is")


def label_tables(data: Data, root: Path) -> tuple[Path, ...]:
    """The tables with labels, which preparing depends on byte by byte. Raises UserError for what is not there."""
    check_root(root)
    named = {"data.sample_submission": data.sample_submission} if data.sample_submission else {}
    if data.labels.kind in ("rle", "points"):
        named["data.labels.path"] = data.labels.path
    if data.solution.endswith(TABLES):
        named["data.solution"] = data.solution
    for key, path in named.items():
        if not (root / path).is_file():
            raise UserError(f"{key}: no file {root / path}; put it there or set {key} to where it is")
    return tuple(root / path for key, path in named.items() if key != "data.sample_submission")


def list_contents(data: Data, root: Path) -> dict[str, str]:
    """By the key of each template: how many files it may mean, and a digest of their names and sizes; of label files,
    which people correct, of their bytes too."""
    templates = {"data.images": data.images, "data.unlabelled": data.unlabelled, "data.test": data.test}
    labels = {"data.labels.path": data.labels.path} if data.labels.kind == "masks" else {}
    if data.solution and not data.solution.endswith(TABLES):
        labels["data.solution"] = data.solution
    return {
        key: _list_files(root, template, contents=key in labels)
        for key, template in (templates | labels).items()
        if template
    }


def digest_contents(images: Iterable[tuple[str, str, bytes]], solution: Path) -> dict[str, str]:
    """By split a digest of its images, `(split, image_id, digest of the file)`, and one of the folder of hidden
    labels."""
    parts = {name: hashlib.sha256() for name in (*SPLITS, "solution")}
    for split, image_id, digest in images:
        parts[split].update(repr((image_id, digest)).encode())
    for path in sorted(path for path in solution.rglob("*") if path.is_file()):
        parts["solution"].update(repr((path.relative_to(solution).as_posix(), fingerprint(path))).encode())
    return {name: digest.hexdigest()[:16] for name, digest in parts.items()}


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """All files below a folder and the folders linked there, sorted; `above` are the folders that a link may not lead
    back to, or there would be no end."""
    if (real := folder.resolve()) in above:
        return []
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += files_below(path, above | {real})
        elif path.is_file():
            found.append(path)
    return sorted(found)


def glob_of(template: str) -> str:
    """A pattern for Path.glob that finds what a template means, and perhaps more."""
    # a literal "[" or "?" must not act as a wildcard
    return FIELD.sub("*", re.sub(r"([\[?])", r"[\1]", template))


@functools.cache
def pattern_of(template: str, word: str = "[^/]+") -> re.Pattern[str]:
    """What a template matches, its {class} only what the pattern `word` does."""
    template = PurePosixPath(template).as_posix()  # "./images//{id}.png" is images/{id}.png
    pattern, seen, end = "", set(), 0
    for part in FIELD.finditer(template):
        literal, name = template[end : part.start()], part[1]
        one = word if name == "class" else "[^/]+"
        field = "[^/]*" if name is None else f"(?P={name})" if name in seen else f"(?P<{name}>{one})"
        pattern += re.escape(literal) + field
        seen.add(name)
        end = part.end()
    return re.compile(pattern + re.escape(template[end:]))


def _list_files(root: Path, template: str, contents: bool) -> str:
    count, digest = 0, hashlib.sha256()
    # what is no path below the root is refused when it is read
    for path in [] if template.startswith("/") else sorted(root.glob(glob_of(template))):
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            count += 1
            said = (name.as_posix(), path.stat().st_size, fingerprint(path) if contents else "")
            digest.update(repr(said).encode())
    return f"{count} files, {digest.hexdigest()[:12]}"
