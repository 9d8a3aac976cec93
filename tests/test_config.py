"""What the schema allows, and what it says of values that make no sense together."""

import pytest
from helpers import config_fault

from config import Config, Consistency, Predict, Pseudo

GROUP = {"model": {"norm": "group"}}
PLAIN = {"arch": "PlainUnet", "weights": "none"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rounds": [{"phase": "joint", "consistency": {}}]}, "must be warmup"),
        ({"rounds": [{"pseudo": {}}]}, "rounds.0: a warmup round trains on real labels alone"),
        ({"rounds": [{}, {"phase": "joint"}]}, "rounds.1: a joint round needs"),
        ({"rounds": [{"start": "previous"}]}, "its start encoder"),
        ({"rounds": [{}, {"phase": "finetune", "freeze_norms": True}]}, "rounds.freeze_norms: takes start"),
        (
            {"rounds": [{}, {"phase": "finetune", "start": "previous", "freeze_norms": True}]} | GROUP,
            "rounds.freeze_norms: takes start",
        ),
        ({"rounds": []}, "at least one"),
        ({"classes": []}, "at least one"),
        ({"task": "multilabel", "classes": ["a", "b", "a"]}, "and no class twice"),
        ({"classes": ["a", "b"]}, "binary takes 1 at least, 1 at most, not 2"),
        ({"task": "multiclass", "classes": ["a"]}, "multiclass takes 2 at least, 255 at most, not 1"),
        ({"task": "multiclass", "classes": list(map(str, range(256)))}, "takes 2 at least, 255 at most, not 256"),
        ({"classes": list(map(str, range(256)))}, "binary takes 1 at least, 1 at most, not 256"),
        ({"name": "../elsewhere"}, "name: "),
        ({"folds": {"count": 1}}, "folds.validation: how many images a single fold"),
        ({"folds": {"count": 3, "validation": 4}}, "folds.validation: how many images a single fold"),
        ({"folds": {"count": 1, "validation": 4}}, "set postprocess.fit and ensemble.fit_weights false"),
        ({"data": {"labels": {"keep_test": 4}}}, "data.labels.keep: how many labels stay"),
        ({"model": {"arch": "PlainUnet"}}, "model: weights: a PlainUnet has no pretrained encoder; say none"),
        (
            {"model": PLAIN, "train": {"augment": {"crop": 40}}},
            "train.augment.crop: a PlainUnet halves",
        ),
        ({"model": PLAIN | {"decoder_channels": []}}, "model.decoder_channels: "),
        ({"model": PLAIN | {"decoder_channels": [8] * 7}}, "model.decoder_channels: "),
        ({"model": PLAIN | {"decoder_channels": [8, 0]}}, "model.decoder_channels.1: "),
        ({"train": {"augment": {"scale": [0, 1]}}}, "train.augment.scale.0: "),
        ({"train": {"augment": {"scale": [-1, 1]}}}, "train.augment.scale.0: "),
        ({"train": {"augment": {"scale": [1e-9, 1]}}}, "train.augment.scale.0: "),
        ({"train": {"augment": {"scale": [1.4, 0.7]}}}, "train.augment.scale: give the least zoom, then the most"),
        ({"train": {"loss": {"cross_entropy": 0, "dice": 0}}}, "train.loss: with neither cross_entropy nor dice"),
        ({"predict": {"scales": []}}, "predict.scales: "),
        ({"predict": {"scales": [1, 0]}}, "predict.scales.1: "),
        ({"predict": {"scales": [-1]}}, "predict.scales.0: "),
        ({"image": {"std": [1, 0, 1]}}, "image.std.1: "),
        ({"image": {"scale": 0.001}}, "image.scale: "),
        ({"train": {"schedule": "plateau", "gamma": 1}}, "train.gamma: "),
        ({"data": {"generator": "microct", "size": 2}}, "data.size: "),
        ({"data": {"generator": "scenes", "kaggle": "competitions/a"}}, "drop data.root and data.kaggle"),
    ],
)
def test_values_that_make_no_sense_together(values: dict, said: str) -> None:
    message = config_fault(values)
    assert said in message
    assert message.count("config: ") == 1


def test_a_pool_named_twice_counts_once() -> None:
    for section in (Pseudo, Consistency):
        assert section(pool=("test", "unlabelled", "test")).pool == ("test", "unlabelled")


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config(name="fields").seed = 5


@pytest.mark.parametrize(
    ("predict", "augments"), [({}, True), ({"tta": "none"}, False), ({"tta": "none", "scales": [0.75, 1.0]}, True)]
)
def test_scales_alone_are_test_time_augmentation(predict: dict, augments: bool) -> None:
    assert Predict(**predict).augments == augments


def test_what_the_network_puts_out_and_what_chooses() -> None:
    several = {"name": "a", "classes": ["x", "y", "z"]}
    kinds = [{"name": "a"}, {"name": "a", "task": "instances"}]
    kinds += [several | {"task": "multiclass"}, several | {"task": "multilabel"}]
    assert [(Config(**one).channels, Config(**one).metric) for one in kinds] == [
        (1, "dice"),
        (3, "map"),
        (3, "miou"),
        (3, "miou"),
    ]
