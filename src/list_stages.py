"""Print the commands that take a config from its data to its submission, one a line, in order.

    python src/list_stages.py --config configs/sample.yaml

`run.sh` runs them one after the other; a scheduler can read the same list. Folds are not spelled out: train.py and
predict.py work through all of them, or on one with --fold. With --work a number stands before each: a stage with twice
that of another one of its script takes twice as long.
"""

import argparse

from cli import make_parser, open_config, run_script
from config import Config


def list_stages(config: Config) -> list[list[str]]:
    """Every stage as its script and its own arguments, e.g. ["train.py", "--round", "1"]."""
    stages = [["prepare.py"], ["make_folds.py"]]
    for number, one in enumerate(config.rounds):
        chosen = ["--round", str(number)]
        if one.pseudo is not None:
            stages.append(["make_pseudo_labels.py", *chosen])
        stages += [["train.py", *chosen], ["predict.py", *chosen]]
    stages += [["ensemble.py"], ["evaluate.py"]]
    if config.data.test or config.data.labels.without_label == "test":
        stages.append(["make_submission.py"])
    return [*stages, ["make_report.py"]]


def stage_work(config: Config, stage: list[str]) -> float:
    """Steps of a training, or epochs times how many images stand beside a labelled one; 1 for any other stage."""
    if stage[0] != "train.py":
        return 1.0
    one = config.rounds[int(stage[-1])]
    others = sum(part.share for part in (one.pseudo, one.consistency) if part is not None)
    return one.train.epochs * (one.train.steps_per_epoch or 1.0 / max(0.1, 1.0 - others))


def main(args: argparse.Namespace) -> None:
    config, _ = open_config(args)
    for stage in list_stages(config):
        print(*([f"{stage_work(config, stage):g}"] if args.work else []), *stage)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--work", action="store_true", help="print how much each stage has to do before it")
    run_script(main, parser)
