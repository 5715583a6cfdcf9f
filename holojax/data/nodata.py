"""Which pixels hold no data: exact where the file is exact, tolerant where a lossy codec has frayed the edge.

Every rule here looks at most `HALO` pixels far, so that a window read with that margin gives what the whole
scene gives.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Shaped

SOLID = 4  # a pixel is in the solid part of a hole when the 9 x 9 pixels around it are all exact nodata
REACH = 16  # JPEG with subsampled colour codes 16 x 16 pixels together: a hole frays no further than that
HALO = 2 * SOLID + REACH


def equals(pixels: Shaped[np.ndarray, "h w c"], nodata: float | int) -> Bool[np.ndarray, "h w"]:
    """Tell where all bands equal `nodata` (NaN equals NaN), bool `[h w]`."""
    if np.isnan(nodata) and pixels.dtype.kind != "f":
        return np.zeros(pixels.shape[:2], bool)
    value = np.asarray(nodata).astype(pixels.dtype)
    found = np.ones(pixels.shape[:2], bool)
    for band in range(pixels.shape[-1]):  # band by band is many times as fast as .all(-1) over a few bands
        plane = pixels[..., band]
        found &= np.isnan(plane) if np.isnan(nodata) else plane == value
        if not found.any():
            break
    return found


def frayed_hole(
    pixels: Shaped[np.ndarray, "h w c"], nodata: float | int, tolerance: float | int
) -> Bool[np.ndarray, "h w"]:
    """Tell where a lossily compressed image holds no data, bool `[h w]`.

    A pixel counts when all its bands are within `tolerance` of `nodata` and it lies in, or within one JPEG
    block of, a solid patch of exact nodata. So the frayed edge of a hole is in, and a white roof in the scene
    is out. What lies beyond the array counts as nodata for solidity: holes often run off the scene.
    """
    exact = equals(pixels, nodata)
    if not exact.any():
        return exact
    solid = ~_spread(~exact, SOLID)
    if not solid.any():
        return solid
    low, high = nodata - tolerance, nodata + tolerance
    close = ((pixels >= low) & (pixels <= high)).all(-1)
    return close & _spread(solid, SOLID + REACH)


def _spread(mask: Bool[np.ndarray, "h w"], radius: int) -> Bool[np.ndarray, "h w"]:
    """Widen a mask to all pixels within `radius` rows and columns, by doubling steps."""
    for axis in (0, 1):
        margin = [(radius, radius) if each == axis else (0, 0) for each in (0, 1)]
        mask, reach, goal = np.pad(mask, margin), 1, 2 * radius + 1
        while reach < goal:  # a pixel knows of `reach` pixels; two such views, joined, of twice as many
            step = min(reach, goal - reach)
            mask = (mask[:-step] | mask[step:]) if axis == 0 else (mask[:, :-step] | mask[:, step:])
            reach += step
    return mask
