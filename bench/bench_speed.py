"""How fast everything is, as ratios to how it is usually done: a row a claim, written to bench/RESULTS.md.

    python bench/bench_speed.py                      # every row; some hours on two cores, most of them for "window"
    python bench/bench_speed.py --quick              # smaller sizes: a look, in some minutes
    python bench/bench_speed.py --only help loading  # these rows again; the others stay in the file

Each row runs in a process of its own. What is compared takes turns in it, so that a busy machine slows both alike;
ratios are of medians. Rows stand under the machine they were measured on. MONAI is no requirement of the project:
without it (pip install monai) its row says so. Where other work holds some of the cores, OMP_NUM_THREADS=1 keeps
threads from waiting for each other; a row says so too.
"""

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BENCH = Path(__file__).resolve().parent
RESULTS = BENCH / "RESULTS.md"
HEADER = "| row | what | against | to reach | measured | reached |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """One claim. `module` has a function `name` that measures it: (quick) → (what was measured, whether it holds)."""

    name: str
    module: str
    what: str
    against: str
    target: str


ROWS = (
    Row(
        "throughput",
        "speed_training",
        "training throughput, U-Net with ResNet-18 (random weights) and EfficientNet-Lite0, 256²",
        "the plain loop the originals use (float32, NCHW, PIL decode per item)",
        "≥ 3×",
    ),
    Row(
        "pipeline", "speed_training", "the same, with its data pipeline", "the bare step on tensors in memory", "≥ 0.95"
    ),
    Row(
        "loading",
        "speed_training",
        "weak + strong + mask loading",
        "the same in the originals' way (decode, PIL, per sample)",
        "≥ 3×",
    ),
    Row(
        "window",
        "speed_prediction",
        "sliding window with D4 over a large image",
        "MONAI's sliding_window_inference: same model, window and overlap",
        "faster, ≤ half its peak memory",
    ),
    Row("tiff", "speed_prediction", "a tiled TIFF of 30,000×30,000 through infer.py", "1.5 GB in all", "finishes"),
    Row(
        "ensemble",
        "speed_prediction",
        "5 folds × 8 TTA over small images",
        "five times one fold's time",
        "≤ 1.0, each image decoded once",
    ),
    Row("stages", "speed_stages", "stages' overhead in run.sh (imports, set-up, I/O)", "the whole time", "≤ 10 %"),
    Row("help", "speed_stages", "start of train.py --help", "-", "≤ 0.5 s"),
    Row("processes", "speed_stages", "two processes; two folds at once", "one", "state the efficiency"),
    Row(
        "gpu",
        "speed_gpu",
        "training on a GPU, 256², its share of time computing",
        "the bare step on batches in its memory",
        "≥ 95 %",
    ),
    Row(
        "books",
        "speed_books",
        "index, folds and pseudo-label books for 1,000,000 images (stub predictions)",
        "-",
        "linear time, memory < 2 GB",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"these rows: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--measure", metavar="NAME", choices=names, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measured, reached = measure(args.measure, args.quick)
        print(json.dumps({"measured": measured, "reached": reached}))
        return
    where, failed = machine(), []
    for row in ROWS:
        if args.only and row.name not in args.only:
            continue
        print(f"{row.name}: {row.what} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--measure", row.name, *(["--quick"] if args.quick else [])]
        environment = os.environ | {"TQDM_DISABLE": "1"}
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
        if answer.returncode:
            failed.append(row.name)
            continue
        found = json.loads(answer.stdout.splitlines()[-1])
        if threads := os.environ.get("OMP_NUM_THREADS"):
            found["measured"] += f" (OMP_NUM_THREADS={threads})"
        line = format_row(row, **found, quick=args.quick)
        print(line, flush=True)
        text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""
        RESULTS.write_text(merge_row(text, where, line), encoding="utf-8")
    if failed:
        sys.exit(f"no result for {', '.join(failed)}")


def measure(name: str, quick: bool) -> tuple[str, bool | None]:
    sys.path[:0] = [str(BENCH.parent / "src"), str(BENCH)]
    (row,) = (row for row in ROWS if row.name == name)
    return getattr(importlib.import_module(row.module), f"measure_{name}")(quick)


def format_row(row: Row, measured: str, reached: bool | None, quick: bool) -> str:
    said = {True: "at this size" if quick else "yes", False: "no", None: "-"}[reached]
    cells = (f"`{row.name}`", row.what, row.against, row.target, measured + (" (--quick)" if quick else ""), said)
    return f"| {' | '.join(cells)} |"


def merge_row(text: str, where: str, line: str) -> str:
    """The results with one row put in or replaced under its machine; rows stand in the order of ROWS."""
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    tables = dict(section.split("\n", 1) for section in sections)
    order = [f"| `{row.name}` " for row in ROWS]
    lines = {key: one for one in tables.get(where, "").splitlines() for key in order if one.startswith(key)}
    lines |= {key: line for key in order if line.startswith(key)}
    rows = "\n".join(lines[key] for key in order if key in lines)
    tables[where] = f"{HEADER}{rows}"
    head = head or "# Speed\n\n`python bench/bench_speed.py` writes this file, a table a machine.\n\n"
    return head + "\n\n".join(f"## {name}\n\n{table.strip()}" for name, table in tables.items()) + "\n"


def machine() -> str:
    """The processor, its cores and what can be told of its arithmetic, and the versions that decide speed."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    names, flags = re.findall(r"model name\s*: (.*)", text), " ".join(re.findall(r"^flags\s*: (.*)", text, re.M)[:1])
    told = {"avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_tile": "AMX"}
    kinds = [shown for flag, shown in told.items() if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "numpy", "opencv-python-headless", "albumentations"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    name = names[0] if names else platform.processor() or platform.machine()
    number = re.search(r"cpu family\s*: (\d+)\nmodel\s*: (\d+)", text)
    if number and not re.search(r"\d", name):  # a name that many different processors share
        name += f", family {number[1]} model {number[2]}"
    return f"{name} ({', '.join(kinds) or 'no AVX-512'}), {cores} cores; {', '.join(versions)}"


if __name__ == "__main__":
    main()
