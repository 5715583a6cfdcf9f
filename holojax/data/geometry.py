"""Where the pixels of an augmented scene come from: views, each read window by window, without a seam.

A view never holds the scene. What it gives for a window is the same bytes, whichever window asks, so that regions, read
by different processes, are slices of one augmented scene.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from holojax.data.bilinear import FreeMix, GridMix
from holojax.data.classes import IGNORE
from holojax.data.photometry import NEUTRAL, Shade
from holojax.parallel import Window

ReadImage = Callable[[Window], tuple[np.ndarray, np.ndarray]]
ReadLabel = Callable[[Window], np.ndarray]
Seen = tuple[Shaped[np.ndarray, "*n h w c"], Bool[np.ndarray, "*n h w"], UInt8[np.ndarray, "*n h w"]]
"""Pixels, where they are valid, and labels, ignored where not."""

# Side of what a free turn computes at once, pixels: what that is computed with stays in a core's cache.
BLOCK = 256
# What a warp reads at once, bytes of pixels: much, since blocks of the file are decoded anew for each read, and little
# beside a region. A turned square needs the pixels of a rectangle of up to twice its area.
BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class View:
    """One look at a scene on its own grid of pixels: a rectangle, transposed or not, then mirrored or not.

    Attributes:
        area: the rectangle in the file.
        transpose: swap rows and columns first.
        flip_rows, flip_cols: then mirror.
        shade: what the device does to its values.
    """

    area: Window
    transpose: bool = False
    flip_rows: bool = False
    flip_cols: bool = False
    shade: Shade = NEUTRAL

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

    def look(self, window: Window, read_image: ReadImage, read_label: ReadLabel, out: Seen) -> None:
        """Fill `out`, see `blank`, with what the view shows in a window of its size."""
        pixels, valid, labels = out
        source = self.source(window)
        for whole, part in zip((pixels, valid), read_image(source), strict=True):
            whole[...] = self.orient(part)
        np.copyto(labels, self.orient(read_label(source)), where=valid)

    def places(
        self, rows: Int[np.ndarray, "*n"], cols: Int[np.ndarray, "*n"]
    ) -> tuple[Int[np.ndarray, "*n"], Int[np.ndarray, "*n"]]:
        """Return row and column in the file of pixels of the view."""
        height, width = self.size
        rows = height - 1 - rows if self.flip_rows else rows
        cols = width - 1 - cols if self.flip_cols else cols
        if self.transpose:
            rows, cols = cols, rows
        return self.area.top + rows, self.area.left + cols


@dataclasses.dataclass(frozen=True)
class Warp:
    """One look at a scene between its pixels: scaled and turned freely.

    Pixel (i, j) of the view lies at `matrix @ ((i, j) + 1/2 - size / 2) + center` in the file, in pixels from its upper
    left corner, so that centres of pixels are at halves. A label is that of the file's pixel which holds the place, and
    the view is valid where that one is. Images are bilinear, between valid pixels alone: what is not valid, or beyond
    the file, has no weight and the others share it. Plain bilinear, as mmseg resizes: at a scale of 1/2 it is the mean
    of four pixels, below that pixels are left out. Integers are rounded.

    Attributes:
        size: height and width as seen.
        matrix: 2 x 2, rows first.
        center: row and column in the file of the middle of the view.
        scene: height and width of the file.
        shade: what the device does to its values.
    """

    size: tuple[int, int]
    matrix: tuple[tuple[float, float], tuple[float, float]]
    center: tuple[float, float]
    scene: tuple[int, int]
    shade: Shade = NEUTRAL

    def positions(
        self, rows: Int[np.ndarray, "*#n"], cols: Int[np.ndarray, "*#n"]
    ) -> tuple[Float[np.ndarray, "*#n"], Float[np.ndarray, "*#n"]]:
        """Return row and column in the file, pixels from its corner, of the centres of pixels of the view.

        Where there is no free turn, each depends on rows or on columns alone and has no larger shape than they.
        """
        # Number by number from the pixel's own place: so no window gives a place that another does not.
        down, right = rows + (0.5 - self.size[0] / 2), cols + (0.5 - self.size[1] / 2)
        places = []
        for (by_down, by_right), middle in zip(self.matrix, self.center, strict=True):
            steps = [share * step for share, step in ((by_down, down), (by_right, right)) if share]
            places.append(sum(steps[1:], steps[0]) + middle)
        return places[0], places[1]

    def source(self, window: Window) -> Window:
        """Return the rectangle of the file, perhaps empty, that a window of the view is computed from."""
        if not window.height or not window.width:
            return Window(0, 0, 0, 0)
        last = (window.top + window.height - 1, window.left + window.width - 1)
        corners = self.positions(*np.ix_([window.top, last[0]], [window.left, last[1]]))
        spans = []
        for places, extent in zip(corners, self.scene, strict=True):
            # One pixel more than the centres ask for: the other neighbour in bilinear interpolation.
            start = max(math.floor(places.min() - 0.5), 0)
            spans.append((start, min(math.floor(places.max() - 0.5) + 2, extent) - start))
        (top, height), (left, width) = spans
        return Window(top, left, height, width) if height > 0 and width > 0 else Window(0, 0, 0, 0)

    def look(self, window: Window, read_image: ReadImage, read_label: ReadLabel, out: Seen) -> None:
        """Fill `out`, see `blank`, with what the view shows in a window of its size."""
        pixels, valid, labels = out
        for whole in _squares(window, self._side(pixels)):
            box = self.source(whole)
            if not box.height:
                continue
            image, inside = read_image(box)
            classes, complete = read_label(box), bool(inside.all())
            for part in [whole] if self._on_grid else _squares(whole, BLOCK):
                inner = self.source(part)
                if not inner.height:
                    continue
                mix, there, here = self._mix(part, inner), _slices(inner, box), _slices(part, window)
                known = np.True_ if complete and mix.within else mix.nearest(inside[there], False)
                mix.bilinear(image[there], inside[there], pixels[here])
                if not known.all():
                    pixels[here][~known] = 0
                valid[here] = known
                np.copyto(labels[here], mix.nearest(classes[there], IGNORE), where=known)

    @property
    def _on_grid(self) -> bool:
        """Whether rows of the view are rows, or columns, of the file."""
        return 0 in self.matrix[0]

    def _side(self, pixels: Shaped[np.ndarray, "_ _ c"]) -> int:
        """Return the side of the squares of the view that are read at once, for such pixels."""
        (a, b), (c, d) = self.matrix
        area = BYTES / (pixels.shape[-1] * pixels.dtype.itemsize) / abs(a * d - b * c)
        return max(int(math.sqrt(area)) // BLOCK, 1) * BLOCK

    def _mix(self, part: Window, box: Window) -> GridMix | FreeMix:
        """Find out what of `box` makes up a part of the view."""
        rows, cols = np.ix_(np.arange(part.top, part.top + part.height), np.arange(part.left, part.left + part.width))
        places = self.positions(rows, cols)
        if self._on_grid:
            return GridMix.at(places[0].ravel(), places[1].ravel(), box, self.matrix[0][0] == 0)
        return FreeMix.at(*places, box)

    def places(
        self, rows: Int[np.ndarray, "*n"], cols: Int[np.ndarray, "*n"]
    ) -> tuple[Int[np.ndarray, "*n"], Int[np.ndarray, "*n"]]:
        """Return row and column in the file of the pixels whose labels the view shows, perhaps beyond the file."""
        down, right = np.broadcast_arrays(*self.positions(rows, cols))
        return np.floor(down).astype(np.int64), np.floor(right).astype(np.int64)


def blank(shape: tuple[int, ...], bands: int, dtype: np.dtype) -> Seen:
    """Return arrays `[*shape c]` and `[*shape]` in which nothing is seen yet."""
    return np.zeros((*shape, bands), dtype), np.zeros(shape, bool), np.full(shape, IGNORE, np.uint8)


def draw_place(
    scene: tuple[int, int], window: tuple[int, int], matrix: np.ndarray, down: float, across: float
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return size and center of a warp by `matrix`: a crop of `window` that lies in the scene as far as it can.

    The view is no larger than the warped scene; `down` and `across`, 0 to 1, say where in the scene it lies.
    """
    seen = np.abs(np.linalg.inv(matrix)) @ np.asarray(scene, float)
    rows, cols = (max(min(most, int(extent + 0.5)), 1) for most, extent in zip(window, seen, strict=True))
    reach = np.abs(matrix) @ (rows, cols) / 2
    center = tuple(
        float(half + share * (extent - 2 * half)) if 2 * half <= extent else extent / 2
        for half, extent, share in zip(reach, scene, (down, across), strict=True)
    )
    return (rows, cols), center


def _squares(window: Window, side: int) -> Iterator[Window]:
    bottom, right = window.top + window.height, window.left + window.width
    for top in range(window.top, bottom, side):
        for left in range(window.left, right, side):
            yield Window(top, left, min(side, bottom - top), min(side, right - left))


def _slices(part: Window, whole: Window) -> tuple[slice, slice]:
    """Return where a window lies in another one."""
    top, left = part.top - whole.top, part.left - whole.left
    return slice(top, top + part.height), slice(left, left + part.width)
