"""Rasters as GDAL sees them: what a path means, the settings that it is read with, and what goes wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator

import rasterio
import rasterio.env
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from holojax.data.blocks import SCHEME, Raster, open_blocks
from holojax.data.open_files import OpenFiles
from holojax.errors import RasterError

# Every setting with its reason. What the environment or a rasterio.Env around the call says wins.
LOCAL = {
    # When a PNG is cut short, GDAL's shortcut for whole images gives no error but memory that it never wrote.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    # Decoded blocks that GDAL keeps, bytes. Its own default, 5 % of the machine, is for each process.
    "GDAL_CACHEMAX": 256 << 20,
    # Blocks of a window are decompressed side by side; more threads gain little, and processes share the cores.
    "GDAL_NUM_THREADS": "2",
    # Masks, overviews and world files beside a file are found, also while a remote one is open.
    "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
}
REMOTE = LOCAL | {
    # No listing of the bucket, and no request for each file that might lie beside this one (.ovr, .msk, .aux.xml).
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # Files that GDAL asks for on its own are these or do not exist.
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff,.vrt,.png,.jpg,.jpeg,.jp2,.img,.nc",
    # The header of a scene with 10^4 blocks comes with the first request, not in four.
    "GDAL_INGESTED_BYTES_AT_OPEN": "65536",
    # Blocks side by side in the file are one request; the parts of a window come over one connection.
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    # A run of days outlives a server that is busy (429) or restarts (5xx).
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    # Nothing waits for ever: seconds to connect, and a transfer below 1000 bytes a second for 30 seconds has failed.
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
}

SUFFIXES = (".tif", ".tiff", ".vrt", ".png", ".jpg", ".jpeg")  # of files that are taken for rasters in a folder
SCHEMES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
_ON_THE_NET = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "/vsioss", "/vsiswift", "/vsihdfs", "/vsiwebhdfs")
_QUIET = ("ignore", None, NotGeoreferencedWarning, None, 0)


class _Damage(logging.Handler):
    """Remembers, for each thread, when GDAL only warns of damage and makes pixels up; rasterio logs what GDAL says."""

    WORDS = ("Corrupt JPEG data", "PackBitsDecode", "LZWDecode", "Premature end")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # Cameras and web sites leave bytes behind the data of whole JPEG files; GDAL leaves none in blocks of a TIFF.
        harmless = "libjpeg:" in text and "extraneous bytes" in text
        if not harmless and any(word in text for word in self.WORDS):
            self._heard.text = text.rpartition("CPLE_AppDefined:")[2].removeprefix("CPLE_AppDefined in ")

    def take(self) -> str:
        text, self._heard.text = getattr(self._heard, "text", ""), ""
        return text


_damage = _Damage()
logging.getLogger("rasterio").addHandler(_damage)
logging.getLogger("rasterio").setLevel(logging.WARNING)  # its warnings must come here whatever level the root has


def gdal_path(path: str | os.PathLike[str]) -> str:
    """Turn the address of a raster into the path under which GDAL reads it.

    `http(s)://...` and `ftp://...`, `s3://bucket/key`, `gs://bucket/key`, `az://container/key` and `file:///...` become
    paths of GDAL's virtual file systems; credentials are those that GDAL finds (AWS_*, GS_*, AZURE_* in the
    environment). Paths, and what GDAL writes itself (`/vsicurl/...`), stay as they are.

    Raises:
        RasterError: the address has a scheme that is not known.
    """
    path = os.fspath(path)
    scheme, separator, rest = path.partition("://")
    if not separator or not re.fullmatch(r"[a-zA-Z][\w+.-]*", scheme) or path.startswith(SCHEME):
        return path
    scheme = scheme.lower()
    if scheme in ("http", "https", "ftp"):
        return f"/vsicurl/{scheme}://{rest}"
    if scheme == "file":
        return "/" + rest.partition("/")[2]
    if scheme in SCHEMES:
        return SCHEMES[scheme] + rest
    known = ", ".join(f"{name}://" for name in ("http", "https", "ftp", "file", *SCHEMES))
    raise RasterError(f"{path}: unknown kind of address {scheme}://. Known: {known}, and GDAL's own /vsi... paths.")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether GDAL reads a raster over the network."""
    path = gdal_path(path)
    return path.startswith(_ON_THE_NET) or any(f"{part}/" in path for part in _ON_THE_NET if path.startswith("/vsi"))


def gdal_settings(path: str | os.PathLike[str]) -> dict[str, str | int]:
    """Return the GDAL settings that a raster is read with, less those that the user has made."""
    around = rasterio.env.getenv() if rasterio.env.hasenv() else {}
    ours = {name: {LOCAL.get(name), REMOTE.get(name)} for name in REMOTE}  # of another raster that is open
    given = set(os.environ) | {name for name, value in around.items() if value not in ours.get(name, ())}
    table = REMOTE if is_remote(path) else LOCAL
    return {name: value for name, value in table.items() if name not in given}


def gdal_env(path: str | os.PathLike[str], **settings: str | int) -> contextlib.AbstractContextManager:
    """Return a context in which GDAL has the settings for a raster; to enter one inside another costs nothing.

    `settings` stand in for those of the table; what the user has set wins over both.
    """
    ours = gdal_settings(path)
    settings = ours | {name: value for name, value in settings.items() if name in ours}
    around = rasterio.env.getenv() if rasterio.env.hasenv() else None
    if around is not None and all(around.get(name) == value for name, value in settings.items()):
        return contextlib.nullcontext()
    return rasterio.Env(**settings)


def allow_no_georeference() -> None:
    """Silence rasterio's warning about files without georeferencing; HoloJAX says it in its own words.

    No `warnings.catch_warnings`: it swaps the filters of the process, and rasters are read in several
    threads.
    """
    if warnings.filters[:1] != [_QUIET]:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)


@contextlib.contextmanager
def open_raster(path: str | os.PathLike[str], files: OpenFiles | None = None) -> Iterator[Raster]:
    """Open a raster, a file here or on the net or blocks, for reading with rasterio; every failure names it.

    A dataset is for one thread at a time. With `files` it is borrowed from those that are open, and stays so. That a
    raster has no georeferencing is no warning here: `SceneReader.open` says it once. Files beside a remote one (a mask,
    overviews) are not looked for.

    Raises:
        RasterError: the file is missing, no raster, or damaged, or cannot be reached.
    """
    path = os.fspath(path)
    allow_no_georeference()
    with failures_named(path), gdal_env(path):
        if path.startswith(SCHEME):
            yield open_blocks(path)
        elif files is None:
            with rasterio.open(gdal_path(path)) as source:
                yield source
        else:  # a warning of damage must come before the raster is back among those that are open
            with files.lend(gdal_path(path)) as source, failures_named(path):
                yield source


@contextlib.contextmanager
def failures_named(path: str) -> Iterator[None]:
    """Turn rasterio's errors, and warnings of damage, into a RasterError that names the raster and says what to do.

    `open_raster` does it for all that happens inside; where several rasters are open at once, it cannot know which one
    failed, and each read is wrapped by itself.
    """
    _damage.take()  # of a read that nobody asked about
    try:
        yield
        warned = _damage.take()
        if warned:
            raise RasterioError(warned)
    except RasterioError as error:
        cause, name = error.__cause__ or error, gdal_path(path)
        if is_remote(path):
            raise RasterError(
                f"{path}: cannot be read over the network, GDAL says: {cause}. Check the address, the credentials "
                f"and the connection; if they are right, the file is damaged."
            ) from error
        if not name.startswith("/vsi") and not path.startswith(SCHEME) and not os.path.exists(name):
            raise RasterError(f"{path}: no such file. Check the path and that the data are in place.") from error
        if os.path.exists(name) and not os.access(name, os.R_OK):
            raise RasterError(
                f"{path}: may not be read (permission denied); say chmod u+r, or ask its owner."
            ) from error
        raise RasterError(
            f"{path}: expected a readable raster, but GDAL says: {cause}. The file is damaged, cut short or "
            f"of a kind that GDAL does not read; copy or download it again."
        ) from error


def overlap(start: int, length: int, size: int, out: int) -> tuple[range, slice]:
    """Return which of `size` places an interval holds, and where they lie in `out` places that stand for all of it."""
    first, last = max(start, 0), max(min(start + length, size), max(start, 0))
    if last <= first:
        return range(0), slice(0, 0)
    begin = (first - start) * out // length
    end = -(-(last - start) * out // length)
    return range(first, last), slice(begin, end)
