"""Cross entropy of the labelled pixels of a batch of scenes."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from holojax.errors import ConfigError
from holojax.losses.common import Labels, Logits, Valid, counted
from holojax.types import Float


class CrossEntropySums(NamedTuple):
    """Sums over pixels, which add up over devices."""

    loss: Float[Array, ""]  # weighted and smoothed
    weight: Float[Array, ""]  # of the pixels with a label
    pixels: Array  # int32: with image data, labelled or not


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross entropy in two parts, so that the step can add the sums of all devices in between.

    `average="valid"` divides by the (weights of the) pixels that have a label, as torch does; `average="all"`
    by all pixels, ignored ones too, as REST and mmseg do. `class_weights` (one per class) and `smoothing`
    (share of the label's mass spread over all classes) have torch's meaning. Raises ConfigError for another
    `average`.
    """

    ignore: int = 255
    average: str = "valid"
    class_weights: tuple[float, ...] | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.average not in ("valid", "all"):
            raise ConfigError(f"cross_entropy: average is 'valid' or 'all', found {self.average!r}.")

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> CrossEntropySums:
        """Add up over the pixels at hand, in float32; pixels where `valid` is False count nowhere.

        A label that is neither a class nor `ignore` makes the loss NaN: better than a wrong number.
        """
        labels, counts = counted(labels, valid, self.ignore)
        classes = logits.shape[-1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ConfigError(
                f"cross_entropy: class_weights needs one number for each of {classes} classes, "
                f"found {len(self.class_weights)}."
            )
        scores = jax.nn.log_softmax(jnp.asarray(logits).astype(jnp.float32), axis=-1)
        loss = -jnp.take_along_axis(scores, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
        if self.class_weights is None:
            spread = -scores.mean(-1)
            weight = counts.sum(dtype=jnp.int32).astype(jnp.float32)  # float32 cannot count beyond 2^24
        else:
            table = jnp.asarray(self.class_weights, jnp.float32)
            spread = -(scores * table).mean(-1)
            weights = jnp.where(counts, table[labels], 0)
            loss, weight = loss * weights, weights.sum()
        loss = (1 - self.smoothing) * loss + self.smoothing * spread if self.smoothing else loss
        pixels = jnp.asarray(labels.size) if valid is None else jnp.asarray(valid).sum()
        return CrossEntropySums(jnp.where(counts, loss, 0).sum(), weight, pixels.astype(jnp.int32))

    def value(self, sums: CrossEntropySums) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where no pixel counts."""
        total = sums.weight if self.average == "valid" else sums.pixels.astype(jnp.float32)
        return sums.loss / jnp.where(total > 0, total, 1)


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
    loss = CrossEntropy(ignore=ignore, average=average, class_weights=weights, smoothing=smoothing)
    return loss.value(loss.sums(logits, labels))
