"""Say how long the rest of a run will take, by what its stages so far have taken.

    python src/pace.py 3 2 640 80 < stages.txt

`stages.txt` is what `list_stages.py --work` prints, the numbers are the seconds of the first stages. Prints, e.g.,
"about 6 min left", or nothing where no like stage has run yet.
"""

import argparse
import sys

SHORTEST = 20  # seconds: a stage that was done already takes fewer, and tells nothing


def time_left(stages: list[tuple[float, str]], taken: list[float]) -> str:
    """Words for the time that the stages after the first `taken` will need; "" where nothing is known.

    `stages` are each one's work and script. A script's stages take as long for the same work; where some to come have
    no like among those that ran, it will be more.
    """
    work: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for (amount, script), time in zip(stages[: len(taken)], taken, strict=True):
        if time >= SHORTEST:
            work[script] = work.get(script, 0.0) + amount
            seconds[script] = seconds.get(script, 0.0) + time
    rest = stages[len(taken) :]
    known = [amount * seconds[script] / work[script] for amount, script in rest if script in work]
    if not known:
        return ""
    hours, minutes = divmod(max(1, round(sum(known) / 60)), 60)
    shown = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{'about' if len(known) == len(rest) else 'more than'} {shown} left"


def main(args: argparse.Namespace) -> None:
    lines = [line.split() for line in sys.stdin.read().splitlines()]
    print(time_left([(float(words[0]), words[1]) for words in lines], args.seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="*", help="of each stage that has run")
    main(parser.parse_args())
