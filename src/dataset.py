"""Training samples: labelled, sparse, pseudo-labelled and unlabelled images, cut, augmented and normalised.

    dataset = TrainingDataset([Source("labelled", records, per_batch=8)], config, paths, round=0, fold=0)
    loader = load_batches(dataset, StepSampler((8,), first=0, last=100), device)

A sample is a pure function of `(source, number)`: which image, which window, which augmentation. Loader workers,
processes and a restart after a kill therefore cannot change what a step sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from artifacts import Paths
from augmentations import Recipe, apply_geometry, apply_photometry, make_recipe
from config import IGNORE_INDEX, Config, Image, Train
from errors import UserError
from images import check_instances, full_scale, read_image, read_mask, resize_label
from points import points_by_image, rasterise
from postprocess import Parameters, separate_instances
from runtime import best_device, count_workers, derive_seed
from stores import ProbabilityStore
from transforms import (
    UNKNOWN_INSTANCE,
    cut_centre,
    cut_window,
    draw_box,
    draw_window,
    instance_classes,
    normalise,
    renumber,
    resize_image,
    shrink_sparse,
    soft_instance_classes,
    statistics,
    stretch,
    working_shape,
)

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["labelled", "pseudo", "unlabelled"]
CENTRES = 512  # remembered foreground pixels per class and image


@dataclass(frozen=True, slots=True)  # there may be a million
class Record:
    """One image to learn from. Its label is a mask file, points, or a store of soft labels; none where unlabelled."""

    image_id: str
    image: str
    size: tuple[int, int]  # height, width of the file
    mask: str = ""
    points: np.ndarray | None = None  # (N, 3) int32: x, y, class at the image's own size
    soft: str = ""


@dataclass(frozen=True)
class Source:
    """Images of one kind, and how many of them stand in each batch of a process."""

    kind: Kind
    records: list[Record]
    per_batch: int


@dataclass(frozen=True)
class Picture:
    """A decoded image at the working scale, its label, and where its foreground lies."""

    image: np.ndarray  # (H, W, C) uint8, or float32 in [0, 1]
    # (H, W) or (H, W, K) uint8; (H, W) uint16 instance ids; soft: (H, W, K) uint8 probabilities, or those of instances
    # as `part_soft_instances` makes them
    label: np.ndarray
    centres: list[np.ndarray]  # per class (n, 2): rows and columns
    mean: np.ndarray
    std: np.ndarray


def make_records(table: "pd.DataFrame", points: "pd.DataFrame | None" = None) -> list[Record]:
    """Index rows as records. A mask is preferred to points; a row with neither is unlabelled."""
    by_image = {} if points is None else points_by_image(points)
    return [
        Record(
            row["image_id"],
            row["image"],
            (int(row["height"]), int(row["width"])),
            row["mask"],
            None if row["mask"] or not row["points"] else by_image[row["image_id"]],
        )
        for row in table.to_dict("records")
    ]


def load_image(path: Path, settings: Image, patch: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image at the working scale, uint8 or float32 in [0, 1], and the mean and deviation it is normalised by.

    With `patch`, only the square of that side in its middle.

    Where `normalise` is "image", for which the range does not matter, an image of more than 8 bits is stretched to all
    of it: photometry, in shares of that range, would drown 12 bits in 16. Else raises UserError for a float image
    beyond [0, 1].
    """
    image = read_image(path, settings.channels)
    scale = full_scale(image)
    if image.dtype != np.uint8:
        image, scale = image.astype(np.float32) / scale, 1.0
        if settings.normalise == "image":
            image = stretch(image)
        elif image.min() < 0.0 or image.max() > 1.0:  # photometry would cut it off
            values = f"values from {image.min():g} to {image.max():g}"
            raise UserError(f"{path}: {values}, not 0 to 1; say image.normalise=image")
    mean, std = statistics(image, settings, scale)
    longest = max(image.shape[:2])
    image = cut_centre(image, patch)
    return resize_image(image, working_shape(*image.shape[:2], settings, longest)), mean, std


def load_label(record: Record, config: Config, paths: Paths, shape: tuple[int, int]) -> np.ndarray:
    """A record's label at the working scale, as `Picture.label` holds it."""
    if record.soft:
        soft = ProbabilityStore(paths.resolve(record.soft)).raw(record.image_id)
        soft = resize_image(np.ascontiguousarray(soft.transpose(1, 2, 0)), shape)
        if config.task == "instances":
            return part_soft_instances(soft, config.postprocess.neck, record.image_id)
        return soft
    if record.points is not None:
        return rasterise(record.points, shape, record.size)
    if record.mask:
        label = read_mask(paths.resolve(record.mask))
        if config.task == "instances":
            label = label.astype(np.uint16)
        return resize_label(label, shape)
    unknown = UNKNOWN_INSTANCE if config.task == "instances" else IGNORE_INDEX
    many = (*shape, len(config.classes)) if config.task == "multilabel" else shape
    return np.full(many, unknown, np.uint16 if config.task == "instances" else np.uint8)


def part_soft_instances(soft: np.ndarray, neck: float, name: str) -> np.ndarray:
    """A teacher's background, inside and border, `(H, W, 3) uint8`, → ids and probability of being one, `(H, W, 2)
    uint16`. Raises UserError where there are more than ids, naming the image.

    A border is so many pixels wide at whatever scale the network sees it, so it has to be drawn after scaling; then it
    is the ids that say where it runs.
    """
    # one half: what is an instance rather than not; doubt stays in the probability
    parameters = Parameters(thresholds=(0.5,), neck=neck)
    ids = separate_instances(soft.transpose(2, 0, 1).astype(np.float32) / 255.0, parameters)
    check_instances(ids, name)
    return np.dstack([ids, 255 - soft[..., 0]]).astype(np.uint16)


class TrainingDataset(Dataset):
    """Samples by `(source, number)`; see the module's docstring. Images are decoded once, up to `train.cache_gb`."""

    def __init__(self, sources: list[Source], config: Config, paths: Paths, round: int, fold: int):
        self.sources, self.config, self.paths = sources, config, paths
        self.train: Train = config.rounds[round].train
        self.seed = derive_seed(config.seed, "samples", round, fold)
        self.recipe = make_recipe(self.train.augment, config.image.channels)
        consistency = config.rounds[round].consistency
        stronger = consistency.strong if consistency else None
        self.strong = make_recipe(self.train.augment, config.image.channels, stronger) if stronger else self.recipe
        own = consistency.cutmix if consistency else None
        self.pool_cutmix = self.train.augment.cutmix if own is None else own
        self._cache: dict[tuple[int, int], Picture] = {}
        self.workers = count_workers(self.train.workers, best_device())
        self._room = self.train.cache_gb * 2**30 / max(1, self.workers)  # each worker decodes for itself

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """`image` `(C, h, w) float32` and `target`: `(h, w)` or `(K, h, w)` int64, or soft `(K, h, w) float32`.

        An unlabelled image has no target; its `image` is the weak view and `strong` the other. CutMix comes later, as
        its teacher sees whole images: `box`, `(4,) int64`, are the top, bottom, left and right of the other's part.
        """
        source, number = key
        kind = self.sources[source].kind
        record, picture, image, label, seed = self._cut(source, number)
        rng = np.random.default_rng([self.seed, source, number, 1])
        mixed = rng.random() < (self.pool_cutmix if kind == "unlabelled" else self.train.augment.cutmix)
        box = draw_box(self.train.augment.crop, rng) if mixed else (slice(0, 0), slice(0, 0))
        view = self._view(self.strong if kind == "unlabelled" else self.recipe, image, picture, seed)
        if mixed and kind != "unlabelled":
            # a number from beyond any run's reach, so that the partner is not the next sample of an epoch
            _, picture, other, other_label, seed = self._cut(source, number + 2**40)
            view[:, *box] = self._view(self.recipe, other, picture, seed)[:, *box]
            if self.config.task == "instances":
                other_label = renumber(other_label, label)
            label[box] = other_label[box]
        sample = {"image_id": record.image_id, "image": torch.from_numpy(view)}
        if kind == "unlabelled":
            full = 255.0 if image.dtype == np.uint8 else 1.0
            weak = torch.from_numpy(normalise(image, picture.mean, picture.std, full))
            corners = torch.tensor([edge for side in box for edge in (side.start, side.stop)])
            return sample | {"image": weak, "strong": sample["image"], "box": corners}
        return sample | {"target": self._target(label, bool(record.soft))}

    def _view(self, recipe: Recipe, image: np.ndarray, picture: Picture, seed: int) -> np.ndarray:
        """`(C, h, w) float32`: a window changed by photometry and normalised.

        By the mean and deviation of its image as it was, so that brightness and contrast vary, and an inverted view
        lies apart from what an image looks like: RESULTS.md has what the other ways cost.
        """
        changed = apply_photometry(recipe, image, seed)
        return normalise(changed, picture.mean, picture.std, 255.0 if image.dtype == np.uint8 else 1.0)

    def _cut(self, source: int, number: int) -> tuple[Record, Picture, np.ndarray, np.ndarray, int]:
        """The image a number stands for, its random window in training geometry, and the seed of its photometry."""
        records = self.sources[source].records
        cycle, place = divmod(number, len(records))
        position = _shuffled(self.seed, source, cycle, len(records))[place]
        record, picture = records[position], self._picture(source, position)
        rng = np.random.default_rng([self.seed, source, number])
        centres = None
        if picture.centres and rng.random() < self.train.augment.foreground:
            centres = picture.centres[rng.integers(len(picture.centres))]
        window = draw_window(picture.image.shape[:2], self.train.augment, rng, centres)
        seed = int(rng.integers(2**32))
        image, label = cut_window(picture.image, window), cut_window(picture.label, window)
        crop = self.train.augment.crop
        if record.points is not None and window.size > crop:
            image, label = resize_image(image, (crop, crop)), shrink_sparse(label, crop)
        smooth = bool(record.soft) and self.config.task != "instances"
        image, label = apply_geometry(self.recipe, image, label, seed, smooth)
        image = image[..., None] if image.ndim == 2 else image
        return record, picture, image, label, seed

    def _picture(self, source: int, position: int) -> Picture:
        key = (source, position)
        if key in self._cache:
            return self._cache[key]
        record = self.sources[source].records[position]
        image, mean, std = load_image(self.paths.resolve(record.image), self.config.image)
        label = load_label(record, self.config, self.paths, image.shape[:2])
        wanted = self.train.augment.foreground and not record.soft
        centres = _find_centres(label, self.config.task, position) if wanted else []
        picture = Picture(image, label, centres, mean, std)
        if self._room > 0:
            self._cache[key] = picture
            self._room -= image.nbytes + label.nbytes
        return picture

    def _target(self, label: np.ndarray, soft: bool) -> torch.Tensor:
        if soft and self.config.task == "instances":
            return torch.from_numpy(soft_instance_classes(label, self.config.postprocess.border_width))
        if soft:
            return torch.from_numpy(label.transpose(2, 0, 1).astype(np.float32) / 255.0)
        if self.config.task == "instances":
            label = instance_classes(label, self.config.postprocess.border_width)
        if self.config.task == "multilabel":
            label = label.transpose(2, 0, 1)
        return torch.from_numpy(label.astype(np.int64))


@dataclass(frozen=True)
class StepSampler(Sampler[list[tuple[int, int]]]):
    """Batches of `(source, number)` keys for steps `first` to `last`, the same however many processes share them.

    Process p of P takes its part of every micro-batch of P times the batch size; numbers run on through the steps.
    """

    per_batch: tuple[int, ...]  # of each source, for one process
    first: int
    last: int
    accumulate: int = 1
    process: int = 0
    processes: int = 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for micro in range(self.first * self.accumulate, self.last * self.accumulate):
            yield [
                (source, (micro * self.processes + self.process) * count + place)
                for source, count in enumerate(self.per_batch)
                for place in range(count)
            ]

    def __len__(self) -> int:
        return (self.last - self.first) * self.accumulate


def load_batches(
    dataset: TrainingDataset, sampler: StepSampler, device: torch.device
) -> Iterator[dict[str, dict[str, Any]]]:
    """Batches grouped by kind: `{"labelled": {"image": (n, C, h, w), "target": …, "image_id": […]}, …}`.

    Raises UserError for a broken image or label, whichever process reads it.
    """
    kinds = [source.kind for source in dataset.sources for _ in range(source.per_batch)]
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=dataset.workers,
        collate_fn=partial(collate, kinds=kinds),
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if dataset.workers else None,
    )
    return _told(iter(loader))  # begun here: it draws from torch's random numbers, which the caller then seeds


def _told(batches: Iterator[dict[str, dict[str, Any]]]) -> Iterator[dict[str, dict[str, Any]]]:
    try:
        yield from batches
    except UserError as error:  # a worker's comes with its stack trace, whose last line it is
        raise UserError(str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2].strip()) from None


def collate(samples: list[dict[str, Any]], kinds: list[Kind]) -> dict[str, dict[str, Any]]:
    batch: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(kinds):
        ours = [sample for sample, its in zip(samples, kinds, strict=True) if its == kind]
        batch[kind] = {
            key: [sample[key] for sample in ours] if key == "image_id" else torch.stack([one[key] for one in ours])
            for key in ours[0]
        }
    return batch


@lru_cache(maxsize=64)
def _shuffled(seed: int, source: int, cycle: int, count: int) -> np.ndarray:
    """The order of a source's images in one pass through them."""
    return np.random.default_rng([seed, source, cycle, 2]).permutation(count)


def _find_centres(label: np.ndarray, task: str, seed: int) -> list[np.ndarray]:
    """For every class that occurs, some of its pixels; for one-class tasks those of the foreground alone."""
    rng = np.random.default_rng(seed)
    if task == "multilabel":
        planes = [label[..., number] == 1 for number in range(label.shape[-1])]
    elif task == "multiclass":
        planes = [label == value for value in np.unique(label) if value != IGNORE_INDEX]
    else:
        planes = [(label > 0) & (label < (UNKNOWN_INSTANCE if task == "instances" else IGNORE_INDEX))]
    centres = []
    for plane in planes:
        found = np.flatnonzero(plane)
        if len(found):
            chosen = rng.choice(found, min(CENTRES, len(found)), replace=False)
            centres.append(np.stack(np.unravel_index(chosen, plane.shape), axis=1))
    return centres
