"""The embedded offline competition: seeded aerial scenes, written as Kaggle would lay out a building segmentation task.

    write_competition(Path("data/sample/raw"), seed=0)

`train/` and `train.csv` are the few labelled images, `unlabelled/` a pool, `test/` with `sample_submission.csv` what is
to be predicted; `hidden/solution.csv` is kept aside. The scenes come from districts that differ in roofs, ground,
season and trees, seen by sensors that differ in haze, noise, blur and colour; the labelled images cover them sparsely
and unevenly. Plots, courts, car parks, containers, greenhouses and tanks look like buildings and are not.
"""

import csv
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from districts import (
    CARS,
    CONTAINERS,
    COURTS,
    CROPS,
    DISTRICTS,
    LOT_SIDES,
    MACHINES,
    SENSORS,
    TANKS,
    WATERS,
    Colour,
    District,
    Sensor,
)
from errors import UserError
from rle import encode
from terrain import (
    Canvas,
    Rectangle,
    Roof,
    cast_shadows,
    draw_box,
    draw_building,
    draw_fields,
    draw_ground,
    draw_road,
    draw_slab,
    draw_trees,
    draw_water,
    fractal_noise,
    new_canvas,
    surface,
)

SPLITS = ("train", "unlabelled", "test")
EMPTY_EVERY = 7  # one image in so many has no building


def write_competition(
    folder: Path, seed: int, *, labelled: int = 24, unlabelled: int = 160, test: int = 60, size: int = 128
) -> None:
    """Write the competition into `folder`, whole or not at all; the same seed and counts give the same bytes.

    Images are `size`×`size` RGB PNGs; RLE is column-major, 1-based `start length`. Raises UserError where the folder
    holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: something lies here already; delete it to have the competition written again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp", dir=folder.parent))
    try:
        rows = {
            split: _write_split(temporary, seed, split, count, size)
            for split, count in zip(SPLITS, (labelled, unlabelled, test), strict=True)
        }
        _write_table(temporary / "train.csv", rows["train"])
        _write_table(temporary / "hidden" / "solution.csv", rows["test"])
        order = np.random.default_rng([seed, len(SPLITS)]).permutation(len(rows["test"]))
        _write_table(temporary / "sample_submission.csv", [(rows["test"][place][0], "") for place in order])
        temporary.chmod(0o755)  # mkdtemp keeps others out
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def draw_scene(
    seed: int, split: str, number: int, district: District, size: int, empty: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One scene: its photograph, (size, size, 3) uint8 RGB, and its buildings, (size, size) uint8 of 0 and 1."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    canvas = new_canvas(rng, 2 * size, unit=rng.uniform(2.0, 3.6))
    hectares = (canvas.size / canvas.unit / 100) ** 2
    _draw_land(canvas, district)
    for kind in rng.choice(district.lots, rng.integers(3, 6) if empty else rng.integers(1, 4)):
        _draw_lot(canvas, str(kind), district)
    if not empty:
        for _ in range(1 + round(district.density * hectares * rng.uniform(0.4, 1.2))):
            _place_building(canvas, district)
    trees = 1 + round(district.trees * hectares * rng.uniform(0.2, 1.6))
    draw_trees(canvas, trees, (1.2, rng.uniform(2.5, 4.5)), district.foliage, district.bare)
    # a pixel is a building's where at least half of it is
    seen = cv2.resize(canvas.roof * np.float32(1), (size, size), interpolation=cv2.INTER_AREA) >= 0.5
    return _photograph(canvas, SENSORS[rng.integers(len(SENSORS))]), seen.astype(np.uint8)


def _draw_land(canvas: Canvas, district: District) -> None:
    rng = canvas.rng
    draw_ground(canvas, *district.grounds)
    if rng.random() < district.fields:
        draw_fields(canvas, CROPS)
    if rng.random() < district.water:
        draw_water(canvas, bool(rng.random() < 0.5), WATERS[rng.integers(len(WATERS))])
    bed = surface(canvas, district.road)
    pavement = surface(canvas, "concrete") if district.road in ("asphalt", "concrete") else None
    spacing = rng.uniform(40, 65) * canvas.unit
    for across in (False, True):
        width, first = rng.uniform(4, 9) * canvas.unit, rng.uniform(-1, 1) * spacing / 2
        for side in np.arange(first - 2 * spacing, 0.7 * canvas.size, spacing):
            if abs(side) < 0.7 * canvas.size and rng.random() < (0.3 if across else 0.7):
                draw_road(canvas, bed, pavement, width, side, across)


def _find_place(canvas: Canvas, half_u: float, half_v: float, swing: float, tries: int) -> Rectangle | None:
    """A free place that lies with the streets, give or take `swing` radians, or None."""
    rng = canvas.rng
    margin = 1.2 * canvas.unit
    for _ in range(tries):
        x, y = rng.uniform(0, canvas.size, 2)
        angle = canvas.angle + rng.integers(2) * np.pi / 2 + rng.normal(0, swing)
        place = Rectangle(float(x), float(y), float(angle), half_u, half_v)
        if place.grown(margin).is_free(canvas):
            return place
    return None


def _place_building(canvas: Canvas, district: District) -> None:
    """Try to put up one building, perhaps on a yard; where there is no room, none."""
    rng, unit = canvas.rng, canvas.unit
    kind = str(rng.choice(district.kinds))
    half = rng.uniform(*district.side) / 2 * unit
    place = _find_place(canvas, half, half * rng.uniform(0.5, 0.95), 0.06 if rng.random() < 0.8 else 0.6, tries=6)
    if place is None:
        return
    if rng.random() < 0.5:
        draw_slab(canvas, place.grown(rng.uniform(1, 4) * unit), str(rng.choice(district.grounds)))
    roof = Roof(
        kind,
        _vary(rng, district.roofs, 0.2),
        eaves=rng.uniform(2.5, 7.0) * unit * (0.7 if kind == "shed" else 1.0),
        pitch=rng.uniform(0.35, 0.8),
        rib=rng.uniform(0.8, 2.2) * unit,
        relief=rng.uniform(0.12, 0.38),
    )
    draw_building(canvas, place, _footprint(rng, place, small=half < 7 * unit), roof)
    if kind == "flat" and half > 4 * unit:
        for _ in range(rng.integers(1, 12)):
            u, v = rng.uniform(-0.8, 0.8, 2)
            machine = place.inner(u * place.half_u, v * place.half_v, *(rng.uniform(0.5, 1.8, 2) * unit))
            x, y = int(machine.x), int(machine.y)
            if 0 <= x < canvas.size and 0 <= y < canvas.size and canvas.roof[y, x]:
                draw_box(canvas, machine, rng.uniform(0.3, 1.6) * unit, _vary(rng, MACHINES, 0.15))


def _vary(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float) -> Colour:
    """One of the colours, lighter or darker by up to `spread`, and slightly tinted."""
    light = rng.uniform(1 - spread, 1 + spread) * rng.uniform(0.94, 1.06, 3)
    return tuple(np.array(colours[rng.integers(len(colours))]) * light)


def _footprint(rng: np.random.Generator, place: Rectangle, small: bool) -> list[tuple[float, ...]]:
    """Wings (centre u, centre v, half u, half v) of a plain, L-, U- or T-shaped building."""
    half_u, half_v = place.half_u, place.half_v
    depth, wing = rng.uniform(0.4, 0.55) * half_v, rng.uniform(0.28, 0.42) * half_u
    bar = (0.0, half_v - depth, half_u, depth)
    left, right = (wing - half_u, 0.0, wing, half_v), (half_u - wing, 0.0, wing, half_v)
    match rng.choice(("plain", "plain", "plain", "L") if small else ("plain", "plain", "L", "U", "T")):
        case "L":
            return [bar, left if rng.random() < 0.5 else right]
        case "U":
            return [bar, left, right]
        case "T":
            return [bar, (rng.uniform(-0.4, 0.4) * half_u, 0.0, wing, half_v)]
    return [(0.0, 0.0, half_u, half_v)]


def _draw_lot(canvas: Canvas, kind: str, district: District) -> None:
    """One look-alike: something rectangular, bright or tall that is no building."""
    rng, unit = canvas.rng, canvas.unit
    half = rng.uniform(*LOT_SIDES[kind]) / 2 * unit
    place = _find_place(canvas, half, half * rng.uniform(0.45, 0.8), 0.05, tries=8)
    if place is None:
        return
    match kind:
        case "plot":
            grounds = ("soil", "concrete", "gravel", "sand")
            draw_slab(
                canvas, place, _vary(rng, district.roofs, 0.15) if rng.random() < 0.6 else str(rng.choice(grounds))
            )
        case "court":
            outer, inner = rng.permutation(len(COURTS))[:2]
            draw_slab(canvas, place, COURTS[outer])
            _draw_court(canvas, place.inner(0, 0, 0.68 * half, 0.62 * place.half_v), COURTS[inner])
        case "pool":
            draw_slab(canvas, place.grown(1.2 * unit), (0.72, 0.70, 0.65))
            draw_slab(canvas, place, (0.25, 0.55, 0.65))
        case "greenhouse":
            draw_slab(canvas, place, (0.68, 0.71, 0.70))
            part, u, v = place.window(canvas)
            ribs = 1 + 0.10 * np.sin(v * (2 * np.pi / (3 * unit))) - 0.1 * (np.mod(u, 2 * unit) < 0.8)
            canvas.colour[part] *= np.where((np.abs(u) < half) & (np.abs(v) < place.half_v), ribs, 1)[..., None]
        case "tanks":
            draw_slab(canvas, place, "gravel")
            _draw_tanks(canvas, place)
        case _:
            draw_slab(canvas, place, "asphalt" if kind == "parking" else district.road)
            _draw_rows(canvas, place, kind)


def _draw_court(canvas: Canvas, place: Rectangle, colour: Colour) -> None:
    draw_slab(canvas, place, colour)
    part, u, v = place.window(canvas)
    u, v, width = np.abs(u) / place.half_u, np.abs(v) / place.half_v, 0.3 * canvas.unit / place.half_v
    court = np.maximum(u / 0.8, v / 0.75)
    inside = (court < 1) & ((u < width / 2) | (np.abs(v - 0.55) < width / 1.5))
    canvas.colour[part][inside | (np.abs(court - 1) < width)] = 0.82


def _draw_tanks(canvas: Canvas, place: Rectangle) -> None:
    """A row of round tanks of one size."""
    rng = canvas.rng
    radius, height = place.half_v * rng.uniform(0.5, 0.85), rng.uniform(3, 8) * canvas.unit
    colour = np.float32(_vary(rng, TANKS, 0.1))
    for at in np.arange(radius - place.half_u, place.half_u - 0.9 * radius, 2.3 * radius):
        part, u, v = place.inner(at, 0, radius, radius).window(canvas)
        distance = np.hypot(u, v)
        light = 1 + 0.15 * (distance > radius - 1.6) - 0.1 * distance / radius + 0.06 * canvas.grain[part]
        inside = distance < radius
        canvas.colour[part][inside] = (colour * light[..., None])[inside]
        canvas.height[part][inside] = height


def _draw_rows(canvas: Canvas, place: Rectangle, kind: str) -> None:
    """Cars between painted lines, containers in stacks or parked trucks, in rows."""
    rng, unit = canvas.rng, canvas.unit
    long, wide, tall, lane, gap, colours = {
        "parking": (4.4, 1.9, 1.3, 4.5, 0.7, CARS),
        "containers": (rng.choice((6.0, 12.0)), 2.5, 2.6 * rng.integers(1, 3), 1.0, 0.15, CONTAINERS),
        "trucks": (11.0, 2.5, 3.2, 4.0, 1.5, CONTAINERS),
    }[kind]
    half_u, half_v, share = wide / 2 * unit, long / 2 * unit, rng.uniform(0.3, 0.9)
    for v in np.arange(half_v + unit / 2 - place.half_v, place.half_v - half_v, (long + lane) * unit):
        for u in np.arange(half_u + unit / 2 - place.half_u, place.half_u - half_u, (wide + gap) * unit):
            if kind == "parking":
                draw_box(canvas, place.inner(u + half_u + gap / 2 * unit, v, 0.35, half_v), 0.0, (0.72, 0.72, 0.70))
            if rng.random() < share:
                draw_box(canvas, place.inner(u, v, half_u, half_v), tall * unit, _vary(rng, colours, 0.12))


def _photograph(canvas: Canvas, sensor: Sensor) -> np.ndarray:
    """The scene as the sensor sees it, at half the canvas's size, uint8 RGB."""
    rng = canvas.rng
    shade = cast_shadows(canvas)[..., None] * np.float32(rng.uniform(0.55, 1.0))
    lit = canvas.colour * (1 - shade * np.float32((0.62, 0.57, 0.48)))
    image = cv2.resize(np.clip(lit, 0, 1.2), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    size = len(image)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * np.float32(sensor.saturation * rng.uniform(0.8, 1.1))
    image = image * np.float32(np.array(sensor.cast) * rng.uniform(0.94, 1.06, 3) * rng.uniform(0.75, 1.2))
    haze = sensor.haze * rng.uniform(0.3, 1) * (1 + 0.35 * fractal_noise(rng, size, size / 2, octaves=2))
    image = image + np.clip(haze, 0, 0.8)[..., None] * (np.float32((0.66, 0.71, 0.77)) - image)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    image = image * (1 - sensor.vignette * rng.uniform(0.3, 1) * (x * x + y * y) / 2)[..., None].astype(np.float32)
    image = np.clip(image, 0, 1) ** np.float32(rng.uniform(0.75, 1.2))
    image = cv2.GaussianBlur(image, (0, 0), max(0.2, sensor.blur * rng.uniform(0.5, 1)))
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(sensor.noise * rng.uniform(0.4, 1))
    image = np.clip((image + noise * np.sqrt(0.3 + image)) * 255, 0, 255).astype(np.uint8)
    packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(sensor.jpeg, 96))])[1]
    return cv2.imdecode(packed, cv2.IMREAD_COLOR)


def _write_split(folder: Path, seed: int, split: str, count: int, size: int) -> list[tuple[str, str]]:
    """Draw and write one split's images; returns (id, rle) in the order of the ids."""
    (folder / split).mkdir()
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    weights = np.cumsum([district.labelled if split == "train" else 1.0 for district in DISTRICTS])
    # evenly spaced draws, so that small counts keep the shares too
    chosen = np.searchsorted(weights, (np.arange(count) + rng.random()) / count * weights[-1], side="right")
    empty = rng.permutation(np.arange(count) % EMPTY_EVERY == EMPTY_EVERY // 2)
    rows = []
    for number in range(count):
        image, mask = draw_scene(seed, split, number, DISTRICTS[chosen[number]], size, bool(empty[number]))
        name = hashlib.sha256(f"{seed} {split} {number}".encode()).hexdigest()[:10]
        packed = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        (folder / split / f"{name}.png").write_bytes(packed.tobytes())
        rows.append((name, encode(mask)))
    return sorted(rows)


def _write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "rle"), *rows])
