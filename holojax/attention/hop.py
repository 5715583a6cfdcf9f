"""RingFormer-Seg's CDCR as printed (section 2.4): one softmax and one residual a hop."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from holojax.errors import ConfigError
from holojax.ops.attention import attend_visible, check_tokens, hide_keys
from holojax.ops.blockwise import (
    Gradients,
    add_gradients,
    attend_blockwise,
    finish_gradients,
    row_delta,
    swap_heads,
)
from holojax.ops.varying import align
from holojax.parallel.collectives import from_region
from holojax.parallel.regions import RegionGrid, RegionShard


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
    number of devices; it does depend on the region grid. Sends what `parallel.exchange.hop_bytes` counts, by
    collective-permutes alone.

    For the gradient are kept k, v and the queries before each hop, which cannot be computed backwards: N - 1 times q.
    Keys travel again, the other way.

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
    shard = RegionShard(RegionGrid(1, total), axis_name)
    split = functools.partial(rearrange, pattern="b (r n) ... -> b r n ...", r=regions)
    arrays = align(q, *hide_keys(k, v, kv_mask), kv_mask, axis=axis_name)
    out = _hops(*jax.tree.map(split, arrays), shard)
    return rearrange(out, "b r n ... -> b (r n) ...")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _hops(q, k, v, kv_mask, shard):
    return _forward(q, k, v, kv_mask, shard)[0]


def _forward(q, k, v, kv_mask, shard):
    def take_in(q, kv):
        out, _ = attend_visible(*jax.tree.map(_fold, (q, *kv)))
        return q + out.reshape(q.shape)

    def hop(carry, _):
        q, kv = carry
        following = _fetch(kv, -1, shard)  # issued first, so that it can travel while this hop is computed
        return (take_in(q, kv), following), q

    start = (q, _fetch((k, v, kv_mask), -1, shard))
    (q, kv), earlier = lax.scan(hop, start, None, length=shard.grid.count - 2)
    return take_in(q, kv), (earlier, q, k, v, kv_mask)


def _backward(shard, saved, out_grad):
    earlier, last, k, v, kv_mask = saved

    def visit(q, keys, gradients):
        """Add the gradients through one hop, the one that these queries took with these keys."""
        shapes = [x.shape for x in gradients]
        q, (k, v, kv_mask), gradients = jax.tree.map(_fold, (q, keys, gradients))
        out, lse = attend_blockwise(q, swap_heads(k), swap_heads(v), kv_mask)
        q, out = swap_heads(q), swap_heads(out)
        out_grad = jnp.swapaxes(gradients.dq, -2, -1).astype(q.dtype)
        found = add_gradients(gradients, q, (k, v, kv_mask), out_grad, (lse, row_delta(out, out_grad)))
        return Gradients(*(x.reshape(shape) for x, shape in zip(found, shapes, strict=True)))

    def hop(carry, q):
        keys, gradients = carry
        following = _fetch(keys, +1, shard)
        dq, *dkv = visit(q, keys, gradients)
        # The gradients of keys and values travel with them; the last step below brings them home.
        return following, Gradients(dq, *_fetch(dkv, +1, shard))

    dtypes = [x.dtype for x in (last, k, v)]
    k, v = swap_heads(k), swap_heads(v)
    dq = jnp.swapaxes(swap_heads(out_grad), -2, -1).astype(jnp.float32)
    gradients = Gradients(dq, *(jnp.zeros_like(x, dtype=jnp.float32) for x in (k, v)))
    carry = (_fetch((k, v, kv_mask), +1, shard), gradients)  # the keys of the last hop are the next region's
    hops = earlier.shape[0]
    if hops:
        carry = hop(carry, last)
        carry, _ = lax.scan(lambda carry, t: (hop(carry, earlier[t]), None), carry, jnp.arange(hops - 1, 0, -1))
        last = earlier[0]
    dq, *dkv = visit(last, *carry)
    return *finish_gradients(Gradients(dq, *_fetch(dkv, +1, shard)), dtypes), None


_hops.defvjp(_forward, _backward)


def _fetch(tree: Any, offset: int, shard: RegionShard) -> Any:
    """Return, for every region, the arrays of the region `offset` further round the ring."""
    return jax.tree.map(lambda x: from_region(x, offset, shard, wrap=True), tree)


def _fold(x: jax.Array) -> jax.Array:
    return rearrange(x, "b r n ... -> (b r) n ...")
