"""Boundary loss: how well the outlines of the classes agree."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpy import ndarray

from holojax.borders import ISOLATED, Borders
from holojax.losses.common import Labels, Valid, expect, look, ratio
from holojax.schema import is_number
from holojax.types import Float

Maps = Float[Array | ndarray, "n h w k"]

_EPSILON = 1e-7  # as in the paper's code: added to what is divided by


class BoundarySums(NamedTuple):
    """Sums over pixels, one per class, which add up over devices. b: outline, B: widened outline."""

    precise: Float[Array, "k"]  # b of the prediction times B of the labels
    predicted: Float[Array, "k"]  # b of the prediction
    recalled: Float[Array, "k"]  # b of the labels times B of the prediction
    labelled: Array  # int32 [k]: b of the labels


@dataclass(frozen=True)
class Boundary:
    """Boundary loss (Bokhovkin & Burnaev 2019) in two parts, so that the step can add the sums of all devices.

    The outline of a class is max-pool(1 - p) - (1 - p) over squares of `inner` pixels; widened by a max-pool over
    `outer` pixels it tells how much of the other outline lies near. Precision and recall are sums over batch and pixels
    jointly; the loss is 1 - 2 P R / (P + R), averaged over the classes that have an outline in the labels. Others
    (absent, or everywhere) are left out: they would add 1 each, without a gradient.

    Pixels that do not count (ignored, padding, nodata) and places beyond the scene make no outline: a pool sees only
    pixels that count. Reads maps, since it looks inner / 2 + outer / 2 pixels beyond a region's edge: unlike losses of
    pixels it needs the scores of all classes at once (some five times their float32 bytes with the gradient). One class
    is computed after the other, and again for the gradient. Raises ConfigError for widths that are even.
    """

    reads = "map"
    rounds = 1

    ignore: int = 255
    inner: int = 3
    outer: int = 5

    def __post_init__(self) -> None:
        for key in ("inner", "outer"):
            width = getattr(self, key)
            expect("boundary", key, width, "an odd number of pixels", is_number(width, 1) and width % 2 == 1)

    def sums(
        self,
        logits: Maps,
        labels: Labels,
        valid: Valid = None,
        borders: Borders = ISOLATED,
    ) -> BoundarySums:
        """Add up over the pixels of the maps at hand, which `borders` join to scenes.

        A label that is neither a class nor `ignore` makes the loss NaN.
        """
        pixels = look(logits, labels, valid, self.ignore)
        k, reach = pixels.logits.shape[-1], self.inner // 2 + self.outer // 2
        # 0 where a pixel does not count, as `pad` gives beyond the scene; labels follow as 1, 2 ...
        marks = jnp.where(pixels.counts, pixels.labels + 1, 0).astype(jnp.float32)[..., None]
        marked = borders.pad(jnp.concatenate([jax.nn.softmax(pixels.logits, -1), marks], -1), *[reach] * 4)
        marks = marked[..., -1]

        @jax.checkpoint
        def of_class(one: tuple[Array, Array]) -> BoundarySums:
            p, number = one
            return self._of_class(p, marks == number, marks > 0)

        sums = lax.map(of_class, (jnp.moveaxis(marked[..., :-1], -1, 0), jnp.arange(1, k + 1)))
        return sums._replace(precise=sums.precise + pixels.alarm)

    def value(self, sums: BoundarySums) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where no class has an outline."""
        precision = sums.precise / (sums.predicted + _EPSILON)
        recall = sums.recalled / (sums.labelled + _EPSILON)
        score = 2 * precision * recall / (precision + recall + _EPSILON)
        present = sums.labelled > 0
        return ratio(jnp.where(present, 1 - score, 0 * sums.precise).sum(), present.sum())

    def _of_class(self, p: Array, truth: Array, counts: Array) -> BoundarySums:
        """Add up for one class; arrays [n i j] reach beyond the pixels that are added up."""

        def outline(x: Array) -> Array:
            rest = jnp.where(counts, 1 - x, 0)
            inside = _inside(rest, self.inner)
            return jnp.where(_inside(counts, self.inner), _pool(rest, self.inner) - inside, 0)

        found, real = outline(p), outline(truth.astype(jnp.float32))
        here, there = _inside(found, self.outer), _inside(real, self.outer)
        return BoundarySums(
            precise=(here * _pool(real, self.outer)).sum(),
            predicted=here.sum(),
            recalled=(there * _pool(found, self.outer)).sum(),
            labelled=(there > 0).sum(dtype=jnp.int32),
        )


def boundary(logits: Maps, labels: Labels, *, ignore: int = 255, inner: int = 3, outer: int = 5) -> Float[Array, ""]:
    """Return the boundary loss of `logits [n h w k]` and integer `labels [n h w]`, n whole scenes; a float32 scalar.

    Keywords as in `Boundary`.
    """
    loss = Boundary(ignore, inner, outer)
    return loss.value(loss.sums(logits, labels))


def _inside(x: Array, width: int) -> Array:
    """Cut off what a pool of this width loses at the edges of [n i j]."""
    side = width // 2
    return x[:, side : x.shape[1] - side, side : x.shape[2] - side]


def _pool(x: Array, width: int) -> Array:
    """Take the largest value of all squares of `width` pixels of [n i j]."""
    # One axis after the other: 2 * width comparisons for width^2.
    for window in ((1, width, 1), (1, 1, width)):
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 1, 1), "VALID")
    return x
