"""How arrays are typed inside `shard_map`: along which mesh axes they differ from device to device.

Casting moves no data. Its transpose sums over the axes, so it decides where the gradient of a parameter is summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax


def varying_axes(x: jax.Array) -> frozenset[str]:
    """Return the mesh axes along which `x` is typed as differing from device to device."""
    return frozenset(jax.typeof(x).mat.varying)


def vary(tree: Any, axes: Sequence[str]) -> Any:
    """Type every array of `tree` as varying along `axes` too; no data moves."""

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(a for a in axes if a not in varying_axes(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def align(*arrays: jax.Array | None, axis: str | None = None) -> tuple[jax.Array | None, ...]:
    """Type all arrays as varying along the union of their axes (and along `axis`), as the carry of a loop needs."""
    axes = sorted(frozenset([] if axis is None else [axis]).union(*(varying_axes(x) for x in arrays if x is not None)))
    return tuple(None if x is None else vary(x, axes) for x in arrays)
