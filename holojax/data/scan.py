"""One pass over all pixels of a raster, block by block in bounded memory, that finds what cannot be read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped
from rasterio.enums import Compression, Interleaving
from rasterio.windows import Window as RasterWindow

from holojax.data.blocks import Raster
from holojax.data.raster import failures_named, gdal_path, is_remote, open_raster
from holojax.errors import RasterError

BUDGET = 32 << 20  # bytes of pixels that are looked at together
Visit = Callable[[Raster, RasterWindow, Shaped[np.ndarray, "c h w"]], None]
"""Is given an open raster, a window and its pixels as they are in the file."""


@dataclasses.dataclass
class Damage:
    """The blocks of a raster that cannot be read: how many, the first one and why."""

    blocks: int = 0
    first: RasterWindow | None = None
    why: str = ""

    def add(self, block: RasterWindow, why: str) -> None:
        """Count a block, if there is a reason."""
        if not why:
            return
        if self.first is None:
            self.first, self.why = block, why
        self.blocks += 1

    def __str__(self) -> str:
        if self.first is None:
            return ""
        count = "a block" if self.blocks == 1 else f"{self.blocks:,} blocks, the first"
        return (
            f"cannot be read whole: {count} at {span(self.first)} is damaged ({self.why}); copy or download the file "
            f"again."
        )


def scan(path: str, visit: Visit, progress: Callable[[int], object]) -> str:
    """Read every block of a raster once and show the pixels to `visit`; what is damaged is not shown.

    No more than some `BUDGET` bytes are in memory, or one row of strips. Blocks compressed by deflate are also compared
    with their checksums, which GDAL does not look at. `progress` is told how many pixels are done.

    Returns:
        What is damaged, or "".

    Raises:
        RasterError: the file cannot be opened.
    """
    damage = Damage()
    with open_raster(path) as source, _blocks_file(path, source) as file:
        for window in windows(source):
            if not _read(source, window, file, visit, damage):
                break  # one stream, such as PNG: nothing after the damage can be read
            progress(int(window.width * window.height))
    return str(damage)


def windows(source: Raster) -> Iterator[RasterWindow]:
    """Yield windows of whole blocks that cover a raster, of about `BUDGET` bytes, row by row."""
    high, wide = source.block_shapes[0]
    pixel = sum(np.dtype(dtype).itemsize for dtype in source.dtypes)
    cols = max(1, BUDGET // (high * wide * pixel)) * wide
    rows = high * max(1, BUDGET // (high * source.width * pixel)) if cols >= source.width else high
    return _tiles(RasterWindow(0, 0, source.width, source.height), rows, cols)


def span(window: RasterWindow) -> str:
    """Write where a window is, for people: its first and last rows and columns, from 0."""
    return (
        f"rows {window.row_off}..{window.row_off + window.height - 1}, columns {window.col_off}.."
        f"{window.col_off + window.width - 1}"
    )


def _tiles(area: RasterWindow, rows: int, cols: int) -> Iterator[RasterWindow]:
    bottom, right = area.row_off + area.height, area.col_off + area.width
    for top in range(area.row_off, bottom, rows):
        for left in range(area.col_off, right, cols):
            yield RasterWindow(left, top, min(cols, right - left), min(rows, bottom - top))


def _read(source: Raster, window: RasterWindow, file: BinaryIO | None, visit: Visit, damage: Damage) -> bool:
    """Read a window; where that fails, block by block. Returns False where there is nothing more to read."""
    blocks = list(_tiles(window, *source.block_shapes[0]))
    bad = [] if file is None else [block for block in blocks if not _sound(source, block, file)]
    for block in bad:
        damage.add(block, "its checksum is wrong")
    if not bad:
        why = _show(source, window, visit)
        if not why or not _by_block(source):
            damage.add(window, why)
            return not why
    before = damage.blocks
    for block in blocks:
        if block not in bad:
            damage.add(block, _show(source, block, visit))
    if not bad and damage.blocks == before:  # GDAL warns of damaged JPEG data once, when it decodes them
        damage.add(window, why)
    return True


def _show(source: Raster, window: RasterWindow, visit: Visit) -> str:
    """Read a window and show it; return why it cannot be read, or ""."""
    try:
        with failures_named(source.name):
            pixels = source.read(window=window)
    except RasterError as error:
        said = error.__cause__ or error
        cause = str(said.__cause__ or said).removeprefix(f"{source.name}: ")
        return " ".join(cause.split()).rpartition("/decompress.tif:")[2].rstrip(".")
    visit(source, window, pixels)
    return ""


def _by_block(source: Raster) -> bool:
    return source.driver in ("GTiff", "VRT", "blocks")


@contextlib.contextmanager
def _blocks_file(path: str, source: Raster) -> Iterator[BinaryIO | None]:
    """Open the file beside GDAL where its blocks carry checksums: a TIFF on this machine, compressed by deflate."""
    name = gdal_path(path)
    deflate = source.driver == "GTiff" and source.compression == Compression.deflate
    if not deflate or is_remote(path) or not os.path.isfile(name):
        yield None
        return
    with open(name, "rb") as file:
        yield file


def _sound(source: Raster, block: RasterWindow, file: BinaryIO) -> bool:
    """Compare the checksums of a block's bands; a block that is not in the file is sound, and one cut short GDAL's."""
    high, wide = source.block_shapes[0]
    place = f"{block.col_off // wide}_{block.row_off // high}"
    for band in range(1, 2 if source.interleaving == Interleaving.pixel else source.count + 1):
        start, size = (source.get_tag_item(f"BLOCK_{what}_{place}", "TIFF", band) for what in ("OFFSET", "SIZE"))
        if start and size:
            file.seek(int(start))
            if not _inflates(file.read(int(size))):
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
