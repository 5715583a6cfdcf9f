"""First-order linear recurrences along an axis."""

from __future__ import annotations

import jax
from jax import lax

from holojax.types import Float


def linear_scan(
    a: Float[jax.Array, "*shape"], b: Float[jax.Array, "*shape"], axis: int, reverse: bool = False
) -> Float[jax.Array, "*shape"]:
    """Compute h_t = a_t h_(t-1) + b_t along `axis`, from h = 0 before the first step.

    With `reverse` the recurrence runs from the last place to the first. Parallel in log2(length) steps.
    """
    return affine_scan(a, b, axis, reverse)[1]


def affine_scan(
    a: Float[jax.Array, "*shape"], b: Float[jax.Array, "*shape"], axis: int, reverse: bool = False
) -> tuple[Float[jax.Array, "*shape"], Float[jax.Array, "*shape"]]:
    """Return (A, h) of the same recurrence: from any other start s, the result is A_t s + h_t."""

    def compose(
        earlier: tuple[jax.Array, jax.Array], later: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    return lax.associative_scan(compose, (a, b), reverse=reverse, axis=axis)
