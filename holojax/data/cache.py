"""Rasters that cannot be read by window (PNG, JPEG), converted once to tiled GeoTIFFs beside them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from absl import logging
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from holojax.data.bands import Paths, list_files
from holojax.data.files import written_whole
from holojax.data.raster import Raster, failures_named, gdal_path, is_remote, open_raster
from holojax.data.tiled import tiled_profile, write_tiled
from holojax.errors import RasterError

try:
    import fcntl
except ImportError:  # Windows: two processes may then convert the same file, and the last one wins
    fcntl = None

FOLDER = ".holojax"  # beside the rasters, where no other folder is given
WHOLE_ONLY = (".png", ".jpg", ".jpeg")  # their pixels are one stream: a window costs all that lies above it
WORTH_IT = 4096 * 4096  # pixels; below, decoding everything takes less than half a second

_VERSION = 1  # of the converted files; another one is converted anew


def wants_cache(path: str | os.PathLike[str]) -> bool:
    """Tell whether a raster is a PNG or JPEG that is large enough to be converted; reads its header.

    Raises:
        RasterError: the file is missing or unreadable.
    """
    if not os.fspath(path).lower().endswith(WHOLE_ONLY):
        return False
    with open_raster(path) as source:
        return source.height * source.width >= WORTH_IT


def cached(path: str | os.PathLike[str], folder: str | os.PathLike[str] = "") -> str:
    """Convert a raster to a tiled GeoTIFF, unless that was done before, and return the path of the GeoTIFF.

    The GeoTIFF has the same pixels, CRS, transform, nodata, mask, alpha and colours, in compressed blocks of 256 x 256.
    It is written a row of blocks at a time, so that memory does not grow with the height of the scene, is read again to
    see that the disk took it, and then gets its name, which holds the checksum of its source. A record beside it,
    `NAME.json`, says what it was made from: source, size, time and checksum. A source that changed is converted anew. A
    remote one is taken to stay as it is. Several processes may ask at once: one converts, the others wait.

    Args:
        path: the raster.
        folder: where converted files are kept, "": `.holojax` beside the raster (required for a remote one).

    Raises:
        RasterError: the source is missing or damaged; or the folder cannot be written or its disk is full: nothing is
            left there then.
    """
    path = os.fspath(path)
    if is_remote(path) and not folder:
        raise RasterError(f"{path}: a remote PNG or JPEG needs a folder to be converted in; set data.cache.")
    home = Path(folder) if folder else beside(path)
    where = path if is_remote(path) else os.path.abspath(gdal_path(path))
    key = f"{Path(path).stem}.{hashlib.sha256(where.encode()).hexdigest()[:8]}"
    with open_raster(path) as source:
        header = _header(source)
    record = home / f"{key}.json"
    with _failures(path, home):
        ready = _ready(record, path, header)
        if ready is not None:
            return ready
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / f"{key}.lock"):
            return _ready(record, path, header) or _make(record, path, header)


def by_window(path: Paths, folder: str | os.PathLike[str] = "") -> Paths:
    """Return what is read in place of a raster's files so that windows are cheap: converts those that need it.

    Errors as `cached`.
    """
    if not isinstance(path, str | os.PathLike):
        return [by_window(each, folder) for each in path]
    if os.path.isdir(path):
        return by_window(list_files(path), folder)
    return cached(path, folder) if wants_cache(path) else path


def beside(path: str | os.PathLike[str]) -> Path:
    """Return the folder, perhaps not there yet, that keeps what is made of a local raster."""
    parent = Path(gdal_path(path)).parent
    return parent if parent.name == FOLDER else parent / FOLDER


def _make(record: Path, path: str, header: str) -> str:
    """Convert, and then write the record: what it names is always complete."""
    before = stamp(path)
    digest = _checksum(path, header)
    made = record.with_name(f"{record.stem}.{digest[:12]}.tif")
    with written_whole(made) as temporary:
        _convert(path, temporary)
        if stamp(path) != before:
            raise RasterError(f"{path}: the file changed while it was converted. Start again when it is complete.")
    facts = before | dict(source=path, header=header, sha256=digest, made=made.name, bytes=made.stat().st_size)
    old = _load(record).get("made")
    _write_record(record, facts)
    if old not in (None, made.name):
        (record.parent / old).unlink(missing_ok=True)
    return str(made)


def _ready(record: Path, path: str, header: str) -> str | None:
    """Return the converted file if its record says that it is of this source as it is now."""
    facts = _load(record)
    made = record.parent / facts.get("made", "none")
    if facts.get("header") != header or not made.exists() or made.stat().st_size != facts["bytes"]:
        return None
    now = stamp(path)
    if {name: facts.get(name) for name in now} == now:
        return str(made)
    if facts.get("size") == now.get("size") and facts["sha256"] == _checksum(path, header):
        with contextlib.suppress(OSError):  # copied or touched, with the same content; the folder may be read-only
            _write_record(record, facts | now)
        return str(made)
    return None


def _convert(path: str, target: Path) -> None:
    logging.info("%s is converted to a tiled GeoTIFF, once: it cannot be read by window.", path)
    with open_raster(path) as source:
        masked = _has_mask(source)

        def fetch(window: RasterWindow) -> tuple[np.ndarray, np.ndarray | None]:
            with failures_named(path):
                return source.read(window=window), source.dataset_mask(window=window) if masked else None

        def begin(out: rasterio.io.DatasetWriter) -> None:
            out.colorinterp = source.colorinterp
            with contextlib.suppress(ValueError):  # has no colours of its own
                out.write_colormap(1, source.colormap(1))

        write_tiled(target, _profile(source), fetch, begin=begin, bar=f"converts {os.path.basename(path)}")


def _profile(source: Raster) -> dict[str, Any]:
    profile = tiled_profile(*source.shape, source.count, source.dtypes[0], nodata=source.nodata)
    if source.colorinterp[0] != ColorInterp.palette:  # numbers of colours have no slope
        profile |= dict(predictor=2)
    if source.crs is not None or not source.transform.is_identity:
        profile |= dict(crs=source.crs, transform=source.transform)
    return profile


def _has_mask(source: Raster) -> bool:
    flags = source.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _header(source: Raster) -> str:
    """Write all that is converted besides pixels: it may come from files beside the source, and change with them."""
    crs = source.crs.to_wkt() if source.crs else ""
    facts = (_VERSION, source.shape, source.dtypes, crs, tuple(source.transform), source.nodatavals,
             [str(meaning) for meaning in source.colorinterp])  # fmt: skip
    return repr((*facts, [[flag.name for flag in flags] for flags in source.mask_flag_enums]))


def stamp(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return what tells that a file has changed: its size and time; nothing of a remote one."""
    if is_remote(path):
        return {}
    status = os.stat(gdal_path(path))
    return dict(size=status.st_size, mtime_ns=status.st_mtime_ns)


def _checksum(path: str, header: str) -> str:
    digest = hashlib.sha256(header.encode())
    if is_remote(path):
        digest.update(path.encode())
        return digest.hexdigest()
    with open(gdal_path(path), "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _load(record: Path) -> dict[str, Any]:
    try:
        facts = json.loads(record.read_text())
        return facts if isinstance(facts, dict) and "bytes" in facts else {}
    except (OSError, ValueError):  # not there, or of a machine that stopped while it wrote
        return {}


def _write_record(record: Path, facts: dict[str, Any]) -> None:
    with written_whole(record) as temporary:
        temporary.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process convert; the lock goes with the process that holds it, however it ends."""
    with open(path, "w") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # file systems without locks: the last one wins
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _failures(path: str, home: Path) -> Iterator[None]:
    try:
        yield
    except RasterError:
        raise
    except (RasterioError, OSError) as error:
        raise RasterError(
            f"{path}: cannot be converted to a tiled GeoTIFF in {home} ({error.__cause__ or error}). Is the disk full, "
            f"or the folder not writable? Set data.cache to another folder."
        ) from error
