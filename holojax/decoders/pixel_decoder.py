"""Mask2Former's pixel decoder (Cheng et al. 2022): deformable attention over three levels, and a finer map."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from holojax.borders import Borders
from holojax.decoders.layers import ConvNormAct, GroupNorm
from holojax.ops.layer_norm import LayerNorm
from holojax.types import Float

LEVELS = 3  # maps that deformable attention joins: the coarsest ones
_TEMPERATURE = 10000.0
_XAVIER = jax.nn.initializers.xavier_uniform()


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, use_bias: bool = True) -> nnx.Linear:
    """Make a linear layer that starts as the published code's: Xavier, bias 0."""
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=_XAVIER, rngs=rngs)


def sine_positions(height: int, width: int, channels: int, borders: Borders) -> Float[jax.Array, "m h w c"]:
    """Describe places of a map by sines and cosines of where they lie in the surroundings (m = n or 1).

    Half of the channels for the row, half for the column, both counted from 1 and scaled to 2 pi at the last one that
    counts (transformers' Mask2FormerSinePositionEmbedding, normalised).
    """
    half = channels // 2
    rates = _TEMPERATURE ** (2 * (np.arange(half) // 2) / half)
    tables = []
    for place, extent in zip(borders.places(height, width), borders.span(height, width), strict=True):
        angle = ((place + 1) / (extent[:, None] + 1e-6) * (2 * np.pi))[..., None] / rates.astype(np.float32)
        tables.append(jnp.where(np.arange(half) % 2, jnp.cos(angle), jnp.sin(angle)))
    rows, cols = tables
    m = max(len(rows), len(cols))
    rows = jnp.broadcast_to(rows[:, :, None], (m, height, width, half))
    return jnp.concatenate([rows, jnp.broadcast_to(cols[:, None], rows.shape)], -1)


class PixelDecoder(nnx.Module):
    """Let the three coarsest maps read each other by deformable attention, and bring the result to the finest.

    Args:
        channels_in: channels of the encoder's maps, finest first; at least four maps.
        channels: channels within.
        heads: of the attention.
        points: that a head reads on each level.
        layers: of the attention.
        mlp: hidden width of its layers' MLPs.
        rngs: source of the first weights.
    """

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        channels: int,
        heads: int,
        points: int,
        layers: int,
        mlp: int,
        rngs: nnx.Rngs,
    ):
        finer, coarser = channels_in[:-LEVELS], channels_in[-LEVELS:]
        self.channels = channels
        self.level_embed = nnx.Param(jax.random.normal(rngs.params(), (LEVELS, channels)))
        self.projections = nnx.List(Projection(c, channels, use_bias=True, rngs=rngs) for c in reversed(coarser))
        self.layers = nnx.List(DeformableLayer(channels, heads, points, mlp, rngs=rngs) for _ in range(layers))
        self.laterals = nnx.List(Projection(c, channels, use_bias=False, rngs=rngs) for c in finer)
        self.smoothers = nnx.List(ConvNormAct(channels, channels, kernel=3, norm="group", rngs=rngs) for _ in finer)
        self.mask = linear(channels, channels, rngs)

    def __call__(self, maps: Sequence[jax.Array], borders: Borders) -> tuple[list[jax.Array], jax.Array]:
        """Map the encoder's maps to the three levels [n h w c], coarsest first, and the finest map [n h w c]."""
        *finer, c, b, a = maps
        levels = [project(x, borders) for project, x in zip(self.projections, (a, b, c), strict=True)]
        sizes = [x.shape[1:3] for x in levels]
        places = [sine_positions(*size, self.channels, borders) + self.level_embed[i] for i, size in enumerate(sizes)]
        places = jnp.concatenate([_tokens(x) for x in places], 1)
        references = reference_points(sizes, borders)
        x = jnp.concatenate([_tokens(level) for level in levels], 1)
        for layer in self.layers:
            x = layer(x, places, references, sizes, borders)
        levels = cut_levels(x, sizes)
        finest = levels[-1]
        for i in reversed(range(len(finer))):
            lateral = self.laterals[i](finer[i], borders)
            finest = self.smoothers[i](lateral + borders.resize(finest, lateral.shape[1:3]), borders)
        return levels, self.mask(finest)


class Projection(nnx.Module):
    """Map channels place by place and normalise them in groups over the surroundings."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, rngs: nnx.Rngs):
        self.linear = linear(inputs, outputs, rngs, use_bias=use_bias)
        self.norm = GroupNorm(outputs)

    def __call__(self, x: Float[jax.Array, "n h w c"], borders: Borders) -> Float[jax.Array, "n h w d"]:
        """Map [n h w inputs] to [n h w outputs]."""
        return self.norm(self.linear(x), borders)


class DeformableLayer(nnx.Module):
    """Deformable attention and an MLP, each normalised after it was added."""

    def __init__(self, channels: int, heads: int, points: int, mlp: int, *, rngs: nnx.Rngs):
        self.attention = DeformableAttention(channels, heads, points, rngs=rngs)
        self.norm1 = LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.fc1 = linear(channels, mlp, rngs)
        self.fc2 = linear(mlp, channels, rngs)
        self.norm2 = LayerNorm(channels, epsilon=1e-5, rngs=rngs)

    def __call__(self, x, places, references, sizes, borders: Borders) -> Float[jax.Array, "n t c"]:
        """Map the tokens of all levels [n t c]; other arguments as `DeformableAttention`."""
        x = self.norm1(x + self.attention(x, places, references, sizes, borders))
        return self.norm2(x + self.fc2(jax.nn.relu(self.fc1(x))))


class DeformableAttention(nnx.Module):
    """Read a few places of every level, which each token chooses itself (Zhu et al. 2021)."""

    def __init__(self, channels: int, heads: int, points: int, *, rngs: nnx.Rngs):
        self.heads, self.points = heads, points
        reads = heads * LEVELS * points
        zeros = jax.nn.initializers.zeros
        self.offsets = nnx.Linear(channels, reads * 2, kernel_init=zeros, rngs=rngs)
        self.offsets.bias[...] = jnp.asarray(first_offsets(heads, points).reshape(-1))
        self.weights = nnx.Linear(channels, reads, kernel_init=zeros, rngs=rngs)
        self.value = linear(channels, channels, rngs)
        self.proj = linear(channels, channels, rngs)

    def __call__(
        self,
        x: Float[jax.Array, "n t c"],
        places: Float[jax.Array, "m t c"],
        references: Sequence[Float[jax.Array, "m t 2"]],
        sizes: Sequence[tuple[int, int]],
        borders: Borders,
    ) -> Float[jax.Array, "n t c"]:
        """Read the tokens of all levels, of which there are `sizes`, around reference points on each of them."""
        n, t, c = x.shape
        asking = x + places
        shape = (n, t, self.heads, LEVELS, self.points)
        offsets = self.offsets(asking).astype(jnp.float32).reshape(*shape, 2)[..., ::-1]  # stored as (x, y)
        weights = self.weights(asking).astype(jnp.float32).reshape(*shape[:3], -1)
        weights = jax.nn.softmax(weights, -1).reshape(shape)
        values = cut_levels(self.value(x), sizes)
        total = 0
        for i, (value, reference) in enumerate(zip(values, references, strict=True)):
            value = value.reshape(*value.shape[:3], self.heads, -1)
            positions = reference[:, :, None, None] + offsets[:, :, :, i]
            total += borders.deform(value, positions, weights[:, :, :, i])
        return self.proj(total.reshape(n, t, c))


def first_offsets(heads: int, points: int) -> np.ndarray:
    """Return where the heads look at first, (x, y) [heads, levels, points, 2]: in all directions, 1 to `points` far."""
    angle = np.arange(heads) * (2 * np.pi / heads)
    ways = np.stack([np.cos(angle), np.sin(angle)], -1)
    ways /= np.abs(ways).max(-1, keepdims=True)
    steps = ways[:, None] * np.arange(1, points + 1)[:, None]
    return np.repeat(steps[:, None], LEVELS, 1).astype(np.float32)


def reference_points(sizes: Sequence[tuple[int, int]], borders: Borders) -> list[Float[jax.Array, "m t 2"]]:
    """Return where the tokens of all levels lie on each level: (row, column) from the region's corner (m = n or 1).

    Levels cover the surroundings alike, up to the last place that counts in each of them.
    """
    spans = [borders.span(*size) for size in sizes]
    scenes = [borders.places(*size) for size in sizes]
    references = []
    for to, extents in zip(scenes, spans, strict=True):
        parts = []
        for of, own in zip(scenes, spans, strict=True):
            row, col = (
                (of[axis] + 0.5) / own[axis][:, None] * extents[axis][:, None] - 0.5 - to[axis][:, :1]
                for axis in (0, 1)
            )
            row, col = jnp.broadcast_arrays(row[:, :, None], col[:, None])
            parts.append(jnp.stack([row, col], -1).reshape(len(row), -1, 2))
        references.append(jnp.concatenate(parts, 1))
    return references


def cut_levels(x: Float[jax.Array, "n t c"], sizes: Sequence[tuple[int, int]]) -> list[Float[jax.Array, "n h w c"]]:
    """Make maps of the tokens of several levels."""
    ends = np.cumsum([h * w for h, w in sizes])[:-1]
    parts = jnp.split(x, ends, axis=1)
    return [part.reshape(len(x), *size, -1) for part, size in zip(parts, sizes, strict=True)]


def _tokens(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])
