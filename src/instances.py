"""Instances that touch are parted at the necks between them.

    numbers = part_touching(foreground, inside, neck=0.8)

The marks are h-maxima by morphological reconstruction (L. Vincent, IEEE Transactions on Image Processing 2, 1993) of
how deep a pixel lies; a watershed grows them.
"""

import cv2
import numpy as np
from skimage.segmentation import watershed

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the probability of being inside


def part_touching(foreground: np.ndarray, inside: np.ndarray, neck: float = 0.8) -> np.ndarray:
    """`(H, W) bool` and the probability of being inside an instance, `(H, W) float32` → `(H, W) int32`: 1, 2, …

    Each middle of the inside marks an instance; a watershed on the depth grows the marks to the foreground's edge. A
    piece of foreground (4-connected) without a mark is an instance of its own, so that small ones are not lost.
    """
    depth = _depth(inside)
    middles = _middles(depth, neck) & foreground
    count, markers = cv2.connectedComponents(middles.astype(np.uint8), connectivity=8)
    pieces_count, pieces = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=4)
    marked = np.zeros(pieces_count, bool)
    marked[pieces[markers > 0]] = True
    alone = foreground & ~marked[pieces]
    markers[alone] = pieces[alone] + count
    return watershed(-depth, markers, mask=foreground, connectivity=1).astype(np.int32)


def _depth(inside: np.ndarray) -> np.ndarray:
    """How deep inside an instance a pixel lies: the logarithm of 1 + pixels to the edge, the mean over all edges.

    A threshold on the probability has one edge; none serves sure and doubtful instances alike, so all are asked.
    """
    total, furthest = np.zeros(inside.shape, np.float32), max(inside.shape)
    for level in LEVELS:
        edges = cv2.distanceTransform((inside >= level).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        total += np.minimum(edges, furthest)  # without an edge in sight, OpenCV says the largest number there is
    return np.log1p(cv2.GaussianBlur(total / len(LEVELS), (0, 0), 1.0))


def _middles(depth: np.ndarray, neck: float) -> np.ndarray:
    """`(H, W) bool`: the domes that stand out of the depth (h-maxima), by a share as depth is a logarithm."""
    height = np.float32(-np.log(neck))
    # outside of all instances the depth is 0, and the flood is there from the start
    square, flooded, before = np.ones((3, 3), np.uint8), np.maximum(depth - height, 0.0), None
    while before is None or not np.array_equal(flooded, before):  # morphological reconstruction by dilation
        before, flooded = flooded, np.minimum(cv2.dilate(flooded, square), depth)
    count, domes = cv2.connectedComponents((depth > flooded).astype(np.uint8), connectivity=8)
    high = np.zeros(count, bool)
    high[domes[depth - flooded >= height - 1e-4]] = True
    return high[domes]
