"""Attention block by block: the running softmax and the gradients from which `attend` and the ring are built.

Online softmax (Milakov and Gimelshein 2018; FlashAttention 2, Dao 2023): scores exist for one block of queries and
one block of keys at a time. Statistics and partial sums are float32 whatever the inputs are.

The pieces take arrays with heads first, [b k n d] (`swap_heads`), so that the product of one head is one of two plain
matrices. They hold dq as [b k d n], because a product that is contracted over its left factor's rows is written fast
in this order alone (on a CPU 3 times as fast).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from holojax.types import Float, KeyMask, KeysValues, Queries

BLOCK = 512
# Large and finite: a row that has seen no key yet keeps it as its maximum, and (-inf) - (-inf) never arises.
_LOWEST = -1e30

QueriesOfHeads = Float[jax.Array, "b k n d"]
KeysOfHeads = tuple[Float[jax.Array, "b k m d"], Float[jax.Array, "b k m d"], KeyMask | None]  # keys, values, mask


class Partial(NamedTuple):
    """Running softmax of a set of queries over the keys seen so far."""

    top: jax.Array  # [b k n] largest score
    weight: jax.Array  # [b k n] sum of exp(score - top)
    total: jax.Array  # [b k n d] sum of exp(score - top) * value


class Gradients(NamedTuple):
    """Sums of gradients, float32."""

    dq: jax.Array  # [b k d n]
    dk: jax.Array  # [b k m d]
    dv: jax.Array  # [b k m d]


def swap_heads(x: jax.Array) -> jax.Array:
    """Turn [... n k d] into [... k n d], or back."""
    return jnp.swapaxes(x, -3, -2)


def empty_partial(q: QueriesOfHeads) -> Partial:
    """Return the state of queries that have seen no key."""
    # Made from q, not from a shape, so that inside `shard_map` it is typed as varying like q.
    total = jnp.zeros_like(q, dtype=jnp.float32)
    return Partial(total[..., 0] + _LOWEST, total[..., 0], total)


def merge_keys(state: Partial, q: QueriesOfHeads, keys: KeysOfHeads, block: int = BLOCK) -> Partial:
    """Let the queries of `state` see more keys."""
    blocks = _key_blocks(keys, block)

    def step(part: tuple[Partial, jax.Array]) -> Partial:
        state, q = part
        if blocks[0].shape[0] == 1:
            return _merge_block(state, q, *(None if x is None else x[0] for x in blocks))
        return lax.scan(lambda state, keys: (_merge_block(state, q, *keys), None), state, blocks)[0]

    n = q.shape[2]
    if n <= block:
        return step((state, q))
    cut = jax.tree.map(lambda x: _cut(x, 2, block), (state, q))
    return jax.tree.map(lambda x: _join(x, 2, n), lax.map(step, cut))


def finish(state: Partial, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Return attention output [b k n d] and log-sum-exp [b k n]; where no key was seen, zeros and a very low number."""
    seen = state.weight > 0
    weight = jnp.where(seen, state.weight, 1.0)
    out = state.total / weight[..., None]
    return out.astype(dtype), jnp.where(seen, state.top + jnp.log(weight), _LOWEST)


def zero_gradients(q: QueriesOfHeads, keys: KeysOfHeads) -> Gradients:
    """Return zeros to which `add_gradients` may add."""
    dq, dk, dv = (jnp.zeros_like(x, dtype=jnp.float32) for x in (q, *keys[:2]))
    return Gradients(jnp.swapaxes(dq, 2, 3), dk, dv)


def add_gradients(
    gradients: Gradients,
    q: QueriesOfHeads,
    keys: KeysOfHeads,
    out_grad: QueriesOfHeads,
    rows: tuple[jax.Array, jax.Array],
    block: int = BLOCK,
) -> Gradients:
    """Add what comes from these keys alone.

    `rows` are two float32 [b k n] arrays: the log-sum-exp over *all* keys of each query, and its delta (the sum over
    the head's width of output times output gradient, less the gradient of the log-sum-exp). Scores are recomputed.
    """
    lse, delta = rows
    queries = (*(_cut(x, 2, block) for x in (q, out_grad)), _cut(lse, 2, block, fill=-_LOWEST), _cut(delta, 2, block))

    def keys_step(dq: jax.Array, part: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        keys, dkv = part

        def queries_step(dkv: tuple[jax.Array, jax.Array], part: tuple) -> tuple[tuple, jax.Array]:
            queries, dq = part
            more = _gradient_block(*queries, *keys)
            return (dkv[0] + more.dk, dkv[1] + more.dv), dq + more.dq

        dkv, dq = lax.scan(queries_step, dkv, (queries, dq))
        return dq, dkv

    dkv = tuple(_cut(x, 2, block) for x in (gradients.dk, gradients.dv))
    dq, (dk, dv) = lax.scan(keys_step, _cut(gradients.dq, 3, block), (_key_blocks(keys, block), dkv))
    n, m = q.shape[2], gradients.dk.shape[2]
    return Gradients(_join(dq, 3, n), _join(dk, 2, m), _join(dv, 2, m))


def finish_gradients(gradients: Gradients, dtypes: list[jnp.dtype]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return dq [b n k d], dk and dv [b m k d] in their dtypes."""
    heads_first = (jnp.swapaxes(gradients.dq, -2, -1), gradients.dk, gradients.dv)
    return tuple(swap_heads(x).astype(dtype) for x, dtype in zip(heads_first, dtypes, strict=True))


def row_delta(out: QueriesOfHeads, out_grad: QueriesOfHeads) -> jax.Array:
    """Return the sum over the head's width of output times its gradient, float32 [b k n]."""
    return jnp.einsum("bknd,bknd->bkn", out.astype(jnp.float32), out_grad.astype(jnp.float32))


@jax.custom_vjp
def attend_blockwise(q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None) -> tuple[jax.Array, jax.Array]:
    """Attend as `ops.attention.attend`; kept for the gradient are q, k, v, output and log-sum-exp alone."""
    q, k, v = map(swap_heads, (q, k, v))
    out, lse = finish(merge_keys(empty_partial(q), q, (k, v, kv_mask)), q.dtype)
    return swap_heads(out), lse


def _attend_forward(q, k, v, kv_mask):
    out, lse = attend_blockwise(q, k, v, kv_mask)
    return (out, lse), (q, k, v, kv_mask, out, lse)


def _attend_backward(saved, grads):
    *arrays, kv_mask, out, lse = saved
    q, k, v, out, out_grad = map(swap_heads, (*arrays, out, grads[0]))
    rows = (lse, row_delta(out, out_grad) - grads[1])
    gradients = add_gradients(zero_gradients(q, (k, v, kv_mask)), q, (k, v, kv_mask), out_grad, rows)
    return *finish_gradients(gradients, [x.dtype for x in arrays]), None


attend_blockwise.defvjp(_attend_forward, _attend_backward)

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _merge_block(state: Partial, q, k, v, kv_mask) -> Partial:
    score = _product("bknd,bksd->bkns", q, k) * (1 / math.sqrt(q.shape[-1]))
    seen = None if kv_mask is None else kv_mask[:, None, None]
    score = score if seen is None else jnp.where(seen, score, _LOWEST)
    top = jnp.maximum(state.top, score.max(-1))
    part = jnp.exp(score - top[..., None])
    # Where every key so far is masked, score - top is 0, not very low.
    part = part if seen is None else jnp.where(seen, part, 0.0)
    shrink = jnp.exp(state.top - top)
    total = state.total * shrink[..., None] + _product("bkns,bksd->bknd", part.astype(v.dtype), v)
    return Partial(top, state.weight * shrink + part.sum(-1), total)


def _gradient_block(q, out_grad, lse, delta, k, v, kv_mask) -> Gradients:
    scale = 1 / math.sqrt(q.shape[-1])
    # Keys down, queries across: then dk and dv are plain products too, and of dq the transpose is.
    part = jnp.exp(_product("bksd,bknd->bksn", k, q) * scale - lse[:, :, None])
    part = part if kv_mask is None else jnp.where(kv_mask[:, None, :, None], part, 0.0)
    dv = _product("bksn,bknd->bksd", part.astype(out_grad.dtype), out_grad)
    dpart = _product("bksd,bknd->bksn", v, out_grad)
    dscore = (part * (dpart - delta[:, :, None]) * scale).astype(q.dtype)
    return Gradients(dq=_product("bksn,bksd->bkdn", dscore, k), dk=_product("bksn,bknd->bksd", dscore, q), dv=dv)


def _key_blocks(keys, block):
    k, v, kv_mask = keys
    m = k.shape[2]
    if kv_mask is None and m != _padded(m, block):
        kv_mask = jnp.ones_like(k[:, 0, :, 0], dtype=bool)
    return _cut(k, 2, block), _cut(v, 2, block), None if kv_mask is None else _cut(kv_mask, 1, block)


def _padded(size: int, block: int) -> int:
    """Return the size of as few equal blocks of at most `block` as hold `size`; a short axis stays as it is.

    Equal, because full blocks would nearly double an axis that is a little longer than one.
    """
    count = -(-size // block)
    even = -(-size // count)
    # Rows of a multiple of 8 keep the products aligned; the padding is masked.
    return size if count == 1 else count * min(even + -even % 8, block)


def _cut(x: jax.Array, axis: int, block: int, fill: int | float = 0) -> jax.Array:
    """Cut `axis` into the equal blocks of `_padded`, padded with `fill`, and put the blocks first."""
    size = x.shape[axis]
    count, padded = -(-size // block), _padded(size, block)
    if padded > size:
        pads = [(0, 0)] * x.ndim
        pads[axis] = (0, padded - size)
        x = jnp.pad(x, pads, constant_values=fill)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, padded // count, *x.shape[axis + 1 :]), axis, 0)


def _join(blocks: jax.Array, axis: int, size: int) -> jax.Array:
    """Undo `_cut`: put the blocks back along `axis` and drop the padding."""
    x = jnp.moveaxis(blocks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, size, axis=axis)
