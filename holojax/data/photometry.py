"""What an augmentation does to a scene's values: drawn here once a scene, done on the devices by `ops.photometry`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from holojax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Distortion:
    """What may be drawn of mmseg's PhotoMetricDistortion; each of the four with its own `probability`.

    Attributes:
        probability: of each step; 0: none is ever done.
        brightness: largest shift of all values, in units of uint8.
        contrast: largest relative change of all values, 0 to 1: 0.5 is a factor of 0.5 to 1.5.
        saturation: likewise, of the saturation.
        hue: largest turn of the hue, degrees either way.
    """

    probability: float | int = 0.0
    brightness: float | int = 32.0
    contrast: float | int = 0.5
    saturation: float | int = 0.5
    hue: float | int = 36.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"augment.distort.probability: expected 0 to 1, found {self.probability}.")
        limits = {"brightness": 255, "contrast": 1, "saturation": 1, "hue": 180}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"augment.distort.{name}: expected 0 to {limit}, found {getattr(self, name)}.")

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Draw shift, factor before, factor of the saturation, turn in degrees and factor after them.

        As mmseg: contrast comes before saturation and hue or after them, equally likely.
        """
        done = rng.random(4) < self.probability
        shift, tone, color, turn = np.where(done, 2 * rng.random(4) - 1, 0)
        contrast = 1 + self.contrast * tone
        before, after = (contrast, 1) if rng.random() < 0.5 else (1, contrast)
        steps = (self.brightness * shift, before, 1 + self.saturation * color, self.hue * turn, after)
        return tuple(float(value) for value in steps)


NO_DISTORTION = Distortion()


@dataclasses.dataclass(frozen=True)
class Shade:
    """What the devices do to the values of one scene; None where the augmentation never does it.

    Attributes:
        gain, offset: `pixels * gain + offset`, in the file's units.
        distortion: see `Distortion.draw`.
        noise: standard deviation of white noise, in standard deviations of each band.
        grain: a number below 2^32 that says which noise.
        keep: for each band whether it is shown.
    """

    gain: float | int = 1.0
    offset: float | int = 0.0
    distortion: tuple[float, ...] | None = None
    noise: float | None = None
    grain: int | None = None
    keep: tuple[bool, ...] | None = None


NEUTRAL = Shade()

# Entries of a batch, `[b ...]`. Gain and offset are always there; the others where the augmentation has them, so that a
# run without them compiles nothing for them.
KINDS = {
    "gain": np.float32,
    "offset": np.float32,
    "distortion": np.float32,
    "noise": np.float32,
    "grain": np.uint32,
    "keep": np.bool_,
}


def shade_arrays(shades: Sequence[Shade]) -> dict[str, np.ndarray]:
    """Return the entries of a batch, `[b ...]`, for scenes that were drawn by one augmentation."""
    columns = {name: [getattr(shade, name) for shade in shades] for name in KINDS}
    return {name: np.array(column, KINDS[name]) for name, column in columns.items() if column[0] is not None}


def draw_keep(rng: np.random.Generator, bands: int, probability: float | int) -> tuple[bool, ...]:
    """Draw which bands are shown: each is hidden with `probability`, but one always stays."""
    keep = rng.random(bands) >= probability
    keep[rng.integers(bands)] |= not keep.any()
    return tuple(bool(each) for each in keep)
