"""A submission's score as its competition makes it, overall and on the public and private parts of the test set.

    for part in score_files("tgs_salt", Path("submission.csv"), Path("solution.csv"), Sizes()):
        print(part.name, part.scores)

`rules.RULES` says how. The first of a part's scores is the competition's own; the others are what it is made of.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from answers import Answers, Sizes, draw_classes, draw_plane, list_instances, read_pair
from errors import UserError
from matching import detection_precision, match_detections, runs_iou
from metrics import ConfusionMatrix
from rules import RULES, Rule, average_groups, group_of, measure_iou, measure_pair
from surfaces import boundary_f, hausdorff, volume_surface_dice
from tables import Key, find_format

_NAMES = {"iou_share": "map", "instance_precision": "map", "detections": "map", "instance_f_beta": "f2"}


@dataclass(frozen=True)
class Part:
    name: str  # "all", "public" or "private"
    images: int
    scores: dict[str, float]


def score_files(
    name: str, submission: Path, solution: Path, sizes: Sizes, solution_format: str | None = None
) -> list[Part]:
    """The scores of a submission; of its public and private parts too where the solution tells them apart.

    Raises UserError for a format without a rule, and as `answers.read_pair` does.
    """
    find_format(name)
    if name not in RULES:
        raise UserError(f"--format {name}: no rule says how it is scored; there are {', '.join(RULES)}")
    rule = RULES[name]
    truth, found, usage = read_pair(name, rule, submission, solution, sizes, solution_format)
    told = sorted(set(usage.values()) - {""}, reverse=True)
    parts = [("all", list(usage))] + [(part, [key for key in usage if usage[key] == part]) for part in told]
    return [Part(part, len({key[0] for key in keys}), _score(rule, truth, found, keys)) for part, keys in parts]


def _score(rule: Rule, truth: Answers, found: Answers, keys: Sequence[Key]) -> dict[str, float]:
    if rule.task == "multiclass":
        return _score_label_maps(rule, truth, found, keys)
    if rule.task == "detections":
        return {"map": _score_detections(rule, truth, found, [image_id for image_id, _ in keys])}
    if rule.hausdorff:
        return _score_volumes(rule, truth, found, keys)
    name = _NAMES.get(rule.measure, rule.measure)
    name = ("dice" if rule.beta == 1 else f"f{rule.beta:g}") if name == "f_beta" else name
    if rule.task == "patches":
        rows = ((0, _patch_pair(truth, found, key)) for key in keys)
        return {"f1": average_groups(rule, ((group, measure_pair(rule, *pair)) for group, pair in rows))}
    if rule.task == "instances":
        ious = ((image_id, _instance_iou(truth, found, image_id)) for image_id, _ in keys)
        return {name: average_groups(rule, ((image_id, measure_iou(rule, iou)) for image_id, iou in ious))}
    if rule.volume:
        volumes = _volumes(rule, keys).items()
        return {
            name: average_groups(
                rule, ((where, volume_surface_dice(_planes(truth, found, one))) for where, one in volumes)
            )
        }
    planes = zip(keys, _planes(truth, found, keys), strict=True)
    return {
        name: average_groups(
            rule, ((group_of(rule, image_id, index), measure_pair(rule, *pair)) for (image_id, index), pair in planes)
        )
    }


def _planes(truth: Answers, found: Answers, keys: Sequence[Key]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for image_id, index in keys:
        yield draw_plane(truth, image_id, index), draw_plane(found, image_id, index)


def _patch_pair(truth: Answers, found: Answers, key: Key) -> tuple[np.ndarray, np.ndarray]:
    one, other = (np.array([int(answers.words[key])]) for answers in (truth, found))
    return one, other


def _instance_iou(truth: Answers, found: Answers, image_id: str) -> np.ndarray:
    """(true, found) IoU of an image's instances, 0 for two of different classes."""
    ours, theirs = (list_instances(one, image_id, truth.fmt.order) for one in (truth, found))
    classes = [np.array([one.class_index for one in side]) for side in (ours, theirs)]
    return runs_iou([one.runs for one in ours], [one.runs for one in theirs]) * (classes[0][:, None] == classes[1])


def _score_detections(rule: Rule, truth: Answers, found: Answers, image_ids: Sequence[str]) -> float:
    """The mean over the classes that occur in the truth of their average precision."""
    matches = defaultdict(list)
    for image_id in image_ids:
        ours, theirs = (list_instances(one, image_id, truth.fmt.order) for one in (truth, found))
        for index in {one.class_index for one in (*ours, *theirs)}:
            true = [one.runs for one in ours if one.class_index == index]
            said = [one for one in theirs if one.class_index == index]
            runs, scores = [one.runs for one in said], [one.score for one in said]
            matches[index].append(match_detections(true, runs, scores, rule.thresholds, rule.style))
    values = [detection_precision(images, rule.style) for images in matches.values()]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _volumes(rule: Rule, keys: Sequence[Key]) -> dict[Key, list[Key]]:
    """The keys of each volume and class, by the number of their slice. Raises UserError for an id that has none."""
    volumes = defaultdict(list)
    for image_id, index in keys:
        match = re.fullmatch(rule.volume, image_id)
        if match is None:
            raise UserError(f"id {image_id!r} does not name its volume and slice; the competition's ids do")
        volumes[match["volume"], index].append((int(match["slice"]), image_id))
    return {where: [(image_id, where[1]) for _, image_id in sorted(slices)] for where, slices in volumes.items()}


def _score_volumes(rule: Rule, truth: Answers, found: Answers, keys: Sequence[Key]) -> dict[str, float]:
    """UW-Madison: a weighted sum of mean Dice over slices and classes and of 1 - the mean distance over volumes.

    A volume is a class in the slices of a case and day. Its Hausdorff distance is measured in the unit cube, each side
    divided by its number of voxels, and divided by the cube's diagonal; 1 where one of the masks is empty. Kaggle never
    showed its code: the page says that locations are normalised by image size, to a score between 0 and 1.
    """
    dice, distances = [], []
    for where, slices in _volumes(rule, keys).items():
        pairs = list(_planes(truth, found, slices))
        dice += [((where, number), measure_pair(rule, *pair)) for number, pair in enumerate(pairs)]
        if len({pair[0].shape for pair in pairs}) > 1:
            raise UserError(f"{truth.path}: the slices of {where[0]!r} have more than one size; mend their sizes")
        true, said = (np.stack(side) for side in zip(*pairs, strict=True))
        whole = float(true.any() or said.any())
        length = hausdorff(true, said, [1.0 / side for side in true.shape]) / math.sqrt(3) if whole else 0.0
        distances.append((where, (min(length, 1.0), whole)))
    parts = average_groups(rule, dice), average_groups(rule, distances)
    score = (1 - rule.hausdorff) * parts[0] + rule.hausdorff * (1 - parts[1])
    return {"score": score, "dice": parts[0], "hausdorff": parts[1]}


def _score_label_maps(rule: Rule, truth: Answers, found: Answers, keys: Sequence[Key]) -> dict[str, float]:
    """mIoU of one confusion matrix over all pixels; the sum of ImageNet-S 2026 where the rule asks for it.

    That sum is 0.7 seg + 0.2 macro accuracy of the images' classes; seg is 0.7 mIoU + 0.2 boundary F + 0.1 mIoU of the
    rare classes. Its page leaves open what these are. Here boundary F is a mean over images and the classes in either
    mask, and the rare ones are the quarter of the true classes (one at least) with the fewest pixels; 0 is background.
    """
    matrix, edges = ConfusionMatrix(1, ignore=rule.ignore), []
    for image_id, _ in keys:
        true, said = draw_classes(truth, image_id, rule.ignore), draw_classes(found, image_id, rule.ignore)
        known = true != rule.ignore
        size = max(int(true[known].max(initial=0)), int(said[known].max(initial=0))) + 1
        if size > matrix.num_classes:
            grown = np.pad(matrix.counts, (0, size - matrix.num_classes))
            matrix = ConfusionMatrix(size, grown, rule.ignore)
        matrix.update(true, said)
        if rule.composite:
            for index in np.union1d(true[known], said[known]).tolist():
                if index:
                    part, whole = boundary_f((true == index) & known, (said == index) & known)
                    edges.append(part / whole)
    names = {
        word: number for number, word in enumerate(sorted({one.words[key] for one in (truth, found) for key in keys}))
    }
    labels = ConfusionMatrix(max(len(names), 1), ignore=-1)
    pairs = [[names[one.words[key]] for key in keys] for one in (truth, found)]
    labels.update(*(np.array(side, np.int64) for side in pairs))
    scores = {"miou": matrix.miou(), "pixel accuracy": matrix.accuracy()}
    accuracies = {"class accuracy": labels.accuracy(), "macro accuracy": labels.macro_accuracy()}
    if not rule.composite:
        return scores | accuracies
    pixels = matrix.counts.sum(axis=1)
    rare = [index for index in np.argsort(pixels, kind="stable").tolist() if index and pixels[index]]
    rare_iou = float(matrix.iou()[rare[: max(1, len(rare) // 4)]].mean()) if rare else matrix.miou()
    boundary = sum(edges) / len(edges) if edges else 1.0
    seg = 0.7 * matrix.miou() + 0.2 * boundary + 0.1 * rare_iou
    total = 0.7 * seg + 0.2 * labels.macro_accuracy()
    return {"score": total, "seg": seg, **scores, "boundary f": boundary, "rare miou": rare_iou, **accuracies}
