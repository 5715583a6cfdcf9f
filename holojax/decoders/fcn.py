"""A fully convolutional head on one map, with the numerics of mmseg's FCNHead (one convolution, no skip)."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from holojax.borders import ISOLATED
from holojax.decoders.base import Decoder
from holojax.decoders.layers import Classifier, ConvNormAct
from holojax.errors import ConfigError


class FCN(Decoder):
    """Score the classes from one stage's map; usually the auxiliary head that training alone uses.

    Args:
        channels_in: channels of the encoder's maps.
        classes: classes scored.
        channels: channels within the head.
        stage: which map it reads, from 0.
        dropout: probability of dropping a channel before the classifier.
        rngs: source of the first weights.

    Raises:
        ConfigError: there is no such stage.
    """

    def __init__(
        self,
        *,
        channels_in: Sequence[int],
        classes: int,
        channels: int = 256,
        stage: int = 2,
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        if not 0 <= stage < len(channels_in):
            raise ConfigError(f"fcn: stage must lie in 0 to {len(channels_in) - 1}, found {stage}.")
        self.stage_read = stage
        self.conv = ConvNormAct(channels_in[stage], channels, kernel=3, rngs=rngs)
        self.classifier = Classifier(channels, classes, dropout=dropout, rngs=rngs)

    def scores(self, maps, borders=ISOLATED, keys=None):
        """Score the classes at the resolution of the stage that is read."""
        return self.classifier(self.conv(maps[self.stage_read], borders), keys)
