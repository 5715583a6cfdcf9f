"""What attention over the scene will do in a model, stage by stage, before anything runs: arithmetic on shapes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.models.base import SceneModel
from holojax.parallel.exchange import Held, Plan
from holojax.parallel.mesh import Layout


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """How the mixer after an encoder stage reaches the scene."""

    stage: int
    mixer: str
    block: tuple[int, ...]  # [b r h w c], the maps that one device holds
    held: Held
    plan: Plan

    def describe(self) -> str:
        """Say it in one line."""
        tokens = self.held.batch * self.held.queries
        return f"stage {self.stage}: {self.mixer} over {tokens:,} tokens a device: {self.plan.describe()}"


def stage_plans(model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int = 1) -> list[StagePlan]:
    """List what the mixers of a model do for `scenes` scenes of `size` pixels, some of which may be invalid.

    The model may be abstract. These are the plans that the mixers themselves take. Attention of the encoder, in exact
    mode, goes by the cheapest plan and is not among them.

    Raises:
        LayoutError: scenes, regions and devices do not fit each other.
    """
    layout.check_batch(scenes)
    b, r = scenes // layout.data, layout.regions_per_device(model.grid.count)
    plans = []
    for stage, x in enumerate(stage_maps(model, size)):
        if str(stage) in model.mixers:
            mixer, block = model.mixers[str(stage)], (b, r, *x.shape[1:])
            held = mixer.held(block, x.dtype, masked=True)
            name = type(mixer).__name__.lower()
            plans.append(StagePlan(stage, name, block, held, mixer.plan(held, layout.region)))
    return plans


def stage_maps(model: SceneModel, size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return the shape [1 h w c] and dtype of a region's map after each stage, for scenes of `size` pixels."""
    graph, state = nnx.split(model.encoder)
    images = jax.ShapeDtypeStruct((1, *model.grid.region_size(*size), model.bands), jnp.float32)
    return jax.eval_shape(lambda state, images: nnx.merge(graph, state)(images), nnx.as_pure(state), images)
