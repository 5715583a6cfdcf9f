"""Pictures for people: an image, its label and its map side by side, small enough to look at."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Shaped, UInt8
from rasterio.enums import Resampling

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.files import written_whole
from holojax.data.labels import LabelReader
from holojax.data.raster import allow_no_georeference, open_raster
from holojax.data.scene import SceneReader
from holojax.errors import RasterError

GAP = 8


def image_overview(reader: SceneReader, longest: int = 768) -> UInt8[np.ndarray, "h w 3"]:
    """Return a small RGB picture of an image, uint8 `[h w 3]`, at most `longest` pixels a side.

    Shows the first three bands that the reader picks (or the first as grey). Values other than uint8 are
    stretched from their 2nd to their 98th percentile. GDAL reads it decimated, never whole.

    Raises:
        RasterError: the file is damaged.
    """
    size = _fit(reader.height, reader.width, longest)
    bands = reader.bands[:3] if len(reader.bands) >= 3 else reader.bands[:1] * 3
    return _stretch(dataclasses.replace(reader, bands=bands).read(shape=size)[0])


def class_overview(
    source: str | os.PathLike[str] | LabelReader, table: ClassTable, longest: int = 768
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a small coloured picture of a class map (a path) or a label (its reader), uint8 `[h w 3]`.

    Nodata and ignored pixels are black. Pixels are picked, not averaged.

    Raises:
        RasterError: the file is damaged.
    """
    with open_raster(source.path if isinstance(source, LabelReader) else source) as raster:
        size = _fit(raster.height, raster.width, longest)
        raw = raster.read(1, out_shape=size, resampling=Resampling.nearest)
    known = source.table if isinstance(source, LabelReader) else [(k, k) for k in range(len(table))]
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(table)] = table.palette
    classes = np.full(raw.shape, IGNORE, np.uint8)
    for value, target in known:
        classes[raw == value] = target
    return colours[classes]


def side_by_side(path: str | os.PathLike[str], panels: Sequence[UInt8[np.ndarray, "_ _ 3"]], gap: int = GAP) -> Path:
    """Write panels of RGB pixels as one PNG, side by side from left to right, and return its path.

    Raises:
        RasterError: the place is not writable.
    """
    path = Path(path)
    height = max(panel.shape[0] for panel in panels)
    strips = []
    for panel in panels:
        space = ((0, height - panel.shape[0]), (gap if strips else 0, 0), (0, 0))
        strips.append(np.pad(panel, space, constant_values=255))
    pixels = np.concatenate(strips, axis=1)
    allow_no_georeference()
    profile = dict(driver="PNG", count=3, dtype="uint8", height=pixels.shape[0], width=pixels.shape[1])
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(np.moveaxis(pixels, -1, 0))
        content = memory.read()
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise RasterError(f"{path}: the picture cannot be written ({error}). Choose another path.") from error
    return path


def _fit(height: int, width: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _stretch(pixels: Shaped[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    if pixels.dtype == np.uint8:
        return pixels
    finite = np.isfinite(pixels)
    if not finite.any():
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(pixels[finite], (2, 98))
    scaled = 255 * (pixels.astype(np.float64) - low) / max(high - low, 1e-12)
    return np.clip(np.where(finite, scaled, 0), 0, 255).astype(np.uint8)
