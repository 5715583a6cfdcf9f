"""SETR's progressive heads (Zheng et al. 2021) with the numerics of mmseg's SETRUPHead."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flax import nnx

from holojax.borders import ISOLATED
from holojax.decoders.base import Decoder
from holojax.decoders.layers import Classifier, ConvNormAct
from holojax.errors import ConfigError
from holojax.ops.layer_norm import LayerNorm

# name: side of the convolutions' kernels, and by how much the map is enlarged after each of them
VARIANTS = {
    "naive": (1, (4,)),
    "pup": (3, (2, 2, 2, 2)),
}


class SETR(Decoder):
    """Normalise a transformer's last map, then convolve and enlarge it in turn, and score the classes.

    "naive" enlarges once by 4, "pup" four times by 2.

    Args:
        channels_in: channels of the encoder's maps; the last one is read.
        classes: classes scored.
        variant: a name of `VARIANTS`.
        channels: channels within the decoder.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.

    Raises:
        ConfigError: the variant is not known.
    """

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        variant: str = "naive",
        channels: int = 256,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ConfigError(f"setr: unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
        kernel, self.factors = VARIANTS[variant]
        self.norm = LayerNorm(channels_in[-1], epsilon=1e-6, rngs=rngs)
        widths = [channels_in[-1], *[channels] * len(self.factors)]
        self.convs = nnx.List(ConvNormAct(c, d, kernel=kernel, rngs=rngs) for c, d in itertools.pairwise(widths))
        self.classifier = Classifier(channels, classes, dropout=dropout, rngs=rngs)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the last map times all the factors."""
        x = self.norm(maps[-1])
        for conv, factor in zip(self.convs, self.factors, strict=True):
            x = conv(x, borders)
            x = borders.resize(x, (x.shape[1] * factor, x.shape[2] * factor))
        return self.classifier(x, keys)
