"""Resizing and pooling of maps with the numerics of torch (`align_corners=False`, no antialiasing)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from holojax.errors import ConfigError
from holojax.types import Float

_HIGHEST = lax.Precision.HIGHEST
# Keys' cubic kernel as torch has it; jax.image uses -0.5.
_CUBIC = -0.75


def resize(
    x: Float[jax.Array, "n h w c"], size: tuple[int, int], method: str = "bilinear"
) -> Float[jax.Array, "n i j c"]:
    """Resize maps to `size` = (rows, columns).

    Equals torch's `interpolate(mode=method, align_corners=False)` to rounding. Why not `jax.image.resize`:
    it multiplies with a dense matrix per axis, as many products per output pixel as the map has rows.

    Args:
        x: maps [n h w c].
        size: rows and columns of the result.
        method: "bilinear", "bicubic" or "nearest".

    Raises:
        ConfigError: the method is not known.
    """
    if method not in _METHODS:
        raise ConfigError(f"resize: unknown method {method!r}; known: {', '.join(_METHODS)}.")
    for axis, extent in zip((1, 2), size, strict=True):
        if x.shape[axis] != extent:
            x = _METHODS[method](x, extent, axis)
    return x


def pool(x: Float[jax.Array, "n h w c"], bins: int) -> Float[jax.Array, "n s s c"]:
    """Average adaptively to s x s places as torch: bin i spans floor(i H / s) to ceil((i + 1) H / s)."""
    rows, cols = (_bin_means(extent, bins) for extent in x.shape[1:3])
    x = jnp.einsum("ih,nhwc->niwc", rows, x, precision=_HIGHEST)
    return jnp.einsum("jw,niwc->nijc", cols, x, precision=_HIGHEST)


def bin_edges(extent: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the past-the-last position of each adaptive pooling bin along an axis."""
    place = np.arange(bins)
    return place * extent // bins, -(-(place + 1) * extent // bins)


def _bin_means(extent: int, bins: int) -> np.ndarray:
    start, stop = bin_edges(extent, bins)
    place = np.arange(extent)
    member = (place >= start[:, None]) & (place < stop[:, None])
    return (member / member.sum(1, keepdims=True)).astype(np.float32)


def interpolate(x: jax.Array, extent: int, axis: int) -> jax.Array:
    """Resize `axis` bilinearly to `extent` places, given what lies beyond the map: `x` has one more place at each end.

    The places at the ends are read only where the map is enlarged.
    """
    size = x.shape[axis] - 2
    if extent % size == 0:
        return _enlarge(x, extent // size, axis)
    place = _sources(size, extent)
    low = np.floor(place).astype(int)
    part = _along(place - low, axis, x)
    first, second = (jnp.take(x, np.clip(low + i, 0, size + 1), axis=axis) for i in (1, 2))
    return first * (1 - part) + second * part


def phases(x: jax.Array, factor: int, axis: int) -> list[jax.Array]:
    """Return the 1st, 2nd ... of the `factor` places that each place becomes when `axis` is enlarged by a whole factor.

    `x` as in `interpolate`. Made out of shifted copies: no gather, so the gradient needs no scatter.
    """
    size = x.shape[axis] - 2
    before, x, after = (lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(3))
    nears = [(abs(float(offset)), before if offset < 0 else after) for offset in _sources(1, factor)]
    return [x * (1 - near) + other * near for near, other in nears]


def cut_rows(x: jax.Array, extent: int, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cut what `rows` rows of the result need out of maps that are resized to `extent` rows, block by block.

    Blocks repeat two of the rows that they read, and little else: together they are little more than the maps if a
    block is not much shorter than the maps are enlarged.

    Args:
        x: maps [n h + 2 w c], with one more row at each end, as `interpolate` takes them.
        extent: rows of the result.
        rows: of a block; the last block is filled up with the last row.

    Returns:
        The rows that each block reads [blocks n s w c], and for each row of the result the place of the first of the
        two that it lies between and the share of the second [blocks rows]: what `blend_rows` takes, block by block.
    """
    size = x.shape[1] - 2
    place = _sources(size, extent)
    count = -(-extent // rows)
    place = place[np.minimum(np.arange(count * rows), extent - 1)].reshape(count, rows)
    low = np.floor(place).astype(int)
    begin = low[:, :1]
    span = int((low - begin).max()) + 2
    index = np.clip(begin + 1 + np.arange(span), 0, size + 1)
    pieces = jnp.moveaxis(jnp.take(x, index, axis=1), 1, 0)
    return pieces, jnp.asarray(low - begin, jnp.int32), jnp.asarray(place - low, x.dtype)


def blend_rows(pieces: jax.Array, low: jax.Array, part: jax.Array) -> jax.Array:
    """Return the rows [n rows w c] of one block of `cut_rows`."""
    first, second = (jnp.take(pieces, low + i, axis=1, mode="clip") for i in (0, 1))
    part = part[:, None, None]
    return first * (1 - part) + second * part


def extend_edges(x: jax.Array, axis: int) -> jax.Array:
    """Repeat the first and the last place along `axis`, as what lies beyond a map for `interpolate`."""
    last = x.shape[axis] - 1
    ends = [lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, last)]
    return jnp.concatenate([ends[0], x, ends[1]], axis)


def source_weights(place: jax.Array | np.ndarray, extent: int | jax.Array, size: int, method: str) -> jax.Array:
    """Return what share each of `size` places has when they are resized to `extent`, float32 [... size].

    Beyond the map its edge is repeated.

    Args:
        place: places of the result [...], counted from 0.
        extent: their number; it and `place` may be computed on the device.
        size: number of places that are resized.
        method: "bilinear" and "bicubic" as `resize`; "bicubic corners": torch's with `align_corners=True`; "bicubic
            antialias": torch's with `antialias=True`, which has another kernel (Keys' -0.5) and leaves out what lies
            beyond the map.
    """
    index, scale = jnp.arange(size), size / jnp.asarray(extent, jnp.float32)
    source = (place + 0.5) * scale - 0.5
    if method == "bilinear":
        return jnp.maximum(1 - jnp.abs(jnp.clip(source, 0, size - 1)[..., None] - index), 0)
    if method == "bicubic antialias":
        wide = jnp.maximum(scale, 1)
        distance = jnp.abs(source[..., None] - index) / wide[..., None]
        weights = jnp.where(distance < 2, _cubic(distance, -0.5), 0)
        return weights / weights.sum(-1, keepdims=True)
    if method == "bicubic corners":
        source = place * ((size - 1) / jnp.maximum(jnp.asarray(extent, jnp.float32) - 1, 1))
    elif method != "bicubic":
        raise ConfigError(f"resize: unknown method {method!r} for a table.")
    base = jnp.floor(source)
    total = jnp.zeros((*source.shape, size), jnp.float32)
    for step in (-1, 0, 1, 2):
        taken = jnp.clip(base + step, 0, size - 1)[..., None] == index
        total += jnp.where(taken, _cubic(jnp.abs(source - base - step))[..., None], 0)
    return total


def _bilinear(x: jax.Array, extent: int, axis: int) -> jax.Array:
    return interpolate(extend_edges(x, axis), extent, axis)


def _enlarge(x: jax.Array, factor: int, axis: int) -> jax.Array:
    """Enlarge by a whole factor; `x` as in `interpolate`."""
    shape = (*x.shape[:axis], (x.shape[axis] - 2) * factor, *x.shape[axis + 1 :])
    return jnp.stack(phases(x, factor, axis), axis + 1).reshape(shape)


def _bicubic(x: jax.Array, extent: int, axis: int) -> jax.Array:
    place = _sources(x.shape[axis], extent)
    base = np.floor(place).astype(int)
    total = jnp.zeros_like(x, shape=(*x.shape[:axis], extent, *x.shape[axis + 1 :]))
    for step in (-1, 0, 1, 2):
        index = np.clip(base + step, 0, x.shape[axis] - 1)
        total += jnp.take(x, index, axis=axis) * _along(_cubic(np.abs(place - base - step)), axis, x)
    return total


def _nearest(x: jax.Array, extent: int, axis: int) -> jax.Array:
    return jnp.take(x, np.arange(extent) * x.shape[axis] // extent, axis=axis)


def _cubic(distance: np.ndarray | jax.Array, a: float = _CUBIC) -> np.ndarray | jax.Array:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return (np if isinstance(distance, np.ndarray) else jnp).where(distance <= 1, near, far)


def _sources(extent: int, target: int) -> np.ndarray:
    """Return where the centres of `target` places lie among the centres of `extent` places."""
    return (np.arange(target) + 0.5) * extent / target - 0.5


def _along(weights: np.ndarray, axis: int, x: jax.Array) -> jax.Array:
    return jnp.asarray(weights, x.dtype).reshape([-1 if d == axis else 1 for d in range(x.ndim)])


_METHODS = {"bilinear": _bilinear, "bicubic": _bicubic, "nearest": _nearest}
