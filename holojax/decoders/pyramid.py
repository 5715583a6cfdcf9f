"""A pyramid out of maps of one resolution, so that a plain transformer meets a pyramid decoder."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax

from holojax.borders import ISOLATED, Borders
from holojax.decoders.layers import BatchNorm
from holojax.ops.gelu import gelu
from holojax.types import Float

FACTORS = (4.0, 2.0, 1.0, 0.5)


class FeaturePyramid(nnx.Module):
    """Rescale four maps of one resolution by 4, 2, 1 and 1/2, with the numerics of mmseg's Feature2Pyramid.

    Enlarging is learned (2 x 2 transposed convolutions), halving takes the maximum of 2 x 2 places.

    Args:
        channels: channels of every map.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels: int, rngs: nnx.Rngs):
        self.up4_first = Double(channels, rngs=rngs)
        self.up4_norm = BatchNorm(channels)
        self.up4_second = Double(channels, rngs=rngs)
        self.up2 = Double(channels, rngs=rngs)

    def __call__(self, maps: Sequence[jax.Array], borders: Borders = ISOLATED) -> tuple[jax.Array, ...]:
        """Map four maps [n h w c] to sizes 4h, 2h, h and floor(h / 2) (at least 1)."""
        first, second, third, fourth = maps
        first = gelu(self.up4_norm(self.up4_first(first), borders))
        return self.up4_second(first), self.up2(second), third, _halve(fourth, borders)


class Double(nnx.Module):
    """Enlarge a map by 2, every place on its own: a 2 x 2 transposed convolution of stride 2."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=2, out_axis=3)
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, channels, channels)))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n i j c"]:
        """Map [n h w c] to [n 2h 2w c]."""
        y = jnp.einsum("nhwc,abcd->nhawbd", x, self.kernel[...]) + self.bias[...]
        return rearrange(y, "n h a w b d -> n (h a) (w b) d")


def _halve(x: jax.Array, borders: Borders) -> jax.Array:
    # A map of one row or column cannot be halved: it stays.
    window = (1, min(2, x.shape[1]), min(2, x.shape[2]), 1)
    # Hidden places are the lowest number to the maximum, then zero again: it must not get into a product.
    lowest = borders.hide(x, float(jnp.finfo(x.dtype).min))
    return borders.hide(lax.reduce_window(lowest, -jnp.inf, lax.max, window, window, "VALID"))
