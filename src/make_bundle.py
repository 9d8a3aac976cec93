"""Pack what a code competition without internet needs: models, code, wheels, and a notebook that writes the submission.

    python src/make_bundle.py --config configs/mine.yaml
    python src/make_bundle.py --config configs/mine.yaml --user me --images 5000 --no-wheels

Writes runs/<name>/bundle/: dataset/ (the fold checkpoints, the fitted postprocessing, config, code and wheels) and
kernel/ (the notebook, internet off), each with the metadata that the kaggle client uploads it by. Measures here how
long an image takes, and so whether the hidden test set fits into the competition's hours.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from artifacts import (
    TOP,
    Paths,
    atomic,
    code_revision,
    load_checkpoint,
    save_checkpoint,
    settings_hash,
    write_config,
    write_json,
)
from cli import make_parser, open_config, run_script
from config import Config
from disk import locked, scratch_folder
from errors import UserError
from members import check_training, checkpoint_file, member_rounds, read_weights

# what inference imports and Kaggle's image does not have, with their own requirements
LACKING = ("donfig", "imagecodecs", "numcodecs", "segmentation-models-pytorch", "ttach", "zarr")
LIMIT = 9.0  # hours that a code competition gives a notebook
MEASURED = 8  # images
NOBODY = "INSERT_USERNAME_HERE"
SUMMARY = "all weights are in the fold checkpoints: no encoder weights are needed"

NOTEBOOK = (
    "# Inference\n\nWrites `submission.csv` from the models of the attached data set, with the internet off.",
    """import subprocess
import sys
from pathlib import Path

INPUT = Path("/kaggle/input")
# what is attached lies right there, or below its kind and owner
bundle = next((path.parent for depth in range(1, 5) for path in INPUT.glob("*/" * depth + "bundle.json")), None)
data = next((path for path in (INPUT / COMPETITION, INPUT / "competitions" / COMPETITION) if path.is_dir()), None)
assert bundle and data, f"attach the bundle's data set and the data of {COMPETITION} to this notebook"
print(bundle, data)""",
    """wheels = sorted(map(str, (bundle / "wheels").glob("*.whl")))
if wheels:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, *wheels], check=True)""",
    """sys.path.insert(0, str(bundle / "src"))
from infer import infer_bundle

infer_bundle(bundle, data, Path("submission.csv"))""",
)


@dataclass(frozen=True)
class Timing:
    """How long inference takes on this machine, in seconds."""

    start: float  # loading all models
    image: float
    device: str

    def hours(self, images: int) -> float:
        return (self.start + self.image * images) / 3600.0


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    if not re.fullmatch(r"[\w-]+", args.user):
        raise UserError(f"--user {args.user!r}: give the name in your Kaggle profile's address")
    folds = [(round, fold) for round in member_rounds(config) for fold in range(config.folds.count)]
    read_weights(config, paths)
    for round, fold in folds:
        check_training(config, paths.run(round, fold))
    timing, images = measure(config, paths), args.images
    images = count_test_images(paths) if images is None else images
    with locked(paths.runs / "bundle"), atomic(paths.runs / "bundle") as bundle:
        copy_models(config, paths, bundle / "dataset", folds)
        copy_code(bundle / "dataset")
        if args.wheels:
            fetch_wheels(bundle / "dataset" / "wheels", args.python)
        summary = {"config_hash": settings_hash(config), "code": code_revision(), "weights": SUMMARY}
        summary |= {"seconds_to_start": timing.start, "seconds_an_image": timing.image, "device": timing.device}
        summary |= {"images": images, "hours": timing.hours(images), "limit_hours": LIMIT}
        write_json(bundle / "dataset" / "bundle.json", summary)
        write_kernel(bundle, config, args.user)
    print(f"{paths.runs / 'bundle'}: {len(folds)} models; {SUMMARY}")
    print(describe_time(timing, images))
    print(f"kaggle datasets create -p {paths.runs / 'bundle' / 'dataset'} --dir-mode zip")
    print(f"kaggle kernels push -p {paths.runs / 'bundle' / 'kernel'}")
    if not config.data.kaggle.startswith("competitions/"):
        print("data.kaggle names no competition: put it into the notebook's first line and its metadata")
    if args.user == NOBODY:
        print(f"first put your Kaggle name for {NOBODY} into both metadata files, or name it with --user")


def copy_models(config: Config, paths: Paths, folder: Path, folds: list[tuple[int, int]]) -> None:
    """The same layout as the workspace's, the checkpoints with the weights that predict and nothing else."""
    there = Paths(folder, config.name)
    for round, fold in folds:
        there.run(round, fold).mkdir(parents=True)
        weights = load_checkpoint(checkpoint_file(config, paths, round, fold), "model")["model"]
        save_checkpoint(checkpoint_file(config, there, round, fold), {"model": weights})
        shutil.copy(paths.run(round, fold) / "manifest.json", there.run(round, fold))
    (there.runs / "ensemble").mkdir()
    shutil.copy(paths.runs / "ensemble" / "weights.json", there.runs / "ensemble")
    shutil.copy(paths.postprocess, there.postprocess)
    write_config(folder / "config.yaml", config)


def copy_code(folder: Path) -> None:
    (folder / "src").mkdir()
    for path in sorted((TOP / "src").glob("*.py")):
        shutil.copy(path, folder / "src")
    for name in ("requirements.txt", "LICENSE"):
        shutil.copy(TOP / name, folder)


def fetch_wheels(folder: Path, python: str) -> None:
    """Download the wheels that Kaggle's image lacks, for its Python, from wherever pip is set up to look.

    Raises UserError where pip cannot.
    """
    platforms = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={python}", *(f"--platform={one}" for one in platforms)]
    pins = [f"{name}=={version(name)}" for name in LACKING]
    if subprocess.run([*command, "--dest", str(folder), *pins], check=False).returncode:
        raise UserError("pip could not fetch the wheels, its reason stands above; --no-wheels leaves them out")


def measure(config: Config, paths: Paths) -> Timing:
    """Run inference on no image and on some, through all models."""
    from index import ImageFile, read_index
    from members import label_images
    from runtime import best_device

    table = read_index(paths)
    table = table[table["split"] == "test"] if (table["split"] == "test").any() else table
    images = [
        ImageFile(row["image_id"], paths.resolve(row["image"]), {}, "", "test", (row["height"], row["width"]))
        for row in table[:MEASURED].to_dict("records")
    ]
    if not images:
        raise UserError(f"{paths.index}: no image to measure the time with; run prepare.py with the data")
    spent = []
    for some in (images[:1], [], images):  # the first only warms up
        with scratch_folder() as scratch:
            start = time.perf_counter()
            for _ in label_images(config, paths, some, scratch):
                pass
            spent.append(time.perf_counter() - start)
    return Timing(spent[1], max(0.0, spent[2] - spent[1]) / len(images), str(best_device()))


def count_test_images(paths: Paths) -> int:
    from index import read_index

    return int((read_index(paths)["split"] == "test").sum())


def describe_time(timing: Timing, images: int) -> str:
    hours = timing.hours(images)
    said = f"{images} images take {hours:.2f} of {LIMIT:g} hours on a {timing.device} like this one"
    if hours <= LIMIT:
        return said
    fitting = max(0, int((LIMIT * 3600.0 - timing.start) / max(timing.image, 1e-9)))
    return (
        f"warning: {said}; {fitting} would fit: lower predict.tta, predict.overlap or the number of rounds "
        "(ensemble.rounds=last), or measure on a machine like Kaggle's"
    )


def write_kernel(bundle: Path, config: Config, user: str) -> None:
    """The notebook and the metadata of both uploads."""
    slug = "fewmask-" + re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-")[:30]
    slug = slug.strip("-")
    competition = config.data.kaggle.partition("/")[2] if config.data.kaggle.startswith("competitions/") else ""
    dataset = {"title": slug, "id": f"{user}/{slug}", "licenses": [{"name": "other"}]}
    kernel = {
        "id": f"{user}/{slug}-inference",
        "title": f"{slug}-inference",
        "code_file": "inference.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": [dataset["id"]],
        "competition_sources": [competition] if competition else [],
        "kernel_sources": [],
        "model_sources": [],
    }
    write_json(bundle / "dataset" / "dataset-metadata.json", dataset)
    write_json(bundle / "kernel" / "kernel-metadata.json", kernel)
    with atomic(bundle / "kernel" / "inference.ipynb") as temporary:
        temporary.write_text(json.dumps(make_notebook(competition or config.name), indent=1) + "\n", encoding="utf-8")


def make_notebook(competition: str) -> dict[str, Any]:
    """The inference notebook, nbformat 4.5; `competition` is its data's folder under /kaggle/input."""
    text, first, *rest = NOTEBOOK
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "text", "metadata": {}, "source": text}]
    for number, source in enumerate([f"COMPETITION = {competition!r}\n{first}", *rest]):
        fixed = {"execution_count": None, "metadata": {}, "outputs": []}
        cells.append({"cell_type": "code", "id": f"cell{number}", "source": source, **fixed})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def make_bundle_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--user", default=os.environ.get("KAGGLE_USERNAME", NOBODY), help="your name on Kaggle")
    parser.add_argument("--images", type=int, help="how many the hidden test set has (default: as the one here)")
    parser.add_argument("--python", default="3.12", help="the Python that Kaggle runs (default: 3.12)")
    parser.add_argument("--no-wheels", dest="wheels", action="store_false", help="leave the wheels out")
    return parser


if __name__ == "__main__":
    run_script(main, make_bundle_parser())
