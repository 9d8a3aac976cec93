"""Seeds, precision, and torchvision's mend."""

import json
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runtime import (
    autocast,
    best_device,
    choose_precision,
    count_workers,
    derive_seed,
    describe_machine,
    make_accelerator,
    mend_torchvision,
)

SRC = Path(__file__).resolve().parent.parent / "src"


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0, "samples", 1, 2) == 3560255675073200776
    assert derive_seed() == derive_seed()


def test_seeds_differ_in_every_part() -> None:
    seeds = {derive_seed(seed, kind, n) for seed in range(5) for kind in ("samples", "epoch") for n in range(20)}
    assert len(seeds) == 200
    assert derive_seed("1", 2) != derive_seed(1, 2) != derive_seed(12)
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.manual_seed(max(seeds))


@pytest.mark.parametrize(
    ("asked", "kind", "cores", "gpus", "count"),
    [
        (None, "cpu", 16, 0, 0),
        (None, "mps", 16, 0, 0),
        (None, "cuda", 4, 1, 4),
        (None, "cuda", 4, 2, 2),
        (None, "cuda", 64, 2, 8),
        (None, "cuda", 2, 4, 1),
        (0, "cuda", 16, 1, 0),
        (3, "cpu", 2, 0, 3),
    ],
)
def test_a_gpu_is_given_processes_that_load_its_samples(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, kind: str, cores: int, gpus: int, count: int
) -> None:
    monkeypatch.setattr("runtime.count_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert count_workers(asked, torch.device(kind)) == count


@pytest.mark.parametrize(("asked", "chosen"), [("fp32", "no"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_an_asked_precision_is_given(asked: str, chosen: str) -> None:
    assert choose_precision(asked) == chosen


@pytest.mark.parametrize(
    ("cuda", "mps", "bf16", "amx", "chosen"),
    [
        ((8, 0), False, False, False, "bf16"),
        ((7, 5), False, True, True, "fp16"),
        (None, True, True, True, "no"),
        (None, False, True, False, "bf16"),
        (None, False, False, True, "bf16"),
        (None, False, False, False, "no"),
    ],
)
def test_auto_takes_what_the_machine_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, cuda: tuple[int, int] | None, mps: bool, bf16: bool, amx: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto") == chosen
    assert best_device().type == ("cuda" if cuda else "mps" if mps else "cpu")


def test_autocast_is_in_the_chosen_precision() -> None:
    weight = torch.ones(2, 2)
    for asked, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(torch.device("cpu"), asked):
            assert (weight @ weight).dtype == dtype


def test_torchvision_is_mended_once() -> None:
    first = mend_torchvision()
    assert mend_torchvision() is first
    import torchvision

    assert torchvision.__version__
    assert mend_torchvision.__wrapped__() is None  # a second look finds nothing to mend


def test_the_machine_is_described_in_plain_values() -> None:
    said = describe_machine(make_accelerator("fp32"))
    assert json.loads(json.dumps(said)) == said
    assert (said["precision"], said["processes"], said["threads"]) == ("no", 1, torch.get_num_threads())
    assert said["torch"] == torch.__version__
    assert said["python"] == sys.version.split()[0]
    assert len(str(said["processor"])) > 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_used_again() -> None:
    program = """
import resource, sys, torch
from runtime import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    for asked in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", program, asked], cwd=SRC, capture_output=True, check=True)
        faults[asked] = int(done.stdout)
    pages = 5 * 2**26 // mmap.PAGESIZE
    assert faults["keep"] < 0.1 * pages < 0.9 * pages < faults["leave"]
