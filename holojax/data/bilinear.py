"""Pixels between pixels: which of the file make up those of a view, and with which weights.

What is not valid has no weight and the others share it. A pixel has the same bytes, whatever else is computed with it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from holojax.parallel import Window

CACHE = 384 << 10  # bytes of a core's cache that hold the rows which are mixed at once


@dataclasses.dataclass(frozen=True)
class GridMix:
    """The way from a rectangle of the file to pixels of a view whose rows are rows, or columns, of the file.

    Rows are mixed first, then columns: several times as fast as pixel by pixel.

    Attributes:
        rows, cols: where the view's pixels lie along both axes of the file.
        transpose: whether the view's rows are columns of the file.
    """

    rows: _Axis
    cols: _Axis
    transpose: bool

    @classmethod
    def at(cls, down: Float[np.ndarray, " n"], right: Float[np.ndarray, " m"], box: Window, transpose: bool) -> GridMix:
        """Find the neighbours, all of them in `box` or beyond the file, of places in pixels from the file's corner."""
        return cls(_Axis.at(down, box.top, box.height), _Axis.at(right, box.left, box.width), transpose)

    @property
    def within(self) -> bool:
        """Whether all places lie in the file."""
        return bool(self.rows.inside.all() and self.cols.inside.all())

    def nearest(self, values: Shaped[np.ndarray, "rows cols"], beyond: int) -> Shaped[np.ndarray, "h w"]:
        """Take the value of the pixel that holds each place; `beyond` the file that one."""
        out = values.take(self.rows.nearest, 0, mode="clip").take(self.cols.nearest, 1, mode="clip")
        if not self.within:
            out = np.where(np.logical_and.outer(self.rows.inside, self.cols.inside), out, np.array(beyond, out.dtype))
        return out.swapaxes(0, 1) if self.transpose else out

    def bilinear(
        self,
        image: Shaped[np.ndarray, "rows cols c"],
        inside: Bool[np.ndarray, "rows cols"],
        out: Shaped[np.ndarray, "h w c"],
    ) -> None:
        """Interpolate between the pixels that are `inside`; those of integers are rounded."""
        bands, kind = image.shape[-1], _kind(image.dtype)
        height, width = len(self.rows.share), len(self.cols.share)
        across, complete = self.cols.spread(bands), inside.all()
        lines = max(CACHE // (max(image.shape[1], width) * bands * np.dtype(kind).itemsize), 1)
        for top in range(0, height, lines):
            along, reach = self.rows.cut(top, min(top + lines, height))
            values = image[reach].astype(kind)
            total = _mix(values, along, across) if complete else _mix_inside(values, inside[reach], along, self.cols)
            if image.dtype.kind in "iu":
                np.rint(total, out=total)
            if not self.transpose:
                out[top : top + lines] = total
                continue
            total = total.astype(image.dtype)
            for band in range(bands):  # twice as fast as all at once
                out[:, top : top + lines, band] = total[..., band].T


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Where places lie along one axis of a rectangle.

    Attributes:
        first, second: the pixels before and after each place; at the edge of the file the same one.
        share: of the second one, 0 to 1.
        nearest: the pixel that holds the place, perhaps beyond the file.
        inside: whether it is not.
    """

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]
    nearest: Int[np.ndarray, " n"]
    inside: Bool[np.ndarray, " n"]

    @classmethod
    def at(cls, places: Float[np.ndarray, " n"], start: int, extent: int) -> _Axis:
        places = np.clip(places - 0.5, start - 1, start + extent)  # what is cut off lies beyond the file
        before = np.floor(places)
        share, first = places - before, before.astype(np.intp) - start
        nearest = first + (share >= 0.5)
        inside = (nearest >= 0) & (nearest < extent)
        return cls(first.clip(0, extent - 1), (first + 1).clip(0, extent - 1), share, nearest, inside)

    def cut(self, start: int, stop: int) -> tuple[_Axis, slice]:
        """Return some of the places, and the pixels that they need, from the first of which these are counted."""
        part = [getattr(self, field.name)[start:stop] for field in dataclasses.fields(self)]
        low, high = int(min(part[0][0], part[0][-1])), int(max(part[1][0], part[1][-1])) + 1
        return _Axis(part[0] - low, part[1] - low, *part[2:]), slice(low, high)

    def spread(self, bands: int) -> _Axis:
        """Return the places of numbers, where a pixel has one for each band."""
        pixels = ((each[:, None] * bands + np.arange(bands)).ravel() for each in (self.first, self.second))
        return _Axis(*pixels, *(np.repeat(each, bands) for each in (self.share, self.nearest, self.inside)))


@dataclasses.dataclass(frozen=True)
class FreeMix:
    """The way from a rectangle of the file to pixels of a view that is turned freely.

    Attributes:
        width: of the rectangle with its rim: one pixel above and left, two below and right, not valid, that stand for
            all that lies beyond the file.
        first: the upper left one of four neighbours, in the flattened rectangle.
        down, right: how far the place lies from there, 0 to 1.
        within: whether all places are known to lie in the file.
    """

    width: int
    first: Int[np.ndarray, "h w"]
    down: Float[np.ndarray, "#h #w"]
    right: Float[np.ndarray, "#h #w"]
    within: bool = False

    @classmethod
    def at(cls, down: Float[np.ndarray, "#h #w"], right: Float[np.ndarray, "#h #w"], box: Window) -> FreeMix:
        """Find the neighbours, all of them in `box` or beyond the file, of places in pixels from the file's corner."""
        # Centres of pixels become whole numbers. What is cut off lies two pixels or more beyond the file.
        down = np.clip(down - 0.5, box.top - 1, box.top + box.height)
        right = np.clip(right - 0.5, box.left - 1, box.left + box.width)
        top, left = np.floor(down), np.floor(right)
        first = (top - (box.top - 1)).astype(np.intp) * (box.width + 3) + (left - (box.left - 1)).astype(np.intp)
        return cls(box.width + 3, first, down - top, right - left)

    def nearest(self, values: Shaped[np.ndarray, "rows cols"], beyond: int) -> Shaped[np.ndarray, "h w"]:
        """Take the value of the pixel that holds each place; `beyond` the file that one."""
        at = self.first + self.width * (self.down >= 0.5) + (self.right >= 0.5)
        return np.pad(values, (1, 2), constant_values=beyond).ravel().take(at)

    def bilinear(
        self,
        image: Shaped[np.ndarray, "rows cols c"],
        inside: Bool[np.ndarray, "rows cols"],
        out: Shaped[np.ndarray, "h w c"],
    ) -> None:
        """Interpolate between the pixels that are `inside`; those of integers are rounded."""
        kind = _kind(image.dtype)
        inside = np.pad(inside, (1, 2))
        planes = np.zeros((image.shape[-1], inside.size), kind)  # band by band: four times as fast as pixel by pixel
        for band, plane in enumerate(planes):
            plane.reshape(inside.shape)[1:-2, 1:-2] = image[..., band]
        together = inside.copy()
        together[:-1, :-1] &= inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]
        whole = together.ravel().take(self.first)
        down, right = self.down.astype(kind), self.right.astype(kind)
        total, mass = np.zeros((len(planes), *self.first.shape), kind), np.zeros(self.first.shape, kind)
        for below, part_down in ((0, 1 - down), (self.width, down)):
            for beside, part_right in ((0, 1 - right), (1, right)):
                at, weight = self.first + (below + beside), part_down * part_right
                if not whole.all():
                    weight *= inside.ravel().take(at)
                    mass += weight
                for plane, mixed in zip(planes, total, strict=True):
                    mixed += weight * plane.take(at)
        if not whole.all():
            # Only where a neighbour is missing: so a pixel has the same bytes, whatever else is computed with it.
            total /= np.where(whole | (mass == 0), 1, mass).astype(kind)
        if image.dtype.kind in "iu":
            np.rint(total, out=total)
        out[...] = np.moveaxis(total, 0, -1)


def _mix(values: Float[np.ndarray, "rows cols c"], rows: _Axis, across: _Axis) -> Float[np.ndarray, "n m c"]:
    """Mix rows, then columns; `across` is spread over the bands."""
    lines, kind = values.reshape(len(values), -1), values.dtype
    out, other = lines.take(rows.first, 0), lines.take(rows.second, 0)
    other -= out
    other *= rows.share[:, None].astype(kind)
    out += other
    out, other = out.take(across.first, 1), out.take(across.second, 1)
    other -= out
    other *= across.share.astype(kind)
    out += other
    return out.reshape(len(out), -1, values.shape[-1])


def _mix_inside(
    values: Float[np.ndarray, "rows cols c"], inside: Bool[np.ndarray, "rows cols"], rows: _Axis, cols: _Axis
) -> Float[np.ndarray, "n m c"]:
    """Mix what is inside alone: only where a neighbour is missing do the others share its weight."""
    total = _mix(np.where(inside[..., None], values, values.dtype.type(0)), rows, cols.spread(values.shape[-1]))
    mass = _mix(inside[..., None].astype(values.dtype), rows, cols)
    lines = inside.take(rows.first, 0) & inside.take(rows.second, 0)
    whole = lines.take(cols.first, 1) & lines.take(cols.second, 1)
    return np.divide(total, mass, out=total, where=~whole[..., None] & (mass > 0))


def _kind(dtype: np.dtype) -> type[np.floating]:
    """Return what numbers are mixed in: 24 bits hold what 16 have, and float32; no more."""
    return np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
