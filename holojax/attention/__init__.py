"""Exact attention over a scene's tokens, wherever they lie."""

from __future__ import annotations

import jax
from jax import lax

from holojax.attention.all_to_all import all_to_all_attention
from holojax.attention.hop import hop_attention
from holojax.attention.hybrid import hybrid_attention
from holojax.attention.ring import ring_attention
from holojax.ops.attention import check_tokens
from holojax.parallel.exchange import Held, Plan, Topology, choose_exchange, legal_plan

__all__ = [
    "Plan",
    "Topology",
    "all_to_all_attention",
    "choose_exchange",
    "hop_attention",
    "hybrid_attention",
    "ring_attention",
    "scene_attention",
]


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

    The result is the same (`parallel.exchange.legal_plan` says which is taken). Arguments as `hybrid_attention`;
    `exchange` is "all_to_all", "ring" or "hybrid", which leaves the choice to the planner.
    """
    check_tokens(q, k, v, kv_mask)
    b, n, heads, width = q.shape
    held = Held(n, k.shape[1], heads, width, q.dtype.itemsize, b)
    plan = legal_plan(exchange, held, lax.axis_size(axis_name), Topology.of_processes())
    return hybrid_attention(q, k, v, axis_name=axis_name, heads_parallel=plan.heads_parallel, kv_mask=kv_mask)
