"""The ensemble's members, the trained folds of its rounds: asked one after the other, and blended.

    for image_id, label in label_images(config, paths, images, scratch): ...

The same steps predict the test set stage by stage (predict.py, ensemble.py, make_submission.py) and new images at once
(infer.py). Probabilities pass through stores on disk, so that memory does not grow with the number of images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import Paths, load_checkpoint, show_changes, stage_settings
from cli import tell
from config import Config
from errors import UserError
from layouts import Manifest, Weights, read_checked

if TYPE_CHECKING:
    import numpy as np

    from index import ImageFile
    from inference import Predictor
    from stores import ProbabilityStore


def member_rounds(config: Config) -> list[int]:
    last = len(config.rounds) - 1
    return [last] if config.ensemble.rounds == "last" else list(range(last + 1))


def checkpoint_file(config: Config, paths: Paths, round: int, fold: int) -> Path:
    """The weights that a trained fold predicts with."""
    return paths.run(round, fold) / f"{config.rounds[round].train.select}.pt"


def open_predictor(config: Config, paths: Paths, round: int, fold: int, tta: bool) -> "Predictor":
    """Raises UserError where the fold is not trained, or for other images, classes or another model."""
    from engine import load_weights
    from models import build_model
    from runtime import best_device
    from validation import make_predictor

    check_training(config, paths.run(round, fold))
    checkpoint = checkpoint_file(config, paths, round, fold)
    model = build_model(config.model, config.image.channels, config.channels, with_weights=False)
    load_weights(model, load_checkpoint(checkpoint, "model")["model"], checkpoint)
    return make_predictor(model, config, config.rounds[round].train, best_device(), tta)


def check_training(config: Config, folder: Path) -> None:
    """Raises UserError, with the difference, where a fold was trained for other images or classes or another model."""
    wanted = stage_settings(config, "task", "classes", "image", "model")
    trained = read_checked(folder / "manifest.json", Manifest)["made_from"]["settings"]
    if shown := show_changes({key: trained.get(key) for key in wanted}, wanted):
        raise UserError(f"{folder}: trained with other settings ({shown}); put them back, or train with --fresh")


def write_stores(
    config: Config,
    paths: Paths,
    predictor: "Predictor",
    images: Sequence[tuple[str, str]],
    stores: Sequence[Path],
    title: str,
    patch: int | None = None,
) -> None:
    """Stream images, `(image_id, path)`, or their centres of side `patch`, through the predictor into a store, with a
    progress bar. A predictor with `plain_too` fills two stores, of plain answers and of TTA, while it looks at each
    image once."""
    import numpy as np
    from tqdm import tqdm

    from inference import is_last, predict_images
    from stores import ProbabilityWriter
    from validation import read_inputs

    sinks = {}
    with ExitStack() as stack:
        writers = [stack.enter_context(ProbabilityWriter(store)) for store in stores]
        progress = stack.enter_context(tqdm(total=len(images), desc=title, leave=False, dynamic_ncols=True))
        inputs = read_inputs(config, paths, images, patch)
        for image_id, shape, place, part in predict_images(predictor, inputs):
            if image_id not in sinks:
                one = (shape[0] // len(stores), *shape[1:])
                sinks[image_id] = [writer.create(image_id, one) for writer in writers]
            for sink, answer in zip(sinks[image_id], np.split(part, len(stores)), strict=True):
                sink.write(place, answer)
            if is_last(shape, place, part):
                del sinks[image_id]
                progress.update()
    tell(f"{title}: {len(images)} images")


def blend(answers: "np.ndarray", weights: "np.ndarray", mean: str, exclusive: bool) -> "np.ndarray":
    """`(members, K, H, W)` → `(K, H, W) float32`: the weighted arithmetic mean, or the geometric one, normalised."""
    import numpy as np

    weights = np.asarray(weights, np.float32) / np.float32(np.sum(weights))
    if mean == "arithmetic":
        return np.tensordot(weights, answers, axes=1)
    logs = np.log(np.clip(answers, 1.0 / 512.0, 1.0 - 1.0 / 512.0))
    present = np.exp(np.tensordot(weights, logs, axes=1))
    if exclusive:
        return present / present.sum(0, keepdims=True)
    absent = np.exp(np.tensordot(weights, np.log1p(-np.exp(logs)), axes=1))
    return present / (present + absent)


def blend_stores(
    config: Config, stores: "list[ProbabilityStore]", weights: "np.ndarray"
) -> "Iterator[tuple[str, np.ndarray]]":
    """Every image of the first store, blended with the same image of the others."""
    import numpy as np

    exclusive = config.task in ("multiclass", "instances")
    for image_id in stores[0].image_ids:
        answers = np.stack([store.read(image_id) for store in stores])
        yield image_id, blend(answers, weights, config.ensemble.mean, exclusive)


def write_blend(config: Config, members: Iterable[Path], weights: "Sequence[float] | np.ndarray", store: Path) -> None:
    """Blend the members' stores, round by round and fold by fold, with a weight a round."""
    import numpy as np

    from stores import ProbabilityStore, ProbabilityWriter

    stores = [ProbabilityStore(path) for path in members]
    with ProbabilityWriter(store) as writer:
        for image_id, probabilities in blend_stores(config, stores, np.repeat(weights, config.folds.count)):
            writer.add(image_id, probabilities)


def read_weights(config: Config, paths: Paths) -> list[float]:
    """The fitted weight of each round that takes part. Raises UserError where ensemble.py has not run for them."""
    path, rounds = paths.runs / "ensemble" / "weights.json", member_rounds(config)
    weights = read_checked(path, Weights)["weights"]
    names = [f"round {round}" for round in rounds]
    if set(weights) != set(names):
        raise UserError(f"{path}: weights of {', '.join(weights)}, not of the config's rounds; run ensemble.py again")
    return [weights[name] for name in names]


def label_images(
    config: Config, paths: Paths, images: "Sequence[ImageFile]", scratch: Path
) -> "Iterator[tuple[str, np.ndarray]]":
    """`(image_id, label array)` of each image at its own size, by all members with TTA and the fitted postprocessing.

    `scratch` is a folder for the probabilities meanwhile. Raises UserError where a stage of the training is missing.
    """
    import numpy as np

    for image_id, bands in label_bands(config, paths, images, scratch):
        parts = list(bands())
        yield image_id, parts[0] if len(parts) == 1 else np.concatenate(parts)


def label_bands(
    config: Config, paths: Paths, images: "Sequence[ImageFile]", scratch: Path
) -> "Iterator[tuple[str, Callable[[], Iterator[np.ndarray]]]]":
    """`label_images` with each label in bands from top to bottom, as often as they are asked for.

    A label is one band where its pixels cannot be told one by one: instances, smallest areas, another working size.
    """
    from postprocess import is_pixelwise, resize_probabilities, to_label
    from predictions import load_parameters
    from stores import ProbabilityStore, dequantise

    parameters = load_parameters(paths)
    write_members(config, paths, images, scratch / "ensemble.zarr")
    blended = ProbabilityStore(scratch / "ensemble.zarr")

    def bands(image: "ImageFile") -> "Iterator[np.ndarray]":
        if is_pixelwise(config.task, parameters) and blended.shape(image.image_id)[1:] == image.size:
            parts = map(dequantise, blended.bands(image.image_id))
        else:
            parts = iter([resize_probabilities(blended.read(image.image_id), image.size)])
        for part in parts:
            yield to_label(part, config.task, parameters)

    for image in images:
        yield image.image_id, partial(bands, image)


def write_members(config: Config, paths: Paths, images: "Sequence[ImageFile]", store: Path) -> None:
    """Ask all members about each image, which is read once, and store the blend.

    Answers are rounded as members' own stores would, so that the stages one by one write the same.
    """
    import numpy as np
    from tqdm import tqdm

    from inference import Members, is_last, predict_images
    from stores import ProbabilityWriter, dequantise, quantise
    from validation import read_inputs

    rounds = member_rounds(config)
    weights = np.repeat(read_weights(config, paths), config.folds.count)
    places = [(round, fold) for round in rounds for fold in range(config.folds.count)]
    predictors = [open_predictor(config, paths, *place, config.predict.augments) for place in places]
    inputs = read_inputs(config, paths, ((image.image_id, str(image.path.absolute())) for image in images))
    exclusive, sinks = config.task in ("multiclass", "instances"), {}
    with (
        ProbabilityWriter(store) as writer,
        tqdm(total=len(images), desc="images", leave=False, dynamic_ncols=True) as progress,
    ):
        for image_id, shape, place, part in predict_images(Members(tuple(predictors)), inputs):
            if image_id not in sinks:
                sinks[image_id] = writer.create(image_id, (shape[0] // len(places), *shape[1:]))
            answers = dequantise(quantise(part)).reshape(len(places), -1, *part.shape[1:])
            sinks[image_id].write(place, blend(answers, weights, config.ensemble.mean, exclusive))
            if is_last(shape, place, part):
                del sinks[image_id]
                progress.update()
