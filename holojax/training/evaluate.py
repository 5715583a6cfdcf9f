"""How good a model is: integer counts over all scenes of a split, and the figures that follow from them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from holojax.borders import Exact
from holojax.checkpoints.store import load_model
from holojax.data import RasterScenes, Skipped, eval_batches
from holojax.data.scenes import OnSkip
from holojax.metrics import (
    Counts,
    boundary_counts,
    confusion_matrix,
    join_counts,
    region_seam_counts,
    split_counts,
)
from holojax.parallel import Layout, RegionShard
from holojax.parallel.collectives import psum
from holojax.training.scenes import open_scenes, skipper
from holojax.training.state import Weights, put_together, take_apart
from holojax.training.step import AXES, BATCH_SPECS, IGNORE, Batch, Recipe, make_recipe, normalized

Count = Callable[[Weights, Batch], Counts]


def make_count(recipe: Recipe, boundary: int = 0, seam: int = 0) -> Count:
    """Build the jitted (weights, batch) -> counts of all pixels of the batch with a label, int64 on the host.

    Normalisation, the map and its counts are made on the devices that hold the regions; only counts leave them.

    Args:
        recipe: of the model and its data.
        boundary: width in pixels of what counts as a boundary; 0: boundaries are not counted.
        seam: pixels on each side of a border between regions that are near it; 0: seams are not counted.
    """

    def local_count(weights: Weights, constants: Any, batch: Batch) -> Any:
        model = put_together(recipe.structure.inference, weights, constants)
        shard = RegionShard(recipe.grid)
        classes = model(normalized(batch, recipe), batch["valid"], shard, output="classes")
        prediction, labels, valid = (x.reshape(-1, *x.shape[2:]) for x in (classes, batch["label"], batch["valid"]))
        labels = jnp.where(valid, labels, IGNORE)
        # Whatever the model sees, boundaries go on from one region to the next.
        scene = Exact(shard, classes.shape[0], valid)
        counts = Counts(
            confusion_matrix(prediction, labels, recipe.classes, IGNORE),
            boundary_counts(prediction, labels, recipe.classes, boundary, valid, scene, IGNORE) if boundary else None,
            region_seam_counts(prediction, labels, seam, scene, valid, IGNORE) if seam else None,
        )
        return psum(split_counts(counts), AXES)

    sharded = jax.jit(recipe.layout.shard(local_count, in_specs=(P(), P(), BATCH_SPECS), out_specs=P()))
    constants = jax.device_put(recipe.structure.constants, recipe.layout.replicated)
    return lambda weights, batch: join_counts(sharded(weights, constants, batch))


def evaluate(
    count: Count,
    weights: Weights,
    scenes: RasterScenes,
    recipe: Recipe,
    window: tuple[int, int] | None = None,
    on_skip: OnSkip | None = None,
) -> Counts:
    """Add up the counts of all scenes, each seen whole or window by window, in int64.

    With `on_skip`, called with a line for each, regions that cannot be read are left out of all counts. Seen by
    windows, a scene's boundaries are those inside the windows, its seams those of the regions of a window.
    """
    batches = eval_batches(scenes, recipe.grid, recipe.layout, batch=recipe.layout.data, window=window, on_skip=on_skip)
    return sum(count(weights, batch) for batch in batches)


def evaluate_run(
    workdir: str | Path,
    layout: Layout,
    *,
    split: str | None = None,
    root: str | None = None,
    boundary: int | None = None,
    seam: int | None = None,
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run on a split of its data.

    Returns the figures of `holojax.metrics.Counts`, and `step`, `split`, `classes` (names), `boundary` and `seam` (the
    widths of `make_count`), `confusion`, and `skipped` (scenes and windows that could not be read) where these are
    skipped. `split`, `root`, `boundary` and `seam` stand for those of the configuration. Raises CheckpointError,
    RasterError, LabelError, ConfigError.
    """
    model, cfg, step = load_model(workdir, layout)
    if root:
        cfg.data.root = root
    split = split or cfg.evaluate.split
    widths = {
        "boundary": cfg.evaluate.boundary if boundary is None else boundary,
        "seam": cfg.evaluate.seam if seam is None else seam,
    }
    structure, weights = take_apart(model)
    recipe = make_recipe(cfg, structure, layout)
    skipped = Skipped(lambda line: print(line, file=sys.stderr, flush=True))
    scenes = open_scenes(cfg, split, skipped)
    window, on_skip = cfg.evaluate.window, skipper(cfg, skipped)
    counts = evaluate(make_count(recipe, **widths), weights, scenes, recipe, window, on_skip)
    what = {"step": step, "split": split, "classes": scenes.classes.names}
    if on_skip:
        what["skipped"] = skipped.counts.total()
    return counts.figures() | what | widths | {"confusion": counts.confusion}
