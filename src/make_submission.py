"""Write the competition's file from the ensemble's test predictions, or from anybody's folder of masks.

    python src/make_submission.py
    python src/make_submission.py --config configs/dubai.yaml
    python src/make_submission.py --format airbus --masks masks --sample sample_submission.csv --output submission.csv
    python src/make_submission.py --format airbus --validate submission.csv --images test
    python src/make_submission.py --guess sample_submission.csv

Rows are joined on ids, stand in the sample file's order where there is one, and are validated before the file appears.
With --format there is no training and no config: src/competitions.py has the names, README.md what masks may be.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import Paths, Stage, code_revision, fingerprint, raw_data, sample_file, settings_hash, stage_settings
from cli import make_parser, open_config, run_script
from config import ArchiveFormat, Config, TableFormat
from errors import UserError
from layouts import Scores, read_checked

if TYPE_CHECKING:
    import numpy as np

    from formats import Detections


def main(args: argparse.Namespace) -> None:
    if args.guess:
        guess(args.guess)
    elif args.format and args.validate:
        validate(args)
    elif args.format and args.masks and args.output:
        convert(args)
    elif args.format or args.masks or args.validate or args.output:
        raise UserError("--format NAME goes with --masks DIR --output FILE, or with --validate FILE")
    else:
        submit_ensemble(args)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("any folder of masks, with no config")
    group.add_argument("--format", metavar="NAME", help="a competition, or a YAML file with your own format")
    group.add_argument("--masks", type=Path, metavar="DIR", help="PNG or TIFF masks, or a JSON file of COCO results")
    group.add_argument("--output", type=Path, metavar="FILE", help="the submission to write")
    group.add_argument("--sample", type=Path, metavar="FILE", help="the competition's sample submission")
    group.add_argument("--images", type=Path, metavar="DIR", help="the test images: their ids and sizes")
    group.add_argument("--classes", help="a,b,c or a text file with one a line, where the format does not fix them")
    group.add_argument("--task", choices=("binary", "multiclass", "multilabel", "instances"), help="what masks hold")
    group.add_argument("--separate", action="store_true", help="split touching objects of a binary mask")
    group.add_argument("--name", default="", help="template of the files' names, as {id}_pred.png (default: any)")
    group.add_argument("--id", default="{id}", help="template of the ids, of the fields that --name names")
    group.add_argument("--validate", type=Path, metavar="FILE", help="list every fault of a submission")
    group.add_argument("--guess", type=Path, metavar="FILE", help="name the formats that fit a sample file")


def convert(args: argparse.Namespace) -> None:
    """Write a submission from a folder of masks."""
    from archives import write_archive
    from folders import default_task, find_pictures, read_details, read_folder, read_results
    from formats import write_submission

    fmt = chosen_format(args)
    sizes = image_sizes(args, fmt, args.images)
    classes = class_list(args, fmt)
    if args.masks.suffix == ".json":
        if isinstance(fmt, ArchiveFormat) or sizes is None:
            raise UserError("--masks: COCO results go with a table format and --images, whose sizes they need")
        labels = read_results(args.masks, fmt, classes, sizes)
        files = sizes
        task = "instances"
    else:
        files = find_pictures(args.masks, args.name, args.id)
        task = args.task or default_task(fmt, len(classes))
        labels = read_folder(files, fmt, classes, task, read_details(args.masks, classes), separate=args.separate)
    if sizes is not None:
        check_images(args, sizes, files)
        labels = labels if fmt.size else fit_images(args, sizes, labels)
    if isinstance(fmt, ArchiveFormat):
        count, unit = write_archive(args.output, fmt, labels, sizes), "files"
    else:
        count, unit = write_submission(args.output, fmt, classes, task, labels, args.sample), "rows"
    print(f"{args.output}: {count} {unit}")


def validate(args: argparse.Namespace) -> None:
    """Print every fault of a submission. Raises UserError where there is one."""
    from archives import validate_archive
    from faults import unchecked, validate_submission

    fmt = chosen_format(args)
    sizes = image_sizes(args, fmt, args.images or args.masks)
    if isinstance(fmt, ArchiveFormat):
        faults = validate_archive(args.validate, fmt, sizes)
        note = "" if sizes else "without --images, missing files and sizes are not checked"
    else:
        faults = validate_submission(args.validate, fmt, class_list(args, fmt), sizes, args.sample)
        note = unchecked(fmt, sizes)
    for fault in faults:
        print(fault)
    if note:
        print(f"note: {note}")
    if faults:
        raise UserError(f"{args.validate}: {len(faults)} faults for {args.format}")
    print(f"{args.validate}: no fault found for {args.format}")


def guess(path: Path) -> None:
    """Print the names of the formats that fit a file, best first. Raises UserError where none does."""
    from faults import guess_formats

    for name, reason in guess_formats(path):
        print(f"{name:<24} {reason}")


def chosen_format(args: argparse.Namespace) -> TableFormat | ArchiveFormat:
    """--format's; COCO's has the category ids of a sample that names them."""
    from archives import find_spec
    from tables import number_classes

    fmt = find_spec(args.format)
    # without --classes each is called by its number
    return number_classes(fmt, args.sample) if args.classes and isinstance(fmt, TableFormat) else fmt


def image_sizes(
    args: argparse.Namespace, fmt: TableFormat | ArchiveFormat, folder: Path | None
) -> dict[str, tuple[int, int]] | None:
    """The sizes of a folder's pictures, None where no folder is given. Where some have the name that the format gives
    images, the folder's others are none."""
    from folders import picture_sizes
    from index import find_files

    if folder is None:
        return None
    if folder == args.masks:
        return picture_sizes(folder, args.name, args.id)
    own = fmt.image if isinstance(fmt, ArchiveFormat) else ""
    return picture_sizes(folder, own if own and find_files(folder, own, "--images", needed=False) else "")


def class_list(args: argparse.Namespace, fmt: TableFormat | ArchiveFormat) -> tuple[str, ...]:
    """The classes: --classes, or those the format fixes, or numbers where it only numbers them."""
    from archives import class_names
    from tables import VALUED, class_field

    if args.classes:
        words = args.classes.split(",")
        if os.path.isfile(args.classes):  # False for a list of classes that is too long for a path
            try:
                words = Path(args.classes).read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise UserError(f"--classes {args.classes}: not UTF-8 text; save it as UTF-8") from None
        return tuple(word.strip() for word in words if word.strip())
    if isinstance(fmt, ArchiveFormat):
        return class_names(fmt) or tuple(map(str, range(65536)))
    if not fmt.classes and class_field(fmt) == "class":
        raise UserError(f"--classes: the format {args.format} names classes; give theirs, as --classes a,b,c")
    if fmt.classes:
        return fmt.classes
    if class_field(fmt) and fmt.rows == "image_class":
        raise UserError(f"--classes: the format {args.format} has a row for each class; say which there are, as a,b,c")
    if fmt.codec in VALUED:
        return tuple(map(str, range(65536)))
    # each is called by the number that the format gives it
    return tuple(map(str, range(fmt.class_base, 65536))) if class_field(fmt) else ("foreground",)


def check_images(args: argparse.Namespace, sizes: dict[str, tuple[int, int]], files: Mapping[str, Any]) -> None:
    """Raises UserError for an image without a mask, where no sample says which are wanted."""
    missing = sorted(sizes.keys() - files.keys())
    if missing and args.sample is None:
        raise UserError(f"{args.masks}: no mask of image {missing[0]!r} ({len(missing)} such); every image needs one")


def fit_images(
    args: argparse.Namespace,
    sizes: Mapping[str, tuple[int, int]],
    labels: "Iterable[tuple[str, np.ndarray | Detections]]",
) -> "Iterator[tuple[str, np.ndarray | Detections]]":
    """The labels as they come. Raises UserError for one that is not as large as its image."""
    from formats import Detections

    for image_id, label in labels:
        size = label.size if isinstance(label, Detections) else label.shape[:2]
        if sizes.get(image_id, size) != size:
            (height, width), (rows, columns) = size, sizes[image_id]
            raise UserError(
                f"{args.masks}: the mask of {image_id!r} is {height}x{width}, its image {rows}x{columns}; resize it"
            )
        yield image_id, label


def submit_ensemble(args: argparse.Namespace) -> None:
    """Write the submission of a config's own ensemble, once."""
    config, paths = open_config(args)
    stage = submission_stage(config, paths)
    with stage.claim(args.fresh) as todo:
        if todo:
            write_ensemble(config, paths, stage)
        else:
            print(f"{paths.submission}: written already")


def write_ensemble(config: Config, paths: Paths, stage: Stage) -> None:
    from formats import submission_format, write_submission

    sample = sample_file(config, paths)
    rows = write_submission(
        paths.submission,
        submission_format(config, paths),
        config.classes,
        config.task,
        read_masks(config, paths),
        sample,
    )
    scores = read_checked(paths.scores, Scores)
    used = [phase for phase in scores["phases"] if phase.get("used", True)][-1]
    stage.finish(
        config=config.name,
        config_hash=settings_hash(config),
        code=code_revision(),
        seed=config.seed,
        out_of_fold={scores["metric"]: used["oof"], "folds": used["folds"]},
        rows=rows,
        sha256=fingerprint(paths.submission),
    )
    print(f"{paths.submission}: {rows} rows, {scores['metric']} {used['oof']:.4f} out of fold")


def submission_stage(config: Config, paths: Paths) -> Stage:
    from tables import find_format

    labels, table = config.data.labels, raw_data(config, paths) / config.data.labels.path
    settings = stage_settings(config, "task", "classes", "submission")
    inputs = [paths.index, paths.postprocess, paths.scores, paths.runs / "ensemble" / "manifest.json"]
    if sample := sample_file(config, paths):
        inputs.append(sample)
    if labels.kind == "rle" and {find_format(one).file for one in (config.submission, labels.format)} == {"coco"}:
        inputs += [table] if table.is_file() else []  # its category ids
    return Stage(paths.submission.with_suffix(".json"), settings, tuple(inputs), outputs=(paths.submission,))


def read_masks(config: Config, paths: Paths) -> Iterator[tuple[str, "np.ndarray"]]:
    """Every test image's label array at its own size, in the index's order."""
    from postprocess import to_label
    from predictions import load_parameters, read_split

    parameters = load_parameters(paths)
    for image_id, probabilities in read_split(paths, paths.ensemble("test"), "test"):
        yield image_id, to_label(probabilities, config.task, parameters)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    add_arguments(parser)
    run_script(main, parser)
