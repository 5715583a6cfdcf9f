"""Lovász-softmax loss: the Jaccard index of each class, made convex; exact by a sort, or by a histogram."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from holojax.losses.common import Labels, Logits, Pixels, Valid, expect, histogram, look, ratio
from holojax.schema import is_number
from holojax.types import Float

_CLASSES = ("present", "all")


class ErrorCounts(NamedTuple):
    """How many pixels have an error in each bin, by class; bin 0 has the largest errors. int32 [k bins] each."""

    background: Array
    foreground: Array


@dataclass(frozen=True)
class Lovasz:
    """Lovász-softmax loss (Berman et al. 2018) in two rounds of sums over batch and pixels jointly.

    The error of a pixel is |y - p| for each class. Sorted by it, largest first, the loss of a class is the sum of each
    error times the growth of the Jaccard loss with that pixel. Here errors are sorted into `bins` equal bins, whose
    pixels share its growth: the first round counts pixels, the second adds up errors times their share, with gradient.
    Growths are at least 0 and add up to at most 1, so each class, and the mean, is within 1 / bins = 2^-16 of
    `lovasz_softmax`, which sorts.

    The mean is over the classes with a labelled pixel (`classes="present"`) or "all". Counts take 8 bytes a bin and
    class: 12.6 MB for 24 classes. Raises ConfigError for other `classes`.
    """

    reads = "pixels"
    rounds = 2

    ignore: int = 255
    classes: str = "present"
    bins: int = 1 << 16

    def __post_init__(self) -> None:
        expect("lovasz", "classes", self.classes, "'present' or 'all'", self.classes in _CLASSES)
        expect("lovasz", "bins", self.bins, "a number above 0", is_number(self.bins, 1))

    def sums(
        self, logits: Logits, labels: Labels, valid: Valid = None, share: Float[Array, "k bins"] | None = None
    ) -> ErrorCounts | Float[Array, "k"]:
        """Count the pixels at hand by error; in the second round (`share` of each pixel of a bin) add up the errors.

        A label that is neither a class nor `ignore` makes the loss NaN.
        """
        pixels = look(logits, labels, valid, self.ignore)
        errors, k = _errors(pixels), pixels.logits.shape[-1]
        places = ((1 - lax.stop_gradient(errors)) * self.bins).astype(jnp.int32)
        places = jnp.clip(places, 0, self.bins - 1) + jnp.arange(k) * self.bins
        counts = jnp.broadcast_to(pixels.counts[..., None], places.shape)
        if share is None:
            both = histogram(places + jnp.where(pixels.truth, k * self.bins, 0), counts, 2 * k * self.bins)
            return ErrorCounts(*both.reshape(2, k, self.bins))
        shares = lax.stop_gradient(share).reshape(-1).at[places].get(mode="promise_in_bounds")
        over = tuple(range(pixels.labels.ndim))
        return jnp.where(counts, errors * shares, 0).sum(over) + pixels.alarm

    def known(self, counts: ErrorCounts) -> tuple[Float[Array, "k bins"]]:
        """Return the part of the growth of the Jaccard loss that each pixel of a bin has."""
        return (ratio(_growth(*counts), counts.background + counts.foreground),)

    def value(self, counts: ErrorCounts, sums: Float[Array, "k"]) -> Float[Array, ""]:
        """Turn the sums of both rounds into the loss; 0 where no pixel counts."""
        return _mean(sums, counts.foreground.sum(-1), self.classes)


def lovasz_softmax(logits: Logits, labels: Labels, *, ignore: int = 255, classes: str = "present") -> Float[Array, ""]:
    """Return the Lovász-softmax loss of `logits [... k]` and integer `labels [...]`, a float32 scalar.

    Exact: sorts all pixels of the batch once for each class, one class after the other. `classes="present"` is the mean
    over the classes that have a labelled pixel, "all" over all of them. Berman et al. 2018, mmseg's with
    `per_image=False`. Raises ConfigError for other `classes`.
    """
    expect("lovasz", "classes", classes, "'present' or 'all'", classes in _CLASSES)
    pixels = look(logits, labels, None, ignore)
    counts = pixels.counts.reshape(-1)

    def of_class(errors: Array, truth: Array) -> Array:
        order = jnp.argsort(jnp.where(counts, -lax.stop_gradient(errors), jnp.inf))
        growth = _growth((counts & ~truth)[order].astype(jnp.int32), truth[order].astype(jnp.int32))
        share = jnp.zeros_like(growth).at[order].set(growth, unique_indices=True)
        return jnp.where(counts, errors * share, 0).sum()

    by_class = (x.reshape(-1, x.shape[-1]).T for x in (_errors(pixels), pixels.truth))
    losses = lax.map(lambda one: of_class(*one), tuple(by_class)) + pixels.alarm
    return _mean(losses, pixels.truth.sum(range(pixels.labels.ndim), dtype=jnp.int32), classes)


def _errors(pixels: Pixels) -> Float[Array, "*pixels k"]:
    p = jax.nn.softmax(pixels.logits, axis=-1)
    return jnp.where(pixels.truth, 1 - p, p)


def _growth(background: Array, foreground: Array) -> Float[Array, "*k t"]:
    """Return by how much the Jaccard loss grows with each group of pixels, taken one after the other (last axis).

    The loss before a group is 1 - left / union. Written so that nothing cancels: a difference of two of them would be
    lost in float32 where there are many pixels.
    """
    total = foreground.sum(-1, keepdims=True)
    left = total - jnp.cumsum(foreground, -1) + foreground
    union = total + jnp.cumsum(background, -1)
    before = union - background
    # Of a class without a pixel everything is lost with the first pixel that is taken for it.
    part = jnp.where(before > 0, ratio(left, before), 1)
    return ratio(part * background + foreground, union)


def _mean(losses: Float[Array, "k"], labels: Array, classes: str) -> Float[Array, ""]:
    present = labels > 0
    taken = present if classes == "present" else jnp.broadcast_to(present.any(), present.shape)
    return ratio(jnp.where(taken, losses, 0 * losses).sum(), taken.sum())
