"""Checksums of the blocks of TIFFs: deflate has them, and GDAL stops reading before it comes to them.

Without this, many blocks in which bytes were overwritten are read in silence: of 25 of a photograph, 22 with 64 zeros
in them, and 8 with 64 random bytes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from rasterio.enums import Compression, Interleaving
from rasterio.windows import Window as RasterWindow

from holojax.data.blocks import Raster, spans
from holojax.data.raster import gdal_path, is_remote
from holojax.errors import RasterError


class Checksums:
    """The checksums of an open raster, whose blocks are looked at once in a process, or as often as asked.

    A raster that is not in a local TIFF compressed by deflate has none: all its blocks pass. For one thread.
    """

    _passed: dict[tuple[str, int, int], bytearray] = {}  # noqa: RUF012 - of all rasters; a byte a block
    _lock = threading.Lock()

    def __init__(self, path: str, source: Raster, file: BinaryIO | None) -> None:
        self._path, self._source, self._file = path, source, file
        if file is not None:
            sides = zip(source.shape, source.block_shapes[0], strict=True)
            self._rows, self._cols = (-(-size // side) for size, side in sides)
            state = os.fstat(file.fileno())
            key = gdal_path(path), state.st_size, state.st_mtime_ns
            with self._lock:
                self._known = self._passed.setdefault(key, bytearray(self._rows * self._cols))

    @classmethod
    @contextlib.contextmanager
    def of(cls, path: str, source: Raster) -> Iterator[Checksums]:
        """Open a file beside GDAL, if its blocks have checksums."""
        name = gdal_path(path)
        deflate = source.driver == "GTiff" and source.compression == Compression.deflate
        if not deflate or is_remote(path) or not os.path.isfile(name):
            yield cls(path, source, None)
            return
        with open(name, "rb") as file:
            yield cls(path, source, file)

    def verify(self, window: RasterWindow) -> None:
        """Check the blocks that a window touches, but those that passed before. Raises RasterError: one is damaged."""
        if self._file is None:
            return
        high, wide = self._source.block_shapes[0]
        for row, *_ in spans(window.row_off, window.height, high):
            for col, *_ in spans(window.col_off, window.width, wide):
                if not self._known[row * self._cols + col]:
                    if not self.sound(row, col):
                        raise RasterError(
                            f"{self._path}: the block at rows from {row * high}, columns from {col * wide} is damaged "
                            f"(its checksum is wrong). Copy or download the file again."
                        )
                    self._known[row * self._cols + col] = 1

    def sound(self, row: int, col: int) -> bool:
        """Tell whether the bands of a block have their checksums; one that is not in the file, or cut short, passes."""
        if self._file is None:
            return True
        source = self._source
        for band in range(1, 2 if source.interleaving == Interleaving.pixel else source.count + 1):
            start, size = (
                source.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", band) for what in ("OFFSET", "SIZE")
            )
            if start and size:
                self._file.seek(int(start))
                if not _inflates(self._file.read(int(size))):
                    return False
        return True


def _inflates(packed: bytes) -> bool:
    engine = zlib.decompressobj()
    try:
        while not engine.eof:
            out = engine.decompress(packed, 1 << 20)  # bounded: a strip may be a whole scene
            packed = engine.unconsumed_tail
            if not out and not packed:
                break
    except zlib.error:
        return False
    return True
