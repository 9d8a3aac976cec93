"""Label new images with the trained ensemble, in one go: as a submission, or each as a mask in the classes' colours.

    python src/infer.py --config configs/mine.yaml --set data.root=data/new --output new.csv
    python src/infer.py --config configs/mine.yaml --images photos --masks photos_masks --overlay

With --images, every PNG, JPG and TIFF of a folder, of any size, becomes NAME_mask.png, with --overlay also
NAME_overlay.png, and a GeoTIFF becomes NAME_mask.tif too, of classes, with its CRS and transform. Without it, reads
the images that data.test names below data.root, and the sample submission if there is one; no image at all is fine:
then the file has a header, and the sample's rows with empty masks.

Needs no labels, no index and no folds: only the fold checkpoints, the blend's weights and the fitted postprocessing in
the workspace.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import Paths, raw_data, sample_file
from cli import make_parser, open_config, run_script
from config import Config
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
    output = args.masks or args.images.with_name(f"{args.images.name}_masks")
    label_folder(config, paths, args.images, output, overlay=args.overlay, scratch=args.scratch)


def infer_bundle(bundle: Path, root: Path, output: Path) -> int:
    """What the inference notebook calls: a bundle's models on the images of a competition's folder."""
    config = load_config(bundle / "config.yaml", [f"data.root={root.absolute()}", "data.generator=none"])
    return infer(config, Paths(bundle, config.name), output)


def infer(config: Config, paths: Paths, output: Path, scratch: Path | None = None) -> int:
    """Write the submission of all images of `data.test`, validated; returns their number. Raises UserError.

    `scratch` is a folder for probabilities meanwhile, the system's own if None.
    """
    from formats import find_format, write_submission
    from index import list_test_images
    from members import label_images

    root = raw_data(config, paths)
    images = list_test_images(config.data, root)
    if not images:
        print(f"no image matches {config.data.test} below {root}: every mask is empty", file=sys.stderr)
    sample = sample_file(config, paths)
    with tempfile.TemporaryDirectory(prefix="fewmask-", dir=scratch) as folder:
        labels = label_images(config, paths, images, Path(folder))
        rows = write_submission(output, find_format(config.submission), config.classes, config.task, labels, sample)
    print(f"{output}: {rows} rows of {len(images)} images")
    return len(images)


def label_folder(
    config: Config, paths: Paths, folder: Path, output: Path, *, overlay: bool = False, scratch: Path | None = None
) -> int:
    """Write the mask of every picture of a folder; returns their number. Raises UserError.

    Works through them `AT_ONCE` at a time, so that neither memory nor `scratch` grows with their number.
    """
    from tqdm import tqdm

    from members import label_bands

    if config.task not in ("binary", "multiclass"):
        raise UserError(f"--images: {config.task} labels have no one colour a pixel; write a submission instead")
    images = list_pictures(folder)
    if output.resolve() == folder.resolve():
        raise UserError(f"--masks {output}: the images lie there; name another folder")
    with tqdm(total=len(images), desc="masks", dynamic_ncols=True) as progress:
        for start in range(0, len(images), AT_ONCE):
            with tempfile.TemporaryDirectory(prefix="fewmask-", dir=scratch) as place:
                some = images[start : start + AT_ONCE]
                for image, (_, bands) in zip(some, label_bands(config, paths, some, Path(place)), strict=True):
                    write_label(config, image, bands, output, overlay)
                    progress.update()
    print(f"{output}: masks of {len(images)} images")
    return len(images)


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


def write_label(
    config: Config, image: "ImageFile", bands: "Callable[[], Iterator[np.ndarray]]", output: Path, overlay: bool
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
    write_picture_bands(output / f"{path.stem}_mask.png", size, (paint_label(band, colours) for band in bands()))
    if tags := read_geo_tags(path):
        write_class_tiff_bands(output / f"{path.stem}_mask.tif", size, bands(), colours, tags)
    if overlay and size[0] * size[1] > LARGEST_OVERLAY:
        print(f"{path}: too large for an overlay; its mask is written", file=sys.stderr)
    elif overlay:
        painted = paint_label(np.concatenate([*bands()]), colours)
        shown = brighten(read_image(path, config.image.channels))
        write_picture(output / f"{path.stem}_overlay.png", (shown // 2 + painted // 2).astype(shown.dtype))


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
