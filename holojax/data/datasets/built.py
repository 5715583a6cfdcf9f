"""Data sets that TFDS builders made: what they hold, opened without opening a file."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rasterio
import tensorflow_datasets as tfds
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from holojax.data.bands import Header
from holojax.data.blocks import IMAGE, LABEL, block_path
from holojax.data.classes import ClassTable
from holojax.data.coding import Coding
from holojax.data.scenes import OnSkip, RasterScenes, skipping
from holojax.errors import HoloJAXError, RasterError


def open_built(folder: str | os.PathLike[str], split: str, **settings: Any) -> RasterScenes:
    """Open the labelled scenes of a split of a data set that was built, as `index` or as `blocks`.

    Both give the same pixels and labels; no file is opened before its pixels are read. `folder` is the builder's
    (`.../fbp/index/1.1.0`); `settings` are those of `RasterScenes` and replace the set's own.

    Raises:
        RasterError: nothing was built there, the split does not exist, or a file changed since it was indexed.
    """
    root = Path(folder)
    if not (root / "metadata.json").exists():
        raise RasterError(f"{root}: no data set was built here. Call its builder's download_and_prepare().")
    with intact(root):
        built = tfds.builder_from_directory(root)
        if split not in built.info.splits:
            raise RasterError(f"{root}: no split {split!r}; there are {', '.join(built.info.splits)}.")
        table, on_skip = read_table(root), settings.get("on_skip")
        found = list(_blocked(root, table, split) if table["scenes"] else _indexed(built, split, on_skip))
    if not found:
        raise RasterError(f"{root}: the scenes of the split {split!r} have no labels.")
    names = [name for name, _ in found]
    pairs = [tuple(header.path for header in headers) for _, headers in found]
    known = {header.path: header for _, headers in found for header in headers}
    return RasterScenes(pairs, **(classes_of(table) | dict(names=names, known=known) | settings))


def classes_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `RasterScenes` that a built set's `metadata.json` holds: classes, map and coding."""
    palette = tuple(tuple(colour) for colour in table["palette"])
    label_map = table["label_map"] and {int(raw): target for raw, target in table["label_map"].items()}
    coding = dict(table["coding"], colours=tuple(tuple(colour) for colour in table["coding"]["colours"]))
    return dict(classes=ClassTable(tuple(table["names"]), palette), label_map=label_map, coding=Coding(**coding))


def read_table(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `metadata.json` of a built set. Raises RasterError: it is missing or damaged."""
    path = Path(folder) / "metadata.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RasterError(f"{path}: expected the table of a built data set ({error}). Build it again.") from error


def list_built(folder: str | os.PathLike[str]) -> Iterator[tuple[str, str, dict[str, str], dict[str, str]]]:
    """Yield split, name, paths ("image", and "label" where there is one) of all scenes, and what became of the files.

    The last is "" where a file is as it was indexed, else it says what changed; blocks never do.
    """
    with intact(folder):
        built, table = tfds.builder_from_directory(folder), read_table(folder)
        for scene in table["scenes"]:
            split, name = scene["split"], scene["name"]
            paths = {part: block_path(folder, part, split, name) for part in (IMAGE, LABEL) if part in scene}
            yield split, name, paths, dict.fromkeys(paths, "")
        for split in () if table["scenes"] else built.info.splits:
            for record in built.as_data_source(split=split):
                paths = {part: record[f"{part}_path"].decode() for part in (IMAGE, LABEL) if record[f"{part}_path"]}
                changes = {part: _changed(path, record[f"{part}_state"].decode()) for part, path in paths.items()}
                yield split, record["scene_id"].decode(), paths, changes


def state_of(path: str | os.PathLike[str]) -> str:
    """Return what tells whether a file changed: its size and the time of its last change."""
    found = os.stat(path)
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def _indexed(built: Any, split: str, on_skip: OnSkip | None = None) -> Iterator[tuple[str, list[Header]]]:
    """Yield the name and the headers, of image and label, of the labelled scenes whose files did not change."""
    for record in built.as_data_source(split=split):
        headers = []
        for part in (IMAGE, LABEL):
            path, state = record[f"{part}_path"].decode(), record[f"{part}_state"].decode()
            if not path:
                break
            with skipping(on_skip):
                changed = _changed(path, state)
                if changed:
                    raise RasterError(f"{path}: {changed}")
                headers.append(_header(path, json.loads(record[f"{part}_header"])))
        if len(headers) == 2:
            yield record["scene_id"].decode(), headers


def _blocked(root: Path, table: Mapping[str, Any], split: str) -> Iterator[tuple[str, list[Header]]]:
    """Yield the name and the headers, of image and label, of the labelled scenes."""
    for scene in table["scenes"]:
        if scene["split"] == split and LABEL in scene:
            name = scene["name"]
            yield name, [_header(block_path(root, part, split, name), scene[part]) for part in (IMAGE, LABEL)]


@contextlib.contextmanager
def intact(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Name the folder where TFDS or array_record fail, each in its own way."""
    try:
        yield
    except HoloJAXError:
        raise
    except Exception as error:
        raise RasterError(f"{folder}: expected a built data set, cannot read it ({error}). Build it again.") from error


def _changed(path: str, state: str) -> str:
    """Say what became of a file since it was indexed, "" if nothing."""
    if not os.path.exists(path):
        return "no such file; it was there when it was indexed. Build the index again."
    if state_of(path) != state:
        return f"changed since it was indexed ({state} then, {state_of(path)} now). Build the index again."
    return ""


def _header(path: str, facts: Mapping[str, Any]) -> Header:
    """Make of what `describe` wrote down what `Header.read` would read."""
    meanings = tuple(ColorInterp[name] for name in facts["colorinterp"])
    size, transform = (facts["height"], facts["width"]), rasterio.Affine(*facts["transform"])
    dtypes, nodata, lossy = tuple(facts["dtypes"]), tuple(facts["nodata"]), facts.get("lossy", False)
    return Header(path, size, dtypes, nodata, meanings, _crs(facts["crs"]), transform, lossy)


@functools.lru_cache(maxsize=256)
def _crs(wkt: str) -> CRS | None:
    return CRS.from_wkt(wkt) if wkt else None
