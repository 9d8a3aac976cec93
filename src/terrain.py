"""Drawing primitives of the embedded competition's aerial scenes: ground, water, roads, fields, trees and sunlight.

    canvas = new_canvas(np.random.default_rng(0), size=256, unit=2.5)
    draw_ground(canvas, "grass", "soil")

A canvas is drawn at twice the final resolution. Colours are reflectances, RGB in [0, 1]; heights are pixels above
ground, and the shadows follow from them, so that all shadows of a scene agree on where the sun stands.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]
Window = tuple[slice, slice]
EVERYWHERE = (slice(None), slice(None))

# colour, patchiness (coarse), grain (fine)
GROUNDS: dict[str, tuple[Colour, float, float]] = {
    "grass": ((0.27, 0.36, 0.17), 0.22, 0.20),
    "meadow": ((0.38, 0.42, 0.22), 0.28, 0.22),
    "dry": ((0.53, 0.48, 0.31), 0.20, 0.18),
    "soil": ((0.46, 0.36, 0.26), 0.20, 0.22),
    "laterite": ((0.55, 0.34, 0.22), 0.20, 0.20),
    "sand": ((0.69, 0.60, 0.45), 0.12, 0.12),
    "gravel": ((0.55, 0.53, 0.49), 0.12, 0.26),
    "concrete": ((0.60, 0.59, 0.56), 0.10, 0.08),
    "asphalt": ((0.31, 0.31, 0.32), 0.10, 0.10),
    "snow": ((0.84, 0.86, 0.89), 0.06, 0.05),
    "slush": ((0.62, 0.61, 0.60), 0.18, 0.16),
    "marsh": ((0.30, 0.31, 0.19), 0.32, 0.24),
    "scrub": ((0.47, 0.43, 0.29), 0.30, 0.30),
}


@dataclass(frozen=True)
class Sun:
    """Where the light comes from: the unit vector (x, y) towards the sun in the image, and its elevation's tangent."""

    x: float
    y: float
    slope: float


@dataclass(frozen=True)
class Canvas:
    """A scene being drawn, S×S pixels; the arrays are drawn into in place."""

    rng: np.random.Generator
    unit: float  # pixels per metre
    angle: float  # of the streets, radians
    sun: Sun
    colour: np.ndarray  # (S, S, 3) float32
    height: np.ndarray  # (S, S) float32
    roof: np.ndarray  # (S, S) uint8, 1 where a building is seen
    taken: np.ndarray  # (S, S) uint8, 1 where nothing else may be put
    u: np.ndarray  # (S, S) float32, pixels along the streets from the centre
    v: np.ndarray  # (S, S) float32, pixels across them
    grain: np.ndarray  # (S, S) float32, fine noise every surface shares
    mottle: np.ndarray  # (S, S) float32, coarse noise, likewise
    hue: np.ndarray  # (S, S) float32, coarse noise between warm and cold

    @property
    def size(self) -> int:
        return len(self.height)


def new_canvas(rng: np.random.Generator, size: int, unit: float) -> Canvas:
    """An empty scene of `size`×`size` pixels with a street direction and a sun of its own."""
    angle, azimuth = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    sun = Sun(float(np.cos(azimuth)), float(np.sin(azimuth)), float(rng.uniform(0.55, 1.6)))
    u, v = rotated_frame(np.arange(size)[None], np.arange(size)[:, None], size / 2, size / 2, angle)
    return Canvas(
        rng=rng,
        unit=unit,
        angle=angle,
        sun=sun,
        colour=np.zeros((size, size, 3), np.float32),
        height=np.zeros((size, size), np.float32),
        roof=np.zeros((size, size), np.uint8),
        taken=np.zeros((size, size), np.uint8),
        u=u,
        v=v,
        grain=fractal_noise(rng, size, 4.0, octaves=3, gain=0.8),
        mottle=fractal_noise(rng, size, 60.0, octaves=5),
        hue=fractal_noise(rng, size, 45.0, octaves=2),
    )


def rotated_frame(x: np.ndarray, y: np.ndarray, cx: float, cy: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x, y seen from (cx, cy) in a frame turned by `angle`."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = (x - cx).astype(np.float32), (y - cy).astype(np.float32)
    return x * cos + y * sin, y * cos - x * sin


def fractal_noise(rng: np.random.Generator, size: int, cell: float, octaves: int = 4, gain: float = 0.55) -> np.ndarray:
    """Multi-octave value noise, (size, size) float32 of mean about 0 and deviation about 0.4; `cell` pixels coarse."""
    total = np.zeros((size, size), np.float32)
    weight, power = 1.0, 0.0
    for _ in range(octaves):
        cells = max(2, round(size / max(cell, 1.0)) + 1)
        coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += weight * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        power += weight**2
        weight, cell = weight * gain, cell / 2
    return total / np.float32(np.sqrt(power))


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the reverse where low > high), smooth between."""
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def paint(canvas: Canvas, cover: np.ndarray, colour: np.ndarray | Colour) -> None:
    """Lay a colour, or an (S, S, 3) texture, over the scene where `cover`, (S, S) in [0, 1], says."""
    np.add(canvas.colour, cover[..., None].astype(np.float32) * (colour - canvas.colour), out=canvas.colour)


def surface(canvas: Canvas, ground: str, part: Window = EVERYWHERE) -> np.ndarray:
    """A window of one ground's texture, (h, w, 3) float32, of a colour that varies a little from scene to scene."""
    colour, patch, grain = GROUNDS[ground]
    rng = canvas.rng
    base = np.float32(np.array(colour) * rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3))
    light = 1 + np.float32(patch * rng.choice((-1, 1))) * canvas.mottle[part] + np.float32(grain) * canvas.grain[part]
    warm = light * canvas.hue[part] * np.float32(0.35 * patch)
    return np.stack([(light + warm) * base[0], light * base[1], (light - warm) * base[2]], -1)


def draw_ground(canvas: Canvas, main: str, other: str) -> None:
    """Cover the whole scene with one ground and patches of another."""
    canvas.colour[:] = surface(canvas, main)
    patches = fractal_noise(canvas.rng, canvas.size, 80.0, octaves=5)
    level = canvas.rng.uniform(0.0, 0.5)
    paint(canvas, ramp(patches, level, level + canvas.rng.uniform(0.05, 0.4)), surface(canvas, other))


def draw_fields(canvas: Canvas, colours: tuple[Colour, ...]) -> None:
    """Part the scene into fields, each with its crop and its furrows, between strips of grass."""
    rng, unit = canvas.rng, canvas.unit
    wide, deep = rng.uniform(28, 55) * unit, rng.uniform(22, 45) * unit
    bend = canvas.v + 6 * canvas.mottle
    column = np.floor(canvas.u / wide + 0.5).astype(int)
    row_place = bend / deep + rng.uniform(0, 1, 16)[column % 16]
    field = (column * 5 + np.floor(row_place).astype(int) * 3) % 16
    crop = np.array(colours, np.float32)[rng.integers(len(colours), size=16)] * rng.uniform(0.85, 1.15, (16, 1))
    across = np.where(rng.random(16)[field] < 0.6, canvas.u, bend)
    wave, depth = (2 * np.pi / unit) / rng.uniform(1.0, 3.0, 16), rng.uniform(0.03, 0.14, 16)
    patches = rng.uniform(0.03, 0.2, 16)
    light = 1 + depth[field] * np.sin(across * wave[field]) + 0.12 * canvas.grain + patches[field] * canvas.mottle
    canvas.colour[:] = crop[field] * light[..., None]
    to_column, to_row = (np.abs(at - np.round(at)) for at in (canvas.u / wide + 0.5, row_place))
    edge = np.minimum(to_column * wide, to_row * deep)
    paint(canvas, ramp(edge + canvas.grain, 1.2 * unit, 0.6 * unit), surface(canvas, "meadow"))


def draw_road(
    canvas: Canvas, bed: np.ndarray, pavement: np.ndarray | None, width: float, place: float, across: bool
) -> None:
    """A road `width` pixels wide at `place` along (or across) the streets; a wide one with pavements has lane marks.

    `bed` and `pavement` are (S, S, 3) textures; a road without pavements has ragged edges.
    """
    rng = canvas.rng
    along, side = (canvas.v, canvas.u) if across else (canvas.u, canvas.v)
    bend = rng.uniform(0, 0.05) * canvas.size * np.sin(along * rng.uniform(0.004, 0.012) + rng.uniform(0, 6))
    distance = np.abs(side - place - bend)
    half = width / 2
    if pavement is not None:
        edge = half + 1.8 * canvas.unit
        paint(canvas, ramp(distance, edge + 0.7, edge - 0.7), pavement)
    ragged = 3.0 if pavement is None else 0.8
    worn = 1 + 0.1 * ramp(np.abs(distance - half / 2), 0.25 * half, 0)
    paint(canvas, ramp(distance + ragged * canvas.grain, half + ragged, half - ragged), bed * worn[..., None])
    if pavement is not None and width > 6 * canvas.unit:
        dashes = (distance < 0.16 * canvas.unit + 0.3) & (np.mod(along, 7 * canvas.unit) < 3.5 * canvas.unit)
        lines = np.abs(distance - half + 0.6 * canvas.unit) < 0.3
        paint(canvas, 0.75 * (dashes | lines), (0.8, 0.8, 0.76))
    canvas.taken[distance < half + 2.0 * canvas.unit] = 1


def draw_water(canvas: Canvas, river: bool, colour: Colour) -> None:
    """A winding river, or a pond, with a muddy bank."""
    rng, size = canvas.rng, canvas.size
    wobble = fractal_noise(rng, size, size / 3, octaves=4)
    if river:
        middle = (rng.uniform(-0.3, 0.3) + 0.16 * wobble) * size
        inside = rng.uniform(6, 16) * canvas.unit - np.abs(canvas.v - middle)
    else:
        x, y = rng.uniform(-0.4, 0.4, 2) * size
        inside = rng.uniform(9, 24) * canvas.unit - np.hypot(canvas.u - x, (canvas.v - y) * 1.3) + 0.12 * size * wobble
    paint(canvas, 0.8 * ramp(inside, -3.5 * canvas.unit, 0.5), surface(canvas, "soil") * 0.85)
    depth = 1 - 0.25 * ramp(inside, 0, 10 * canvas.unit) + 0.05 * canvas.grain + 0.08 * canvas.mottle
    paint(canvas, ramp(inside, -0.8, 0.8), np.float32(colour) * depth[..., None])
    canvas.taken[inside > -3 * canvas.unit] = 1


def draw_trees(
    canvas: Canvas, count: int, radius: tuple[float, float], foliage: tuple[Colour, ...], bare: bool
) -> None:
    """Tree crowns in clumps on free ground; `radius` in metres; bare ones show the ground between their branches."""
    rng, size = canvas.rng, canvas.size
    places = rng.integers(0, size, (count * 5, 2))
    clumps = fractal_noise(rng, size, 70.0, octaves=3)[places[:, 0], places[:, 1]] + rng.normal(0, 0.25, len(places))
    free = canvas.taken[places[:, 0], places[:, 1]] == 0
    places = places[np.argsort(np.where(free, -clumps, np.inf))[: min(count, free.sum())]]
    if not len(places):
        return
    gaps = np.ones((size, size), np.uint8)
    gaps[places[:, 0], places[:, 1]] = 0
    distance, nearest = cv2.distanceTransformWithLabels(gaps, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    centres = np.zeros((count + 1, 2), int)
    centres[nearest[places[:, 0], places[:, 1]]] = places
    from_centre = np.moveaxis(np.mgrid[:size, :size], 0, -1) - centres[nearest]
    reach = (rng.uniform(*radius, count + 1) * canvas.unit).astype(np.float32)[nearest]
    ragged = distance * (1 + 0.3 * canvas.grain)
    dome = np.sqrt(np.maximum(reach**2 - ragged**2, 0))
    height = (dome + 0.6 * reach) * (dome > 0)
    if bare:
        height *= canvas.grain > 0.05
    seen = height > canvas.height
    facing = from_centre[..., 0] * canvas.sun.y + from_centre[..., 1] * canvas.sun.x
    light = 0.85 + 0.4 * facing / reach + 0.5 * canvas.grain
    leaves = np.float32(foliage)[rng.integers(len(foliage), size=count + 1)]
    leaves *= rng.uniform(0.8, 1.2, (count + 1, 1))
    paint(canvas, seen * np.float32(0.75 if bare else 1.0), leaves[nearest] * light[..., None].astype(np.float32))
    canvas.height[seen] = height[seen]
    canvas.roof[seen] = 0


def cast_shadows(canvas: Canvas) -> np.ndarray:
    """How deep each pixel lies in shadow, (S, S) float32 in [0, 1]: a higher thing stands towards the sun."""
    size, sun = canvas.size, canvas.sun
    ceiling = np.zeros_like(canvas.height)
    for step in np.arange(1.0, min(float(canvas.height.max()) / sun.slope, size / 2), 1.5):
        move = np.float32([[1, 0, step * sun.x], [0, 1, step * sun.y]])
        # WARP_INVERSE_MAP: the value comes from `step` pixels towards the sun
        moved = cv2.warpAffine(canvas.height, move, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        np.maximum(ceiling, moved - np.float32(step * sun.slope), out=ceiling)
    return cv2.GaussianBlur(np.clip((ceiling - canvas.height) / 1.5, 0, 1), (0, 0), 0.8)


@dataclass(frozen=True)
class Rectangle:
    """A place on the ground: a rectangle around (x, y), its u axis at `angle`; everything in pixels and radians."""

    x: float
    y: float
    angle: float
    half_u: float
    half_v: float

    def inner(self, u: float, v: float, half_u: float, half_v: float) -> "Rectangle":
        """A rectangle that lies at (u, v) in this one's frame."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return Rectangle(self.x + u * cos - v * sin, self.y + u * sin + v * cos, self.angle, half_u, half_v)

    def grown(self, margin: float) -> "Rectangle":
        return self.inner(0, 0, self.half_u + margin, self.half_v + margin)

    def window(self, canvas: Canvas) -> tuple[Window, np.ndarray, np.ndarray]:
        """The part of the scene around the rectangle, and that part's coordinates in the rectangle's frame."""
        reach = float(np.hypot(self.half_u, self.half_v)) + 1
        rows, columns = (
            slice(max(0, int(at - reach)), max(0, min(canvas.size, int(at + reach) + 2))) for at in (self.y, self.x)
        )
        x, y = np.arange(columns.start, columns.stop)[None], np.arange(rows.start, rows.stop)[:, None]
        return (rows, columns), *rotated_frame(x, y, self.x, self.y, self.angle)

    def is_free(self, canvas: Canvas) -> bool:
        """Whether nothing stands here yet."""
        part, u, v = self.window(canvas)
        return not (canvas.taken[part] & (np.abs(u) < self.half_u) & (np.abs(v) < self.half_v)).any()


def draw_box(canvas: Canvas, place: Rectangle, height: float, colour: Colour) -> None:
    """A flat box: a car, a container, a machine on a roof; `height` pixels above what it stands on."""
    part, u, v = place.window(canvas)
    inset = np.minimum(place.half_u - np.abs(u), place.half_v - np.abs(v))
    inside = inset > 0
    if inside.any():
        light = (1 - 0.12 * (inset < 0.8)) * (1 + 0.08 * canvas.grain[part])
        canvas.colour[part][inside] = (np.float32(colour) * light[..., None])[inside]
        canvas.height[part][inside] = canvas.height[part][inside].max() + height


def draw_slab(canvas: Canvas, place: Rectangle, kind: str | Colour) -> None:
    """A flat rectangle of a ground, or of a plain colour, that keeps buildings away."""
    part, u, v = place.window(canvas)
    edge = np.maximum(np.abs(u) - place.half_u, np.abs(v) - place.half_v) + 0.6 * canvas.grain[part]
    if isinstance(kind, str):
        texture = surface(canvas, kind, part)
    else:
        texture = np.float32(kind) * (1 + 0.1 * canvas.mottle[part] + 0.08 * canvas.grain[part])[..., None]
    canvas.colour[part] += ramp(edge, 0.8, -0.8)[..., None] * (texture - canvas.colour[part])
    canvas.taken[part][edge < 1] = 1


@dataclass(frozen=True)
class Roof:
    """What lies on a building's wings; lengths in pixels."""

    kind: str  # flat, gable, hip or shed
    colour: Colour
    eaves: float  # height
    pitch: float  # rise over run
    rib: float  # period of tiles or ribs
    relief: float  # how strongly the faces differ in light


def draw_building(canvas: Canvas, place: Rectangle, wings: list[tuple[float, ...]], roof: Roof) -> None:
    """A building of rectangular wings (centre u, centre v, half u, half v), each under its own roof, where higher."""
    part, u, v = place.window(canvas)
    height, light = np.zeros_like(u), np.ones_like(u)
    for centre_u, centre_v, half_u, half_v in wings:
        wing_height, wing_light = _wing(canvas.sun, u - centre_u, v - centre_v, half_u, half_v, place.angle, roof)
        higher = wing_height > height
        height[higher], light[higher] = wing_height[higher], wing_light[higher]
    inside = height > 0
    light *= 1 + 0.10 * canvas.grain[part] + 0.16 * canvas.mottle[part]
    canvas.colour[part][inside] = (np.float32(roof.colour) * light[..., None])[inside]
    canvas.height[part][inside] = height[inside]
    canvas.roof[part][inside] = canvas.taken[part][inside] = 1


def _wing(
    sun: Sun, u: np.ndarray, v: np.ndarray, half_u: float, half_v: float, angle: float, roof: Roof
) -> tuple[np.ndarray, np.ndarray]:
    """Height (0 outside) and light of one wing's roof, over a window."""
    if half_v > half_u:  # the ridge follows the long side
        u, v, half_u, half_v, angle = v, -u, half_v, half_u, angle + np.pi / 2
    from_end, from_side = half_u - np.abs(u), half_v - np.abs(v)
    inset = np.minimum(from_end, from_side)
    # how much a face that falls towards +u, and one that falls towards +v, is turned to the sun
    sun_u = sun.x * np.cos(angle) + sun.y * np.sin(angle)
    sun_v = sun.y * np.cos(angle) - sun.x * np.sin(angle)
    ribs = np.sin(u * (2 * np.pi / roof.rib))
    if roof.kind == "flat":
        parapet = inset < 0.7
        rise, light = 1.5 * parapet, 1 + 0.12 * parapet + 0.05 * roof.relief * ribs
    elif roof.kind == "shed":
        rise, light = roof.pitch * 0.5 * (v + half_v), 1 - 0.5 * roof.relief * sun_v + 0.08 * ribs
    else:
        end = (from_end < from_side) & (roof.kind == "hip")
        face = np.where(end, sun_u * np.sign(u), sun_v * np.sign(v))
        rise = roof.pitch * (inset if roof.kind == "hip" else from_side)
        light = 1 + roof.relief * face + 0.06 * ribs + 0.15 * (np.abs(v) < 0.7)
    return np.where(inset > 0, roof.eaves + rise, 0).astype(np.float32), light.astype(np.float32)
