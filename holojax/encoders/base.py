"""What all encoders share: four stages and the one walk through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.types import Float, Keys

STAGES = 4

# mix(stage, map [n h w c]) -> (what the next stage gets, what the decoder gets)
Mix = Callable[[int, jax.Array], tuple[jax.Array, jax.Array]]


class Encoder(nnx.Module):
    """Turn images into a pyramid of four maps.

    A subclass gives `embed` and `stage`, and where it needs them `normalize` and `downsample`. Beside its map
    it may carry something else from stage to stage, `extra` (a ViT's class token), which mixers do not see.

    Attributes:
        channels: channels of the four maps.
        strides: pixels per place of each map.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(
        self,
        images: Float[jax.Array, "n H W c"],
        borders: Borders = ISOLATED,
        keys: Keys | None = None,
        mix: Mix | None = None,
    ) -> tuple[jax.Array, ...]:
        """Encode images [n h w bands], already normalised, to the maps of the four stages [n h w c].

        Args:
            images: regions, folded with the scenes.
            borders: what a region sees beyond its edge.
            keys: one key per region for drop path; None: nothing is dropped.
            mix: called after each stage with its number and map; returns the map for the next stage and the
                map for the decoder. None: both are the map itself.

        Returns:
            One map per stage, with the output norms that the imported source has.
        """
        maps = []
        x, extra = self.embed(images, borders)
        for i in range(STAGES):
            x, extra = self.stage(i, x, extra, borders, keys)
            x, side = mix(i, x) if mix else (x, x)
            maps.append(self.normalize(i, side))
            if i + 1 < STAGES:
                x = self.downsample(i, x, borders)
        return tuple(maps)

    def embed(self, images: jax.Array, borders: Borders) -> tuple[jax.Array, Any]:
        """Turn images into the first map and what is carried beside it (None if nothing)."""
        raise TypeError(f"{type(self).__name__} does not say how images become tokens: give it `embed`.")

    def stage(
        self, i: int, x: jax.Array, extra: Any, borders: Borders, keys: Keys | None
    ) -> tuple[jax.Array, Any]:
        """Run the blocks of stage `i` on its map and what is carried beside it."""
        raise TypeError(f"{type(self).__name__} does not say what its stages do: give it `stage`.")

    def normalize(self, i: int, x: jax.Array) -> jax.Array:
        """Apply the output norm of stage `i`; without one, return the map as it is."""
        return x

    def downsample(self, i: int, x: jax.Array, borders: Borders) -> jax.Array:
        """Lead from stage `i` to the next (i = 0..2); without a change of size, return the map as it is."""
        return x
