"""The selective scan of state-space models (Mamba, Gu and Dao 2023) over maps, line by line.

A map is scanned as one sequence, row after row or column after column: its *lines*. Lines run side by side, each from
zero, to find what each makes of a state; small maps of states then tell what enters every line (`enter`, which may look
beyond this map); and the lines run again from there. That is one exponential more than a sequence place by place, but
vectors as long as all lines together, steps as few as a line has, no transposed copy for columns, and the same work
whether lines end here or go on elsewhere. `benchmarks/selective_scan.py` compares it with the other ways.
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

# enter(log_decay, state, lines, reverse) -> what enters each line, all float32 [n s l d]: a line makes
# exp(log_decay) h + state of what enters it. Hashable; closes over no array.
Enter = Callable[[jax.Array, jax.Array, str, bool], jax.Array]

LINES = ("rows", "cols")


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
    u: Float[jax.Array, "n h w d"],
    delta: Float[jax.Array, "n h w d"],
    a: Float[jax.Array, "d s"],
    b: Float[jax.Array, "n h w s"],
    c: Float[jax.Array, "n h w s"],
    lines: str = "rows",
    reverse: bool = False,
    enter: Enter | None = None,
) -> Float[jax.Array, "n h w d"]:
    """Compute y_t = c_t h_t of h_t = exp(delta_t a) h_(t-1) + delta_t b_t u_t through all lines of maps.

    The state h [d s] is float32, zero before the first place; the sum over s is y. Gradients of all arguments; memory
    forward and backward is a few times that of u, for any s: what is kept for the gradient is what enters the lines,
    and states inside a line are computed again, a stretch at a time.

    Args:
        u: the sequences' values, as maps.
        delta: step sizes, positive; where 0, the state passes unchanged.
        a: decay rates of each channel and state, negative.
        b: what each place writes to the states.
        c: what each place reads of the states.
        lines: "rows": row after row, each to the right; "cols": column after column, each downwards.
        reverse: from the last place to the first.
        enter: what enters each line; None: what left the one before it, and zero the first.

    Returns:
        y, float32.

    Raises:
        ConfigError: `lines` is neither word.
    """
    if lines not in LINES:
        raise ConfigError(f"selective_scan: unknown lines {lines!r}; known: {', '.join(LINES)}.")
    maps, states = (
        ("n h w d -> n w h d", "n h w s -> n w s h")
        if lines == "rows"
        else ("n h w d -> n h w d", "n h w s -> n h s w")
    )
    u, delta = (rearrange(x, maps) for x in (u, delta.astype(jnp.float32)))
    b, c = (rearrange(x.astype(jnp.float32), states) for x in (b, c))
    y = _scan((enter or enter_lines, lines, reverse), u, delta, a.astype(jnp.float32).T, b, c)
    return rearrange(y, maps)


def enter_lines(log_decay: jax.Array, state: jax.Array, lines: str, reverse: bool) -> jax.Array:
    """Return what enters each line [n s l d] when it is what leaves the line before it, and zero the first."""
    return chain_lines(log_decay, state, jnp.zeros_like(state[:, :, 0]), reverse)[0]


def chain_lines(
    log_decay: Float[jax.Array, "*n l d"],
    state: Float[jax.Array, "*n l d"],
    start: Float[jax.Array, "*n d"],
    reverse: bool,
) -> tuple[Float[jax.Array, "*n l d"], Float[jax.Array, "*n d"]]:
    """Send a state through lines, each of which makes exp(log_decay) h + state of it; from the last with `reverse`.

    Returns what enters each of them, and what leaves the last.
    """

    def step(h: jax.Array, line: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jnp.exp(line[0]) * h + line[1], h

    first = (jnp.moveaxis(x, -2, 0) for x in (log_decay, state))
    end, entering = lax.scan(step, start, tuple(first), reverse=reverse)
    return jnp.moveaxis(entering, 0, -2), end


# From here on arrays have steps before lines, so that a step is a stretch of memory: u, delta, y [n t l d], b, c
# [n t s l], states h [n s l d]. Step t of the first is read as [n 1 l d], of the second as [n s l 1].


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The steps of all lines at once, of which the first is the last in memory with `reverse`."""

    length: int
    reverse: bool

    def read(self, maps: jax.Array, t: jax.Array) -> jax.Array:
        """Return step t of [n t l d] as float32 [n 1 l d]."""
        return lax.dynamic_slice_in_dim(maps, self._index(t), 1, 1).astype(jnp.float32)

    def read_states(self, states: jax.Array, t: jax.Array) -> jax.Array:
        """Return step t of [n t s l] as [n s l 1]."""
        return lax.dynamic_index_in_dim(states, self._index(t), 1, keepdims=False)[..., None]

    def write(self, array: jax.Array, t: jax.Array, values: jax.Array) -> jax.Array:
        """Put `values` [n l d] or [n s l] at step t."""
        return lax.dynamic_update_index_in_dim(array, values.astype(array.dtype), self._index(t), 1)

    def _index(self, t: jax.Array) -> jax.Array:
        return self.length - 1 - t if self.reverse else t


def _advance(at: _Steps, t: jax.Array, h: jax.Array, u: jax.Array, delta: jax.Array, a: jax.Array, b: jax.Array):
    """Return the state after step t from that before it."""
    step = at.read(delta, t)
    return jnp.exp(step * a[:, None]) * h + step * at.read(u, t) * at.read_states(b, t)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(order, u, delta, a, b, c):
    return _scan_forward(order, u, delta, a, b, c)[0]


def _scan_forward(order, u, delta, a, b, c):
    enter, lines, reverse = order
    at = _Steps(u.shape[1], reverse)
    nothing = jnp.zeros_like(delta, shape=(len(u), len(a), *u.shape[2:]))

    def sum_up(t, carry):
        total, h = carry
        return total + at.read(delta, t), _advance(at, t, h, u, delta, a, b)

    total, ends = lax.fori_loop(0, at.length, sum_up, (nothing[:, :1], nothing))
    log_decay = total * a[:, None]
    starts = enter(log_decay, ends, lines, reverse)

    def run(t, carry):
        h, y = carry
        h = _advance(at, t, h, u, delta, a, b)
        return h, at.write(y, t, (h * at.read_states(c, t)).sum(1))

    _, y = lax.fori_loop(0, at.length, run, (starts, jnp.zeros_like(delta)))
    return y, (u, delta, a, b, c, log_decay, starts)


def _scan_backward(order, saved, dy):
    """Run the adjoint state back, g_t = c_t dy_t + decay_(t+1) g_(t+1): a scan of the same kind in the other order."""
    enter, lines, reverse = order
    u, delta, a, b, c, log_decay, starts = saved
    at = _Steps(u.shape[1], reverse)

    def sum_up(i, g):
        t = at.length - 1 - i
        return jnp.exp(at.read(delta, t) * a[:, None]) * (g + at.read_states(c, t) * at.read(dy, t))

    g = lax.fori_loop(0, at.length, sum_up, jnp.zeros_like(starts))
    g = enter(log_decay, g, lines, not reverse)

    stretch = _stretch(at.length, len(a))
    begins = _begins(at, stretch, starts, u, delta, a, b)

    def back(i, carry):
        first = (len(begins) - 1 - i) * stretch
        length = stretch if at.length % stretch == 0 else jnp.minimum(stretch, at.length - first)

        def again(j, carry):
            h, states = carry
            states = lax.dynamic_update_index_in_dim(states, h, j, 0)
            return _advance(at, first + j, h, u, delta, a, b), states

        states = jnp.zeros_like(starts, shape=(stretch, *starts.shape))
        _, states = lax.fori_loop(0, length, again, (begins[len(begins) - 1 - i], states))

        def derive(j, carry):
            j = length - 1 - j
            return _derive(at, first + j, states[j], carry, u, delta, a, b, c, dy)

        return lax.fori_loop(0, length, derive, carry)

    carry = (g, jnp.zeros_like(starts), *(jnp.zeros_like(x) for x in (u, delta, b, c)))
    _, da, du, ddelta, db, dc = lax.fori_loop(0, len(begins), back, carry)
    return du, ddelta, da.sum((0, 2)), db, dc


_scan.defvjp(_scan_forward, _scan_backward)


def _stretch(length: int, states: int) -> int:
    """Return how many steps of a line are computed again at once.

    Their states and those at the begin of every stretch are kept meanwhile: as much as u where there is one state a
    channel (all steps at once) and not much more for several.
    """
    return min(length, max(math.isqrt(length), length // states))


def _begins(at, stretch, h, u, delta, a, b) -> jax.Array:
    """Return the states [count n s l d] at the begin of each stretch of steps."""
    begins = jnp.zeros_like(h, shape=(-(-at.length // stretch), *h.shape)).at[0].set(h)

    def pass_over(k, carry):
        h, begins = carry
        first = (k - 1) * stretch
        h = lax.fori_loop(0, stretch, lambda j, h: _advance(at, first + j, h, u, delta, a, b), h)
        return h, lax.dynamic_update_index_in_dim(begins, h, k, 0)

    return lax.fori_loop(1, len(begins), pass_over, (h, begins))[1]


def _derive(at, t, before, carry, u, delta, a, b, c, dy):
    """Add what step t says of all gradients; `before` is the state before it, carry[0] the adjoint that comes back."""
    g, da, *grads = carry
    x, step, out = (at.read(maps, t) for maps in (u, delta, dy))
    b, c = at.read_states(b, t), at.read_states(c, t)
    decay = jnp.exp(step * a[:, None])
    after = decay * before + step * x * b
    g = g + c * out
    rate = g * decay * before
    gb = (g * b).sum(1, keepdims=True)
    parts = (
        (step * gb)[:, 0],
        (rate * a[:, None]).sum(1) + (x * gb)[:, 0],
        (g * (step * x)).sum(-1),
        (after * out).sum(-1),
    )
    grads = (at.write(grad, t, part) for grad, part in zip(grads, parts, strict=True))
    return decay * g, da + rate * step, *grads
