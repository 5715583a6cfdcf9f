"""Scenes on disk: a raster is opened for its header, and its pixels are read window by window."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import numpy as np
import rasterio
import rasterio.crs
from absl import logging
from jaxtyping import Bool, Shaped
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as RasterWindow

from holojax.data import nodata as holes
from holojax.data.blocks import Raster
from holojax.data.raster import open_raster
from holojax.errors import RasterError
from holojax.parallel import Window


@functools.cache
def _warn_once(path: str) -> None:
    logging.warning("%s has no CRS; maps made from it will have none.", path)


@dataclasses.dataclass(frozen=True)
class SceneReader:
    """The header of a raster, and the way to its pixels.

    Holds no open file, so it may be copied and used from any thread. Make one with `SceneReader.open`.

    Attributes:
        path: the file.
        height, width: pixels.
        bands: zero-based numbers of the bands that are read, in this order.
        dtype: of the pixels.
        crs, transform: of the file; `crs` is None where it has none.
        nodata: the value that means no data where all bands hold it (may be NaN), or None.
        nodata_tolerance: 0, or how far a lossy codec may have moved values at the edge of a hole.
    """

    path: str
    height: int
    width: int
    bands: tuple[int, ...]
    dtype: np.dtype
    crs: rasterio.crs.CRS | None
    transform: rasterio.Affine
    nodata: float | int | None
    nodata_tolerance: float | int = 0

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        bands: tuple[int, ...] | None = None,
        nodata: float | int | None = None,
        nodata_tolerance: float | int = 0,
        quiet: bool = False,
    ) -> SceneReader:
        """Read the header of a raster and check it.

        `bands` picks bands (zero-based; None: all but an alpha band, which then says what is valid), `nodata`
        overrides the file's value, and a `nodata_tolerance` above 0 also takes in the frayed edge of nodata
        holes in lossily compressed files. An image without CRS is logged once as a warning, unless `quiet`.

        Raises:
            RasterError: the file is missing or unreadable, lacks a band, or cannot hold the nodata value.
        """
        path = os.fspath(path)
        with open_raster(path) as source:
            picked = _pick_bands(source, bands)
            dtype = np.result_type(*(source.dtypes[band] for band in picked))
            if dtype.kind not in "uif":
                raise RasterError(f"{path}: expected integer or float bands, found {dtype}. Convert the file.")
            if nodata is not None and not _fits(nodata, dtype):
                raise RasterError(f"{path}: the nodata override {nodata} is no value of {dtype}; change data.nodata.")
            if nodata is None:
                nodata = _own_nodata([source.nodatavals[band] for band in picked], dtype)
            if nodata is not None and dtype.kind in "ui":
                nodata = int(nodata)
            if source.crs is None and not quiet:
                _warn_once(path)
            return cls(path, source.height, source.width, picked, dtype, source.crs, source.transform, nodata,
                       nodata_tolerance)  # fmt: skip

    @contextlib.contextmanager
    def session(self) -> Iterator[Callable[[Window], tuple[np.ndarray, np.ndarray]]]:
        """Open the file once for several windows: `with reader.session() as read: read(window)`."""
        with open_raster(self.path) as source:
            yield functools.partial(self._read, source)

    def read(self, window: Window | None = None) -> tuple[Shaped[np.ndarray, "h w c"], Bool[np.ndarray, "h w"]]:
        """Read the pixels of a window (None: the whole scene) and where they are valid.

        The window may stick out beyond the bottom and right of the scene. Pixels are `[h w c]` in the file's
        dtype and 0 where they are not valid: beyond the scene, where the file's mask or alpha band says so,
        where all bands hold the nodata value, and where any band is NaN or infinite.

        Raises:
            RasterError: the file is damaged, or the window starts outside the scene.
        """
        with self.session() as read:
            return read(window or Window(0, 0, self.height, self.width))

    def _read(self, source: Raster, window: Window) -> tuple[np.ndarray, np.ndarray]:
        if window.top < 0 or window.left < 0:
            raise RasterError(f"{self.path}: a window starts in the scene, found {window}.")
        height = max(min(window.height, self.height - window.top), 0)
        width = max(min(window.width, self.width - window.left), 0)
        pixels = np.zeros((window.height, window.width, len(self.bands)), self.dtype)
        valid = np.zeros((window.height, window.width), bool)
        if height and width:
            inner = Window(window.top, window.left, height, width)
            pixels[:height, :width], valid[:height, :width] = self._read_inside(source, inner)
        return pixels, valid

    def _read_inside(self, source: Raster, window: Window) -> tuple[np.ndarray, np.ndarray]:
        margin = holes.HALO if self.nodata is not None and self.nodata_tolerance > 0 else 0
        top, left = max(window.top - margin, 0), max(window.left - margin, 0)
        bottom = min(window.top + window.height + margin, self.height)
        right = min(window.left + window.width + margin, self.width)
        area = RasterWindow(left, top, right - left, bottom - top)
        indexes = [band + 1 for band in self.bands]
        pixels = np.ascontiguousarray(np.moveaxis(source.read(indexes, window=area, out_dtype=self.dtype), 0, -1))
        valid = np.ones(pixels.shape[:2], bool)
        if margin:
            valid &= ~holes.frayed_hole(pixels, self.nodata, self.nodata_tolerance)
        elif self.nodata is not None:
            valid &= ~holes.equals(pixels, self.nodata)
        if self.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(-1)
        flags = {flag for band in self.bands for flag in source.mask_flag_enums[band]}
        # Many four-band files call their fourth band alpha, wrongly: where it was picked, it is a band.
        picked_alpha = any(source.colorinterp[band] == ColorInterp.alpha for band in self.bands)
        masked = MaskFlags.per_dataset in flags and not picked_alpha
        if masked or (self.nodata is None and MaskFlags.nodata in flags):
            valid &= source.dataset_mask(window=area) > 0
        pixels[~valid] = 0
        rows = slice(window.top - top, window.top - top + window.height)
        cols = slice(window.left - left, window.left - left + window.width)
        return pixels[rows, cols], valid[rows, cols]


def _pick_bands(source: Raster, bands: tuple[int, ...] | None) -> tuple[int, ...]:
    if bands is None:
        return tuple(i for i, meaning in enumerate(source.colorinterp) if meaning != ColorInterp.alpha)
    missing = [band for band in bands if not 0 <= band < source.count]
    if missing or not bands:
        raise RasterError(
            f"{source.name}: expected bands {tuple(bands)} (counted from 0), but the file has {source.count} "
            f"band(s). Change data.bands, or give an image with that many."
        )
    return tuple(int(band) for band in bands)


def _own_nodata(values: list[float | int | None], dtype: np.dtype) -> float | int | None:
    """Return the nodata value that all bands of a file share and its dtype can hold, or None."""
    if any(value is None or not _fits(value, dtype) for value in values):
        return None
    first = values[0]
    return first if all(value == first or (np.isnan(value) and np.isnan(first)) for value in values) else None


def _fits(value: float | int, dtype: np.dtype) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max
