"""Dealing images into bins that resemble each other: folds, or the few that keep their labels.

    bins = deal(features(coverage), sizes=[4, 4, 4], seed=0)

Iterative stratification (Sechidis et al. 2011) generalised to real-valued features: images are dealt one by one to the
bin whose sums they balance best, then pairs are swapped while that brings the bins closer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from config import Labels
from errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SWEEPS = 8
ROWS, PARTNERS = 1000, 256  # how many images a sweep tries to swap, and with how many each


def features(coverage: "pd.DataFrame") -> np.ndarray:
    """What bins are to have alike, `(images, features)` float64: the share and presence of each class, the number of
    instances, and the image's look (size, brightness, saturation). Every column has mean 0 and deviation 1."""
    pixels = coverage[[name for name in coverage if name.startswith("pixels:")]].to_numpy(np.float64)
    shares = pixels / np.maximum(coverage["labelled"].to_numpy(np.float64), 1)[:, None]
    columns = [*shares.T, *(pixels > 0).T, np.log1p(coverage["instances"].to_numpy(np.float64))]
    sizes = coverage["height"].astype(str) + "x" + coverage["width"].astype(str)
    columns += [sizes == size for size in sizes.value_counts().index[:8]]
    for look in ("brightness", "saturation"):
        values = coverage[look].to_numpy(np.float64)
        # quarters as well as the value: kinds of images (stainings, night and day) are clusters, which a mean blurs
        quarter = np.searchsorted(np.unique(np.quantile(values, (0.25, 0.5, 0.75))), values)
        columns += [values, *(quarter == one for one in range(quarter.max() + 1))]
    table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    table -= table.mean(axis=0)
    deviation = table.std(axis=0)
    return table[:, deviation > 1e-9] / deviation[deviation > 1e-9]


def share_out(coverage: "pd.DataFrame", labels: Labels, seed: int) -> dict[str, str]:
    """The ids that lose their label so that `labels.keep` others keep theirs, with the split each goes to ("" for
    none). All the parts are alike in classes and looks."""
    count, keep, test = len(coverage), labels.keep or 0, labels.keep_test or 0
    if keep > count:
        raise UserError(f"data.labels.keep: {keep}, but {count} images have labels; give 1 to {count}")
    rest = count - keep - test
    unlabelled = rest if labels.keep_unlabelled is None else labels.keep_unlabelled
    if not 0 <= unlabelled <= rest:
        wanted = f"keep, keep_test and keep_unlabelled: {keep} + {test} + {labels.keep_unlabelled or 0}"
        raise UserError(f"data.labels.{wanted} images, but {count} have labels; lower one of them")
    parts = deal(features(coverage), [keep, unlabelled, test, rest - unlabelled], seed)
    splits = ("labelled", "unlabelled", "test", "")
    return {one: splits[part] for one, part in zip(coverage["image_id"], parts, strict=True) if part}


def deal(values: np.ndarray, sizes: Sequence[int], seed: int, spread: Sequence[str] | None = None) -> np.ndarray:
    """Put each row of `values` into one of the bins, bin b getting `sizes[b]` rows: `(rows,)` int, deterministic.

    `spread` names each row's group, whose rows are then dealt over the bins as evenly as the sizes allow.
    """
    rng = np.random.default_rng(seed)
    groups = np.unique(spread, return_inverse=True)[1] if spread is not None else np.zeros(len(values), int)
    capacity = np.asarray(sizes)
    sums = np.zeros((len(sizes), values.shape[1]))
    filled = np.zeros(len(sizes), int)
    members = np.zeros((groups.max(initial=0) + 1, len(sizes)), int)
    bins = np.full(len(values), -1)
    # rows far from the mean first, while every bin can still take them; ties and near ties by chance
    order = np.argsort(-np.square(values).sum(axis=1) * rng.uniform(0.8, 1.25, len(values)), kind="stable")
    if spread is not None:
        order = order[np.argsort(groups[order], kind="stable")]
    for row in order:
        fits = filled < capacity
        # the emptiest bins first, else the last rows would have no choice
        load = filled / np.maximum(capacity, 1) if spread is None else members[groups[row]] / np.maximum(capacity, 1)
        open_bins = np.flatnonzero(fits & (load <= load[fits].min() + 1e-9))
        cost = np.round(sums[open_bins] @ values[row], 6)  # so that machines that add in another order agree
        best = open_bins[np.flatnonzero(cost == cost.min())]
        chosen = best[np.argmin(filled[best] + rng.random(len(best)) * 0.5)]
        bins[row] = chosen
        sums[chosen] += values[row]
        filled[chosen] += 1
        members[groups[row], chosen] += 1
    _swap(values, bins, sums, groups, members, rng)
    return bins


def _swap(
    values: np.ndarray,
    bins: np.ndarray,
    sums: np.ndarray,
    groups: np.ndarray,
    members: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Swap pairs of rows between bins, in place, while the squared sums (and the groups' unevenness) shrink."""
    uneven = 1e3 if members.shape[0] > 1 else 0.0
    for _ in range(SWEEPS):
        better = False
        for row in rng.permutation(len(values))[:ROWS]:
            others = np.flatnonzero(bins != bins[row])
            if len(others) > PARTNERS:
                others = rng.choice(others, PARTNERS, replace=False)
            if not len(others):
                continue
            here, there = bins[row], bins[others]
            step = values[others] - values[row]  # what this row's bin gains
            change = np.round(2 * (step * (sums[here] - sums[there] + step)).sum(axis=1), 6)
            mine, theirs = groups[row], groups[others]
            gain = members[mine, there] - members[mine, here] + members[theirs, here] - members[theirs, there] + 2
            change += uneven * 2 * gain * (mine != theirs)
            best = int(np.argmin(change))
            if change[best] < -1e-6:
                other, target = others[best], there[best]
                sums[here] += step[best]
                sums[target] -= step[best]
                members[mine, here] -= 1
                members[mine, target] += 1
                members[groups[other], target] -= 1
                members[groups[other], here] += 1
                bins[row], bins[other] = target, here
                better = True
        if not better:
            return


def deal_groups(values: np.ndarray, groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Put rows into `count` bins of like size, all rows of a group into one: `(rows,)` int, deterministic."""
    rng = np.random.default_rng(seed)
    group_of = np.unique(groups, return_inverse=True)[1]
    lengths = np.bincount(group_of).astype(np.float64)
    # the number of rows weighs as much as all else; centred, as a bin's sum over groups should be the mean's
    width = max(1, values.shape[1]) ** 0.5
    scale = max(1.0, lengths.std())
    sums = np.zeros((len(lengths), values.shape[1]))
    np.add.at(sums, group_of, values)
    units = np.hstack([sums, (width * 2 / scale) * lengths[:, None]])
    target = units.sum(axis=0) / count
    bins = np.full(len(units), -1)
    totals = np.zeros((count, units.shape[1])) - target
    filled = np.zeros(count, np.int64)  # groups of each bin
    order = np.argsort(-lengths * rng.uniform(0.9, 1.1, len(lengths)), kind="stable")
    for position, unit in enumerate(order):
        empty = np.flatnonzero(filled == 0)
        open_bins = empty if len(order) - position <= len(empty) else np.arange(count)
        chosen = int(open_bins[np.argmin(np.round(totals[open_bins] @ units[unit], 6))])
        bins[unit] = chosen
        filled[chosen] += 1
        totals[chosen] += units[unit]
    for _ in range(SWEEPS):
        before = bins.copy()
        for unit in rng.permutation(len(units))[:ROWS]:
            _improve(unit, units, bins, totals, rng)
        if (bins == before).all():
            break
    return bins[group_of]


def _improve(unit: int, units: np.ndarray, bins: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> None:
    """Move a group to another bin, or swap it with a group there, if that brings the sums closer to the target."""
    here = bins[unit]
    partners = np.flatnonzero(bins != here)
    if len(partners) > PARTNERS:
        partners = rng.choice(partners, PARTNERS, replace=False)
    there, steps = bins[partners], units[partners] - units[unit]
    if (bins == here).sum() > 1:  # a group alone may not leave its bin empty
        others = np.flatnonzero(np.arange(len(totals)) != here)
        there = np.concatenate([there, others])
        steps = np.concatenate([steps, np.repeat(-units[None, unit], len(others), axis=0)])
    change = np.round(2 * (steps * (totals[here] - totals[there] + steps)).sum(axis=1), 6)
    best = int(np.argmin(change))
    if change[best] < -1e-6:
        totals[here] += steps[best]
        totals[there[best]] -= steps[best]
        bins[unit] = there[best]
        if best < len(partners):
            bins[partners[best]] = here
