"""The report of fabricated runs of every task: all its parts, hostile names escaped, nothing from the network."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import make_report as script
from artifacts import Paths, read_json, write_json
from cli import make_parser
from config import TASK_METRICS
from errors import UserError
from evaluate import format_table
from images import write_mask
from pictures import draw_points
from rules import METRIC_WORDS
from settings import load_config
from stores import ProbabilityWriter

SRC = Path(__file__).resolve().parent.parent / "src"
SIZE = (40, 56)
HOSTILE = "<script>alert(1)</script>\"'&"
CLASSES = {
    "binary": [HOSTILE],
    "instances": ["cell"],
    "multiclass": ["land", "water", HOSTILE],
    "multilabel": ["a", "b"],
}
VOID = {"meta", "img", "br", "path", "line", "circle", "use", "link"}


class Page(HTMLParser):
    """Tags in order, each with its attributes, and whether they close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def make_truth(task: str, number: int) -> np.ndarray:
    """A label with a disc or two that move with the number; the last corner is unknown where 255 says so."""
    rows, columns = np.indices(SIZE)
    discs = [(rows - 12 - 3 * at) ** 2 + (columns - 15 - 20 * at - number) ** 2 < 60 for at in (0, 1)]
    if task == "instances":
        return (discs[0] + 2 * (discs[1] & ~discs[0])).astype(np.int32)
    if task == "multilabel":
        return np.stack(discs, axis=-1).astype(np.uint8)
    label = (discs[0] + (2 if task == "multiclass" else 1) * (discs[1] & ~discs[0])).astype(np.uint8)
    label[-5:, -5:] = 255
    return label


def make_answer(task: str, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probabilities that are right but for a shift and some noise."""
    shifted = np.roll(truth, int(rng.integers(0, 4)), axis=1)
    if task == "instances":
        inside = (shifted > 0) * 0.8
        return np.stack([1.0 - inside, inside, 0.0 * inside]).astype(np.float32)
    if task == "multiclass":
        planes = np.stack([shifted == value for value in range(3)]) * 0.7 + rng.random((3, *SIZE)) * 0.3
        return (planes / planes.sum(0)).astype(np.float32)
    planes = [shifted == 1] if shifted.ndim == 2 else shifted.transpose(2, 0, 1) == 1
    return (np.stack(planes) * 0.6 + rng.random((len(planes), *SIZE)) * 0.35).astype(np.float32)


def make_run(folder: Path, task: str = "binary", sparse: bool = False) -> list[str]:
    """Fabricate a finished run of two folds, a warm-up and a joint round; return its command line."""
    rng = np.random.default_rng(0)
    rounds = [{"phase": "warmup"}, {"phase": "joint", "pseudo": {"pixel_confidence": 0.8}}]
    values = {"name": "x", "task": task, "classes": CLASSES[task], "folds": {"count": 2}, "rounds": rounds}
    (folder / "x.yaml").write_text(yaml.safe_dump(values))
    config, paths = load_config(folder / "x.yaml"), Paths(folder, "x")
    splits = {"labelled": 10, "unlabelled": 4, "test": 7}
    ids = {split: [f"{split}/{n} {HOSTILE.replace('/', '')}" for n in range(count)] for split, count in splits.items()}
    rows, points = [], []
    ending = ".tif" if task == "multilabel" else ".png"
    for split, some in ids.items():
        for number, image_id in enumerate(some):
            image = f"data/x/raw/{split}{number}.png"
            write_mask(folder / image, rng.integers(0, 60, SIZE, np.uint8))  # a grey image
            mask = f"data/x/masks/{number}{ending}" if split == "labelled" and not sparse else ""
            if mask:
                write_mask(folder / mask, make_truth(task, number))
            if split == "test" and number == 0:
                write_mask(paths.data / "solution" / f"{image_id}{ending}", make_truth(task, number))
            dots = [(image_id, 16 + number, 12, 1), (image_id, 2, 2, 0)] if sparse and split == "labelled" else []
            points += dots
            rows.append((image_id, image, mask, len(dots), "", split, *SIZE))
    columns = "image_id image mask points group split height width".split()
    pd.DataFrame(rows, columns=columns).sort_values("image_id").to_csv(paths.index, index=False)
    pd.DataFrame(points, columns=["image_id", "x", "y", "class"]).to_csv(paths.points, index=False)
    paths.folds.parent.mkdir()
    folds = [(image_id, "", number % 2) for number, image_id in enumerate(ids["labelled"])]
    pd.DataFrame(folds, columns=["image_id", "group", "fold"]).to_csv(paths.folds, index=False)
    for store, split in (("oof", "labelled"), ("test", "test")):
        with ProbabilityWriter(paths.ensemble(store)) as writer:
            for number, image_id in enumerate(ids[split]):
                writer.add(image_id, make_answer(task, make_truth(task, number), rng))
    write_json(paths.runs / "ensemble" / "manifest.json", {})
    write_json(
        paths.runs / "ensemble" / "weights.json", {"mean": "arithmetic", "weights": {"round 0": 0.4, "round 1": 0.6}}
    )
    for fold in range(2):
        for round in range(2):
            machine = {"processor": f"{HOSTILE} {fold}", "threads": 2, "torch": "9.9"}
            made = {"made_from": {"settings": {}}, "seen_ids": ids["labelled"][1 - fold :: 2]}
            write_json(paths.run(round, fold) / "manifest.json", made | ({"machine": machine} if round else {}))
            log = [{"epoch": n, "step": 10 * n, "loss": 1 / (1 + n + fold), "seconds": 45.0} for n in range(5)]
            log[-1] |= {"score": 0.5 + 0.1 * fold}
            (paths.run(round, fold) / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        make_pseudo(paths, config.task, fold, ids)
    write_scores(paths, config.metric, config.classes)
    return ["--config", str(folder / "x.yaml"), "--workspace", str(folder)]


def make_pseudo(paths: Paths, task: str, fold: int, ids: dict[str, list[str]]) -> None:
    names = CLASSES[task] if task.startswith("multi") else ["background", *CLASSES[task]]
    folder = paths.pseudo(1, fold)
    summary = {
        "teachers": [{"round": 0, "fold": fold}],
        "seen_ids": ids["labelled"][1 - fold :: 2],
        "images": 4,
        "kept_images": 3,
        "kept_share": 0.625,
        "class_balance": {name: 1 / len(names) for name in names},
        "precision": {"all": 0.875} | dict.fromkeys(names),
    }
    write_json(folder / "summary.json", summary)
    rows = []
    for number, image_id in enumerate(ids["unlabelled"]):
        mask = folder / "masks" / f"{number}{'.tif' if task == 'multilabel' else '.png'}"
        label = make_truth(task, number)
        label[:8] = label[:8] | 0x8000 if task == "instances" else 255
        write_mask(mask, label)
        rows.append((image_id, paths.relative(mask), f"0.{number}5", int(number > 0), "0"))
    pd.DataFrame(rows, columns=["image_id", "mask", "confidence", "kept", "teachers"]).to_csv(folder / "index.csv")


def write_scores(paths: Paths, metric: str, classes: tuple[str, ...]) -> None:
    phases = []
    for name, round, oof in (("supervised", 0, 0.6), ("+ pseudo-labels", 1, 0.7123), ("+ fitted thresholds", 1, 0.65)):
        hidden = {metric: oof - 0.05}
        scores = {metric: oof} | {f"iou {one}": float("nan") for one in classes}
        row = {"name": name, "round": round, "oof": oof, "folds": [oof - 0.1, oof + 0.1], "hidden": hidden[metric]}
        phases.append(row | {"other": None, "oof_scores": scores, "hidden_scores": hidden})
    phases[-1]["used"] = False
    write_json(paths.scores, {"metric": metric, "task": "", "hidden": "test", "judges": [], "phases": phases})
    parameters = {"thresholds": [0.5] * len(classes), "min_areas": [0] * len(classes), "class_scales": []}
    scores = {"unfitted": 0.7123, "plain": 0.72, "nested": 0.65}
    write_json(paths.postprocess, {"metric": metric, "fitted": False, "out_of_fold": scores, "parameters": parameters})


def report(command: list[str]) -> str:
    script.main(make_parser("").parse_args(command))
    return Paths(Path(command[-1]), "x").report.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", CLASSES)
def test_every_part_of_every_task_is_there_and_nothing_is_fetched(task: str, tmp_path: Path) -> None:
    text = report(make_run(tmp_path, task))
    page = Page(text)
    assert page.open == []
    parts = ["Phases", "Training curves", "Pseudo-labels", "Out-of-fold images", "Test images", "How it was made"]
    assert re.findall("<h2>(.*?)</h2>", text) == parts
    assert text.index("<h3>The best") < text.index("<h3>The middle") < text.index("<h3>The worst")
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3 * 2 + 9 * 4 + 6 * 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in images)
    drawings = [
        attributes for tag, attributes in page.tags if tag == "svg" and "strip" not in attributes.get("class", "")
    ]
    assert len(drawings) == 2 + 3  # the curves and the key of the strips
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.findall(r"https?:|url\((?!#)|@import", text)
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]


def test_the_numbers_stand_in_the_page(tmp_path: Path) -> None:
    text = report(make_run(tmp_path))
    assert "<b>0.7123</b>" in text, "the headline is the last phase that is used"
    assert "+ fitted thresholds (not used)" in text
    for shown in (
        "0.5000 – 0.7000",
        "62.5\u00a0%",
        "87.5\u00a0%",
        "3 of 4",
        "round 0, fold 1",
        "7.5\u00a0min",
        "0.6623",
        "<bdi>background</bdi> 50.0\u00a0%",  # a name written from right to left keeps its number beside it
    ):
        assert shown in text
    assert "10 labelled, 4 unlabelled, 7 test" in text
    assert "on its hidden label" in text
    assert text.count("threads 2, torch 9.9.</p>") == 2, "each machine once, and none where a manifest names none"
    assert "pixel_confidence: 0.8" in text


def test_strange_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    text = report(make_run(tmp_path))
    assert "<script" not in text
    assert "alert(1)&lt;" in text
    alts = [attributes["alt"] for tag, attributes in Page(text).tags if tag == "img"]
    assert f"test/0 {HOSTILE.replace('/', '')}: image" in alts


def test_points_are_drawn_on_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pictures
    import sheets  # noqa: F401 - draws points as well, and not through `pictures`

    drawn = []
    monkeypatch.setattr(pictures, "draw_points", lambda *values: drawn.append(len(values[1])) or draw_points(*values))
    text = report(make_run(tmp_path, sparse=True))
    assert drawn == [2] * 9
    assert Paths(tmp_path, "x").results.is_file()
    assert "10 labelled (points)" in text


def test_a_done_report_is_skipped_and_changed_scores_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, work: object
) -> None:
    command = make_run(tmp_path)
    first = report(command)
    Paths(tmp_path, "x").report.write_text("mine")
    line = [sys.executable, "-X", "importtime", str(SRC / "make_report.py"), *command]
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "made already" in again.stdout
    assert not {"torch", "pandas", "matplotlib", "cv2", "jinja2"} & {
        part.rpartition("|")[2].strip() for part in again.stderr.splitlines()
    }
    assert report([*command[:2], "--fresh", *command[2:]]) == first, "the same bytes again"
    write_scores(Paths(tmp_path, "x"), "dice", ("other",))
    with pytest.raises(UserError, match=r"scores\.json.*--fresh"):
        report(command)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    command, paths = make_run(tmp_path), Paths(tmp_path, "x")
    log = paths.run(1, 0) / "log.jsonl"
    log.write_text("{")
    with pytest.raises(UserError, match=r"round1.fold0.log\.jsonl: no readable log"):
        report(command)
    paths.scores.unlink()
    with pytest.raises(UserError, match=r"scores\.json: missing; run the stage that writes it"):
        report(command)
    assert not paths.report.exists()


def test_every_metric_is_said_in_words() -> None:
    assert set(METRIC_WORDS) == {name for names in TASK_METRICS.values() for name in names}


@pytest.mark.parametrize(
    ("folds", "oof", "span", "page"),
    [
        ([np.nan, 0.5, 0.7], 0.6, "0.5000-0.7000", "0.5000 – 0.7000"),
        ([0.5, np.nan, 0.4], 0.6, "0.4000-0.5000", "0.4000 – 0.5000"),
        ([np.nan, np.nan], np.nan, "-", "–"),
    ],
)
def test_a_fold_of_which_nothing_is_known_is_left_out(
    folds: list[float], oof: float, span: str, page: str, tmp_path: Path
) -> None:
    command, paths = make_run(tmp_path), Paths(tmp_path, "x")
    scores = read_json(paths.scores)
    phases = [row | {"folds": folds, "oof": oof, "hidden": oof} for row in scores["phases"]]
    write_json(paths.scores, scores | {"phases": phases})
    shown = "-" if oof != oof else f"{oof:.4f}"
    for judges in ([], ["points", "masks"]):
        table = format_table(scores | {"phases": [row | {"other": oof} for row in phases], "judges": judges})
        words = table.splitlines()[1].removeprefix("supervised").split()
        assert words == [shown, span, shown, *([shown] if judges else [])]
    text = report(command)
    assert text.count(f"<td>{page}</td>") >= 3
    assert "nan" not in "".join(re.findall(r'<svg class="strip".*?</svg>', text, re.DOTALL))


SINGLE = ["folds.count=1", "folds.validation=5", "postprocess.fit=false", "ensemble.fit_weights=false"]


def test_one_split_is_not_told_as_folds(tmp_path: Path) -> None:
    command, paths = make_run(tmp_path), Paths(tmp_path, "x")
    scores, post = read_json(paths.scores), read_json(paths.postprocess)
    phases = [row | {"folds": [row["oof"]]} for row in scores["phases"][:2]]
    write_json(paths.scores, scores | {"phases": phases})
    oof = f"{phases[0]['oof']:.4f}"
    assert format_table(scores | {"phases": phases}).splitlines()[1].split()[:3] == ["supervised", oof, "-"]
    write_json(paths.postprocess, post | {"out_of_fold": None})
    run = paths.run(0, 0) / "manifest.json"
    write_json(run, read_json(run) | {"class_weights": {"a": 1.0}})
    text = report([*(word for one in SINGLE for word in ("--set", one)), *command])
    assert Page(text).open == []
    shown = re.sub("<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>|<pre.*?</pre>", "", text))
    assert not re.findall(r"(?i).*\bfolds?\b.*|.*\bspread\b.*", shown)
    assert "from 5 labelled images, phase by phase" in shown
    assert "5 of 10 labelled images held out, seed 0" in shown
    assert not re.findall('class="(?:fold|range)"|spread over', text)


def test_one_split_shows_what_it_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sheets

    make_run(tmp_path)
    paths = Paths(tmp_path, "x")
    folds = pd.read_csv(paths.folds)
    shown = sheets.spread(sorted(folds["image_id"]), sheets.SHOWN)
    folds["fold"] = [0 if image_id not in shown else -1 for image_id in folds["image_id"]]
    folds.to_csv(paths.folds, index=False)
    drawn = []
    monkeypatch.setattr(
        sheets, "draw_picture_sheet", lambda rows, legend: drawn.extend(name for name, _ in rows) or b""
    )
    sheets.write_results(load_config(tmp_path / "x.yaml", SINGLE), paths)
    assert set(drawn) == set(folds.loc[folds["fold"] == 0, "image_id"])
