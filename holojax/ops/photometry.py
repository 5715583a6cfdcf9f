"""What augmentation does to pixels on the devices: per-scene numbers in, the same pixels out on any mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from holojax.types import Float

HIGHEST = 255.0  # of uint8


def distort(pixels: Float[jax.Array, "b r h w 3"], steps: Float[jax.Array, "b 5"]) -> Float[jax.Array, "b r h w 3"]:
    """Change brightness, contrast, saturation and hue of red, green and blue, 0 to 255 each.

    Steps of a scene, in this order: shift, factor, factor of the saturation, turn of the hue in degrees, factor. After
    each the values are cut to 0..255. mmseg's PhotoMetricDistortion, but without rounding down to integers after each
    step; a step that changes nothing, (0, 1, 1, 0, 1), leaves the values bit for bit.
    """
    shift, before, color, turn, after = (steps[:, i, None, None, None, None] for i in range(5))
    pixels = jnp.clip(pixels + shift, 0, HIGHEST)
    pixels = jnp.clip(pixels * before, 0, HIGHEST)
    # where: there and back again is not exact
    pixels = jnp.where((color == 1) & (turn == 0), pixels, _recolor(pixels, color[..., 0], turn[..., 0]))
    return jnp.clip(pixels * after, 0, HIGHEST)


def _recolor(
    pixels: Float[jax.Array, "b r h w 3"], color: Float[jax.Array, "b 1 1 1"], turn: Float[jax.Array, "b 1 1 1"]
) -> Float[jax.Array, "b r h w 3"]:
    """Multiply the saturation (up to 1) and turn the hue of each pixel; its largest value stays."""
    red, green, blue = (pixels[..., i] for i in range(3))
    value, least = pixels.max(-1), pixels.min(-1)
    spread = value - least
    apart = jnp.where(spread > 0, spread, 1)
    # Sixths of the circle from red.
    hue = jnp.where(
        value == red,
        (green - blue) / apart,
        jnp.where(value == green, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )
    chroma = jnp.minimum(spread * color, value)
    place = hue + turn / 60
    sides = (jnp.mod(start + place, 6) for start in (5, 3, 1))
    return jnp.stack([value - chroma * jnp.clip(jnp.minimum(side, 4 - side), 0, 1) for side in sides], -1)


def white_noise(grain: jax.Array, rows: jax.Array, cols: jax.Array, bands: int) -> Float[jax.Array, "b r h w c"]:
    """Return normally distributed noise of variance 1 that depends on scene, place and band alone.

    Not a stream but a hash of (grain, row, column, band), so that a place has its noise whichever region or device it
    lies on, and neighbours across a border have theirs.

    Args:
        grain: uint32 `[b]`, a number for each scene.
        rows: of the regions' pixels in the scene, whole numbers `[r h]`.
        cols: likewise, `[r w]`.
        bands: number of bands.
    """
    state = _mix(grain + jnp.uint32(0x9E3779B9))[:, None, None, None, None]
    state = _mix(state ^ rows.astype(jnp.uint32)[None, :, :, None, None])
    state = _mix(state ^ cols.astype(jnp.uint32)[None, :, None, :, None])
    state = _mix(state ^ jnp.arange(bands, dtype=jnp.uint32))
    size, angle = (_share(_mix(state ^ jnp.uint32(salt))) for salt in (0x68BC21EB, 0x02E5BE93))
    return jnp.sqrt(-2 * jnp.log(size)) * jnp.cos(2 * jnp.pi * angle)  # Box and Muller


def _mix(x: jax.Array) -> jax.Array:
    """Scatter the bits of uint32 numbers, one to one (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _share(bits: jax.Array) -> jax.Array:
    """Return numbers above 0 and up to 1, of 24 bits."""
    return ((bits >> 8) + 1).astype(jnp.float32) * 2.0**-24
