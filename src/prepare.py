"""Turn the data as it came into one index, with every label in one form.

    python src/prepare.py --config configs/dubai.yaml

Data that is not there is downloaded, where data.kaggle says what; a folder that is there is used as it is.
Writes data/<name>/: index.csv (a row an image), masks/ or points.csv (the labels), coverage.csv (what each label
shows), contents.json (a digest of each split's images), solution/ (hidden labels, which only a report's last column
may look at), and manifest.json when all is done.
Points drawn from masks (data.labels.points) are drawn here, once; the masks go to dense/, out of training's reach.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import Paths, Stage, atomic, fingerprint, raw_data, stage_settings, write_json
from cli import make_parser, open_config, run_script
from config import Config
from disk import locked, remove, sweep
from errors import UserError
from listing import TABLES, digest_contents, label_tables, list_contents

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from index import ImageFile


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    root = raw_data(config, paths)
    drawn = config.data.generator != "none"
    if (drawn and args.fresh) or ((drawn or config.data.kaggle) and not root.is_dir()):
        with locked(root):
            bring_data(config, root, args.fresh)
    settings = stage_settings(config, "task", "classes", "data", "seed") | {"channels": config.image.channels}
    tables = label_tables(config.data, root)
    settings["files"] = list_contents(config.data, root)
    del settings["data"]["kaggle"]  # the same files are the same data, whoever brought them
    if drawn := config.data.labels.points:
        del settings["data"]["labels"]["points"]["judge"]
        settings["grid"] = [config.image.scale, config.image.long_side] if drawn.grid == "working" else []
    labels = [paths.points] if config.data.labels.sparse else []
    labels += [paths.data / labels_folder(config)] if config.data.labels.kind in ("masks", "rle") else []
    outputs = (paths.index, paths.coverage, paths.contents, *labels)
    stage = Stage(paths.data / "manifest.json", settings, tables, outputs)
    with stage.claim(args.fresh) as todo:
        if not todo:
            print(f"{paths.data}: prepared already")
            return
        for old in (*outputs, paths.points, paths.data / "masks", paths.data / "dense"):
            remove(old)
        index, coverage = prepare(config, paths, root)
        stage.finish(**summarise(config, index, coverage))


def bring_data(config: Config, root: Path, fresh: bool) -> None:
    """Download or draw the data where it is not there, while `root` is locked."""
    sweep(root)
    if config.data.kaggle and not root.is_dir():
        fetch_data(config.data.kaggle, root)
    if config.data.generator != "none" and (fresh or not root.is_dir()):
        generate(config, root)


def fetch_data(source: str, root: Path) -> None:
    """Download a competition or data set and unpack it as `root`, which appears only when it is whole.

    The archive waits beside it, hidden, so that a broken download goes on and a broken unpacking starts from it.
    """
    from kaggle_site import download
    from zips import unpack

    archive = root.with_name(f".{root.name}.{source.replace('/', '-')}.zip")
    if not archive.is_file():
        download(source, archive)
    with atomic(root) as folder:
        unpack(archive, folder)
    archive.unlink()


def generate(config: Config, root: Path) -> None:
    """Write the competition of the config's generator, in its size or the generator's own."""
    size = {} if config.data.size is None else {"size": config.data.size}
    if config.data.generator == "microct":
        from microct import write_competition
    else:
        from scenes import write_competition
    with atomic(root) as folder:
        write_competition(folder, seed=config.seed, **size)


def prepare(config: Config, paths: Paths, root: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Read every label and image once, one at a time, and write all but the manifest.

    Returns the index and the coverage of the labelled images. Raises UserError for any fault of the data, naming it;
    then nothing is left behind.
    """
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from index import COLUMNS, list_images, settle_splits
    from labels import add_looks, check_classes, coverage_columns, name_encoding
    from strata import share_out

    config = name_encoding(config)
    labels = paths.data / labels_folder(config)
    with atomic(labels) as masks, atomic(paths.data / "solution") as solution:
        masks.mkdir()
        solution.mkdir()
        images = list_images(config.data, root)
        coverage, points = write_labels(config, root, [image for image in images if image.split == "labelled"], masks)
        images = settle_splits(config.data, images, set(coverage["image_id"]))
        seen = (check_image(one, config) for one in tqdm(images, desc="images", disable=None))
        seen = np.fromiter(seen, np.dtype([("looks", np.float64, 2), ("digest", "S16")]), len(images))
        digests = dict(zip((one.image_id for one in images), seen["digest"], strict=True))
        sizes = {one.image_id: one.size for one in images}
        coverage = add_looks(coverage, sizes, seen["looks"])[coverage_columns(config)]
        if config.data.labels.keep is not None:
            moved = share_out(coverage, config.data.labels, config.seed)
            coverage = coverage[~coverage["image_id"].isin(set(moved))]
            images = [replace(one, split=moved.get(one.image_id, one.split)) for one in images]
            hide_labels(config, [one for one in images if one.image_id in moved], points, masks, solution)
            images = [one for one in images if one.split]
        check_classes(config, coverage)
        write_solution(config, root, images, solution)
        contents = digest_contents(((one.split, one.image_id, digests[one.image_id]) for one in images), solution)
    for folder in (labels, paths.data / "solution"):
        if not any(folder.iterdir()):
            folder.rmdir()
    if points is not None:
        points = points[points["image_id"].isin(set(coverage["image_id"]))]
        write_table(paths.points, points)
    counts = {} if points is None else points["image_id"].value_counts().to_dict()
    index = pd.DataFrame([index_row(one, config, paths, counts) for one in images], columns=list(COLUMNS))
    write_table(paths.coverage, coverage)
    write_json(paths.contents, contents)
    write_table(paths.index, index)
    return index, coverage


def labels_folder(config: Config) -> str:
    return "dense" if config.data.labels.points else "masks"


def index_row(image: "ImageFile", config: Config, paths: Paths, counts: dict[str, int]) -> tuple[Any, ...]:
    has_mask = image.split == "labelled" and not config.data.labels.sparse
    return (
        image.image_id,
        paths.relative(image.path),
        paths.relative(mask_path(paths.data / "masks", image.image_id, config)) if has_mask else "",
        counts.get(image.image_id, 0),
        image.group,
        image.split,
        *image.size,
    )


def mask_path(folder: Path, image_id: str, config: Config) -> Path:
    return folder / f"{image_id}{'.tif' if config.task == 'multilabel' else '.png'}"


def write_labels(
    config: Config, root: Path, images: "list[ImageFile]", folder: Path
) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
    """Write the masks of the images that have one. Returns what each covers, by image_id, and the table of points if
    any."""
    import pandas as pd

    from images import write_mask
    from labels import (
        LOOKS,
        add_empty,
        check_encoding,
        count_points,
        coverage,
        coverage_columns,
        label_digest,
        label_names,
    )

    labels, sizes = config.data.labels, {image.image_id: image.size for image in images}
    if labels.sparse and config.task not in ("binary", "multiclass"):
        raise UserError(f"data.labels: points cannot label a {config.task} task; use masks or rle")
    columns = [name for name in coverage_columns(config) if name not in LOOKS]
    if labels.kind == "none":
        return pd.DataFrame(columns=columns), None
    if labels.kind == "points":
        from points import read_points

        points = read_points(root / labels.path, label_names(config), sizes)
        return count_points(points, config), points
    if labels.kind == "masks":
        check_encoding(config)
    rows, drawn, digests = [], {}, {}
    table = labels.kind == "rle"
    arrays = read_label_arrays(config, root, images, labels.path, "data.labels.path", table=table)
    if labels.without_label == "empty":
        arrays = add_empty(arrays, sizes, config)
    for image_id, label in arrays:
        write_mask(mask_path(folder, image_id, config), label)
        if labels.points is not None:
            drawn[image_id], digests[image_id] = draw_points(config, image_id, label), label_digest(label)
        else:
            rows.append((image_id, *coverage(label, config).values()))
    if labels.points is None:
        return pd.DataFrame(rows, columns=columns), None
    from points import join_points

    points = join_points(drawn)
    table = count_points(points, config)
    return table.assign(label=table["image_id"].map(digests)), points


def draw_points(config: Config, image_id: str, label: "np.ndarray") -> "np.ndarray":
    """The points an image keeps of its dense label: the same whatever other images there are, and in whatever order."""
    from points import sample_points
    from runtime import derive_seed
    from transforms import working_shape

    drawn = config.data.labels.points
    shape = working_shape(*label.shape, config.image) if drawn.grid == "working" else None
    return sample_points(label, drawn, derive_seed(config.seed, "points", image_id), shape)


def read_label_arrays(
    config: Config, root: Path, images: "list[ImageFile]", source: str, key: str, *, table: bool, complete: bool = True
) -> "Iterator[tuple[str, np.ndarray]]":
    """(id, label array) of each image that a label table or a template of mask files has, one at a time.

    Raises UserError for what does not fit; colours outside the palette are counted in one warning.
    """
    sizes = {image.image_id: image.size for image in images}
    if table:
        from formats import find_format, read_labels

        fmt = find_format(config.data.labels.format)
        yield from read_labels(root / source, fmt, config.classes, config.task, sizes)
        return
    from images import is_turned
    from index import is_parted, match_masks, match_parts
    from labels import decode_mask, join_parts, warn_of_colours

    if is_parted(source, images):
        for image_id, files in match_parts(root, images, source, config.classes, key=key, complete=complete).items():
            yield image_id, join_parts(files, sizes[image_id], config)
        return
    unknown: Counter[tuple[int, int, int]] = Counter()
    for image_id, path in match_masks(config.data, root, images, source, key=key, complete=complete).items():
        label = decode_mask(path, config, unknown)
        if label.shape[:2] != sizes[image_id]:
            (height, width), (image_height, image_width) = label.shape[:2], sizes[image_id]
            turned = is_turned(next(image.path for image in images if image.image_id == image_id))
            why = " (the photo is turned by its EXIF orientation, the mask is not: turn it too)" if turned else ""
            raise UserError(
                f"{path}: mask of {width}x{height} for image {image_id!r} of {image_width}x{image_height}; "
                f"make them the same size{why}"
            )
        yield image_id, label
    warn_of_colours(unknown, key)


def check_image(image: "ImageFile", config: Config) -> tuple[tuple[float, float], str]:
    """Decode an image, so that a broken one is found now and not in the middle of training, and say how it looks, its
    brightness and saturation, and what its file's fingerprint is."""
    from images import read_image
    from labels import appearance

    return appearance(read_image(image.path, config.image.channels)), fingerprint(image.path)


def hide_labels(
    config: Config, images: "list[ImageFile]", points: "pd.DataFrame | None", masks: Path, solution: Path
) -> None:
    """Take these images' labels out of `masks`; those of the split that `solution_of` names become hidden labels."""
    from images import write_mask
    from points import points_by_image, rasterise

    drawn = {} if points is None else points_by_image(points)
    for image in images:
        mask, target = (mask_path(folder, image.image_id, config) for folder in (masks, solution))
        if image.split != config.data.solution_of:
            mask.unlink(missing_ok=True)  # points as they came have no file
        elif mask.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            mask.replace(target)
        else:
            write_mask(target, rasterise(drawn[image.image_id], image.size))


def write_solution(config: Config, root: Path, images: "list[ImageFile]", folder: Path) -> None:
    """Write the hidden labels that `data.solution` names, in the form of the others. Some images may lack one."""
    from images import write_mask

    data = config.data
    if not data.solution:
        return
    hidden = [image for image in images if image.split == data.solution_of]
    if not hidden:
        raise UserError(
            f"data.solution: hidden labels of {data.solution_of} images, but there are none; leave it empty"
        )
    table = data.solution.endswith(TABLES)
    labels = read_label_arrays(config, root, hidden, data.solution, "data.solution", table=table, complete=False)
    count = 0
    for image_id, label in labels:
        write_mask(mask_path(folder, image_id, config), label)
        count += 1
    print(f"hidden labels: {count} of {len(hidden)} {data.solution_of} images")


def write_table(path: Path, table: "pd.DataFrame") -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def summarise(config: Config, index: "pd.DataFrame", coverage: "pd.DataFrame") -> dict[str, Any]:
    """Print what there is, and return it for the manifest."""
    splits = index["split"].value_counts().to_dict()
    heights, widths = index["height"], index["width"]
    print(f"{config.name}: " + ", ".join(f"{count} {split}" for split, count in splits.items()))
    print(f"sizes: {widths.min()}x{heights.min()} to {widths.max()}x{heights.max()}")
    shares: dict[str, float] = {}
    if len(coverage):
        pixels = coverage["labelled"].sum()
        shares = {name: round(float(coverage[f"pixels:{name}"].sum() / pixels), 5) for name in config.classes}
        unit = "points" if config.data.labels.sparse else "labelled pixels"
        print(f"{pixels} {unit}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
        if config.task == "instances":
            print(f"{coverage['instances'].sum()} instances")
        if not config.data.labels.sparse:
            ignored = 1 - pixels / (coverage["height"] * coverage["width"]).sum()
            print(f"ignored pixels: {ignored:.2%}")
    return {"images": splits, "shares": shares}


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
