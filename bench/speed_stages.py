"""bench_speed.py's rows on whole commands: what stages cost beside their work, the start of --help, two at once."""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SRC = Path(__file__).resolve().parent.parent / "src"
CONFIG = SRC.parent / "configs" / "sample.yaml"
WORKED = "worked"  # the name of the spans in which a stage did what it is for
QUICK = ("rounds=[{}]", "train.epochs=1", "folds.count=2")
# what a stage is for, by module and name: the rest of its time is imports, set-up and I/O
WORK = {
    "prepare": (("scenes", "draw_scene"),),
    "train": (("engine", "train_one_epoch"), ("validation", "evaluate")),
    "predict": (("inference", "Predictor.__call__"),),
    "make_pseudo_labels": (("pseudo", "label_pixels"), ("pseudo", "confidence_histogram")),
    "ensemble": (("ensemble", "sample_pixels"), ("ensemble", "fit_weights")),
    "evaluate": (("evaluate", "fit"), ("evaluate", "score_phases")),
    "make_report": (("pictures", "plot_curves"), ("pictures", "draw_curve_sheet"), ("pictures", "draw_picture_sheet")),
}


def measure_stages(quick: bool) -> tuple[str, bool]:
    """The sample's stages as run.sh runs them, each with the time of its work taken inside it."""
    overrides = [word for one in (QUICK if quick else ()) for word in ("--set", one)]
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        start = time.perf_counter()
        command = [sys.executable, __file__, "stages", "--config", str(CONFIG), "--workspace", folder, *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - start
        lines = (Path(folder) / "work.jsonl").read_text(encoding="utf-8").splitlines()
    spans = [(name, start, end) for name, start, end in map(json.loads, lines)]
    worked = [(start, end) for name, start, end in spans if name == WORKED]
    for stage, start, end in spans:
        if stage != WORKED:
            inside = covered([one for one in worked if start <= one[0] <= end])
            print(f"{stage}: {end - start:.1f} s, {inside:.1f} s of them work", file=sys.stderr, flush=True)
    share = 1 - covered(worked) / whole
    return f"{share:.1%} of {whole:.0f} s nothing is drawn, trained, predicted or fitted", share <= 0.10


def covered(spans: list[tuple[float, float]]) -> float:
    """The seconds that lie in one span or more: folds work beside each other."""
    total, last = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def measure_help(quick: bool) -> tuple[str, bool]:
    seconds, spent = [], []
    for _ in range(5 if quick else 15):
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, str(SRC / "train.py"), "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds.append(time.perf_counter() - start)
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    shown = f"{statistics.median(spent):.2f} s of a processor ({statistics.median(seconds):.2f} s by the clock, "
    shown += "with what else ran)"
    return shown, statistics.median(spent) <= 0.5


def measure_processes(quick: bool) -> tuple[str, None]:
    """Images a second of one process on all cores, of two that share a fold, and of two folds side by side."""
    steps, turns = (4, 1) if quick else (12, 3)
    train = {"train.epochs": 1, "train.steps_per_epoch": steps, "model.weights": "none", "rounds": "[{}]"}
    overrides = [word for key, value in train.items() for word in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        shared = ["--config", str(CONFIG), "--workspace", folder, *overrides]
        for script in ("prepare", "make_folds"):
            subprocess.run([sys.executable, str(SRC / f"{script}.py"), *shared], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[float]] = {"one": [], "shared": [], "folds": []}
        for _ in range(turns):
            found["one"].append(train_at_once(Path(folder), shared, folds=[0]))
            found["shared"].append(train_at_once(Path(folder), shared, folds=[0], processes=2))
            found["folds"].append(train_at_once(Path(folder), shared, folds=[0, 1]))
    one, both, folds = (statistics.median(speeds) for speeds in found.values())
    shown = (
        f"one process on all cores {one:.1f} images/s; two on one fold {both / one:.2f}×; two folds {folds / one:.2f}×"
    )
    return f"{shown}; each run writes in its own fold's folder", None


def train_at_once(folder: Path, shared: list[str], folds: list[int], processes: int = 1) -> float:
    """Images a second of these folds together, while each trains, without the start of the processes."""
    cores = max(1, (os.cpu_count() or 1) // max(len(folds), processes))
    environment = os.environ | {"OMP_NUM_THREADS": str(cores), "ACCELERATE_USE_CPU": "true"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo"} if processes > 1 else {}
    launcher = [sys.executable]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]
    running = []
    for fold in folds:
        command = [*launcher, str(SRC / "train.py"), *shared, "--fresh", "--fold", str(fold)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    codes = [one.wait() for one in running]
    if any(codes):
        raise RuntimeError(f"training of folds {folds} with {processes} processes failed")
    logs = [folder / "runs" / "sample" / "round0" / f"fold{fold}" / "log.jsonl" for fold in folds]
    return sum(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["images_per_second"] for log in logs)


def run_stages(arguments: list[str]) -> None:
    """run_stages.py with a clock in every stage."""
    import run_stages as runner
    from cli import make_parser

    parser = make_parser(None)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args(arguments)
    runner.enter = partial(enter_timed, args.workspace / "work.jsonl")
    runner.main(args)


def enter_timed(log: Path, script: str, arguments: list[str]) -> None:
    """A stage in its own process, as run_stages.enter has it, its work timed."""
    from cli import make_parser

    start, name = time.perf_counter(), script.removesuffix(".py")
    for module, function in WORK.get(name, ()):
        owner: Any = importlib.import_module(module)
        *outer, last = function.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, last, timed(getattr(owner, last), log))
    module = importlib.import_module(name)
    numbered = name in ("train", "predict", "make_pseudo_labels")
    parser = make_parser(None, fold=numbered, round=numbered)
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    module.main(parser.parse_args(arguments))
    note(log, " ".join([script, *arguments[:2]]), start)


def timed(function: Callable, log: Path) -> Callable:
    def wrapper(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            note(log, WORKED, start)

    return wrapper


def note(log: Path, name: str, start: float) -> None:
    """Write a span that ends now as a line; the clock is the same in all processes."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps([name, start, time.perf_counter()]) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(SRC))
    run_stages(sys.argv[2:])
