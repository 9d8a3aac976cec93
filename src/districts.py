"""What the embedded competition's scenes are made of: the districts they show and the sensors that took them."""

from dataclasses import dataclass

Colour = tuple[float, float, float]

GREENS = ((0.16, 0.26, 0.10), (0.21, 0.30, 0.13), (0.13, 0.22, 0.11))
AUTUMN = ((0.50, 0.30, 0.12), (0.42, 0.36, 0.14), (0.24, 0.27, 0.12), (0.48, 0.22, 0.12))
PALE = ((0.30, 0.33, 0.20), (0.36, 0.36, 0.24))
WINTER = ((0.22, 0.21, 0.19), (0.15, 0.20, 0.15))
CROPS = ((0.33, 0.42, 0.18), (0.52, 0.47, 0.26), (0.44, 0.34, 0.23), (0.25, 0.33, 0.16), (0.62, 0.56, 0.34))
WATERS = ((0.16, 0.22, 0.22), (0.20, 0.24, 0.18), (0.15, 0.24, 0.30))
CARS = ((0.85, 0.85, 0.86), (0.12, 0.12, 0.13), (0.45, 0.46, 0.48), (0.55, 0.12, 0.10), (0.14, 0.22, 0.45))
CONTAINERS = ((0.55, 0.22, 0.16), (0.20, 0.33, 0.50), (0.75, 0.75, 0.74), (0.28, 0.42, 0.30), (0.62, 0.45, 0.20))
COURTS = ((0.20, 0.38, 0.30), (0.55, 0.28, 0.19), (0.22, 0.33, 0.52), (0.30, 0.45, 0.24))
TANKS = ((0.76, 0.76, 0.74), (0.60, 0.60, 0.58), (0.52, 0.36, 0.26))
MACHINES = ((0.78, 0.78, 0.76), (0.30, 0.31, 0.33), (0.55, 0.56, 0.57), (0.14, 0.17, 0.26))

# the long side of each look-alike, metres
LOT_SIDES = {
    "plot": (9, 30),
    "parking": (22, 44),
    "court": (32, 38),
    "containers": (18, 36),
    "trucks": (12, 22),
    "greenhouse": (20, 48),
    "tanks": (16, 32),
    "pool": (5, 10),
}


@dataclass(frozen=True)
class District:
    """What the scenes of one place have in common."""

    labelled: float  # its weight among the labelled images; the other splits hold all districts alike
    grounds: tuple[str, str]
    road: str
    roofs: tuple[Colour, ...]
    kinds: tuple[str, ...]  # flat, gable, hip
    side: tuple[float, float]  # a footprint's long side, metres
    density: float  # tries to place a building, a hectare
    lots: tuple[str, ...]  # look-alikes
    trees: int  # a hectare
    foliage: tuple[Colour, ...] = GREENS
    bare: bool = False
    fields: float = 0.0  # chance
    water: float = 0.1  # chance


DISTRICTS = (
    District(  # garden suburb
        6, ("grass", "meadow"), "asphalt",
        ((0.50, 0.27, 0.19), (0.36, 0.25, 0.20), (0.38, 0.37, 0.37), (0.60, 0.38, 0.27)),
        ("gable", "hip"), (10, 19), 36, ("pool", "court", "plot"), 46,
    ),
    District(  # works and warehouses
        5, ("concrete", "dry"), "asphalt",
        ((0.62, 0.62, 0.61), (0.45, 0.46, 0.48), (0.74, 0.73, 0.70), (0.35, 0.42, 0.50)),
        ("flat", "flat", "gable"), (20, 46), 14, ("containers", "parking", "tanks", "plot", "trucks"), 8,
    ),
    District(  # farmland
        4, ("meadow", "soil"), "gravel",
        ((0.52, 0.25, 0.17), (0.42, 0.40, 0.37), (0.44, 0.31, 0.22)),
        ("gable", "gable", "flat"), (12, 30), 14, ("greenhouse", "plot", "trucks"), 26, fields=0.8, water=0.2,
    ),
    District(  # desert town
        3, ("sand", "scrub"), "sand",
        ((0.66, 0.58, 0.45), (0.72, 0.66, 0.56), (0.57, 0.49, 0.38), (0.80, 0.77, 0.70)),
        ("flat",), (9, 22), 50, ("plot", "plot", "trucks", "pool"), 7, foliage=PALE,
    ),
    District(  # old town
        2, ("concrete", "grass"), "concrete",
        ((0.44, 0.25, 0.18), (0.27, 0.27, 0.30), (0.53, 0.36, 0.28), (0.33, 0.29, 0.26)),
        ("gable", "hip", "gable"), (14, 32), 60, ("plot", "parking", "court"), 18, foliage=AUTUMN,
    ),
    District(  # tin-roofed sprawl
        2, ("laterite", "grass"), "laterite",
        ((0.30, 0.40, 0.55), (0.52, 0.31, 0.20), (0.62, 0.63, 0.64), (0.32, 0.44, 0.36), (0.50, 0.40, 0.32)),
        ("gable", "shed", "shed"), (7, 15), 80, ("plot", "containers", "trucks"), 22,
    ),
    District(  # under snow
        1, ("snow", "slush"), "slush",
        ((0.80, 0.81, 0.84), (0.72, 0.72, 0.75), (0.42, 0.36, 0.34), (0.62, 0.60, 0.60)),
        ("gable", "hip", "flat"), (10, 26), 32, ("plot", "trucks", "parking"), 26, foliage=WINTER, bare=True,
    ),
    District(  # waterside
        1, ("marsh", "sand"), "gravel",
        ((0.40, 0.39, 0.38), (0.34, 0.42, 0.42), (0.56, 0.50, 0.42), (0.45, 0.25, 0.20)),
        ("gable", "flat", "hip"), (9, 22), 22, ("plot", "tanks", "greenhouse"), 40, fields=0.15, water=0.9,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Sensor:
    """How a camera and the air spoil a scene; each is the most that may occur."""

    haze: float
    blur: float  # pixels
    noise: float
    saturation: float
    cast: Colour
    jpeg: int = 95  # quality
    vignette: float = 0.1


SENSORS = (
    Sensor(0.10, 0.4, 0.012, 1.15, (1.0, 1.0, 1.0)),
    Sensor(0.55, 0.7, 0.018, 0.85, (0.94, 0.99, 1.06)),
    Sensor(0.25, 0.6, 0.045, 0.55, (1.10, 1.00, 0.84), vignette=0.45),
    Sensor(0.15, 1.2, 0.010, 1.00, (1.04, 1.00, 0.94)),
    Sensor(0.20, 0.5, 0.020, 1.25, (0.97, 1.04, 0.97), jpeg=28),
    Sensor(0.30, 0.5, 0.030, 0.25, (0.96, 1.00, 1.05), vignette=0.25),
)
