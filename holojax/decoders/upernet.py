"""UPerNet (Xiao et al. 2018) with the numerics of mmseg's UPerHead, or of the head of REST's released weights."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.base import Decoder
from holojax.decoders.layers import BatchNorm, Classifier, ConvNormAct
from holojax.errors import ConfigError

VARIANTS = ("mmseg", "lwc")


class UPerNet(Decoder):
    """Pool the coarsest map pyramid-wise, pass it down to the finer ones, and score all of them together.

    Scores come at the resolution of the finest map. Maps are never joined along their channels: the kernel that would
    read them is split instead, and each part meets its map before that is enlarged.

    The variant "lwc" is for REST's released weights alone, not a design to use: it enlarges the pooled maps before
    they are normalised, has one more convolution before the classes are scored, moves its running averages by 0.001,
    drops nothing, and gives its scores at the resolution of the coarsest map, by far too coarse.

    Args:
        channels_in: channels of the encoder's maps, finest first.
        classes: classes scored.
        variant: "mmseg" or "lwc".
        channels: channels within the decoder.
        pool_scales: bins per side of each pooled copy of the coarsest map.
        norm: "batch", "group" or "layer", as `ConvNormAct` has them.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.

    Raises:
        ConfigError: the variant or the norm is not known.
    """

    needs_pyramid = True

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        variant: str = "mmseg",
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "batch",
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ConfigError(f"upernet: unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")

        def conv(inputs: int, kernel: int = 1) -> ConvNormAct:
            return ConvNormAct(inputs, channels, kernel=kernel, norm=norm, rngs=rngs)

        *finer, coarsest = channels_in
        self.variant, self.pool_scales = variant, tuple(pool_scales)
        self.widths = (coarsest, *[channels] * len(self.pool_scales)), (channels,) * len(channels_in)
        self.pools = nnx.List(conv(coarsest) for _ in self.pool_scales)
        self.bottleneck = conv(sum(self.widths[0]), 3)
        self.laterals = nnx.List(conv(c) for c in finer)
        self.smoothers = nnx.List(conv(channels, 3) for _ in finer)
        self.fusion = conv(sum(self.widths[1]), 3)
        if variant == "lwc":
            self.last, dropout = conv(channels, 3), 0.0
            for _, node in nnx.iter_graph(self):
                if isinstance(node, BatchNorm):
                    node.momentum = 0.999
        self.classifier = Classifier(channels, classes, dropout=dropout, rngs=rngs)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the finest map ("lwc": of the coarsest)."""
        *finer, coarsest = maps
        levels = [lateral(x, borders) for lateral, x in zip(self.laterals, finer, strict=True)]
        levels.append(self._pyramid(coarsest, borders))
        for i in reversed(range(len(finer))):
            levels[i] += borders.resize(levels[i + 1], levels[i].shape[1:3])
        # The coarsest level has been through a 3 x 3 convolution already.
        levels[:-1] = [smooth(x, borders) for smooth, x in zip(self.smoothers, levels[:-1], strict=True)]
        size = levels[0].shape[1:3]
        kernels = self.fusion.kernels(self.widths[1], levels[0])
        parts = [borders.resize_conv(x, kernel, size) for x, kernel in zip(levels, kernels, strict=True)]
        fused = self.fusion.finish(sum(parts), borders)
        if self.variant == "lwc":
            return borders.resize(self.classifier(self.last(fused, borders), None), coarsest.shape[1:3])
        return self.classifier(fused, keys)

    def _pyramid(self, x: jax.Array, borders: Borders) -> jax.Array:
        first, *kernels = self.bottleneck.kernels(self.widths[0], x)
        total = borders.resize_conv(x, first, x.shape[1:3])
        for bins, pool, kernel in zip(self.pool_scales, self.pools, kernels, strict=True):
            if self.variant == "lwc":
                # Enlarging and a 1 x 1 convolution may change places: the latter has less to do on the pooled map.
                pooled = borders.map_pooled(pool.convolve, x, bins)
                total += borders.resize_conv(pool.finish(pooled, borders), kernel, x.shape[1:3])
            else:
                total += borders.map_pooled(pool, x, bins, kernel)
        return self.bottleneck.finish(total, borders)
