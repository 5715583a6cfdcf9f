"""What the models share: an encoder whose stages are joined by mixers, and decoders on its pyramid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from holojax.borders import Borders, Exact, Isolated
from holojax.context.layer import SceneLayer
from holojax.decoders.base import Decoder
from holojax.decoders.painter import Painter
from holojax.decoders.pyramid import FeaturePyramid
from holojax.encoders.base import Encoder, at_once, one_by_one
from holojax.errors import ConfigError, LayoutError
from holojax.ops.drop_path import derive_keys
from holojax.parallel.mesh import DATA
from holojax.parallel.regions import RegionGrid, RegionShard
from holojax.types import RegionMask, RegionStack, SceneKeys

BORDERS = ("isolated", "exact")
PLACEMENTS = ("side", "trunk")


class SceneModel(nnx.Module):
    """Encode every region where it lies, let the regions see each other, decode each where it lies.

    Args:
        bands: channels of the images.
        classes: channels of the logits.
        encoder: offers stages; knows nothing of the mesh.
        mixers: how the regions see each other after an encoder stage, by the stage's number.
        decoder: turns the pyramid into logits.
        pyramid: makes a pyramid of maps of one resolution before the decoder, or None.
        aux: a second decoder for training alone, or None.
        grid: the regions of a scene; in exact mode they are made multiples of the coarsest map's stride.
        border: what a region's encoder and decoder see beyond its edge: "isolated", nothing; "exact", the scene, so
            that the result is that of one large device and does not depend on the grid.
        placement: "side", a mixer's result goes to the decoder alone; "trunk", to the next stage too.
    """

    def __init__(
        self,
        *,
        bands: int,
        classes: int,
        encoder: Encoder,
        mixers: dict[int, SceneLayer],
        decoder: Decoder,
        aux: Decoder | None,
        grid: RegionGrid,
        pyramid: FeaturePyramid | None = None,
        border: str = "isolated",
        placement: str = "side",
    ) -> None:
        if placement not in PLACEMENTS:
            raise ConfigError(f"context.placement: expected one of {', '.join(PLACEMENTS)}, found {placement!r}.")
        if border not in BORDERS:
            raise ConfigError(f"model.border: expected one of {', '.join(BORDERS)}, found {border!r}.")
        self.bands, self.classes = bands, classes
        self.encoder, self.decoder, self.aux, self.pyramid = encoder, decoder, aux, pyramid
        self.mixers = nnx.Dict({str(stage): mixer for stage, mixer in mixers.items()})
        if border == "exact":
            # mmseg's pyramid of a plain transformer ends in a map of half the size.
            coarsest = max(encoder.strides) * (1 if pyramid is None else 2)
            grid = dataclasses.replace(grid, multiple=coarsest)
        self.grid, self.border, self.placement = grid, border, placement

    def __call__(
        self,
        images: RegionStack,
        valid: RegionMask | None,
        shard: RegionShard,
        keys: SceneKeys | None = None,
        output: str = "logits",
        watch: Callable[[Borders], Borders] | None = None,
    ) -> jax.Array | tuple[jax.Array, ...] | dict[str, tuple[Painter, ...]]:
        """Run on this device's block of scenes and regions, inside `Layout.shard`.

        Args:
            images: normalised pixels [b r h w c], zero where not valid.
            valid: bool [b r h w], False on padding and where the scene has no data; None: all valid.
            shard: place of the regions on the mesh.
            keys: one PRNG key a scene [b] for drop path and dropout; None: nothing is dropped.
            output: "logits", "classes", "features" or "train".
            watch: wraps the borders that encoder and decoder get, to look at what they ask for; None: nobody looks.

        Returns:
            "logits": float32 [b r h w k]. "classes": the largest one's number, uint8 [b r h w]; logits of a block of
            rows at a time exist, and isolated regions are encoded and decoded one after the other. "features": what
            the decoder gets, one map [b r h w c] a stage. "train": a dict of `main` and `aux`, tuples of painters
            (`decoders.painter`) of the regions folded with the scenes: one, and one for each auxiliary head.

        Raises:
            LayoutError: in exact mode, regions that are no multiple of `grid.multiple`.
        """
        b, r, h, w, _ = images.shape
        if h % self.grid.multiple or w % self.grid.multiple:
            raise LayoutError(
                f"Regions of {h} x {w} pixels are no multiple of {self.grid.multiple}, which border={self.border!r} "
                f"needs. Cut scenes with the model's own `grid`."
            )
        borders = self._borders(valid, shard, b)
        borders = borders if watch is None else watch(borders)
        region_keys = None if keys is None else jnp.broadcast_to(keys[:, None], (b, r)).reshape(-1)

        def mix(stage: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            if str(stage) not in self.mixers:
                return x, x
            tokens = borders.valid_tokens(*x.shape[1:3])
            tokens = None if tokens is None else _unfold(tokens, b)
            mixer = self.mixers[str(stage)]
            y = _fold(mixer(_unfold(x, b), tokens, shard, derive_keys(keys, 3 + stage)))
            return (y, y) if self.placement == "trunk" else (x, y)

        # Regions that see each other's edges run together.
        alone = output == "classes" and self.border == "isolated"
        each = one_by_one if alone else at_once
        maps = self.encoder(_fold(images), borders, derive_keys(region_keys, 0), mix, each)
        if output == "features":
            return tuple(_unfold(x, b) for x in maps)

        def prepare(*maps: jax.Array) -> Sequence[jax.Array]:
            maps = maps if self.pyramid is None else self.pyramid(maps, borders)
            self.decoder.check(maps)
            return self.decoder.neck(maps, borders)

        def painter(decoder: Decoder, maps: Sequence[jax.Array], number: int) -> Painter | tuple[Painter, ...]:
            answer = decoder.decode(maps, borders, derive_keys(region_keys, number))
            if isinstance(answer, tuple):
                return tuple(Painter(one, (h, w), borders) for one in answer)
            return Painter(answer, (h, w), borders)

        if output == "classes":
            return _unfold(each(lambda *maps: _classes(painter(self.decoder, prepare(*maps), 1)), *maps), b)
        maps = prepare(*maps)
        main = painter(self.decoder, maps, 1)
        if output == "logits":
            return _unfold(main.whole(), b)
        aux = () if self.aux is None else painter(self.aux, maps, 2)
        return {"main": (main,), "aux": aux if isinstance(aux, tuple) else (aux,)}

    def _borders(self, valid: RegionMask | None, shard: RegionShard, scenes: int) -> Borders:
        pixels, axes = None if valid is None else _fold(valid), (DATA, shard.axis)
        if self.border == "exact":
            return Exact(shard=shard, scenes=scenes, valid=pixels, axes=axes)
        return Isolated(valid=pixels, strides=self.encoder.strides, axes=axes)


def _classes(painter: Painter) -> jax.Array:
    return painter.map_rows(lambda scores: scores.argmax(-1).astype(jnp.uint8))


def _fold(x: jax.Array) -> jax.Array:
    return rearrange(x, "b r ... -> (b r) ...")


def _unfold(x: jax.Array, scenes: int) -> jax.Array:
    return rearrange(x, "(b r) ... -> b r ...", b=scenes)
