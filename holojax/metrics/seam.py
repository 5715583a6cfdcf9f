"""How much worse a map is where its pieces meet: errors near seams against errors elsewhere."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from holojax.borders import Borders
from holojax.errors import ConfigError
from holojax.metrics.confusion import check_maps, count_pairs, ratio
from holojax.parallel import RegionGrid
from holojax.types import Bool


def seam_counts(
    prediction: Array | np.ndarray,
    labels: Array | np.ndarray,
    row_seams: Sequence[int],
    col_seams: Sequence[int],
    width: int,
    ignore: int = 255,
) -> Array:
    """Count right and wrong pixels elsewhere and near seams, in maps `[... h w]`: int32 `[2 2]`.

    Rows: elsewhere, near; columns: right, wrong. A seam s lies between rows (or columns) s - 1 and s; near are the
    `width` pixels on each side of it. `row_seams` and `col_seams` are those of regions (`grid_seams`) or of crops.
    Pixels that are `ignore` in either map are not counted. Counts add up.

    Raises:
        LabelError: as `confusion_matrix`.
        ConfigError: a width below 1.
    """
    near = []
    for extent, seams in zip(labels.shape[-2:], (row_seams, col_seams), strict=True):
        place = np.arange(extent)[:, None]
        at = np.asarray(seams, int)
        near.append(((place >= at - width) & (place < at + width)).any(1))
    return _count(prediction, labels, near[0][:, None] | near[1], width, ignore)


def grid_seams(grid: RegionGrid, height: int, width: int) -> tuple[list[int], list[int]]:
    """Return the rows and columns at which regions meet inside a scene of `height` x `width` pixels.

    Raises:
        LayoutError: the scene has fewer pixels along a side than the grid has regions.
    """
    h, w = grid.region_size(height, width)
    return list(range(h, height, h)), list(range(w, width, w))


def region_seam_counts(
    prediction: Array,
    labels: Array,
    width: int,
    borders: Borders,
    valid: Bool[Array, "n h w"] | None = None,
    ignore: int = 255,
) -> Array:
    """Count as `seam_counts` does, at the seams of the regions `[n h w]` that this device holds.

    `borders` are those of the scene (`borders.Exact`), which know where each region lies. Where the scene ends at
    a border or before it, there is no seam. Raises as `seam_counts`.
    """
    _, h, w = labels.shape
    here = jnp.ones(labels.shape, bool) if valid is None else valid
    near = []
    for axis, (extent, place) in enumerate(zip((h, w), borders.places(h, w), strict=True), 1):
        place = place.astype(jnp.int32)
        used = here.any(3 - axis, keepdims=True) * (jnp.expand_dims(place, 3 - axis) + 1)
        end = borders.max(used[..., None].astype(jnp.float32))[:, 0, 0].astype(jnp.int32)  # of the scene, [n 1]
        above, below = place // extent * extent, (place // extent + 1) * extent
        near.append(((place - above < width) & (above > 0)) | ((place >= below - width) & (below < end)))
    labels = labels if valid is None else jnp.where(valid, labels, ignore)
    return _count(prediction, labels, near[0][:, :, None] | near[1][:, None], width, ignore)


def summarize_seam(counts: Array | np.ndarray) -> dict[str, Any]:
    """Take the figures of `seam_counts`, in float64.

    `seam_error` is the error rate near seams divided by that elsewhere: 1 where seams cannot be seen; NaN if
    nothing is near, or nothing elsewhere is wrong. `error_near_seams` and `error_elsewhere` are the two rates.
    """
    elsewhere, near = (ratio(wrong, right + wrong) for right, wrong in np.asarray(counts).astype(np.float64))
    return {
        "seam_error": float(ratio(near, np.nan_to_num(elsewhere))),
        "error_near_seams": float(near),
        "error_elsewhere": float(elsewhere),
    }


def _count(
    prediction: Array | np.ndarray, labels: Array | np.ndarray, near: Array | np.ndarray, width: int, ignore: int
) -> Array:
    if width < 1:
        raise ConfigError(f"Seams need a width of at least 1 pixel, found {width}.")
    return _count_near(*check_maps(prediction, labels), near, ignore)


@functools.partial(jax.jit, static_argnums=3)
def _count_near(prediction: Array, labels: Array, near: Array, ignore: int) -> Array:
    counted = (labels != ignore) & (prediction != ignore)
    near = jnp.broadcast_to(near, labels.shape).astype(jnp.int32)
    return count_pairs(jnp.where(counted, near, -1), prediction != labels, (2, 2))
