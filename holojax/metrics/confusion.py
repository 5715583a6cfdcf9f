"""The confusion matrix of a map and its truth, and every figure that follows from it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy import ndarray

from holojax.errors import LabelError
from holojax.ops.varying import align

BLOCK = 1 << 16  # pixels counted at a time: what is worked out for them stays in the cache
LANES = 4  # tables that take turns: neighbours are often of one class, and a count waits for the one before it


def confusion_matrix(prediction: Array | ndarray, labels: Array | ndarray, classes: int, ignore: int = 255) -> Array:
    """Count pixels by true class (rows) and predicted class (columns), int32 `[classes, classes]`.

    Both maps hold integers (or bool) and have the same shape, any shape; matrices of parts add up. Pixels labelled
    `ignore`, and pixels whose label or prediction is no class, are not counted. Counts are integers (mmseg's
    float32 histogram saturates at 2^24); `Counts` sums them beyond 32 bits. Works inside `jax.jit` and `shard_map`.

    Raises:
        LabelError: the shapes differ, a map is no integer, or there are 2^31 pixels, more than 32 bits can count.
    """
    prediction, labels = check_maps(prediction, labels)
    return count_pairs(labels, prediction, (classes, classes), ignore)


@functools.partial(jax.jit, static_argnums=(2, 3))  # here, so that outside of `jax.jit` it is compiled but once
def count_pairs(first: Array, second: Array, sizes: tuple[int, int], ignore: int = -1) -> Array:
    """Count how often each pair of numbers comes, int32 `[sizes]`, of two integer arrays of one shape.

    Pairs with a number below 0 or beyond its size, or with a first number `ignore`, are not counted.
    """
    first, second = align(first.ravel(), second.ravel())
    pixels, cells = first.size, sizes[0] * sizes[1]
    if not pixels:
        return jnp.zeros(sizes, jnp.int32)
    block = min(BLOCK, pixels)

    def add(turn: Array, table: Array) -> Array:
        # The last block is drawn back to end with the map; what was counted before is left out.
        start = jnp.minimum(turn * block, pixels - block)
        i, j = (lax.dynamic_slice_in_dim(x, start, block).astype(jnp.int32) for x in (first, second))
        place = jnp.arange(block, dtype=jnp.int32)
        counts = (i >= 0) & (i < sizes[0]) & (j >= 0) & (j < sizes[1]) & (i != ignore)
        cell = jnp.where(counts & (start + place >= turn * block), i * sizes[1] + j, cells)
        return table.at[cell * LANES + place % LANES].add(1, mode="promise_in_bounds")

    table, _ = align(jnp.zeros((cells + 1) * LANES, jnp.int32), first)
    table = lax.fori_loop(0, -(-pixels // block), add, table)
    return table.reshape(-1, LANES).sum(1)[:-1].reshape(sizes)


def check_maps(prediction: Array | ndarray, labels: Array | ndarray) -> tuple[Array, Array]:
    """Return both maps as JAX arrays; raises the LabelErrors of `confusion_matrix`."""
    if prediction.shape != labels.shape:
        raise LabelError(f"Expected a map and labels of one shape, found {prediction.shape} and {labels.shape}.")
    for name, x in (("map", prediction), ("labels", labels)):
        if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
            raise LabelError(f"Expected a {name} of integers, found {x.dtype}: take argmax of scores, or round.")
    if labels.size >= 2**31:
        raise LabelError(f"{labels.size} pixels are more than 32 bits can count; count parts, and add them in int64.")
    return jnp.asarray(prediction), jnp.asarray(labels)


def summarize(cm: Array | ndarray) -> dict[str, Any]:
    """Take all ratios of a confusion matrix (rows = truth), as fractions in float64.

    Returns one array per class for `iou`, `accuracy` (= `recall`, mmseg's Acc), `precision`, `recall` and
    `f1`, with NaN where a figure is 0/0, and floats `miou`, `macc`, `mf1` (means over the classes that have
    the figure), `fwiou` (IoU weighted by the share of true pixels), `oa` (share of pixels that are right) and
    `kappa` (Cohen's). All are NaN for an empty matrix.
    """
    counts = np.asarray(cm).astype(np.float64)
    hit, truth, predicted, total = np.diag(counts), counts.sum(1), counts.sum(0), counts.sum()
    recall, iou = ratio(hit, truth), ratio(hit, truth + predicted - hit)
    per_class = {
        "iou": iou,
        "accuracy": recall,
        "precision": ratio(hit, predicted),
        "recall": recall,
        "f1": ratio(2 * hit, truth + predicted),
    }
    oa, chance = ratio(hit.sum(), total), ratio((truth * predicted).sum(), total**2)
    overall = {
        "miou": mean_known(iou),
        "fwiou": float(ratio((truth * np.nan_to_num(iou)).sum(), total)),
        "oa": float(oa),
        "macc": mean_known(recall),
        "mf1": mean_known(per_class["f1"]),
        "kappa": float(ratio(oa - chance, 1 - chance)),
    }
    return per_class | overall


def ratio(above: Any, below: Any) -> ndarray:
    """Divide in float64; NaN where the divisor is 0."""
    below = np.asarray(below, np.float64)
    return np.where(below != 0, above / np.where(below != 0, below, 1), np.nan)


def mean_known(values: ndarray) -> float:
    """Average what is not NaN; NaN if nothing is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
