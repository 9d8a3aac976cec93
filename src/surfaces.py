"""Scores of shapes: surface Dice, the Hausdorff distance of volumes, and boundary F.

    part, whole = surface_dice(truth, prediction, tolerance=1.0)
    hausdorff(truth, prediction)

Surfaces are those of google-deepmind/surface-distance (Nikolov et al., arXiv:1809.04430): between the centres of 2x2x2
voxels lies the piece of surface that marching cubes draws there, and its area is what counts.
"""

import functools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from metrics import Ratio


@functools.cache
def surface_areas(dimensions: int) -> np.ndarray:
    """(2 ** 2 ** dimensions,) float64: the surface in a cell of voxels (or the line in one of pixels), by its corners.

    Corner (z, y, x) of the cell is bit 4z + 2y + x of the code, the first bit for z = y = x = 0. A code and its
    complement have the same surface: that of classic marching cubes (Lorensen and Cline 1987) around the fewer corners.
    """
    codes = np.arange(2**2**dimensions)
    if dimensions == 2:
        corners, bits = 2, 4
        diagonal = np.isin(codes, (0b0110, 0b1001))
        count = np.array([int(code).bit_count() for code in codes])
        lengths = np.where(count == corners, np.where(diagonal, np.sqrt(2.0), 1.0), np.sqrt(0.5))
        return np.where((count == 0) | (count == bits), 0.0, lengths)
    from skimage.measure import marching_cubes, mesh_surface_area

    areas = np.zeros(len(codes))
    for code in range(1, len(codes) - 1):
        fewer = code if code.bit_count() <= 4 else len(codes) - 1 - code
        cell = (fewer >> np.arange(8) & 1).reshape(2, 2, 2).astype(np.float32)
        vertices, faces, _, _ = marching_cubes(cell, 0.5, method="lorensen")
        areas[code] = mesh_surface_area(vertices, faces)
    return areas


def surface_dice(target: np.ndarray, prediction: np.ndarray, tolerance: float = 0.0) -> Ratio:
    """Area of each mask's surface that lies within `tolerance` voxels of the other's, over the area of both.

    Masks are (H, W) or (D, H, W), the space beyond their edges is empty, and distances are those between cells. 0 of 0
    where neither mask has a surface. Raises ValueError for masks of two shapes.
    """
    if target.shape != prediction.shape:
        raise ValueError(f"the target is {target.shape}, the prediction {prediction.shape}")
    dimensions, box = target.ndim, _bounding_box((target, prediction))
    codes = [_cell_codes(np.pad(mask[box] != 0, 1)) for mask in (target, prediction)]
    return _matched_surface(*codes, surface_areas(dimensions), tolerance)


def volume_surface_dice(slices: Iterable[tuple[np.ndarray, np.ndarray]]) -> Ratio:
    """`surface_dice` of a volume at tolerance 0, streamed: (target, prediction) of each (H, W) slice in order.

    The metric of SenNet + HOA 2023, whose volumes are larger than the memory.
    """
    areas, part, whole = surface_areas(3), 0.0, 0.0
    before: list[np.ndarray] | None = None
    for pair in slices:
        now = [np.pad(mask != 0, 1) for mask in pair]
        before = before or [np.zeros_like(mask) for mask in now]
        codes = [_cell_codes(np.stack(layers)) for layers in zip(before, now, strict=True)]
        sums = _matched_surface(*codes, areas, 0.0)
        part, whole, before = part + sums[0], whole + sums[1], now
    if before is not None:
        codes = [_cell_codes(np.stack((mask, np.zeros_like(mask)))) for mask in before]
        sums = _matched_surface(*codes, areas, 0.0)
        part, whole = part + sums[0], whole + sums[1]
    return part, whole


def hausdorff(target: np.ndarray, prediction: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """The longest way from a voxel of one mask to the nearest of the other, voxel `spacing` apart (default 1).

    Masks of any number of dimensions. 0 where both are empty or equal, infinite where one of them is empty.
    """
    sides = tuple(spacing or (1.0,) * target.ndim)
    box = _bounding_box((target, prediction))
    true, found = target[box] != 0, prediction[box] != 0
    if not true.any() or not found.any():
        return float("inf") if true.any() or found.any() else 0.0
    return max(_furthest(true & ~found, found, sides), _furthest(found & ~true, true, sides))


def boundary_f(target: np.ndarray, prediction: np.ndarray, tolerance: float | None = None) -> Ratio:
    """F1 of two (H, W) masks' boundaries: the shares of each that lie within `tolerance` pixels of the other.

    After Csurka et al. (BMVC 2013), whose tolerance is the default: 0.75% of the image's diagonal. A boundary pixel is
    one of the mask's that has one of its four neighbours outside it or outside the image. 0 of 0 where both are empty.
    """
    if target.shape != prediction.shape:
        raise ValueError(f"the target is {target.shape}, the prediction {prediction.shape}")
    reach = 0.0075 * float(np.hypot(*target.shape)) if tolerance is None else tolerance
    if not target.any() or not prediction.any():
        return 0.0, float(target.any() or prediction.any())
    box = _bounding_box((target, prediction))
    true, found = (_boundary(mask[box] != 0) for mask in (target, prediction))
    recall, precision = (
        float((_distance_to(other)[mask] <= reach).mean()) for mask, other in ((true, found), (found, true))
    )
    return (2 * precision * recall / (precision + recall) if precision + recall else 0.0), 1.0


def _matched_surface(target: np.ndarray, prediction: np.ndarray, areas: np.ndarray, tolerance: float) -> Ratio:
    """Two arrays of cell codes → the area that is near the other's surface, and that of both."""
    true, found = (np.flatnonzero((codes != 0) & (codes != len(areas) - 1)) for codes in (target, prediction))
    sizes = [areas[codes.ravel()[places]] for codes, places in ((target, true), (prediction, found))]
    whole = float(sizes[0].sum() + sizes[1].sum())
    if not true.size or not found.size:
        return 0.0, whole
    if tolerance == 0:
        near = [np.isin(ours, theirs, assume_unique=True) for ours, theirs in ((true, found), (found, true))]
    else:
        from scipy.ndimage import distance_transform_edt

        near = []
        for ours, theirs in ((true, found), (found, true)):
            elsewhere = np.ones(target.shape, bool)
            elsewhere.ravel()[theirs] = False
            near.append(distance_transform_edt(elsewhere).ravel()[ours] <= tolerance)
    return float(sizes[0][near[0]].sum() + sizes[1][near[1]].sum()), whole


def _cell_codes(mask: np.ndarray) -> np.ndarray:
    """Boolean (..., n) → uint8, one less in each dimension: which corners of each cell belong to the mask."""
    codes = np.zeros(tuple(length - 1 for length in mask.shape), np.uint8)
    for bit, corner in enumerate(np.ndindex(*(2,) * mask.ndim)):
        part = mask[tuple(slice(place, place + length) for place, length in zip(corner, codes.shape, strict=True))]
        codes |= part.view(np.uint8) << np.uint8(bit)
    return codes


def _bounding_box(masks: Sequence[np.ndarray]) -> tuple[slice, ...]:
    """The smallest box that holds all of the masks' pixels."""
    box = []
    for axis in range(masks[0].ndim):
        others = tuple(other for other in range(masks[0].ndim) if other != axis)
        used = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        box.append(slice(used[0], used[-1] + 1) if used.size else slice(0, 0))
    return tuple(box)


def _furthest(those: np.ndarray, others: np.ndarray, spacing: tuple[float, ...]) -> float:
    from scipy.ndimage import distance_transform_edt

    return float(distance_transform_edt(~others, sampling=spacing)[those].max()) if those.any() else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32: how far each pixel is from a boolean mask's nearest one."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
