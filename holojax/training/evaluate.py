"""How good a model is: one integer confusion matrix over all scenes of a split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from holojax.checkpoints.store import load_model
from holojax.data import RasterScenes, eval_batches
from holojax.metrics import confusion_matrix, summarize
from holojax.parallel import DATA, REGION, Layout, RegionShard
from holojax.parallel.collectives import psum
from holojax.training.scenes import open_scenes
from holojax.training.state import Weights, put_together, take_apart
from holojax.training.step import BATCH_SPECS, IGNORE, Batch, Recipe, make_recipe, normalized


def make_count(recipe: Recipe) -> Callable[[Weights, Batch], Int[Array, "k k"]]:
    """Build the jitted (weights, batch) -> confusion matrix, int32, of all pixels of the batch with a label.

    Normalisation and argmax run on the devices that hold the regions; only counts leave them.
    """

    def local_count(weights: Weights, constants: Any, batch: Batch) -> Array:
        model = put_together(recipe.structure.inference, weights, constants)
        valid = batch["valid"]
        image = normalized(batch, recipe)
        logits = model(image, valid, RegionShard(recipe.grid), output="logits")
        labels = jnp.where(valid, batch["label"], IGNORE)
        return psum(confusion_matrix(logits.argmax(-1), labels, recipe.classes, IGNORE), (DATA, REGION))

    sharded = jax.jit(recipe.layout.shard(local_count, in_specs=(P(), P(), BATCH_SPECS), out_specs=P()))
    constants = jax.device_put(recipe.structure.constants, recipe.layout.replicated)
    return lambda weights, batch: sharded(weights, constants, batch)


def evaluate(
    count: Callable[[Weights, Batch], Int[Array, "k k"]],
    weights: Weights,
    scenes: RasterScenes,
    recipe: Recipe,
    window: tuple[int, int] | None = None,
) -> Int[np.ndarray, "k k"]:
    """Add up the confusion matrix of all scenes, each seen whole or window by window, in int64."""
    total = np.zeros((recipe.classes, recipe.classes), np.int64)
    batches = eval_batches(scenes, recipe.grid, recipe.layout, batch=recipe.layout.data, window=window)
    for batch in batches:
        total += np.asarray(count(weights, batch)).astype(np.int64)
    return total


def evaluate_run(
    workdir: str | Path, layout: Layout, *, split: str | None = None, root: str | None = None
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run on a split of its data.

    Returns the figures of `holojax.metrics.summarize`, and `step`, `split`, `classes` (names) and
    `confusion`. `split` and `root` stand for those of the configuration. Raises CheckpointError, RasterError,
    LabelError.
    """
    model, cfg, step = load_model(workdir, layout)
    if root:
        cfg.data.root = root
    split = split or cfg.evaluate.split
    structure, weights = take_apart(model)
    recipe = make_recipe(cfg, structure, layout)
    scenes = open_scenes(cfg, split)
    cm = evaluate(make_count(recipe), weights, scenes, recipe, cfg.evaluate.window)
    return summarize(cm) | {"step": step, "split": split, "classes": scenes.classes.names, "confusion": cm}
