"""Fewer keys: averages over squares of the scene's token grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange

from holojax.parallel.collectives import halo, slice_each
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


def token_positions(
    height: int, width: int, size: int, regions: int, shard: RegionShard
) -> tuple[jax.Array, jax.Array]:
    """Return where in the scene's token grid the tokens of `pool_scene_tokens` lie: the centres of their squares.

    Args:
        height: rows of tokens of a region, before pooling.
        width: columns, likewise.
        size: side of a square in tokens; 1: every token for itself.
        regions: on this device.
        shard: place of the regions on the mesh.

    Returns:
        Rows and columns, float32 [r * ceil(height / size) * ceil(width / size)] each, in the order of the tokens.
    """
    rows, cols = (
        (place * extent + _first_square(place, extent, size))[:, None]
        + jnp.arange(-(-extent // size)) * size
        + jnp.float32((size - 1) / 2)
        for place, extent in zip(shard.places(regions), (height, width), strict=True)
    )
    shape = (regions, rows.shape[1], cols.shape[1])
    return tuple(jnp.broadcast_to(x, shape).reshape(-1) for x in (rows[:, :, None], cols[:, None, :]))


def _first_square(place: jax.Array, extent: int, size: int) -> jax.Array:
    """Return how far into the regions of a row or column of the grid the first square begins, in tokens."""
    return (-place * extent) % size


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
        start = _first_square(place, extent, size)
        padded = jnp.pad(x, [(0, size - 1 if d == axis else 0) for d in range(x.ndim)])
        x = slice_each(padded, start, count * size, axis)
        owned.append(start[:, None] + jnp.arange(count) * size < extent)
    rows, cols = owned
    return x, rows[None, :, :, None] & cols[None, :, None, :]
