"""Mask2Former (Cheng et al. 2022) with the numerics of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.base import Decoder
from holojax.decoders.pixel_decoder import LEVELS, PixelDecoder, linear, sine_positions
from holojax.decoders.prediction import Queries
from holojax.errors import ConfigError
from holojax.ops.cross_attention import cross_attend
from holojax.ops.layer_norm import LayerNorm
from holojax.ops.varying import align
from holojax.types import Bool, Float


class Mask2Former(Decoder):
    """Answer with queries, each of which reads what its own mask shows, and improves the mask layer by layer.

    A region's queries are its own when isolated and the scene's when exact: then their masks lie in pieces where the
    pixels are, and only what the queries read is joined. Masks come at the resolution of the finest map.

    Args:
        channels_in: channels of the encoder's maps, finest first; at least four maps.
        classes: classes scored.
        channels: channels within the decoder.
        queries: segments it can find.
        heads: of all attention.
        points: that a head of deformable attention reads on each level.
        encoder_layers: layers of deformable attention in the pixel decoder.
        encoder_mlp: hidden width of their MLPs.
        decoder_layers: layers of the queries (transformers counts one more).
        decoder_mlp: hidden width of their MLPs.
        rngs: source of the first weights.

    Raises:
        ConfigError: fewer than four maps, or heads that do not divide the channels.
    """

    needs_pyramid = True

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 256,
        queries: int = 100,
        heads: int = 8,
        points: int = 4,
        encoder_layers: int = 6,
        encoder_mlp: int = 1024,
        decoder_layers: int = 9,
        decoder_mlp: int = 2048,
        rngs: nnx.Rngs,
    ):
        super().__init__(channels_in)
        if len(channels_in) <= LEVELS:
            raise ConfigError(f"mask2former: expected at least {LEVELS + 1} maps, found {len(channels_in)}.")
        if heads < 1 or channels % heads or channels % 4:
            raise ConfigError(
                f"mask2former: channels must be a multiple of 4 and of heads, found channels={channels}, heads={heads}."
            )
        self.deterministic = True  # what `train()` and `eval()` switch
        self.pixels = PixelDecoder(
            channels_in=channels_in,
            channels=channels,
            heads=heads,
            points=points,
            layers=encoder_layers,
            mlp=encoder_mlp,
            rngs=rngs,
        )
        normal = jax.nn.initializers.normal(1.0)
        self.features = nnx.Param(normal(rngs.params(), (queries, channels)))
        self.positions = nnx.Param(normal(rngs.params(), (queries, channels)))
        self.level_embed = nnx.Param(normal(rngs.params(), (LEVELS, channels)))
        self.layers = nnx.List(QueryLayer(channels, heads, decoder_mlp, rngs=rngs) for _ in range(decoder_layers))
        self.norm = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.mask_mlp = nnx.List(linear(channels, channels, rngs) for _ in range(3))
        self.classifier = linear(channels, classes + 1, rngs)

    def decode(self, maps, borders=ISOLATED, keys=None):
        """Find segments; in training the answers before every layer come along."""
        levels, pixels = self.pixels(maps, borders)
        sources = [
            read_level(x, embed, pixels, borders) for x, embed in zip(levels, self.level_embed[...], strict=True)
        ]
        x, places = (borders.per_surrounding(table[...], len(pixels)) for table in (self.features, self.positions))
        earlier = []
        for i, layer in enumerate(self.layers):
            if not self.deterministic:
                earlier.append(self._answer(x, pixels, borders))
            source = sources[i % LEVELS]
            shown = _mask(source.pixels, self._mask_vectors(x), borders)
            # As transformers compares: what is 0.5 to float32 is seen.
            mask = jax.nn.sigmoid(jax.lax.stop_gradient(shown)) >= 0.5
            x = layer(x, places, source, mask.reshape(len(mask), -1, mask.shape[-1]).swapaxes(1, 2), borders)
        final = self._answer(x, pixels, borders)
        return Queries(final.classes, final.masks, tuple(earlier))

    def _mask_vectors(self, x: Float[jax.Array, "m q c"]) -> Float[jax.Array, "m q c"]:
        """Return what the finest map is multiplied by to give the queries' masks."""
        first, second, third = self.mask_mlp
        return third(jax.nn.relu(second(jax.nn.relu(first(self.norm(x))))))

    def _answer(self, x: Float[jax.Array, "m q c"], pixels: jax.Array, borders: Borders) -> Queries:
        masks = _mask(pixels, self._mask_vectors(x), borders)
        return Queries(borders.per_region(self.classifier(self.norm(x))), masks)


class Source(NamedTuple):
    """What the queries read of one level."""

    keys: Float[jax.Array, "n t c"]  # values, and where they lie
    values: Float[jax.Array, "n t c"]
    hidden: Bool[jax.Array, "n t"] | None  # as `Borders.key_mask`: False is seen by nobody
    pixels: Float[jax.Array, "n h w c"]  # the finest map at this level's size, for masks


def read_level(x: Float[jax.Array, "n h w c"], embed: jax.Array, pixels: jax.Array, borders: Borders) -> Source:
    """Prepare a level for all layers that read it. A mask of a resized map is the resized mask: it is resized once."""
    n, h, w, c = x.shape
    x, embed = align(x, embed)
    values = x + embed
    keys = values + sine_positions(h, w, c, borders)
    return Source(
        keys.reshape(n, h * w, c), values.reshape(n, h * w, c), borders.key_mask(h, w), borders.resize(pixels, (h, w))
    )


class QueryLayer(nnx.Module):
    """Read a level, then each other, then an MLP, each normalised after it was added."""

    def __init__(self, channels: int, heads: int, mlp: int, *, rngs: nnx.Rngs):
        self.cross = Attention(channels, heads, rngs=rngs)
        self.among = Attention(channels, heads, rngs=rngs)
        self.fc1 = linear(channels, mlp, rngs)
        self.fc2 = linear(mlp, channels, rngs)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(channels, epsilon=1e-5, rngs=rngs) for _ in range(3))

    def __call__(
        self,
        x: Float[jax.Array, "m q c"],
        places: Float[jax.Array, "m q c"],
        source: Source,
        mask: Bool[jax.Array, "n q t"],
        borders: Borders,
    ) -> Float[jax.Array, "m q c"]:
        """Map queries [m q c], whose learned positions are `places`, to the same."""
        q, k, v = self.cross.project(x + places, source.keys, source.values)
        x = self.norm1(x + self.cross.finish(borders.cross_attend(q, k, v, source.hidden, mask)))
        q, k, v = self.among.project(x + places, x + places, x)
        # Queries are few and all here, so this is no matter of borders.
        x = self.norm2(x + self.among.finish(cross_attend(q, k, v)))
        return self.norm3(x + self.fc2(jax.nn.relu(self.fc1(x))))


class Attention(nnx.Module):
    """The linear layers before and after attention."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = linear(channels, 3 * channels, rngs)
        self.proj = linear(channels, channels, rngs)

    def project(self, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        """Map what asks, what is compared and what is read, [n t c] each, to heads [n t k d]."""
        parts = zip(jnp.split(self.qkv.kernel[...], 3, 1), jnp.split(self.qkv.bias[...], 3), strict=True)
        mapped = [x @ kernel + bias for x, (kernel, bias) in zip((q, k, v), parts, strict=True)]
        return tuple(x.reshape(*x.shape[:2], self.heads, -1) for x in mapped)

    def finish(self, x: Float[jax.Array, "n t k d"]) -> Float[jax.Array, "n t c"]:
        """Map heads back."""
        return self.proj(x.reshape(*x.shape[:2], -1))


def _mask(pixels: jax.Array, vectors: jax.Array, borders: Borders) -> Float[jax.Array, "n h w q"]:
    return jnp.einsum("nhwc,nqc->nhwq", pixels, borders.per_region(vectors))
