"""A code competition's bundle: its notebook, without a network, writes what the stages would have written."""

import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import environment, held, make_workspace, open_workspace, run, switches, write_config
from kaggle_server import serve

import infer
from artifacts import Paths, read_json, write_json
from errors import UserError
from make_bundle import LACKING, Timing, describe_time, fetch_wheels, main, make_bundle_parser
from stages import list_stages
from stores import ProbabilityStore

COMPETITION = "few-and-far"
# of what inference needs, what the published list of packages in Kaggle's image has
ON_KAGGLE = (
    "torch torchvision accelerate albumentations matplotlib numpy opencv-python-headless pandas pillow pydantic PyYAML "
    "scikit-learn scikit-image scipy safetensors tensorboard tifffile timm tqdm huggingface-hub google-crc32c "
    "requests setuptools"
)

# Runs the notebook's code in each folder, one after the other, where no socket can be opened to anywhere.
DRIVER = """
import json, os, socket, sys, time
from importlib.metadata import packages_distributions

def blocked(*_, **__):
    raise OSError("no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = blocked
cells = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    os.chdir(folder)
    start, names = time.process_time(), {}
    for cell in cells:
        exec(cell.replace("/kaggle/input", folder + "/input"), names)
    print("seconds", time.process_time() - start)
known = packages_distributions()
tops = {name.partition(".")[0] for name in sys.modules}
print("loaded", *sorted({one for top in tops for one in known.get(top, ())}))
print("from", sys.modules["infer"].__file__)
"""


def make_bundle(folder: Path, *arguments: str) -> None:
    main(make_bundle_parser().parse_args([*switches(folder), *arguments]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition trained for a step, with its bundle."""
    folder = make_workspace(
        tmp_path_factory.mktemp("bundle"),
        rounds=[{}, {"phase": "finetune", "start": "previous"}],
        train={"epochs": 1, "steps_per_epoch": 1},
        predict={"tta": "flips"},
        ensemble={"fit_weights": False},
        postprocess={"fit": False},
    )
    with pytest.MonkeyPatch.context() as patch:
        pool = concurrent.futures.ThreadPoolExecutor
        patch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda count, **_: pool(1))
        for script, *arguments in list_stages(open_workspace(folder)[0]):
            if script == "make_submission.py":
                set_threshold(open_workspace(folder)[1])
            if script != "make_report.py":
                run(script.removesuffix(".py"), folder, *arguments)
    make_bundle(folder, "--no-wheels", "--user", "somebody", "--set", f"data.kaggle=competitions/{COMPETITION}")
    return folder


def set_threshold(paths: Paths) -> None:
    """A threshold that no config has, at which the masks of a hardly trained model are neither empty nor full."""
    store, fitted = ProbabilityStore(paths.ensemble("test")), read_json(paths.postprocess)
    fitted["parameters"]["thresholds"] = [float(np.median(store.read(store.image_ids[0])))]
    write_json(paths.postprocess, fitted)


def attach(folder: Path, workspace: Path, ids: list[str], sample: list[str]) -> Path:
    """What a notebook sees: the bundle and a competition with these test images and this sample."""
    data = folder / "input" / COMPETITION
    (data / "test").mkdir(parents=True)
    for image_id in ids:
        shutil.copy(workspace / "raw" / "test" / f"{image_id}.png", data / "test")
    pd.DataFrame({"id": sample, "rle": ""}).to_csv(data / "sample_submission.csv", index=False)
    shutil.copytree(open_workspace(workspace)[1].runs / "bundle" / "dataset", folder / "input" / "fewmask-tiny")
    return folder


def closure(names: str) -> set[str]:
    """These distributions and all they require, by their plain names."""
    found, waiting = set(), names.split()
    while waiting:
        name = plain(waiting.pop())
        if name not in found:
            found.add(name)
            try:
                needed = requires(name) or []
            except PackageNotFoundError:
                continue
            waiting += [re.split(r"[^\w.-]", one)[0] for one in needed if "extra ==" not in one]
    return found


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower())


def test_the_notebook_writes_the_submission_offline(workspace: Path, tmp_path: Path) -> None:
    _, paths = open_workspace(workspace)
    ids = sorted(path.stem for path in (workspace / "raw" / "test").glob("*.png"))
    sample = list(pd.read_csv(workspace / "raw" / "sample_submission.csv", dtype=str)["id"])
    folders = [
        attach(tmp_path / "many", workspace, ids, sample),
        attach(tmp_path / "one", workspace, ids[1:2], ids[1:2]),
        attach(tmp_path / "zero", workspace, [], ["p", "q"]),
        attach(tmp_path / "nothing", workspace, [], []),
    ]
    notebook = read_json(paths.runs / "bundle" / "kernel" / "inference.ipynb")
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    workspace.rename(workspace.with_name("moved"))  # the bundle must hold all it needs
    try:
        answer = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(cells), *map(str, folders)],
            env=environment() | {"HOME": str(tmp_path), "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=900,
        )
    finally:
        workspace.with_name("moved").rename(workspace)
    assert answer.returncode == 0, answer.stderr[-3000:]
    written = [(folder / "submission.csv").read_bytes() for folder in folders]
    assert written[0] == paths.submission.read_bytes(), "the very file of the stages"
    assert len(written[0]) > 200, "masks of many runs"
    header, *rows = paths.submission.read_text().splitlines(keepends=True)
    assert written[1].decode() == header + next(row for row in rows if row.startswith(f"{ids[1]},"))
    assert written[2].decode() == header + "p,\nq,\n"
    assert written[3].decode() == header
    said = [line.split() for line in answer.stdout.splitlines()]
    loaded = {plain(name) for line in said if line[0] == "loaded" for name in line[1:]}
    assert {"torch", "numcodecs"} <= loaded
    assert loaded <= closure(ON_KAGGLE) | set(LACKING), "Kaggle has it or a wheel brings it"
    assert [line[1] for line in said if line[0] == "from"] == [str(folders[0] / "input/fewmask-tiny/src/infer.py")]

    summary = read_json(folders[0] / "input" / "fewmask-tiny" / "bundle.json")
    assert summary["hours"] * 3600 == pytest.approx(summary["seconds_to_start"] + 4 * summary["seconds_an_image"])
    spent = [float(line[1]) for line in said if line[0] == "seconds"]
    # of the processor, which another job on the machine does not change; the first run loads the libraries
    assert max(spent[1:]) < 10.0


def test_two_bundles_of_one_config_are_not_made_at_once(workspace: Path) -> None:
    _, paths = open_workspace(workspace)
    with held(paths.runs / "bundle"), pytest.raises(UserError, match="bundle: in work by "):
        make_bundle(workspace)


def test_what_is_packed(workspace: Path) -> None:
    _, paths = open_workspace(workspace)
    bundle = paths.runs / "bundle"
    models = sorted(path.relative_to(bundle / "dataset").as_posix() for path in bundle.rglob("*.pt"))
    assert models == [f"runs/tiny/round{round}/fold{fold}/last.pt" for round in (0, 1) for fold in (0, 1)]
    packed, trained = (folder / models[0] for folder in (bundle / "dataset", workspace))
    assert packed.stat().st_size < 0.7 * trained.stat().st_size, "the weights that predict, and not the student's"
    kernel = read_json(bundle / "kernel" / "kernel-metadata.json")
    assert kernel["enable_internet"] is False
    assert kernel["competition_sources"] == [COMPETITION]
    assert kernel["dataset_sources"] == [read_json(bundle / "dataset" / "dataset-metadata.json")["id"]]
    assert "no encoder weights are needed" in read_json(bundle / "dataset" / "bundle.json")["weights"]
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(bundle / "kernel" / "inference.ipynb", as_version=4))


def test_the_real_client_takes_the_notebook(workspace: Path, tmp_path: Path) -> None:
    kernel = open_workspace(workspace)[1].runs / "bundle" / "kernel"
    with serve() as kaggle:
        command = [sys.executable, "-m", "kaggle", "kernels", "push", "-p", str(kernel)]
        settings = environment() | kaggle.environment(tmp_path) | {"VERBOSE": ""}
        answer = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
        assert answer.returncode == 0, answer.stderr
        pushed = kaggle.kernels[0]
    assert "warning" not in answer.stdout.lower()
    assert pushed["slug"] == "somebody/fewmask-tiny-inference"
    assert pushed["enableInternet"] is False
    assert pushed["datasetDataSources"] == ["somebody/fewmask-tiny"]
    assert len(json.loads(pushed["text"])["cells"]) == 4


def test_a_test_set_that_does_not_fit_is_warned_of() -> None:
    timing = Timing(start=60.0, image=2.0, device="cpu")
    assert timing.hours(30) == pytest.approx(120 / 3600)
    assert describe_time(timing, 10_000).startswith("10000 images take 5.57 of 9 hours")
    warning = describe_time(timing, 20_000)
    assert warning.startswith("warning: 20000 images take 11.13 of 9 hours")
    fitting = int(re.search(r"; (\d+) would fit", warning)[1])
    assert timing.hours(fitting) <= 9.0 < timing.hours(fitting + 1)


def test_what_is_missing_is_named(workspace: Path, tmp_path: Path) -> None:
    write_config(tmp_path)
    with pytest.raises(UserError, match=r"weights\.json: missing; run the stage"):
        make_bundle(tmp_path, "--no-wheels")
    with pytest.raises(UserError, match="--user 'a/b': give the name in your Kaggle profile"):
        make_bundle(workspace, "--no-wheels", "--user", "a/b")
    with pytest.raises(UserError, match="round0/fold0: trained with other settings"):
        make_bundle(workspace, "--no-wheels", "--set", "model.dropout=0.5")
    config, _ = open_workspace(workspace, f"data.root={tmp_path}", "data.test=''")
    with pytest.raises(UserError, match="data.test: say where the test images lie"):
        infer.infer(config, Paths(workspace, config.name), tmp_path / "x.csv")
    weights = tmp_path / "runs" / "tiny" / "ensemble" / "weights.json"
    write_json(weights, {"mean": "arithmetic", "weights": {"round 3": 1.0}})
    with pytest.raises(UserError, match="weights of round 3, not of the config's rounds"):
        make_bundle(tmp_path, "--no-wheels")


def test_wheels_come_from_where_pip_is_set_up_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in LACKING:
        stem = f"{name.replace('-', '_')}-{version(name)}"
        with zipfile.ZipFile(shelf / f"{stem}-py3-none-any.whl", "w") as wheel:
            about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version(name)}\n"
            kind = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            for file, content in {"METADATA": about, "WHEEL": kind, "RECORD": ""}.items():
                wheel.writestr(f"{stem}.dist-info/{file}", content)
    for name in [one for one in os.environ if one.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    fetch_wheels(tmp_path / "wheels", "3.12")
    assert {path.name for path in (tmp_path / "wheels").iterdir()} == {path.name for path in shelf.iterdir()}
    next(shelf.glob("zarr*")).unlink()
    with pytest.raises(UserError, match="pip could not fetch the wheels.*--no-wheels"):
        fetch_wheels(tmp_path / "again", "3.12")
    assert "zarr" in capfd.readouterr().err
