"""Reading a map between its pixels."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from holojax.ops.varying import align
from holojax.types import Float

Locate = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def bilinear_sample(x: Float[jax.Array, "n h w c"], positions: Float[jax.Array, "n m 2"]) -> Float[jax.Array, "n m c"]:
    """Sample maps bilinearly at positions (row, column) in pixels.

    Whole numbers are centres of pixels, beyond the map is zero. Equals torch's `grid_sample` with zero
    padding and align_corners=False at grid = (2 position + 1) / size - 1. Differentiable in maps and
    positions.
    """
    return deformable_sample(x[..., None, :], positions[:, :, None, None])[:, :, 0]


def deformable_sample(
    x: Float[jax.Array, "n h w k d"],
    positions: Float[jax.Array, "n m k p 2"],
    weights: Float[jax.Array, "n m k p"] | None = None,
) -> Float[jax.Array, "n m k d"]:
    """Sum what each of k heads reads of its channels at p positions, times weights (None: 1).

    Deformable attention's way to read (Zhu et al. 2021); positions as in `bilinear_sample`.
    """
    n, h, w, k, d = x.shape

    def locate(row: jax.Array, col: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        return jnp.clip(row, 0, h - 1) * w + jnp.clip(col, 0, w - 1), inside

    return bilinear_gather(x.reshape(n, h * w, k, d), positions, weights, locate)


def bilinear_gather(
    values: Float[jax.Array, "n s k d"],
    positions: Float[jax.Array, "n m k p 2"],
    weights: Float[jax.Array, "n m k p"] | None,
    locate: Locate,
) -> Float[jax.Array, "n m k d"]:
    """Sum the values at the four pixels around each position (row, column), weighted bilinearly and by `weights`.

    locate(row, col), int32 `[n m k p]` each, returns the pixel's place among the `s` values and whether it is there at
    all; pixels that are not add nothing, so sums over several sets of values make up a sample of their union.
    """
    n, s, k, d = values.shape
    values, positions, weights = align(values, positions, weights)
    base = jnp.floor(positions)
    part = positions - base
    row, col = base[..., 0].astype(jnp.int32), base[..., 1].astype(jnp.int32)
    rows = values.reshape(n * s * k, d)
    scene, head = jnp.arange(n)[:, None, None, None] * s, jnp.arange(k)[:, None]
    total = jnp.zeros_like(values, shape=(*positions.shape[:3], d))
    for down in (0, 1):
        for right in (0, 1):
            place, inside = locate(row + down, col + right)
            share = jnp.where(inside, _share(part[..., 0], down) * _share(part[..., 1], right), 0)
            share = (share if weights is None else share * weights).astype(values.dtype)
            index = (place + scene) * k + head
            # Position by position: so the gathers are fused with the sum, 30 times as fast on a CPU as one gather of
            # all of them, whose result would have to be written.
            for i in range(positions.shape[3]):
                total += rows.at[index[..., i]].get(mode="promise_in_bounds") * share[..., i, None]
    return total


def _share(part: jax.Array, side: int) -> jax.Array:
    return part if side else 1 - part
