"""Dice losses: RingFormer-Seg's, and the usual soft Dice. Overlap per class, jointly over all pixels of a batch."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from holojax.losses.common import Labels, Logits, Valid, evaluate, expect, ratio
from holojax.losses.overlap import Overlap, overlap
from holojax.schema import is_number
from holojax.types import Float


@dataclass(frozen=True)
class Dice:
    """Dice loss in two parts, so that the step can add the sums of all devices in between.

    `squared` sums p^2 + y^2 in the denominator (RingFormer-Seg) rather than p + y; `eps` is added above and
    below. Raises ConfigError for an `eps` below 0.
    """

    reads = "pixels"
    rounds = 1

    ignore: int = 255
    squared: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        expect("dice", "eps", self.eps, "a number of at least 0", is_number(self.eps, 0))

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> Overlap:
        """Add up over the pixels at hand, in float32; ignored and invalid pixels leave both p and y."""
        return overlap(logits, labels, valid, self.ignore, squared=self.squared)

    def value(self, sums: Overlap) -> Float[Array, ""]:
        """Turn sums into the loss: 1 minus the mean over all classes, absent ones too; 0 where no pixel counts."""
        found = _dice(sums, self.eps).mean()
        return jnp.where(sums.labels.any(), 1 - found, 0 * found)


@dataclass(frozen=True)
class SoftDice:
    """The usual soft Dice loss in two parts: 1 - (2 sum p y + eps) / (sum p + sum y + eps), per class.

    The mean is over the classes that have a labelled pixel in the batch (`classes="present"`), or over "all". The sums
    run over batch and pixels jointly, as in smp's DiceLoss, which sums over the classes present too, but divides by
    all. Raises ConfigError for other `classes`.
    """

    reads = "pixels"
    rounds = 1

    ignore: int = 255
    classes: str = "present"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        expect("soft_dice", "classes", self.classes, "'present' or 'all'", self.classes in ("present", "all"))
        expect("soft_dice", "eps", self.eps, "a number of at least 0", is_number(self.eps, 0))

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> Overlap:
        """Add up over the pixels at hand, in float32; ignored and invalid pixels leave both p and y."""
        return overlap(logits, labels, valid, self.ignore)

    def value(self, sums: Overlap) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where no pixel counts."""
        present = sums.labels > 0
        taken = present if self.classes == "present" else jnp.broadcast_to(present.any(), present.shape)
        return ratio(jnp.where(taken, 1 - _dice(sums, self.eps), 0).sum() + 0 * sums.both.sum(), taken.sum())


def dice(
    logits: Logits, labels: Labels, *, ignore: int = 255, squared: bool = True, eps: float = 1e-5
) -> Float[Array, ""]:
    """Return 1 - mean over classes of (2 sum p y + eps) / (sum (p^2 + y^2) + eps), a float32 scalar.

    `logits [... k]`, integer `labels [...]`, p the softmax; sums run over all leading axes jointly, pixels
    labelled `ignore` are out of p and y, and classes that are absent count too. RingFormer-Seg, its loss
    section.
    """
    return evaluate(Dice(ignore, squared, eps), logits, labels)


def soft_dice(
    logits: Logits, labels: Labels, *, ignore: int = 255, classes: str = "present", eps: float = 1e-5
) -> Float[Array, ""]:
    """Return the mean over classes of 1 - (2 sum p y + eps) / (sum p + sum y + eps), a float32 scalar.

    `logits [... k]`, integer `labels [...]`; keywords as in `SoftDice`.
    """
    return evaluate(SoftDice(ignore, classes, eps), logits, labels)


def _dice(sums: Overlap, eps: float) -> Float[Array, "k"]:
    return ratio(2 * sums.both + eps, sums.mass + sums.labels + eps)
