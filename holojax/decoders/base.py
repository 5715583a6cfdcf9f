"""What all decoders share: scores on their own map, resized to the image."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.types import Float, Keys


class Decoder(nnx.Module):
    """Turn a pyramid of maps into class scores. A subclass gives `scores`.

    Attributes:
        needs_pyramid: whether each map has to be finer than the next.
    """

    needs_pyramid = False

    def __call__(
        self,
        maps: Sequence[jax.Array],
        size: tuple[int, int],
        borders: Borders = ISOLATED,
        keys: Keys | None = None,
    ) -> Float[jax.Array, "n H W k"]:
        """Decode maps [n h w c], finest first, to float32 logits [n rows cols classes] at `size`.

        Args:
            maps: the encoder's maps.
            size: rows and columns of a region in pixels.
            borders: what a region sees beyond its edge.
            keys: one key per region for dropout; None: nothing is dropped.
        """
        return borders.resize(self.scores(maps, borders, keys).astype(jnp.float32), size)

    def scores(
        self, maps: Sequence[jax.Array], borders: Borders = ISOLATED, keys: Keys | None = None
    ) -> Float[jax.Array, "n h w k"]:
        """Decode maps to class scores at the decoder's own resolution."""
        raise TypeError(f"{type(self).__name__} does not say how maps become scores: give it `scores`.")
