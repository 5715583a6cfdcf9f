"""A convolution of an enlarged map, computed where the map is small."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from holojax.ops.resize import extend_edges, phases, resize
from holojax.ops.varying import align
from holojax.types import Float

# How many times larger a map has to become for the way over the small map to be the shorter one.
_WORTH = 2


def convolve(x: Float[jax.Array, "n h w c"], kernel: Float[jax.Array, "i j c d"]) -> Float[jax.Array, "n H W d"]:
    """Convolve a map as it is, nothing beyond it, in the larger dtype of the two."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    return lax.conv_general_dilated(
        x.astype(dtype), kernel.astype(dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def resize_conv(
    x: Float[jax.Array, "n h w c"], kernel: Float[jax.Array, "i j c d"], size: tuple[int, int]
) -> Float[jax.Array, "n H W d"]:
    """Resize maps bilinearly to `size` and convolve them there: a kernel of odd sides, zeros beyond the resized map.

    Where the map grows, resizing comes last: the taps of the kernel are products at the map's own size, and each is
    enlarged and shifted by its place in the kernel. All of it is linear, so the sum is the same to rounding, for as
    many times fewer products as the map grows. Rows are enlarged first, so that one axis alone is at full size.
    """
    of, dtype = x.shape[1:3], jnp.promote_types(x.dtype, kernel.dtype)
    if size[0] * size[1] < _WORTH * of[0] * of[1] or size[0] < of[0] or size[1] < of[1]:
        rows, cols = (side // 2 for side in kernel.shape[:2])
        return convolve(jnp.pad(resize(x, size), ((0, 0), (rows, rows), (cols, cols), (0, 0))), kernel)
    x, kernel = align(x.astype(dtype), kernel.astype(dtype))
    columns = []
    for j in range(kernel.shape[1]):
        taps = [jnp.einsum("nhwc,cd->nhwd", x, tap) for tap in kernel[:, j]]
        columns.append(_add_enlarged(taps, size[0], 1))
    return _add_enlarged(columns, size[1], 2)


def _add_enlarged(taps: list[jax.Array], extent: int, axis: int) -> jax.Array:
    """Enlarge `axis` of every tap to `extent` and add them up, each shifted by its distance from the middle one."""
    size, reach = taps[0].shape[axis], len(taps) // 2
    if extent % size:
        sizes = (extent, taps[0].shape[2]) if axis == 1 else (taps[0].shape[1], extent)
        return sum(_shift(resize(tap, sizes), k - reach, axis) for k, tap in enumerate(taps))
    # What is large is written once: a sum of small maps for every place that one place becomes.
    factor = extent // size
    parts = [phases(extend_edges(tap, axis), factor, axis) for tap in taps]
    sums = []
    for place in range(factor):
        sources = [divmod(place + k - reach, factor) for k in range(len(taps))]
        sums.append(sum(_shift(parts[k][phase], step, axis) for k, (step, phase) in enumerate(sources)))
    shape = (*taps[0].shape[:axis], extent, *taps[0].shape[axis + 1 :])
    return jnp.stack(sums, axis + 1).reshape(shape)


def _shift(x: jax.Array, by: int, axis: int) -> jax.Array:
    """Return what lies `by` places further on, zeros beyond the map."""
    size = x.shape[axis]
    if not by:
        return x
    if abs(by) >= size:
        return jnp.zeros_like(x)
    x = lax.slice_in_dim(x, max(by, 0), size + min(by, 0), axis=axis)
    return jnp.pad(x, [(max(-by, 0), max(by, 0)) if d == axis else (0, 0) for d in range(x.ndim)])
