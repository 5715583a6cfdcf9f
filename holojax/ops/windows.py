"""Square attention windows: cutting a map into them, merging them back, who may see whom in a shifted one.

The conventions are those of Swin (Liu et al. 2021) as mmseg implements it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from holojax.types import Bool, Float


def cut_windows(x: Float[jax.Array, "n h w c"], size: int) -> Float[jax.Array, "m t c"]:
    """Cut a map, whose height and width are multiples of `size`, into windows of size * size tokens.

    The windows of a map follow each other in row-major order, the maps in the order of the batch.
    """
    return rearrange(x, "n (i a) (j b) c -> (n i j) (a b) c", a=size, b=size)


def merge_windows(
    windows: Float[jax.Array, "m t c"], size: int, height: int, width: int
) -> Float[jax.Array, "n h w c"]:
    """Put windows back into maps of `height` x `width`: the inverse of `cut_windows`."""
    rows, cols = height // size, width // size
    return rearrange(windows, "(n i j) (a b) c -> n (i a) (j b) c", i=rows, j=cols, a=size)


def window_origins(height: int, width: int, size: int, shift: int) -> jax.Array:
    """Number the places of origin within each window of a map rolled by -shift.

    Tokens may see those of their own origin only: rolling brings the first `shift` rows and columns to the
    end, next to rows and columns that they are no neighbours of. Returned per window of one map, `t = size
    * size` tokens each.
    """

    def origin(extent: int) -> jax.Array:
        place = jnp.arange(extent)
        return (place >= extent - size).astype(jnp.int32) + (place >= extent - shift)

    ids = 3 * origin(height)[:, None] + origin(width)[None]
    return rearrange(ids, "(i a) (j b) -> (i j) (a b)", a=size, b=size)


def same_origin(origins: jax.Array, maps: int) -> Bool[jax.Array, "m t t"]:
    """Compare origins pairwise, repeated for every map of a batch of `maps`: [maps * s, t, t]."""
    # Compared inside the computation: as a stored constant the mask of a large scene would fill the memory.
    allowed = origins[:, :, None] == origins[:, None, :]
    s, t, _ = allowed.shape
    return jnp.broadcast_to(allowed[None], (maps, s, t, t)).reshape(maps * s, t, t)


def relative_index(size: int) -> np.ndarray:
    """Return the row of the bias table for every pair of tokens of a window: int [t t].

    Row (dy + size - 1) * (2 size - 1) + (dx + size - 1) belongs to the query lying dy rows and dx columns
    beyond the key, as in the first Swin code.
    """
    place = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij")).reshape(2, -1)
    dy, dx = place[:, :, None] - place[:, None, :] + size - 1
    return dy * (2 * size - 1) + dx
