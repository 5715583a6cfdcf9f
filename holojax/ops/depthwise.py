"""Convolution of every channel by itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from holojax.ops.varying import align
from holojax.types import Float


def depthwise(x: Float[jax.Array, "n H W c"], kernel: Float[jax.Array, "k l 1 c"]) -> Float[jax.Array, "n h w c"]:
    """Convolve every channel of a map by itself, without padding: h = H - k + 1, w = W - l + 1.

    As torch's `conv2d(groups=c)`; sums in float32, result in x's dtype. On CPU XLA's own grouped convolution is slow
    (30 times the shifted sum of one pass over the map for 7 x 7, its gradients more), so there the sum is written out.

    Args:
        x: map [n H W c].
        kernel: weights [k l 1 c], the layout of a grouped convolution.
    """
    x, kernel = align(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_shifted, default=_grouped)


def _grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=names, feature_group_count=x.shape[-1]
    )


@jax.custom_vjp
def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sum shifted copies of the map, each times its weight: XLA makes one loop of them that reads the map once.

    In two halves, one after the other: what leaves a loop is kept, while a plain sum is written out again into all of
    its readers, and in the three of a LayerNorm it is ten times slower. (A barrier does not outlive fusion on CPU.)
    """
    n, height, width, c = x.shape
    rows, cols = kernel.shape[:2]
    h, w = height - rows + 1, width - cols + 1
    half = -(-h // 2)

    def compute(i: jax.Array, result: jax.Array) -> jax.Array:
        # Halves of an odd number of rows share one.
        first = i * (h - half)
        part = lax.dynamic_slice_in_dim(x, first, half + rows - 1, axis=1)
        total = _sum_shifts(part, kernel[:, :, 0].astype(jnp.float32), half, w).astype(x.dtype)
        return lax.dynamic_update_slice_in_dim(result, total, first, axis=1)

    empty, _ = align(jnp.zeros((n, h, w, c), x.dtype), x)
    return lax.fori_loop(0, 2, compute, empty)


def _sum_shifts(x: jax.Array, weights: jax.Array, h: int, w: int) -> jax.Array:
    rows, cols, c = weights.shape
    # Slices, since indexing by numbers takes ten times as long to trace.
    flat = weights.reshape(rows * cols, c)
    terms = (
        _shift(x, i, j, h, w) * lax.slice_in_dim(flat, i * cols + j, i * cols + j + 1)
        for i, j in np.ndindex(rows, cols)
    )
    return functools.reduce(jnp.add, terms)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows, cols = kernel.shape[:2]
    margin = ((0, 0), (rows - 1, rows - 1), (cols - 1, cols - 1), (0, 0))
    return _shifted(jnp.pad(gradient, margin), kernel[::-1, ::-1]), _correlate(x, gradient, kernel)


def _correlate(x: jax.Array, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the kernel's gradient: for every shift the sum of the shifted map times `gradient`.

    The sums for one row of the kernel are taken in one pass over the map: first along its rows, which can be done in
    parallel and rounds less than one long sum. The rows follow each other in a loop because it compiles once.
    """
    (_, h, w, _), (rows, cols, _, _) = gradient.shape, kernel.shape
    gradient = gradient.astype(jnp.float32)

    def row(i: jax.Array) -> jax.Array:
        shifted = lax.dynamic_slice_in_dim(x, i, h, axis=1)
        products = tuple(_shift(shifted, 0, j, h, w) * gradient for j in range(cols))
        zeros = (np.float32(0),) * cols
        return jnp.stack(
            lax.reduce(products, zeros, lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True)), (2,))
        )

    return lax.map(row, jnp.arange(rows)).sum((2, 3))[:, :, None].astype(kernel.dtype)


def _add(first: tuple, second: tuple) -> tuple:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _shift(x: jax.Array, i: int, j: int, h: int, w: int) -> jax.Array:
    return lax.slice(x, (0, i, j, 0), (x.shape[0], i + h, j + w, x.shape[3])).astype(jnp.float32)


_shifted.defvjp(_forward, _backward)
