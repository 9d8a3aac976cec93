"""How images are put together, and what two empty masks are worth."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rules import METRICS, RULES, Rule, add_up, average_groups, group_of, measure_pair

# two images of two classes: Dice of 1/2 over 4 pixels, nothing, 1 over 20, nothing
PAIRS = {("a", 0): (2.0, 4.0), ("a", 1): (0.0, 0.0), ("b", 0): (20.0, 20.0), ("b", 1): (0.0, 0.0)}


@pytest.mark.parametrize(
    ("reduce", "both_empty", "wanted"),
    [
        ("pair", 1, (1 / 2 + 1 + 1 + 1) / 4),
        ("pair", 0, (1 / 2 + 1) / 4),
        ("pair", "skip", (1 / 2 + 1) / 2),
        ("image", 1, (1 / 2 + 1) / 2),
        ("image", 0, (1 / 2 + 1) / 2),
        ("global", 1, (22 / 24 + 1) / 2),
        ("global", 0, 22 / 24 / 2),
        ("global", "skip", 22 / 24),
    ],
)
def test_groups_are_summed_and_then_averaged(reduce: str, both_empty: int | str, wanted: float) -> None:
    rule = Rule("f_beta", reduce, both_empty)
    rows = [(group_of(rule, *key), ratio) for key, ratio in PAIRS.items()]
    assert average_groups(rule, rows) == pytest.approx(wanted)
    assert average_groups(rule, rows[::-1]) == pytest.approx(wanted)


def test_no_group_scores_nothing() -> None:
    assert math.isnan(average_groups(Rule("f_beta"), []))
    assert math.isnan(average_groups(Rule("f_beta", both_empty="skip"), [(0, (0.0, 0.0))]))


@pytest.mark.parametrize("name", METRICS)
def test_two_empty_masks_give_nothing_and_nothing(name: str) -> None:
    empty, full = np.zeros((5, 6), np.int32), np.ones((5, 6), np.int32)
    rule = METRICS[name]
    if rule.measure != "accuracy":
        assert measure_pair(rule, empty, empty) == (0.0, 0.0)
    worth_one = {"skip": (0.0, 0.0), 1: (1.0, 1.0)}[rule.both_empty]
    assert rule.measure == "accuracy" or add_up(rule, empty, empty) == worth_one
    for pair in ((full, empty), (empty, full)):
        part, whole = measure_pair(rule, *pair)
        assert part == 0
        assert whole > 0
    part, whole = measure_pair(rule, full, full)
    assert part == whole > 0


@pytest.mark.parametrize("name", [name for name, rule in METRICS.items() if rule.task != "instances"])
def test_unknown_pixels_do_not_count(name: str) -> None:
    truth = np.zeros((20, 24), np.uint8)
    truth[3:9, 4:15] = 1
    unknown, answer = truth.copy(), truth.copy()
    unknown[12:, :9], answer[12:, :9] = 255, 1
    clean, dirty = (measure_pair(METRICS[name], one, two) for one, two in ((truth, truth), (unknown, answer)))
    assert clean[0] / clean[1] == dirty[0] / dirty[1] == 1.0
    assert measure_pair(METRICS[name], truth, answer)[0] / measure_pair(METRICS[name], truth, answer)[1] < 1.0


def test_the_rules_for_two_empty_masks_are_those_of_the_competitions() -> None:
    ones = ("tgs_salt", "airbus", "ultrasound_nerve", "siim_acr", "severstal", "clouds", "hubmap2021")
    assert {RULES[name].both_empty for name in ones} == {1}
    assert RULES["uwmgi"].both_empty == RULES["vesuvius"].both_empty == "skip"
    assert replace(RULES["contrails"], both_empty=1) == Rule("f_beta", "global", size=(256, 256))
