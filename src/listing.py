"""What lies in the data's folder, so that a new image or a corrected mask is noticed before anything is read.

list_contents(config.data, root)  # {"data.images": "56 files, 0a1b2c3d4e5f", "data.labels.path": …}
"""

import hashlib
import re
from pathlib import Path

from artifacts import TABLES, fingerprint
from config import Data

FIELD = re.compile(r"\{([A-Za-z_]\w*)\}|(\*+)")  # of a template: see index.py


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


def glob_of(template: str) -> str:
    """A pattern for Path.glob that finds what a template means, and perhaps more."""
    # a literal "[" or "?" must not act as a wildcard
    return FIELD.sub("*", re.sub(r"([\[?])", r"[\1]", template))


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
