"""The selective scan of state-space models (Mamba, Gu and Dao 2023) over maps, line by line.

A map is scanned as one sequence, row after row or column after column: its *lines*. Lines run side by side, each from
zero, to find what each makes of a state; small maps of states then tell what enters every line (`enter`, which may look
beyond this map); and the lines run again from there. That is one exponential more than a sequence place by place, but
vectors as long as all lines together, steps as few as a line has, and the same work whether lines end here or go on
elsewhere. `benchmarks/selective_scan.py` compares it with the other ways.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from holojax.errors import ConfigError
from holojax.types import Float

# enter(log_decay, state, reverse) -> what enters each line, all float32 [k n s l d]: a line makes
# exp(log_decay) h + state of what enters it. Hashable; closes over no array.
Enter = Callable[[jax.Array, jax.Array, tuple[bool, ...]], jax.Array]


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """Return log(1 + exp(x)) in float32, to a relative 3e-7 everywhere (four times as fast as `jax.nn.softplus`).

    With e = exp(-|x|), log(1 + e) = 2 artanh(e / (2 + e)), whose argument is at most 1/3: eight terms of its series.
    """
    x = x.astype(jnp.float32)
    e = jnp.exp(-jnp.abs(x))
    t = e / (2 + e)
    square = t * t
    series = jnp.full_like(x, 1 / 15)
    for k in (13, 11, 9, 7, 5, 3, 1):
        series = series * square + 1 / k
    return jnp.maximum(x, 0) + 2 * t * series


@softplus.defjvp
def _softplus_jvp(primals: tuple, tangents: tuple) -> tuple:
    x, dx = primals[0].astype(jnp.float32), tangents[0].astype(jnp.float32)
    return softplus(x), jax.nn.sigmoid(x) * dx


def selective_scan(
    u: Float[jax.Array, "n t l d"],
    delta: Float[jax.Array, "k n t l d"],
    a: Float[jax.Array, "k d s"],
    b: Float[jax.Array, "k n t l s"],
    c: Float[jax.Array, "k n t l s"],
    reverse: tuple[bool, ...] = (False,),
    enter: Enter | None = None,
) -> Float[jax.Array, "n t l d"]:
    """Add up k scans, each y_t = c_t h_t of h_t = exp(delta_t a) h_(t-1) + delta_t b_t u_t through all lines of maps.

    The t steps of a line come before the l lines, so that a step of all lines is a stretch of memory: a map [n h w d]
    is scanned column after column as it is, row after row with its axes swapped. The state h [d s] is float32, zero
    before the first place; the sum over s is y. Gradients of all arguments; memory forward and backward is a few times
    that of delta, for any s: what is kept for the gradient is what enters the lines, and states inside a line are
    computed again, a stretch at a time.

    Args:
        u: the sequences' values.
        delta: step sizes of each scan, positive; where 0, the state passes unchanged.
        a: decay rates of each channel and state, negative.
        b: what each place writes to the states.
        c: what each place reads of the states.
        reverse: for each scan, whether it goes from the last place of the last line to the first.
        enter: what enters each line; None: what left the one before it, and zero the first.

    Returns:
        The sum of the scans' y, float32.

    Raises:
        ConfigError: `reverse` is not one for each scan.
    """
    if len(reverse) != len(delta):
        raise ConfigError(f"selective_scan: expected reverse for each of {len(delta)} scans, found {reverse}.")
    b, c = (rearrange(x.astype(jnp.float32), "k n t l s -> k n t s l") for x in (b, c))
    order, a = (enter or enter_lines, tuple(reverse)), a.astype(jnp.float32).swapaxes(1, 2)
    return _scan(order, u[None], delta.astype(jnp.float32), a, b, c)[0]


def enter_lines(log_decay: jax.Array, state: jax.Array, reverse: tuple[bool, ...]) -> jax.Array:
    """Return what enters each line [k n s l d] when it is what leaves the line before it, and zero the first."""

    def chain(k, entering):
        lines, _ = chain_lines(log_decay[k], state[k], jnp.zeros_like(state[0, :, :, 0]), jnp.asarray(reverse)[k])
        return lax.dynamic_update_index_in_dim(entering, lines, k, 0)

    return lax.fori_loop(0, len(state), chain, jnp.zeros_like(state))


def chain_lines(
    log_decay: Float[jax.Array, "*n l d"],
    state: Float[jax.Array, "*n l d"],
    start: Float[jax.Array, "*n d"],
    reverse: bool | jax.Array = False,
) -> tuple[Float[jax.Array, "*n l d"], Float[jax.Array, "*n d"]]:
    """Send a state through lines, each of which makes exp(log_decay) h + state of it; from the last with `reverse`.

    Returns what enters each of them, and what leaves the last.
    """
    count = state.shape[-2]

    def step(i, carry):
        h, entering = carry
        i = jnp.where(reverse, count - 1 - i, i)
        entering = lax.dynamic_update_index_in_dim(entering, h, i, -2)
        decay, own = (lax.dynamic_index_in_dim(x, i, -2, keepdims=False) for x in (log_decay, state))
        return jnp.exp(decay) * h + own, entering

    end, entering = lax.fori_loop(0, count, step, (start, jnp.zeros_like(state)))
    return entering, end


# From here on maps are [k n t l d] (k = 1 for u and y, which all scans share), b, c [k n t s l], a [k s d], states of
# one scan [n s l d]. Scans are a loop, not one more axis of its operations: so one that goes back reads its own places,
# and all are compiled once.


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Step t of scan k, for all lines at once."""

    length: int
    reverse: tuple[bool, ...]

    def read(self, array: jax.Array, k: jax.Array, t: jax.Array) -> jax.Array:
        """Return [n 1 . .] of [k n t . .], float32."""
        start = self._start(array, k, t)
        step = lax.dynamic_slice(array, start, (1, array.shape[1], 1, *array.shape[3:]), allow_negative_indices=False)
        return step[0].astype(jnp.float32)

    def read_states(self, array: jax.Array, k: jax.Array, t: jax.Array) -> jax.Array:
        """Return [n s l 1] of [k n t s l]."""
        return self.read(array, k, t)[:, 0, :, :, None]

    def write(self, array: jax.Array, k: jax.Array, t: jax.Array, values: jax.Array) -> jax.Array:
        """Put `values` [n 1 . .] in their place."""
        start, values = self._start(array, k, t), values[None].astype(array.dtype)
        return lax.dynamic_update_slice(array, values, start, allow_negative_indices=False)

    def add(self, array: jax.Array, k: jax.Array, t: jax.Array, values: jax.Array) -> jax.Array:
        """Add `values` [n 1 . .] to what is there."""
        return self.write(array, k, t, self.read(array, k, t) + values)

    def _start(self, array: jax.Array, k: jax.Array, t: jax.Array) -> tuple:
        back = jnp.asarray(self.reverse)[k]
        return (k if len(array) > 1 else 0, 0, jnp.where(back, self.length - 1 - t, t), 0, 0)


def _advance(at, k, t, h, u, delta, a, b) -> jax.Array:
    """Return the state after step t of scan k from that before it."""
    step = at.read(delta, k, t)
    return jnp.exp(step * a[k][:, None]) * h + step * at.read(u, k, t) * at.read_states(b, k, t)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(order, u, delta, a, b, c):
    return _scan_forward(order, u, delta, a, b, c)[0]


def _scan_forward(order, u, delta, a, b, c):
    enter, reverse = order
    at = _Steps(u.shape[2], reverse)
    nothing = jnp.zeros_like(delta, shape=(len(delta), u.shape[1], a.shape[1], *u.shape[3:]))

    def sum_up(k, carry):
        def step(t, carry):
            total, h = carry
            return total + at.read(delta, k, t), _advance(at, k, t, h, u, delta, a, b)

        sums = lax.fori_loop(0, at.length, step, (nothing[0, :, :1], nothing[0]))
        return tuple(lax.dynamic_update_index_in_dim(x, y, k, 0) for x, y in zip(carry, sums, strict=True))

    totals, ends = lax.fori_loop(0, len(delta), sum_up, (nothing[:, :, :1], nothing))
    log_decay = totals * a[:, None, :, None]
    starts = enter(log_decay, ends, reverse)

    def run(k, y):
        def step(t, carry):
            h, y = carry
            h = _advance(at, k, t, h, u, delta, a, b)
            return h, at.add(y, k, t, (h * at.read_states(c, k, t)).sum(1, keepdims=True))

        return lax.fori_loop(0, at.length, step, (starts[k], y))[1]

    y = lax.fori_loop(0, len(delta), run, jnp.zeros_like(delta[:1]))
    return y, (u, delta, a, b, c, log_decay, starts)


def _scan_backward(order, saved, dy):
    """Run the adjoint state back, g_t = c_t dy_t + decay_(t+1) g_(t+1): a scan of the same kind in the other order."""
    enter, reverse = order
    u, delta, a, b, c, log_decay, starts = saved
    at = _Steps(u.shape[2], reverse)

    def sum_up(k, ends):
        def step(i, g):
            t = at.length - 1 - i
            decay = jnp.exp(at.read(delta, k, t) * a[k][:, None])
            return decay * (g + at.read_states(c, k, t) * at.read(dy, k, t))

        g = lax.fori_loop(0, at.length, step, jnp.zeros_like(starts[0]))
        return lax.dynamic_update_index_in_dim(ends, g, k, 0)

    ends = lax.fori_loop(0, len(delta), sum_up, jnp.zeros_like(starts))
    entering = enter(log_decay, ends, tuple(not back for back in reverse))

    def derive(k, gradients):
        return _derive_scan(at, k, starts[k], entering[k], gradients, (u, delta, a, b, c, dy))

    gradients = tuple(jnp.zeros_like(x) for x in (u, delta, a, b, c))
    return lax.fori_loop(0, len(delta), derive, gradients)


_scan.defvjp(_scan_forward, _scan_backward)


def _derive_scan(at, k, h, g, gradients, inputs):
    """Add the gradients of scan k, a stretch of steps at a time, the last first."""
    u, delta, a, b, *_ = inputs
    stretch = _stretch(at.length, a.shape[1])
    begins = _begins(at, k, stretch, h, u, delta, a, b)

    def back(i, carry):
        i = len(begins) - 1 - i
        first = i * stretch
        length = stretch if at.length % stretch == 0 else jnp.minimum(stretch, at.length - first)

        def again(j, carry):
            h, states = carry
            states = lax.dynamic_update_index_in_dim(states, h, j, 0)
            return _advance(at, k, first + j, h, u, delta, a, b), states

        states = jnp.zeros_like(h, shape=(stretch, *h.shape))
        _, states = lax.fori_loop(0, length, again, (begins[i], states))

        def step(j, carry):
            j = length - 1 - j
            return _derive_step(at, k, first + j, states[j], carry, inputs)

        return lax.fori_loop(0, length, step, carry)

    du, ddelta, da, db, dc = gradients
    carry = (g, jnp.zeros_like(h), du, ddelta, db, dc)
    _, rates, du, ddelta, db, dc = lax.fori_loop(0, len(begins), back, carry)
    return du, ddelta, lax.dynamic_update_index_in_dim(da, rates.sum((0, 2)), k, 0), db, dc


def _stretch(length: int, states: int) -> int:
    """Return how many steps of a line are computed again at once.

    Their states and those at the begin of every stretch are kept meanwhile: as much as u where there is one state a
    channel (all steps at once) and not much more for several.
    """
    return min(length, max(math.isqrt(length), length // states))


def _begins(at, k, stretch, h, u, delta, a, b) -> jax.Array:
    """Return the states [count n s l d] at the begin of each stretch of steps."""
    begins = jnp.zeros_like(h, shape=(-(-at.length // stretch), *h.shape)).at[0].set(h)
    if len(begins) == 1:
        return begins

    def pass_over(i, carry):
        h, begins = carry
        first = (i - 1) * stretch
        h = lax.fori_loop(0, stretch, lambda j, h: _advance(at, k, first + j, h, u, delta, a, b), h)
        return h, lax.dynamic_update_index_in_dim(begins, h, i, 0)

    return lax.fori_loop(1, len(begins), pass_over, (h, begins))[1]


def _derive_step(at, k, t, before, carry, inputs):
    """Add what step t says of all gradients; `before` is the state before it, carry[0] the adjoint that comes back."""
    g, rates, du, ddelta, db, dc = carry
    u, delta, a, b, c, dy = inputs
    x, step, out = (at.read(maps, k, t) for maps in (u, delta, dy))
    b, c = at.read_states(b, k, t), at.read_states(c, k, t)
    decay = jnp.exp(step * a[k][:, None])
    after = decay * before + step * x * b
    g = g + c * out
    rate = g * decay * before
    gb = (g * b).sum(1, keepdims=True)
    return (
        decay * g,
        rates + rate * step,
        at.add(du, k, t, step * gb),
        at.write(ddelta, k, t, (rate * a[k][:, None]).sum(1, keepdims=True) + x * gb),
        at.write(db, k, t, (g * (step * x)).sum(-1)[:, None]),
        at.write(dc, k, t, (after * out).sum(-1)[:, None]),
    )
