"""Label new test images with the trained ensemble and write their submission, in one go.

    python src/infer.py --config configs/mine.yaml --set data.root=data/new --output new.csv

Reads the images that data.test names below data.root, and the sample submission if there is one. Needs no labels, no
index and no folds: only the fold checkpoints, the blend's weights and the fitted postprocessing in the workspace. No
image at all is fine; then the file has a header, and the sample's rows with empty masks.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from artifacts import Paths, raw_data, sample_file
from cli import make_parser, open_config, run_script
from config import Config, load_config


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    infer(config, paths, args.output, args.scratch)


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


def make_infer_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), help="default: submission.csv here")
    parser.add_argument("--scratch", type=Path, help="an existing folder for probabilities (default: the system's)")
    return parser


if __name__ == "__main__":
    run_script(main, make_infer_parser())
