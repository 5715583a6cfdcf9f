"""Trading tokens for heads, and attention over all tokens by it: REST's SPIM exchange (DeepSpeed-Ulysses)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from holojax.ops.attention import attend, check_tokens
from holojax.ops.varying import align
from holojax.parallel.exchange import check_group


def all_to_all_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, axis_name: str, kv_mask: jax.Array | None = None
) -> jax.Array:
    """Attend from this device's queries to the keys of all devices along `axis_name`.

    To be called inside `shard_map`. Every device trades all heads of its tokens for some heads of all tokens, attends,
    and trades back. Equal to dense attention over the concatenated tokens, gradients too. Sends what
    `parallel.exchange.trade_bytes` counts, by all-to-alls alone.

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
    check_tokens(q, k, v, kv_mask)
    devices = lax.axis_size(axis_name)
    check_group("all_to_all_attention", q.shape[2], devices, devices)
    out, _ = attend(*tokens_for_heads(*align(q, k, v, kv_mask), axis_name, devices))
    return heads_for_tokens(out, axis_name, devices)


def tokens_for_heads(
    q: jax.Array, k: jax.Array, v: jax.Array, kv_mask: jax.Array | None, axis_name: str, group: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Trade all heads of this device's tokens for one `group`-th of the heads of all tokens of its group.

    Groups are `group` consecutive devices. [b n k d] becomes [b group*n k/group d], tokens in the order of devices; the
    mask [b m], which all heads share, becomes [b group*m].
    """
    q, k, v = (_trade(x, 2, 1, axis_name, group) for x in (q, k, v))
    if kv_mask is not None:
        copies = jnp.broadcast_to(kv_mask[..., None], (*kv_mask.shape, group))
        kv_mask = _trade(copies, 2, 1, axis_name, group)[..., 0]
    return q, k, v, kv_mask


def heads_for_tokens(out: jax.Array, axis_name: str, group: int) -> jax.Array:
    """Undo `tokens_for_heads` for the output of attention."""
    return _trade(out, 1, 2, axis_name, group)


def _trade(x: jax.Array, give: int, take: int, axis_name: str, group: int) -> jax.Array:
    if group == 1:
        return x
    groups = [[first + i for i in range(group)] for first in range(0, lax.axis_size(axis_name), group)]
    return lax.all_to_all(x, axis_name, split_axis=give, concat_axis=take, axis_index_groups=groups, tiled=True)
