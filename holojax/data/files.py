"""Files that HoloJAX makes for itself: small GeoTIFFs, and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Shaped
from rasterio.errors import RasterioError

from holojax.data.classes import ClassTable
from holojax.data.raster import allow_no_georeference
from holojax.errors import ConfigError, RasterError

RECORD = "scenes.json"


def write_geotiff(
    path: str | os.PathLike[str],
    pixels: Shaped[np.ndarray, "h w *c"],
    *,
    crs: Any = None,
    transform: rasterio.Affine | None = None,
    nodata: float | int | None = None,
    table: ClassTable | None = None,
) -> None:
    """Write a whole raster, `[h w c]` or `[h w]`, as a tiled, compressed GeoTIFF.

    With a class `table` the band gets its colours and class names. For scenes that fit memory; class maps of
    any size are written by `holojax.inference.geotiff.MapWriter`.
    """
    allow_no_georeference()
    bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    profile = dict(driver="GTiff", count=bands.shape[0], height=bands.shape[1], width=bands.shape[2])
    profile |= dict(tiled=True, blockxsize=256, blockysize=256, compress="deflate", interleave="pixel")
    if bands.shape[0] > 3:
        profile |= dict(photometric="minisblack")  # else GDAL calls the fourth band alpha
    with rasterio.open(
        path, "w", **profile, dtype=pixels.dtype.name, crs=crs, transform=transform, nodata=nodata
    ) as target:
        if table is not None:
            target.write_colormap(1, table.colormap())
            target.update_tags(1, **table.tags())
        target.write(bands)


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a temporary file beside `path`, which takes that name at the end, or goes if that fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_once(folder: str | os.PathLike[str], parameters: Mapping[str, Any], fill: Callable[[Path], None]) -> Path:
    """Make a folder by `fill(temporary folder)`, unless it is there already, made with the same parameters.

    The folder appears under its name when it is complete, with a record of its parameters; an interrupted run
    leaves nothing under that name, and of several processes at it together the first wins.

    Raises:
        ConfigError: the folder was made with other parameters, lacks files, or holds something else.
        RasterError: the place is not writable, or the disk is full.
    """
    folder = Path(folder)
    wanted = json.loads(json.dumps(parameters))
    if _is_there(folder, wanted):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise RasterError(f"{folder}: cannot be made ({error.strerror}). Choose a writable folder.") from error
    try:
        fill(temporary)
        record = dict(parameters=wanted, files=_count(temporary))
        (temporary / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        try:
            temporary.rename(folder)  # takes the place of an empty folder, and of no other
        except OSError:
            if not _is_there(folder, wanted):
                raise
    except (RasterioError, OSError) as error:
        raise RasterError(f"{folder}: cannot be written ({error}). Is the disk full?") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_there(folder: Path, wanted: dict[str, Any]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        record = json.loads((folder / RECORD).read_text())
        found, files = record["parameters"], record["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}: expected generated scenes or no such folder, found something else (no readable "
            f"{RECORD}). Choose another folder."
        ) from error
    if found != wanted:
        differ = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        pairs = ", ".join(f"{key} {found.get(key)} (wanted {wanted.get(key)})" for key in differ)
        raise ConfigError(
            f"{folder}: the scenes there were made with other parameters: {pairs}. Remove the folder, or "
            f"choose another."
        )
    if _count(folder) != files:
        raise ConfigError(
            f"{folder}: expected the {files} generated rasters, found {_count(folder)}. Remove the folder to "
            f"make it anew."
        )
    return True


def _count(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*.tif"))
