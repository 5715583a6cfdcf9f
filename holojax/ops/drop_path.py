"""Random dropping that follows the scene: all regions of a scene drop the same, on any number of devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from holojax.types import Float, Keys


def derive_keys(keys: Keys | None, index: int) -> Keys | None:
    """Derive one key per region for the module numbered `index`; None (nothing is dropped) stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, index)


def drop_path(x: Float[jax.Array, "n ..."], keys: Keys | None, rate: float) -> Float[jax.Array, "n ..."]:
    """Drop the whole residual branch of a sample with probability `rate`.

    Kept ones are scaled by 1 / (1 - rate): stochastic depth (Huang et al. 2016). Without keys, or with rate
    0, `x` is returned as it is.
    """
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    return _scaled(x, kept.reshape(-1, *[1] * (x.ndim - 1)), rate)


def drop_channels(x: Float[jax.Array, "n h w c"], keys: Keys | None, rate: float) -> Float[jax.Array, "n h w c"]:
    """Drop whole channels of a map with probability `rate` and scale the kept ones (torch's Dropout2d)."""
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (x.shape[-1],)))(keys)
    return _scaled(x, kept[:, None, None], rate)


def _scaled(x: jax.Array, kept: jax.Array, rate: float) -> jax.Array:
    # rate 1 keeps nothing: the branch is zero, not 0 / 0.
    return jnp.where(kept, x / (1 - rate), 0) if rate < 1 else jnp.zeros_like(x)
