"""Everything that evaluation counts, as one thing that adds up; figures are taken once, at the end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from holojax.errors import ConfigError
from holojax.metrics.boundary import summarize_boundary
from holojax.metrics.confusion import summarize
from holojax.metrics.seam import summarize_seam

_LOW = 16  # bits


class Counts(NamedTuple):
    """Integer counts of any part of a data set; `+` gives those of the parts together.

    Attributes:
        confusion: as `confusion_matrix`, `[k k]`.
        boundary: as `boundary_counts`, `[7 k]`; None: not counted.
        seam: as `seam_counts`, `[2 2]`; None: not counted.
    """

    confusion: Any
    boundary: Any = None
    seam: Any = None

    def __add__(self, other: Any) -> Counts:
        """Add up; raises ConfigError if the two count other classes or other things."""
        for name, mine, yours in zip(self._fields, self, other, strict=True):
            shapes = [None if x is None else np.shape(x) for x in (mine, yours)]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"Counts ({name}) of shape {shapes[0]} and {shapes[1]} do not add up: evaluate both with the "
                    f"same classes and the same settings."
                )
        return jax.tree.map(lambda a, b: a + b, self, other)

    def __radd__(self, other: Any) -> Counts:
        """Add to the 0 that `sum` begins with."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def figures(self) -> dict[str, Any]:
        """Return the figures of `summarize`, `summarize_boundary` and `summarize_seam`, as far as counted."""
        out = summarize(self.confusion)
        if self.boundary is not None:
            out |= summarize_boundary(self.boundary)
        if self.seam is not None:
            out |= summarize_seam(self.seam)
        return out


def split_counts(counts: Any) -> Any:
    """Split every int32 count of a tree into its low 16 bits and the rest `[2 ...]`, which 2^15 devices may add up.

    Devices count in 32 bits, which hold the pixels of one device, not those of all.
    """
    return jax.tree.map(lambda x: jax.numpy.stack([x & ((1 << _LOW) - 1), x >> _LOW]), counts)


def join_counts(parts: Any) -> Any:
    """Put together what `split_counts` split, in int64 on the host."""

    def join(x: Any) -> np.ndarray:
        low, high = np.asarray(x).astype(np.int64)
        return low + (high << _LOW)

    return jax.tree.map(join, parts)
