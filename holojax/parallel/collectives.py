"""What regions and devices send each other: sums, neighbours and halos. Everything here runs inside `Layout.shard`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from holojax.parallel.regions import RegionShard


def varying_axes(x: jax.Array) -> frozenset[str]:
    """Return the mesh axes along which `x` is typed as differing from device to device."""
    return frozenset(jax.typeof(x).mat.varying)


def vary(tree: Any, axes: Sequence[str]) -> Any:
    """Type every array of `tree` as varying along `axes` too; no data moves."""

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(a for a in axes if a not in varying_axes(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def align(*arrays: jax.Array | None) -> tuple[jax.Array | None, ...]:
    """Type all arrays as varying along the union of their axes, as the carry of a loop needs."""
    axes = sorted(frozenset().union(*(varying_axes(x) for x in arrays if x is not None)))
    return tuple(None if x is None else vary(x, axes) for x in arrays)


def psum(tree: Any, axes: Sequence[str]) -> Any:
    """Sum every array of `tree` over the devices along `axes`; without axes return it as it is."""
    return lax.psum(vary(tree, axes), tuple(axes)) if axes else tree


def from_region(x: jax.Array, offset: int, shard: RegionShard, *, wrap: bool = False) -> jax.Array:
    """Return, for every region i, the value of region i + `offset`: the primitive for all neighbours.

    `x` is `[b r ...]` with this device's `r` regions. Beyond the first and last region the value is zero, or with
    `wrap` that of the region round the ring. At most two `ppermute`s, which together carry one local block.
    """
    local, devices = x.shape[1], lax.axis_size(shard.axis)
    hops, shift = divmod(offset, local)

    def fetch(part: jax.Array, distance: int) -> jax.Array:
        if wrap:
            pairs = [((d + distance) % devices, d) for d in range(devices)]
        else:
            pairs = [(d + distance, d) for d in range(devices) if 0 <= d + distance < devices]
        if all(source == target for source, target in pairs) and len(pairs) == devices:
            return part
        return lax.ppermute(part, shard.axis, pairs) if pairs else jnp.zeros_like(part)

    if shift == 0:
        return fetch(x, hops)
    return jnp.concatenate([fetch(x[:, shift:], hops), fetch(x[:, :shift], hops + 1)], axis=1)


def from_neighbour(x: jax.Array, rows: int, cols: int, shard: RegionShard) -> jax.Array:
    """Return, for every region, the value of the region `rows` below and `cols` to the right; zero beyond the grid."""
    moved = from_region(x, rows * shard.grid.cols + cols, shard)
    if cols == 0:
        return moved
    _, column = shard.places(x.shape[1])
    inside = (column + cols >= 0) & (column + cols < shard.grid.cols)
    return jnp.where(inside.reshape(1, -1, *[1] * (x.ndim - 2)), moved, jnp.zeros_like(moved))


def halo(x: jax.Array, top: int, bottom: int, left: int, right: int, shard: RegionShard) -> jax.Array:
    """Extend every region of `[b r h w ...]` by that many rows and columns of its neighbours; zeros beyond the grid.

    Rows come first, then columns of the extended strip, which brings the corners. A halo larger than a region is
    fetched in several hops.
    """

    def strips(x: jax.Array, axis: int, size: int, sign: int) -> list[jax.Array]:
        extent, pieces, hop = x.shape[axis], [], 1
        while size > 0:
            take = min(size, extent)
            start = extent - take if sign < 0 else 0
            part = lax.slice_in_dim(x, start, start + take, axis=axis)
            step = (sign * hop, 0) if axis == 2 else (0, sign * hop)
            pieces.append(from_neighbour(part, *step, shard))
            size, hop = size - take, hop + 1
        return pieces[::-1] if sign < 0 else pieces

    for axis, before, after in ((2, top, bottom), (3, left, right)):
        pieces = [*strips(x, axis, before, -1), x, *strips(x, axis, after, +1)]
        x = jnp.concatenate(pieces, axis=axis) if len(pieces) > 1 else x
    return x
