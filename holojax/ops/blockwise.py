"""Attention block by block: the running softmax and the gradients from which `attend` and the ring are built.

Online softmax (Milakov and Gimelshein 2018; FlashAttention 2, Dao 2023): scores exist for one block of queries and
one block of keys at a time. Statistics and partial sums are float32 whatever the inputs are.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from holojax.types import KeyMask, KeysValues, Queries

BLOCK = 512
# Large and finite: a row that has seen no key yet keeps it as its maximum, and (-inf) - (-inf) never arises.
_LOWEST = -1e30


Gradients = tuple[jax.Array, jax.Array, jax.Array]  # of queries [b n k d], keys and values [b m k d], float32


class Partial(NamedTuple):
    """Running softmax of a set of queries over the keys seen so far."""

    top: jax.Array  # [b k n] largest score
    weight: jax.Array  # [b k n] sum of exp(score - top)
    total: jax.Array  # [b n k d] sum of exp(score - top) * value


def empty_partial(q: Queries) -> Partial:
    """Return the state of queries that have seen no key."""
    # Made from q, not from a shape, so that inside `shard_map` it is typed as varying like q.
    total = jnp.zeros_like(q, dtype=jnp.float32)
    row = jnp.moveaxis(total[..., 0], 1, 2)
    return Partial(row + _LOWEST, row, total)


def merge_keys(
    state: Partial, q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None, block: int = BLOCK
) -> Partial:
    """Let the queries of `state` see more keys."""

    def queries(part: tuple[Partial, jax.Array]) -> Partial:
        state, q = part

        def step(state: Partial, keys: tuple) -> tuple[Partial, None]:
            return _merge_block(state, q, *keys), None

        blocks = _key_blocks(k, v, kv_mask, block)
        if blocks[0].shape[0] == 1:
            return _merge_block(state, q, *(None if x is None else x[0] for x in blocks))
        return lax.scan(step, state, blocks)[0]

    if q.shape[1] <= block:
        return queries((state, q))
    rows = Partial(*(_cut(x, axis, block) for x, axis in zip(state, (2, 2, 1), strict=True)))
    top, weight, total = lax.map(queries, (rows, _cut(q, 1, block)))
    n = q.shape[1]
    return Partial(_join(top, 2, n), _join(weight, 2, n), _join(total, 1, n))


def finish(state: Partial, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Return attention output [b n k d] and log-sum-exp [b k n]; where no key was seen, zeros and a very low number."""
    seen = state.weight > 0
    weight = jnp.where(seen, state.weight, 1.0)
    out = state.total / jnp.moveaxis(weight, 1, 2)[..., None]
    return out.astype(dtype), jnp.where(seen, state.top + jnp.log(weight), _LOWEST)


def add_gradients(
    gradients: Gradients,
    q: Queries,
    keys: tuple[KeysValues, KeysValues, KeyMask | None],
    out_grad: Queries,
    rows: tuple[jax.Array, jax.Array],
    block: int = BLOCK,
) -> Gradients:
    """Add to float32 gradients (dq, dk, dv) what comes from these keys, values and mask alone.

    `rows` are two float32 [b k n] arrays: the log-sum-exp over *all* keys of each query, and its delta (the sum over
    the head's width of output times output gradient, less the gradient of the log-sum-exp). Scores are recomputed.
    """
    (lse, delta), (dq, dk, dv) = rows, gradients
    n, m = q.shape[1], dk.shape[1]
    queries = (
        _cut(q, 1, block),
        _cut(out_grad, 1, block),
        _cut(lse, 2, block, fill=-_LOWEST),
        _cut(delta, 2, block),
    )

    def keys_step(dq: jax.Array, part: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        keys, dkv = part

        def queries_step(
            dkv: tuple[jax.Array, jax.Array], part: tuple
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            queries, dq = part
            more_q, more_k, more_v = _gradient_block(*queries, *keys)
            return (dkv[0] + more_k, dkv[1] + more_v), dq + more_q

        dkv, dq = lax.scan(queries_step, dkv, (queries, dq))
        return dq, dkv

    blocks = (_key_blocks(*keys, block), (_cut(dk, 1, block), _cut(dv, 1, block)))
    dq, (dk, dv) = lax.scan(keys_step, _cut(dq, 1, block), blocks)
    return _join(dq, 1, n), _join(dk, 1, m), _join(dv, 1, m)


def zero_gradients(q: Queries, k: KeysValues, v: KeysValues) -> Gradients:
    """Return zeros to which `add_gradients` may add."""
    return tuple(jnp.zeros_like(x, dtype=jnp.float32) for x in (q, k, v))


def row_delta(out: Queries, out_grad: Queries) -> jax.Array:
    """Return the sum over the head's width of output times its gradient, float32 [b k n]."""
    return jnp.einsum("bnkd,bnkd->bkn", out.astype(jnp.float32), out_grad.astype(jnp.float32))


@jax.custom_vjp
def attend_blockwise(q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None) -> tuple[jax.Array, jax.Array]:
    """Attend as `ops.attention.attend`; kept for the gradient are q, k, v, output and log-sum-exp alone."""
    return finish(merge_keys(empty_partial(q), q, k, v, kv_mask), q.dtype)


def _attend_forward(q, k, v, kv_mask):
    out, lse = attend_blockwise(q, k, v, kv_mask)
    return (out, lse), (q, k, v, kv_mask, out, lse)


def _attend_backward(saved, grads):
    q, k, v, kv_mask, out, lse = saved
    out_grad, lse_grad = grads
    rows = (lse, row_delta(out, out_grad) - lse_grad)
    dq, dk, dv = add_gradients(zero_gradients(q, k, v), q, (k, v, kv_mask), out_grad, rows)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


attend_blockwise.defvjp(_attend_forward, _attend_backward)


def _merge_block(state: Partial, q, k, v, kv_mask) -> Partial:
    score = _scores(q, k, kv_mask)
    top = jnp.maximum(state.top, score.max(-1))
    part = jnp.exp(score - top[..., None])
    if kv_mask is not None:
        # Where every key so far is masked, score - top is 0, not very low.
        part = jnp.where(kv_mask[:, None, None], part, 0.0)
    shrink = jnp.exp(state.top - top)
    value = jnp.einsum("bkns,bskd->bnkd", part.astype(v.dtype), v, preferred_element_type=jnp.float32)
    total = state.total * jnp.moveaxis(shrink, 1, 2)[..., None] + value
    return Partial(top, state.weight * shrink + part.sum(-1), total)


def _gradient_block(q, out_grad, lse, delta, k, v, kv_mask):
    part = jnp.exp(_scores(q, k, kv_mask) - lse[..., None])
    if kv_mask is not None:
        part = jnp.where(kv_mask[:, None, None], part, 0.0)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    dv = product("bkns,bnkd->bskd", part.astype(out_grad.dtype), out_grad)
    dpart = product("bnkd,bskd->bkns", out_grad, v)
    dscore = (part * (dpart - delta[..., None]) / math.sqrt(q.shape[-1])).astype(q.dtype)
    return product("bkns,bskd->bnkd", dscore, k), product("bkns,bnkd->bskd", dscore, q), dv


def _scores(q, k, kv_mask):
    score = jnp.einsum("bnkd,bskd->bkns", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    return score if kv_mask is None else jnp.where(kv_mask[:, None, None], score, _LOWEST)


def _key_blocks(k, v, kv_mask, block):
    m = k.shape[1]
    if kv_mask is None and m > block and m % block:
        kv_mask = jnp.ones_like(k[:, :, 0, 0], dtype=bool)
    return tuple(None if x is None else _cut(x, 1, block) for x in (k, v, kv_mask))


def _cut(x: jax.Array, axis: int, block: int, fill: int | float = 0) -> jax.Array:
    """Cut `axis` into blocks, padded with `fill`, and put the blocks first; a short axis stays one block."""
    size = x.shape[axis]
    block = min(block, size)
    count = -(-size // block)
    if count * block > size:
        pads = [(0, 0)] * x.ndim
        pads[axis] = (0, count * block - size)
        x = jnp.pad(x, pads, constant_values=fill)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :]), axis, 0)


def _join(blocks: jax.Array, axis: int, size: int) -> jax.Array:
    """Undo `_cut`: put the blocks back along `axis` and drop the padding."""
    x = jnp.moveaxis(blocks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, size, axis=axis)
