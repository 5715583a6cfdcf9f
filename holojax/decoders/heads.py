"""Several auxiliary heads, as mmseg's lists of them."""

from __future__ import annotations

from collections.abc import Iterable

from flax import nnx

from holojax.borders import ISOLATED
from holojax.decoders.base import Decoder


class Heads(Decoder):
    """Decode the same maps by several heads, each of which learns for itself.

    Args:
        heads: decoders of one answer each.
    """

    def __init__(self, heads: Iterable[Decoder]):
        self.heads = nnx.List(heads)

    def decode(self, maps, borders=ISOLATED, keys=None):
        """Return the answer of every head. All drop the same channels, as far as they have the same."""
        return tuple(head.decode(maps, borders, keys) for head in self.heads)
