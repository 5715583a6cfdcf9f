"""Programs to look at: models as shapes alone, so that one of any size can be compiled on any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from holojax.config import Section
from holojax.models import build_model
from holojax.models.base import SceneModel
from holojax.parallel import DATA, REGION, Layout, RegionShard

# A jitted function, and the shapes of its arguments.
Program = tuple[Callable[..., Any], tuple[Any, ...]]


def abstract_model(model: Section) -> SceneModel:
    """Build the model that `cfg.model` describes with shapes in place of weights; errors as `build_model`."""
    return nnx.eval_shape(lambda: build_model(model))


def forward(model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int = 1) -> Program:
    """Return the jitted forward of a model and the shapes of its arguments (state, images, valid).

    It takes `scenes` scenes of `size` = (height, width) pixels, some of which may be invalid, to their logits. The
    model may be abstract.

    Raises:
        LayoutError: scenes, regions and devices do not fit each other.
    """
    grid = model.grid
    layout.regions_per_device(grid.count)
    layout.check_batch(scenes)
    h, w = grid.region_size(*size)
    graph, state = nnx.split(model)

    def block(state: Any, images: jax.Array, valid: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state)
        return model(images, valid, RegionShard(model.grid), output="logits")

    place = P(DATA, REGION)
    f = jax.jit(layout.shard(block, in_specs=(P(), place, place), out_specs=place))
    images = jax.ShapeDtypeStruct((scenes, grid.count, h, w, model.bands), jnp.float32, sharding=layout.scenes)
    valid = jax.ShapeDtypeStruct((scenes, grid.count, h, w), jnp.bool, sharding=layout.scenes)
    return f, (placed(nnx.as_pure(state), layout.replicated), images, valid)


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Return the shapes of a tree of arrays or shapes, all placed by `sharding`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
