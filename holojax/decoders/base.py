"""What all decoders share: an answer on their own map, resized to the image."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from holojax.borders import ISOLATED, Borders
from holojax.decoders.painter import Painter
from holojax.decoders.prediction import Dense, Prediction
from holojax.errors import ConfigError
from holojax.types import Float, Keys


class Decoder(nnx.Module):
    """Turn a pyramid of maps into class scores. A subclass gives `scores`, or `decode` where it has another answer.

    Attributes:
        needs_pyramid: whether each map has to be finer than the next.
        channels_in: channels of the maps that it was made for; (): of any.

    Raises:
        ConfigError: there is no map to read, or one without channels.
    """

    needs_pyramid = False
    channels_in = ()

    def __init__(self, channels_in: Sequence[int]):
        self.channels_in = tuple(channels_in)
        if not self.channels_in or min(self.channels_in) < 1:
            raise ConfigError(
                f"{type(self).__name__}: expected the channels of one map or more, each above 0, found "
                f"{self.channels_in}. Give those of the encoder (`encoder.channels`)."
            )

    def __call__(
        self,
        maps: Sequence[jax.Array],
        size: tuple[int, int],
        borders: Borders = ISOLATED,
        keys: Keys | None = None,
    ) -> Float[jax.Array, "n H W k"]:
        """Decode maps [n h w c], finest first, to float32 logits [n rows cols classes] at `size`.

        Decoders that answer with queries give scores: the sum over queries of p(class) sigmoid(mask).

        Args:
            maps: the encoder's maps.
            size: rows and columns of a region in pixels.
            borders: what a region sees beyond its edge.
            keys: one key per region for dropout; None: nothing is dropped.

        Raises:
            ConfigError: there are more or fewer maps than the decoder was made for, or of other channels.
        """
        self.check(maps)
        return Painter(self.decode(self.neck(maps, borders), borders, keys), size, borders).whole()

    def check(self, maps: Sequence[jax.Array]) -> None:
        """Raise a ConfigError unless the encoder's maps are those that the decoder was made for."""
        if self.channels_in and self.channels_in != tuple(x.shape[-1] for x in maps):
            raise ConfigError(
                f"{type(self).__name__}: expected {len(self.channels_in)} maps [n h w c] of {self.channels_in} "
                f"channels, found {len(maps)} of shapes {', '.join(str(x.shape) for x in maps)}. Build the decoder for "
                f"these channels, or give it all maps of the encoder that it was built for."
            )

    def neck(self, maps: Sequence[jax.Array], borders: Borders = ISOLATED) -> Sequence[jax.Array]:
        """Prepare the maps, for `decode` and for an auxiliary decoder alike."""
        return maps

    def neck_channels(self, channels: Sequence[int]) -> tuple[int, ...]:
        """Return the channels of the maps that `neck` makes of maps of `channels`."""
        return tuple(channels)

    def decode(
        self, maps: Sequence[jax.Array], borders: Borders = ISOLATED, keys: Keys | None = None
    ) -> Prediction | tuple[Prediction, ...]:
        """Decode the maps that `neck` made to an answer at the decoder's own resolution; auxiliary ones to several."""
        return Dense(self.scores(maps, borders, keys))

    def scores(
        self, maps: Sequence[jax.Array], borders: Borders = ISOLATED, keys: Keys | None = None
    ) -> Float[jax.Array, "n h w k"]:
        """Decode the maps that `neck` made to class scores at the decoder's own resolution."""
        raise TypeError(f"{type(self).__name__} does not say how maps become scores: give it `scores` or `decode`.")


def check_stage(name: str, stage: int, channels_in: Sequence[int]) -> int:
    """Return the stage that a decoder reads; raise a ConfigError if there is no such."""
    if not 0 <= stage < len(channels_in):
        raise ConfigError(f"{name}: stage must lie in 0 to {len(channels_in) - 1}, found {stage}.")
    return stage
