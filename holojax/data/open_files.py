"""Rasters that stay open between reads: to open one takes as long as to decode a scene of a thousand pixels a side."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Iterator

import rasterio

try:
    import resource
except ImportError:  # on Windows, where a process may hold thousands of files
    resource = None

LIMIT = 512  # rasters that wait open, at most; and no more than a quarter of the files that a process may hold


class OpenFiles:
    """Holds rasters open, and lends each to one reader at a time, in any thread.

    A raster whose reader failed, or whose file has changed, is opened anew: GDAL complains of some damaged blocks once,
    and then gives what it made of them. Those that waited longest are closed when there are too many. Travels to other
    processes by pickle, empty.
    """

    def __init__(self) -> None:
        self._idle: collections.OrderedDict[tuple, list[rasterio.DatasetReader]] = collections.OrderedDict()
        self._count = 0
        self._limit = LIMIT
        if resource is not None:
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._limit = LIMIT if most == resource.RLIM_INFINITY else min(LIMIT, most // 4)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return OpenFiles, ()

    @contextlib.contextmanager
    def lend(self, name: str) -> Iterator[rasterio.DatasetReader]:
        """Lend the raster of a path as GDAL takes it. Raises what `rasterio.open` does."""
        key = name, _state(name)
        source = self._take(key) or rasterio.open(name)
        try:
            yield source
        except BaseException:
            source.close()
            raise
        for each in self._give(key, source):
            each.close()

    def _take(self, key: tuple) -> rasterio.DatasetReader | None:
        with self._lock:
            waiting = self._idle.get(key, [])
            source = waiting.pop() if waiting else None
            self._count -= source is not None
            return source

    def _give(self, key: tuple, source: rasterio.DatasetReader) -> list[rasterio.DatasetReader]:
        """Take a raster back, and return those that are too many."""
        extra = []
        with self._lock:
            self._idle.setdefault(key, []).append(source)
            self._idle.move_to_end(key)
            self._count += 1
            while self._count > self._limit:
                oldest = next(iter(self._idle))
                if self._idle[oldest]:
                    extra.append(self._idle[oldest].pop(0))
                    self._count -= 1
                else:
                    del self._idle[oldest]
        return extra

    def close(self) -> None:
        """Close all, and from now on each when it comes back."""
        with self._lock:
            idle = [source for waiting in self._idle.values() for source in waiting]
            self._limit = self._count = 0
            self._idle.clear()
        for source in idle:
            source.close()


def _state(name: str) -> tuple[int, ...]:
    """Return what changes when a local file does, () of others."""
    with contextlib.suppress(OSError):
        status = os.stat(name)
        return status.st_ino, status.st_size, status.st_mtime_ns
    return ()
