"""Attention over all tokens by sending keys and values round the ring of devices.

`ring_attention` is exact: one softmax over the whole ring (Liu et al. 2023). `hop_attention` is RingFormer-Seg's
CDCR as printed (section 2.4): one softmax and one residual a hop.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from holojax.errors import ConfigError
from holojax.ops.attention import (
    attend,
    check_tokens,
    empty_partial,
    finish,
    key_gradients,
    merge_keys,
    row_delta,
)
from holojax.parallel.collectives import align, from_region
from holojax.parallel.regions import RegionGrid, RegionShard


def ring_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    axis_name: str,
    kv_mask: jax.Array | None = None,
    block: int = 512,
) -> jax.Array:
    """Attend from this device's queries to the keys of all devices along `axis_name`; any number of heads.

    To be called inside `shard_map`. Equal to dense attention over the concatenated tokens, gradients too. Memory per
    device does not grow with the device count: the backward pass sends the keys round again.

    Args:
        q: local queries [b n k d].
        k: local keys [b m k d].
        v: local values [b m k d].
        axis_name: the mesh axis that holds the tokens.
        kv_mask: bool [b m] of the local keys; False keys are seen by nobody.
        block: keys and queries whose scores exist at one time.

    Returns:
        [b n k d] in q's dtype; zeros where every key is masked.

    Raises:
        ConfigError: shapes or dtypes do not fit.
    """
    check_tokens(q, k, v, kv_mask)
    q, k, v, kv_mask = align(q, k, v, kv_mask)
    return _ring(q, k, v, kv_mask, axis_name, block)


def hop_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    axis_name: str,
    regions: int = 1,
    kv_mask: jax.Array | None = None,
) -> jax.Array:
    """Let every region's queries take in the other regions one after the other, as RingFormer-Seg's CDCR does.

    At hop t = 0 .. N-2 region i attends the keys that started in region (i - 1 - t) mod N, never its own, and
    q <- q + softmax(q k^T / sqrt(d)) v before the next hop. N counts regions, so the result does not depend on the
    number of devices; it does depend on the region grid.

    Args:
        q: local queries [b n k d]; the tokens of this device's regions, one region after the other.
        k: local keys [b m k d], in the same order.
        v: local values [b m k d].
        axis_name: the mesh axis that holds the regions.
        regions: number of equal groups of tokens on this device, one a region.
        kv_mask: bool [b m]; False keys are seen by nobody. A region without keys adds nothing.

    Returns:
        q after N - 1 hops, [b n k d]; q itself if there is one region.

    Raises:
        ConfigError: shapes do not fit, or the tokens do not divide into `regions` groups.
    """
    check_tokens(q, k, v, kv_mask)
    if regions < 1 or q.shape[1] % regions or k.shape[1] % regions:
        raise ConfigError(
            f"hop_attention: {q.shape[1]} queries and {k.shape[1]} keys do not divide into "
            f"regions={regions} equal groups."
        )
    total = regions * lax.axis_size(axis_name)
    if total == 1:
        return q
    q, k, v, kv_mask = align(q, k, v, kv_mask)
    shard = RegionShard(RegionGrid(1, total), axis_name)
    group = functools.partial(rearrange, pattern="b (r n) ... -> b r n ...", r=regions)
    fold = functools.partial(rearrange, pattern="b r n ... -> (b r) n ...")

    def send_on(kv: tuple) -> tuple:
        return jax.tree.map(lambda x: from_region(x, -1, shard, wrap=True), kv)

    def take_in(q: jax.Array, kv: tuple) -> jax.Array:
        k, v, mask = jax.tree.map(fold, kv)
        out, _ = attend(fold(q), k, v, mask)
        return q + rearrange(out, "(b r) n ... -> b r n ...", r=regions)

    def hop(carry: tuple, _: None) -> tuple[tuple, None]:
        q, kv = carry
        following = send_on(kv)  # issued first, so that it can travel while this hop is computed
        return (take_in(q, kv), following), None

    start = (group(q), send_on(jax.tree.map(group, (k, v, kv_mask))))
    (q, kv), _ = lax.scan(hop, start, None, length=total - 2)
    return rearrange(take_in(q, kv), "b r n ... -> b (r n) ...")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _ring(q, k, v, kv_mask, axis_name, block):
    return _ring_forward(q, k, v, kv_mask, axis_name, block)[0]


def _send_on(tree, axis_name):
    devices = lax.axis_size(axis_name)
    pairs = [(d, (d + 1) % devices) for d in range(devices)]
    return jax.tree.map(lambda x: lax.ppermute(x, axis_name, pairs), tree) if devices > 1 else tree


def _ring_forward(q, k, v, kv_mask, axis_name, block):
    def hop(carry, _):
        kv, state = carry
        following = _send_on(kv, axis_name)  # issued first, so that it can travel while this hop is computed
        return (following, merge_keys(state, q, *kv, block)), None

    start = ((k, v, kv_mask), empty_partial(q))
    (kv, state), _ = lax.scan(hop, start, None, length=lax.axis_size(axis_name) - 1)
    out, lse = finish(merge_keys(state, q, *kv, block), q.dtype)
    return out, (q, k, v, kv_mask, out, lse)


def _ring_backward(axis_name, block, saved, out_grad):
    q, k, v, kv_mask, out, lse = saved
    rows = (lse, row_delta(out, out_grad))

    def visit(kv, gradients):
        dq, dk, dv = gradients
        pq, pk, pv = key_gradients(q, *kv, out_grad, rows, block)
        return dq + pq, dk + pk, dv + pv

    def hop(carry, _):
        kv, gradients = carry
        following = _send_on(kv, axis_name)
        dq, dk, dv = visit(kv, gradients)
        # The gradients of keys and values travel with them; the last step below brings them home.
        return (following, (dq, *_send_on((dk, dv), axis_name))), None

    zeros = tuple(jnp.zeros_like(x, dtype=jnp.float32) for x in (q, k, v))
    (kv, gradients), _ = lax.scan(hop, ((k, v, kv_mask), zeros), None, length=lax.axis_size(axis_name) - 1)
    dq, dk, dv = visit(kv, gradients)
    dk, dv = _send_on((dk, dv), axis_name)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_ring.defvjp(_ring_forward, _ring_backward)
