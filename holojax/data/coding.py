"""How label files write their values where they are not one band of class numbers: colours, or instances."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Shaped

from holojax.errors import ConfigError, LabelError
from holojax.parallel import Window

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Coding:
    """The way from what a label file holds to raw label values, by window.

    Attributes:
        colours: for labels of three bands: colour number i reads as the raw value i; (): one band of numbers.
        threshold: of colours that are not exact: a channel of at least this value counts as 255, else as 0.
            0: colours are exact.
        above: for labels that number objects: values above it read as 1, all others as 0; None: as they are.

    Raises:
        ConfigError: a colour is given twice or out of range, or colours and `above` are mixed.
    """

    colours: tuple[Colour, ...] = ()
    threshold: int = 0
    above: int | None = None

    def __post_init__(self) -> None:
        if self.colours and self.above is not None:
            raise ConfigError("A label is read by its colours or by a value to be above, not by both.")
        if len(set(self.colours)) != len(self.colours):
            raise ConfigError(f"A colour stands for one label value, found one twice in {self.colours}.")
        if any(len(colour) != 3 or any(not 0 <= part <= 255 for part in colour) for colour in self.colours):
            raise ConfigError(f"Expected colours (r, g, b) of 0..255, found {self.colours}.")

    @property
    def bands(self) -> int:
        """Number of bands that a label file has."""
        return 3 if self.colours else 1

    def codes(self, bands: Shaped[np.ndarray, "c h w"]) -> Shaped[np.ndarray, "h w"]:
        """Return what each pixel says: a raw label value, or its colour as a number (see `pack`)."""
        if not self.colours:
            return bands[0] if self.above is None else (bands[0] > self.above).astype(np.uint8)
        if self.threshold:
            bands = np.where(bands >= self.threshold, np.uint8(255), np.uint8(0))
        return pack(bands[:3])

    def decode(self, bands: Shaped[np.ndarray, "c h w"], path: str, window: Window) -> Shaped[np.ndarray, "h w"]:
        """Turn the pixels of a window into raw label values.

        Raises:
            LabelError: a colour is not in the table; names the file, the colour and its place in the scene.
        """
        packed = self.codes(bands)
        if not self.colours:
            return packed
        known = pack(np.array(self.colours, np.uint8).T)
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], packed), len(known) - 1)
        found = known[order][place] == packed
        if not found.all():
            row, col = np.unravel_index(int(np.argmin(found)), found.shape)
            colour = unpack(int(packed[row, col]))
            raise LabelError(
                f"{path}: colour {colour} at row {window.top + row}, column {window.left + col}, the first of "
                f"{np.count_nonzero(~found):,} such pixels of {found.size:,}, is not in the palette "
                f"({', '.join(map(str, self.colours))}). Correct the file; labels must not be compressed with loss."
            )
        return order.astype(np.uint8)[place]


NUMBERS = Coding()


def pack(colours: Shaped[np.ndarray, "3 ..."]) -> np.ndarray:
    """Write colours as numbers, uint32: 0xRRGGBB."""
    red, green, blue = colours.astype(np.uint32)
    return red << 16 | green << 8 | blue


def unpack(number: int) -> Colour:
    """Return the colour that `pack` wrote as a number."""
    return number >> 16, number >> 8 & 255, number & 255
