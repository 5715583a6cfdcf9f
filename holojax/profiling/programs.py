"""Programs to look at: models as shapes alone, so that one of any size can be compiled on any machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import Borders
from holojax.config import Section
from holojax.models import build_model
from holojax.models.base import SceneModel
from holojax.models.segment import segment_regions
from holojax.parallel import Layout
from holojax.parallel.mesh import placed

# A jitted function, and the shapes of its arguments.
Job = tuple[Callable[..., Any], tuple[Any, ...]]


def abstract_model(model: Section) -> SceneModel:
    """Build the model that `cfg.model` describes with shapes in place of weights; errors as `build_model`."""
    return nnx.eval_shape(lambda: build_model(model))


def forward(
    model: SceneModel,
    layout: Layout,
    size: tuple[int, int],
    scenes: int = 1,
    watch: Callable[[Borders], Borders] | None = None,
) -> Job:
    """Return the jitted forward of a model and the shapes of its arguments (state, images, valid).

    It takes `scenes` scenes of `size` = (height, width) pixels, some of which may be invalid, to their logits. The
    model may be abstract; `watch` is that of `SceneModel`.

    Raises:
        LayoutError: scenes, regions and devices do not fit each other.
    """
    grid = model.grid
    layout.regions_per_device(grid.count)
    layout.check_batch(scenes)
    h, w = grid.region_size(*size)
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((scenes, grid.count, h, w, model.bands), jnp.float32, sharding=layout.scenes)
    valid = jax.ShapeDtypeStruct((scenes, grid.count, h, w), jnp.bool, sharding=layout.scenes)
    f = jax.jit(functools.partial(segment_regions, graph, layout, "logits", watch=watch))
    return f, (placed(nnx.as_pure(state), layout.replicated), images, valid)
