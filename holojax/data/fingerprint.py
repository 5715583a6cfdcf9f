"""What tells whether data are still those that something was made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from holojax.data.blocks import SCHEME
from holojax.data.cache import stamp
from holojax.data.raster import gdal_path, is_remote, open_raster
from holojax.data.scenes import RasterScenes


def fingerprint(scenes: RasterScenes) -> str:
    """Return a checksum, 64 hexadecimal digits, of what scenes are made of, without reading pixels.

    It changes with the scenes and their order, with name, size and time of any of their files (those of a virtual
    raster, masks and overviews too), and with how they are read: bands, nodata, and what label values mean. Folders
    do not count, so data that were moved keep it. Of remote files their address stands for all.

    Raises:
        RasterError: a file is gone or unreadable.
    """
    digest = hashlib.sha256()
    built: dict[str, list[str]] = {}

    def add(*facts: object) -> None:
        digest.update(repr(facts).encode())

    add(len(scenes.classes))
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        image, label = scene.image, scene.label
        add(scene.name, image.bands, str(image.dtype), image.nodata, image.nodata_tolerance)
        paths = [path for path, _ in image.files]
        if label is not None:
            add(label.table, label.coding)
            paths.append(label.path)
        for path in paths:
            if path.startswith(SCHEME):
                folder, _, place = path.removeprefix(SCHEME).partition("#")
                if folder not in built:
                    built[folder] = [state_of(each) for each in sorted(Path(folder).iterdir()) if each.is_file()]
                    add(built[folder])
                add(place)
            else:
                add([state_of(each) for each in files_of(path)])
    return digest.hexdigest()


def files_of(path: str) -> list[str]:
    """Return all files that GDAL reads for a raster; of a remote one its address alone."""
    if is_remote(path):
        return [path]
    with open_raster(path) as source:
        return source.files


def state_of(path: str | os.PathLike[str]) -> str:
    """Return name, size and time of a file; of a remote one its address."""
    if is_remote(path):
        return gdal_path(path)
    facts = {}
    with contextlib.suppress(FileNotFoundError):  # GDAL's own names, of a file inside an archive
        facts = stamp(path)
    return f"{os.path.basename(path)} {facts}"
