"""The micro-CT system: its generated slices, its files, its centre crops, and its mean teacher."""

import concurrent.futures
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from helpers import hashes, open_workspace, run
from test_satellite import shrink

import microct
from artifacts import TOP, load_checkpoint, read_json
from errors import UserError
from images import read_image, read_mask
from index import read_index
from microct import draw_slice, write_competition
from models import build_model
from settings import load_config
from stages import list_stages

CONFIG = "configs/microct_mean_teacher.yaml"
CONFIGS = (CONFIG, "configs/microct_dsb.yaml", "configs/originals/microct_mean_teacher.yaml",
           "configs/originals/microct_dsb.yaml")  # fmt: skip
SHARED = TOP / "../shared/data/dsb2018"
SMALL = {"labelled": 8, "unlabelled": 4, "test": 3, "size": 72}


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("microct") / "raw"
    write_competition(folder, 3, **SMALL)
    return folder


# --- the generator ---------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bytes_whatever_the_threads(competition: Path, tmp_path: Path) -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1 if threads > 1 else 4)
        write_competition(tmp_path / "again", 3, **SMALL)
    finally:
        cv2.setNumThreads(threads)
    assert hashes(tmp_path / "again") == hashes(competition)
    write_competition(tmp_path / "other", 4, labelled=1, unlabelled=1, test=1, size=72)
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(competition).values())


def test_the_layout_is_the_systems(competition: Path) -> None:
    counts = {folder.name: len(list(folder.iterdir())) for folder in competition.iterdir()}
    assert counts == {"images": 8, "masks": 8, "unlabelled": 4, "test": 3, "hidden": 3}
    numbers = [int(path.stem.rpartition("_")[2]) for path in competition.rglob("slice_*.tif")]
    assert sorted(numbers) == list(range(15)), "labelled and other slices lie mixed in one stack"
    for path in competition.rglob("*.tif"):
        array = tifffile.imread(path)
        assert (array.shape, array.dtype) == ((72, 72), np.uint8)
        assert set(np.unique(array)) <= {0, 255} or path.name.startswith("slice")


def test_masks_match_their_slices() -> None:
    """Particles are brighter than what is right around them, and their outline is an edge of the slice."""
    brighter, edges = [], []
    for number in range(6):
        image, mask = draw_slice(0, number, number / 5, 128)
        assert set(np.unique(mask)) == {0, 1}
        smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1)
        around = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0
        brighter.append(smooth[mask > 0].mean() - smooth[around].mean())
        gradient = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        edges.append(gradient[outline].mean() / gradient[~outline].mean())
    assert min(brighter) > 5
    assert np.median(edges) > 1.3


def test_no_threshold_finds_the_particles() -> None:
    """The best threshold of each slice is another one, and none is right: contrast drifts and walls shine."""
    best, scores = [], []
    for number in range(6):
        image, mask = draw_slice(0, number, number / 5, 128)
        smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
        levels = range(20, 250, 5)
        dices = [2 * ((smooth > level) & (mask > 0)).sum() / ((smooth > level).sum() + mask.sum()) for level in levels]
        best.append(levels[int(np.argmax(dices))])
        scores.append(max(dices))
    assert np.mean(scores) < 0.85
    assert np.ptp(best) > 25


def test_rings_lie_about_one_axis() -> None:
    radius = np.hypot(*(np.mgrid[:200, :200] - 100)).astype(np.float32)
    rings = microct._rings(np.random.default_rng(0), np.random.default_rng(1), radius, 1.0)
    again = microct._rings(np.random.default_rng(0), np.random.default_rng(2), radius, 1.0)
    np.testing.assert_array_equal(rings[100, 100:], rings[100, 100:0:-1])
    assert np.corrcoef(rings.ravel(), again.ravel())[0, 1] > 0.8, "the detector's faults stay from slice to slice"
    assert rings.std() > 0.01


def test_partial_volume_blurs_sloping_edges() -> None:
    shares = []
    for seed in range(40):
        window = np.s_[0:61, 0:61]
        part = microct._cut_particle(np.random.default_rng(seed), window, 30, 30, 61, 16.0)
        assert 0 <= part.min() <= part.max() <= 1
        edge = ((part > 0.01) & (part < 0.99)).sum()
        shares.append(edge / max(1.0, 2 * np.sqrt(np.pi * max(part.sum(), 1.0))))  # of the outline of a disc
        assert part[0].max() == part[-1].max() == part[:, 0].max() == part[:, -1].max() == 0, "it fits its window"
    assert min(shares) < 1.2 * np.median(shares) < max(shares)


def test_something_that_lies_there_is_left_alone(competition: Path) -> None:
    before = hashes(competition)
    with pytest.raises(UserError, match="something lies here already; delete it"):
        write_competition(competition, 3, **SMALL)
    assert hashes(competition) == before


# --- the configs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS)
def test_every_part_of_the_system_is_in_its_config(path: str) -> None:
    config = load_config(TOP / path)
    model, train, (first, second) = config.model, config.train, config.rounds
    assert (model.arch, model.norm, model.decoder_channels) == ("PlainUnet", "instance", (1024, 512, 256, 128, 64))
    assert (config.image.channels, config.image.mean, config.image.std) == (1, (0.0,), (1.0,))
    assert (train.optimizer, train.weight_decay, config.metric) == ("adamw", 1e-4, "dice")
    if path == CONFIG:  # measured to be better than what it replaces
        assert (train.schedule, train.learning_rate, second.train.learning_rate) == ("onecycle", 3e-3, 2e-3)
    else:
        assert (train.schedule, train.gamma, train.patience, train.learning_rate) == ("plateau", 0.5, 10, 1e-3)
    assert (train.loss.cross_entropy, train.loss.dice) == (1.0, 1.0)
    assert (train.augment.crop, config.predict.window, config.predict.patch) == (256, 256, 256)
    assert train.augment.foreground > 0.5
    assert (first.train.select, first.freeze_encoder_stages) == ("best", None)
    assert (second.start, second.freeze_encoder_stages, second.train.ema) == ("previous", 2, 0.99)
    teaching = second.consistency
    assert (teaching.loss, teaching.share, teaching.strong.blur, teaching.pool) == ("mse", 0.5, 1.0, ("unlabelled",))
    assert teaching.ramp_epochs > 0
    labels = config.data.labels
    assert (labels.keep, labels.keep_test, config.folds.validation) == (18, 4, 4)
    network = build_model(model.model_copy(update={"decoder_channels": (16, 8, 8, 8, 4)}), 1, config.channels).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 1, 64, 96)).shape == (1, 1, 64, 96)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/dsb2018 is not here")
def test_the_label_budget_on_real_images(tmp_path: Path) -> None:
    """On a few dozen of the images, of which fewer are left without labels."""
    header, *lines = (SHARED / "stage1_train_labels.csv").read_text().splitlines()
    chosen = sorted({line.partition(",")[0] for line in lines})[::12]
    for name in chosen:
        (tmp_path / "raw/stage1_train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw/stage1_train" / name).symlink_to((SHARED / "stage1_train" / name).resolve())
    kept = [line for line in lines if line.partition(",")[0] in chosen]
    (tmp_path / "raw/stage1_train_labels.csv").write_text("\n".join([header, *kept]) + "\n")
    shrink("configs/microct_dsb.yaml", tmp_path, "data.root=raw", "data.labels.keep_unlabelled=15")
    assert load_config(TOP / "configs/microct_dsb.yaml").data.labels.keep_unlabelled == 150
    assert len(chosen) > 18 + 4 + 15
    run("prepare", tmp_path)
    run("make_folds", tmp_path)
    config, paths = open_workspace(tmp_path)
    table = read_index(paths)
    assert table["split"].value_counts().to_dict() == {"labelled": 18, "unlabelled": 15, "test": 4}
    folds = [line.rpartition(",")[2] for line in paths.folds.read_text().splitlines()[1:]]
    assert (folds.count("0"), folds.count("-1")) == (4, 14)
    hidden = {path.stem for path in (paths.data / "solution").iterdir()}
    assert hidden == set(table["image_id"][table["split"] == "test"])
    assert read_image(paths.resolve(table["image"][0]), config.image.channels).shape[2] == 1


# --- from its layout to its scores -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config at a tiny size, run on the generated files as on files of one's own."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "raw").symlink_to(competition)
    shrink(
        CONFIG, folder, "data.generator=none", "data.root=raw", "data.labels.keep=6", "data.labels.keep_test=2",
        "folds.validation=2", "model.decoder_channels=[16,8,8]", "train.precision=fp32", "train.steps_per_epoch=3",
        "train.epochs=3", "rounds.1.train.epochs=1", "rounds.1.train.steps_per_epoch=1", "train.augment.crop=32",
        "predict.window=32", "predict.patch=32", "predict.tta=none",
    )  # fmt: skip
    config, _ = open_workspace(folder)
    with pytest.MonkeyPatch.context() as patch:
        pool = concurrent.futures.ThreadPoolExecutor
        patch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda count, **_: pool(1))
        for script, *arguments in list_stages(config):
            run(script.removesuffix(".py"), folder, *arguments)
    return folder


def dice(truth: np.ndarray, answer: np.ndarray) -> float:
    both = truth.sum() + answer.sum()
    return 2 * (truth * answer).sum() / both if both else 1.0


def test_centre_crops_are_scored_as_a_plain_loop_scores_them(trained: Path, competition: Path) -> None:
    config, paths = open_workspace(trained)
    rows = {row["name"]: row for row in read_json(paths.scores)["phases"]}
    assert [*rows] == ["supervised", "supervised, patches", "+ mean teacher", "+ mean teacher, patches", "+ ensemble"]
    table = read_index(paths).set_index("image_id")
    folds = dict(line.split(",,") for line in paths.folds.read_text().splitlines()[1:])
    held_out, hidden = [name for name, fold in folds.items() if fold == "0"], table.index[table["split"] == "test"]
    groups = {"oof": held_out, "hidden": list(hidden)}
    assert {key: len(names) for key, names in groups.items()} == {"oof": 2, "hidden": 5}
    for round, name in ((0, "supervised"), (1, "+ mean teacher")):
        model = build_model(config.model, 1, 1).eval()
        model.load_state_dict(load_checkpoint(paths.run(round, 0) / "best.pt")["model"])
        for key, names in groups.items():
            scores = []
            for image_id in names:
                number = int(image_id.rpartition("_")[2])
                mask = next(competition.glob(f"*/mask_{number}.tif"))
                image, truth = (tifffile.imread(one)[20:52, 20:52] for one in (
                    paths.resolve(table.loc[image_id, "image"]), mask))  # fmt: skip
                with torch.inference_mode():
                    answer = model(torch.from_numpy(image / np.float32(255))[None, None]).sigmoid()[0, 0].numpy()
                scores.append(dice(truth / 255, (answer >= 0.5).astype(float)))
            # stored probabilities have 8 bits, so a pixel or two may fall on the other side
            assert rows[f"{name}, patches"][key] == pytest.approx(np.mean(scores), abs=0.02)
        assert rows[name]["hidden"] != rows[f"{name}, patches"]["hidden"]


def test_masks_are_joined_by_number_and_cut_in_two(trained: Path, competition: Path) -> None:
    _, paths = open_workspace(trained)
    table = read_index(paths)
    labelled = table[table["split"] == "labelled"]
    assert len(labelled) == 6
    for row in labelled.to_dict("records"):
        stored = tifffile.imread(competition / "masks" / f"mask_{int(row['image_id'][-4:])}.tif")
        np.testing.assert_array_equal(read_mask(paths.resolve(row["mask"])), stored > 0)


def test_the_teacher_starts_from_the_best_and_follows_slowly(trained: Path) -> None:
    _, paths = open_workspace(trained)
    start = load_checkpoint(paths.run(0, 0) / "best.pt")["model"]
    after = load_checkpoint(paths.run(1, 0) / "last.pt")
    moved = set()
    for key, student in after["student"].items():
        torch.testing.assert_close(after["model"][key], start[key].lerp(student, 0.01), rtol=1e-4, atol=1e-6)
        moved |= {key} if not torch.equal(student, start[key]) else set()
    assert moved, "the student has learnt"
    assert not [key for key in moved if key.startswith(("encoder.0.", "encoder.1."))], "but for its first blocks"
    assert any(key.startswith("encoder.2.") for key in moved)


def test_the_generator_is_the_offline_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def write(folder: Path, seed: int, *, size: int) -> None:
        made.append((seed, size))
        write_competition(folder, seed, labelled=24, unlabelled=1, test=1, size=size)

    monkeypatch.setattr(microct, "write_competition", write)
    shrink(CONFIG, tmp_path, "data.size=48", "seed=5")
    run("prepare", tmp_path)
    run("prepare", tmp_path)
    assert made == [(5, 48)]
    _, paths = open_workspace(tmp_path)
    assert read_index(paths)["split"].value_counts().to_dict() == {"labelled": 18, "test": 5, "unlabelled": 3}
