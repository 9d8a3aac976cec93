"""Do unlabelled images beat supervised training of the same number of steps? Over seeds, on hidden labels.

    python bench/compare_pseudo.py --config configs/dsb2018.yaml --seeds 0 1 2

Each seed keeps other labels, makes other folds and other weights. Both arms train fold 0 for the same number of steps:
"joint" as the config's rounds up to the first joint one say, with pseudo-labels, a mean teacher or both, "supervised"
on real labels alone: in the very same rounds, with real crops in the place of the pool's, or, where the joint round
starts from the encoder again, in one schedule as long as all of them. Teachers answer as the config says, both arms
plainly, with postprocessing fitted on the fold held out; both are scored there, nested, and on the pool, whose labels
neither arm has seen. At the config's own seed, what its own run has done already is taken from there. Prints a table
and writes it to runs/compare_pseudo.json.

How much could the pool bring at best? `--ceiling 400` adds supervised training, of as many steps, with the labels of
400 images; all arms are then scored on the images that are left. It holds out other images than they, so it has no gain
out of fold.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "src"))

from artifacts import Paths, write_json  # noqa: E402
from children import end_with_parent  # noqa: E402
from cli import make_parser, run_script  # noqa: E402
from config import Config, Round  # noqa: E402
from errors import UserError  # noqa: E402
from index import read_index  # noqa: E402
from settings import load_config  # noqa: E402

KEYS = ("out of fold", "hidden")
PLAIN = ("predict.tta=none", "predict.scales=[1.0]")


def main(args: argparse.Namespace) -> None:
    check_seeds(args.seeds)
    config = load_config(args.config, args.overrides)
    joint = next((number for number, one in enumerate(config.rounds) if one.phase == "joint"), None)
    if joint is None:
        raise UserError(f"{args.config}: no round is joint, so there is nothing to compare")
    if not all(one.train.steps_per_epoch for one in config.rounds[: joint + 1]):
        raise UserError(
            "train.steps_per_epoch: give a number, as --set train.steps_per_epoch=25; an epoch once through the real "
            "images has more steps where the pool takes a part of each batch, and the arms would differ"
        )
    rows = []
    for seed in args.seeds:
        arms = {arm: arm_overrides(config, arm, joint, seed) for arm in ("supervised", "joint")}
        if args.ceiling is not None:
            labels = [f"name={config.name}_ceiling{args.ceiling}_seed{seed}", f"data.labels.keep={args.ceiling}"]
            arms["ceiling"] = [*arms["supervised"], *labels]
        arms = {arm: [*args.overrides, *changes] for arm, changes in arms.items()}
        rounds = {arm: load_config(args.config, changes).rounds[: joint + 1] for arm, changes in arms.items()}
        for arm, overrides in arms.items():
            run_arm(args, overrides, rounds[arm])
        judges = set.intersection(*(hidden_ids(args, overrides) for overrides in arms.values()))
        if not judges:
            raise UserError(f"--ceiling {args.ceiling}: no image is left to judge by; keep fewer labels")
        for arm, overrides in arms.items():
            scores = score_arm(args, overrides, len(rounds[arm]) - 1, judges)
            rows.append({"seed": seed, "arm": arm, "images": len(judges), **scores})
            print(rows[-1], flush=True)
    write_json(args.workspace / "runs" / "compare_pseudo.json", rows)
    print_table(rows, config.metric)


def check_seeds(seeds: list[int]) -> None:
    """Raises UserError for one that is given twice: it would weigh twice in means, and make deviations smaller."""
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: each counts once, so give it once")


def arm_overrides(config: Config, arm: str, joint: int, seed: int) -> list[str]:
    """What makes an arm of the config: its own name and seed, and for supervised training rounds of real labels."""
    if arm == "joint":
        return [] if seed == config.seed else [f"name={config.name}_joint_seed{seed}", f"seed={seed}"]
    if config.rounds[joint].start == "previous":
        rounds = [one.model_dump(mode="json") for one in config.rounds[: joint + 1]]
        rounds[joint] |= {"phase": "finetune", "pseudo": None, "consistency": None}
    else:
        rounds = [one_schedule(config, joint)]
    return [
        f"name={config.name}_supervised_seed{seed}",
        f"seed={seed}",
        f"rounds={json.dumps(rounds)}",
        *PLAIN,
    ]


def one_schedule(config: Config, joint: int) -> dict:
    """A supervised round of as many steps as all up to the joint one.

    Raises UserError where an epoch has not as many steps in all of them.
    """
    first = config.rounds[0].train
    if any(one.train.steps_per_epoch != first.steps_per_epoch for one in config.rounds[: joint + 1]):
        raise UserError("rounds: give all rounds the same train.steps_per_epoch, or the arms' steps would differ")
    epochs = sum(one.train.epochs for one in config.rounds[: joint + 1])
    return {"phase": "warmup", "train": first.model_dump(mode="json") | {"epochs": epochs}}


def run_arm(args: argparse.Namespace, overrides: list[str], rounds: tuple[Round, ...]) -> None:
    """Run the stages of one arm on fold 0, skipping what is done."""
    common = ["--config", str(args.config), "--workspace", str(args.workspace)]
    common += [word for override in overrides for word in ("--set", override)] + ["--fresh"] * args.fresh
    stages = [["prepare.py"], ["make_folds.py"]]
    for number, one in enumerate(rounds):
        on_fold = ["--round", str(number), "--fold", "0"]
        stages += [["make_pseudo_labels.py", *on_fold]] if one.pseudo else []
        stages += [["train.py", *on_fold]]
        if number == len(rounds) - 1:
            stages += [["predict.py", *on_fold, *(word for override in PLAIN for word in ("--set", override))]]
        elif any(later.pseudo for later in rounds[number + 1 :]):  # a teacher's answers are asked for
            stages += [["predict.py", *on_fold]]
    for stage in stages:
        run_told([sys.executable, str(TOP / "src" / stage[0]), *common, *stage[1:]])


def run_told(command: list[str]) -> None:
    """Run a script that tells its own mistakes, and ends when we do; with a mistake, its exit code is ours."""
    code = subprocess.run(command, preexec_fn=partial(end_with_parent, os.getpid())).returncode
    if code:
        sys.exit(code)


def hidden_ids(args: argparse.Namespace, overrides: list[str]) -> set[str]:
    """The images whose labels were kept from an arm."""
    config = load_config(args.config, overrides)
    table = read_index(Paths(args.workspace, config.name))
    return set(table.loc[table["split"] == config.data.solution_of, "image_id"])


def score_arm(args: argparse.Namespace, overrides: list[str], round: int, judges: set[str]) -> dict[str, float]:
    """Plain predictions of fold 0's model, on its own fold (nested over two halves) and on the hidden labels of the
    images `judges`.

    Postprocessing is fitted on the arm's own fold: the arms' probabilities lean differently, and at fixed thresholds
    that alone would decide between them.
    """
    from fitting import fit_parameters
    from postprocess import to_label
    from predictions import read_hidden, read_oof
    from scoring import score_pairs

    config = load_config(args.config, overrides)
    paths = Paths(args.workspace, config.name)
    oof, hidden = (paths.probabilities(round, 0, split, False) for split in ("oof", config.data.solution_of))
    held_out = enumerate(read_oof(paths, oof, 0))
    fitted = fit_parameters(config, ((place % 2, truth, answer) for place, (_, truth, answer) in held_out))
    images = read_hidden(paths, hidden)
    pairs = (
        (truth, to_label(answer, config.task, fitted.parameters)) for name, truth, answer in images if name in judges
    )
    return {"out of fold": fitted.nested, "hidden": score_pairs(config, pairs)[config.metric]}


def print_table(rows: list[dict], metric: str) -> None:
    print(f"\n{metric:<16} {'out of fold':>18} {'hidden':>18}")
    arms: dict[str, list[dict]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    for arm, mine in arms.items():
        print_line(arm, [[row[key] for row in mine] for key in KEYS])
    for arm, mine in list(arms.items())[1:]:
        pairs, keys = list(zip(mine, arms["supervised"], strict=True)), KEYS[1:] if arm == "ceiling" else KEYS
        gains = {key: [one[key] - other[key] for one, other in pairs] for key in keys}
        print_line(f"{arm}'s gain", [gains.get(key, []) for key in KEYS])


def print_line(label: str, columns: list[list[float]]) -> None:
    print(f"{label:<16}", *(f"{spread(values) if values else '-':>18}" for values in columns))


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ceiling", type=int, metavar="LABELS")
    run_script(main, parser)
