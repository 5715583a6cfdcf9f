"""Attention over all tokens by both exchanges: heads over groups of devices, a ring between the groups."""

from __future__ import annotations

import jax
from jax import lax

from holojax.attention.all_to_all import heads_for_tokens, tokens_for_heads
from holojax.attention.ring import go_round
from holojax.ops.attention import attend, check_tokens
from holojax.ops.varying import align
from holojax.parallel.exchange import check_group


def hybrid_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    axis_name: str,
    heads_parallel: int,
    kv_mask: jax.Array | None = None,
) -> jax.Array:
    """Attend from this device's queries to the keys of all devices along `axis_name`.

    To be called inside `shard_map`. Of D devices, groups of P = `heads_parallel` consecutive ones trade tokens for
    heads; then device j of each group holds the same heads, and keys and values go round the ring of these D / P
    devices. P = D is `all_to_all_attention`, P = 1 `ring_attention`. Equal to dense attention over the concatenated
    tokens, gradients too. Sends what `parallel.exchange.trade_bytes` and `ring_bytes` count. (USP, Fang and Zhao 2024.)

    Args:
        q: local queries [b n k d].
        k: local keys [b m k d].
        v: local values [b m k d].
        axis_name: the mesh axis that holds the tokens.
        heads_parallel: devices of a group; divides the axis and the number of heads k.
        kv_mask: bool [b m] of the local keys; False keys are seen by nobody.

    Returns:
        [b n k d] in q's dtype; zeros where every key is masked.

    Raises:
        LayoutError: `heads_parallel` does not divide heads and devices; names the plans that are legal.
        ConfigError: shapes or dtypes do not fit.
    """
    check_tokens(q, k, v, kv_mask)
    devices = lax.axis_size(axis_name)
    check_group("hybrid_attention", q.shape[2], devices, heads_parallel)
    traded = tokens_for_heads(*align(q, k, v, kv_mask), axis_name, heads_parallel)
    out = attend(*traded)[0] if heads_parallel == devices else go_round(*traded, axis_name, heads_parallel)
    return heads_for_tokens(out, axis_name, heads_parallel)
