"""Models made ready to answer, what they are asked, and a learner's scores on the images that it holds out.

scores = evaluate(learner, validation, paths)
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from artifacts import Paths
from config import Config, Train
from dataset import Record, load_image
from engine import Learner
from images import read_mask
from inference import Predictor, is_last, predict_images
from models import fold_batch_norm
from points import rasterise
from postprocess import resize_probabilities, starting_parameters, to_label
from predictions import judged_by_masks
from scoring import Scores, dense_truth
from strips import Strips, open_strips
from transforms import cut_centre, normalise


def make_predictor(model: nn.Module, config: Config, train: Train, device: torch.device, tta: bool) -> Predictor:
    """A model ready to answer; TTA as the config says."""
    activation = "softmax" if config.task in ("multiclass", "instances") else "sigmoid"
    model = fold_batch_norm(model.eval().to(device), config.image.channels).to(memory_format=torch.channels_last)
    return Predictor(model, config.predict, activation, device, train.precision, tta)


def read_inputs(
    config: Config, paths: Paths, images: Iterable[tuple[str, str]], patch: int | None = None
) -> Iterator[tuple[str, np.ndarray | Strips]]:
    """`(image_id, path)` → `(image_id, (C, H, W) float32)` at the working scale, whole or its centre, one at a time.

    A very large TIFF comes as Strips, of which a window is read when it is asked for.
    """
    for image_id, path in images:
        strips = None if patch else open_strips(paths.resolve(path), config.image)
        if strips is not None and max(strips.shape[1:]) > config.predict.window:
            yield image_id, strips
            continue
        image, mean, std = load_image(paths.resolve(path), config.image, patch)
        yield image_id, normalise(image, mean, std, 255.0 if image.dtype == np.uint8 else 1.0)


def evaluate(learner: Learner, records: list[Record], paths: Paths) -> dict[str, float]:
    """Scores of the learner's predictive weights on labelled images of their own size, with the config's thresholds.

    Where the config asks for patches, they are the images. Where points were drawn from masks, both judge: the config's
    choice under the plain names, the other under names that begin with "masks_" or "points_".
    """
    config, patch = learner.config, learner.config.predict.patch
    predictor = make_predictor(learner.predictive, config, learner.round.train, learner.accelerator.device, tta=False)
    parameters, known = starting_parameters(config), {record.image_id: record for record in records}
    first, second = ("masks", "points") if judged_by_masks(config) else ("points", "masks")
    scores = {first: Scores(config), second: Scores(config)}
    both = config.data.labels.points is not None
    inputs = read_inputs(config, paths, ((record.image_id, record.image) for record in records), patch)
    answers: dict[str, np.ndarray] = {}
    for image_id, shape, (top, left), part in predict_images(predictor, inputs):
        answer = answers.setdefault(image_id, np.empty(shape, np.float32))
        answer[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        if is_last(shape, (top, left), part):
            truths = {"points": record_truth(known[image_id], paths)}
            truths |= {"masks": read_mask(dense_truth(paths, image_id))} if both else {}
            truths = {name: cut_centre(truth, patch) for name, truth in truths.items()}
            probabilities = resize_probabilities(answers.pop(image_id), truths["points"].shape[:2])
            label = to_label(probabilities, config.task, parameters)
            for name, truth in truths.items():
                scores[name].add(truth, label)
    others = {f"{second}_{name}": value for name, value in scores[second].values().items()} if both else {}
    return scores[first].values() | others


def record_truth(record: Record, paths: Paths) -> np.ndarray:
    """A record's label at the image's own size: its mask, or else its points with all other pixels unknown."""
    if record.mask:
        return read_mask(paths.resolve(record.mask))
    return rasterise(record.points, record.size)
