"""Do a system's rounds beat the protocol it came from? Whole runs of several configs, over seeds, on the same split.

    python bench/compare_configs.py --seeds 0 1 2 \\
        --arm original configs/originals/dubai_points.yaml \\
        --arm longer configs/originals/dubai_points.yaml train.epochs=40 \\
        --arm ours configs/dubai_points.yaml \\
        --set folds.count=1 --set folds.validation=14 --set postprocess.fit=false --set ensemble.fit_weights=false

An arm is a name, a config and what is changed in it; --set changes all of them alike. Where the arms' sections data and
folds say the same, a seed gives them the same images to train and to be judged on. Held-out images judge, by their
masks where points were drawn from masks. Prints each phase of each arm and the minutes its trainings took, and writes
all scores to runs/compare_configs.json. What is done already is skipped, without --fresh: seeds can be run
elsewhere before.
"""

import argparse
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "src"), str(TOP / "bench")]

from compare_pseudo import check_seeds, run_told, spread  # noqa: E402

from artifacts import Paths, read_json, write_json  # noqa: E402
from cli import make_parser, run_script  # noqa: E402
from config import Config  # noqa: E402
from errors import UserError  # noqa: E402
from layouts import read_epochs  # noqa: E402
from settings import load_config  # noqa: E402


def main(args: argparse.Namespace) -> None:
    check_seeds(args.seeds)
    if any(len(arm) < 2 for arm in args.arm) or len({arm[0] for arm in args.arm}) != len(args.arm):
        raise UserError("--arm: give each a name of its own and a config, e.g. --arm ours configs/dubai_points.yaml")
    rows = []
    for seed in args.seeds:
        for name, file, *changes in args.arm:
            config = load_config(Path(file), [*args.overrides, *changes, f"seed={seed}"])
            overrides = [*args.overrides, *changes, f"seed={seed}", f"name={config.name}_{name}_seed{seed}"]
            rows += run_arm(args, name, Path(file), overrides)
            print(rows[-1], flush=True)
    write_json(args.workspace / "runs" / "compare_configs.json", rows)
    print_table(rows, [name for name, *_ in args.arm])


def run_arm(args: argparse.Namespace, name: str, file: Path, overrides: list[str]) -> list[dict]:
    """Run a config whole, skipping what is done; a row a phase."""
    command = [sys.executable, str(TOP / "src" / "run_stages.py"), "--config", str(file), "--workspace"]
    changes = [word for override in overrides for word in ("--set", override)]
    run_told([*command, str(args.workspace), *changes, *["--fresh"] * args.fresh])
    config = load_config(file, overrides)
    paths, minutes = Paths(args.workspace, config.name), 0.0
    table, rows = read_json(paths.scores), []
    by_masks = table["judges"] and table["judges"][0] != "masks"
    for phase in table["phases"]:
        if phase["round"] != (rows[-1]["round"] if rows else -1):
            minutes += training_minutes(config, paths, phase["round"])
        scores = phase["other_scores"] if by_masks else phase["oof_scores"]
        found = {"scores": scores, "hidden": phase["hidden_scores"], "minutes": minutes}
        rows.append({"arm": name, "seed": config.seed, "phase": phase["name"], "round": phase["round"], **found})
    return rows


def training_minutes(config: Config, paths: Paths, round: int) -> float:
    """What a round's epochs took, all folds together, without their evaluation."""
    logs = [paths.run(round, fold) / "log.jsonl" for fold in range(config.folds.count)]
    return sum(line["seconds"] for log in logs for line in read_epochs(log)) / 60.0


def print_table(rows: list[dict], arms: list[str]) -> None:
    """A line for each phase of each arm: its scores out of fold, then hidden ones, as mean ± deviation over seeds."""
    print(f"\n{'arm':<12} {'phase':<26} {'score':<12} {'out of fold':>16} {'hidden':>16} {'minutes':>8}")
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        for phase in dict.fromkeys(row["phase"] for row in mine):
            some = [row for row in mine if row["phase"] == phase]
            time = sum(row["minutes"] for row in some) / len(some)
            for score in (name for name in some[0]["scores"] if " " not in name):
                shown = spread([row["scores"][score] for row in some])
                hidden = spread([row["hidden"][score] for row in some]) if some[0]["hidden"] else "-"
                print(f"{arm:<12} {phase:<26} {score:<12} {shown:>16} {hidden:>16} {time:>8.1f}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arm", nargs="+", action="append", required=True, metavar="NAME CONFIG A.B=C")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])


if __name__ == "__main__":
    parser = make_parser(__doc__)
    add_arguments(parser)
    run_script(main, parser)
