"""Training as plain functions over a `Learner`: the model, its average and what moves them.

learner = make_learner(config, round, accelerator, steps_per_epoch, state)
losses = train_one_epoch(learner, batches, count=25, epoch=0)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from config import Config, Round, Train
from errors import UserError
from losses import gated_crf_loss, segmentation_loss, soft_loss
from memory import Needs
from models import build_model, freeze_norms, make_ema, parameter_groups, update_ema
from semi import ramp, student_view, teach
from trouble import WAY_OUT, stop_not_finite, told_too_large

RESTORED = ("model", "ema", "optimizer", "schedule", "scaler", "step")


@dataclass
class Learner:
    """Everything a step changes. `model` is wrapped for the accelerator; `ema` is None where it is off.

    `needs`, where known, tells the batch that fits, and `folder` takes the batch that broke a run.
    """

    config: Config
    round: Round
    accelerator: Accelerator
    model: nn.Module
    ema: nn.Module | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    class_weights: Tensor | None
    step: int = 0
    needs: Needs | None = None
    folder: Path | None = None

    @property
    def plain_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    @property
    def predictive(self) -> nn.Module:
        """The weights that predict: the average where there is one."""
        return self.ema if self.ema is not None else self.plain_model

    def set_training(self) -> None:
        """Put the model in its training state, but for norms that are frozen."""
        self.model.train()
        freeze_norms(self.plain_model, all=self.round.freeze_norms)

    def compile(self) -> None:
        """Have torch.compile make the steps quicker; the weights and what they are called stay as they are."""
        self.plain_model.compile()
        if self.ema is not None and self.round.consistency is not None:
            self.ema.compile()  # it teaches

    def state(self) -> dict[str, Any]:
        """Plain tensors and dicts that `restore` takes back, by the names of RESTORED."""
        scaler = self.accelerator.scaler
        return {
            "model": self.plain_model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.plain_model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def make_learner(
    config: Config,
    round: Round,
    accelerator: Accelerator,
    steps_per_epoch: int,
    start: dict[str, Tensor] | None,
    class_weights: Tensor | None = None,
) -> Learner:
    """A fresh learner: from `start`'s weights where given, else from the pretrained encoder."""
    train, wanted = round.train, config.model
    if round.freeze_encoder_stages is not None:
        wanted = wanted.model_copy(update={"freeze_encoder_stages": round.freeze_encoder_stages})
    model = build_model(wanted, config.image.channels, config.channels, with_weights=start is None)
    if start is not None:
        load_weights(model, start, "the round before")
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    ema = make_ema(model) if train.ema else None
    groups = parameter_groups(model, train.learning_rate, train.encoder_learning_rate)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    # one pass over the weights instead of seven: 3 % of a ResNet-18 U-Net's step on two cores
    optimizer = kinds[train.optimizer](groups, weight_decay=train.weight_decay, fused=True)
    schedule = make_schedule(optimizer, train, steps_per_epoch)
    model, optimizer = accelerator.prepare(model, optimizer)
    weights = None if class_weights is None else class_weights.to(accelerator.device)
    return Learner(config, round, accelerator, model, ema, optimizer, schedule, weights)


def load_weights(model: nn.Module, state: dict[str, Tensor], source: Any) -> None:
    """Fill a model from a checkpoint. Raises UserError, naming `source`, where it is of another model."""
    own = model.state_dict()
    odd = [key for key in sorted(own.keys() | state.keys()) if key not in own or key not in state]
    odd = odd or [key for key in own if own[key].shape != state[key].shape]
    if odd:
        raise UserError(
            f"{source}: weights of another model ({odd[0]} does not fit, and {len(odd) - 1} more); put the config's "
            "model, image and classes back, or train again with --fresh"
        )
    model.load_state_dict(state)


def make_schedule(optimizer: torch.optim.Optimizer, train: Train, steps_per_epoch: int) -> Any:
    """The learning rate over optimizer steps; "plateau" alone is stepped once an evaluation, by its score."""
    total = train.epochs * steps_per_epoch
    schedulers = torch.optim.lr_scheduler
    if train.schedule == "plateau":
        patience = train.patience // train.evaluate_every  # torch counts evaluations
        return schedulers.ReduceLROnPlateau(optimizer, "max", train.gamma, patience, min_lr=1e-6)
    if train.schedule == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # a little less: torch divides by the length of the climb, which may be 0 to the last digit
        climb = max(train.warmup - 1e-9, 1e-9)
        # one step more: the scheduler is stepped after the last one too
        return schedulers.OneCycleLR(optimizer, rates, total + 1, pct_start=climb, cycle_momentum=False)
    warmup = round(total * train.warmup)

    def factor(step: int) -> float:
        if train.schedule == "step":
            return train.gamma ** (step // (train.step_epochs * steps_per_epoch))
        if train.schedule == "constant":
            return 1.0
        if step < warmup:
            return (step + 1) / warmup
        # a plain float: the rate is saved in checkpoints, which hold no NumPy numbers
        return float(0.5 * (1.0 + np.cos(np.pi * (step - warmup) / max(1, total - warmup))))

    return schedulers.LambdaLR(optimizer, factor)


def train_one_epoch(
    learner: Learner, batches: Iterator[dict], count: int, epoch: int, title: str = ""
) -> dict[str, float]:
    """Run the next `count` batches. Returns their mean losses, the share of unlabelled pixels kept, and the speed.

    Raises UserError where a loss is not finite, naming the images of its batch, where the weights end so, and where a
    batch is too large for the memory.
    """
    accelerator, train = learner.accelerator, learner.round.train
    learner.set_training()
    sums: dict[str, float] = {}
    started, images, waiting = time.perf_counter(), 0, None
    hidden = {} if accelerator.is_local_main_process else {"disable": True}  # unless given, TQDM_DISABLE decides
    progress = tqdm(islice(batches, count), title, count, leave=False, dynamic_ncols=True, **hidden)
    with told_too_large(train, learner.needs):
        for number, batch in enumerate(progress):
            last = (number + 1) % train.accumulate == 0
            with nullcontext() if last else accelerator.no_sync(learner.model):
                loss, parts = step_loss(learner, batch, epoch)
                # the batch before: a GPU has the next one's forward half to do while its losses are looked at
                if waiting is not None:
                    add_losses(sums, learner, epoch, *waiting)
                    progress.set_postfix(loss=f"{sums['loss'] / number:.3f}", refresh=False)
                waiting = learner.step, batch, copy_soon(parts)
                accelerator.backward(loss / train.accumulate)
            if last:
                apply_step(learner)
            images += sum(len(half["image_id"]) for half in batch.values())
        if waiting is not None:
            add_losses(sums, learner, epoch, *waiting)
    # the least and the most: ten times as quick on a processor as asking every weight
    if not all(torch.stack(one.aminmax()).isfinite().all() for one in learner.plain_model.parameters()):
        raise UserError(f"step {learner.step}: the weights are not finite; {WAY_OUT}")
    means = {key: value / count for key, value in sums.items()}
    if accelerator.num_processes > 1:
        means = average_over_processes(means, accelerator)
    seconds = time.perf_counter() - started
    rate = learner.optimizer.param_groups[-1]["lr"]
    speed = images * accelerator.num_processes / max(seconds, 1e-9)
    timing = {"seconds": round(seconds, 2), "images_per_second": round(speed, 2)}
    return means | {"learning_rate": rate} | timing


def copy_soon(parts: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
    """What these scalars are, for whoever asks later: until then a GPU is not waited for."""
    names, copied = tuple(parts), None
    values = torch.stack([one.float() for one in parts.values()])
    if values.is_cuda:
        values, copied = values.to("cpu", non_blocking=True), torch.cuda.Event()
        copied.record()

    def read() -> dict[str, float]:
        if copied is not None:
            copied.synchronize()
        return dict(zip(names, values.tolist(), strict=True))

    return read


def add_losses(
    sums: dict[str, float], learner: Learner, epoch: int, step: int, batch: dict, read: Callable[[], dict[str, float]]
) -> None:
    """Add a batch's losses to their sums. Raises UserError, naming its images, where its loss is not finite."""
    parts = read()
    if not np.isfinite(parts["loss"]):
        stop_not_finite(batch, parts, step, epoch, batch_file(learner))
    for key, value in parts.items():
        sums[key] = sums.get(key, 0.0) + value


def batch_file(learner: Learner) -> Path | None:
    """Where the batch of a loss that is not finite is kept: a file for each process."""
    number = learner.accelerator.process_index
    return learner.folder / f"not_finite{number or ''}.json" if learner.folder is not None else None


def average_over_processes(means: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    tensors = {key: torch.tensor(value, device=accelerator.device) for key, value in means.items()}
    return {key: value.item() for key, value in accelerator.reduce(tensors, "mean").items()}


def apply_step(learner: Learner) -> None:
    """Clip, step, schedule, average."""
    train = learner.round.train
    if train.clip:
        learner.accelerator.clip_grad_norm_(learner.model.parameters(), train.clip)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    if train.schedule != "plateau":
        learner.schedule.step()
    if learner.ema is not None:
        # a mean teacher starts as good as its student: following fast at first would only make it worse
        taught = learner.round.consistency is not None and learner.round.start == "previous"
        update_ema(learner.ema, learner.plain_model, train.ema, None if taught else learner.step)
    learner.step += 1


def step_loss(learner: Learner, batch: dict[str, dict], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, and its parts: real and pseudo labels weighted by their images, plus the ramped
    consistency."""
    accelerator, task = learner.accelerator, learner.config.task
    device = accelerator.device
    batch = {kind: move(half, device) for kind, half in batch.items()}
    shown = {kind: student_view(half) for kind, half in batch.items()}
    images = torch.cat(list(shown.values())).contiguous(memory_format=torch.channels_last)
    with accelerator.autocast():
        logits = _ask(learner, images)
    total, parts = torch.zeros((), device=device), {}
    supervised = sum(len(images) for kind, images in shown.items() if kind != "unlabelled")
    answers = logits.split([len(images) for images in shown.values()])
    for (kind, half), answer in zip(batch.items(), answers, strict=True):
        if kind == "unlabelled":
            settings = learner.round.consistency
            weak = half["image"].contiguous(memory_format=torch.channels_last)
            with accelerator.autocast():
                loss, kept = teach(answer, learner.ema, weak, half["box"], settings, task)
            parts |= {"consistency": loss, "kept": kept}
            total = total + ramp(epoch, settings) * loss
            continue
        loss = labelled_loss(learner, answer, half["target"])
        parts[kind] = loss
        if kind == "labelled" and (weight := learner.round.train.loss.gated_crf):
            crf = gated_crf_loss(answer, colours(half["image"], learner.config), task)
            parts["crf"] = crf
            loss = loss + weight * crf
        total = total + loss * (len(answer) / supervised)
    return total, {name: one.detach() for name, one in (parts | {"loss": total}).items()}


def move(half: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A part of a batch on the device: pixels alone, since CutMix's boxes are read by the processor."""
    pixels = {key: half[key].to(device, non_blocking=True) for key in ("image", "strong", "target") if key in half}
    return half | pixels


def colours(images: Tensor, config: Config) -> Tensor:
    """Normalised images up to a shift per channel on the scale [0, 1], of which only differences are looked at.

    Where each image was normalised by its own deviation, that of a common photo, 0.25, stands in for it.
    """
    settings = config.image
    spread = settings.std if settings.normalise == "fixed" else (0.25,) * settings.channels
    return images * images.new_tensor(spread)[:, None, None]


def labelled_loss(learner: Learner, logits: Tensor, target: Tensor) -> Tensor:
    """The loss on real or pseudo labels, hard or soft, exact over processes."""
    task, accelerator = learner.config.task, learner.accelerator

    def average(count: Tensor) -> Tensor:
        return accelerator.reduce(count, reduction="mean") if accelerator.num_processes > 1 else count

    if target.is_floating_point():
        return soft_loss(logits, target, task)
    return segmentation_loss(logits, target, learner.round.train.loss, task, learner.class_weights, average)


def _ask(learner: Learner, images: Tensor) -> Tensor:
    """The model's logits. Raises UserError where a norm would divide by the spread of a single value, and where the
    model cannot be compiled."""
    try:
        return learner.model(images)
    except RuntimeError as error:
        # torch.compile's own errors; asking for their class would import all of it
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        said = " ".join(str(error).split("\n")[:2])  # which back end, and what it said
        raise UserError(f"train.compile: torch.compile fails here ({said}); set train.compile=false") from error
    except ValueError as error:
        # torch's own words, and those of our norms; how far an encoder shrinks a crop only it knows
        if not str(error).startswith("Expected more than 1"):
            raise
        train, norm = learner.round.train, learner.config.model.norm
        size, crop = train.batch_size, train.augment.crop
        more = "train.batch_size or train.augment.crop" if norm == "batch" else "train.augment.crop"
        raise UserError(
            f"train.batch_size {size}, train.augment.crop {crop}: too little for {norm} norms, which are left with one "
            f"value a channel; raise {more}{'' if norm == 'group' else ', or set model.norm=group'}"
        ) from None
