"""What ends a training before its time, told in one line that names the way out.

with told_too_large(train, needs): ...  # a step
stop_not_finite(batch, losses, step, epoch, path)
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from artifacts import write_json
from config import Train
from errors import UserError
from memory import Needs, amount, out_of_memory

WAY_OUT = "lower train.learning_rate, or set train.precision=fp32"


@contextmanager
def told_too_large(train: Train, needs: Needs | None) -> Iterator[None]:
    """Raise UserError naming the batch size that fits where the block runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(too_large(train, needs)) from error


def too_large(train: Train, needs: Needs | None) -> str:
    """What to set where a step of `train` ran out of memory; `needs` is None where they are not known."""
    size, crop = train.batch_size, train.augment.crop
    count = size // 2 if needs is None else needs.fitting(size)
    there = "the memory" if needs is None else f"{amount(needs.room)} of {needs.place}"
    if not count:
        return f"train.batch_size={size} with train.augment.crop={crop} does not fit into {there}; lower both"
    parts = train.accumulate * math.ceil(size / count)
    return (
        f"train.batch_size={size} does not fit into {there}; about {count} fit: --set train.batch_size={count} "
        f"(and --set train.accumulate={parts} for as many images a step)"
    )


def stop_not_finite(
    batch: dict[str, dict[str, Any]], losses: dict[str, float], step: int, epoch: int, path: Path | None
) -> NoReturn:
    """Raises UserError with the ids of a batch whose loss is not finite, which `path`, where given, keeps too."""
    ids = {kind: list(half["image_id"]) for kind, half in batch.items()}
    kept = ""
    if path is not None:
        # JSON has no word for infinity or for what is no number
        shown = {name: value if math.isfinite(value) else str(value) for name, value in losses.items()}
        write_json(path, {"step": step, "epoch": epoch, "losses": shown, "images": ids})
        kept = f"; the batch is kept in {path}"
    named = ", ".join(image_id for some in ids.values() for image_id in some)
    raise UserError(f"step {step}: the loss is not finite (images {named}); look at these images, {WAY_OUT}{kept}")
