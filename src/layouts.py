"""What the stages' JSON files hold, checked where one is read back: a person, or a damaged disk, may have changed it.

    kept = read_checked(paths.pseudo(1, 0) / "summary.json", Summary)["kept_images"]

A layout names what other stages read; a file may hold more.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artifacts import read_json
from errors import UserError

Numbers = dict[str, float]


class Layout(BaseModel):
    """A mapping of at least these keys; a text that looks like a number is no number."""

    model_config = ConfigDict(strict=True, extra="allow")


class Made(Layout):
    settings: dict[str, Any]


class Manifest(Layout):
    made_from: Made


class Contents(Layout):
    """What data was prepared: digests."""

    labelled: str
    unlabelled: str
    test: str
    solution: str


class Training(Manifest):
    """Of a fold's run."""

    seen_ids: list[str]
    class_weights: Numbers | None = None
    machine: dict[str, Any] | None = None


class LogLine(Layout):
    """An epoch's, of log.jsonl."""

    step: int
    loss: float
    seconds: float
    score: float | None = None


class Teacher(Layout):
    round: int
    fold: int


class Precision(Layout):
    """Of all that was kept, and of each class."""

    __pydantic_extra__: dict[str, float | None]
    all: float | None


class Summary(Layout):
    """Of a fold's pseudo-labels."""

    seen_ids: list[str]
    teachers: list[Teacher]
    images: int
    kept_images: int
    kept_share: float
    class_balance: Numbers
    precision: Precision


class Weights(Layout):
    """Of the ensemble's members."""

    mean: str
    weights: Annotated[Numbers, Field(min_length=1)]


class ScoredPhase(Layout):
    """A row of the table of phases."""

    name: str
    round: int
    oof: float
    folds: Annotated[list[float], Field(min_length=1)]
    hidden: float | None
    other: float | None
    oof_scores: Numbers
    hidden_scores: Numbers
    used: bool = True


class Scores(Layout):
    metric: str
    hidden: str
    judges: list[str]
    phases: Annotated[list[ScoredPhase], Field(min_length=1)]


class Fit(Layout):
    unfitted: float
    plain: float
    nested: float


class Postprocessing(Layout):
    fitted: bool
    parameters: dict[str, Any]
    out_of_fold: Fit | None = None


class Submitted(Layout):
    """What a submission's .json says of it."""

    sha256: str
    config_hash: str
    out_of_fold: Annotated[dict[str, float | list[float]], Field(min_length=2)]


def read_checked(path: Path, layout: type[Layout]) -> dict[str, Any]:
    """A stage's JSON file. Raises UserError, naming the file and the key, where it is missing, broken or not of the
    layout."""
    return _checked(path, read_json(path), layout, "delete it and run its stage again")


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of a fold's log.jsonl. Raises UserError as `read_checked` does, naming the line."""
    mend = "train.py --fresh makes it again"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no readable log ({error}); {mend}") from None
    return [_checked(f"{path}, line {number}", line, LogLine, mend) for number, line in enumerate(lines, 1)]


def _checked(place: Path | str, values: Any, layout: type[Layout], mend: str) -> dict[str, Any]:
    try:
        layout.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        reason = f"{where}: {fault['msg']}" if where else "it holds no such mapping"
        raise UserError(f"{place}: not as its stage wrote it ({reason}); {mend}") from None
    return values
