"""Scenes on disk: rasters are opened for their headers, and pixels are read window by window."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import rasterio
import rasterio.crs
from absl import logging
from jaxtyping import Bool, Shaped
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow

from holojax.data import nodata as holes
from holojax.data.bands import Header, Part, Paths, check_grid, fits, list_files, pick_bands, shared_nodata
from holojax.data.checksums import Checksums
from holojax.data.open_files import OpenFiles
from holojax.data.raster import open_raster, overlap
from holojax.errors import RasterError
from holojax.parallel import Window


@functools.cache
def _warn_once(path: str) -> None:
    logging.warning("%s has no CRS; maps made from it will have none.", path)


@dataclasses.dataclass(frozen=True)
class SceneReader:
    """The header of a scene, and the way to its pixels. Make one with `SceneReader.open`.

    Holds no open file, so it may be copied and used from any thread.

    Attributes:
        path: the file, or the first of several.
        files: all files in order, each with the number of its bands.
        height, width: pixels.
        bands: zero-based numbers of the bands that are read, in this order; counted on from file to file.
        dtype: of the pixels.
        crs, transform: of the files; `crs` is None where they have none.
        nodata: the value that means no data where all bands hold it (may be NaN), or None.
        nodata_tolerance: 0, or how far a lossy codec may have moved values at the edge of a hole.
        verify: compare blocks with their checksums, see `open`.
    """

    path: str
    files: tuple[tuple[str, int], ...]
    height: int
    width: int
    bands: tuple[int, ...]
    dtype: np.dtype
    crs: rasterio.crs.CRS | None
    transform: rasterio.Affine
    nodata: float | int | None
    nodata_tolerance: float | int = 0
    verify: bool = False

    @classmethod
    def open(
        cls,
        path: Paths,
        *,
        bands: tuple[int, ...] | None = None,
        nodata: float | int | None = None,
        nodata_tolerance: float | int = 0,
        quiet: bool = False,
        known: Mapping[str, Header] | None = None,
        verify: bool = False,
    ) -> SceneReader:
        """Read the headers of a scene and check them.

        A scene is one raster, or several of one grid: a list of files, or a folder whose rasters are taken in the order
        of their names (B2 before B10). `bands` picks bands (zero-based; None: all but alpha bands, which then say what
        is valid), `nodata` overrides the files' value, and a `nodata_tolerance` above 0 also takes in the frayed edge
        of nodata holes in lossily compressed files. An image without CRS is logged once as a warning, unless `quiet`.
        Headers that are `known`, by path, are not read. With `verify` blocks compressed by deflate are compared with
        their checksums when a process reads them for the first time, which takes as long again: GDAL reads some that
        are damaged in silence.

        Raises:
            RasterError: a file is missing or unreadable, lacks a band, cannot hold the nodata value, or does not lie on
                the grid of the first.
        """
        headers = [(known or {}).get(file) or Header.read(file) for file in list_files(path)]
        first = headers[0]
        for other in headers[1:]:
            check_grid(first, other)
        picked = pick_bands(first.path, [meaning for header in headers for meaning in header.meanings], bands)
        dtypes = [dtype for header in headers for dtype in header.dtypes]
        dtype = np.result_type(*(dtypes[band] for band in picked))
        if dtype.kind not in "uif":
            raise RasterError(f"{first.path}: expected integer or float bands, found {dtype}. Convert the file.")
        if nodata is not None and not fits(nodata, dtype):
            raise RasterError(f"{first.path}: the nodata override {nodata} is no value of {dtype}; change data.nodata.")
        if nodata is None:
            values = [value for header in headers for value in header.nodatavals]
            nodata = shared_nodata([values[band] for band in picked], dtype)
        if nodata is not None and dtype.kind in "ui":
            nodata = int(nodata)
        if first.crs is None and not quiet:
            _warn_once(first.path)
        files = tuple((header.path, len(header.dtypes)) for header in headers)
        place = first.crs, first.transform
        return cls(first.path, files, *first.size, picked, dtype, *place, nodata, nodata_tolerance, verify)

    @contextlib.contextmanager
    def session(self, files: OpenFiles | None = None) -> Iterator[Callable[..., tuple[np.ndarray, np.ndarray]]]:
        """Open the files once for several windows: `with reader.session() as read: read(window)`.

        `read` takes the arguments of `SceneReader.read`, and `out`, arrays of pixels and of what is valid, zeros, that
        are filled and returned. With `files` the scene's are borrowed from those that are open, and stay so.
        """
        with contextlib.ExitStack() as stack:
            parts, start = [], 0
            for path, count in self.files:
                places = [place for place, band in enumerate(self.bands) if start <= band < start + count]
                if places:
                    own = [self.bands[place] - start for place in places]
                    source = stack.enter_context(open_raster(path, files))
                    checksums = stack.enter_context(Checksums.of(path, source)) if self.verify else None
                    parts.append(Part.of(source, path, own, places, checksums))
                start += count
            yield functools.partial(self._read, parts)

    def read(
        self, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> tuple[Shaped[np.ndarray, "h w c"], Bool[np.ndarray, "h w"]]:
        """Read the pixels of a window (None: the whole scene) and where they are valid.

        The window may stick out beyond any edge of the scene. Pixels are `[h w c]` in the files' dtype and 0 where they
        are not valid: beyond the scene, where a file's mask or alpha band says so, where all bands hold the nodata
        value, and where any band is NaN or infinite.

        With a smaller `shape` (rows, columns) the window is scaled down to it, from overviews where the files have them
        and in little memory in any case: valid pixels are averaged; they are picked where the nodata value is an
        override, which GDAL's average would mix in, and where the scene is in blocks.

        Raises:
            RasterError: a file is damaged.
        """
        with self.session() as read:
            return read(window or Window(0, 0, self.height, self.width), shape)

    def _read(
        self,
        parts: list[Part],
        window: Window,
        shape: tuple[int, int] | None = None,
        out: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = shape or (window.height, window.width)
        rows, to_rows = overlap(window.top, window.height, self.height, shape[0])
        cols, to_cols = overlap(window.left, window.width, self.width, shape[1])
        pixels, valid = out or (np.zeros((*shape, len(self.bands)), self.dtype), np.zeros(shape, bool))
        if valid[to_rows, to_cols].size:
            inner = Window(rows.start, cols.start, len(rows), len(cols))
            self._fill(pixels[to_rows, to_cols], valid[to_rows, to_cols], parts, inner)
        return pixels, valid

    def _fill(self, pixels: np.ndarray, valid: np.ndarray, parts: list[Part], window: Window) -> None:
        """Read a window that lies in the scene and is not empty, scaled to the shape of the arrays."""
        scaled = valid.shape != (window.height, window.width)
        margin = holes.HALO if self.nodata is not None and self.nodata_tolerance > 0 and not scaled else 0
        top, left = max(window.top - margin, 0), max(window.left - margin, 0)
        bottom = min(window.top + window.height + margin, self.height)
        right = min(window.left + window.width + margin, self.width)
        area = RasterWindow(left, top, right - left, bottom - top)
        wide = np.empty((bottom - top, right - left, len(self.bands)), self.dtype) if margin else pixels
        for part in parts:
            part.fetch(wide, area, self._picks(part) if scaled else None)
        invalid = self._invalid(wide, parts, area, margin > 0)
        if invalid is not None and invalid.any():
            wide[invalid] = 0
        starts = window.top - top, window.left - left
        inside = tuple(slice(start, start + extent) for start, extent in zip(starts, valid.shape, strict=True))
        if margin:
            pixels[...] = wide[inside]
        valid[...] = True if invalid is None else ~invalid[inside]

    def _picks(self, part: Part) -> Resampling:
        """Choose how pixels are scaled: GDAL's average leaves out what the file itself calls nodata, nothing else."""
        own = self.nodata is None or shared_nodata(part.nodatavals, self.dtype) == self.nodata
        return Resampling.average if own or np.isnan(self.nodata) else Resampling.nearest

    def _invalid(
        self, pixels: np.ndarray, parts: list[Part], area: RasterWindow, frayed: bool
    ) -> Bool[np.ndarray, "h w"] | None:
        """Tell which pixels hold no data, by their values and by what the files say; None: nothing hides any."""
        masks, shape = [part for part in parts if part.masked], pixels.shape[:2]
        others = [part for part in parts if not part.masked]
        # Files with a value each: where all files hold theirs.
        blank = self.nodata is None and bool(others) and all(part.has_nodata for part in others)
        if self.nodata is None and self.dtype.kind != "f" and not masks and not blank:
            return None
        if frayed:
            invalid = holes.frayed_hole(pixels, self.nodata, self.nodata_tolerance)
        elif self.nodata is not None:
            invalid = holes.equals(pixels, self.nodata)
        else:
            invalid = np.zeros(shape, bool)
        if self.dtype.kind == "f":
            for band in range(pixels.shape[-1]):  # one after the other: there may be hundreds
                invalid |= ~np.isfinite(pixels[..., band])
        for part in masks:
            invalid |= part.hidden(area, shape)
        if blank:
            invalid |= np.logical_and.reduce([part.hidden(area, shape) for part in others])
        return invalid
