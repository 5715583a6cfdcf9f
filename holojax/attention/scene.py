"""Attention over all tokens of a scene: one body, `_attend_groups`, behind four names.

Of D devices, groups of P consecutive ones trade tokens for heads (`all_to_all`), and device j of all groups sends keys
and values round a ring of D / P (`ring`). P = D is the all-to-all alone, P = 1 the ring alone. Whatever P, the result
is dense attention over the concatenated tokens, gradients too.
"""

from __future__ import annotations

import jax
from jax import lax

from holojax.attention.all_to_all import heads_for_tokens, tokens_for_heads
from holojax.attention.ring import go_round
from holojax.errors import ConfigError
from holojax.ops.attention import attend, check_tokens, hide_keys
from holojax.ops.blockwise import BLOCK
from holojax.ops.varying import align
from holojax.parallel.exchange import Held, Topology, check_group, legal_plan


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

    This is what mixers and exact borders call. The result is the same whichever way is taken
    (`parallel.exchange.legal_plan` says which). Arguments as `hybrid_attention`; `exchange` is "all_to_all", "ring" or
    "hybrid", which leaves the choice to the planner.
    """
    check_tokens(q, k, v, kv_mask)
    b, n, heads, width = q.shape
    held = Held(n, k.shape[1], heads, width, q.dtype.itemsize, b, masked=kv_mask is not None)
    plan = legal_plan(exchange, held, lax.axis_size(axis_name), Topology.of_processes())
    return _attend_groups("scene_attention", q, k, v, kv_mask, axis_name, plan.heads_parallel)


def all_to_all_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, axis_name: str, kv_mask: jax.Array | None = None
) -> jax.Array:
    """Attend from this device's queries to the keys of all devices along `axis_name`: REST's SPIM exchange.

    To be called inside `shard_map`. Every device trades all heads of its tokens for some heads of all tokens, attends,
    and trades back (DeepSpeed-Ulysses). Equal to dense attention over the concatenated tokens, gradients too. Sends
    what `parallel.exchange.trade_bytes` counts, by all-to-alls alone.

    Args:
        q: local queries [b n k d].
        k: local keys [b m k d].
        v: local values [b m k d].
        axis_name: the mesh axis that holds the tokens; its size divides the number of heads k.
        kv_mask: bool [b m] of the local keys; False keys are seen by nobody.

    Returns:
        [b n k d] in q's dtype; zeros where every key is masked.

    Raises:
        LayoutError: the device count does not divide the heads; names the plans that are legal.
        ConfigError: shapes or dtypes do not fit.
    """
    return _attend_groups("all_to_all_attention", q, k, v, kv_mask, axis_name, lax.axis_size(axis_name))


def ring_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    axis_name: str,
    kv_mask: jax.Array | None = None,
    block: int = BLOCK,
) -> jax.Array:
    """Attend from this device's queries to the keys of all devices along `axis_name`; any number of heads.

    To be called inside `shard_map`. Keys and values go round the ring of devices under one softmax (Liu et al. 2023).
    Equal to dense attention over the concatenated tokens, gradients too. Memory per device does not grow with the
    device count: the backward pass sends the keys round again. Sends what `parallel.exchange.ring_bytes` counts, by
    collective-permutes alone.

    Args:
        q: local queries [b n k d].
        k: local keys [b m k d].
        v: local values [b m k d].
        axis_name: the mesh axis that holds the tokens.
        kv_mask: bool [b m] of the local keys; False keys are seen by nobody.
        block: keys and queries whose scores exist at one time, at most; of no account on one device.

    Returns:
        [b n k d] in q's dtype; zeros where every key is masked.

    Raises:
        ConfigError: shapes, dtypes or `block` do not fit.
    """
    if block < 1:
        raise ConfigError(f"ring_attention: expected a block of at least 1 token, found block={block}.")
    return _attend_groups("ring_attention", q, k, v, kv_mask, axis_name, 1, block)


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

    To be called inside `shard_map`. Groups of `heads_parallel` consecutive devices trade tokens for heads, a ring joins
    the groups (USP, Fang and Zhao 2024). Equal to dense attention over the concatenated tokens, gradients too. Sends
    what `parallel.exchange.trade_bytes` and `ring_bytes` count.

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
    return _attend_groups("hybrid_attention", q, k, v, kv_mask, axis_name, heads_parallel)


def _attend_groups(caller, q, k, v, kv_mask, axis_name, heads_parallel, block=BLOCK):
    """Trade tokens for heads in groups of `heads_parallel` devices, attend round the ring of groups, trade back."""
    check_tokens(q, k, v, kv_mask)
    devices = lax.axis_size(axis_name)
    check_group(caller, q.shape[2], devices, heads_parallel)
    q, k, v, kv_mask = align(q, k, v, kv_mask, axis=axis_name)
    q, k, v, kv_mask = tokens_for_heads(q, k, v, kv_mask, axis_name, heads_parallel)
    if heads_parallel == devices:
        out, _ = attend(q, k, v, kv_mask)
    else:
        out = go_round(q, *hide_keys(k, v, kv_mask), kv_mask, axis_name, heads_parallel, block)
    return heads_for_tokens(out, axis_name, heads_parallel)
