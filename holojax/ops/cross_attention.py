"""Attention of a few queries over many tokens, each query with a mask of its own (Cheng et al. 2022, Mask2Former)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from holojax.ops.attention import check_tokens, hide_keys
from holojax.types import Bool, Float, KeyMask, KeysValues

# Large and finite: where nothing is seen, (-inf) - (-inf) would be no number.
_LOWEST = -1e30
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _as_it_is(x: Any) -> Any:
    return x


def cross_attend(
    q: Float[jax.Array, "b q k d"],
    k: KeysValues,
    v: KeysValues,
    kv_mask: KeyMask | None = None,
    mask: Bool[jax.Array, "b q t"] | None = None,
    join_max: Callable[[jax.Array], jax.Array] = _as_it_is,
    join_sum: Callable[[Any], Any] = _as_it_is,
) -> Float[jax.Array, "b q k d"]:
    """Attend from q to k, v, where every query sees what its mask allows, or everything if that is nothing.

    For few queries: the scores of all of them exist at one time, and are computed again in the backward pass. Softmax
    in float32. `join_max` and `join_sum` join what several devices that hold other tokens have found.

    Args:
        q: queries [b q k d].
        k: keys [b t k d].
        v: values [b t k d].
        kv_mask: bool [b t]; False keys are seen by nobody, and nothing of them gets out, not even NaN.
        mask: bool [b q t], for all heads.
        join_max: from maxima of this device to those of all; needs no gradient.
        join_sum: likewise from sums.

    Returns:
        [b q k d] in q's dtype; zeros where every key is hidden.

    Raises:
        ConfigError: shapes or dtypes do not fit.
    """
    check_tokens(q, k, v, kv_mask)
    k, v = hide_keys(k, v, kv_mask)
    seen = None if kv_mask is None else kv_mask[:, None]
    if mask is not None:
        wanted = mask if seen is None else mask & seen
        some = join_max(wanted.any(-1, keepdims=True).astype(jnp.float32)) > 0
        everything = jnp.ones_like(wanted) if seen is None else jnp.broadcast_to(seen, wanted.shape)
        seen = jnp.where(some, wanted, everything)

    def scores(q: jax.Array, k: jax.Array) -> jax.Array:
        score = _product("bqkd,btkd->bkqt", q, k) * (1 / math.sqrt(q.shape[-1]))
        return score if seen is None else jnp.where(seen[:, None], score, _LOWEST)

    top = join_max(jax.lax.stop_gradient(scores(q, k).max(-1, keepdims=True)))

    @jax.checkpoint
    def totals(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        part = jnp.exp(scores(q, k) - top)
        # Where nothing is seen, score - top is 0, not very low.
        part = part if seen is None else jnp.where(seen[:, None], part, 0)
        return part.sum(-1), _product("bkqt,btkd->bkqd", part.astype(v.dtype), v)

    weight, total = join_sum(totals(q, k, v))
    out = total / jnp.where(weight > 0, weight, 1)[..., None]
    return out.swapaxes(1, 2).astype(q.dtype)
