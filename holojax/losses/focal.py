"""Focal loss: cross entropy in which pixels that are known well count little."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from holojax.losses.common import (
    Labels,
    Logits,
    Pixels,
    Valid,
    evaluate,
    expect,
    expect_weights,
    look,
    ratio,
    weights_of,
)
from holojax.schema import is_number
from holojax.types import Float


class FocalSums(NamedTuple):
    """Sums over pixels, which add up over devices."""

    loss: Float[Array, ""]
    labelled: Array  # int32: pixels that count
    pixels: Array  # int32: with image data, labelled or not


@dataclass(frozen=True)
class Focal:
    """Focal loss (Lin et al. 2017) in two parts, so that the step can add the sums of all devices in between.

    `form="softmax"`: -(1 - p)^gamma log p with p the softmax of the label's class; gamma = 0 is cross entropy. Here
    `class_weights` are the paper's alpha.
    `form="sigmoid"`: mmseg's FocalLoss. Every class is a question of its own, yes or no, with p its sigmoid; `alpha`
    weighs the answer yes and 1 - alpha the answer no, and the loss is the mean over the classes too.

    `class_weights` multiply the loss (of the label's class, or of each question); `average` is over the pixels that
    have a label ("valid") or all of them ("all": mmseg), weighted or not. Raises ConfigError for other words or a
    number that does not fit.
    """

    reads = "pixels"
    rounds = 1

    ignore: int = 255
    gamma: float = 2.0
    alpha: float = 0.5
    form: str = "softmax"
    average: str = "valid"
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        expect("focal", "gamma", self.gamma, "a number of at least 0", is_number(self.gamma, 0))
        expect("focal", "alpha", self.alpha, "a number from 0 to 1", is_number(self.alpha, 0, 1))
        expect("focal", "form", self.form, "'softmax' or 'sigmoid'", self.form in ("softmax", "sigmoid"))
        expect("focal", "average", self.average, "'valid' or 'all'", self.average in ("valid", "all"))
        expect_weights("focal", self.class_weights)

    def sums(self, logits: Logits, labels: Labels, valid: Valid = None) -> FocalSums:
        """Add up over the pixels at hand, in float32; pixels where `valid` is False count nowhere.

        A label that is neither a class nor `ignore` makes the loss NaN.
        """
        pixels = look(logits, labels, valid, self.ignore)
        weights = weights_of(self.class_weights, pixels, "focal")
        if self.form == "softmax":
            scores = pixels.of_label(jax.nn.log_softmax(pixels.logits, axis=-1))
            loss = -_power(-jnp.expm1(scores), self.gamma) * scores
            loss = loss if weights is None else loss * weights
        else:
            loss = self._questions(pixels)
        return FocalSums(jnp.where(pixels.counts, loss, 0).sum() + pixels.alarm, pixels.number, pixels.given)

    def value(self, sums: FocalSums) -> Float[Array, ""]:
        """Turn sums into the loss; 0 where no pixel counts."""
        return ratio(sums.loss, sums.labelled if self.average == "valid" else sums.pixels)

    def _questions(self, pixels: Pixels) -> Float[Array, "*pixels"]:
        truth = pixels.truth
        wrong = jnp.where(truth, -pixels.logits, pixels.logits)  # its sigmoid is the probability of the wrong answer
        loss = _power(jax.nn.sigmoid(wrong), self.gamma) * jax.nn.softplus(wrong)
        loss *= jnp.where(truth, self.alpha, 1 - self.alpha)
        if self.class_weights is not None:
            loss *= jnp.asarray(self.class_weights, jnp.float32)
        return loss.mean(-1)


def focal(
    logits: Logits,
    labels: Labels,
    *,
    ignore: int = 255,
    gamma: float = 2.0,
    alpha: float = 0.5,
    form: str = "softmax",
    average: str = "valid",
    class_weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """Average the focal loss of `logits [... k]` and integer `labels [...]` to a float32 scalar.

    Keywords as in `Focal`; `form="sigmoid", average="all"` is mmseg's.
    """
    weights = None if class_weights is None else tuple(class_weights)
    return evaluate(Focal(ignore, gamma, alpha, form, average, weights), logits, labels)


def _power(x: Float[Array, "*pixels"], gamma: float) -> Float[Array, "*pixels"]:
    """Take x^gamma of numbers of at least 0, with gradient 0 at 0, where it may be infinite."""
    if gamma == 0:
        return jnp.ones_like(x)
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1) ** gamma, 0)
