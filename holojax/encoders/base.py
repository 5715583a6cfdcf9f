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


# each(f, *arrays [n ...]) -> f of them, f taking and giving arrays whose first axis counts regions
Each = Callable[..., Any]


def at_once(f: Callable[..., Any], *arrays: Any) -> Any:
    """Apply `f` to all regions at once."""
    return f(*arrays)


def one_by_one(f: Callable[..., Any], *arrays: Any) -> Any:
    """Apply `f` to one region after the other: the memory of one, the result of all."""

    def alone(region: Any) -> Any:
        return jax.tree.map(lambda x: x[0], f(*jax.tree.map(lambda x: x[None], region)))

    return jax.lax.map(alone, arrays)


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
        each: Each = at_once,
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
        x, extra = each(lambda x: self.embed(x, borders), images)
        for i in range(STAGES):
            x, extra = each(lambda x, extra, i=i: self.stage(i, x, extra, borders, keys), x, extra)
            x, side = mix(i, x) if mix else (x, x)
            maps.append(each(lambda side, i=i: self.normalize(i, side), side))
            if i + 1 < STAGES:
                x = each(lambda x, i=i: self.downsample(i, x, borders), x)
        return tuple(maps)

    def embed(self, images: jax.Array, borders: Borders) -> tuple[jax.Array, Any]:
        """Turn images into the first map and what is carried beside it (None if nothing)."""
        raise TypeError(f"{type(self).__name__} does not say how images become tokens: give it `embed`.")

    def stage(self, i: int, x: jax.Array, extra: Any, borders: Borders, keys: Keys | None) -> tuple[jax.Array, Any]:
        """Run the blocks of stage `i` on its map and what is carried beside it."""
        raise TypeError(f"{type(self).__name__} does not say what its stages do: give it `stage`.")

    def normalize(self, i: int, x: jax.Array) -> jax.Array:
        """Apply the output norm of stage `i`; without one, return the map as it is."""
        return x

    def downsample(self, i: int, x: jax.Array, borders: Borders) -> jax.Array:
        """Lead from stage `i` to the next (i = 0..2); without a change of size, return the map as it is."""
        return x
