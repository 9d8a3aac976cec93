"""What one fold of one round learns from, and what it is judged by.

sources, validation, seen = gather_records(config, paths, round=1, fold=0)
"""

from typing import TYPE_CHECKING

from artifacts import Paths
from config import Config
from dataset import Record, Source, make_records
from errors import UserError
from index import PSEUDO_COLUMNS, read_index, read_stage_table, read_training_folds
from layouts import Summary, Training, read_checked
from points import load_points

if TYPE_CHECKING:
    import pandas as pd


def gather_records(config: Config, paths: Paths, round: int, fold: int) -> tuple[list[Source], list[Record], list[str]]:
    """What a fold trains on, what it is judged by, and every labelled id that its weights or labels have seen.

    Raises UserError where training and validation meet, or where a side is empty.
    """
    table, one = read_index(paths), config.rounds[round]
    points = load_points(paths.points) if table["points"].any() else None
    folds = read_training_folds(config, paths, table)
    held_out = set(folds.loc[folds["fold"] == fold, "image_id"])
    labelled = table[table["image_id"].isin(set(folds["image_id"]))]
    training = labelled[~labelled["image_id"].isin(held_out)]
    validation = labelled[labelled["image_id"].isin(held_out)]
    if training.empty or validation.empty:
        raise UserError(f"{paths.folds}: fold {fold} leaves a side empty; make the folds again")
    seen = set(training["image_id"])
    counts = split_batch(config, round)
    sources = [Source("labelled", make_records(training, points), counts["labelled"])]
    if one.start == "previous":
        seen |= set(read_checked(paths.run(round - 1, fold) / "manifest.json", Training)["seen_ids"])
    if one.pseudo is not None:
        records, teachers_saw = _pseudo_records(paths, round, fold, table, one.pseudo.labels == "soft")
        # a training image's own pseudo-label; one of the fold itself is a leak
        seen |= teachers_saw | ({record.image_id for record in records} & set(labelled["image_id"]))
        sources.append(Source("pseudo", records, counts["pseudo"]))
    if one.consistency is not None:
        inside = table["image_id"].isin(set(training["image_id"])) & ("labelled" in one.consistency.pool)
        pool = table[inside | table["split"].isin(set(one.consistency.pool) - {"labelled"})]
        sources.append(Source("unlabelled", make_records(pool.assign(mask="", points=0)), counts["unlabelled"]))
    for source in sources:
        if not source.records:
            raise UserError(f"rounds.{round}: no {source.kind} images to train on; drop its section or add images")
    if leaked := seen & held_out:
        raise UserError(
            f"round {round} fold {fold}: {min(leaked)!r} of its own fold was seen in training; train with --fresh"
        )
    return sources, make_records(validation, points), sorted(seen)


def split_batch(config: Config, round: int) -> dict[str, int]:
    """How many images of each kind stand in one process's batch. Raises UserError where none is left for real ones."""
    one = config.rounds[round]
    size = one.train.batch_size
    pseudo = max(1, _round_half_up(size * one.pseudo.share)) if one.pseudo else 0
    unlabelled = max(1, _round_half_up(size * one.consistency.share)) if one.consistency else 0
    if size - pseudo - unlabelled < 1:
        raise UserError(f"rounds.{round}: its shares leave no room for real labels in a batch of {size}; lower them")
    if unlabelled == 1 and one.consistency.cutmix:
        raise UserError(f"rounds.{round}.consistency.cutmix: it takes two images; raise train.batch_size over {size}")
    return {"labelled": size - pseudo - unlabelled, "pseudo": pseudo, "unlabelled": unlabelled}


def _round_half_up(value: float) -> int:
    return int(value + 0.5)


def _pseudo_records(
    paths: Paths, round: int, fold: int, table: "pd.DataFrame", soft: bool
) -> tuple[list[Record], set[str]]:
    """The kept pseudo-labelled images of a fold, and the labelled ids its teachers have seen."""
    folder = paths.pseudo(round, fold)
    made = read_stage_table(folder / "index.csv", PSEUDO_COLUMNS)
    made = made[made["kept"] == "1"]
    kept = table[table["image_id"].isin(set(made["image_id"]))]
    files = kept[["image", "height", "width"]].itertuples(index=False, name=None)
    rows, records = dict(zip(kept["image_id"], files, strict=True)), []
    for image_id, label in zip(made["image_id"], made["mask"], strict=True):
        image, *size = rows[image_id]
        records.append(Record(image_id, image, tuple(size), **({"soft": label} if soft else {"mask": label})))
    return records, set(read_checked(folder / "summary.json", Summary)["seen_ids"])
