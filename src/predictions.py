"""Reading a probability store together with what it is compared with, joined on image ids.

    for image_id, truth, probabilities in read_oof(paths, paths.ensemble("oof"), fold=0):
        prediction = to_label(probabilities, config.task, load_parameters(paths))

Probabilities come back as `(K, H, W) float32` at each image's own size, one image at a time.
"""

from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from artifacts import Paths
from config import Config
from errors import UserError
from images import read_mask
from index import read_folds, read_index
from layouts import Postprocessing, read_checked
from points import load_points, points_by_image, rasterise
from postprocess import Parameters, resize_probabilities
from scoring import dense_truth, hidden_truth
from stores import ProbabilityStore
from transforms import cut_centre

Scored = tuple[str, np.ndarray, np.ndarray]  # image_id, truth, probabilities


def load_parameters(paths: Paths) -> Parameters:
    """What evaluate.py chose for the final masks. Raises UserError where it has not run, or in another version."""
    values = read_checked(paths.postprocess, Postprocessing)["parameters"]
    odd = values.keys() - {one.name for one in fields(Parameters)}
    try:
        parameters = TypeAdapter(Parameters).validate_python(values)
    except ValidationError as error:
        odd |= {str(fault["loc"][0]) for fault in error.errors()}
    if odd:
        raise UserError(
            f"{paths.postprocess}: not what masks are made with now ({', '.join(sorted(odd))}); run evaluate.py --fresh"
        )
    return parameters


def judged_by_masks(config: Config) -> bool:
    """Whether held-out images choose by the dense masks that their points were drawn from."""
    return config.data.labels.points is not None and config.data.labels.points.judge == "masks"


def read_oof(
    paths: Paths,
    store: Path,
    fold: int,
    only: Collection[str] | None = None,
    *,
    dense: bool = False,
    patch: int | None = None,
) -> Iterator[Scored]:
    """The images of a fold (`only` some of them) that lie in a store, with their labels; points leave all other pixels
    at 255. With `dense`, the masks that their points were drawn from. A store of patches holds the centres of this
    side, and so do the labels."""
    folds = read_folds(paths)
    ids = set(folds.loc[folds["fold"] == fold, "image_id"])
    ids = ids if only is None else ids & set(only)
    points = None
    for row, probabilities in _read_store(paths, store, ids, patch):
        mask = dense_truth(paths, row["image_id"]) if dense else paths.resolve(row["mask"]) if row["mask"] else None
        if mask is not None:
            truth = read_mask(mask)
        else:
            points = points_by_image(load_points(paths.points)) if points is None else points
            truth = rasterise(points[row["image_id"]], (row["height"], row["width"]))
        yield row["image_id"], cut_centre(truth, patch), probabilities


def read_hidden(paths: Paths, store: Path, patch: int | None = None) -> Iterator[Scored]:
    """The images of a store that have a hidden label, with that label."""
    hidden = {image_id: hidden_truth(paths, image_id) for image_id in ProbabilityStore(store).image_ids}
    with_label = {image_id for image_id, path in hidden.items() if path}
    for row, probabilities in _read_store(paths, store, with_label, patch):
        yield row["image_id"], cut_centre(read_mask(hidden[row["image_id"]]), patch), probabilities


def read_split(
    paths: Paths, store: Path, split: str, only: Collection[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """`(image_id, probabilities)` of every image of a split (`only` some of them), in the index's order; each must lie
    in the store."""
    opened, table = ProbabilityStore(store), read_index(paths)
    table = table[table["split"] == split]
    for row in (table if only is None else table[table["image_id"].isin(only)]).to_dict("records"):
        yield row["image_id"], resize_probabilities(opened.read(row["image_id"]), (row["height"], row["width"]))


def _read_store(
    paths: Paths, store: Path, ids: set[str], patch: int | None
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Index rows and probabilities of the images that are both in `ids` and in the store, in the index's order."""
    opened, table = ProbabilityStore(store), read_index(paths)
    for row in table[table["image_id"].isin(ids & set(opened.image_ids))].to_dict("records"):
        shape = (min(patch or row["height"], row["height"]), min(patch or row["width"], row["width"]))
        yield row, resize_probabilities(opened.read(row["image_id"]), shape)
