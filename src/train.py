"""Train one fold, or all of them, of one round.

    python src/train.py --fold 2
    python src/train.py --config configs/dubai.yaml --round 1 --fold 0 --set train.batch_size=4
    accelerate launch --num_processes 2 src/train.py --fold 0

(two GPUs; two processes without one: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 src/train.py --fold 0)

A killed run goes on at its last finished epoch and ends with the weights it would have had. A finished fold is
skipped; one trained with other settings is refused until --fresh.
"""

import argparse
import json
import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import (
    Paths,
    Stage,
    atomic,
    load_checkpoint,
    save_checkpoint,
    stage_settings,
    write_config,
)
from cli import chosen_folds, make_parser, open_config, run_script, tell
from config import Config
from disk import remove
from errors import UserError
from lanes import run_folds
from layouts import Contents, read_checked
from members import checkpoint_file

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dataset import Record, Source
    from engine import Learner


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    stages = {fold: train_stage(config, paths, args.round, fold) for fold in chosen_folds(args, config)}
    with ExitStack() as claims:
        todo = [fold for fold, stage in stages.items() if claims.enter_context(stage.claim(args.fresh))]
        for fold in stages.keys() - set(todo):
            drop_progress(paths.run(args.round, fold))
            print(f"round {args.round} fold {fold}: trained already")
        if todo:
            check_precision(config, args.round)
        run_folds(args, config.folds.count, todo, partial(train_fold, config, paths, args.round, stages, args.fresh))


def check_precision(config: Config, round: int) -> None:
    """Raises UserError where the round asks for what this machine has not."""
    from runtime import best_device

    if config.rounds[round].train.precision == "fp16" and best_device().type == "cpu":
        raise UserError("train.precision: fp16 needs a GPU; say auto, bf16 or fp32")


def train_stage(config: Config, paths: Paths, round: int, fold: int) -> Stage:
    """What a fold's training depends on: its settings, the folds, and for later rounds the work of the earlier ones."""
    sections = ("seed", "task", "classes", "image", "folds", "model")
    settings = stage_settings(config, *sections) | {"border_width": config.postprocess.border_width}
    one = config.rounds[round]
    settings["round"] = one.model_dump(mode="json")
    if one.train.select == "best" or one.train.schedule == "plateau" or one.train.early_stopping:
        settings["judged"] = how_judged(config)
    if one.consistency is not None:
        contents = read_checked(paths.contents, Contents)
        settings["pool"] = {split: contents[split] for split in one.consistency.pool}
    inputs = [paths.index, paths.coverage, paths.folds]
    if config.data.labels.sparse:
        inputs.append(paths.points)
    if one.start == "previous":
        inputs.append(paths.run(round - 1, fold) / "manifest.json")
    if one.pseudo is not None:
        inputs.append(paths.pseudo(round, fold) / "manifest.json")
    outputs = (checkpoint_file(config, paths, round, fold),)
    return Stage(paths.run(round, fold) / "manifest.json", settings, tuple(inputs), outputs)


def how_judged(config: Config) -> dict[str, Any]:
    """What an epoch's score depends on besides its weights."""
    points, masks = config.data.labels.points, config.postprocess.model_dump(mode="json", exclude={"fit", "metric"})
    seen = config.predict.model_dump(mode="json", include={"window", "overlap", "patch"})
    return {"metric": config.metric, "points": points and points.judge, **masks, **seen}


def train_fold(config: Config, paths: Paths, round: int, stages: dict[int, Stage], fresh: bool, fold: int) -> None:
    """Train one claimed fold to its end, from where it was if it was interrupted, and write its manifest."""
    import torch

    from dataset import StepSampler, TrainingDataset, load_batches
    from engine import train_one_epoch
    from foresight import foretell
    from runtime import derive_seed, describe_machine, keep_freed_memory, make_accelerator
    from sources import gather_records
    from validation import evaluate

    folder, settings, stage = paths.run(round, fold), config.rounds[round].train, stages[fold]
    keep_freed_memory()
    accelerator = make_accelerator(settings.precision)
    if accelerator.is_main_process:
        open_folder(folder, stage, fresh)
        write_config(folder / "config.yaml", config)
    accelerator.wait_for_everyone()
    sources, validation, seen = gather_records(config, paths, round, fold)
    per_batch = tuple(source.per_batch for source in sources)
    at_once = per_batch[0] * accelerator.num_processes * settings.accumulate
    steps = settings.steps_per_epoch or max(1, len(sources[0].records) // at_once)
    learner, epoch, log = open_learner(config, paths, round, fold, steps, sources, accelerator)
    weights = name_weights(config, learner)
    if weights and accelerator.is_main_process:
        tell("class weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in weights.items()))
    learner.folder, learner.needs = folder, foretell(learner, sources, paths, f"round {round} fold {fold}")
    if settings.compile:
        learner.compile()
    dataset = TrainingDataset(sources, config, paths, round, fold)
    best = max((line for line in log if "score" in line), key=lambda line: line["score"], default=None)
    count = steps * settings.accumulate
    place = (accelerator.process_index, accelerator.num_processes)
    sampler = StepSampler(per_batch, epoch * steps, settings.epochs * steps, settings.accumulate, *place)
    # one loader for all epochs: its workers keep their decoded images, and work on while the model is evaluated
    batches = load_batches(dataset, sampler, accelerator.device)
    while epoch < settings.epochs and not stopped_early(log, settings.early_stopping):
        mine = [accelerator.process_index] if accelerator.process_index else []  # each draws its own dropout
        torch.manual_seed(derive_seed(config.seed, "epoch", round, fold, epoch, *mine))
        title = f"round {round} fold {fold} epoch {epoch + 1}/{settings.epochs}"
        line = {"epoch": epoch, **train_one_epoch(learner, batches, count, epoch, title), "step": learner.step}
        epoch += 1
        if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
            scores = agree(evaluate(learner, validation, paths), accelerator)
            if math.isnan(scores[config.metric]):
                reason = f"nothing is known of the images it holds out, which therefore have no {config.metric}"
                raise UserError(f"{paths.folds}: fold {fold}: {reason}; make the folds again with another seed")
            line |= {"scores": scores, "score": scores[config.metric]}
            if settings.schedule == "plateau":
                learner.schedule.step(line["score"])
            if best is None or line["score"] > best["score"]:
                best = line
                if accelerator.is_main_process:
                    save_checkpoint(folder / "best.pt", checkpoint(learner, epoch))
        log.append(line)
        if accelerator.is_main_process:
            stage.check()
            # the log first: killed in between, the epoch is run and written again
            write_log(folder, log)
            if epoch < settings.epochs:  # what follows the last epoch takes no longer than this file
                save_checkpoint(folder / "progress.pt", learner.state() | {"epoch": epoch, "log": log})
            scored = [one for one in line.get("scores", {}).items() if one[0].endswith(config.metric)]
            shown = "".join(f" {name} {value:.4f}" for name, value in scored)
            tell(f"{title}: loss {line['loss']:.4f}{shown} ({line['images_per_second']:.1f} images/s)")
    if accelerator.is_main_process:
        save_checkpoint(folder / "last.pt", checkpoint(learner, epoch))
        trained = sorted(record.image_id for record in sources[0].records)
        scores = log[-1].get("scores", {})
        results = {"train_ids": trained, "seen_ids": seen, "scores": scores, "class_weights": weights}
        stage.finish(round=round, fold=fold, machine=describe_machine(accelerator), **results)
        drop_progress(folder)
    accelerator.wait_for_everyone()


def drop_progress(folder: Path) -> None:
    """Delete what only an unfinished run needs; killed before it got here, a finished one does it when asked again."""
    for name in ("progress.pt", "started.json"):
        (folder / name).unlink(missing_ok=True)


def open_folder(folder: Path, stage: Stage, fresh: bool) -> None:
    """Make a run's folder ready: emptied where it starts anew.

    Raises UserError with the difference where it was interrupted with other settings.
    """
    for path in folder.glob("not_finite*.json"):
        path.unlink()
    if fresh:
        for name in ("last.pt", "best.pt", "log.jsonl", "progress.pt"):
            (folder / name).unlink(missing_ok=True)
        remove(folder / "tensorboard")
    started = Stage(folder / "started.json", stage.settings, stage.inputs)
    with started.claim(fresh=not (folder / "progress.pt").is_file()) as todo:
        if todo:
            started.finish()


def agree(scores: dict[str, float], accelerator: "Accelerator") -> dict[str, float]:
    """The main process's scores in every process: batch statistics differ, and all must stop at the same epoch."""
    if accelerator.num_processes == 1:
        return scores
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([scores])[0]


def open_learner(
    config: Config, paths: Paths, round: int, fold: int, steps: int, sources: list["Source"], accelerator: "Accelerator"
) -> tuple["Learner", int, list[dict[str, Any]]]:
    """A learner, the epoch it stands at, and its log so far: fresh, or as an interrupted run left it."""
    import torch

    from engine import RESTORED, make_learner
    from runtime import derive_seed

    torch.manual_seed(derive_seed(config.seed, "weights", round, fold))
    one, start = config.rounds[round], None
    progress = paths.run(round, fold) / "progress.pt"
    state = load_checkpoint(progress, *RESTORED, "epoch", "log") if progress.is_file() else None
    if one.start == "previous" and state is None:
        start = load_checkpoint(checkpoint_file(config, paths, round - 1, fold), "model")["model"]
    elif state is not None:
        start = state["model"]
    if one.consistency is not None and not one.train.ema:
        raise UserError(f"rounds.{round}.train.ema: 0, but the consistency: section's teacher is the average; try 0.99")
    weights = count_classes(config, paths, sources[0].records, one.train.loss.class_weights)
    learner = make_learner(config, one, accelerator, steps, start, weights)
    if state is None:
        return learner, 0, []
    learner.restore(state)
    return learner, state["epoch"], state["log"]


def count_classes(config: Config, paths: Paths, records: list["Record"], kind: str) -> Any:
    """Class weights from the training images' labels, `(K,) float32`, or None."""
    if kind == "none":
        return None
    import numpy as np
    import torch

    from dataset import load_label
    from losses import class_weights
    from transforms import instance_classes, working_shape
    from validation import record_truth

    counts = np.zeros(256 if config.task != "multilabel" else len(config.classes), np.int64)
    for record in records:
        label = record_truth(record, paths)
        if config.task == "multilabel":
            counts += (label == 1).sum((0, 1))
            continue
        if config.task == "instances":  # their border is drawn at the working scale
            label = load_label(record, config, paths, working_shape(*record.size, config.image))
            label = instance_classes(label, config.postprocess.border_width)
        counts += np.bincount(label.ravel(), minlength=256)
    classes = 2 if config.task == "binary" else config.channels
    return class_weights(torch.from_numpy(counts[:classes]), kind, exclusive=config.task != "multilabel")


def name_weights(config: Config, learner: "Learner") -> dict[str, float]:
    """The class weights by name; none where all classes count alike."""
    from labels import label_names

    if learner.class_weights is None:
        return {}
    names = ("background", "inside", "border") if config.task == "instances" else label_names(config)
    return dict(zip(names, learner.class_weights.tolist(), strict=True))


def checkpoint(learner: "Learner", epoch: int) -> dict[str, Any]:
    """The weights that predict, and those that were trained where they differ."""
    student = learner.plain_model.state_dict() if learner.ema is not None else None
    return {"model": learner.predictive.state_dict(), "student": student, "epoch": epoch}


def stopped_early(log: list[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` epochs brought no better score, as their last one's own score shows."""
    scores = [(line["score"], -line["epoch"]) for line in log if "score" in line]
    return bool(patience and scores) and "score" in log[-1] and log[-1]["epoch"] + max(scores)[1] >= patience


def write_log(folder: Path, log: list[dict[str, Any]]) -> None:
    """JSON lines, an epoch each, and the same for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with atomic(folder / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    with SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{log[-1]['epoch']:05d}") as writer:
        flat = {key: value for key, value in log[-1].items() if isinstance(value, (int, float))}
        for name, value in (flat | log[-1].get("scores", {})).items():
            writer.add_scalar(name.replace(" ", "/"), value, log[-1]["step"])


if __name__ == "__main__":
    run_script(main, make_parser(__doc__, fold=True, round=True))
