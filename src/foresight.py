"""What a run will take, told before its first epoch: the memory of one training, and the disk of all of them.

    learner.needs = foretell(learner, sources, paths, "round 0 fold 0")

Weights, gradients, Adam's two moments and checkpoints are exact; what a step remembers is measured on two images, and
probability stores are counted before their compression.
"""

from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from artifacts import PATCHES, Paths
from cli import tell
from config import Config
from dataset import Source
from engine import Learner, step_loss
from errors import UserError
from index import read_folds, read_index
from memory import Needs, amount, memory_size, used_memory
from stages import needed_stores
from transforms import working_shape
from trouble import told_too_large

if TYPE_CHECKING:
    import pandas as pd

MEASURED = 2  # images of each kind: a batch norm wants more than one
SMALLEST = 50  # probabilities of nearly empty masks are compressed to about this part; no run needs less


@dataclass(frozen=True)
class Disk:
    """The bytes that a run has still to write, and those that are free."""

    checkpoints: int
    stores: int  # before their compression
    free: int

    def check(self, path: Path) -> None:
        """Raises UserError where the disk of `path` clearly does not suffice."""
        if self.checkpoints + self.stores // SMALLEST > self.free:
            raise UserError(
                f"{path}: {amount(self.free)} of disk are free, and the run's checkpoints take "
                f"{amount(self.checkpoints)}, its probability stores up to {amount(self.stores)}; free some space or "
                "choose another --workspace (predict.tta=none and ensemble.rounds=last write fewer stores)"
            )


def foretell(learner: Learner, sources: list[Source], paths: Paths, title: str) -> Needs:
    """Print what a training and its run will take; returns the first. Raises UserError where the disk is too small."""
    needs, disk = foretell_memory(learner, sources), foretell_disk(learner.config, paths, learner)
    if learner.accelerator.is_main_process:
        tell(f"{title}: {describe(needs, disk, learner.round.train.batch_size)}")
    disk.check(paths.runs)
    return needs


def describe(needs: Needs, disk: Disk, batch: int) -> str:
    """One line for people, with a way out where the memory will not do."""
    total = needs.total(batch)
    way = f"; lower train.batch_size, to about {needs.fitting(batch)}" if total > needs.room else ""
    return (
        f"about {amount(total)} of {needs.place} (of {amount(needs.room)}){way}; the run: at most "
        f"{amount(disk.checkpoints + disk.stores)} of disk (of {amount(disk.free)})"
    )


def foretell_memory(learner: Learner, sources: list[Source]) -> Needs:
    """What training takes at its peak: on a GPU of its memory, else all that the process holds.

    Takes the forward half of a step, and leaves the learner as it was. Raises UserError where even that does not fit.
    """
    parameters = [one for one in learner.plain_model.parameters() if one.requires_grad]
    moved = sum(one.nbytes for one in parameters)
    weights = _weights_size(learner) * (2 if learner.ema is not None else 1)
    device, train = learner.accelerator.device, learner.round.train
    # gradients, and Adam's two moments
    fixed = 3 * moved
    if device.type == "cuda":
        fixed, room, place = fixed + weights, torch.cuda.get_device_properties(device).total_memory, "GPU memory"
    else:
        cached = min(train.cache_gb * 2**30, _pictures_size(learner.config, sources))
        # the weights are in what is used already
        fixed, room, place = fixed + used_memory() + int(cached), memory_size(), "memory"
    with told_too_large(train, Needs(fixed, room, room, place)):
        return Needs(fixed, _measure_image(learner, sources), room, place)


def _measure_image(learner: Learner, sources: list[Source]) -> int:
    """Bytes that a step remembers of an image for its backward half, and what that takes for itself."""
    train, model = learner.round.train, learner.plain_model
    counts = {source.kind: min(MEASURED, source.per_batch) for source in sources}
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = {name: one.clone() for name, one in model.named_buffers()}  # a batch norm's statistics
    batch = {kind: _blank(learner.config, kind, count, train.augment.crop) for kind, count in counts.items()}
    learner.set_training()
    with (
        learner.accelerator.no_sync(learner.model),
        torch.random.fork_rng(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        step_loss(learner, batch, 0)
    for name, one in model.named_buffers():
        one.copy_(buffers[name])
    # the largest tensor's gradient and the one that it is made from stand beside what is remembered
    return (sum(kept.values()) + 2 * max(kept.values())) // sum(counts.values())


def _blank(config: Config, kind: str, count: int, crop: int) -> dict[str, Tensor]:
    images = torch.zeros(count, config.image.channels, crop, crop)
    if kind == "unlabelled":
        return {"image": images, "strong": images, "box": torch.zeros(count, 4, dtype=torch.int64)}
    shape = (len(config.classes), crop, crop) if config.task == "multilabel" else (crop, crop)
    return {"image": images, "target": torch.zeros(count, *shape, dtype=torch.int64)}


def _pictures_size(config: Config, sources: list[Source]) -> int:
    """Bytes of all images of a training at the working scale, as 8 bits a value, with their labels."""
    total = 0
    for record in (one for source in sources for one in source.records):
        height, width = working_shape(*record.size, config.image)
        total += height * width * (config.image.channels + _label_size(config, bool(record.soft)))
    return total


def _label_size(config: Config, soft: bool) -> int:
    """Bytes of a pixel's label, as `Picture.label` holds it."""
    if config.task == "instances":
        return 4 if soft else 2
    return config.channels if soft or config.task == "multilabel" else 1


def _weights_size(learner: Learner) -> int:
    return sum(one.nbytes for one in learner.plain_model.state_dict().values())


def foretell_disk(config: Config, paths: Paths, learner: Learner) -> Disk:
    """What all rounds and folds have still to write: their checkpoints, and every store of probabilities.

    Pseudo-labels are counted as soft ones, at the larger of an image's own and the working size.
    """
    table, folds = read_index(paths), read_folds(paths)
    labelled = set(folds["image_id"])
    held_out = {fold: set(some["image_id"]) for fold, some in folds.groupby("fold")}
    pixels = {split: _count_pixels(config, table[table["split"] == split]) for split in ("unlabelled", "test")}
    whole = _count_pixels(config, table[table["image_id"].isin(labelled)])
    weights, checkpoints, stores = _weights_size(learner), 0, 0
    for fold in range(config.folds.count):
        own = _count_pixels(config, table[table["image_id"].isin(held_out.get(fold, set()))])
        counts = {"oof": own, "labelled": tuple(a - b for a, b in zip(whole, own, strict=True)), **pixels}
        for round, one in enumerate(config.rounds):
            both = 2 if one.train.ema else 1  # the average, and what was trained
            files = [paths.run(round, fold) / name for name in ("best.pt", "last.pt")]
            checkpoints += both * weights * sum(not path.is_file() for path in files)
            for split, tta in needed_stores(config, round):
                if not paths.probabilities(round, fold, split, tta).is_dir():
                    stores += counts[split.removesuffix(PATCHES)][split.endswith(PATCHES)]
            if one.pseudo and not (paths.pseudo(round, fold) / "manifest.json").is_file():
                stores += sum(counts[split][2] for split in one.pseudo.pool)
    # the blend of held-out images and of all that is predicted for the end
    stores += whole[0] + pixels["test"][0] + (pixels["unlabelled"][0] if config.data.solution_of != "test" else 0)
    # the state that a killed run goes on from: the old one stands while the new one is written
    checkpoints += 2 * (weights * 2 + 2 * weights)
    return Disk(checkpoints, config.channels * stores, disk_usage(paths.runs).free)


def _count_pixels(config: Config, table: "pd.DataFrame") -> tuple[int, int, int]:
    """Of an index's images at the working scale, of their centre crops, and at the larger of own and working size."""
    whole = crops = larger = 0
    for (height, width), count in table[["height", "width"]].value_counts().items():
        shape = working_shape(height, width, config.image)
        whole += count * shape[0] * shape[1]
        larger += count * max(shape[0] * shape[1], height * width)
        side = config.predict.patch or 0
        crop = working_shape(min(side, height), min(side, width), config.image, max(height, width))
        crops += count * crop[0] * crop[1]
    return int(whole), int(crops), int(larger)
