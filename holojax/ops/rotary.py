"""Rotary positions in two dimensions: scores depend on how far apart two tokens lie, in rows and in columns."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from holojax.errors import ConfigError
from holojax.types import Float

_BASE = 10_000.0


def check_rotary_width(width: int) -> None:
    """Raise a ConfigError unless heads of `width` can be rotated."""
    if width % 4:
        raise ConfigError(
            f"Rotary positions in two dimensions need heads whose width is a multiple of 4, found {width}. "
            f"Use a width of {width + -width % 4} (channels / heads), or position='none'."
        )


def rotate(
    x: Float[jax.Array, "b n k d"], rows: Float[jax.Array, " n"], cols: Float[jax.Array, " n"]
) -> Float[jax.Array, "b n k d"]:
    """Turn queries or keys by where their tokens lie: the first half of a head's width by row, the second by column.

    Feature j of the first d/4 of a half and feature j + d/4 are a pair, turned by position * 10000^(-4 j / d) radians
    (RoFormer, Su et al. 2021, equation 34, once for each axis). Angles are float32 whatever x is.

    Args:
        x: [b n k d].
        rows: row of each token in the scene, float32; need not be whole.
        cols: column, likewise.

    Returns:
        As x, dtype too.

    Raises:
        ConfigError: d is no multiple of 4.
    """
    check_rotary_width(x.shape[-1])
    quarter = x.shape[-1] // 4
    speed = _BASE ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
    angle = jnp.stack([rows, cols], axis=-1).astype(jnp.float32)[..., None] * speed  # [n 2 d/4]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, 2, quarter)  # row or column, which of a pair, pair
    a, b = halves[..., 0, :], halves[..., 1, :]
    turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-2)
    return turned.reshape(x.shape).astype(x.dtype)
