"""The files that make up a scene: their headers, whether they fit each other, and how their bands are read."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Shaped
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window as RasterWindow

from holojax.data.blocks import BlockRaster, Raster, is_lossy
from holojax.data.checksums import Checksums
from holojax.data.raster import SUFFIXES, failures_named, gdal_path, open_raster
from holojax.errors import RasterError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Where a scene lies: a file, a folder whose files are its bands, or a list of such files."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a raster says of itself; a tuple has an entry for each band."""

    path: str
    size: tuple[int, int]
    dtypes: tuple[str, ...]
    nodatavals: tuple[float | int | None, ...]
    meanings: tuple[ColorInterp, ...]
    crs: CRS | None
    transform: rasterio.Affine
    lossy: bool = False
    driver: str = ""

    @classmethod
    def read(cls, path: str) -> Header:
        """Read the header of a raster. Raises RasterError: it is missing or unreadable."""
        with open_raster(path) as source:
            size, dtypes, nodata = (source.height, source.width), tuple(source.dtypes), tuple(source.nodatavals)
            meanings, place = tuple(source.colorinterp), (source.crs, source.transform)
            return cls(path, size, dtypes, nodata, meanings, *place, is_lossy(source), source.driver)


@dataclasses.dataclass(frozen=True)
class Part:
    """An open file and which of its bands are read: `bands` (from 1) go to `places` of the scene's pixels.

    `masked`: a mask or alpha band says what is valid; `has_nodata`: values of the file do. `checksums`, if any, are
    compared before blocks are read.
    """

    path: str
    source: Raster
    bands: list[int]
    places: list[int]
    nodatavals: tuple[float | int | None, ...]
    masked: bool
    has_nodata: bool
    checksums: Checksums | None = None

    @classmethod
    def of(
        cls,
        source: Raster,
        path: str,
        bands: Sequence[int],
        places: Sequence[int],
        checksums: Checksums | None = None,
    ) -> Part:
        """Look at an open file; `bands` are counted from 0 here."""
        flags = {flag for band in bands for flag in source.mask_flag_enums[band]}
        # Many four-band files call their fourth band alpha, wrongly: where it was picked, it is a band.
        picked_alpha = any(source.colorinterp[band] == ColorInterp.alpha for band in bands)
        values = tuple(source.nodatavals[band] for band in bands)
        masked = MaskFlags.per_dataset in flags and not picked_alpha
        numbers, has_nodata = [band + 1 for band in bands], MaskFlags.nodata in flags
        return cls(path, source, numbers, list(places), values, masked, has_nodata, checksums)

    def fetch(self, pixels: Shaped[np.ndarray, "h w c"], area: RasterWindow, scaled: Resampling | None) -> None:
        """Read the bands of a window into their places; `scaled` says how they are made to fit, None: they do."""
        planes = np.moveaxis(pixels, -1, 0)
        if self.checksums is not None and scaled is None:  # overviews are other blocks
            self.checksums.verify(area)
        with failures_named(self.path):
            if isinstance(self.source, BlockRaster):
                shape = (len(self.bands), *pixels.shape[:2])  # where that is smaller, pixels are picked, not averaged
                planes[self.places] = self.source.read(self.bands, window=area, out_dtype=pixels.dtype, out_shape=shape)
            elif self.places == list(range(len(planes))):  # straight to where they belong: saves two copies
                self.source.read(self.bands, window=area, out=planes, resampling=scaled or Resampling.nearest)
            else:
                planes[self.places] = self.source.read(
                    self.bands, window=area, out_shape=(len(self.bands), *pixels.shape[:2]), out_dtype=pixels.dtype,
                    resampling=scaled or Resampling.nearest,
                )  # fmt: skip

    def hidden(self, area: RasterWindow, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """Tell where the file's mask, alpha band or nodata values hide the pixels of a window, scaled to `shape`."""
        with failures_named(self.path):
            return self.source.dataset_mask(window=area, out_shape=shape) == 0


def list_files(path: Paths) -> list[str]:
    """Return the files of a scene in order; a folder's in the order of their names, B2 before B10.

    Raises:
        RasterError: a folder without rasters, or an empty list.
    """
    if not isinstance(path, str | os.PathLike):
        files = [os.fspath(each) for each in path]
        if not files:
            raise RasterError("Expected a scene's file, or several, found an empty list.")
        return files
    path = os.fspath(path)
    if not os.path.isdir(gdal_path(path)):
        return [path]
    found = [each for each in Path(gdal_path(path)).iterdir() if is_raster(each)]
    if not found:
        raise RasterError(f"{path}: no rasters ({', '.join(SUFFIXES)}) in this folder; expected a file for each band.")
    return [str(each) for each in sorted(found, key=_natural)]


def is_raster(path: Path) -> bool:
    """Tell whether a file in a folder is taken for a raster, by its name."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def check_grid(first: Header, other: Header) -> None:
    """Refuse files that do not lie on one grid: size, transform (to 1/1000 of a pixel) and CRS.

    Raises:
        RasterError: names both files and the difference.
    """
    pairs = {"size (height, width)": (first.size, other.size), "CRS": (first.crs, other.crs)}
    if shift(first.transform, other.transform, first.size) > 1e-3:
        pairs["transform"] = tuple(first.transform)[:6], tuple(other.transform)[:6]
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise RasterError(
                f"{other.path}: expected the {what} of {first.path}, {expected}, found {found}. The files of a scene "
                f"share one grid; resample them to it."
            )


def shift(first: rasterio.Affine, other: rasterio.Affine, size: tuple[int, int]) -> float:
    """Return how far, in pixels, a transform lays a raster of `size` from where another does: at its worst corner."""
    maps = [np.reshape(tuple(each)[:6], (2, 3)) for each in (first, other)]
    corners = np.array([[0, size[1], 0, size[1]], [0, 0, size[0], size[0]], [1, 1, 1, 1]])
    return float(np.abs((maps[0] - maps[1]) @ corners).max() / np.abs(maps[0][:, :2]).max())


def pick_bands(name: str, meanings: Sequence[ColorInterp], bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the bands to read: those asked for, or all but alpha. Raises RasterError: one does not exist."""
    if bands is None:
        return tuple(i for i, meaning in enumerate(meanings) if meaning != ColorInterp.alpha)
    if not bands or any(not 0 <= band < len(meanings) for band in bands):
        raise RasterError(
            f"{name}: expected bands {tuple(bands)} (counted from 0), but the file has {len(meanings)} "
            f"band(s). Change data.bands, or give an image with that many."
        )
    return tuple(int(band) for band in bands)


def shared_nodata(values: Sequence[float | int | None], dtype: np.dtype) -> float | int | None:
    """Return the nodata value that all bands share and their dtype can hold, or None."""
    if any(value is None or not fits(value, dtype) for value in values):
        return None
    first = values[0]
    return first if all(value == first or (np.isnan(value) and np.isnan(first)) for value in values) else None


def fits(value: float | int, dtype: np.dtype) -> bool:
    """Tell whether a dtype can hold a nodata value."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key: numbers in names count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
