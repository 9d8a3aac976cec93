"""prepare.py and submit.py with the real client against a Kaggle on loopback, and what may go wrong on the way."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import SRC, environment, held, make_workspace, open_workspace, switches, write_config
from kaggle_server import TOKEN, Kaggle, serve
from scipy.stats import rankdata

import submit
from artifacts import Paths, fingerprint, write_json
from errors import UserError
from formats import find_format, write_submission
from index import COLUMNS
from submit import COLUMNS as LOGGED
from submit import check_file, describe_agreement, read_log, warn_of_board

SOURCE = "competitions/few-and-far"


@pytest.fixture
def kaggle() -> Iterator[Kaggle]:
    with serve() as server:
        yield server


def call(
    kaggle: Kaggle, folder: Path, script: str, *arguments: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    """Run a script, or source code, with the real client pointed at the server; the token must show nowhere."""
    command = [str(SRC / script), *switches(folder), "--set", f"data.kaggle={SOURCE}", *arguments]
    settings = environment() | kaggle.environment(folder, token)
    answer = subprocess.run(
        [sys.executable, *(command if script.endswith(".py") else ["-c", script])],
        cwd=SRC,
        env=settings,
        capture_output=True,
        text=True,
        timeout=600,
    )
    secrets = [one.encode() for one in (token, "s1gned") if one]
    said = [(answer.stdout + answer.stderr).encode()]
    for text in said + [path.read_bytes() for path in folder.rglob("*") if path.is_file()]:
        assert not any(secret in text for secret in secrets)
    return answer


def refusal(answer: subprocess.CompletedProcess[str], script: str) -> str:
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    last = answer.stderr.splitlines()[-1]
    assert last.startswith(f"{script}.py: ")
    return last


# --- download --------------------------------------------------------------------------------------------------------


def pack_competition(folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """A competition's zip with its training images in a zip of their own, and the files it should become.

    The folder it was made in is taken away.
    """
    make_workspace(folder)
    raw, train, whole = folder / "raw", io.BytesIO(), io.BytesIO()
    (raw / "noise.bin").write_bytes(np.random.default_rng(0).bytes(4_000_000))  # for a download of some parts
    files = {path.relative_to(raw).as_posix(): path.read_bytes() for path in sorted(raw.rglob("*")) if path.is_file()}
    with zipfile.ZipFile(train, "w") as inner, zipfile.ZipFile(whole, "w") as outer:
        for name, content in files.items():
            top, _, rest = name.partition("/")
            inner.writestr(rest, content) if top == "train" else outer.writestr(name, content)
    with zipfile.ZipFile(whole, "a") as outer:
        outer.writestr("train.zip", train.getvalue())
    raw.rename(folder / "made")
    for path in sorted((folder / "made").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / "made").rmdir()
    return whole.getvalue(), files


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# what another process does that is not lucky: it gives up at the first break
ONE_TRY = f"""
import pathlib, kaggle_site
kaggle_site.ATTEMPTS = 1
kaggle_site.download({SOURCE!r}, pathlib.Path({{!r}}))
"""


def test_a_download_goes_on_where_it_broke_and_is_unpacked_whole(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.archive, files = pack_competition(tmp_path)
    kaggle.cuts = [1_500_000, 1_200_000]
    kaggle.failures = {"DownloadDataFiles": [(429, {"Retry-After": "1"}, "slow down")]}
    archive = tmp_path / ".raw.competitions-few-and-far.zip"
    first = call(kaggle, tmp_path, ONE_TRY.format(str(archive)))
    assert "the connection to Kaggle broke" in first.stderr.splitlines()[-1]
    assert "Kaggle asks to wait 1 s (429)" in first.stderr
    assert not archive.exists()
    part = archive.with_name(archive.name + ".part").stat().st_size
    assert part >= 2**20

    (tmp_path / ".raw.tmp1" / "train").mkdir(parents=True)  # half unpacked, long ago
    second = call(kaggle, tmp_path, "prepare.py")
    assert second.returncode == 0, second.stderr
    assert "the connection to Kaggle broke (ChunkedEncodingError); going on at" in second.stderr
    starts = [int(one[6:-1]) for one in kaggle.ranges if one]
    assert len(starts) == 2, "two breaks, two resumptions"
    assert starts[0] == part
    assert kaggle.sent == 1_500_000 + 1_200_000 + len(kaggle.archive) - starts[1]
    assert files_of(tmp_path / "raw") == files
    assert "8 labelled" in second.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    asked = list(kaggle.asked)
    third = call(kaggle, tmp_path, "prepare.py", token="")
    assert third.returncode == 0, third.stderr
    assert "prepared already" in third.stdout
    assert kaggle.asked == asked, "a folder that is there is used as it is"


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(kaggle: Kaggle, tmp_path: Path) -> None:
    old, new = (np.random.default_rng(seed).bytes(3_000_000) for seed in (0, 1))
    kaggle.archive, kaggle.cuts = old, [2_000_000]
    archive = tmp_path / "x.zip"
    assert call(kaggle, tmp_path, ONE_TRY.format(str(archive))).returncode == 1
    kaggle.archive, kaggle.etag = new, '"two"'
    assert call(kaggle, tmp_path, ONE_TRY.format(str(archive))).returncode == 0
    assert archive.read_bytes() == new
    assert [path.name for path in tmp_path.iterdir() if "x.zip" in path.name] == ["x.zip"]


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "no credentials": ({"token": ""}, "no Kaggle credentials on this machine; make an API token at https://www.kag"),
    "wrong token": ({"token": "KGAT_another-one"}, "Kaggle refused the token in KAGGLE_API_TOKEN; make an API token"),
    "401": ({"answer": (401, {}, f"bad token {TOKEN}")}, "Kaggle refused the credentials (401); make an API token"),
    "403": (
        {"answer": (403, {}, f"You must accept the rules, {TOKEN}")},
        "Kaggle answers 403 (You must accept the rules, …); join the competition and accept its rules at "
        "https://www.kaggle.com/competitions/few-and-far/rules",
    ),
    "404": ({"answer": (404, {}, "Not found")}, "Kaggle answers 404 (Not found); check data.kaggle; https://www.kag"),
    "429": ({"answer": (429, {"Retry-After": "7200"}, "Too many")}, "asks to wait 120 minutes (429); start again"),
    "data set": ({"source": "datasets/a/b", "answer": (403, {}, "")}, "open https://www.kaggle.com/datasets/a/b whi"),
    "disk": ({"length": 10**15}, "the archive is 1000000.0 GB"),
    "no zip": ({"archive": b"no zip"}, "delete it and download it again"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_goes_wrong_is_told_in_one_line(kaggle: Kaggle, tmp_path: Path, case: str) -> None:
    how, expected = FAILURES[case]
    write_config(tmp_path)
    if "answer" in how:
        kaggle.failures = dict.fromkeys(("DownloadDataFiles", "DownloadDataset"), [how["answer"]])
    kaggle.length, kaggle.archive = how.get("length"), how.get("archive", b"")
    arguments = ["--set", f"data.kaggle={how['source']}"] if "source" in how else []
    answer = call(kaggle, tmp_path, "prepare.py", *arguments, "--debug", token=how.get("token", TOKEN))
    assert answer.returncode == 2, answer.stderr
    assert expected in answer.stderr.splitlines()[-1]
    assert not (tmp_path / "raw").exists(), "nothing half-made is taken for the data"


# --- submit ----------------------------------------------------------------------------------------------------------


def fabricate(folder: Path, seed: int = 0, cv: float = 0.5) -> Paths:
    """A workspace with a submission and where it came from."""
    write_config(folder, data={"sample_submission": ""})
    config, paths = open_workspace(folder)
    rng = np.random.default_rng(seed)
    masks = {f"t{number}": (rng.random((16, 16)) > 0.7).astype(np.uint8) for number in range(3)}
    rows = [(image_id, "x.png", "", 0, "", "test", 16, 16) for image_id in masks]
    paths.data.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(paths.index, index=False)
    write_submission(paths.submission, find_format(config.submission), config.classes, "binary", masks.items())
    said = {"sha256": fingerprint(paths.submission), "config_hash": "abc", "out_of_fold": {"dice": cv, "folds": [cv]}}
    write_json(paths.submission.with_suffix(".json"), said)
    return paths


def test_a_submission_is_sent_once_and_its_scores_are_logged(kaggle: Kaggle, tmp_path: Path) -> None:
    paths = fabricate(tmp_path, cv=0.61)
    kaggle.scores, kaggle.pending = ["0.58312"], 2
    kaggle.failures = {"CreateSubmission": [(429, {"Retry-After": "1"}, "slow down")]}
    answer = call(kaggle, tmp_path, "submit.py", "--message", "first try")
    assert answer.returncode == 0, answer.stderr
    assert kaggle.uploads[-1] == paths.submission.read_bytes()
    mark = fingerprint(paths.submission)
    assert [one["description"] for one in kaggle.submissions] == [f"fewmask {mark} first try"]
    row = read_log(paths.submission_log)[0]
    expected = {"file": "tiny.csv", "sha256": mark, "config_hash": "abc", "metric": "dice", "cv": "0.61"}
    expected |= {"public": "0.58312", "private": "", "status": "complete", "ref": "1000", "competition": SOURCE}
    assert {key: row[key] for key in expected} == expected
    assert "0.61" in answer.stdout
    assert "0.58312" in answer.stdout


# several submissions in one process, since each loads the libraries anew
SUBMIT = """
import sys, submit
from errors import UserError
for arguments in {!r}:
    try:
        submit.main(submit.make_submit_parser().parse_args(arguments))
    except UserError as error:
        print("submit.py:", error, file=sys.stderr)
    print("---")
"""


def submit_each(kaggle: Kaggle, folder: Path, *runs: list[str]) -> tuple[list[str], list[str]]:
    """What each of several runs printed, and the lines on standard error."""
    start = [*switches(folder), "--set", f"data.kaggle={SOURCE}"]
    answer = call(kaggle, folder, SUBMIT.format([[*start, *arguments] for arguments in runs]))
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split("---\n")[:-1], answer.stderr.splitlines()


def test_a_broken_connection_does_not_submit_twice_and_the_board_alone_is_warned_of(
    kaggle: Kaggle, tmp_path: Path
) -> None:
    log = tmp_path / "submissions" / "log.csv"
    old = dict.fromkeys(LOGGED, "") | {"competition": SOURCE, "file": "old.csv", "metric": "dice", "cv": "0.61"}
    log.parent.mkdir()
    pd.DataFrame([old | {"public": "0.58312", "ref": "7", "sha256": "x"}]).to_csv(log, index=False)
    kaggle.submissions = [{"ref": 7, "description": "", "status": "COMPLETE"}]
    kaggle.submissions[0] |= {"publicScore": "0.58312", "privateScore": "0.57"}
    paths = fabricate(tmp_path, cv=0.6)
    kaggle.deaf, kaggle.scores = 1, ["0.6"]
    said, errors = submit_each(kaggle, tmp_path, [], [])
    assert "the connection to Kaggle broke" in errors[0]
    assert "submitted already" in said[1]
    assert len(kaggle.submissions) == 2, "one broken connection, not two submissions"
    assert [(row["public"], row["private"]) for row in read_log(log)] == [("0.58312", "0.57"), ("0.6", "")]
    assert "warning: the public board alone favours this tiny.csv (0.6 against 0.58312)" in "\n".join(errors)
    assert "rank correlation -1.00 over 2 submissions" in said[1]
    assert paths.report.with_name("agreement.png").read_bytes().startswith(b"\x89PNG")


def test_a_score_that_does_not_come_is_not_waited_for_forever(kaggle: Kaggle, tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    kaggle.pending, kaggle.scores = 5, [""]
    said, errors = submit_each(kaggle, tmp_path, ["--wait", "0"], ["--wait", "0.1"], ["--fresh", "--wait", "0"])
    assert "no score yet" in said[0]
    assert "submitted already" in said[1]
    assert "Kaggle could not score it (it gives no reason)" in "\n".join(errors)
    assert "no score yet" in said[2]
    assert [(row["status"], row["ref"]) for row in read_log(paths.submission_log)] == [
        ("error", "1000"), ("pending", "1001")]  # fmt: skip
    assert len(kaggle.uploads) == 2, "submitted again only where --fresh says so"


def test_a_wrong_file_is_not_sent(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    config, _ = open_workspace(tmp_path)
    lines = paths.submission.read_text().splitlines()
    paths.submission.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="not the file that its .json tells"):
        check_file(config, paths)
    said = {"sha256": fingerprint(paths.submission), "config_hash": "", "out_of_fold": {"dice": 0.5, "folds": []}}
    write_json(paths.submission.with_suffix(".json"), said)
    with pytest.raises(UserError, match="the table ends with no row for id 't2'"):
        check_file(config, paths)
    paths.submission.unlink()
    with pytest.raises(UserError, match="run make_submission.py first"):
        check_file(config, paths)


def rows(*scores: tuple[float, float | None]) -> list[dict[str, str]]:
    blank = dict.fromkeys(LOGGED, "") | {"metric": "dice", "file": "$x_{$.csv"}
    return [
        {**blank, "ref": str(place), "cv": str(cv), "public": "" if public is None else str(public)}
        for place, (cv, public) in enumerate(scores)
    ]


def test_the_warning_stands_only_where_the_board_alone_favours_it() -> None:
    log = rows((0.7, 0.6), (0.8, 0.65), (0.75, 0.7), (0.9, 0.9), (0.95, None))
    warned = [bool(warn_of_board(log, row)) for row in log]
    assert warned == [False, False, True, False, False]
    assert "worse (0.75) than" in warn_of_board(log, log[2])
    other = [{**log[1], "metric": "miou"}, log[2]]
    assert warn_of_board(other, log[2]) == "", "another metric's scores lie on another scale"


def test_agreement_is_a_rank_correlation(tmp_path: Path) -> None:
    scores = [(0.7, 0.6), (0.8, 0.65), (0.75, 0.7), (0.9, 0.65)]
    cv, public = (rankdata(one) for one in zip(*scores, strict=True))
    said = describe_agreement(rows(*scores, (0.5, None)), tmp_path / "a" / "plot.png")
    assert f"rank correlation {np.corrcoef(cv, public)[0, 1]:.2f} over 4 submissions" in said
    assert (tmp_path / "a" / "plot.png").is_file()
    assert "too few" in describe_agreement(rows((0.7, 0.6)), tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_what_another_submission_logged_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = fabricate(tmp_path)
    listed = [SimpleNamespace(ref=ref, status="complete", public=0.5, private=None, fault="") for ref in (1000, 1001)]

    def send_slowly(*_: object) -> tuple[str, list[SimpleNamespace]]:
        other = dict.fromkeys(submit.COLUMNS, "") | {"competition": SOURCE, "sha256": "other", "ref": "1001"}
        submit.write_log(paths.submission_log, [other])
        return "1000", listed

    monkeypatch.setattr(submit, "send", send_slowly)
    arguments = [*switches(tmp_path), "--set", f"data.kaggle={SOURCE}"]
    submit.main(submit.make_submit_parser().parse_args(arguments))
    assert {row["ref"] for row in read_log(paths.submission_log)} == {"1000", "1001"}

    monkeypatch.setattr(submit, "send", lambda *_: ("1000", listed))
    with held(paths.submission_log), pytest.raises(UserError, match=r"log.csv: in work by .*; wait until it ends"):
        submit.main(submit.make_submit_parser().parse_args(arguments))


def test_a_log_of_other_columns_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("time,score\n1,2\n")
    with pytest.raises(UserError, match="its columns are not time,competition"):
        read_log(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_bytes("time,größe\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"log.csv: no CSV in UTF-8 \(.*\); save it as such or move it away"):
        read_log(tmp_path / "log.csv")
