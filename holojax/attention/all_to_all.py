"""Trading tokens for heads among a group of devices, and back (DeepSpeed-Ulysses; REST's SPIM exchange)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


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
