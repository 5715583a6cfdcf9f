"""Class maps on disk: written window by window, complete or not there at all."""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import rasterio.crs
from jaxtyping import Bool, UInt8
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.raster import allow_no_georeference, open_raster
from holojax.data.scene import SceneReader
from holojax.errors import RasterError
from holojax.parallel import Window

NODATA = IGNORE
BLOCK = 512


class MapWriter:
    """Write a class map as a GeoTIFF: uint8, nodata 255, CRS and transform of its image, class colours.

    Use it as a context manager. Entering opens a temporary file beside `path`, so that an unwritable place is
    found before any computing; leaving without an error gives it the name `path`, with one removes it.

    Windows may come in any order and need not fit the file's blocks: parts of a block are kept until the
    block is complete, then it is compressed and written, once. What is kept are the blocks on the seams of
    windows, not the map. Pixels that were never written are nodata.

    Args:
        path: the GeoTIFF to make; an existing file is replaced at the end.
        height, width: pixels.
        crs, transform: of the image; without a CRS the map has none, with a warning.
        table: class colours and names; None: neither.

    Raises:
        RasterError: the place is not writable, writing fails (a full disk), or windows overlap.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        height: int,
        width: int,
        crs: rasterio.crs.CRS | None = None,
        transform: rasterio.Affine | None = None,
        table: ClassTable | None = None,
    ) -> None:
        self.path = Path(path)
        self.height, self.width = height, width
        self.table = table
        self._georeference = dict(crs=crs, transform=transform)
        self._temporary = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex[:8]}.tif")
        self._open = contextlib.ExitStack()
        self._target: rasterio.io.DatasetWriter | None = None
        self._parts: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._done: dict[tuple[int, int], int] = {}  # checksums, by block

    @classmethod
    def like(cls, path: str | os.PathLike[str], reader: SceneReader, table: ClassTable | None = None) -> MapWriter:
        """Make a writer for the map of an opened image: of its size, in its place."""
        return cls(
            path,
            height=reader.height,
            width=reader.width,
            crs=reader.crs,
            transform=reader.transform,
            table=table,
        )

    def __enter__(self) -> MapWriter:
        if self.path.is_dir() or not self.path.parent.is_dir():
            found = "a folder" if self.path.is_dir() else "no such folder"
            where = self.path if self.path.is_dir() else self.path.parent
            raise RasterError(f"{self.path}: the map cannot be written there ({where}: {found}). Choose another path.")
        if self._georeference["crs"] is None:
            warnings.warn(f"{self.path}: the image has no CRS, so the map has none.", UserWarning, stacklevel=2)
        allow_no_georeference()
        with self._failures():
            self._open.enter_context(rasterio.Env(GDAL_NUM_THREADS="2"))
            self._target = self._open.enter_context(
                rasterio.open(
                    self._temporary,
                    "w",
                    driver="GTiff",
                    height=self.height,
                    width=self.width,
                    count=1,
                    dtype="uint8",
                    nodata=NODATA,
                    tiled=True,
                    blockxsize=BLOCK,
                    blockysize=BLOCK,
                    compress="deflate",  # and no predictor: classes have no slope, files grow by 15 to 75 %
                    bigtiff="IF_SAFER",
                    **self._georeference,
                )
            )
            if self.table is not None:
                self._target.write_colormap(1, self.table.colormap())
                self._target.update_tags(1, **self.table.tags())
        return self

    def write(
        self,
        window: Window,
        classes: UInt8[np.ndarray, "h w"],
        valid: Bool[np.ndarray, "h w"] | None = None,
    ) -> None:
        """Write the classes of a window; 255, or where not `valid`, is nodata.

        `classes` may be larger than the window: the padding of a region at the bottom and right is dropped.

        Raises:
            RasterError: the window leaves the map or overlaps one that was written, or writing fails.
        """
        inside = 0 <= window.top <= window.top + window.height <= self.height
        inside &= 0 <= window.left <= window.left + window.width <= self.width
        if not inside or classes.shape[0] < window.height or classes.shape[1] < window.width:
            raise RasterError(
                f"{self.path}: {window} with classes {classes.shape} does not fit the map of "
                f"{self.height} x {self.width} pixels."
            )
        if valid is not None:
            classes = np.where(valid, classes, np.uint8(NODATA))
        classes = classes[: window.height, : window.width]
        for key in _blocks(window):
            row, col = key[0] * BLOCK, key[1] * BLOCK
            top, bottom = max(window.top, row), min(window.top + window.height, row + BLOCK)
            left, right = max(window.left, col), min(window.left + window.width, col + BLOCK)
            part = classes[top - window.top : bottom - window.top, left - window.left : right - window.left]
            self._fill(key, (slice(top - row, bottom - row), slice(left - col, right - col)), part)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with self._failures():
                    for key in list(self._parts):
                        self._flush(key)
                    self._open.close()
                    self._verify()
                    os.replace(self._temporary, self.path)
        finally:
            with contextlib.suppress(RasterioError, OSError):
                self._open.close()
            self._parts.clear()
            self._temporary.unlink(missing_ok=True)

    def _fill(self, key: tuple[int, int], at: tuple[slice, slice], part: np.ndarray) -> None:
        """Put a part into its block, and write the block when it is complete."""
        if key not in self._parts and key not in self._done:
            shape = min(BLOCK, self.height - key[0] * BLOCK), min(BLOCK, self.width - key[1] * BLOCK)
            self._parts[key] = np.full(shape, NODATA, np.uint8), np.zeros(shape, bool)
        if key in self._done or self._parts[key][1][at].any():
            raise RasterError(f"{self.path}: windows overlap at block {key}; write every pixel once.")
        block, written = self._parts[key]
        block[at], written[at] = part, True
        if written.all():
            with self._failures():
                self._flush(key)

    def _flush(self, key: tuple[int, int]) -> None:
        block, _ = self._parts.pop(key)
        self._done[key] = zlib.crc32(block)
        self._target.write(block, 1, window=RasterWindow(key[1] * BLOCK, key[0] * BLOCK, *block.shape[::-1]))

    def _verify(self) -> None:
        """Read the finished file again: on a full disk GDAL's writes fail without an error."""
        with open_raster(self._temporary) as source:
            for key, window in source.block_windows(1):
                if key in self._done and zlib.crc32(source.read(1, window=window)) != self._done[key]:
                    raise OSError(f"block {key} was not written")

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (RasterioError, OSError) as error:
            raise RasterError(
                f"{self.path}: the map cannot be written ({error.__cause__ or error}). Check that the folder "
                f"is writable and the disk has room, or choose another path."
            ) from error


def _blocks(window: Window) -> list[tuple[int, int]]:
    """Return row and column of the blocks that a window touches."""
    if not window.height or not window.width:
        return []
    rows = range(window.top // BLOCK, (window.top + window.height - 1) // BLOCK + 1)
    cols = range(window.left // BLOCK, (window.left + window.width - 1) // BLOCK + 1)
    return [(row, col) for row in rows for col in cols]
