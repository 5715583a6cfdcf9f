"""How much of each class is found: the sums that Dice and Tversky losses are made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from holojax.losses.common import Labels, Logits, Valid, look
from holojax.types import Float


class Overlap(NamedTuple):
    """Sums over pixels, one per class, which add up over devices. p: probability, y: 1 where it is the label."""

    both: Float[Array, "k"]  # p y
    mass: Float[Array, "k"]  # p, or p^2
    labels: Array  # int32 [k]: y


def overlap(logits: Logits, labels: Labels, valid: Valid, ignore: int, *, squared: bool = False) -> Overlap:
    """Add up over the pixels at hand, in float32; ignored and invalid pixels leave both p and y.

    A label that is neither a class nor `ignore` makes all of `both` NaN.
    """
    pixels = look(logits, labels, valid, ignore)
    p = jnp.where(pixels.counts[..., None], jax.nn.softmax(pixels.logits, axis=-1), 0)
    truth, over = pixels.truth, tuple(range(pixels.labels.ndim))
    both = jnp.where(truth, p, 0).sum(over) + pixels.alarm
    # y^2 = y, and its sum is exact beyond 2^24.
    return Overlap(both, (p * p if squared else p).sum(over), truth.sum(over, dtype=jnp.int32))
