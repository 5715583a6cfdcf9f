"""What every loss shares: which pixels count, and labels that are safe to index with."""

import jax.numpy as jnp
from jax import Array
from numpy import ndarray

from holojax.types import Bool, Float

Logits = Float[Array | ndarray, "*pixels k"]
Labels = Array | ndarray  # integers [*pixels]
Valid = Bool[Array | ndarray, "*pixels"] | None


def counted(labels: Labels, valid: Valid, ignore: int) -> tuple[Array, Bool[Array, "*pixels"]]:
    """Return the labels as int32, with 0 where a pixel does not count, and which pixels count."""
    labels = jnp.asarray(labels).astype(jnp.int32)
    counts = labels != ignore
    if valid is not None:
        counts &= valid
    return jnp.where(counts, labels, 0), counts
