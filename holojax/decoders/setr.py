"""SETR's decoders (Zheng et al. 2021) with the numerics of mmseg's SETRUPHead, and MLANeck with SETRMLAHead."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.base import Decoder, check_stage
from holojax.decoders.layers import Classifier, ConvNormAct
from holojax.decoders.prediction import Dense
from holojax.errors import ConfigError
from holojax.ops.layer_norm import LayerNorm

# name: side of the convolutions' kernels, and by how much the map is enlarged after each of them
PROGRESSIVE = {"naive": (1, (4,)), "pup": (3, (2, 2, 2, 2))}
# The auxiliary heads that mmseg's configurations put beside each.
AUXILIARY = {"naive": (1, (4,)), "pup": (3, (4,))}
_ENLARGED = 4  # by how much "mla" enlarges


def setr(
    *,
    channels_in: Sequence[int],
    classes: int,
    variant: str = "naive",
    channels: int = 256,
    norm: str = "batch",
    dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> Decoder:
    """Build SETR's decoder of a variant: "naive" or "pup" (`SETR`), or "mla" (`SETRMLA`); arguments as theirs."""
    sizes = dict(channels_in=channels_in, classes=classes, channels=channels, norm=norm, dropout=dropout, rngs=rngs)
    return SETRMLA(**sizes) if variant == "mla" else SETR(variant=variant, **sizes)


class SETR(Decoder):
    """Normalise a transformer's last map, then convolve and enlarge it in turn, and score the classes.

    "naive" enlarges once by 4, "pup" four times by 2.

    Args:
        channels_in: channels of the encoder's maps.
        classes: classes scored.
        variant: "naive" or "pup".
        channels: channels within the decoder.
        norm: "batch", "group" or "layer", as `ConvNormAct` has them.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.

    Raises:
        ConfigError: the variant or the norm is not known.
    """

    variants = PROGRESSIVE

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        variant: str = "naive",
        channels: int = 256,
        norm: str = "batch",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(channels_in)
        if variant not in self.variants:
            known = (*self.variants, *(["mla"] if self.variants is PROGRESSIVE else []))
            raise ConfigError(f"setr: unknown variant {variant!r}; known: {', '.join(known)}.")
        kernel, self.factors = self.variants[variant]
        self.stage_read = len(channels_in) - 1
        self.norm = LayerNorm(channels_in[-1], epsilon=1e-6, rngs=rngs)
        widths = [channels_in[-1], *[channels] * len(self.factors)]
        self.up_convs = nnx.List(
            ConvNormAct(c, d, kernel=kernel, norm=norm, rngs=rngs) for c, d in itertools.pairwise(widths)
        )
        self.classifier = Classifier(channels, classes, dropout=dropout, rngs=rngs)

    def decode(self, maps, borders=ISOLATED, keys=None):
        """Score the classes; the last enlarging is left to the painter."""
        x = self.norm(maps[self.stage_read])
        *earlier, last = self.factors
        for conv, factor in zip(self.up_convs, [*earlier, None], strict=True):
            x = conv(x, borders)
            if factor:
                x = borders.resize(x, (x.shape[1] * factor, x.shape[2] * factor))
        # Scoring places and enlarging may change places: the classes are fewer than the channels.
        return Dense(self.classifier(x, keys), enlarged=last)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the map that is read times all the factors."""
        return self.decode(maps, borders, keys).spread(borders)


class SETRAux(SETR):
    """Score the classes from one stage's map as mmseg's configurations of SETR have it: one convolution, enlarged by 4.

    The kernels of "naive" are 1 x 1, of "pup" 3 x 3. Arguments as `SETR`, and `stage`, the map that is read, from 0.
    """

    variants = AUXILIARY

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        variant: str = "naive",
        channels: int = 256,
        stage: int = 0,
        norm: str = "batch",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        width = channels_in[check_stage("setr", stage, channels_in)]
        super().__init__(
            channels_in=(width,),
            classes=classes,
            variant=variant,
            channels=channels,
            norm=norm,
            dropout=dropout,
            rngs=rngs,
        )
        self.stage_read, self.channels_in = stage, tuple(channels_in)


class MLANeck(nnx.Module):
    """Add up a transformer's maps from the last to the first, with the numerics of mmseg's MLANeck.

    Maps of a pyramid, which mmseg's does not take, are brought to the size of the first one.

    Args:
        channels_in: channels of the maps.
        channels: channels of the sums.
        norm: "batch", "group" or "layer", as `ConvNormAct` has them.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels_in: Sequence[int], channels: int, norm: str, rngs: nnx.Rngs):
        self.norms = nnx.List(LayerNorm(c, epsilon=1e-6, rngs=rngs) for c in channels_in)
        self.projections = nnx.List(ConvNormAct(c, channels, norm=norm, rngs=rngs) for c in channels_in)
        self.smoothers = nnx.List(ConvNormAct(channels, channels, kernel=3, norm=norm, rngs=rngs) for _ in channels_in)

    def __call__(self, maps: Sequence[jax.Array], borders: Borders) -> tuple[jax.Array, ...]:
        """Return the last map, the sum of the last two, and so on, each projected before and convolved after."""
        layers = zip(self.norms, self.projections, maps, strict=True)
        size = maps[0].shape[1:3]
        parts = [borders.resize(projection(norm(x), borders), size) for norm, projection, x in layers]
        sums = itertools.accumulate(reversed(parts))
        return tuple(smooth(x, borders) for smooth, x in zip(self.smoothers, sums, strict=True))


class SETRMLA(Decoder):
    """Add up a transformer's maps, and score the classes from all sums together.

    Its `neck` makes the sums, which auxiliary heads read too.

    Args:
        channels_in: channels of the encoder's maps, those of a plain transformer or a pyramid.
        classes: classes scored.
        channels: channels of the sums; each is scored from half as many.
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
        channels: int = 256,
        norm: str = "batch",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        def conv(inputs: int) -> ConvNormAct:
            return ConvNormAct(inputs, half, kernel=3, norm=norm, rngs=rngs)

        super().__init__(channels_in)
        self.channels, half = channels, max(channels // 2, 1)
        self.mla = MLANeck(channels_in=channels_in, channels=channels, norm=norm, rngs=rngs)
        self.up_convs = nnx.List(nnx.List([conv(channels), conv(half)]) for _ in channels_in)
        self.classifier = Classifier(half * len(channels_in), classes, dropout=dropout, rngs=rngs)

    def neck(self, maps: Sequence[jax.Array], borders: Borders = ISOLATED) -> tuple[jax.Array, ...]:
        """Return the sums, the last map alone first."""
        return self.mla(maps, borders)

    def neck_channels(self, channels: Sequence[int]) -> tuple[int, ...]:
        """Return the channels of the sums."""
        return (self.channels,) * len(channels)

    def decode(self, maps, borders=ISOLATED, keys=None):
        """Score the classes; enlarging is left to the painter."""
        levels = zip(self.up_convs, maps, strict=True)
        found = [second(first(x, borders), borders) for (first, second), x in levels]
        # mmseg enlarges the levels and then scores the classes: the same, but larger.
        return Dense(self.classifier(jnp.concatenate(found, -1), keys), enlarged=_ENLARGED)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at 4 times the resolution of the maps."""
        return self.decode(maps, borders, keys).spread(borders)
