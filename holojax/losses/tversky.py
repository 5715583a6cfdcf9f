"""Tversky loss: Dice with a weight for what is found wrongly and one for what is missed."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from holojax.losses.common import Labels, Logits, Valid, evaluate, expect, ratio
from holojax.losses.overlap import Overlap, overlap
from holojax.schema import is_number
from holojax.types import Float


@dataclass(frozen=True)
class Tversky:
    """Tversky loss (Salehi et al. 2017) in two parts, so that the step can add the sums of all devices in between.

    1 - the mean over all classes of (TP + eps) / (TP + alpha FP + beta FN + eps) with soft counts TP = sum p y,
    FP = sum p (1 - y), FN = sum (1 - p) y; absent classes count too. `alpha` weighs what is found wrongly, `beta` what
    is missed; 0.5 each is Dice. Formula and defaults are mmseg's, which takes the sums image by image: here they run
    over batch and pixels jointly. Raises ConfigError for a weight below 0.
    """

    reads = "pixels"
    rounds = 1

    ignore: int = 255
    alpha: float = 0.3
    beta: float = 0.7
    eps: float = 1.0

    def __post_init__(self) -> None:
        for key in ("alpha", "beta", "eps"):
            expect("tversky", key, getattr(self, key), "a number of at least 0", is_number(getattr(self, key), 0))

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> Overlap:
        """Add up over the pixels at hand, in float32; ignored and invalid pixels leave both p and y."""
        return overlap(logits, labels, valid, self.ignore)

    def value(self, sums: Overlap) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where no pixel counts."""
        wrong, missed = sums.mass - sums.both, sums.labels - sums.both
        found = ratio(sums.both + self.eps, sums.both + self.alpha * wrong + self.beta * missed + self.eps).mean()
        return jnp.where(sums.labels.any(), 1 - found, 0 * found)


def tversky(
    logits: Logits, labels: Labels, *, ignore: int = 255, alpha: float = 0.3, beta: float = 0.7, eps: float = 1.0
) -> Float[Array, ""]:
    """Return 1 - the mean Tversky index over classes of `logits [... k]` and integer `labels [...]`, a float32 scalar.

    Keywords as in `Tversky`.
    """
    return evaluate(Tversky(ignore, alpha, beta, eps), logits, labels)
