"""Raw pixels to what a model sees."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def normalize(
    image: jax.Array,
    valid: jax.Array,
    mean: Sequence[float],
    std: Sequence[float],
    gain: jax.Array | None = None,
    offset: jax.Array | None = None,
) -> jax.Array:
    """Return float32 (image * gain + offset - mean) / std, and 0 where not valid.

    Args:
        image: raw pixels [b r h w c], any number type.
        valid: bool [b r h w].
        mean: one for all bands or one a band, in raw units.
        std: likewise.
        gain: one a scene [b] (augmentation of contrast), or None.
        offset: one a scene [b] in raw units (augmentation of brightness), or None.
    """
    pixels = image.astype(jnp.float32)
    if gain is not None:
        pixels = pixels * gain[:, None, None, None, None]
    if offset is not None:
        pixels = pixels + offset[:, None, None, None, None]
    pixels = (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    # where, not a product: pixels without data may be NaN
    return jnp.where(valid[..., None], pixels, 0)
