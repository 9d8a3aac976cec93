"""Label new images with the trained ensemble, in one go: as a submission, or each as a mask in the classes' colours.

    python src/infer.py --config configs/mine.yaml --set data.root=data/new --output new.csv
    python src/infer.py --config configs/mine.yaml --images photos --masks photos_masks --overlay

With --images, every PNG, JPG and TIFF of a folder, of any size, becomes NAME_mask.png, with --overlay also
NAME_overlay.png, and a GeoTIFF becomes NAME_mask.tif too, of classes, with its CRS and transform. Without it, reads
the images that data.test names below data.root, and the sample submission if there is one; no image at all is fine:
then the file has a header, and the sample's rows with empty masks.

A mask or overlay that is there already stays as it is, whoever made it; --fresh makes it again.

Needs no labels, no index and no folds: only the fold checkpoints, the blend's weights and the fitted postprocessing in
the workspace.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import Paths, raw_data, sample_file
from cli import make_parser, open_config, run_script
from config import Config
from disk import scratch_folder
from errors import UserError
from settings import load_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from index import ImageFile

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LARGEST_OVERLAY = 2**27  # pixels: an overlay is made in memory
AT_ONCE = 256  # pictures whose probabilities wait on disk together


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    if args.scratch is not None and not args.scratch.is_dir():
        raise UserError(f"--scratch {args.scratch}: no such folder; make it first")
    if args.images is None:
        if args.masks or args.overlay:
            raise UserError("--masks and --overlay go with --images DIR; without it a submission is written")
        infer(config, paths, args.output, args.scratch)
        return
    output = args.masks or folder_beside(args.images)
    choices = {"overlay": args.overlay, "fresh": args.fresh, "scratch": args.scratch}
    label_folder(config, paths, args.images, output, **choices)


def folder_beside(images: Path) -> Path:
    """Where the masks of a folder of pictures go unless said. Raises UserError where nothing can lie beside it."""
    named = Path(os.path.abspath(images))  # "." has no name
    if not named.name:
        raise UserError(f"--images {images}: say with --masks where their masks go")
    return named.with_name(f"{named.name}_masks")


def infer_bundle(bundle: Path, root: Path, output: Path) -> int:
    """What the inference notebook calls: a bundle's models on the images of a competition's folder."""
    config = load_config(bundle / "config.yaml", [f"data.root={root.absolute()}", "data.generator=none"])
    return infer(config, Paths(bundle, config.name), output)


def infer(config: Config, paths: Paths, output: Path, scratch: Path | None = None) -> int:
    """Write the submission of all images of `data.test`, validated; returns their number. Raises UserError.

    `scratch` is a folder for probabilities meanwhile, the system's own if None.
    """
    from formats import submission_format, write_submission
    from index import list_test_images
    from members import label_images

    root = raw_data(config, paths)
    images = list_test_images(config.data, root)
    if not images:
        print(f"no image matches {config.data.test} below {root}: every mask is empty", file=sys.stderr)
    fmt, sample = submission_format(config, paths), sample_file(config, paths)
    with scratch_folder(scratch) as folder:
        labels = label_images(config, paths, images, folder)
        rows = write_submission(output, fmt, config.classes, config.task, labels, sample)
    print(f"{output}: {rows} rows of {len(images)} images")
    return len(images)


def label_folder(
    config: Config,
    paths: Paths,
    folder: Path,
    output: Path,
    *,
    overlay: bool = False,
    fresh: bool = False,
    scratch: Path | None = None,
) -> int:
    """Write the mask of every picture of a folder that has none, or with `fresh` of all; returns their number.

    Works through them `AT_ONCE` at a time, so that neither memory nor `scratch` grows with their number. Raises
    UserError.
    """
    from tqdm import tqdm

    from members import label_bands

    if config.task not in ("binary", "multiclass"):
        raise UserError(f"--images: {config.task} labels have no one colour a pixel; write a submission instead")
    images = list_pictures(folder)
    if output.resolve() == folder.resolve():
        raise UserError(f"--masks {output}: the images lie there; name another folder")
    wanted = [(image, list_outputs(image, output, overlay)) for image in images]
    if not fresh:
        wanted = [(image, {kind: path for kind, path in one.items() if not path.exists()}) for image, one in wanted]
    todo = [(image, one) for image, one in wanted if one]
    with tqdm(total=len(todo), desc="masks", dynamic_ncols=True) as progress:
        for start in range(0, len(todo), AT_ONCE):
            with scratch_folder(scratch) as place:
                some = todo[start : start + AT_ONCE]
                labels = label_bands(config, paths, [image for image, _ in some], place)
                for (image, outputs), (_, bands) in zip(some, labels, strict=True):
                    write_label(config, image, bands, outputs)
                    progress.update()
    there = len(images) - len(todo)
    print(f"{output}: masks of {len(todo)} images" + f"; {there} were there (--fresh makes them again)" * bool(there))
    return len(todo)


def list_pictures(folder: Path) -> "list[ImageFile]":
    """The pictures of a folder, by name. Raises UserError for none, and for two whose masks would have one name."""
    from images import image_size
    from index import ImageFile

    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.name[0] != ".")
    if not found:
        raise UserError(f"--images {folder}: no PNG, JPG or TIFF there")
    named: dict[str, Path] = {}
    for path in found:
        if path.stem in named:
            raise UserError(f"{path}: its mask would have the name of {named[path.stem].name}'s; rename one")
        named[path.stem] = path
    return [ImageFile(path.name, path, {}, "", "test", image_size(path)) for path in found]


def list_outputs(image: "ImageFile", output: Path, overlay: bool) -> dict[str, Path]:
    """What is made of a picture: its mask, an overlay where one is asked for, and a GeoTIFF of a GeoTIFF."""
    from images import read_geo_tags

    path, height, width = image.path, *image.size
    outputs = {"mask": output / f"{path.stem}_mask.png"}
    if read_geo_tags(path):
        outputs["geotiff"] = output / f"{path.stem}_mask.tif"
    if overlay and height * width > LARGEST_OVERLAY:
        print(f"{path}: too large for an overlay; only its mask is written", file=sys.stderr)
    elif overlay:
        outputs["overlay"] = output / f"{path.stem}_overlay.png"
    return outputs


def write_label(
    config: Config, image: "ImageFile", bands: "Callable[[], Iterator[np.ndarray]]", outputs: dict[str, Path]
) -> None:
    import numpy as np

    from images import read_geo_tags, read_image, write_picture
    from labels import name_encoding
    from pictures import brighten, paint_label
    from sheets import label_palette
    from strips import write_class_tiff_bands, write_picture_bands

    black_and_white = config.task == "binary" and name_encoding(config).data.labels.encoding != "palette"
    colours = [(0, 0, 0), (255, 255, 255)] if black_and_white else list(label_palette(config).values())
    path, size = image.path, image.size
    if "mask" in outputs:
        write_picture_bands(outputs["mask"], size, (paint_label(band, colours) for band in bands()))
    if "geotiff" in outputs:
        write_class_tiff_bands(outputs["geotiff"], size, bands(), colours, read_geo_tags(path))
    if "overlay" in outputs:
        painted = paint_label(np.concatenate([*bands()]), colours)
        shown = brighten(read_image(path, config.image.channels))
        write_picture(outputs["overlay"], (shown // 2 + painted // 2).astype(shown.dtype))


def make_infer_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), help="default: submission.csv here")
    parser.add_argument("--images", type=Path, help="a folder of pictures to label instead of the config's test images")
    parser.add_argument("--masks", type=Path, help="where their masks go (default: the folder's name and _masks)")
    parser.add_argument("--overlay", action="store_true", help="also write each picture with its mask over it")
    parser.add_argument("--scratch", type=Path, help="an existing folder for probabilities (default: the system's)")
    return parser


if __name__ == "__main__":
    run_script(main, make_infer_parser())
