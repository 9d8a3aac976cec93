"""The config files and the overrides, and what a mistake in them says."""

from pathlib import Path

import pytest
import yaml
from helpers import config_fault
from hypothesis import given
from hypothesis import strategies as st

from errors import UserError
from settings import config_hash, flatten, load_config, merge, parse_config

CONFIG = """
seed: 3
train: {epochs: 7, batch_size: 4, augment: {crop: 128, flips: false}}
rounds:
  - phase: warmup
  - {phase: joint, start: previous, pseudo: {pixel_confidence: 0.9}, train: {epochs: 2, augment: {crop: 64}}}
  - {phase: finetune, start: previous}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fields.yaml"
    path.write_text(CONFIG)
    return path


def test_the_name_is_the_file_and_defaults_stand(path: Path) -> None:
    config = load_config(path)
    assert (config.name, config.seed, config.task, config.folds.count) == ("fields", 3, "binary", 5)
    assert load_config(path, ["name=other"]).name == "other"


def test_rounds_inherit_the_train_section_and_override_it_deeply(path: Path) -> None:
    trains = [one.train for one in load_config(path).rounds]
    assert [one.epochs for one in trains] == [7, 2, 7]
    assert [one.batch_size for one in trains] == [4, 4, 4]
    assert [one.augment.crop for one in trains] == [128, 64, 128]
    assert [one.augment.flips for one in trains] == [False, False, False]


def test_without_rounds_there_is_one_that_trains_as_told(tmp_path: Path) -> None:
    config = parse_config({"name": "a", "train": {"epochs": 3}})
    assert [(one.phase, one.train.epochs) for one in config.rounds] == [("warmup", 3)]


def test_overrides_reach_nested_values_and_list_items(path: Path) -> None:
    changes = ["train.epochs=9", "rounds.1.pseudo.pixel_confidence=0.5", "classes=[house]", "data.labels.kind=rle"]
    config = load_config(path, [*changes, "seed=4"])
    assert [one.train.epochs for one in config.rounds] == [9, 2, 9]
    assert config.rounds[1].pseudo.pixel_confidence == 0.5
    assert (config.classes, config.data.labels.kind, config.seed) == (("house",), "rle", 4)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "write it as a.b=value"),
        ("=3", "write it as a.b=value"),
        (".epochs=3", "write it as a.b=value"),
        ("train..epochs=3", "write it as a.b=value"),
        ("rounds=3", "rounds: Input should be a list, not 3"),
        ("seed=[", "'[' is not a YAML value"),
        ("train.epoch=3", "unknown key train.epoch; the nearest is 'epochs'"),
        ("trian.epochs=3", "unknown key trian; the nearest is 'train'"),
        ("seed.a=1", "seed is a value, not a section"),
        ("seed.a.b=1", "a stands under a value, not under a section"),
        ("rounds.7.phase=joint", "7 is no position in a list of 3"),
        ("rounds.first.phase=joint", "first is no position in a list of 3"),
        (
            "data.kaggle=",
            """data.kaggle: Input should be a valid string; an empty text is written so: --set 'data.kaggle=""'""",
        ),
        ("data.labels.keep=0", "data.labels.keep: Input should be greater than or equal to 1, not 0"),
        ("seed=-1", "seed: Input should be greater than or equal to 0, not -1"),
        ("train.epochs=0", "train.epochs: Input should be greater than or equal to 1, not 0"),
        ("train.epochs=many", "train.epochs: Input should be a valid integer"),
        ("rounds.1.train=5", "rounds.1.train: Input should be a valid dictionary"),
        ("model.arch=Unett", "model.arch: Input should be 'Unet'"),
    ],
)
def test_a_bad_override_names_the_key(path: Path, override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(path, [override])
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.startswith((f"--set {override}: ", f"{path}: "))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": {"loss": {"dyce": 1}}}, "unknown key train.loss.dyce; the nearest is 'dice'"),
        ({"rounds": [{"pseudo": {"treshold": 1}}]}, "unknown key rounds.0.pseudo.treshold"),
        ({"data": {"labels": {"format": {"columns": {"id": "id"}, "codek": "x"}}}}, "codek; the nearest is 'codec'"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_section(values: dict, said: str) -> None:
    assert said in config_fault(values)


def test_a_mistake_in_the_train_section_counts_once() -> None:
    assert "more)" not in config_fault({"train": {"epoch": 3}, "rounds": [{}, {"phase": "finetune"}]})
    assert config_fault({"train": {"epoch": 3}, "seed": "x"}).endswith("(and 1 more)")


def test_the_dump_of_a_config_is_the_config(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["rounds.1.consistency.weight=0.5", "submission=image_class"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(copy) == config
    assert config_hash(load_config(copy).model_dump(mode="json")) == config_hash(config.model_dump(mode="json"))


def test_the_hash_sees_values_and_not_their_order() -> None:
    assert config_hash({"a": 1, "b": [2, 3]}) == config_hash({"b": [2, 3], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1\n", "a mapping of keys to values, not a list"),
        (b"\xff\xfe\xfa", "not valid"),
    ],
)
def test_a_broken_file_is_told_in_one_line(path: Path, text: bytes, said: str) -> None:
    path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_those_there_are(path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such config; the ones here are .*fields\.yaml"):
        load_config(path.with_name("none.yaml"))


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)


@given(base=st.dictionaries(st.sampled_from("abc"), trees), over=st.dictionaries(st.sampled_from("abc"), trees))
def test_merging_keeps_what_is_not_overridden(base: dict, over: dict) -> None:
    before = repr(base)
    merged, top = flatten(merge(base, over)), flatten(over)
    assert repr(base) == before
    assert all(merged[key] == value for key, value in top.items())
    assert merge(base, {}) == base
    assert merge({}, over) == over


def test_what_an_alias_repeats_is_changed_alone(tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text("rounds:\n- {}\n- &again {phase: finetune, train: &t {epochs: 3}}\n- *again\ntrain:\n  <<: *t\n")
    config = load_config(path, ["rounds.2.train.epochs=7"])
    assert [one.train.epochs for one in config.rounds] == [3, 3, 7]
    assert config.train.epochs == 3


def test_flattening_names_every_leaf() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": None}) == {"a.b.0": 1, "a.b.1.c": 2, "d": None}
