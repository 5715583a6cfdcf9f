"""SegViT's decoder (Zhang et al. 2022): a query for every class, whose attention is its mask (ATMHead's numerics)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.base import Decoder, check_stage
from holojax.decoders.prediction import Queries
from holojax.errors import ConfigError
from holojax.ops.cross_attention import cross_attend
from holojax.ops.drop_path import derive_keys
from holojax.ops.layer_norm import LayerNorm
from holojax.types import Float, Key

_INIT = jax.nn.initializers.truncated_normal(0.02)


class SegViT(Decoder):
    """Let one query a class read the maps from the last to the first; where it looks is the mask of its class.

    Queries belong to the region in isolated mode and to the scene in exact mode. The masks of all levels add up, at
    the size of the first map that is read; the maps may be those of a plain transformer or a pyramid. The official
    code's dropping of attention weights is left out, the others are here.

    Args:
        channels_in: channels of the encoder's maps, finest first.
        classes: classes, of which each has a query.
        channels: channels within the decoder.
        layers: transformer layers for each map.
        heads: attention heads.
        stages: which maps are read, from 0; the last one is read first.
        dropout: probability of dropping a number within the layers in training.
        rngs: source of the first weights.

    Raises:
        ConfigError: heads do not divide the channels, or there is no such stage.
    """

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 256,
        layers: int = 3,
        heads: int = 8,
        stages: Sequence[int] = (1, 2, 3),
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        super().__init__(channels_in)
        if heads < 1 or channels % heads:
            raise ConfigError(f"segvit: heads={heads} do not divide channels={channels}.")
        if not stages:
            raise ConfigError("segvit: stages must name a map at least.")
        self.stages = tuple(check_stage("segvit", stage, channels_in) for stage in stages)
        read = [channels_in[stage] for stage in reversed(self.stages)]
        self.projections = nnx.List(_linear(c, channels, rngs) for c in read)
        self.norms = nnx.List(LayerNorm(channels, epsilon=1e-5, rngs=rngs) for _ in read)
        self.levels = nnx.List(
            nnx.List(Layer(channels, heads=heads, dropout=dropout, rngs=rngs) for _ in range(layers)) for _ in read
        )
        self.queries = nnx.Param(jax.random.normal(rngs.params(), (classes, channels)))
        self.class_embed = _linear(channels, classes + 1, rngs)
        self.deterministic = True  # what `train()` and `eval()` switch

    def decode(self, maps, borders=ISOLATED, keys=None):
        """Return class and mask of every query; in training those after the earlier levels come along."""
        n, size = maps[0].shape[0], maps[self.stages[0]].shape[1:3]
        queries = borders.per_surrounding(self.queries[...], n)
        # Regions of a scene have one key.
        keys = None if keys is None else keys[:: n // borders.surroundings(n)]
        answers, masks, number = [], 0, 0
        layers = zip(reversed(self.stages), self.projections, self.norms, self.levels, strict=True)
        for stage, projection, norm, level in layers:
            x = norm(projection(maps[stage]))
            for layer in level:
                queries, seen = layer(queries, x, borders, derive_keys(keys, number))
                number += 1
            masks += borders.resize(seen, size)
            answers.append(Queries(borders.per_region(self.class_embed(queries)), masks, by_class=True))
        *earlier, last = answers
        return Queries(last.classes, last.masks, () if self.deterministic else tuple(earlier), by_class=True)


class Layer(nnx.Module):
    """Let queries see each other, then a map, then themselves; each time they are normalised after it."""

    def __init__(self, channels: int, *, heads: int, dropout: float, rngs: nnx.Rngs):
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = _linear(channels, 3 * channels, rngs), _linear(channels, channels, rngs)
        self.q, self.k, self.v, self.proj = (_linear(channels, channels, rngs) for _ in range(4))
        self.fc1, self.fc2 = _linear(channels, 4 * channels, rngs), _linear(4 * channels, channels, rngs)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(channels, epsilon=1e-5, rngs=rngs) for _ in range(3))

    def __call__(
        self,
        queries: Float[jax.Array, "m q c"],
        x: Float[jax.Array, "n h w c"],
        borders: Borders,
        keys: Key[jax.Array, " m"] | None,
    ) -> tuple[Float[jax.Array, "m q c"], Float[jax.Array, "n h w q"]]:
        """Return the new queries, and how much each of them looks at every place: the mean of the heads' scores."""
        q, k, v = (self._split(y) for y in jnp.split(self.qkv(queries), 3, -1))
        read = self.out(_merge(cross_attend(q, k, v)))
        queries = self.norm1(queries + _drop(read, derive_keys(keys, 0), self.dropout))
        q, k = self.q(queries), self.k(x)
        tokens = (self._split(rearrange(y, "n h w c -> n (h w) c")) for y in (k, self.v(x)))
        read = self.proj(_merge(borders.cross_attend(self._split(q), *tokens, borders.key_mask(*x.shape[1:3]))))
        queries = self.norm2(queries + _drop(read, derive_keys(keys, 1), self.dropout))
        hidden = _drop(jax.nn.relu(self.fc1(queries)), derive_keys(keys, 2), self.dropout)
        queries = self.norm3(queries + _drop(self.fc2(hidden), derive_keys(keys, 3), self.dropout))
        # The sum over heads is the product of all channels.
        scale = (q.shape[-1] // self.heads) ** -0.5 / self.heads
        return queries, jnp.einsum("nhwc,nqc->nhwq", k, borders.per_region(q) * scale)

    def _split(self, x: jax.Array) -> jax.Array:
        return rearrange(x, "n t (k d) -> n t k d", k=self.heads)


def _merge(x: jax.Array) -> jax.Array:
    return rearrange(x, "n t k d -> n t (k d)")


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=_INIT, rngs=rngs)


def _drop(x: Float[jax.Array, "m q c"], keys: Key[jax.Array, " m"] | None, rate: float) -> Float[jax.Array, "m q c"]:
    """Drop numbers with probability `rate` and scale the kept ones."""
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), 0)
