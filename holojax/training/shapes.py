"""A training step as shapes alone, so that one of any size can be compiled and looked at on any machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from holojax.data.photometry import shade_arrays
from holojax.errors import ConfigError
from holojax.models.base import SceneModel
from holojax.parallel import DATA, Layout
from holojax.parallel.mesh import placed
from holojax.training.optimizer import make_optimizer
from holojax.training.scenes import augmentation
from holojax.training.state import first_state, take_apart
from holojax.training.step import BATCH_SPECS, make_recipe, make_train_step


def training_step(
    cfg: Any, model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the training step of a configuration and the shapes of its arguments (state, batch).

    Args:
        cfg: a whole configuration.
        model: what it describes, weights or shapes.
        layout: the mesh.
        size: height and width of a scene in pixels.
        scenes: of a batch.

    Raises:
        LayoutError: scenes, regions and devices do not fit each other.
    """
    layout.check_batch(scenes)
    structure, weights = take_apart(model)
    # What nobody learns (tables of indices) is part of the step, and its values make no difference here.
    constants = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structure.constants)
    recipe = make_recipe(cfg, dataclasses.replace(structure, constants=constants), layout)
    optimizer = make_optimizer(cfg.train, structure.frozen)
    state = jax.eval_shape(lambda weights: first_state(weights, optimizer, layout), weights)
    batch = batch_shapes(cfg, layout, (scenes, recipe.grid.count, *recipe.grid.region_size(*size), model.bands))
    return make_train_step(recipe, optimizer, cfg.seed), (placed(state, layout.replicated), batch)


def batch_shapes(cfg: Any, layout: Layout, stack: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of training, placed by the layout; `stack` is that of its images, uint8."""
    kinds = {"image": (stack, jnp.uint8), "label": (stack[:-1], jnp.uint8), "valid": (stack[:-1], jnp.bool)}
    shade = augmentation(cfg).draw_shade(np.random.default_rng(0), 0.5, 0.5, stack[-1])
    kinds |= {name: (values.shape, values.dtype) for name, values in shade_arrays([shade] * stack[0]).items()}
    return {
        name: jax.ShapeDtypeStruct(*kind, sharding=NamedSharding(layout.mesh, BATCH_SPECS.get(name, P(DATA))))
        for name, kind in kinds.items()
    }


def scene_size(cfg: Any) -> tuple[int, int]:
    """Return the height and width of the scenes that a configuration trains on.

    Raises:
        ConfigError: it does not say.
    """
    if cfg.data.window:
        height, width = cfg.data.window
        return height, width
    if cfg.data.generator:
        return cfg.data.generate.size, cfg.data.generate.size
    raise ConfigError("--size: the configuration gives none (data.window); say --size=HEIGHT,WIDTH in pixels.")
