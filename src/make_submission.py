"""Write the competition's file from the ensemble's test predictions, and its provenance beside it.

    python src/make_submission.py
    python src/make_submission.py --config configs/dubai.yaml

Rows are joined on ids, stand in the sample file's order where there is one, and are validated before the file appears.
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from artifacts import Paths, Stage, code_revision, fingerprint, read_json, sample_file, settings_hash, stage_settings
from cli import make_parser, open_config, run_script
from config import Config

if TYPE_CHECKING:
    import numpy as np


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    stage = submission_stage(config, paths)
    if stage.done(args.fresh) and paths.submission.is_file():
        print(f"{paths.submission}: written already")
        return
    from formats import find_format, write_submission

    sample = sample_file(config, paths)
    rows = write_submission(
        paths.submission, find_format(config.submission), config.classes, config.task, read_masks(config, paths), sample
    )
    scores = read_json(paths.scores)
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
    settings = stage_settings(config, "task", "classes", "submission")
    inputs = (paths.index, paths.postprocess, paths.scores, paths.runs / "ensemble" / "manifest.json")
    return Stage(paths.submission.with_suffix(".json"), settings, inputs)


def read_masks(config: Config, paths: Paths) -> Iterator[tuple[str, "np.ndarray"]]:
    """Every test image's label array at its own size, in the index's order."""
    from postprocess import to_label
    from predictions import load_parameters, read_split

    parameters = load_parameters(paths)
    for image_id, probabilities in read_split(paths, paths.ensemble("test"), "test"):
        yield image_id, to_label(probabilities, config.task, parameters)


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
