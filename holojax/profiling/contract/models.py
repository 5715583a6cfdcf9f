"""What whole models may send: the sum of what their parts state."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.context import Cdcr
from holojax.context.layer import SceneLayer
from holojax.models.base import SceneModel
from holojax.parallel import Layout
from holojax.parallel.exchange import Held, hop_bytes
from holojax.profiling.contract.collectives import PERMUTE, REDUCE, add, attention, halo


def mixers(
    model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int = 1, *, backward: bool = False
) -> dict[str, int]:
    """What all mixers send for `scenes` scenes of `size` pixels, some of which may be invalid.

    Each sends what its exchange states, and where keys are averaged over squares that do not divide the regions, also a
    halo of tokens with their count. (One whose result nobody reads is left out by the compiler, but counted here: SETR
    reads the last map alone.)
    """
    b, r = scenes // layout.data, model.grid.count // layout.region
    parts = []
    for stage, (h, w, c) in enumerate(stage_maps(model, size)):
        if str(stage) not in model.mixers:
            continue
        mixer = model.mixers[str(stage)]
        pool, heads = mixer.kv_pool, mixer.heads
        if h % pool or w % pool:
            parts.append(halo((b, r, h, w, c + 1), (0, pool - 1, 0, pool - 1), model.grid))
        keys = math.ceil(h / pool) * math.ceil(w / pool)
        held = Held(r * h * w, r * keys, heads, c // heads, batch=b, masked=True)
        parts.append(_exchange(mixer, held, layout.region, r, backward))
    return add(*parts)


def gradients(model: SceneModel) -> dict[str, int]:
    """One sum of every parameter's gradient over all devices.

    The compiler sums where a parameter meets what differs between devices; one that is read several times may be
    summed as often.
    """
    parameters = jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param)))
    return add({REDUCE: sum(math.prod(x.shape) * x.dtype.itemsize for x in parameters)})


def stage_maps(model: SceneModel, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return rows, columns and channels of a region's map after each stage, for scenes of `size` pixels."""
    graph, state = nnx.split(model.encoder)
    images = jax.ShapeDtypeStruct((1, *model.grid.region_size(*size), model.bands), jnp.float32)
    maps = jax.eval_shape(lambda state, images: nnx.merge(graph, state)(images), nnx.as_pure(state), images)
    return [x.shape[1:] for x in maps]


def _exchange(mixer: SceneLayer, held: Held, devices: int, regions: int, backward: bool) -> dict[str, int]:
    if not isinstance(mixer, Cdcr):
        return attention(mixer.preferred, held, devices, backward=backward)
    if mixer.mode == "paper":
        return add({PERMUTE: hop_bytes(held, devices, regions)[backward]})
    return attention("ring", held, devices, backward=backward)
