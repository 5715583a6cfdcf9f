"""What regions and devices send each other: sums, neighbours and halos. Everything here runs inside `Layout.shard`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from holojax.ops.selective_scan import chain_lines
from holojax.ops.varying import align, vary
from holojax.parallel.regions import RegionShard


def psum(tree: Any, axes: Sequence[str]) -> Any:
    """Sum every array of `tree` over the devices along `axes`; without axes return it as it is."""
    return lax.psum(vary(tree, axes), tuple(axes)) if axes else tree


def pmax(x: jax.Array, axes: Sequence[str]) -> jax.Array:
    """Take the largest value over the devices along `axes`; it has no gradient."""
    return lax.pmax(lax.stop_gradient(vary(x, axes)), tuple(axes))


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


def from_neighbour(x: jax.Array, rows: int, cols: int, shard: RegionShard, *, wrap: bool = False) -> jax.Array:
    """Return, for every region, the value of the region `rows` below and `cols` to the right.

    Beyond the grid it is zero, or with `wrap` that of the region on the other side.
    """
    height, width = shard.grid.rows, shard.grid.cols
    if not wrap and (abs(rows) >= height or abs(cols) >= width):
        return jnp.zeros_like(x)
    moved = from_region(x, rows * width + cols, shard, wrap=wrap)
    if cols == 0:
        return moved
    # Region numbers run on from one grid row to the next: what came from another row is replaced.
    _, column = shard.places(x.shape[1])
    inside = (column + cols >= 0) & (column + cols < width)
    back = -width if cols > 0 else width
    other = from_region(x, rows * width + cols + back, shard, wrap=True) if wrap else jnp.zeros_like(moved)
    return jnp.where(inside.reshape(1, -1, *[1] * (x.ndim - 2)), moved, other)


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


def roll(x: jax.Array, rows: int, cols: int, shard: RegionShard) -> jax.Array:
    """Roll the canvas that the regions `[b r h w ...]` make up, down by `rows` and right by `cols`.

    Every region receives one region's worth of rows from the two regions that its content comes from, then of columns.
    """
    for axis, distance, extent in ((2, rows, shard.grid.rows), (3, cols, shard.grid.cols)):
        size = x.shape[axis]
        regions, rest = divmod(distance % (extent * size), size)
        pieces = [(regions + 1, size - rest, size), (regions, 0, size - rest)]
        parts = []
        for back, start, stop in pieces:
            back %= extent
            if start < stop:
                step = (-back, 0) if axis == 2 else (0, -back)
                part = lax.slice_in_dim(x, start, stop, axis=axis)
                parts.append(from_neighbour(part, *step, shard, wrap=True) if back else part)
        x = jnp.concatenate(parts, axis) if len(parts) > 1 else parts[0]
    return x


def slice_each(x: jax.Array, begin: jax.Array, length: int, axis: int) -> jax.Array:
    """Take `length` places along `axis` from every region of `[b r h w ...]`, region i from place `begin[i]` on."""

    def take(part: jax.Array, begin: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(part, begin, length, axis - 1)

    return jax.vmap(take, in_axes=(1, 0), out_axes=1)(x, begin)


def entering_state(
    decay: jax.Array, state: jax.Array, along: str, shard: RegionShard, *, reverse: bool = False
) -> jax.Array:
    """Return the state that enters every region of a recurrence across regions.

    Region i turns the state h that enters it into decay_i * h + state_i. Regions follow each other down the "rows" or
    along the "cols" of the grid, or back with `reverse`; what enters the first is zero. The maps of more and more
    regions are composed in rounds of doubling distance (Hillis and Steele 1986): for e regions in a line,
    1 + ceil(log2(e - 1)) rounds, each of which sends both arrays (the last one `state` alone).

    Args:
        decay: `[b r ...]`, one array of factors a region.
        state: `[b r ...]`, what leaves a region that zero enters.
        along: "rows" or "cols" of the region grid.
        shard: place of the regions on the mesh.
        reverse: whether the last region comes first.
    """
    extent = shard.grid.rows if along == "rows" else shard.grid.cols
    if extent == 1:
        return jnp.zeros_like(state)

    def earlier(x: jax.Array, distance: int) -> jax.Array:
        step = distance if reverse else -distance
        return from_neighbour(x, *((step, 0) if along == "rows" else (0, step)), shard)

    # Beyond the grid both arrays are zero. A decay of zero is harmless there: it only ever meets states of zero.
    decay, state = earlier(decay, 1), earlier(state, 1)
    distance = 1
    while distance < extent - 1:
        state = state + decay * earlier(state, distance)
        decay = decay * earlier(decay, distance)
        distance *= 2
    return state


def entering_lines(
    log_decay: jax.Array, state: jax.Array, lines: str, shard: RegionShard, *, reverse: bool = False
) -> jax.Array:
    """Return the state that enters every line of every region, where lines of the scene follow each other.

    A region's part of a line turns the state h that enters it into exp(log_decay) h + state. It is entered by what left
    the part before it in the region beside, a line's first part by what left the line before it. In three steps: the
    parts of a line are composed across regions; the regions where lines end send a state through all lines; and what
    enters each line goes back to the regions where it comes from. For lines through e regions: 1 + ceil(log2(e - 1))
    rounds that send both arrays, those of `entering_state` with one line, ceil(log2(e)) rounds that send a state.

    Args:
        log_decay: `[b r s l d]`, for the l lines of a region.
        state: `[b r s l d]`, what leaves a part that zero enters.
        lines: "rows", which run along the columns of the region grid, one below the other, or "cols".
        shard: place of the regions on the mesh.
        reverse: whether lines run back, the last first.
    """
    along, across = ("cols", "rows") if lines == "rows" else ("rows", "cols")
    extent = shard.grid.cols if lines == "rows" else shard.grid.rows
    sign = 1 if reverse else -1

    def fetch(x: jax.Array, distance: int) -> jax.Array:
        return from_neighbour(x, *((distance, 0) if along == "rows" else (0, distance)), shard)

    # What a line's earlier parts make of what enters the line. Beyond the grid both are zero: nothing is done.
    decay, offset = jnp.zeros_like(log_decay), jnp.zeros_like(state)
    if extent > 1:
        decay, offset = fetch(log_decay, sign), fetch(state, sign)
    distance = 1
    while distance < extent - 1:
        offset = offset + jnp.exp(decay) * fetch(offset, sign * distance)
        decay = decay + fetch(decay, sign * distance)
        distance *= 2

    # Whole lines are known where they end. Elsewhere the same is computed of their parts, and not used.
    whole = decay + log_decay, state + jnp.exp(log_decay) * offset
    _, end = chain_lines(*whole, jnp.zeros_like(state[..., 0, :]), reverse)
    start = entering_state(jnp.exp(whole[0].sum(-2)), end, across, shard, reverse=reverse)
    start, _ = chain_lines(*whole, start, reverse)

    place = shard.places(state.shape[1])[0 if along == "rows" else 1]
    to_end = (place if reverse else extent - 1 - place).reshape(1, -1, 1, 1, 1)
    distance = 1
    while distance < extent:
        start = jnp.where(to_end < distance, start, fetch(start, -sign * distance))
        distance *= 2
    return offset + jnp.exp(decay) * start


def send_on(tree: Any, axis: str, stride: int = 1) -> Any:
    """Send every array of `tree` to the device `stride` further round the ring along `axis`."""
    devices = lax.axis_size(axis)
    pairs = [(d, (d + stride) % devices) for d in range(devices)]
    return jax.tree.map(lambda x: lax.ppermute(x, axis, pairs), tree) if devices > stride else tree


def ring_sum(f: Callable[..., jax.Array], axis: str, stay: Any, travel: Any) -> jax.Array:
    """Return, on every device, the sum over all devices e of f(stay, travel of e, e).

    `travel` goes once round the ring along `axis`, so no device ever holds more than two devices' share of it; in the
    backward pass it goes round again and its gradient travels with it.

    Args:
        f: a pure function that closes over no array; its third argument is the number of the device, int32.
        axis: the mesh axis of the ring.
        stay: floating-point arrays that stay.
        travel: floating-point arrays that travel.
    """
    stay, travel = jax.tree.unflatten(
        jax.tree.structure((stay, travel)), align(*jax.tree.leaves((stay, travel)), axis=axis)
    )
    return _ring_sum(f, axis, stay, travel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring_sum(f, axis, stay, travel):
    devices, here = lax.axis_size(axis), lax.axis_index(axis)
    following = send_on(travel, axis)  # issued first, so that it can travel while f is computed
    total = f(stay, travel, here)
    if devices == 1:
        return total

    def hop(carry, step):
        travel, total = carry
        following = send_on(travel, axis)
        return (following, total + f(stay, travel, (here - step) % devices)), None

    (travel, total), _ = lax.scan(hop, (following, total), jnp.arange(1, devices - 1))
    return total + f(stay, travel, (here - devices + 1) % devices)


def _ring_sum_forward(f, axis, stay, travel):
    return _ring_sum(f, axis, stay, travel), (stay, travel)


def _ring_sum_backward(f, axis, saved, grad):
    stay, travel = saved
    devices, here = lax.axis_size(axis), lax.axis_index(axis)

    def visit(travel, step, gradients):
        origin = (here - step) % devices
        parts = jax.vjp(lambda stay, travel: f(stay, travel, origin), stay, travel)[1](grad)
        return jax.tree.map(lambda total, part: total + part.astype(total.dtype), gradients, parts)

    def hop(carry, step):
        travel, gradients = carry
        following = send_on(travel, axis)
        stay_grad, travel_grad = visit(travel, step, gradients)
        # The gradients of what travels travel with it; the last step below brings them home.
        return (following, (stay_grad, send_on(travel_grad, axis))), None

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=jnp.float32), (stay, travel))
    (travel, gradients), _ = lax.scan(hop, (travel, zeros), jnp.arange(devices - 1))
    stay_grad, travel_grad = visit(travel, devices - 1, gradients)
    gradients = (stay_grad, send_on(travel_grad, axis))
    return jax.tree.map(lambda grad, x: grad.astype(x.dtype), gradients, saved)


_ring_sum.defvjp(_ring_sum_forward, _ring_sum_backward)
