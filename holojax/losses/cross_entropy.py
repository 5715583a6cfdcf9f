"""Cross entropy of the labelled pixels of a batch of scenes."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from holojax.losses.common import Labels, Logits, Valid, evaluate, expect, expect_weights, look, ratio, weights_of
from holojax.schema import is_number
from holojax.types import Float


class CrossEntropySums(NamedTuple):
    """Sums over pixels, which add up over devices."""

    loss: Float[Array, ""]  # weighted and smoothed
    weight: Array  # of the pixels with a label: int32, or float32 with class weights
    pixels: Array  # int32: with image data, labelled or not


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross entropy in two parts, so that the step can add the sums of all devices in between.

    `average="valid"` divides by the (weights of the) pixels that have a label, as torch does; `average="all"`
    by all pixels, ignored ones too, as REST and mmseg do. `class_weights` (one per class) and `smoothing`
    (share of the label's mass spread over all classes) have torch's meaning. Raises ConfigError for an option
    that does not fit.
    """

    reads = "pixels"
    rounds = 1

    ignore: int = 255
    average: str = "valid"
    class_weights: tuple[float, ...] | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        expect("cross_entropy", "average", self.average, "'valid' or 'all'", self.average in ("valid", "all"))
        expect("cross_entropy", "smoothing", self.smoothing, "a share from 0 to 1", is_number(self.smoothing, 0, 1))
        expect_weights("cross_entropy", self.class_weights)

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> CrossEntropySums:
        """Add up over the pixels at hand, in float32; pixels where `valid` is False count nowhere.

        A label that is neither a class nor `ignore` makes the loss NaN: better than a wrong number.
        """
        pixels = look(logits, labels, valid, self.ignore)
        scores = jax.nn.log_softmax(pixels.logits, axis=-1)
        weights = weights_of(self.class_weights, pixels, "cross_entropy")
        loss, table = -pixels.of_label(scores), jnp.float32(1)
        if weights is not None:
            loss, table = loss * weights, jnp.asarray(self.class_weights, jnp.float32)
        if self.smoothing:
            loss = (1 - self.smoothing) * loss - self.smoothing * (scores * table).mean(-1)
        total = jnp.where(pixels.counts, loss, 0).sum() + pixels.alarm
        return CrossEntropySums(total, pixels.number if weights is None else weights.sum(), pixels.given)

    def value(self, sums: CrossEntropySums) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where no pixel counts."""
        return ratio(sums.loss, sums.weight if self.average == "valid" else sums.pixels)


def cross_entropy(
    logits: Logits,
    labels: Labels,
    *,
    ignore: int = 255,
    average: str = "valid",
    class_weights: tuple[float, ...] | None = None,
    smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Average the softmax cross entropy of `logits [... k]` and integer `labels [...]` to a float32 scalar.

    Pixels labelled `ignore` add nothing; `average="all"` counts them in the denominator (REST, mmseg's
    `avg_non_ignore=False`), `"valid"` does not. Other keywords as in `CrossEntropy`, numerics as torch's.
    """
    weights = None if class_weights is None else tuple(class_weights)
    return evaluate(CrossEntropy(ignore, average, weights, smoothing), logits, labels)
