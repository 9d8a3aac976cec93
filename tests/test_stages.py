"""The list of a config's stages, what each has to do, and the time that the rest will take."""

import pytest

from settings import parse_config
from stages import list_stages, stage_work, time_left


def stages_of(**values: object) -> list[str]:
    return [" ".join(stage) for stage in list_stages(parse_config({"name": "fields"} | values))]


def test_the_stages_of_one_round() -> None:
    assert stages_of(predict={"tta": "none"}) == [
        "prepare.py",
        "make_folds.py",
        "train.py --round 0",
        "predict.py --round 0",
        "ensemble.py",
        "evaluate.py",
        "make_report.py",
    ]


def test_the_stages_of_several_rounds() -> None:
    rounds = [{}, {"phase": "joint", "pseudo": {}}, {"phase": "joint", "consistency": {}}, {"phase": "finetune"}]
    assert stages_of(rounds=rounds, data={"test": "test/{id}.png"})[2:] == [
        "train.py --round 0",
        "predict.py --round 0",
        "make_pseudo_labels.py --round 1",
        "train.py --round 1",
        "predict.py --round 1",
        "train.py --round 2",
        "predict.py --round 2",
        "train.py --round 3",
        "predict.py --round 3",
        "ensemble.py",
        "evaluate.py",
        "make_submission.py",
        "make_report.py",
    ]


def test_images_without_a_label_can_be_the_test_set() -> None:
    assert "make_submission.py" in stages_of(data={"labels": {"without_label": "test"}})
    assert "make_submission.py" not in stages_of(data={"labels": {"without_label": "unlabelled"}})


SAMPLE = [
    (1.0, "prepare.py"),
    (10.0, "train.py"),
    (1.0, "predict.py"),
    (20.0, "train.py"),
    (1.0, "predict.py"),
    (5.0, "train.py"),
    (1.0, "predict.py"),
]


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ([], ""),
        ([30.0], ""),
        ([30.0, 600.0], "more than 25 min left"),
        ([30.0, 600.0, 60.0], "about 27 min left"),
        ([30.0, 600.0, 60.0, 1800.0], "about 9 min left"),  # 30 units took 40 min
        ([30.0, 600.0, 60.0, 1800.0, 60.0, 100.0], "about 1 min left"),
        ([30.0, 6000.0, 60.0], "about 4 h 12 min left"),
        ([30.0, 6.0, 60.0], "more than 2 min left"),  # trained before
        ([30.0, 600.0, 60.0, 1200.0, 60.0, 300.0, 60.0], ""),
    ],
)
def test_the_time_left_is_that_of_like_stages(taken: list[float], said: str) -> None:
    assert time_left(SAMPLE, taken) == said


def test_no_line_is_too_wide() -> None:
    left = time_left([(1.0, "train.py")] * 12 + [(1.0, "predict.py")], [4300.0])
    assert left == "more than 13 h 8 min left"
    assert len(f"[12/14] make_pseudo_labels.py --round 10  (123:45, {left})") <= 80


def test_a_training_is_worth_its_steps() -> None:
    rounds = [{}, {"phase": "joint", "pseudo": {"share": 0.5}}, {"phase": "finetune", "train": {"epochs": 2}}]
    config = parse_config({"name": "fields", "train": {"epochs": 10}, "rounds": rounds})
    assert [stage_work(config, ["train.py", "--round", str(number)]) for number in range(3)] == [10, 20, 2]
    assert stage_work(config, ["predict.py", "--round", "1"]) == 1
    config = parse_config({"name": "fields", "train": {"epochs": 10, "steps_per_epoch": 7}, "rounds": rounds})
    assert [stage_work(config, ["train.py", "--round", str(number)]) for number in range(3)] == [70, 70, 14]
