"""bench_speed.py's row on a GPU: whole training steps beside bare ones, the share of time it computes, its memory."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from speed_stages import covered
from speed_training import ENCODERS, STEPS, make_config, used_precision, write_images
from torch.profiler import ProfilerActivity, profile

from artifacts import Paths
from dataset import Source, StepSampler, TrainingDataset, load_batches
from engine import Learner, make_learner, move, train_one_epoch
from runtime import best_device, make_accelerator

BATCH = 32


def measure_gpu(quick: bool) -> tuple[str, bool | None]:
    if best_device().type != "cuda":
        return "no GPU here", None
    shown, shares = [], []
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        for name, encoder in ENCODERS.items():
            for compiled in (False, True):
                figures = measure_training(Path(folder), encoder, compiled, BATCH, steps=20 if quick else 100)
                shares.append(figures["busy"])
                each = f"{name}{', compiled' * compiled} {figures['speed']:.0f} images/s, "
                each += f"{figures['bare']:.2f} of the bare step's, computing {figures['busy']:.1%} of the time, "
                shown.append(each + f"{figures['memory'] / 1e9:.2f} GB")
    where = f"{torch.cuda.get_device_name()}, {used_precision()}, batches of {BATCH}"
    return f"{where}: {'; '.join(shown)}", min(shares) >= 0.95


def measure_training(
    folder: Path, encoder: str, compiled: bool, batch: int, steps: int, turns: int = 5
) -> dict[str, float]:
    """Of an epoch of so many steps: `speed` in images a second, as a part of that on batches in the GPU's memory
    (`bare`), the part of the time in which the GPU computes (`busy`), and the `memory` at its peak in bytes."""
    learner, loader = open_loop(folder, encoder, compiled, batch)
    device = learner.accelerator.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    held = [{kind: move(half, device) for kind, half in next(loader).items()} for _ in range(4)]
    ways = {"loader": loader, "bare": itertools.cycle(held)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):  # the first warms up
        for name, batches in ways.items():
            seconds = run_epoch(learner, batches, steps)
            times[name] += [seconds] * bool(turn)
    loader_time, bare_time = (statistics.median(one) for one in times.values())
    with profile(activities=[ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]) as seen:
        seconds = run_epoch(learner, loader, steps)
    spans = [(one.time_range.start, one.time_range.end) for one in seen.events() if is_on(one, device)]
    return {
        "speed": steps * batch / loader_time,
        "bare": bare_time / loader_time,
        "busy": covered(spans) / 1e6 / seconds,  # the profiler counts microseconds
        "memory": torch.cuda.max_memory_allocated(),
    }


def is_on(event: object, device: torch.device) -> bool:
    return event.device_type.name == device.type.upper()


def open_loop(folder: Path, encoder: str, compiled: bool, batch: int) -> tuple[Learner, Iterator[dict]]:
    """A learner and its endless batches, as train.py has them."""
    config = make_config(encoder, batch_size=batch, compile=compiled)
    accelerator = make_accelerator("auto")
    learner = make_learner(config, config.rounds[0], accelerator, STEPS, None)
    if compiled:
        learner.compile()
    sources = [Source("labelled", write_images(folder), batch)]
    dataset = TrainingDataset(sources, config, Paths(folder, "b"), 0, 0)
    return learner, load_batches(dataset, StepSampler((batch,), 0, STEPS), accelerator.device)


def run_epoch(learner: Learner, batches: Iterator[dict], steps: int) -> float:
    """Seconds until the GPU has nothing left to do."""
    start = time.perf_counter()
    train_one_epoch(learner, batches, steps, 0)
    if learner.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
