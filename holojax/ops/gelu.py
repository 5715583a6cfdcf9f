"""The exact GELU, on every version of JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Rational approximation of erf on [-3.83, 3.83] in powers of x^2, highest first: Eigen's, which XLA uses for float32.
_EDGE = 3.832506856900711
_ABOVE = (
    2.2905065861350646e-4,
    3.4082910107109506e-3,
    5.0955695062380861e-2,
    1.8520832239976145e-1,
    1.128379143519084,
)
_BELOW = (
    -1.1791602954361697e-7,
    2.3547966471313185e-5,
    1.0179625278914885e-3,
    1.4070470171167667e-2,
    1.1098505178285362e-1,
    4.9746925110067538e-1,
    1.0,
)


@jax.custom_jvp
def erf(x: jax.Array) -> jax.Array:
    """Return the error function in float32, within 2e-7 of `jax.lax.erf`.

    `lax.erf` itself cannot be used: in JAX 0.12 it is refused inside `shard_map` with `check_vma=True`.
    """
    x = jnp.clip(x.astype(jnp.float32), -_EDGE, _EDGE)
    square = x * x
    return x * _polynomial(_ABOVE, square) / _polynomial(_BELOW, square)


@erf.defjvp
def _erf_jvp(primals: tuple, tangents: tuple) -> tuple:
    x, dx = primals[0].astype(jnp.float32), tangents[0].astype(jnp.float32)
    return erf(x), 2 / math.sqrt(math.pi) * jnp.exp(-x * x) * dx


def gelu(x: jax.Array) -> jax.Array:
    """Return x times the normal distribution function of x, in x's dtype: torch's default GELU, not the tanh one."""
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
