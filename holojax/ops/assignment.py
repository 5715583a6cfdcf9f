"""Who gets whom at the least cost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from holojax.ops.varying import vary, varying_axes
from holojax.types import Bool, Float


def assign(cost: Float[jax.Array, "b r s"], wanted: Bool[jax.Array, "b r"]) -> jax.Array:
    """Give every wanted row a column of its own so that the sum of costs is least: int32 [b r], for r <= s.

    Other rows cost no time, and what is returned for them means nothing.

    The Hungarian algorithm by shortest augmenting paths, O(r^2 s) (Jonker and Volgenant 1987). It is that of
    `optax.assignment.hungarian_algorithm`, whose loops cannot be traced inside `shard_map`: there the state of a loop
    has to be typed as differing between devices, as the costs do.
    """
    return jax.vmap(_assign)(cost, wanted)


def _assign(cost: jax.Array, wanted: jax.Array) -> jax.Array:
    rows, cols = cost.shape
    # Column `cols` stands for the row that is being placed; row `rows` for nobody.
    state = jnp.zeros(rows + 1), jnp.zeros(cols + 1), jnp.full(cols + 1, rows, jnp.int32)
    state = vary(state, sorted(varying_axes(cost)))
    # What is not wanted is nobody's place to find.
    number = jnp.where(wanted, jnp.arange(rows, dtype=jnp.int32), rows)
    return _columns(lax.fori_loop(0, rows, lambda row, state: _place(cost, number[row], *state), state)[2], rows)


def _columns(owner: jax.Array, rows: int) -> jax.Array:
    found = owner[None, :-1] == jnp.arange(rows)[:, None]
    return jnp.argmax(found, 1).astype(jnp.int32)


def _place(cost: jax.Array, row: jax.Array, u: jax.Array, v: jax.Array, owner: jax.Array) -> tuple:
    """Place one more row: find the cheapest chain of moves to a free column, and make them."""
    rows, cols = cost.shape
    owner = owner.at[cols].set(row)
    infinite = jnp.full_like(v, jnp.inf)
    walk = (cols + 0 * owner[0], u, v, infinite, jnp.full_like(owner, cols), jnp.zeros_like(owner, dtype=bool))

    def unfinished(walk: tuple) -> jax.Array:
        return owner[walk[0]] < rows

    def step(walk: tuple) -> tuple:
        here, u, v, least, before, used = walk
        used = used.at[here].set(True)
        one = owner[here]
        reduced = jnp.append(cost[one] - u[one] - v[:-1], jnp.inf)
        better = ~used & (reduced < least)
        least, before = jnp.where(better, reduced, least), jnp.where(better, here, before)
        open_ = jnp.where(used, jnp.inf, least)
        following = jnp.argmin(open_).astype(here.dtype)
        delta = open_[following]
        u = u.at[jnp.where(used, owner, rows)].add(jnp.where(used, delta, 0))
        return following, u, jnp.where(used, v - delta, v), jnp.where(used, least, least - delta), before, used

    here, u, v, _, before, _ = lax.while_loop(unfinished, step, walk)

    def move(chain: tuple) -> tuple:
        here, owner = chain
        return before[here], owner.at[here].set(owner[before[here]])

    _, owner = lax.while_loop(lambda chain: chain[0] != cols, move, (here, owner))
    return u, v, owner
