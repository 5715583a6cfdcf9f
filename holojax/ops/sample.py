"""Reading a map between its pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from holojax.types import Float


def bilinear_sample(x: Float[jax.Array, "n h w c"], positions: Float[jax.Array, "n m 2"]) -> Float[jax.Array, "n m c"]:
    """Sample maps bilinearly at positions (row, column) in pixels.

    Whole numbers are centres of pixels, beyond the map is zero. Equals torch's `grid_sample` with zero
    padding and align_corners=False at grid = (2 position + 1) / size - 1. Differentiable in maps and
    positions.
    """
    n, h, w, c = x.shape
    base = jnp.floor(positions)
    part = positions - base
    flat = x.reshape(n, h * w, c)
    total = jnp.zeros_like(x, shape=(n, positions.shape[1], c))
    for down in (0, 1):
        for right in (0, 1):
            row, col = base[..., 0] + down, base[..., 1] + right
            inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
            index = jnp.clip(row, 0, h - 1).astype(jnp.int32) * w + jnp.clip(col, 0, w - 1).astype(jnp.int32)
            weight = _share(part[..., 0], down) * _share(part[..., 1], right)
            value = jnp.take_along_axis(flat, index[..., None], axis=1)
            total += value * jnp.where(inside, weight, 0)[..., None].astype(x.dtype)
    return total


def _share(part: jax.Array, side: int) -> jax.Array:
    return part if side else 1 - part
