"""Attention over all tokens by trading tokens for heads: REST's SPIM exchange (DeepSpeed-Ulysses)."""

from __future__ import annotations

import jax
from jax import lax

from holojax.errors import LayoutError
from holojax.ops.attention import attend, check_tokens
from holojax.parallel.collectives import align


def all_to_all_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, axis_name: str, kv_mask: jax.Array | None = None
) -> jax.Array:
    """Attend from this device's queries to the keys of all devices along `axis_name`.

    To be called inside `shard_map`. Every device trades all heads of its tokens for some heads of all tokens, attends,
    and trades back. Equal to dense attention over the concatenated tokens, gradients too.

    Args:
        q: local queries [b n k d].
        k: local keys [b m k d].
        v: local values [b m k d].
        axis_name: the mesh axis that holds the tokens; its size divides the number of heads k.
        kv_mask: bool [b m] of the local keys; False keys are seen by nobody.

    Returns:
        [b n k d] in q's dtype; zeros where every key is masked.

    Raises:
        LayoutError: the device count does not divide the heads.
        ConfigError: shapes or dtypes do not fit.
    """
    check_tokens(q, k, v, kv_mask)
    devices, heads = lax.axis_size(axis_name), q.shape[2]
    if heads % devices:
        legal = [n for n in range(1, heads + 1) if heads % n == 0]
        raise LayoutError(
            f"all_to_all_attention: {heads} heads do not divide over {devices} devices along {axis_name!r}. "
            f"Legal device counts are {legal}; ring_attention takes any."
        )
    q, k, v, kv_mask = align(q, k, v, kv_mask)
    if devices == 1:
        return attend(q, k, v, kv_mask)[0]
    if kv_mask is not None:
        kv_mask = lax.all_gather(kv_mask, axis_name, axis=1, tiled=True)

    def trade(x: jax.Array, give: int, take: int) -> jax.Array:
        return lax.all_to_all(x, axis_name, split_axis=give, concat_axis=take, tiled=True)

    out, _ = attend(*(trade(x, give=2, take=1) for x in (q, k, v)), kv_mask)
    return trade(out, give=1, take=2)
