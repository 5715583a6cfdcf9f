"""One pass over all pixels of a raster, block by block in bounded memory, that finds what cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Shaped
from rasterio.windows import Window as RasterWindow

from holojax.data.blocks import Raster
from holojax.data.checksums import Checksums
from holojax.data.raster import failures_named, open_raster
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
    with open_raster(path) as source, Checksums.of(path, source) as sums:
        for window in windows(source):
            if not _read(source, window, sums, visit, damage):
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


def _read(source: Raster, window: RasterWindow, sums: Checksums, visit: Visit, damage: Damage) -> bool:
    """Read a window; where that fails, block by block. Returns False where there is nothing more to read."""
    blocks = list(_tiles(window, *source.block_shapes[0]))
    high, wide = source.block_shapes[0]
    bad = [block for block in blocks if not sums.sound(block.row_off // high, block.col_off // wide)]
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
