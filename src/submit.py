"""Submit the file that make_submission.py wrote, wait for its score, and set it beside the cross-validation score.

    python src/submit.py --config configs/mine.yaml --message "three rounds"
    python src/submit.py --config configs/mine.yaml --wait 0

A file that was submitted already is not submitted again (--fresh does): its scores are only brought up to date. All
submissions stand in submissions/log.csv; reports/<name>/agreement.png shows how far the two scores agree. Scores count
as better where they are higher. Data that has no data.kaggle cannot be submitted.
"""

import argparse
import csv
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import Paths, atomic, fingerprint, sample_file
from cli import make_parser, open_config, run_script
from config import Config
from disk import locked
from errors import UserError
from layouts import Submitted, read_checked

if TYPE_CHECKING:
    from kaggle_site import Submission

COLUMNS = (
    "time", "competition", "file", "sha256", "config_hash", "metric", "cv", "status", "public", "private", "ref"
)  # fmt: skip
SHOWN = ("time", "file", "metric", "cv", "public", "private")
Row = dict[str, str]  # a row of the log; scores are text, "" where there is none


def main(args: argparse.Namespace) -> None:
    config, paths = open_config(args)
    source = config.data.kaggle
    if not source.startswith("competitions/"):
        raise UserError(f"data.kaggle: {source!r} is no competition; say competitions/NAME, as in its address")
    row = check_file(config, paths)
    read_log(paths.submission_log)  # a log that cannot be written on is told before anything is sent
    ref, listed = send(source, paths.submission, row["sha256"], args)
    with locked(paths.submission_log):  # others may have written while this one waited
        log = update_log(read_log(paths.submission_log), row | {"ref": ref}, listed)
        write_log(paths.submission_log, log)
    ours = [one for one in log if one["competition"] == source]
    print(format_log(ours))
    print(describe_agreement(ours, paths.report.with_name("agreement.png")))
    row = next(one for one in ours if one["ref"] == ref and one["sha256"] == row["sha256"])
    if warning := warn_of_board(ours, row):
        print(f"warning: {warning}", file=sys.stderr)
    if row["status"] == "error":
        reason = next(one.fault for one in listed if str(one.ref) == ref) or "it gives no reason"
        raise UserError(f"{paths.submission}: Kaggle could not score it ({reason}); mend that and submit again")
    if row["status"] == "pending":
        print("no score yet: the same command waits on, and submits nothing twice")


def check_file(config: Config, paths: Paths) -> Row:
    """The log's row of the submission, scores of the boards still blank.

    Raises UserError where the file is missing, is another than its cross-validation score belongs to, or does not fit
    the competition's format.
    """
    from formats import submission_format, validate_submission
    from index import read_index

    said = read_checked(paths.submission.with_suffix(".json"), Submitted)
    if not paths.submission.is_file():
        raise UserError(f"{paths.submission}: missing; run make_submission.py first")
    sha256 = fingerprint(paths.submission)
    if sha256 != said["sha256"]:
        raise UserError(
            f"{paths.submission}: not the file that its .json tells the score of; run make_submission.py --fresh"
        )
    table = read_index(paths)
    table = table[table["split"] == "test"]
    sizes = dict(zip(table["image_id"], zip(table["height"], table["width"], strict=True), strict=True))
    fmt, sample = submission_format(config, paths), sample_file(config, paths)
    if faults := validate_submission(paths.submission, fmt, config.classes, sizes, sample):
        raise UserError(f"{paths.submission} {faults[0]} ({len(faults)} such faults); it was not submitted")
    metric = next(key for key in said["out_of_fold"] if key != "folds")
    return dict.fromkeys(COLUMNS, "") | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "competition": config.data.kaggle,
        "file": paths.submission.name,
        "sha256": sha256,
        "config_hash": said["config_hash"],
        "metric": metric,
        "cv": f"{said['out_of_fold'][metric]:.6g}",
    }


def send(source: str, path: Path, sha256: str, args: argparse.Namespace) -> "tuple[str, list[Submission]]":
    """Submit the file, unless Kaggle has it already, and wait for its score as long as `--wait` says.

    Returns the submission's number, "" where it is not listed yet, and the competition's list. Raises UserError.
    """
    from kaggle_site import BrokenConnection, list_submissions, submit_file

    # known again by its hash, so that a connection that breaks while submitting cannot make two of one
    mark = f"fewmask {sha256}"
    listed = list_submissions(source)
    older = {one.ref for one in listed if args.fresh}
    if args.fresh or not any(one.description.startswith(mark) for one in listed):
        submit_file(source, path, f"{mark} {args.message}".strip())
        print(f"{path}: submitted to {source}")
        listed = list_submissions(source)
    else:
        print(f"{path}: submitted already")
    end, pause = time.monotonic() + 60.0 * args.wait, 1.0
    while True:
        found = [one for one in listed if one.description.startswith(mark) and one.ref not in older]
        newest = max(found, key=lambda one: one.ref, default=None)
        if (newest and newest.status != "pending") or time.monotonic() + pause > end:
            return str(newest.ref) if newest else "", listed
        time.sleep(pause)
        pause = min(30.0, 1.5 * pause)
        try:
            listed = list_submissions(source)
        except BrokenConnection as error:
            print(error, file=sys.stderr)


def read_log(path: Path) -> list[Row]:
    """The log's rows, [] where there is none. Raises UserError where it is no such table."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            rows = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: no CSV in UTF-8 ({error}); save it as such or move it away") from None
    if tuple(reader.fieldnames or ()) != COLUMNS or any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path}: its columns are not {','.join(COLUMNS)}; mend it or move it away")
    return rows


def update_log(log: list[Row], row: Row, listed: "list[Submission]") -> list[Row]:
    """The log with `row` in it, once, and with what Kaggle now says of every submission it lists."""
    same = [
        one
        for one in log
        if (one["competition"], one["sha256"]) == (row["competition"], row["sha256"]) and one["ref"] in ("", row["ref"])
    ]
    row = {**row, "time": same[0]["time"]} if same else row
    said = {str(one.ref): one for one in listed}
    updated = []
    for one in [*(one for one in log if one not in same), row]:
        now = said.get(one["ref"]) if one["competition"] == row["competition"] else None
        boards = {"status": "pending" if not one["status"] else one["status"]}
        if now:
            boards = {"status": now.status, "public": _text(now.public), "private": _text(now.private)}
        updated.append({**one, **boards})
    return updated


def write_log(path: Path, log: list[Row]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)


def format_log(log: list[Row]) -> str:
    """A small table, a line a submission."""
    table = [list(SHOWN), *([row[name] for name in SHOWN] for row in log)]
    widths = [max(len(line[column]) for line in table) for column in range(len(SHOWN))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)


def describe_agreement(log: list[Row], plot: Path) -> str:
    """How far cross-validation and public board order the submissions alike, drawn as a PNG. One line to print."""
    # one metric's scores only: another's lie on another scale
    scored = [row for row in log if row["public"] and row["metric"] == log[-1]["metric"]]
    cv, public = ([float(row[name]) for row in scored] for name in ("cv", "public"))
    if len(set(cv)) < 2 or len(set(public)) < 2:
        return "agreement with the public board: too few scores to say"
    import matplotlib.figure
    import pandas as pd

    rank = float(pd.DataFrame({"cv": cv, "public": public}).rank().corr().loc["cv", "public"])
    figure = matplotlib.figure.Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(cv, public)
    for row, x, y in zip(scored, cv, public, strict=True):
        axes.annotate(row["file"], (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points", parse_math=False)
    axes.set(xlabel=f"{scored[-1]['metric']} out of fold", ylabel="public board")
    axes.set_title(f"rank correlation {rank:.2f} over {len(scored)} submissions")
    with atomic(plot) as temporary:
        figure.savefig(temporary, dpi=100)
    return f"agreement with the public board: rank correlation {rank:.2f} over {len(scored)} submissions, {plot}"


def warn_of_board(log: list[Row], row: Row) -> str:
    """One line where only the public board favours this submission over one that is better out of fold, or ""."""
    if not row["public"]:
        return ""
    better = [
        one
        for one in log
        if one["public"]
        and one["metric"] == row["metric"]
        and float(one["public"]) < float(row["public"])
        and float(one["cv"]) > float(row["cv"])
    ]
    if not better:
        return ""
    best = max(better, key=lambda one: float(one["cv"]))
    return (
        f"the public board alone favours this {row['file']} ({row['public']} against {best['public']}): out of fold it "
        f"is worse ({row['cv']}) than {best['file']} of {best['time'][:10]} ({best['cv']}); trust the larger sample"
    )


def _text(score: float | None) -> str:
    return "" if score is None else f"{score:.6g}"


def make_submit_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--message", default="", help="what the submission's description says")
    parser.add_argument("--wait", type=float, default=30.0, help="minutes to wait for the score (default: 30)")
    return parser


if __name__ == "__main__":
    run_script(main, make_submit_parser())
