"""UPerNet (Xiao et al. 2018) with the numerics of mmseg's UPerHead, or of the head of REST's released weights."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.base import Decoder
from holojax.decoders.layers import BatchNorm, Classifier, ConvNormAct
from holojax.errors import ConfigError
from holojax.types import Float


def upernet(
    *,
    channels_in: Sequence[int],
    classes: int,
    variant: str = "mmseg",
    channels: int = 512,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    norm: str = "batch",
    dropout: float = 0.1,
    rngs: nnx.Rngs,
) -> Decoder:
    """Build a variant: "mmseg" (`UPerNet`), or "lwc" (`UPerNetLWC`), which drops nothing; arguments as theirs.

    Raises:
        ConfigError: the variant or the norm is not known.
    """
    sizes = dict(
        channels_in=channels_in, classes=classes, channels=channels, pool_scales=pool_scales, norm=norm, rngs=rngs
    )
    if variant == "lwc":
        return UPerNetLWC(**sizes)
    if variant != "mmseg":
        raise ConfigError(f"upernet: unknown variant {variant!r}; known: mmseg, lwc.")
    return UPerNet(**sizes, dropout=dropout)


class Fusion(Decoder):
    """Pool the coarsest map pyramid-wise, pass it down to the finer ones, and read all of them together.

    Maps are never joined along their channels: the kernel that would read them is split instead, and each part meets
    its map before that is enlarged. Arguments as `UPerNet`.
    """

    needs_pyramid = True

    def __init__(
        self, *, channels_in: Sequence[int], channels: int, pool_scales: Sequence[int], norm: str, rngs: nnx.Rngs
    ):
        def conv(inputs: int, kernel: int = 1) -> ConvNormAct:
            return ConvNormAct(inputs, channels, kernel=kernel, norm=norm, rngs=rngs)

        super().__init__(channels_in)
        *finer, coarsest = channels_in
        self.pool_scales = tuple(pool_scales)
        self.widths = (coarsest, *[channels] * len(self.pool_scales)), (channels,) * len(channels_in)
        self.pools = nnx.List(conv(coarsest) for _ in self.pool_scales)
        self.bottleneck = conv(sum(self.widths[0]), 3)
        self.laterals = nnx.List(conv(c) for c in finer)
        self.smoothers = nnx.List(conv(channels, 3) for _ in finer)
        self.fusion = conv(sum(self.widths[1]), 3)

    def fuse(self, maps: Sequence[jax.Array], borders: Borders) -> Float[jax.Array, "n h w c"]:
        """Make one map of all of them, at the resolution of the finest."""
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
        return self.fusion.finish(sum(parts), borders)

    def _pyramid(self, x: jax.Array, borders: Borders) -> jax.Array:
        first, *kernels = self.bottleneck.kernels(self.widths[0], x)
        total = borders.resize_conv(x, first, x.shape[1:3])
        for bins, pool, kernel in zip(self.pool_scales, self.pools, kernels, strict=True):
            total += self._pool(pool, bins, kernel, x, borders)
        return self.bottleneck.finish(total, borders)

    def _pool(self, conv: ConvNormAct, bins: int, kernel: jax.Array, x: jax.Array, borders: Borders) -> jax.Array:
        """Return what the bottleneck's kernel makes of one pooled copy of the coarsest map."""
        return borders.map_pooled(conv, x, bins, kernel)


class UPerNet(Fusion):
    """Pool the coarsest map pyramid-wise, pass it down to the finer ones, and score all of them together.

    Scores come at the resolution of the finest map.

    Args:
        channels_in: channels of the encoder's maps, finest first.
        classes: classes scored.
        channels: channels within the decoder.
        pool_scales: bins per side of each pooled copy of the coarsest map.
        norm: "batch", "group" or "layer", as `ConvNormAct` has them.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.

    Raises:
        ConfigError: the norm is not known.
    """

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "batch",
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        super().__init__(channels_in=channels_in, channels=channels, pool_scales=pool_scales, norm=norm, rngs=rngs)
        self.classifier = Classifier(channels, classes, dropout=dropout, rngs=rngs)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the finest map."""
        return self.classifier(self.fuse(maps, borders), keys)


class LateFusion(Fusion):
    """Normalise pooled maps after they are enlarged, not before; arguments as `Fusion`."""

    def _pool(self, conv, bins, kernel, x, borders):
        # Enlarging and a 1 x 1 convolution may change places: the latter has less to do on the pooled map.
        pooled = conv.finish(borders.map_pooled(conv.convolve, x, bins), borders)
        return borders.resize_conv(pooled, kernel, x.shape[1:3])


class UPerNetLWC(Decoder):
    """Compute what REST's released GLH-Water weights mean (UPerHead_lwc): for them alone, not a design to use.

    Unlike `UPerNet` it normalises the pooled maps after they are enlarged, convolves once more before the classes are
    scored, drops nothing, moves its running averages by 0.001, and gives its scores at the resolution of the coarsest
    map, which throws away what the finer ones have found. Arguments as `UPerNet`.
    """

    needs_pyramid = True

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "batch",
        rngs: nnx.Rngs,
    ):
        super().__init__(channels_in)
        self.body = LateFusion(
            channels_in=channels_in, channels=channels, pool_scales=pool_scales, norm=norm, rngs=rngs
        )
        self.last = ConvNormAct(channels, channels, kernel=3, norm=norm, rngs=rngs)
        self.scorer = Classifier(channels, classes, dropout=0.0, rngs=rngs)
        for _, node in nnx.iter_graph(self):
            if isinstance(node, BatchNorm):
                node.momentum = 0.999

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the coarsest map."""
        scores = self.scorer(self.last(self.body.fuse(maps, borders), borders), keys)
        return borders.resize(scores, maps[-1].shape[1:3])
