"""Whole scenes in, whole logits out: one `shard_map` around the forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from holojax.borders import Borders
from holojax.errors import ConfigError
from holojax.models.base import SceneModel
from holojax.parallel.mesh import DATA, REGION, Layout
from holojax.parallel.regions import RegionGrid, RegionShard


def segment(
    model: SceneModel,
    images: jax.Array | np.ndarray,
    layout: Layout,
    *,
    output: str = "logits",
    valid: jax.Array | np.ndarray | None = None,
) -> jax.Array | tuple[jax.Array, ...]:
    """Segment whole scenes on the devices of `layout`: split, place, run, stitch.

    The result does not depend on the number of devices, nor in exact mode on the region grid. Can be differentiated
    and called under `jax.jit`.

    Args:
        model: from `build_model`; its `grid` says how scenes are cut.
        images: normalised scenes [b H W c], float; any H and W of at least the grid's rows and columns.
        layout: the mesh; its `region` axis divides the regions, its `data` axis the scenes.
        output: "logits", or "features" for the encoder's pyramid after the mixers.
        valid: bool [b H W], False where the scene has no data; None: valid everywhere.

    Returns:
        float32 logits [b H W k], or a tuple of maps [b h w c], one a stage, each stitched from its regions.
        In exact mode they have ceil(H / stride) x ceil(W / stride) places.

    Raises:
        LayoutError: scenes, regions and devices do not fit each other.
        ConfigError: images of the wrong rank or an unknown output.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ConfigError(f"segment: expected float images [b H W c], found {images.dtype} {images.shape}.")
    if images.shape[-1] != model.bands:
        raise ConfigError(f"segment: expected {model.bands} bands (model.bands), found {images.shape[-1]}.")
    if output not in ("logits", "features"):
        raise ConfigError(f"segment: output is 'logits' or 'features', found {output!r}.")
    b, height, width = images.shape[:3]
    grid = model.grid
    layout.regions_per_device(grid.count)
    layout.check_batch(b)
    h, w = grid.region_size(height, width)
    if valid is None and (h * grid.rows, w * grid.cols) != (height, width):
        valid = jnp.ones((b, height, width), bool)
    stacks = [images] if valid is None else [jnp.where(valid[..., None], images, 0), valid]
    stacks = [jax.device_put(grid.split(x), layout.scenes) for x in stacks]
    graph, state = nnx.split(model)
    state = jax.device_put(nnx.as_pure(state), layout.replicated)
    result = segment_regions(graph, layout, output, state, *stacks)
    if output == "logits":
        return grid.stitch(result, height, width)
    if model.border == "exact":  # maps end where the scene ends
        strides = [h // x.shape[2] for x in result]
        return tuple(grid.stitch(x, -(-height // s), -(-width // s)) for x, s in zip(result, strides, strict=True))
    return tuple(_stitch_all(grid, x) for x in result)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames=("watch",))
def segment_regions(
    graph: Any,
    layout: Layout,
    output: str,
    state: Any,
    images: jax.Array,
    valid: jax.Array | None = None,
    watch: Callable[[Borders], Borders] | None = None,
) -> Any:
    """Run a model, split into `graph` and pure `state`, on stacks of regions that lie as `layout.scenes` says."""

    def block(state: Any, images: jax.Array, valid: jax.Array | None) -> Any:
        model = nnx.merge(graph, state)
        return model(images, valid, RegionShard(model.grid), output=output, watch=watch)

    place = P(DATA, REGION)
    return layout.shard(block, in_specs=(P(), place, place), out_specs=place)(state, images, valid)


def _stitch_all(grid: RegionGrid, x: jax.Array) -> jax.Array:
    return grid.stitch(x, x.shape[2] * grid.rows, x.shape[3] * grid.cols)
