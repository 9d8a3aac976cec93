"""What lies between the scripts: every path, atomic writes, manifests and checkpoints.

    paths = Paths(Path("."), "sample")
    with atomic(paths.index) as temporary:
        table.to_csv(temporary)

A stage's manifest is written last: where it exists the stage is done. It holds the settings and the inputs the stage
was made from, so that a stage whose settings changed is refused, with the difference, instead of being mixed up.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import Config
from disk import VANISHED, lock_file, locked, remove, sweep, told
from errors import UserError
from settings import config_hash, flatten

TOP = Path(__file__).resolve().parent.parent  # the project's top folder
PATCHES = "_patch"  # ends the name of a store of centre crops


@dataclass(frozen=True)
class Paths:
    """Where everything of one config lies. `root` is the workspace: the project's top unless --workspace says else."""

    root: Path
    name: str

    @property
    def data(self) -> Path:
        return self.root / "data" / self.name

    @property
    def index(self) -> Path:
        return self.data / "index.csv"

    @property
    def points(self) -> Path:
        """The sparse labels of all images: image_id, x, y, class."""
        return self.data / "points.csv"

    @property
    def coverage(self) -> Path:
        return self.data / "coverage.csv"

    @property
    def contents(self) -> Path:
        """A digest of each split's images, and of the hidden labels: nothing else tells that one was replaced."""
        return self.data / "contents.json"

    @property
    def folds(self) -> Path:
        return self.root / "folds" / f"{self.name}.csv"

    @property
    def runs(self) -> Path:
        return self.root / "runs" / self.name

    def run(self, round: int, fold: int) -> Path:
        return self.runs / f"round{round}" / f"fold{fold}"

    def probabilities(self, round: int, fold: int, split: str, tta: bool) -> Path:
        """The store of one model's predictions; `split` is oof, unlabelled or test, with PATCHES for centre crops."""
        return self.run(round, fold) / f"{split}{'_tta' if tta else ''}.zarr"

    def pseudo(self, round: int, fold: int) -> Path:
        """What student `fold` of `round` learns from, made by the rounds before."""
        return self.run(round, fold) / "pseudo"

    def ensemble(self, split: str) -> Path:
        return self.runs / "ensemble" / f"{split}.zarr"

    @property
    def postprocess(self) -> Path:
        return self.runs / "postprocess.json"

    @property
    def scores(self) -> Path:
        """The table of phases: one row a phase, its out-of-fold and hidden score."""
        return self.runs / "scores.json"

    @property
    def submission(self) -> Path:
        return self.root / "submissions" / f"{self.name}.csv"

    @property
    def submission_log(self) -> Path:
        """Every submission of the workspace: its cross-validation score beside those of the boards."""
        return self.root / "submissions" / "log.csv"

    @property
    def report(self) -> Path:
        return self.root / "reports" / self.name / "index.html"

    @property
    def curves(self) -> Path:
        return self.report.with_name("curves.png")

    @property
    def results(self) -> Path:
        return self.report.with_name("results.png")

    def resolve(self, path: str | Path) -> Path:
        """A path as the config or the index writes it: relative to the workspace, or else to the project's top."""
        path = Path(path)
        if path.is_absolute() or (self.root / path).exists():
            return self.root / path
        return TOP / path if (TOP / path).exists() else self.root / path

    def relative(self, path: Path) -> str:
        """The same path as the index writes it: POSIX, relative to the workspace where it lies under it."""
        absolute = path.absolute()
        root = self.root.absolute()
        return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else absolute.as_posix()


def raw_data(config: Config, paths: Paths) -> Path:
    """The folder with the data as it came."""
    return paths.resolve(config.data.root) if config.data.root else paths.data / "raw"


def sample_file(config: Config, paths: Paths) -> Path | None:
    """The competition's sample submission, None where the config names none. Raises UserError where it is missing."""
    if not config.data.sample_submission:
        return None
    sample = raw_data(config, paths) / config.data.sample_submission
    if not sample.is_file():
        raise UserError(f"data.sample_submission: no file {sample}; put it there or drop the key")
    return sample


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary file or folder name beside `path`; rename it there when the block ends well.

    A folder gives way to another folder, never to a file. Raises UserError where one stands in the way, when the disk
    is full and where nothing can be written; nothing half-written stays behind.
    """
    stem = path.stem
    if len(os.fsencode(stem)) > 200:  # a name of 255 bytes, the longest that most disks take, has no room for more
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()
    # the suffix stays last, since many writers choose their format by it
    temporary = path.with_name(f".{stem}.tmp{os.getpid()}{path.suffix}")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if path.is_dir():
                if not temporary.is_dir():
                    raise UserError(
                        f"{path}: a folder lies where a file is to be written; name another file or move it"
                    )
                remove(path)
            os.replace(temporary, path)
        finally:
            remove(temporary)


def write_json(path: Path, values: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises UserError naming the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; run the stage that writes it first (bash run.sh does all in order)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run its stage again") from None


def fingerprint(path: Path) -> str:
    """A short hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclass(frozen=True)
class Stage:
    """One stage's manifest: what it is made from, and so whether it is done.

        with stage.claim(args.fresh) as todo:
            if todo:
                ...
                stage.finish()

    `settings` are plain values of the config; `inputs` are files whose bytes the stage depends on; `outputs` are what
    must be there, besides the manifest, for it to be done. A manifest holds no times and no absolute paths, so that the
    same run writes the same bytes.
    """

    manifest: Path
    settings: dict[str, Any]
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()

    def done(self) -> bool:
        """True where the manifest stands and fits, and the outputs are there.

        Raises UserError with the difference where the settings or inputs are others than those it was made from, and
        where an input is missing.
        """
        self._find_inputs()
        if not self.manifest.is_file():
            return False
        written = read_json(self.manifest)
        if not isinstance(written, dict) or not isinstance(written.get("made_from"), dict):
            raise UserError(f"{self.manifest}: no manifest of a stage; delete it and run its stage again")
        if shown := show_changes(written["made_from"], self._made_from()):
            raise UserError(
                f"{self.manifest.parent}: made with other settings ({shown}); --fresh makes it again, "
                "or put the setting back"
            )
        return all(path.exists() for path in self.outputs)

    @contextmanager
    def claim(self, fresh: bool = False) -> Iterator[bool]:
        """Whether the stage is to be done, with `fresh` in any case: then the block does it, and no other process.

        An old manifest is deleted, and so is what killed processes were writing. Raises UserError as `done` does, and
        where another process is at it. Of the processes of one launch, the first holds the lock for all.
        """
        self._find_inputs()
        if os.environ.get("RANK", "0") != "0":
            yield fresh or not self.done()
        elif not fresh and self.done():
            yield False
        else:
            with locked(self.manifest):
                todo = fresh or not self.done()  # it may have been done meanwhile
                if todo:
                    self.manifest.unlink(missing_ok=True)
                    sweep(self.manifest, "*" if self.manifest.name == "manifest.json" else None)
                    for path in self.outputs:
                        sweep(path)
                yield todo

    def check(self) -> None:
        """Raises UserError where the folder of the claimed stage has vanished."""
        if not lock_file(self.manifest).exists():
            raise UserError(f"{self.manifest}: {VANISHED}")

    def finish(self, **results: Any) -> None:
        """Write the manifest, the last file of the claimed stage."""
        self.check()
        write_json(self.manifest, {"made_from": self._made_from(), **results})

    def _find_inputs(self) -> None:
        for path in self.inputs:
            if not path.is_file():
                raise UserError(f"{path}: missing; run the stage that writes it first (bash run.sh does all in order)")

    def _made_from(self) -> dict[str, Any]:
        # named as seen from the manifest, so that a moved or renamed workspace is still the same
        here = self.manifest.parent
        inputs = {Path(os.path.relpath(path, here)).as_posix(): fingerprint(path) for path in self.inputs}
        return json.loads(json.dumps({"settings": self.settings, "inputs": inputs}))


def show_changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first differences between two nested settings, "" where they are alike."""
    old, new = flatten(old), flatten(new)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed[:4])


def stage_settings(config: Config, *sections: str) -> dict[str, Any]:
    """The named parts of a config as plain values: what a stage's result depends on."""
    values = config.model_dump(mode="json")
    return {section: values[section] for section in sections}


def write_config(path: Path, config: Config) -> None:
    """The resolved config, every default spelled out, as a YAML file that `--config` takes again."""
    with atomic(path) as temporary:
        values = config.model_dump(mode="json")
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def code_revision() -> str:
    """The commit of the code that runs, "-changed" where files differ from it; empty where there is no git."""
    try:
        command = ["git", "-C", str(TOP), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=-changed"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def settings_hash(config: Config) -> str:
    return config_hash(config.model_dump(mode="json"))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts: nothing that needs pickle's power to be read."""
    import torch

    # unbuffered, since only then torch passes on the system's word that the disk is full
    with atomic(path) as temporary, temporary.open("wb", buffering=0) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # about the end of the file: it hides what the system said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, *parts: str) -> dict[str, Any]:
    """Read a checkpoint without running code in it. Raises UserError for a missing or broken one, and where one of the
    `parts` is not in it."""
    import pickle

    import torch

    if not path.is_file():
        raise UserError(f"{path}: no checkpoint here; train this fold and round first")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason}); delete it and train again") from error
    if not isinstance(state, dict) or (missing := [part for part in parts if part not in state]):
        reason = f"it has no {missing[0]!r}" if isinstance(state, dict) else f"it holds a {type(state).__name__}"
        raise UserError(f"{path}: not a readable checkpoint ({reason}); delete it and train again")
    if "model" in parts and not (isinstance(state["model"], dict) and state["model"]):
        raise UserError(f"{path}: not a readable checkpoint (its model has no weights); delete it and train again")
    return state
