"""Tiled GeoTIFFs written in bounded memory, and read again to see that the disk took them."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Shaped, UInt8
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterWindow
from tqdm import tqdm

# Blocks of 256: regions of 12,800 x 12,800 pixels on 2 x 4 devices read 4 % beyond their edges, with 512 it is 16 %.
BLOCK = 256
GDAL_CACHE = 64 << 20  # bytes; every block passes once
BUDGET = 64 << 20  # bytes of a row of blocks; a wider one is written in parts

Fetch = Callable[[RasterWindow], tuple[Shaped[np.ndarray, "c h w"], UInt8[np.ndarray, "h w"] | None]]
"""Returns the pixels of a window, and its mask (255 where valid) if the file is to have one."""


def tiled_profile(height: int, width: int, count: int, dtype: str, **more: Any) -> dict[str, Any]:
    """Return rasterio's profile of a GeoTIFF that is read by window: blocks of 256, deflate, BigTIFF if need be."""
    profile: dict[str, Any] = dict(driver="GTiff", height=height, width=width, count=count, dtype=dtype)
    # zstd is a little faster, but has no checksums in TIFF, and blocks whose bits have changed are read in silence; of
    # deflate GDAL notices many, and `holojax.data.scan` all.
    profile |= dict(tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate")
    profile |= dict(interleave="pixel", bigtiff="IF_SAFER")
    if count not in (3, 4):
        profile |= dict(photometric="minisblack")
    profile |= more
    return profile | (dict(zlevel=3) if profile["compress"] == "deflate" else {})


def write_tiled(
    target: str | os.PathLike[str],
    profile: Mapping[str, Any],
    fetch: Fetch,
    *,
    begin: Callable[[DatasetWriter], None] | None = None,
    bar: str | None = None,
) -> None:
    """Write a raster by `fetch`, a row of blocks at a time, and read it again.

    `begin` is given the open file before any pixels. With the text of a `bar` progress is shown on a terminal.

    Raises:
        OSError: the file cannot be written, or does not hold what was written. What `fetch` raises.
    """
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE, GDAL_TIFF_INTERNAL_MASK=True):
        with _blamed_on_the_disk(), rasterio.open(target, "w", **profile) as out:
            if begin is not None:
                begin(out)
            parts = list(_windows(out))
            sums = [_copy(fetch, out, window) for window in _with_bar(parts, bar, out.width)]
        with _blamed_on_the_disk(), rasterio.open(target) as made:  # on a full disk GDAL's writes fail without an error
            for window, (expected, masked) in zip(parts, sums, strict=True):
                mask = made.dataset_mask(window=window) if masked else b""
                if zlib.crc32(mask, zlib.crc32(made.read(window=window))) != expected:
                    raise OSError(f"rows from {window.row_off} were not written")


def add_overviews(path: str | os.PathLike[str], resampling: Resampling) -> None:
    """Add overviews to a GeoTIFF, halved until one block holds them. Raises OSError: the disk did not take them."""
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), _blamed_on_the_disk():
        with rasterio.open(path, "r+") as target:
            factors = [2**level for level in range(1, 20) if 2 ** (level - 1) * BLOCK < max(target.shape)]
            if factors:
                target.build_overviews(factors, resampling)
        for level in range(len(factors)):
            with rasterio.open(path, overview_level=level) as small:
                for window in _windows(small):
                    small.read(window=window)


def _windows(raster: rasterio.DatasetReader | DatasetWriter) -> Iterator[RasterWindow]:
    """Yield the rows of blocks from top to bottom, in parts where they are large."""
    pixel = sum(np.dtype(dtype).itemsize for dtype in raster.dtypes)
    cols = min(max(BUDGET // (BLOCK * pixel) // BLOCK, 1) * BLOCK, raster.width)
    for top in range(0, raster.height, BLOCK):
        for left in range(0, raster.width, cols):
            yield RasterWindow(left, top, min(cols, raster.width - left), min(BLOCK, raster.height - top))


def _with_bar(parts: list[RasterWindow], text: str | None, width: int) -> Iterator[RasterWindow]:
    rows = sum(window.height * window.width for window in parts) // width
    with tqdm(total=rows, desc=text, unit="rows", disable=None if text else True) as bar:
        for window in parts:
            yield window
            bar.update(window.height * window.width / width)


def _copy(fetch: Fetch, out: DatasetWriter, window: RasterWindow) -> tuple[int, bool]:
    """Copy a window and return its checksum, and whether it has a mask."""
    pixels, mask = fetch(window)
    out.write(pixels, window=window)
    if mask is not None:
        out.write_mask(mask, window=window)
    return zlib.crc32(b"" if mask is None else mask, zlib.crc32(pixels)), mask is not None


@contextlib.contextmanager
def _blamed_on_the_disk() -> Iterator[None]:
    """Make of rasterio's errors an OSError, so that no source is blamed where the target cannot be written."""
    try:
        yield
    except RasterioError as error:
        raise OSError(str(error.__cause__ or error)) from error
