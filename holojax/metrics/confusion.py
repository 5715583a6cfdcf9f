"""The confusion matrix of a map and its truth, and every figure that follows from it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy import ndarray


def confusion_matrix(prediction: Array | ndarray, labels: Array | ndarray, classes: int, ignore: int = 255) -> Array:
    """Count pixels by true class (rows) and predicted class (columns), int32 `[classes, classes]`.

    Both maps hold integers and have the same shape, any shape; matrices of parts add up. Pixels labelled
    `ignore`, and pixels whose label or prediction is no class, are not counted. Counts are integers (mmseg's
    float32 histogram saturates at 2^24) and hold 2^31 pixels; sum whole data sets in int64 on the host. Works
    inside `jax.jit` and `shard_map`.
    """
    prediction = jnp.asarray(prediction).astype(jnp.int32).ravel()
    labels = jnp.asarray(labels).astype(jnp.int32).ravel()
    inside = (labels >= 0) & (labels < classes) & (prediction >= 0) & (prediction < classes) & (labels != ignore)
    cell = jnp.where(inside, labels * classes + prediction, classes * classes)
    counts = jnp.zeros(classes * classes + 1, jnp.int32).at[cell].add(1)
    return counts[:-1].reshape(classes, classes)


def summarize(cm: Array | ndarray) -> dict[str, Any]:
    """Take all ratios of a confusion matrix (rows = truth), as fractions in float64.

    Returns one array per class for `iou`, `accuracy` (= `recall`, mmseg's Acc), `precision`, `recall` and
    `f1`, with NaN where a figure is 0/0, and floats `miou`, `macc`, `mf1` (means over the classes that have
    the figure), `oa` (share of pixels that are right) and `kappa` (Cohen's). All are NaN for an empty matrix.
    """
    counts = np.asarray(cm).astype(np.float64)
    hit, truth, predicted, total = np.diag(counts), counts.sum(1), counts.sum(0), counts.sum()
    recall = _ratio(hit, truth)
    per_class = {
        "iou": _ratio(hit, truth + predicted - hit),
        "accuracy": recall,
        "precision": _ratio(hit, predicted),
        "recall": recall,
        "f1": _ratio(2 * hit, truth + predicted),
    }
    oa, chance = _ratio(hit.sum(), total), _ratio((truth * predicted).sum(), total**2)
    overall = {
        "miou": _mean(per_class["iou"]),
        "oa": float(oa),
        "macc": _mean(recall),
        "mf1": _mean(per_class["f1"]),
        "kappa": float(_ratio(oa - chance, 1 - chance)),
    }
    return per_class | overall


def _ratio(above: Any, below: Any) -> ndarray:
    below = np.asarray(below, np.float64)
    return np.where(below != 0, above / np.where(below != 0, below, 1), np.nan)


def _mean(values: ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
