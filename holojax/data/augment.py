"""Augmentation: one draw a scene, mapped pixel by pixel, so that all regions are slices of the same scene."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Shaped

from holojax.errors import ConfigError
from holojax.parallel import Window


@dataclasses.dataclass(frozen=True)
class Augment:
    """What may be drawn for a scene.

    Attributes:
        flip: mirror rows and columns, each with probability 1/2.
        rotate: turn by 0, 90, 180 or 270 degrees, equally likely; only by 0 or 180 where a turned window
            would not fit.
        brightness: largest shift of all values, in the units of the file.
        contrast: largest relative change of the distance to `center`, 0 to 1.
        center: the value that contrast leaves alone, in the units of the file (the data's mean, say).
    """

    flip: bool = True
    rotate: bool = True
    brightness: float | int = 0.0
    contrast: float | int = 0.0
    center: float | int = 0.0

    def __post_init__(self) -> None:
        if self.brightness < 0 or not 0 <= self.contrast < 1:
            raise ConfigError(
                f"data.augment: expected brightness >= 0 and 0 <= contrast < 1, found {self.brightness} and "
                f"{self.contrast}."
            )


NO_AUGMENT = Augment(flip=False, rotate=False)


@dataclasses.dataclass(frozen=True)
class View:
    """One look at a scene: a rectangle of its pixels, transposed or not, then mirrored or not.

    Attributes:
        area: the rectangle in the file.
        transpose: swap rows and columns first.
        flip_rows, flip_cols: then mirror.
        gain, offset: photometric part: the device computes `pixels * gain + offset`, in the file's units.
    """

    area: Window
    transpose: bool = False
    flip_rows: bool = False
    flip_cols: bool = False
    gain: float | int = 1.0
    offset: float | int = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as seen, that is after transposition."""
        height, width = self.area.height, self.area.width
        return (width, height) if self.transpose else (height, width)

    def source(self, window: Window) -> Window:
        """Return the rectangle of the file that holds a window of the view (which must lie inside it)."""
        height, width = self.size
        top = height - window.top - window.height if self.flip_rows else window.top
        left = width - window.left - window.width if self.flip_cols else window.left
        rows, cols = window.height, window.width
        if self.transpose:
            top, left, rows, cols = left, top, cols, rows
        return Window(self.area.top + top, self.area.left + left, rows, cols)

    def orient(self, pixels: Shaped[np.ndarray, "rows cols ..."]) -> np.ndarray:
        """Turn pixels read from the file, `[rows cols ...]`, the way the view sees them."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]


def draw_view(
    augment: Augment, rng: np.random.Generator, size: tuple[int, int], window: tuple[int, int] | None = None
) -> View:
    """Draw one view of a scene of `size` (height, width): a crop of `window`, turned and mirrored.

    Without a window the view is all of the scene; one larger than the scene is cut to it. The same state of
    `rng` gives the same view.
    """
    height, width = size
    rows, cols = window or size
    turn, mirror_rows, mirror_cols = (int(rng.integers(n)) for n in (4, 2, 2))
    across, down, shade, tone = rng.random(4)
    if not augment.rotate:
        turn = 0
    elif turn % 2 and not (rows == cols or (window is not None and cols <= height and rows <= width)):
        turn -= 1
    if turn % 2:
        rows, cols = cols, rows
    rows, cols = min(rows, height), min(cols, width)
    area = Window(int(down * (height - rows + 1)), int(across * (width - cols + 1)), rows, cols)
    gain = 1 + augment.contrast * (2 * tone - 1)
    offset = augment.center * (1 - gain) + augment.brightness * (2 * shade - 1)
    return View(
        area,
        transpose=turn % 2 == 1,
        flip_rows=(turn in (1, 2)) != (augment.flip and mirror_rows == 1),
        flip_cols=(turn in (2, 3)) != (augment.flip and mirror_cols == 1),
        gain=float(gain),
        offset=float(offset),
    )
