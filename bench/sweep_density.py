"""How few labelled pixels are enough? One model at each density of points, over seeds, judged on dense masks.

    python bench/sweep_density.py --config configs/dubai_points.yaml --points 10 30 100 300 dense --seeds 0 1 2

A number is points an image, a share as 1% that of its pixels, "dense" the whole masks. Each seed draws other points,
makes other folds and other weights; all else is the config's. Trains the first --rounds rounds on fold 0 and predicts
it plainly; the masks of that fold judge. Prints a table, and writes it to runs/<name>_density.json and the plot of the
score over density to reports/<name>/density.png. What is done already is skipped.
"""

import argparse
import json
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "src"), str(TOP / "bench")]

from compare_pseudo import check_seeds, run_arm, spread  # noqa: E402

from artifacts import Paths, atomic, write_json  # noqa: E402
from cli import make_parser, run_script  # noqa: E402
from errors import UserError  # noqa: E402
from settings import load_config  # noqa: E402


def main(args: argparse.Namespace) -> None:
    check_seeds(args.seeds)
    config = load_config(args.config, args.overrides)
    if not 1 <= args.rounds <= len(config.rounds):
        raise UserError(f"--rounds {args.rounds}: {args.config} has {len(config.rounds)}")
    drawn = {points: draw(points) for points in args.points}
    rounds = [one.model_dump(mode="json") for one in config.rounds[: args.rounds]]
    for one in rounds if args.epochs is not None else ():
        one["train"]["epochs"] = args.epochs
    rows = []
    for points, rule in drawn.items():
        for seed in args.seeds:
            overrides = [*args.overrides, f"name={arm_name(config.name, points, seed)}", f"seed={seed}"]
            overrides += [f"data.labels.points={json.dumps(rule)}", f"rounds={json.dumps(rounds)}", "predict.tta=none"]
            run_arm(args, overrides, config.rounds[: args.rounds])
            rows.append({"points": points, "seed": seed, **score_arm(args, overrides, args.rounds - 1)})
            print(rows[-1], flush=True)
    write_json(args.workspace / "runs" / f"{config.name}_density.json", rows)
    print_table(rows, config.metric)
    path = Paths(args.workspace, config.name).report.with_name("density.png")
    with atomic(path) as temporary:
        temporary.write_bytes(plot(rows, config.metric))
    print(path)


def draw(points: str) -> dict | None:
    """What `data.labels.points` is for one word of --points. Raises UserError."""
    number = points.removesuffix("%")
    try:
        if points == "dense":
            return None
        if points.endswith("%") and 0.0 < float(number) <= 100.0:
            return {"density": float(number) / 100.0, "grid": "working"}
        if not points.endswith("%") and int(number) > 0:
            return {"count": int(number)}
    except ValueError:
        pass
    raise UserError(f"--points {points}: give numbers of points, shares of pixels such as 1%, or dense")


def arm_name(name: str, points: str, seed: int) -> str:
    return f"{name}_{points.replace('%', 'percent')}_seed{seed}"


def score_arm(args: argparse.Namespace, overrides: list[str], round: int) -> dict[str, float]:
    """Fold 0's model on its own fold's masks, and the labelled share of the training images' pixels."""
    import pandas as pd

    from artifacts import read_json
    from postprocess import starting_parameters, to_label
    from predictions import read_oof
    from scoring import score_pairs

    config = load_config(args.config, overrides)
    paths, start = Paths(args.workspace, config.name), starting_parameters(config)
    store = paths.probabilities(round, 0, "oof", False)
    images = read_oof(paths, store, 0, dense=config.data.labels.points is not None)
    scores = score_pairs(config, ((truth, to_label(answer, config.task, start)) for _, truth, answer in images))
    trained = read_json(paths.run(round, 0) / "manifest.json")["train_ids"]
    coverage = pd.read_csv(paths.data / "coverage.csv", dtype={"image_id": str}).set_index("image_id").loc[trained]
    labelled = float(coverage["labelled"].sum())
    pixels = float((coverage["height"] * coverage["width"]).sum())
    return {"score": scores[config.metric], "an_image": labelled / len(trained), "share": labelled / pixels}


def grouped(rows: list[dict]) -> dict[str, list[dict]]:
    arms: dict[str, list[dict]] = {}
    for row in rows:
        arms.setdefault(row["points"], []).append(row)
    return arms


def print_table(rows: list[dict], metric: str) -> None:
    print(f"\n{'points':<10} {'an image':>12} {'of pixels':>10} {metric:>18}")
    for points, arm in grouped(rows).items():
        labelled, share = (sum(row[key] for row in arm) / len(arm) for key in ("an_image", "share"))
        print(f"{points:<10} {labelled:>12.1f} {share:>10.4%} {spread([row['score'] for row in arm]):>18}")


def plot(rows: list[dict], metric: str) -> bytes:
    """The score over labelled pixels an image, a dot a seed, the mean as a line with one deviation around it."""
    import io

    import numpy as np
    from matplotlib.figure import Figure

    arms = sorted(grouped(rows).values(), key=lambda arm: arm[0]["an_image"])
    scores = [np.array([row["score"] for row in arm]) for arm in arms]
    places = [float(np.mean([row["an_image"] for row in arm])) for arm in arms]
    means = np.array([one.mean() for one in scores])
    deviations = np.array([one.std(ddof=1) if len(one) > 1 else 0.0 for one in scores])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(places, means - deviations, means + deviations, color="#0072b2", alpha=0.15, lw=0)
    axes.plot(places, means, color="#0072b2", marker="o", label="mean, with one deviation over seeds")
    for number, (place, one) in enumerate(zip(places, scores, strict=True)):
        label = "one seed" if not number else None
        axes.scatter([place] * len(one), one, color="#d55e00", s=14, zorder=3, label=label)
    axes.set_xscale("log")
    axes.set(xlabel="labelled pixels an image", ylabel=f"{metric} on dense masks")
    for arm, place, mean in zip(arms, places, means, strict=True):
        axes.annotate(arm[0]["points"], (place, mean), xytext=(8, -14), textcoords="offset points")
    axes.margins(x=0.12)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--points", nargs="+", default=["10", "30", "100", "300", "dense"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=1, help="rounds of the config to train (default: 1)")
    parser.add_argument("--epochs", type=int, help="epochs of each round (default: the config's)")
    run_script(main, parser)
