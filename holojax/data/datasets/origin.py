"""What a built data set was made from, so that another set, or an older one, is never taken for it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holojax.data.datasets.base import Survey
from holojax.data.fingerprint import files_of, state_of

_BESIDE = (".aux.xml", ".msk", ".ovr")  # after a file's whole name
_WORLD = (".tfw", ".tifw", ".pgw", ".pngw", ".jgw", ".jpgw", ".wld")  # in place of its suffix
_WORDS = dict(folder="folder", codec="codec", classes="classes", scenes="number of scenes", files="files' states")


def origin_of(folder: str | os.PathLike[str], found: Survey, classes: Mapping[str, Any], codec: str) -> dict[str, Any]:
    """Return what a set is made from: folder, codec, table of classes, number of scenes, state of their files.

    Files are not opened, but for virtual rasters; those beside a raster that say where it lies or what is valid count
    too. Raises RasterError: a virtual raster is unreadable. OSError: a file is gone.
    """
    digest = hashlib.sha256()
    scenes = [(split, scene) for split in sorted(found.scenes) for scene in found.scenes[split]]
    list_folder = functools.cache(lambda parent: frozenset(os.listdir(parent)))
    for split, scene in scenes:
        digest.update(repr((split, scene.name)).encode())
        for path in (scene.image, scene.label):
            states = [] if path is None else [state_of(each) for each in _files(path, list_folder(path.parent))]
            digest.update(repr(states).encode())
    table = hashlib.sha256(json.dumps(classes, sort_keys=True).encode()).hexdigest()
    where = os.path.abspath(folder)
    return dict(folder=where, codec=codec, classes=table, scenes=len(scenes), files=digest.hexdigest())


def difference(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Say in what two origins differ, "" if in nothing; None: it is not known what a set was made from."""
    if then is None:
        return "it does not say what it was made from"
    parts = []
    for key, word in _WORDS.items():
        if then.get(key) != now[key]:
            shown = key in ("folder", "codec", "scenes")
            parts.append(f"{word} ({then.get(key)} then, {now[key]} now)" if shown else word)
    return f"it was made from other data: {', '.join(parts)}" if parts else ""


def _files(path: Path, there: frozenset[str]) -> list[str]:
    """Return a raster and the files of its folder that belong to it."""
    if path.suffix.lower() == ".vrt":
        return files_of(os.fspath(path))
    names = [path.name + suffix for suffix in _BESIDE] + [path.stem + suffix for suffix in _WORLD]
    return [os.fspath(path), *(os.fspath(path.with_name(name)) for name in names if name in there)]
