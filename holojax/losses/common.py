"""What every loss shares: which pixels count, scores that are safe to compute with, and rounds of sums."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from numpy import ndarray

from holojax.errors import ConfigError
from holojax.schema import is_weights
from holojax.types import Bool, Float

Logits = Float[Array | ndarray, "*pixels k"]
Labels = Array | ndarray  # integers [*pixels]
Valid = Bool[Array | ndarray, "*pixels"] | None


class Pixels(NamedTuple):
    """The pixels at hand, made safe: nothing of one that does not count reaches a value or a gradient."""

    logits: Float[Array, "*pixels k"]  # float32; 0 where a pixel does not count
    labels: Array  # int32 [*pixels], below k; 0 where a pixel does not count
    counts: Bool[Array, "*pixels"]
    alarm: Float[Array, ""]  # to be added to a sum: 0, or NaN if a label that counts is no class
    given: Array  # int32: pixels with image data, labelled or not

    @property
    def truth(self) -> Bool[Array, "*pixels k"]:
        """Say which class is the label; none where a pixel does not count."""
        return (self.labels[..., None] == jnp.arange(self.logits.shape[-1])) & self.counts[..., None]

    @property
    def number(self) -> Array:
        """Count the pixels that count, in int32 (below 2^31 a batch): a float32 that grows by ones stops at 2^24."""
        return self.counts.sum(dtype=jnp.int32)

    def of_label(self, scores: Float[Array, "*pixels k"]) -> Float[Array, "*pixels"]:
        """Take the score of the label's class, 0 where a pixel does not count.

        By comparing, not by indexing: the gradient of an index is a scatter, which takes twice the time.
        """
        return jnp.where(self.truth, scores, 0).sum(-1)


def look(logits: Logits, labels: Labels, valid: Valid, ignore: int) -> Pixels:
    """Find out which pixels count: those that are `valid` (None: all) and not labelled `ignore`."""
    labels = jnp.asarray(labels).astype(jnp.int32)
    logits = jnp.asarray(logits)
    given = jnp.int32(labels.size) if valid is None else jnp.asarray(valid).sum(dtype=jnp.int32)
    counts = labels != ignore
    if valid is not None:
        counts &= valid
    beyond = counts & ((labels < 0) | (labels >= logits.shape[-1]))
    return Pixels(
        logits=jnp.where(counts[..., None], logits, 0).astype(jnp.float32),
        labels=jnp.where(counts & ~beyond, labels, 0),
        counts=counts,
        alarm=jnp.where(beyond.any(), jnp.nan, 0.0),
        given=given,
    )


def evaluate(loss: Any, logits: Logits, labels: Labels, valid: Valid = None) -> Float[Array, ""]:
    """Return the value of a loss of pixels for arrays on one device: all its rounds, one after the other."""
    totals: tuple = ()
    for number in range(loss.rounds):
        last = number + 1 == loss.rounds
        known = loss.known(*totals) if totals else ()
        totals += (loss.sums(logits if last else lax.stop_gradient(logits), labels, valid, *known),)
    return loss.value(*totals)


def histogram(places: Array, counts: Bool[Array, "*pixels"], bins: int) -> Array:
    """Count how often each of `bins` places occurs among the pixels that count: int32 [bins]."""
    places = jnp.where(counts, places, bins).reshape(-1)
    return jnp.zeros(bins, jnp.int32).at[places].add(1, mode="drop")


def weights_of(table: tuple[float, ...] | None, pixels: Pixels, loss: str) -> Float[Array, "*pixels"] | None:
    """Look up the weight of each pixel's class, 0 where it does not count; None without a table.

    Raises:
        ConfigError: the table has not one number for each class.
    """
    if table is None:
        return None
    classes = pixels.logits.shape[-1]
    if len(table) != classes:
        raise ConfigError(f"{loss}: class_weights needs one number for each of {classes} classes, found {len(table)}.")
    return pixels.of_label(jnp.broadcast_to(jnp.asarray(table, jnp.float32), pixels.logits.shape))


def ratio(above: Array, below: Array) -> Array:
    """Divide in float32; by 1 where `below` is 0."""
    below = below.astype(jnp.float32)
    return above.astype(jnp.float32) / jnp.where(below == 0, 1, below)


def expect_weights(loss: str, table: Any) -> None:
    """Raise a ConfigError unless `table` can be class weights, or is None."""
    wanted = "None, or one number of at least 0 for each class, not all 0"
    expect(loss, "class_weights", table, wanted, table is None or is_weights(table))


def expect(loss: str, key: str, value: Any, wanted: str, fits: bool) -> None:
    """Raise a ConfigError that names the loss and its option, unless the value `fits`."""
    if not fits:
        raise ConfigError(f"{loss}: {key} is {wanted}, found {value!r}.")
