"""Seeds, precision and the accelerator: what the machine decides, in one place.

Randomness is stateless: every draw's seed is derived from what it is for (`derive_seed(seed, "sample", fold, n)`), so
a run that was killed goes on with the very numbers it would have drawn, whatever the number of workers or processes.
"""

import ctypes
import functools
import hashlib
import importlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from children import count_cores

if TYPE_CHECKING:
    from accelerate import Accelerator


CPUINFO = Path("/proc/cpuinfo")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h's names for mallopt(3)
LIBRARIES = ("torch", "numpy", "cv2", "albumentations", "timm", "segmentation_models_pytorch")


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed made of what it is for; the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@functools.cache
def mend_torchvision() -> torch.library.Library | None:
    """Make `import torchvision` work where its own library cannot load, as beside a CPU-only torch.

    torchvision registers fake kernels for two operators that its compiled library defines; without the library the
    import fails. Their schemas alone are enough, since nothing here calls them. Call it before timm or smp is imported.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return library  # the cache keeps it: with it the schemas would go


def choose_precision(asked: Literal["auto", "bf16", "fp16", "fp32"]) -> Literal["bf16", "fp16", "no"]:
    """The mixed precision this machine is fast in: bf16 where the GPU or processor has it, fp16 on older GPUs."""
    if asked != "auto":
        return "no" if asked == "fp32" else asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    if torch.backends.mps.is_available():
        return "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def make_accelerator(precision: Literal["auto", "bf16", "fp16", "fp32"]) -> "Accelerator":
    """One code path for CPU, one GPU, many GPUs and many machines; the launcher differs."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision=choose_precision(precision))


def count_workers(asked: int | None, device: torch.device) -> int:
    """How many processes load a training's samples: as many as are asked for, or as its GPU has cores for.

    On a processor the steps have all cores themselves, and loading is a small part of them.
    """
    if asked is not None:
        return asked
    if device.type != "cuda":
        return 0
    return max(1, min(8, count_cores() // torch.cuda.device_count()))


def keep_freed_memory() -> None:
    """Have glibc keep what tensors free: every step asks for as much again, and fresh pages cost time.

    Where there is no glibc nothing changes.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
        set_option(option, value)


def autocast(device: torch.device, precision: Literal["auto", "bf16", "fp16", "fp32"]) -> torch.autocast:
    """The same precision outside training."""
    chosen = choose_precision(precision)
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=chosen != "no")


def describe_machine(accelerator: "Accelerator") -> dict[str, str | int]:
    """What decides a run's last bits besides its config and seed."""
    gpu = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    return {
        "processor": _processor(),
        "device": gpu,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "python": platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in LIBRARIES},
    }


def _processor() -> str:
    """The processor's model where Linux names it, or else its kind."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def best_device() -> torch.device:
    # so that asking leaves this process without a CUDA context, which the processes it forks could not use
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
