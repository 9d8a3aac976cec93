"""What lies between the scripts: atomic writes, manifests, checkpoints, the probability store."""

import errno
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifacts import TOP, Paths, Stage, atomic, load_checkpoint, read_json, save_checkpoint, stage_settings, write_json
from config import Config
from errors import UserError


def everything_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_atomic_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".csv"
    assert path.read_text() == "half"
    assert everything_in(tmp_path) == ["new", "new/table.csv"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert everything_in(tmp_path) == ["table.csv"]


def test_an_atomic_folder_replaces_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for text in ("first", "second"):
        with atomic(path) as temporary:
            temporary.mkdir()
            (temporary / text).touch()
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.mkdir()
        (temporary / "third").touch()
        raise ZeroDivisionError
    assert everything_in(tmp_path) == ["store", "store/second"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
    ],
)
def test_a_disk_that_takes_no_more_is_a_users_problem(tmp_path: Path, number: int, said: str) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(UserError, match=said) as caught, atomic(path) as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert str(path) in str(caught.value)
    assert everything_in(tmp_path) == []


def test_another_failure_of_the_system_is_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), atomic(tmp_path / "table.csv"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_full_disk_while_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("artifacts.os.replace", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_json(tmp_path / "scores.json", {"a": 1})
    assert everything_in(tmp_path) == []


def test_json_reads_back_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with pytest.raises(UserError, match=r"scores\.json: missing"):
        read_json(path)
    write_json(path, {"b": [1, None], "a": "ü"})
    assert read_json(path) == {"a": "ü", "b": [1, None]}
    for broken in (b'{"a": ', b"\xff"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"scores\.json: not valid JSON"):
            read_json(path)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    index = tmp_path / "data" / "index.csv"
    index.parent.mkdir()
    index.write_text("image_id\na\n")
    settings = stage_settings(Config(name="fields"), "seed", "train")
    return Stage(tmp_path / "runs" / "manifest.json", settings, (index,))


def finish(stage: Stage, **results: float) -> None:
    with stage.claim(fresh=True):
        stage.finish(**results)


def test_a_stage_is_done_once_it_is_finished(stage: Stage) -> None:
    assert not stage.done()
    with stage.claim() as todo:
        assert todo
        stage.finish(score=0.5)
    with stage.claim() as todo:
        assert not todo
    assert stage.done()
    assert read_json(stage.manifest)["score"] == 0.5
    assert str(stage.manifest.parent.parent) not in stage.manifest.read_text()


def test_the_same_stage_writes_the_same_bytes(stage: Stage) -> None:
    finish(stage, score=0.5)
    before = stage.manifest.read_bytes()
    finish(stage, score=0.5)
    assert stage.manifest.read_bytes() == before


def test_other_settings_are_refused_with_the_difference(stage: Stage) -> None:
    finish(stage)
    other = Config(name="fields", seed=1, train={"epochs": 3})
    changed = Stage(stage.manifest, stage_settings(other, "seed", "train"), stage.inputs)
    with pytest.raises(UserError) as caught:
        changed.done()
    for said in ("settings.seed: 0 -> 1", "settings.train.epochs: 20 -> 3", "--fresh", str(stage.manifest.parent)):
        assert said in str(caught.value)
    assert stage.done(), "a refusal leaves the stage as it was"


def test_changed_inputs_are_refused_and_missing_ones_named(stage: Stage) -> None:
    finish(stage)
    stage.inputs[0].write_text("image_id\nb\n")
    with pytest.raises(UserError, match=r"inputs\..*data/index\.csv"):
        stage.done()
    stage.inputs[0].unlink()
    with pytest.raises(UserError, match=r"index\.csv: missing"):
        stage.done()


def test_fresh_forgets_what_was_done(stage: Stage) -> None:
    finish(stage)
    with stage.claim(fresh=True) as todo:
        assert todo
    assert not stage.done(), "killed after --fresh, the stage must not count as done"


def test_a_stage_whose_output_is_gone_is_done_again(stage: Stage) -> None:
    output = stage.manifest.with_name("scores.json")
    stage = replace(stage, outputs=(output,))
    finish(stage)
    assert not stage.done()
    output.touch()
    assert stage.done()


def test_a_claim_sweeps_what_killed_processes_left(stage: Stage) -> None:
    folder, shared = stage.manifest.parent, stage.manifest.parent.parent / "submissions"
    shared.mkdir()
    (folder / ".oof.tmp7.zarr").mkdir(parents=True)
    (folder / ".manifest.tmp7.json").touch()
    for name in (".fields.tmp7.csv", ".fields.tmp8.json", ".others.tmp9.csv"):
        (shared / name).touch()
    with stage.claim():
        assert everything_in(folder) == [".manifest.json.lock"]
    own = replace(stage, manifest=shared / "fields.json", outputs=(shared / "fields.csv",))
    with own.claim():
        assert everything_in(shared) == [".fields.json.lock", ".others.tmp9.csv"], "others may be written just now"


def test_a_folder_that_vanished_is_not_finished(stage: Stage) -> None:
    with pytest.raises(UserError, match=r"runs/manifest\.json: its folder vanished"), stage.claim():
        shutil.rmtree(stage.manifest.parent)
        stage.finish()
    assert not stage.manifest.exists()


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    state = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "step": 3, "names": ["a"], "rng": torch.get_rng_state()}
    save_checkpoint(tmp_path / "last.pt", state)
    back = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(back["model"]["w"], state["model"]["w"])
    assert torch.equal(back["rng"], state["rng"])
    assert (back["step"], back["names"]) == (3, ["a"])
    assert everything_in(tmp_path) == ["last.pt"]


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("burst",)


@pytest.mark.parametrize("write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb, 2))])
def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object) -> None:
    monkeypatch.chdir(tmp_path)
    write({"model": Bomb()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: not a readable checkpoint"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "burst").exists()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"}" * 9])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"w": torch.zeros(100)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"last\.pt: not a readable checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_says_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"last\.pt: no checkpoint here; train"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_checkpoint_on_a_full_disk_is_a_users_problem(tmp_path: Path) -> None:
    """The temporary file is a link to a device that is always full."""
    path = tmp_path / "last.pt"
    path.with_name(f".last.tmp{os.getpid()}.pt").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"last\.pt: the disk is full"):
        save_checkpoint(path, {"w": torch.zeros(100_000)})
    assert everything_in(tmp_path) == []


def test_paths_are_written_relative_and_read_from_anywhere(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "fields")
    assert paths.relative(tmp_path / "data" / "a b.png") == "data/a b.png"
    assert paths.relative(tmp_path.parent / "c.png") == (tmp_path.parent / "c.png").as_posix()
    assert paths.resolve("src/config.py") == TOP / "src" / "config.py"
    assert paths.resolve("data/a.png") == tmp_path / "data" / "a.png"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "config.py").touch()
    assert paths.resolve("src/config.py") == tmp_path / "src" / "config.py", "the workspace comes first"
    assert paths.resolve("/elsewhere/a.png") == Path("/elsewhere/a.png")


def test_no_two_artifacts_share_a_path() -> None:
    paths = Paths(Path("top"), "fields")
    stores = [
        paths.probabilities(round, fold, split, tta)
        for round in range(2)
        for fold in range(2)
        for split in ("oof", "unlabelled", "test")
        for tta in (False, True)
    ]
    others = [paths.index, paths.points, paths.folds, paths.postprocess, paths.scores, paths.submission, paths.report]
    every = [*stores, *others, paths.ensemble("oof"), paths.pseudo(0, 0), paths.pseudo(1, 0)]
    assert len(set(every)) == len(every)


def test_a_renamed_workspace_is_still_done(tmp_path: Path) -> None:
    for name in ("folds", "runs/x"):
        (tmp_path / "before" / name).mkdir(parents=True)
    (tmp_path / "before/folds/x.csv").write_text("a")

    def stage(workspace: str) -> Stage:
        root = tmp_path / workspace
        return Stage(root / "runs/x/manifest.json", {"seed": 0}, (root / "folds/x.csv",))

    finish(stage("before"))
    (tmp_path / "before").rename(tmp_path / "after")
    assert stage("after").done()
    (tmp_path / "after/folds/x.csv").write_text("b")
    with pytest.raises(UserError, match="folds/x.csv"):
        stage("after").done()
