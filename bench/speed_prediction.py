"""bench_speed.py's rows on prediction: against MONAI, a huge TIFF in little memory, ensembles over small images."""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parent
LIMIT = 1500  # MB
TINY = {"arch": "PlainUnet", "weights": "none", "decoder_channels": [8, 4]}


def measure_window(quick: bool) -> tuple[str, bool | None]:
    if importlib.util.find_spec("monai") is None:
        return "MONAI is not installed: pip install monai, then run this row again", None
    from speed_training import used_precision

    side = 768 if quick else 8000
    ours, monai = (call("window", who, str(side)) for who in ("ours", "monai"))
    speed, memory = monai[0] / ours[0], ours[1] / monai[1]
    shown = f"MONAI {version('monai')}, {side:,}², window 512, overlap 0.25, U-Net with ResNet-18: "
    shown += f"{speed:.2f}× as fast ({ours[0]:.0f} s in {used_precision()}, MONAI's as it comes in float32), "
    shown += f"{memory:.2f} of its peak memory beyond the model's ({ours[1]:.0f} and {monai[1]:.0f} MB)"
    return shown, bool(speed > 1 and memory <= 0.5)


def measure_tiff(quick: bool) -> tuple[str, bool]:
    """infer.py on a tiled TIFF and on one of half the side; the highest memory of each process."""
    side = 9_000 if quick else 30_000
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        place = Path(folder)
        write_workspace(place, folds=1, model=TINY, predict={"tta": "none", "window": 512})
        peaks = {}
        for size in (side // 2, side):
            images = place / str(size)
            images.mkdir()
            write_large(images / "large.tif", size)
            seconds, peaks[size] = call("infer", str(place), str(images))
            (images / "large.tif").unlink()
    small, large = peaks.values()
    shown = f"{side:,}² in {seconds:.0f} s, at most {large:.0f} MB; a TIFF of half the side {small:.0f} MB"
    return shown, large < LIMIT


def measure_ensemble(quick: bool) -> tuple[str, bool]:
    """All five folds at once in turn with one fold alone; how often each image is decoded is counted."""
    count = 48 if quick else 18_000
    model = TINY | {"decoder_channels": [16, 8, 8]} if not quick else {"encoder": "resnet18", "weights": "none"}
    with tempfile.TemporaryDirectory(prefix="fewmask-bench-") as folder:
        place = Path(folder)
        write_small(place / "photos", count)
        for folds in (1, 5):
            write_workspace(place / str(folds), folds=folds, model=model, predict={"tta": "d4", "window": 128})
        found: dict[int, list[Any]] = {1: [], 5: []}
        for _ in range(2 if quick else 1):
            for folds, answers in found.items():
                answers.append(call("ensemble", str(place / str(folds)), str(place / "photos")))
    one, five = (np.median([answer[0] for answer in answers]) for answers in found.values())
    _, _, decoded, batches = found[5][-1]
    ratio = five / (5 * one)
    shown = f"{ratio:.2f} ({count:,} images of 101², {five:.0f} s and {one:.0f} s); each decoded {decoded / count:g}×, "
    return shown + f"{count / batches:.1f} images a batch", bool(ratio <= 1.0 and decoded == count)


def call(*arguments: str) -> list[float]:
    """What a process of its own measured; the highest memory of one is never forgotten."""
    command = [sys.executable, __file__, *arguments]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def write_workspace(place: Path, folds: int, model: dict[str, Any], predict: dict[str, Any]) -> None:
    """A workspace as if a config had been trained: random weights, even blend, a threshold of 0.5."""
    import torch
    import yaml

    from artifacts import Paths, save_checkpoint, stage_settings, write_json
    from members import checkpoint_file
    from models import build_model
    from settings import load_config

    place.mkdir(exist_ok=True)
    judged = {"folds": {"count": 1, "validation": 1}, "ensemble": {"fit_weights": False}, "postprocess": {"fit": False}}
    values = {"model": model, "predict": predict, **(judged if folds == 1 else {"folds": {"count": folds}})}
    (place / "b.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    config, paths = load_config(place / "b.yaml"), Paths(place, "b")
    for fold in range(folds):
        torch.manual_seed(fold)
        state = build_model(config.model, config.image.channels, config.channels, with_weights=False).state_dict()
        save_checkpoint(checkpoint_file(config, paths, 0, fold), {"model": state})
        made_from = {"settings": stage_settings(config, "task", "classes", "image", "model")}
        write_json(paths.run(0, fold) / "manifest.json", {"made_from": made_from})
    write_json(paths.runs / "ensemble" / "weights.json", {"mean": "arithmetic", "weights": {"round 0": 1.0}})
    write_json(paths.postprocess, {"fitted": False, "parameters": {"thresholds": [0.5], "min_areas": [0]}})


def write_large(path: Path, side: int) -> None:
    """A tiled, compressed colour TIFF, a row of tiles at a time."""
    import tifffile

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)

    def tiles():
        for number in range((-(-side // 512)) ** 2):
            yield np.repeat(np.repeat(coarse[number % 8], 16, axis=0), 16, axis=1)

    options = {"photometric": "rgb", "compression": "zlib", "tile": (512, 512)}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, bigtiff=True, **options)


def write_small(folder: Path, count: int) -> None:
    import cv2

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:05d}.png"), rng.integers(0, 256, (101, 101, 3), np.uint8))


def run_window(who: str, side: int) -> list[float]:
    """Seconds, and MB beyond what the model and the image take."""
    import resource

    import torch

    from inference import slide, tta_views
    from models import build_model
    from settings import parse_config
    from validation import make_predictor

    torch.manual_seed(0)
    predict = {"window": 512, "overlap": 0.25, "batch_size": 4, "tta": "d4"}
    config = parse_config({"name": "b", "model": {"encoder": "resnet18", "weights": "none"}, "predict": predict})
    network = build_model(config.model, 3, 1).eval()
    image = np.random.default_rng(0).random((3, side, side), np.float32)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 512, 512))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if who == "ours":
        predictor = make_predictor(network, config, config.train, torch.device("cpu"), tta=True)
        answer = np.empty((1, side, side), np.uint8)
        for _, (top, left), part in slide(predictor, image):
            answer[:, top : top + part.shape[1], left : left + part.shape[2]] = np.rint(255 * part)
    else:
        from monai.inferers import sliding_window_inference

        views = tta_views("d4")

        def ask(tiles: torch.Tensor) -> torch.Tensor:
            return sum(view.deaugment_mask(network(view.augment_image(tiles)).sigmoid()) for view in views) / len(views)

        with torch.inference_mode():
            total = sliding_window_inference(torch.from_numpy(image)[None], 512, 4, ask, 0.25, mode="gaussian")
        answer = np.rint(255 * total[0].numpy()).astype(np.uint8)
    assert answer.shape == (1, side, side)
    seconds = time.perf_counter() - start
    return [seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]


def run_infer(place: Path, images: Path) -> list[float]:
    import resource

    import infer

    line = ["--config", str(place / "b.yaml"), "--workspace", str(place), "--images", str(images), "--fresh"]
    start = time.perf_counter()
    infer.main(infer.make_infer_parser().parse_args([*line, "--masks", f"{images}_masks", "--scratch", str(place)]))
    return [time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def run_ensemble(place: Path, images: Path) -> list[float]:
    """As `run_infer`, with the number of images decoded and of batches asked."""
    import inference
    import validation

    counts = {"decoded": 0, "batches": 0}
    load, answer = validation.load_image, inference._answer_batch

    def count_images(*arguments: Any):
        counts["decoded"] += 1
        return load(*arguments)

    def count_batches(*arguments: Any):
        counts["batches"] += 1
        return answer(*arguments)

    validation.load_image, inference._answer_batch = count_images, count_batches
    return [*run_infer(place, images), counts["decoded"], counts["batches"]]


if __name__ == "__main__":
    sys.path.insert(0, str(BENCH.parent / "src"))
    what, first, second = sys.argv[1:4]
    if what == "window":
        print(json.dumps(run_window(first, int(second))))
    else:
        print(json.dumps({"infer": run_infer, "ensemble": run_ensemble}[what](Path(first), Path(second))))
