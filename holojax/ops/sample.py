"""Reading a map between its pixels."""

from __future__ import annotations

from collections.abc import Callable

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

    def locate(row: jax.Array, col: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        return jnp.clip(row, 0, h - 1) * w + jnp.clip(col, 0, w - 1), inside

    return bilinear_gather(x.reshape(n, h * w, c), positions, locate)


def bilinear_gather(
    values: Float[jax.Array, "n s c"],
    positions: Float[jax.Array, "n m 2"],
    locate: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
) -> Float[jax.Array, "n m c"]:
    """Sum the values at the four pixels around each position (row, column), weighted bilinearly.

    locate(row, col), int32 `[n m]` each, returns the pixel's place among the `s` values and whether it is there at
    all; pixels that are not add nothing, so sums over several sets of values make up a sample of their union.
    """
    base = jnp.floor(positions)
    part = positions - base
    row, col = base[..., 0].astype(jnp.int32), base[..., 1].astype(jnp.int32)
    total = jnp.zeros_like(values[:, :1] * part[..., :1].astype(values.dtype))
    for down in (0, 1):
        for right in (0, 1):
            index, inside = locate(row + down, col + right)
            weight = _share(part[..., 0], down) * _share(part[..., 1], right)
            value = jnp.take_along_axis(values, index[..., None], axis=1)
            total += value * jnp.where(inside, weight, 0)[..., None].astype(values.dtype)
    return total


def _share(part: jax.Array, side: int) -> jax.Array:
    return part if side else 1 - part
