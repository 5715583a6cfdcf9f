"""Dice loss as RingFormer-Seg defines it: overlap per class, jointly over all pixels of a batch."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from holojax.losses.common import Labels, Logits, Valid, counted
from holojax.types import Float


class DiceSums(NamedTuple):
    """Sums over pixels, one per class, which add up over devices."""

    overlap: Float[Array, "k"]  # p y
    total: Float[Array, "k"]  # p^2 + y^2, or p + y


@dataclass(frozen=True)
class Dice:
    """Dice loss in two parts, so that the step can add the sums of all devices in between.

    `squared` sums p^2 + y^2 in the denominator (RingFormer-Seg) rather than p + y; `eps` is added above and
    below.
    """

    ignore: int = 255
    squared: bool = True
    eps: float = 1e-5

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> DiceSums:
        """Add up over the pixels at hand, in float32; ignored and invalid pixels leave both p and y."""
        labels, counts = counted(labels, valid, self.ignore)
        classes = logits.shape[-1]
        p = jax.nn.softmax(jnp.asarray(logits).astype(jnp.float32), axis=-1) * counts[..., None]
        y = (labels[..., None] == jnp.arange(classes)) & counts[..., None]
        pixels = tuple(range(labels.ndim))
        overlap = jnp.where(y, p, 0).sum(pixels)
        count = y.sum(pixels, dtype=jnp.int32).astype(jnp.float32)  # y^2 = y; exact beyond 2^24 pixels
        return DiceSums(overlap, (p * p if self.squared else p).sum(pixels) + count)

    def value(self, sums: DiceSums) -> Float[Array, ""]:
        """Turn sums into the loss: 1 minus the mean over all classes, absent ones too."""
        return 1 - jnp.mean((2 * sums.overlap + self.eps) / (sums.total + self.eps))


def dice(
    logits: Logits, labels: Labels, *, ignore: int = 255, squared: bool = True, eps: float = 1e-5
) -> Float[Array, ""]:
    """Return 1 - mean over classes of (2 sum p y + eps) / (sum (p^2 + y^2) + eps), a float32 scalar.

    `logits [... k]`, integer `labels [...]`, p the softmax; sums run over all leading axes jointly, pixels
    labelled `ignore` are out of p and y, and classes that are absent count too. RingFormer-Seg, its loss
    section.
    """
    loss = Dice(ignore=ignore, squared=squared, eps=eps)
    return loss.value(loss.sums(logits, labels))
