"""A fully convolutional head on one map, with the numerics of mmseg's FCNHead."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from holojax.borders import ISOLATED
from holojax.decoders.base import Decoder, check_stage
from holojax.decoders.layers import Classifier, ConvNormAct
from holojax.errors import ConfigError


class FCN(Decoder):
    """Score the classes from one stage's map; usually the auxiliary head that training alone uses.

    Args:
        channels_in: channels of the encoder's maps.
        classes: classes scored.
        channels: channels within the head.
        stage: which map it reads, from 0.
        convs: convolutions before the classifier; with none of them it reads the map as it is.
        kernel: side of their kernels.
        concat: one more convolution reads the map and what the others made of it together.
        norm: "batch", "group" or "layer", as `ConvNormAct` has them.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.

    Raises:
        ConfigError: there is no such stage or norm, or less than no convolution.
    """

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 256,
        stage: int = 2,
        convs: int = 1,
        kernel: int = 3,
        concat: bool = False,
        norm: str = "batch",
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        super().__init__(channels_in)
        if convs < 0:
            raise ConfigError(f"fcn: convs must be at least 0, found {convs}.")

        def conv(inputs: int) -> ConvNormAct:
            return ConvNormAct(inputs, channels, kernel=kernel, norm=norm, rngs=rngs)

        self.stage_read = check_stage("fcn", stage, channels_in)
        width = channels_in[stage]
        self.convs = nnx.List(conv(channels if i else width) for i in range(convs))
        made = channels if convs else width
        self.widths = (width, made)
        self.join = conv(width + made) if concat else None
        self.classifier = Classifier(channels if concat else made, classes, dropout=dropout, rngs=rngs)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the stage that is read."""
        first = x = maps[self.stage_read]
        for conv in self.convs:
            x = conv(x, borders)
        if self.join is not None:
            kernels, size = self.join.kernels(self.widths, x), x.shape[1:3]
            parts = [borders.resize_conv(y, kernel, size) for y, kernel in zip((first, x), kernels, strict=True)]
            x = self.join.finish(sum(parts), borders)
        return self.classifier(x, keys)
