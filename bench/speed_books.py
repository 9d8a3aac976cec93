"""bench_speed.py's row on bookkeeping: index, folds and pseudo-labels of very many images."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LABELLED = 1000  # of the pool's workspace
LINKS = 30_000  # files that share one inode; file systems allow some tens of thousands


def measure_books(quick: bool) -> tuple[str, bool]:
    """Each stage at a quarter of the images and at all of them: how time grows, and the highest memory."""
    count = 40_000 if quick else 1_000_000
    shown, reached = [], True
    found = {}
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        for size in (count // 4, count):
            place = Path(folder) / str(size)
            write_images(place, size)
            found[size] = {stage: in_own_process(stage, place) for stage in ("index", "folds", "pseudo")}
            shutil.rmtree(place)
    for stage, (seconds, megabytes) in found[count].items():
        growth = seconds / found[count // 4][stage][0]
        shown.append(f"{stage} {seconds:.0f} s ({growth:.1f}× for 4× the images), {megabytes / 1000:.2f} GB")
        reached &= growth < 5.0 and megabytes < 2000
    return f"{count:,} images: " + "; ".join(shown), reached


def write_images(place: Path, count: int) -> None:
    """Pictures of 16×16, many names for few files, each with one labelled point."""
    import cv2
    import yaml

    rng = np.random.default_rng(0)
    (place / "raw" / "train").mkdir(parents=True)
    with (place / "raw" / "points.csv").open("w", encoding="utf-8") as points:
        points.write("image_id,x,y,class\n")
        for number in range(count):
            if number % LINKS == 0:
                picture = place / "raw" / f"{number}.png"
                picture.write_bytes(cv2.imencode(".png", rng.integers(0, 255, (16, 16, 3), np.uint8))[1].tobytes())
            os.link(picture, place / "raw" / "train" / f"image_{number:07d}.png")
            points.write(f"image_{number:07d},{number % 16},{number // 16 % 16},{number % 2}\n")
    rounds = [{}, {"phase": "joint", "pseudo": {"pixel_confidence": 0.6, "image_confidence": 0.9}}]
    labels = {"kind": "points", "path": "points.csv"}
    data = {"root": "raw", "images": "train/{id}.png", "labels": labels}
    values = {"task": "multiclass", "classes": ["a", "b"], "data": data, "rounds": rounds}
    (place / "books.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def in_own_process(stage: str, place: Path) -> tuple[float, float]:
    """Processor seconds and the highest memory in MB of one stage; other work on the machine does not count."""
    command = [sys.executable, __file__, stage, str(place)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, megabytes = json.loads(answer.splitlines()[-1])
    return seconds, megabytes


def run_stage(stage: str, place: Path) -> None:
    import importlib
    import resource

    from artifacts import Paths
    from cli import make_parser
    from settings import load_config

    if stage == "pseudo":
        config, paths = load_config(place / "books.yaml"), Paths(place, "books")
        make_pool(paths)
        start = time.process_time()
        label_and_read(config, paths)
    else:
        start = time.process_time()
        module = importlib.import_module({"index": "prepare", "folds": "make_folds"}[stage])
        arguments = ["--config", str(place / "books.yaml"), "--workspace", str(place)]
        module.main(make_parser(None).parse_args(arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.process_time() - start, peak]))


def make_pool(paths) -> None:
    """All images but some lose their label: they are the pool. Round 0 was trained by nobody."""
    import pandas as pd

    from artifacts import write_json

    table = pd.read_csv(paths.index, dtype=str, keep_default_na=False)
    table.loc[LABELLED:, "split"], table.loc[LABELLED:, "points"] = "unlabelled", "0"
    table.to_csv(paths.index, index=False)
    folds = pd.read_csv(paths.folds, dtype=str, keep_default_na=False)
    folds[folds["image_id"].isin(set(table["image_id"][:LABELLED]))].to_csv(paths.folds, index=False)
    write_json(paths.run(0, 0) / "manifest.json", {"seen_ids": []})


def label_and_read(config, paths) -> None:
    """make_pseudo_labels.py's work with stub predictions, one image in ten of them sure, and train.py's reading."""
    import make_pseudo_labels
    from artifacts import write_json
    from index import read_index
    from sources import gather_records

    table = read_index(paths)
    sure, unsure = (np.stack([np.full((16, 16), one, np.float32) for one in pair]) for pair in ((0.9, 0.1), (0.5, 0.5)))
    ids = {split: table["image_id"][table["split"] == split].tolist() for split in ("labelled", "unlabelled")}

    def stub(paths, rounds, fold, split, tta):
        for number, image_id in enumerate(ids["labelled" if split == "oof" else split]):
            yield image_id, sure if number % 10 == 0 else unsure

    make_pseudo_labels.average_stores = stub
    summary = make_pseudo_labels.label_pool(config, paths, 1, 0, config.rounds[1].pseudo)
    assert summary["kept_images"] == -(-len(ids["unlabelled"]) // 10)
    write_json(paths.pseudo(1, 0) / "summary.json", summary | {"seen_ids": []})
    sources, _, _ = gather_records(config, paths, 1, 0)
    assert len(sources[1].records) == summary["kept_images"]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
    run_stage(sys.argv[1], Path(sys.argv[2]))
