"""What all encoders share: four stages and the one walk through them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.errors import ConfigError
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

    A subclass gives `embed` and `stage`, and where it needs them `normalize`, `downsample`, `modules_of` and `adopt`.
    Beside its map it may carry something else from stage to stage, `extra` (a ViT's class token), which mixers do not
    see.

    Attributes:
        channels: channels of the four maps.
        strides: pixels per place of each map.
        bands: channels of the images, if they are to be checked.
        numerics: whose details are computed that weights do not carry (`adopt`).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    numerics: str
    output_norms: bool
    bands: int | None = None
    bands_init = "mean"
    freeze = 0
    remat = "none"

    def set_options(self, *, bands_init: str, freeze: int, remat: str, dtype: str) -> None:
        """Set what all encoders have in common.

        Args:
            bands_init: what imported weights for another number of bands become: "mean", "repeat", "first", "random".
            freeze: stages that do not learn, from the first, with what leads to them; drop path is off in them.
            remat: what the backward pass computes again in place of keeping it: "none", each "block", each "stage".
            dtype: of the computation, "float32" or "bfloat16"; parameters, norms and softmax stay float32.

        Raises:
            ConfigError: `freeze` is no number of stages.
        """
        if not 0 <= freeze <= STAGES:
            raise ConfigError(f"model.encoder.freeze: expected a number of stages, 0 to {STAGES}, found {freeze}.")
        self.bands_init, self.freeze, self.remat = bands_init, freeze, remat
        self.set_attributes(dtype=jnp.dtype(dtype), raise_if_not_found=False)

    def adopt(self, numerics: str, output_norms: bool) -> None:
        """Take over what a source of weights computes beyond its weights.

        Args:
            numerics: whose epsilons, orders and sizes; a word that the family knows.
            output_norms: whether the maps that leave the encoder are normalised; norms are made or dropped.
        """
        if (numerics, output_norms) != (self.numerics, self.output_norms):
            raise ConfigError(
                f"{type(self).__name__} computes as {self.numerics!r} with output_norms={self.output_norms}; it cannot "
                f"change to {numerics!r} with output_norms={output_norms}."
            )

    def modules_of(self, i: int) -> tuple[str, ...]:
        """Name the attributes (dotted) that belong to stage `i`: its blocks, what leads to them, its output norm."""
        raise TypeError(f"{type(self).__name__} does not say what belongs to its stages: give it `modules_of`.")

    def frozen(self) -> tuple[str, ...]:
        """Name the attributes that do not learn."""
        return tuple(name for i in range(self.freeze) for name in self.modules_of(i))

    def run(self, block: Callable[..., Any], *args: Any) -> Any:
        """Call a block of a stage on arrays; with remat="block" only `args` are kept for its gradient."""
        return jax.checkpoint(block)(*args) if self.remat == "block" else block(*args)

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
        if images.ndim != 4 or self.bands not in (None, images.shape[-1]):
            raise ConfigError(
                f"{type(self).__name__}: expected images [n h w {self.bands or 'c'}] of the bands that it knows, "
                f"found {images.shape}."
            )
        if min(images.shape[1:3]) < self.strides[0]:
            raise ConfigError(
                f"{type(self).__name__}: regions of {images.shape[1]} x {images.shape[2]} pixels are smaller than one "
                f"patch of {self.strides[0]}; use larger scenes, or fewer regions."
            )
        x, extra = each(lambda x: self.embed(x, borders), images)
        for i in range(STAGES):
            x, extra = each(functools.partial(self._stage, i, borders, None if i < self.freeze else keys), x, extra)
            x, side = mix(i, x) if mix else (x, x)
            maps.append(each(lambda side, i=i: self.normalize(i, side), side))
            if i + 1 < STAGES:
                x = each(lambda x, i=i: self.downsample(i, x, borders), x)
        return tuple(maps)

    def _stage(self, i: int, borders: Borders, keys: Keys | None, x: jax.Array, extra: Any) -> tuple[jax.Array, Any]:
        def stage(x: jax.Array, extra: Any) -> tuple[jax.Array, Any]:
            return self.stage(i, x, extra, borders, keys)

        return jax.checkpoint(stage)(x, extra) if self.remat == "stage" else stage(x, extra)

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
