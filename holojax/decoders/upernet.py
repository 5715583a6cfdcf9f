"""UPerNet (Xiao et al. 2018) with the numerics of mmseg's UPerHead."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.base import Decoder
from holojax.decoders.layers import Classifier, ConvNormAct


class UPerNet(Decoder):
    """Pool the coarsest map pyramid-wise, pass it down to the finer ones, and score all of them together.

    Scores come at the resolution of the finest map.

    Args:
        channels_in: channels of the encoder's maps, finest first.
        classes: classes scored.
        channels: channels within the decoder.
        pool_scales: bins per side of each pooled copy of the coarsest map.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.
    """

    needs_pyramid = True

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        *finer, coarsest = channels_in
        self.pool_scales = tuple(pool_scales)
        self.pools = nnx.List(ConvNormAct(coarsest, channels, rngs=rngs) for _ in self.pool_scales)
        pooled = coarsest + len(self.pool_scales) * channels
        self.bottleneck = ConvNormAct(pooled, channels, kernel=3, rngs=rngs)
        self.laterals = nnx.List(ConvNormAct(c, channels, rngs=rngs) for c in finer)
        self.smoothers = nnx.List(ConvNormAct(channels, channels, kernel=3, rngs=rngs) for _ in finer)
        self.fusion = ConvNormAct(len(channels_in) * channels, channels, kernel=3, rngs=rngs)
        self.classifier = Classifier(channels, classes, dropout=dropout, rngs=rngs)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the finest map."""
        *finer, coarsest = maps
        levels = [lateral(x, borders) for lateral, x in zip(self.laterals, finer, strict=True)]
        levels.append(self._pyramid(coarsest, borders))
        for i in reversed(range(len(finer))):
            levels[i] += borders.resize(levels[i + 1], levels[i].shape[1:3])
        # The coarsest level has been through a 3 x 3 convolution already.
        levels[:-1] = [smooth(x, borders) for smooth, x in zip(self.smoothers, levels[:-1], strict=True)]
        size = levels[0].shape[1:3]
        joined = jnp.concatenate([borders.resize(x, size) for x in levels], axis=-1)
        return self.classifier(self.fusion(joined, borders), keys)

    def _pyramid(self, x: jax.Array, borders: Borders) -> jax.Array:
        pooled = [borders.map_pooled(conv, x, s) for s, conv in zip(self.pool_scales, self.pools, strict=True)]
        return self.bottleneck(jnp.concatenate([x, *pooled], axis=-1), borders)
