"""Sending keys and values round a ring of devices under one softmax (Liu et al. 2023)."""

from __future__ import annotations

import functools

import jax
from jax import lax

from holojax.ops.blockwise import (
    BLOCK,
    Gradients,
    add_gradients,
    empty_partial,
    finish,
    finish_gradients,
    merge_keys,
    row_delta,
    swap_heads,
    zero_gradients,
)
from holojax.parallel.collectives import send_on


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def go_round(q, k, v, kv_mask, axis_name, stride, block=BLOCK):
    """Attend to the keys of the devices d, d + stride, d + 2 stride ... round the ring along `axis_name`.

    Local q [b n k d], k and v [b m k d], kv_mask bool [b m] or None; all typed as varying along the same axes, and
    hidden keys and values are zeros (`ops.attention.hide_keys`). At each hop the scores of `block` queries and `block`
    keys exist at one time. Kept for the gradient are these arrays, the output and the log-sum-exp.

    The numerics are `ops.blockwise`'s on all hardware: partial results of several devices join exactly only through a
    float32 log-sum-exp, which cuDNN does not give.
    """
    return _forward(q, k, v, kv_mask, axis_name, stride, block)[0]


def _forward(q, k, v, kv_mask, axis_name, stride, block):
    heads = [swap_heads(x) for x in (q, k, v)]

    def hop(carry, _):
        keys, state = carry
        following = send_on(keys, axis_name, stride)  # issued first, so that it can travel while this hop is computed
        return (following, merge_keys(state, heads[0], keys, block)), None

    start = ((*heads[1:], kv_mask), empty_partial(heads[0]))
    (keys, state), _ = lax.scan(hop, start, None, length=lax.axis_size(axis_name) // stride - 1)
    out, lse = finish(merge_keys(state, heads[0], keys, block), q.dtype)
    out = swap_heads(out)
    return out, (q, k, v, kv_mask, out, lse)


def _backward(axis_name, stride, block, saved, out_grad):
    *arrays, kv_mask, out, lse = saved
    q, k, v, out, out_grad = (swap_heads(x) for x in (*arrays, out, out_grad))
    rows = (lse, row_delta(out, out_grad))

    def hop(carry, _):
        keys, gradients = carry
        following = send_on(keys, axis_name, stride)
        dq, *dkv = add_gradients(gradients, q, keys, out_grad, rows, block)
        # The gradients of keys and values travel with them; the last step below brings them home.
        return (following, Gradients(dq, *send_on(dkv, axis_name, stride))), None

    start = ((k, v, kv_mask), zero_gradients(q, (k, v, kv_mask)))
    (keys, gradients), _ = lax.scan(hop, start, None, length=lax.axis_size(axis_name) // stride - 1)
    dq, *dkv = add_gradients(gradients, q, keys, out_grad, rows, block)
    gradients = Gradients(dq, *send_on(dkv, axis_name, stride))
    return *finish_gradients(gradients, [x.dtype for x in arrays]), None


go_round.defvjp(_forward, _backward)
