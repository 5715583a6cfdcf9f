"""What every loss shares: which pixels count, and labels that are safe to index with."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer
from numpy import ndarray

Logits = Float[Array | ndarray, "*pixels k"]
Labels = Integer[Array | ndarray, "*pixels"]
Valid = Bool[Array | ndarray, "*pixels"] | None


def counted(
    labels: Labels, valid: Valid, ignore: int
) -> tuple[Int[Array, "*pixels"], Bool[Array, "*pixels"]]:
    """Return the labels as int32, with 0 where a pixel does not count, and which pixels count."""
    labels = jnp.asarray(labels).astype(jnp.int32)
    counts = labels != ignore
    if valid is not None:
        counts &= valid
    return jnp.where(counts, labels, 0), counts
