"""What whole models may send: the sum of what their parts state."""

from __future__ import annotations

import math

import jax
from flax import nnx

from holojax.models.base import SceneModel
from holojax.models.plans import stage_plans
from holojax.parallel import Layout
from holojax.profiling.contract.collectives import REDUCE, add, attention, halo


def mixers(
    model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int = 1, *, backward: bool = False
) -> dict[str, int]:
    """What all mixers send for `scenes` scenes of `size` pixels, some of which may be invalid.

    Each sends what its exchange states, and where keys are averaged over squares that do not divide the regions, also a
    halo of tokens with their count. (One whose result nobody reads is left out by the compiler, but counted here: SETR
    reads the last map alone.)
    """
    parts = []
    for one in stage_plans(model, layout, size, scenes):
        (_, _, h, w, c), pool = one.block, model.mixers[str(one.stage)].kv_pool
        if h % pool or w % pool:
            parts.append(halo((*one.block[:4], c + 1), (0, pool - 1, 0, pool - 1), model.grid))
        parts.append(attention(one.plan, backward=backward))
    return add(*parts)


def gradients(model: SceneModel) -> dict[str, int]:
    """One sum of every parameter's gradient over all devices.

    The compiler sums where a parameter meets what differs between devices; one that is read several times may be
    summed as often.
    """
    parameters = jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param)))
    return add({REDUCE: sum(math.prod(x.shape) * x.dtype.itemsize for x in parameters)})
