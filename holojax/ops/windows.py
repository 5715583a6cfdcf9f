"""Attention windows: cutting a map into them, merging them back, who may see whom in a shifted one.

The conventions are those of Swin (Liu et al. 2021) as mmseg implements it. Sizes and shifts are one number, or one for
rows and one for columns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from holojax.types import Bool, Float

Sides = int | tuple[int, int]


def sides(size: Sides) -> tuple[int, int]:
    """Return a size as (rows, columns)."""
    return (size, size) if isinstance(size, int) else size


def cut_windows(x: Float[jax.Array, "n h w c"], size: Sides) -> Float[jax.Array, "m t c"]:
    """Cut a map, whose height and width are multiples of `size`, into windows of rows * columns tokens.

    The windows of a map follow each other in row-major order, the maps in the order of the batch.
    """
    rows, cols = sides(size)
    return rearrange(x, "n (i a) (j b) c -> (n i j) (a b) c", a=rows, b=cols)


def merge_windows(
    windows: Float[jax.Array, "m t c"], size: Sides, height: int, width: int
) -> Float[jax.Array, "n h w c"]:
    """Put windows back into maps of `height` x `width`: the inverse of `cut_windows`."""
    rows, cols = sides(size)
    i, j = height // rows, width // cols
    return rearrange(windows, "(n i j) (a b) c -> n (i a) (j b) c", i=i, j=j, a=rows)


def window_origins(height: int, width: int, size: Sides, shift: Sides) -> jax.Array:
    """Number the places of origin within each window of a map rolled by -shift.

    Tokens may see those of their own origin only: rolling brings the first `shift` rows and columns to the
    end, next to rows and columns that they are no neighbours of. Returned per window of one map, `t` tokens each.
    """

    def origin(extent: int, side: int, step: int) -> jax.Array:
        place = jnp.arange(extent)
        return (place >= extent - side).astype(jnp.int32) + (place >= extent - step)

    (rows, cols), (down, right) = sides(size), sides(shift)
    ids = 3 * origin(height, rows, down)[:, None] + origin(width, cols, right)[None]
    return rearrange(ids, "(i a) (j b) -> (i j) (a b)", a=rows, b=cols)


def same_origin(origins: jax.Array, maps: int) -> Bool[jax.Array, "m t t"]:
    """Compare origins pairwise, repeated for every map of a batch of `maps`: [maps * s, t, t]."""
    # Compared inside the computation: as a stored constant the mask of a large scene would fill the memory.
    allowed = origins[:, :, None] == origins[:, None, :]
    s, t, _ = allowed.shape
    return jnp.broadcast_to(allowed[None], (maps, s, t, t)).reshape(maps * s, t, t)


def relative_index(size: Sides) -> np.ndarray:
    """Return the row of the bias table for every pair of tokens of a window: int [t t].

    Row (dy + rows - 1) * (2 cols - 1) + (dx + cols - 1) belongs to the query lying dy rows and dx columns
    beyond the key, as in the first Swin code.
    """
    rows, cols = sides(size)
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")).reshape(2, -1)
    dy, dx = place[:, :, None] - place[:, None, :]
    return (dy + rows - 1) * (2 * cols - 1) + dx + cols - 1


def table_steps(source: int, target: int) -> np.ndarray:
    """Return how timm resizes an axis of a bias table: weights [2 target - 1, 2 source - 1].

    The table is taken to be read at distances that grow geometrically (BEiT's way), by a ratio found so that they
    reach the farthest distance of the target but at least 1.01, and interpolated linearly; timm 1.0.31,
    `resize_rel_pos_bias_table`.
    """
    if source == target:
        return np.eye(2 * source - 1)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1 - ratio ** (source - 1)) / (1 - ratio)
        low, high = (low, ratio) if reach > target - 1 else (ratio, high)
    half = np.cumsum(ratio ** np.arange(source - 1))
    known = np.concatenate([-half[::-1], [0.0], half])
    wanted = np.clip(np.arange(1 - target, target), known[0], known[-1])
    if source == 1:
        return np.ones((2 * target - 1, 1))
    left = np.clip(np.searchsorted(known, wanted) - 1, 0, len(known) - 2)
    part = (wanted - known[left]) / (known[left + 1] - known[left])
    weights = np.zeros((len(wanted), len(known)))
    weights[np.arange(len(wanted)), left] = 1 - part
    weights[np.arange(len(wanted)), left + 1] = part
    return weights
