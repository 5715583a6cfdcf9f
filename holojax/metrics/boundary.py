"""How well the boundaries of classes are drawn, wherever regions end: counts that add up, and figures of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from holojax.borders import ISOLATED, Borders
from holojax.errors import ConfigError
from holojax.metrics.confusion import check_maps, count_pairs, mean_known, ratio
from holojax.ops.varying import align
from holojax.types import Bool

_BITS = 32  # classes in one word of a set
_ROWS = 128  # rows counted at a time: several maps of them are held at once


def boundary_counts(
    prediction: Array | np.ndarray,
    labels: Array | np.ndarray,
    classes: int,
    width: int,
    valid: Bool[Array, "n h w"] | None = None,
    borders: Borders = ISOLATED,
    ignore: int = 255,
) -> Array:
    """Count pixels at the boundaries of classes in a map and its truth `[n h w]`, int32 `[7 classes]`.

    Distances are Chebyshev's: a pixel's surroundings within `width` are a square of 2 `width` + 1. The *band* of a
    class are its pixels with another class within `width`, its *contour* those with another class next to them (8
    neighbours). Rows: pixels of the map's band; of the truth's; of both at once; of the map's contour; those of
    them with the truth's contour of the class within `width`; of the truth's contour; those of them with the
    map's within `width`.

    Pixels that are not `valid`, labelled `ignore` or without a class in either map do not exist; next to them, and at
    the scene's edge, is no boundary. Counts add up over regions, devices and scenes. With `borders.Exact` regions see
    `width` + 1 pixels of their neighbours, so that counts do not depend on the regions; sent are those strips of one
    word per 32 classes and map.

    Raises:
        LabelError: as `confusion_matrix`.
        ConfigError: a width below 1.
    """
    if width < 1:
        raise ConfigError(f"Boundaries need a width of at least 1 pixel, found {width}.")
    maps = check_maps(prediction, labels)
    return _count(*maps, borders.pad(_read(*maps, valid, classes, ignore), *[width + 1] * 4), classes, width)


def summarize_boundary(counts: Array | np.ndarray) -> dict[str, Any]:
    """Take the figures of `boundary_counts`, as fractions in float64.

    Per class `boundary_iou` (Cheng et al. 2021, equation 5: intersection over union of the bands; unlike their code,
    which counts the edge of the picture as a boundary) and `boundary_f1` (Csurka et al. 2013: the harmonic mean of
    the shares of either contour that the other one comes near; here of the whole split, not averaged over scenes).
    NaN where neither map has a boundary of the class. `mean_boundary_iou` and `mean_boundary_f1` leave NaN out.
    """
    drawn, true, both, contour, matched, true_contour, found = np.asarray(counts).astype(np.float64)
    precision, recall = np.nan_to_num(ratio(matched, contour)), np.nan_to_num(ratio(found, true_contour))
    f1 = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
    f1 = np.where(contour + true_contour > 0, f1, np.nan)
    iou = ratio(both, drawn + true - both)
    return {
        "boundary_iou": iou,
        "boundary_f1": f1,
        "mean_boundary_iou": mean_known(iou),
        "mean_boundary_f1": mean_known(f1),
    }


@functools.partial(jax.jit, static_argnums=(3, 4))
def _read(prediction: Array, labels: Array, valid: Array | None, classes: int, ignore: int) -> Array:
    """Turn both maps into sets of one class, side by side; where a pixel does not exist they are empty."""
    maps = prediction.astype(jnp.int32), labels.astype(jnp.int32)
    exists = (maps[1] != ignore) if valid is None else (maps[1] != ignore) & valid
    for x in maps:
        exists &= (x >= 0) & (x < classes)
    return jnp.concatenate([_as_sets(jnp.where(exists, x, -1), classes) for x in maps], -1)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _count(prediction: Array, labels: Array, sets: Array, classes: int, width: int) -> Array:
    """Count as `boundary_counts`, some rows at a time; the sets reach out by `width` + 1."""
    rows = labels.shape[1]
    block = min(_ROWS, rows)

    def add(turn: Array, counts: Array) -> Array:
        # The last rows are drawn back to end with the map; those that were counted before are left out.
        start = jnp.minimum(turn * block, rows - block)
        new = start + jnp.arange(block)[:, None] >= turn * block
        maps = [jax.lax.dynamic_slice_in_dim(x, start, block, 1) for x in (prediction, labels)]
        wide = jax.lax.dynamic_slice_in_dim(sets, start, block + 2 * (width + 1), 1)
        return counts + _count_rows([x.astype(jnp.int32) for x in maps], wide, new, classes, width)

    counts, _ = align(jnp.zeros((7, classes), jnp.int32), sets)
    return jax.lax.fori_loop(0, -(-rows // block), add, counts)


def _count_rows(maps: list[Array], wide: Array, new: Array, classes: int, width: int) -> Array:
    wide = rearrange(wide, "n h w (map word) -> map word n h w", map=2)  # rows of one word: fast on a CPU

    def crop(sets: Array, by: int) -> Array:
        return sets[..., by:-by, by:-by]

    def at_boundary(own: Array, near: Array) -> Array:
        return (own != 0).any(1) & ((near & ~own) != 0).any(1)

    contours = at_boundary(crop(wide, 1), _union(wide, 1))
    contours = jnp.where(contours[:, None], crop(wide, 1), jnp.uint32(0))
    own, contour = crop(wide, width + 1), crop(contours, width)
    band = at_boundary(own, _union(crop(wide, 1), width))
    matched = contour & _union(contours, width)[::-1]  # a contour has but the bit of its pixel's class
    hit = jnp.broadcast_to(band.all(0) & (maps[0] == maps[1]), band.shape)
    flags = band, hit, (contour != 0).any(1), (matched != 0).any(1)
    code = sum(flag.astype(jnp.int32) << bit for bit, flag in enumerate(flags))
    tables = []
    for classes_of, sets, bits in zip(maps, own, code, strict=True):
        exists = (sets != 0).any(0) & new
        pairs = count_pairs(jnp.where(exists, classes_of, -1), bits, (classes, 1 << len(flags)))
        tables.append([pairs[:, np.arange(1 << len(flags)) >> bit & 1 == 1].sum(1) for bit in range(len(flags))])
    (band, hits, contour, matched), (true_band, _, true_contour, found) = tables
    return jnp.stack([band, true_band, hits, contour, matched, true_contour, found])


def _as_sets(classes_of: Array, classes: int) -> Array:
    """Turn numbers of classes `[n h w]` into sets of one class, or none (-1): uint32 `[n h w words]`."""
    words = jnp.arange(-(-classes // _BITS))
    number = classes_of[..., None] - _BITS * words
    bit = jnp.uint32(1) << jnp.clip(number, 0, _BITS - 1).astype(jnp.uint32)
    return jnp.where((number >= 0) & (number < _BITS), bit, jnp.uint32(0))


def _union(sets: Array, reach: int) -> Array:
    """Unite the sets in a square of `reach` places on each side; the map shrinks by as much."""
    for axis in (-2, -1):
        # Two stretches of a power of two cover any length; each doubling is one union.
        length, covered = 2 * reach + 1, 1
        while 2 * covered <= length:
            sets = _shifted_union(sets, covered, axis)
            covered *= 2
        if covered < length:
            sets = _shifted_union(sets, length - covered, axis)
    return sets


def _shifted_union(sets: Array, distance: int, axis: int) -> Array:
    stay = jax.lax.slice_in_dim(sets, 0, sets.shape[axis] - distance, axis=axis)
    return stay | jax.lax.slice_in_dim(sets, distance, sets.shape[axis], axis=axis)
