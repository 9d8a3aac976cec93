"""bench_speed.py's rows on training: whole loops against plain ones, the pipeline's share, and loading by itself."""

import itertools
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn

from artifacts import Paths
from config import Config
from dataset import Record, Source, StepSampler, TrainingDataset, load_batches
from engine import Learner, make_learner, train_one_epoch
from images import write_mask
from runtime import keep_freed_memory, make_accelerator, mend_torchvision
from settings import parse_config

SIDE, CROP, IMAGES, BATCH = 512, 256, 16, 8
ENCODERS = {"ResNet-18": "resnet18", "EfficientNet-Lite0": "tu-tf_efficientnet_lite0"}
STEPS = 10**6  # of a schedule that nobody reaches the end of
EPOCH = 4  # steps between two looks at the weights, which are finite or end a training


def measure_throughput(quick: bool) -> tuple[str, bool]:
    """Both loops are launched anew several times: where a process's memory comes to lie is worth some per cent."""
    shown, ratios = [], []
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        records = write_images(Path(folder))
        for name, encoder in ENCODERS.items():
            given, launches = (encoder, Path(folder), records), []
            for _ in range(1 if quick else 5):
                with alone(our_loop, *given) as ours, alone(plain_loop, *given) as plain:
                    launches.append(take_turns({"ours": ours, "plain": plain}, turns=2 if quick else 3))
            each = sorted(times["plain"] / times["ours"] for times in launches)
            ratios.append(statistics.median(each))
            spread = "" if quick else f"; {each[0]:.2f} to {each[-1]:.2f} in {len(each)} launches"
            speed = EPOCH * BATCH / statistics.median(times["ours"] for times in launches)
            shown.append(f"{name} {ratios[-1]:.2f}× ({speed:.2f} images/s, {used_precision()}{spread})")
    return "; ".join(shown), min(ratios) >= 3.0


def measure_pipeline(quick: bool) -> tuple[str, bool]:
    """Steps that draw from the loader in turn with steps on the same batches held in memory.

    Judged by the share of its own time that a step does not wait for its batch: without loader workers the two are the
    same but for noise, and on a machine with other work the noise between turns is larger than what is looked for.
    """
    shown, shares = [], []
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        records = write_images(Path(folder))
        for name, encoder in ENCODERS.items():
            learner, loader = open_loop(encoder, Path(folder), records)
            anew = open_loop(encoder, Path(folder), records, cache_gb=0.0)[1]
            held = itertools.cycle(list(itertools.islice(loader, IMAGES // BATCH)))
            waits: list[float] = []
            loops = {"loader": step(learner, clocked(loader, waits)), "memory": step(learner, held)}
            times = take_turns(loops | {"anew": lambda anew=anew: next(anew)}, turns=3 if quick else 21)
            wait = statistics.median(waits[1:])
            shares.append(1 - wait / times["loader"])
            each = f"{1 - times['anew'] / times['loader']:.3f} where every image is decoded anew; "
            each += f"{times['memory'] / times['loader']:.2f} in turns; {times['loader']:.1f} s a step"
            shown.append(f"{name} {shares[-1]:.3f} ({each})")
    return "share of a step in which it does not wait for its batch: " + "; ".join(shown), min(shares) >= 0.95


def clocked(batches: Iterator, waits: list[float]) -> Iterator:
    """The same batches; how long each was waited for, in seconds, is added to `waits`."""
    while True:
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        yield batch


def measure_loading(quick: bool) -> tuple[str, bool]:
    """One thread each: an image's weak view, its strong view and its mask, as tensors."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count = 32 if quick else 128
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        records = write_images(Path(folder))
        config = make_config("resnet18")
        dataset = TrainingDataset([Source("unlabelled", records, BATCH)], config, Paths(Path(folder), "b"), 0, 0)
        ours = (our_views(dataset, number) for number in itertools.count())
        plain = (plain_views(Path(folder), records[number % IMAGES]) for number in itertools.count())
        loops = {"ours": lambda: drain(ours, count), "plain": lambda: drain(plain, count)}
        times = take_turns(loops, turns=5 if quick else 15)
    ratio = times["plain"] / times["ours"]
    each = " and ".join(f"{1000 * times[name] / count:.1f} ms" for name in ("ours", "plain"))
    return f"{ratio:.2f}× ({each} a sample, {SIDE}² JPEG, crops of {CROP}², from the second pass on)", ratio >= 3.0


def write_images(folder: Path) -> list[Record]:
    rng, records = np.random.default_rng(0), []
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (64, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
        label = cv2.resize(rng.random((12, 12), np.float32), (SIDE, SIDE)) > 0.5
        write_mask(folder / f"{number}_mask.png", label.astype(np.uint8))
        records.append(Record(str(number), f"{number}.jpg", (SIDE, SIDE), f"{number}_mask.png"))
    return records


def make_config(encoder: str, **train: Any) -> Config:
    augment = {"crop": CROP, "rotate": 30, "cutmix": 0.3}
    train = {"epochs": 1, "steps_per_epoch": STEPS, "batch_size": BATCH, "augment": augment} | train
    return parse_config({"name": "b", "model": {"encoder": encoder, "weights": "none"}, "train": train})


def open_loop(encoder: str, folder: Path, records: list[Record], **train: Any) -> tuple[Learner, Iterator]:
    """The project's learner and its endless batches; every image has been decoded once."""
    config = make_config(encoder, **train)
    accelerator = make_accelerator("auto")
    learner = make_learner(config, config.rounds[0], accelerator, STEPS, None)
    dataset = TrainingDataset([Source("labelled", records, BATCH)], config, Paths(folder, "b"), 0, 0)
    for number in range(IMAGES):
        dataset[(0, number)]
    return learner, load_batches(dataset, StepSampler((BATCH,), 2, STEPS), accelerator.device)


def step(learner: Learner, batches: Iterator, count: int = 1) -> Callable[[], None]:
    def one() -> None:
        train_one_epoch(learner, batches, count, 0)

    return one


@contextmanager
def alone(make: Callable[..., Callable[[], None]], *arguments: Any) -> Iterator[Callable[[], None]]:
    """A loop that `make` makes, in a process of its own, whose memory is kept in its own way; a call is an epoch."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, make, arguments), daemon=True)
    process.start()
    there.close()  # so that a process that fails is heard of

    def one() -> None:
        here.send(None)
        here.recv()

    yield one
    here.close()
    process.join()


def serve(asked: Connection, make: Callable[..., Callable[[], None]], arguments: tuple) -> None:
    loop = make(*arguments)
    while True:
        try:
            asked.recv()
        except EOFError:
            return
        loop()
        asked.send(None)


def our_loop(encoder: str, folder: Path, records: list[Record]) -> Callable[[], None]:
    keep_freed_memory()  # as train.py does
    return step(*open_loop(encoder, folder, records), EPOCH)


class PlainDataset(torch.utils.data.Dataset):
    """Decode with Pillow at every visit, flip, crop, to a float tensor."""

    def __init__(self, folder: Path, records: list[Record]):
        self.folder, self.records = folder, records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = open_pair(self.folder, self.records[position])
        return to_tensor(image), torch.from_numpy(np.array(mask)).long()


def plain_loop(encoder: str, folder: Path, records: list[Record]) -> Callable[[], None]:
    mend_torchvision()
    import segmentation_models_pytorch as smp

    wanted = make_config(encoder).model
    # smp's own network, as the originals have it: ours has quicker parts
    model = smp.Unet(wanted.encoder, encoder_weights=None, decoder_channels=wanted.decoder_channels, classes=1).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    loader = torch.utils.data.DataLoader(PlainDataset(folder, records), BATCH, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())

    def one() -> None:
        for images, masks in itertools.islice(batches, EPOCH):
            logits = model(images)[:, 0]
            chance = logits.sigmoid()
            dice = 1 - (2 * (chance * masks).sum() + 1) / (chance.sum() + masks.sum() + 1)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, masks.float()) + dice
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return one


def open_pair(folder: Path, record: Record) -> tuple[Image.Image, Image.Image]:
    """Pillow's decoding, a random crop and flip, as the originals do them."""
    with Image.open(folder / record.image) as file, Image.open(folder / record.mask) as other:
        image, mask = file.convert("RGB"), other.convert("L")
    left, top = random.randint(0, SIDE - CROP), random.randint(0, SIDE - CROP)
    box = (left, top, left + CROP, top + CROP)
    image, mask = image.crop(box), mask.crop(box)
    if random.random() < 0.5:
        turn = Image.Transpose.FLIP_LEFT_RIGHT
        image, mask = image.transpose(turn), mask.transpose(turn)
    return image, mask


def to_tensor(image: Image.Image) -> torch.Tensor:
    """torchvision's ToTensor and Normalize."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255.0
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (tensor - mean[:, None, None]) / std[:, None, None]


def plain_views(folder: Path, record: Record) -> tuple[torch.Tensor, ...]:
    """ST++'s and UniMatch's way: scale, crop and flip, then colour, grey and blur by Pillow and torchvision."""
    mend_torchvision()
    from torchvision import transforms

    with Image.open(folder / record.image) as file, Image.open(folder / record.mask) as other:
        image, mask = file.convert("RGB"), other.convert("L")
    side = int(SIDE * random.uniform(0.7, 1.4))
    image, mask = (
        image.resize((side, side), Image.Resampling.BILINEAR),
        mask.resize((side, side), Image.Resampling.NEAREST),
    )
    left, top = random.randint(0, side - CROP), random.randint(0, side - CROP)
    box = (left, top, left + CROP, top + CROP)
    image, mask = image.crop(box), mask.crop(box)
    if random.random() < 0.5:
        turn = Image.Transpose.FLIP_LEFT_RIGHT
        image, mask = image.transpose(turn), mask.transpose(turn)
    strong = image
    if random.random() < 0.8:
        strong = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)(strong)
    strong = transforms.RandomGrayscale(p=0.2)(strong)
    if random.random() < 0.5:
        strong = strong.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))
    return to_tensor(image), to_tensor(strong), torch.from_numpy(np.array(mask)).long()


def our_views(dataset: TrainingDataset, number: int) -> tuple[torch.Tensor, ...]:
    """An unlabelled sample, whose mask goes through the same geometry; and what a mask costs as a target."""
    sample = dataset[(0, number)]
    return sample["image"], sample["strong"], torch.zeros((CROP, CROP), dtype=torch.uint8).long()


def drain(samples: Iterator, count: int) -> None:
    for _ in itertools.islice(samples, count):
        pass


def take_turns(loops: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Median seconds of each, taking turns after a turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(turns + 1):
        for name, work in loops.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(one) for name, one in times.items()}


def used_precision() -> str:
    from runtime import choose_precision

    return {"no": "float32"}.get(choose_precision("auto"), choose_precision("auto"))
