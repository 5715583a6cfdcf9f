"""Convolution of every channel by itself."""

from __future__ import annotations

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
    """Sum shifted copies of the map, each times its weight: XLA makes one loop of them that reads the map once."""
    n, height, width, c = x.shape
    rows, cols = kernel.shape[:2]
    h, w = height - rows + 1, width - cols + 1
    weights = kernel[:, :, 0].astype(jnp.float32)
    total = jnp.zeros_like(x, jnp.float32, shape=(n, h, w, c))
    for i in range(rows):
        for j in range(cols):
            total += _shift(x, i, j, h, w) * weights[i, j]
    return total.astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows, cols = kernel.shape[:2]
    margin = ((0, 0), (rows - 1, rows - 1), (cols - 1, cols - 1), (0, 0))
    return _shifted(jnp.pad(gradient, margin), kernel[::-1, ::-1]), _correlate(x, gradient, kernel)


def _correlate(x: jax.Array, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the kernel's gradient: for every shift the sum of the shifted map times `gradient`.

    The sums for one row of the kernel are taken in one loop, so that what it reads serves several of them; first along
    the rows of the map, which can be done in parallel and rounds less than one long sum.
    """
    (_, h, w, _), (rows, cols, _, _) = gradient.shape, kernel.shape
    gradient = gradient.astype(jnp.float32)
    result = []
    for i in range(rows):
        products = tuple(_shift(x, i, j, h, w) * gradient for j in range(cols))
        zeros = (np.float32(0),) * cols
        partial = lax.reduce(products, zeros, lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True)), (2,))
        # Without a barrier XLA makes one long sum of the two again.
        partial = lax.optimization_barrier(partial)
        result.append(jnp.stack([p.sum((0, 1)) for p in partial]))
    return jnp.stack(result)[:, :, None].astype(kernel.dtype)


def _shift(x: jax.Array, i: int, j: int, h: int, w: int) -> jax.Array:
    return lax.slice(x, (0, i, j, 0), (x.shape[0], i + h, j + w, x.shape[3])).astype(jnp.float32)


_shifted.defvjp(_forward, _backward)
