"""Print the commands that take a config from its data to its submission, one a line, in order.

    python src/list_stages.py --config configs/sample.yaml

`run.sh` runs them one after the other; a scheduler can read the same list. Folds are not spelled out: train.py and
predict.py work through all of them, or on one with --fold.
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


def main(args: argparse.Namespace) -> None:
    config, _ = open_config(args)
    for stage in list_stages(config):
        print(*stage)


if __name__ == "__main__":
    run_script(main, make_parser(__doc__))
