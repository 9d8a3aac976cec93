"""Run a config's stages one after the other, from its data to its submission, and show the table they end in.

    python src/run_stages.py --config configs/sample.yaml
    python src/run_stages.py --config configs/sample.yaml --list

This is what run.sh starts. With --list the commands are only printed, one a line, for a scheduler. Where there is
something to train, the libraries are imported here once, while the data are prepared, and each stage is forked from
this process with them; it is a process of its own all the same, which can be killed and started again, alone too.
"""

import argparse
import gc
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from children import end_with_parent
from cli import make_parser, open_config, run_script
from stages import list_stages, stage_work, time_left

SRC = Path(__file__).resolve().parent
FORKS = sys.platform == "linux"  # elsewhere a process that has loaded its libraries cannot be forked safely
PATIENCE = 10.0  # seconds that a stage has to end in order
USED = (
    "accelerate",
    "albumentations",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "predictions",
    "segmentation_models_pytorch",
    "torch.utils.tensorboard",
    "validation",
)


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    stages = list_stages(config)
    if args.list:
        for stage in stages:
            print(*stage)
        return
    shared = shared_arguments(args)
    works, taken, start = [(stage_work(config, stage), stage[0]) for stage in stages], [], time.monotonic()
    training = FORKS and (args.fresh or not paths.report.exists())
    for number, (script, *arguments) in enumerate(stages, start=1):
        left = time_left(works, taken)
        clock = show_clock(time.monotonic() - start)
        print(f"[{number}/{len(stages)}] {' '.join([script, *arguments])}  ({clock}{', ' * bool(left)}{left})")
        if training and script == "train.py":
            load_libraries()
        before = time.monotonic()
        code = run_stage(script, [*arguments, *shared, *["--fresh"] * args.fresh], load_ahead=training and number == 1)
        taken.append(time.monotonic() - before)
        if code:
            again = "the same command without --fresh" if args.fresh else "the same command"
            said = f"stage {number}, {' '.join([script, *arguments])}, failed (exit code {code})"
            print(f"run_stages.py: {said}; once mended, {again} goes on from there", file=sys.stderr)
            sys.exit(code)
    print(f"done in {show_clock(time.monotonic() - start)}\n")
    sys.exit(run_stage("evaluate.py", [*shared, "--print"]))


def shared_arguments(args: argparse.Namespace) -> list[str]:
    """What every stage is told besides its own arguments."""
    named = ["--config", str(args.config), "--workspace", str(args.workspace)]
    return [*named, *(word for one in args.overrides for word in ("--set", one)), *["--debug"] * args.debug]


def show_clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def load_libraries(wanted: Callable[[], bool] = lambda: True) -> None:
    """Import what most stages need, as long as it is `wanted`; where it is imported already, that takes no time."""
    # so that asking for a GPU leaves this process without a CUDA context, which its children could not use
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in USED:
        if wanted():
            importlib.import_module("runtime").mend_torchvision()
            importlib.import_module(name)
    gc.freeze()  # each search for garbage in a stage would look through all the libraries' objects, for half a second


def run_stage(script: str, arguments: list[str], load_ahead: bool = False) -> int:
    """Run a script in a process of its own; its exit code, or 128 + the signal that ended it.

    With `load_ahead`, the next stages' libraries are imported here in the meantime.
    """
    if not FORKS:
        return subprocess.run([sys.executable, "-u", str(SRC / script), *arguments]).returncode
    stage = multiprocessing.get_context("fork").Process(target=enter, args=(script, arguments), name=script)
    stage.start()
    try:
        if load_ahead:
            load_libraries(wanted=stage.is_alive)
        stage.join()
    except KeyboardInterrupt:
        stage.join(PATIENCE)  # a terminal's Ctrl-C goes to it too, and it ends in order
        stage.terminate()
        raise
    return 128 - stage.exitcode if stage.exitcode < 0 else stage.exitcode


def enter(script: str, arguments: list[str]) -> None:
    """Become the command `python SCRIPT ARGUMENTS`, gone when run_stages.py is."""
    end_with_parent()
    sys.argv = [str(SRC / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--list", action="store_true", help="only print the stages' commands")
    run_script(main, parser)
