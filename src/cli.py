"""What every script's command line shares: the config, the switches, and how a mistake is told.

Scripts import torch and its friends only after their arguments are read, so that --help answers at once.
"""

import argparse
import errno
import gc
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from artifacts import TOP, Paths
from config import Config
from errors import UserError, one_line
from settings import load_config

# a path that is not what it should be, which its message names
MISPLACED = (errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM)
DEFAULT_CONFIG = TOP / "configs" / "sample.yaml"


def make_parser(docstring: str | None, *, fold: bool = False, round: bool = False) -> argparse.ArgumentParser:
    """A parser with the shared switches; `--fold` and `--round` where a script works on one of them."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: configs/sample.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help="change one config value"
    )
    parser.add_argument("--workspace", type=Path, default=TOP, help="where data/, runs/ … lie (default: the project)")
    parser.add_argument("--fresh", action="store_true", help="do it again where it is done already")
    parser.add_argument("--debug", action="store_true", help="show the stack trace of a mistake")
    if fold:
        parser.add_argument("--fold", type=int, help="one fold (default: all)")
    if round:
        parser.add_argument("--round", type=int, default=0, help="which of the config's rounds (default: 0)")
    return parser


def open_config(args: argparse.Namespace) -> tuple[Config, Paths]:
    """The config a command names, checked against its --fold and --round. Raises UserError."""
    config = load_config(args.config, args.overrides)
    rounds, fold = len(config.rounds), getattr(args, "fold", None)
    if not 0 <= getattr(args, "round", 0) < rounds:
        raise UserError(f"--round {args.round}: {args.config} has rounds 0 to {rounds - 1}")
    if fold is not None and not 0 <= fold < config.folds.count:
        raise UserError(f"--fold {fold}: {args.config} has folds 0 to {config.folds.count - 1}")
    return config, Paths(args.workspace, config.name)


def chosen_folds(args: argparse.Namespace, config: Config) -> list[int]:
    return list(range(config.folds.count)) if args.fold is None else [args.fold]


def tell(line: str) -> None:
    """Print a line of its own, also where the bar of a fold beside this one stands on the terminal's line."""
    print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)


def run_script(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parse the command line and run `main`; a UserError becomes one line on standard error and exit code 2."""
    args = parser.parse_args()
    try:
        guard(main, args)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # the end would look through all the libraries' objects once more, which takes a second or two


def guard(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run `main(args)`; a mistake of the user, or of the place it works in, is told in a line and exits with 2."""
    try:
        main(args)
    except (UserError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        misplaced = isinstance(error, OSError) and error.errno in MISPLACED and error.filename
        if isinstance(error, OSError) and not full and not misplaced:
            raise
        if args.debug:
            traceback.print_exc()
        reason: object = error
        if full:
            reason = f"{args.workspace}: the disk is full; free some space and start again"
        elif misplaced:
            reason = f"{error.filename}: {error.strerror}; name another path or put this one right"
        print(f"{Path(sys.argv[0]).name}: {one_line(reason)}", file=sys.stderr)
        sys.exit(2)
