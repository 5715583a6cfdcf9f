"""Fewer keys: averages over squares of the scene's token grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from holojax.parallel.collectives import halo
from holojax.parallel.regions import RegionShard


def pool_scene_tokens(
    x: jax.Array, valid: jax.Array | None, size: int, shard: RegionShard
) -> tuple[jax.Array, jax.Array | None]:
    """Average tokens over `size` x `size` squares of the scene's token grid, valid tokens only.

    The squares are anchored at the scene's corner. One that lies across several regions belongs to the region of its
    first token, which fetches the rest (at most size - 1 rows and columns) from its neighbours.

    Args:
        x: this device's tokens [b r h w c].
        valid: bool [b r h w], or None where all are.
        size: side of a square in tokens; 1 returns the arguments.
        shard: place of the regions on the mesh.

    Returns:
        [b r ceil(h / size) ceil(w / size) c], and which of these average any valid token (None: all do).
    """
    if size == 1:
        return x, valid
    h, w = x.shape[2:4]
    aligned = h % size == 0 and w % size == 0
    if aligned and valid is None:
        return _square_sums(x, size) / size**2, None
    present = jnp.ones_like(x[..., :1]) if valid is None else valid[..., None].astype(x.dtype)
    counted = jnp.concatenate([x * present, present], axis=-1)
    owned = None
    if not aligned:
        counted, owned = _align_to_scene(counted, size, shard)
    sums = _square_sums(counted, size)
    total, count = sums[..., :-1], sums[..., -1]
    mask = count > 0 if owned is None else (count > 0) & owned
    return total / jnp.maximum(count, 1)[..., None], mask


def _square_sums(x: jax.Array, size: int) -> jax.Array:
    return rearrange(x, "b r (h p) (w q) c -> b r h w p q c", p=size, q=size).sum((4, 5))


def _align_to_scene(x: jax.Array, size: int, shard: RegionShard) -> tuple[jax.Array, jax.Array]:
    """Cut from each region and its halo the squares that begin in it, and say which of the cut ones do."""
    local = x.shape[1]
    # A region that is no multiple of a square begins anywhere in one: how far on the next square begins is known on
    # the device only, while shapes must be the same everywhere. So all regions cut the largest possible number.
    x = halo(x, 0, size - 1, 0, size - 1, shard)
    owned = []
    for axis, place in zip((2, 3), shard.places(local), strict=True):
        extent = x.shape[axis] - (size - 1)
        count = -(-extent // size)
        start = (-place * extent) % size
        pads = [(0, size - 1 if d == axis else 0) for d in range(x.ndim)]
        x = jax.vmap(
            lambda part, begin, length=count * size, axis=axis: lax.dynamic_slice_in_dim(part, begin, length, axis - 1),
            in_axes=(1, 0),
            out_axes=1,
        )(jnp.pad(x, [(0, p) for _, p in pads]), start)
        owned.append(start[:, None] + jnp.arange(count) * size < extent)
    rows, cols = owned
    return x, rows[None, :, :, None] & cols[None, :, None, :]
