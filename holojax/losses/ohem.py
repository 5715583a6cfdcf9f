"""Online hard example mining: cross entropy of the pixels that are known worst."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from holojax.losses.common import Labels, Logits, Pixels, Valid, evaluate, expect, expect_weights, histogram, look
from holojax.losses.cross_entropy import CrossEntropy, CrossEntropySums
from holojax.schema import is_number
from holojax.types import Float

_HALF = 16  # bits of a float32 that one round finds
_HIGH, _LOW = 1 << 15, 1 << 16  # bins: a probability has no sign


@dataclass(frozen=True)
class Ohem:
    """Cross entropy of hard pixels in three rounds of sums, so that the threshold is that of the whole batch.

    Hard is a pixel whose label's class has a probability below max(threshold, t), t the (keep + 1)-th smallest one
    (the largest where there are no more than `keep`): mmseg's OHEMPixelSampler. `keep` counts pixels of the batch, so
    mmseg's is `min_kept` times the images. `threshold=0.0` takes the `keep` hardest pixels.

    t is exact on any number of devices and nothing is gathered: probabilities have the order of their bits, so a
    histogram of the upper 16 bits says where t lies, and one of the lower 16 bits in that bin which it is. Pixels that
    share the value t are all left out, as in mmseg.

    `average="kept"` divides by the (weights of the) hard pixels, "all" by all pixels, as mmseg does by default;
    `class_weights` as in `CrossEntropy`. Raises ConfigError for another `average` or numbers that do not fit.
    """

    reads = "pixels"
    rounds = 3

    ignore: int = 255
    threshold: float = 0.7
    keep: int = 100_000
    average: str = "kept"
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        expect("ohem", "threshold", self.threshold, "a probability", is_number(self.threshold, 0, 1))
        expect("ohem", "keep", self.keep, "a number of pixels of at least 0", is_number(self.keep, 0))
        expect("ohem", "average", self.average, "'kept' or 'all'", self.average in ("kept", "all"))
        expect_weights("ohem", self.class_weights)

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None, *known: Array) -> Any:
        """Add up over the pixels at hand: int32 counts of the upper bits, then of the lower ones, then the loss.

        `known` is what the method of that name makes of the rounds before. A label that is neither a class nor
        `ignore` makes the loss NaN.
        """
        pixels = look(logits, labels, valid, self.ignore)
        chances = _chances(pixels)
        bits = lax.bitcast_convert_type(chances, jnp.int32)
        if not known:
            return histogram(bits >> _HALF, pixels.counts, _HIGH)
        if len(known) == 2:
            upper, _ = known
            return histogram(bits & (_LOW - 1), pixels.counts & (bits >> _HALF == upper), _LOW)
        (below,) = known
        hard = jnp.where(pixels.counts & (chances >= below), self.ignore, jnp.asarray(labels).astype(jnp.int32))
        sums = self._entropy.sums(logits, hard, valid)
        return sums._replace(loss=sums.loss + pixels.alarm)

    def known(self, upper: Array, lower: Array | None = None) -> tuple[Array, ...]:
        """Return what the next round needs: the upper bits of t and its rank among those that share them, or the bound.

        Args:
            upper: the sums of the first round.
            lower: of the second, if it has been.
        """
        rank = jnp.clip(upper.sum() - 1, 0, self.keep)
        place, rank = _find(upper, rank)
        if lower is None:
            return place, rank
        last, _ = _find(lower, rank)
        value = lax.bitcast_convert_type(place << _HALF | last, jnp.float32)
        return (jnp.maximum(value, self.threshold),)

    def value(self, upper: Array, lower: Array, sums: CrossEntropySums) -> Float[Array, ""]:
        """Turn the sums of the last round into the loss; 0 where no pixel counts."""
        return self._entropy.value(sums)

    @property
    def _entropy(self) -> CrossEntropy:
        return CrossEntropy(self.ignore, {"kept": "valid", "all": "all"}[self.average], self.class_weights)


def ohem(
    logits: Logits,
    labels: Labels,
    *,
    ignore: int = 255,
    threshold: float = 0.7,
    keep: int = 100_000,
    average: str = "kept",
    class_weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """Average the cross entropy of the hard pixels of `logits [... k]` and integer `labels [...]` to a float32 scalar.

    Keywords as in `Ohem`.
    """
    weights = None if class_weights is None else tuple(class_weights)
    return evaluate(Ohem(ignore, threshold, keep, average, weights), logits, labels)


def _chances(pixels: Pixels) -> Float[Array, "*pixels"]:
    """Return the probability of the label's class."""
    return lax.stop_gradient(jnp.exp(pixels.of_label(jax.nn.log_softmax(pixels.logits, axis=-1))))


def _find(counts: Array, rank: Array) -> tuple[Array, Array]:
    """Return the bin of the value with this rank (from 0), and its rank among the values of the bin."""
    ends = jnp.cumsum(counts)
    place = jnp.minimum((ends <= rank).sum(dtype=jnp.int32), counts.size - 1)
    return place, rank - (ends[place] - counts[place])
