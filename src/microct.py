"""An offline competition of micro-tomography slices: particles to be found in grey TIFFs, few of them labelled.

    write_competition(Path("data/microct_mean_teacher/raw"), seed=0)

`images/` and `masks/` are the labelled slices, matched by number, `unlabelled/` a pool, `test/` what is to be
predicted; `hidden/` holds the test slices' masks. The slices are of one stack: along it, contrast drifts and the share
of faint particles changes, so that a few labelled slices do not show all of it. Particles are angular or round and cut
by the slice at any height, so that their edges are blurred where they slope (partial volume). The detector leaves rings
about the axis of rotation, dense particles streaks; the vessel's wall and clumps in the filling look like particles.
"""

import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import tifffile

from errors import UserError
from terrain import fractal_noise

LEVELS = (-0.8, 0.0, 0.8)  # heights at which a particle is cut, in pixels: the slice's thickness
FILLING = 0.30  # the attenuation of what lies between the particles; the air outside has none
SPLITS = {"images": "masks", "unlabelled": "", "test": "hidden"}  # folder of slices → folder of their masks


def write_competition(
    folder: Path, seed: int, *, labelled: int = 22, unlabelled: int = 150, test: int = 24, size: int = 384
) -> None:
    """Write the competition into `folder`, whole or not at all; the same seed and counts give the same bytes.

    Slices are `size`×`size` uint8 TIFFs, masks the same with 255 in particles. Raises UserError where the folder holds
    something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: something lies here already; delete it to have the competition written again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp", dir=folder.parent))
    counts = (labelled, unlabelled, test)
    order = np.random.default_rng([seed, 0]).permutation(sum(counts))
    try:
        for (split, masks), places in zip(SPLITS.items(), np.split(order, np.cumsum(counts)[:-1]), strict=True):
            for name in filter(None, (split, masks)):
                (temporary / name).mkdir()
            for place in places.tolist():
                image, mask = draw_slice(seed, place, place / max(1, len(order) - 1), size)
                _write(temporary / split / f"slice_{place:04}.tif", image)
                if masks:
                    _write(temporary / masks / f"mask_{place}.tif", mask * 255)
        temporary.chmod(0o755)  # mkdtemp keeps others out
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def draw_slice(seed: int, number: int, height: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One slice at a height of 0 to 1 in the stack: `(size, size)` uint8, and its particles, uint8 of 0 and 1.

    A pixel is a particle's where at least half of its volume is.
    """
    stack, rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2, number])
    axis = size * stack.uniform(0.35, 0.65, 2)  # of rotation, the same for all slices
    radius = np.hypot(*np.mgrid[0.5:size, 0.5:size] - axis[:, None, None]).astype(np.float32)
    wave = np.sin(2 * np.pi * (height * stack.uniform(1.5, 2.5, 4) + stack.random(4)))  # what drifts along the stack
    faint = np.clip(0.45 + 0.35 * wave[0], 0, 1)
    filling = FILLING * (1 + 0.10 * fractal_noise(rng, size, size / 8, octaves=4)) + _clumps(rng, size)
    inner = size * stack.uniform(0.52, 0.6)
    share, solid = _pack(rng, radius < inner, 0.14 + 0.12 * height, faint)
    image = _put_in_vessel(filling * (1 - share) + solid, radius, inner)
    image = image + _streaks(rng, solid)
    image *= 1 + (0.10 + 0.08 * wave[1]) * ((radius / size) ** 2 - 0.15)  # beam hardening: the middle is darker
    image += _rings(stack, rng, radius, 0.6 + 0.8 * wave[2] ** 2)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 1.2))
    noise = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), 0.7)
    image += noise * np.float32(rng.uniform(0.06, 0.16))
    tilt = fractal_noise(rng, size, size, octaves=1)
    image = image * np.float32(0.85 + 0.25 * wave[3]) + np.float32(0.10 - 0.06 * wave[1]) + 0.04 * tilt
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), (share >= 0.5).astype(np.uint8)


def _pack(rng: np.random.Generator, room: np.ndarray, wanted: float, faint: float) -> tuple[np.ndarray, np.ndarray]:
    """Particles that touch but do not overlap, until they fill `wanted` of the slice or find no more room.

    Returns each pixel's share of particles, and that times their attenuation, both `(size, size) float32`.
    """
    size = len(room)
    share, solid = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    for _ in range(40 + size * size // 500):
        radius = float(np.exp(rng.uniform(np.log(3.5), np.log(20.0))))
        row, column = (int(one) for one in rng.integers(0, size, 2))
        reach = int(np.ceil(1.75 * radius)) + 2  # a box's corner
        window = np.s_[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        part = _cut_particle(rng, window, row, column, size, radius)
        # faint ones are hardly brighter than the filling
        attenuation = rng.uniform(0.40, 0.50) if rng.random() < faint else rng.uniform(0.55, 1.0)
        if (share[window] + part).max() > 1.15 or (part > 0)[~room[window]].any():
            continue
        texture = 1 + 0.10 * cv2.GaussianBlur(rng.standard_normal(part.shape, dtype=np.float32), (0, 0), 1.5) * 4
        part = np.minimum(part, 1 - share[window])
        share[window] += part
        solid[window] += part * np.float32(attenuation) * texture
        if share.mean() > wanted:
            break
    return share, solid


def _cut_particle(
    rng: np.random.Generator, window: tuple[slice, slice], row: int, column: int, size: int, radius: float
) -> np.ndarray:
    """A convex polyhedron or an ellipsoid, cut at a random height: its share of each pixel's volume."""
    y = np.arange(window[0].start, min(size, window[0].stop), dtype=np.float32)[:, None] - np.float32(row)
    x = np.arange(window[1].start, min(size, window[1].stop), dtype=np.float32) - np.float32(column)
    cut = np.float32(rng.uniform(-0.8, 0.8) * radius)
    if rng.random() < 0.6:
        normals = rng.normal(size=(rng.integers(7, 13), 3)).astype(np.float32)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        planes = np.float32(radius * rng.uniform(0.55, 1.0, len(normals)))
        # within a box, else an open side would let it run through the window
        box = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
        normals, planes = np.concatenate([normals, box, -box]), np.append(planes, np.full(6, radius, np.float32))
        sides = [n[0] * y + n[1] * x + (n[2] * cut - plane) for n, plane in zip(normals, planes, strict=True)]
        slopes = normals[:, 2, None, None]
        depth = [np.max(np.stack(sides) + slopes * np.float32(z), axis=0) for z in LEVELS]
    else:
        turn, squeeze = rng.uniform(0, np.pi), np.float32(rng.uniform(0.6, 1.0))
        u = np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y
        v = (np.float32(np.cos(turn)) * y - np.float32(np.sin(turn)) * x) / squeeze
        depth = [np.sqrt(u * u + v * v + (cut + z) ** 2) - np.float32(radius) for z in LEVELS]
    return np.mean([np.clip(0.5 - one, 0, 1) for one in depth], axis=0, dtype=np.float32)


def _clumps(rng: np.random.Generator, size: int) -> np.ndarray:
    """Denser places in the filling, as bright as faint particles but without an edge."""
    clumps = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(4, 10) * size // 256):
        row, column = (int(one) for one in rng.integers(0, size, 2))
        axes = tuple(int(one) for one in rng.integers(3, 14, 2))
        cv2.ellipse(clumps, (column, row), axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.1, 0.3)), -1)
    return cv2.GaussianBlur(clumps, (0, 0), 4.0)


def _put_in_vessel(image: np.ndarray, radius: np.ndarray, inner: float) -> np.ndarray:
    """Cut the image off at a round vessel's bright wall, outside of which is air."""
    inside = np.clip(inner - radius + 0.5, 0, 1)
    wall = np.clip(inner + 7 - radius + 0.5, 0, 1) - inside
    return image * inside + np.float32(0.6) * wall


def _streaks(rng: np.random.Generator, solid: np.ndarray) -> np.ndarray:
    """Dark and bright bands between dense particles: the slice blurred far along a few directions, less its mean."""
    size = len(solid) // 4
    dense = cv2.resize(np.maximum(solid - 0.7, 0), (size, size), interpolation=cv2.INTER_AREA)
    bands = np.zeros_like(dense)
    for angle in rng.uniform(0, np.pi, 3):
        length = size // 2 | 1
        kernel = np.zeros((length, length), np.float32)
        away = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        ends = [tuple(int(one) for one in length / 2 + sign * away) for sign in (-1, 1)]
        cv2.line(kernel, *ends, 1.0)
        far = cv2.filter2D(dense, cv2.CV_32F, kernel / kernel.sum(), borderType=cv2.BORDER_CONSTANT)
        bands += far - cv2.GaussianBlur(far, (0, 0), 3.0)
    return cv2.resize(bands, solid.shape, interpolation=cv2.INTER_CUBIC) * np.float32(3.0)


def _rings(stack: np.random.Generator, rng: np.random.Generator, radius: np.ndarray, strength: float) -> np.ndarray:
    """Circles about the axis of rotation, where pixels of the detector answer wrongly: fine ones and a few strong."""
    count = int(radius.max()) + 2
    profile = 0.03 * stack.standard_normal(count)
    strong = stack.integers(0, count, count // 25)
    profile[strong] += stack.normal(0, 0.20, len(strong))
    profile += 0.012 * rng.standard_normal(count)
    damped = profile / (1 + 0.5 * np.sqrt(np.arange(count)) / np.sqrt(count))  # near the axis they are worst
    return np.interp(radius, np.arange(count), damped * strength).astype(np.float32)


def _write(path: Path, array: np.ndarray) -> None:
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None, software=False, compression="zlib")
