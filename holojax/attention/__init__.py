"""Exact attention over a scene's tokens, wherever they lie."""

from __future__ import annotations

import jax
from jax import lax

from holojax.attention.all_to_all import all_to_all_attention
from holojax.attention.ring import hop_attention, ring_attention
from holojax.parallel.mesh import legal_exchange

__all__ = ["all_to_all_attention", "hop_attention", "ring_attention", "scene_attention"]

_EXCHANGES = {"all_to_all": all_to_all_attention, "ring": ring_attention}


def scene_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    axis_name: str,
    exchange: str = "all_to_all",
    kv_mask: jax.Array | None = None,
) -> jax.Array:
    """Attend over all tokens along `axis_name` by the preferred exchange where the mesh allows it, else by another.

    The result is the same (`parallel.mesh.legal_exchange` says which is taken). Arguments as `ring_attention`.
    """
    legal = legal_exchange(exchange, q.shape[2], lax.axis_size(axis_name))
    return _EXCHANGES[legal](q, k, v, axis_name=axis_name, kv_mask=kv_mask)
