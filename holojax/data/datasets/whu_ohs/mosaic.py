"""Patches of WHU-OHS become scenes again: virtual rasters (GDAL's VRT) that read the patches by window."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from rasterio.windows import Window as RasterWindow

from holojax.data.files import write_once
from holojax.data.raster import open_raster
from holojax.errors import RasterError

OVERLAP = 32  # pixels that neighbours share: a scene of 6,272 pixels is 13 patches of 512 every 480
FOLDERS = {"train": "tr", "val": "val", "test": "ts"}  # later ones have the pixels that two splits share
MADE = "scenes"
GRID = "grid.json"

_TYPES = dict(uint8="Byte", int16="Int16", uint16="UInt16", int32="Int32", uint32="UInt32", float32="Float32")


@dataclasses.dataclass(frozen=True)
class Patch:
    """One patch: its files, its split, and where its corner lies in its scene, in pixels."""

    image: Path
    label: Path
    split: str
    number: int
    top: int = 0
    left: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """What all files of one kind (images, or labels) have in common."""

    side: int
    bands: int
    dtype: str
    crs: str
    transform: tuple[float, ...]


def make_scenes(folder: Path) -> Path:
    """Write a virtual raster for every scene and split to `folder/scenes/{split}/{image,label}`; return `scenes`.

    Nothing is copied. A place without a patch is 0 in all bands: no data, not labelled. Made once; patches that came
    or went since are an error that says so.

    Raises:
        RasterError: a patch lacks its other half, or cannot be placed.
    """
    scenes = _scenes(folder)
    names = sorted(str(patch.image.relative_to(folder)) for patches in scenes.values() for patch in patches)
    lists = _lists(folder, scenes)
    parameters = dict(
        kind="whu_ohs",
        patches=len(names),
        names=hashlib.sha256("\n".join(names).encode()).hexdigest(),
        lists={split: sorted(found) for split, found in lists.items()},
    )
    target = folder / MADE

    def fill(root: Path) -> None:
        for name, patches in scenes.items():
            placed = _place(folder, name, patches)
            for split in FOLDERS:
                shown = _labelled(placed, split, name, lists)
                if any(weight for _, weight in shown):
                    _write(root / split / "image" / f"{name}.vrt", [(p.image, p, 1) for p in placed], placed)
                    _write(root / split / "label" / f"{name}.vrt", [(p.label, p, w) for p, w in shown], placed)

    return write_once(target, parameters, fill)


def disagreements(folder: Path) -> list[str]:
    """Compare neighbouring patches where they overlap, images and labels; name those that differ, a line each."""
    lines = []
    for name, patches in _scenes(folder).items():
        placed = _place(folder, name, patches)
        side = _kind(placed[0].image).side
        at = {(patch.top, patch.left): patch for patch in placed}
        for patch in placed:
            for down, right in ((side - OVERLAP, 0), (0, side - OVERLAP)):
                other = at.get((patch.top + down, patch.left + right))
                if other is None:
                    continue
                height, width = side - down, side - right
                here, there = RasterWindow(right, down, width, height), RasterWindow(0, 0, width, height)
                for mine, theirs in ((patch.image, other.image), (patch.label, other.label)):
                    with open_raster(mine) as one, open_raster(theirs) as two:
                        differ = (one.read(window=here) != two.read(window=there)).any(0)
                    if differ.any():
                        lines.append(f"{mine} and {theirs} differ in {np.count_nonzero(differ)} of the {differ.size} "
                                     f"pixels they share; the scene has those of the latter")  # fmt: skip
    return lines


def _scenes(folder: Path) -> dict[str, list[Patch]]:
    """Return the patches of every scene, sorted by number; the split of a patch is its folder."""
    scenes: dict[str, list[Patch]] = {}
    alone = []
    for split, theirs in FOLDERS.items():
        images, labels = ({path.name: path for path in sorted((folder / theirs / part).glob("*.tif"))}
                          for part in ("image", "label"))  # fmt: skip
        alone += [f"{images[name]} has no label" for name in sorted(images.keys() - labels.keys())]
        alone += [f"{labels[name]} has no image" for name in sorted(labels.keys() - images.keys())]
        for name in sorted(images.keys() & labels.keys()):
            parts = re.fullmatch(r"([A-Z]\d+)_(\d+)\.tif", name)
            if parts is None:
                raise RasterError(f"{images[name]}: expected a name like S1_0001.tif (scene and number of the patch).")
            scenes.setdefault(parts[1], []).append(Patch(images[name], labels[name], split, int(parts[2])))
    if alone:
        raise RasterError(f"{folder}: {len(alone)} patches have no partner:\n" + "\n".join(f"  {one}" for one in alone))
    if not scenes:
        raise RasterError(f"{folder}: no patches like tr/image/S1_0001.tif here.")
    return {name: sorted(scenes[name], key=lambda patch: patch.number) for name in sorted(scenes)}


def _place(folder: Path, name: str, patches: list[Patch]) -> list[Patch]:
    """Place the patches of a scene: by their georeference if they have one, else by number on the scene's grid."""
    kinds = [_kind(patch.image) for patch in patches]
    step = kinds[0].side - OVERLAP
    if any(kind.crs for kind in kinds):
        corners = [(kind.transform[2], kind.transform[5]) for kind in kinds]
        pixel = kinds[0].transform[0], kinds[0].transform[4]
        left, top = min(x for x, _ in corners), max(y for _, y in corners)
        places = [(round((y - top) / pixel[1]), round((x - left) / pixel[0])) for x, y in corners]
    else:
        rows, cols = _grid(folder, name, patches)
        first = min(patch.number for patch in patches) if rows * cols == len(patches) else _first(patches)
        places = [(step * row, step * col) for row, col in (divmod(p.number - first, cols) for p in patches)]
        if max(top for top, _ in places) >= step * rows:
            raise RasterError(f"{patches[-1].image}: number {patches[-1].number} is beyond the {rows} x {cols} patches "
                              f"of scene {name}. Correct {GRID}.")  # fmt: skip
    if len(set(places)) != len(places):
        twice = next(place for place in places if places.count(place) > 1)
        both = [str(patch.image) for patch, place in zip(patches, places, strict=True) if place == twice]
        raise RasterError(f"{' and '.join(both)} lie at the same place of scene {name}; keep one of them.")
    return [dataclasses.replace(patch, top=top, left=left) for patch, (top, left) in zip(patches, places, strict=True)]


def _first(patches: list[Patch]) -> int:
    return min(min(patch.number for patch in patches), 1)  # patches are missing: numbers begin with 0 or 1


def _grid(folder: Path, name: str, patches: list[Patch]) -> tuple[int, int]:
    path = folder / GRID
    if path.exists():
        rows, cols = json.loads(path.read_text()).get(name, (0, 0))
        if rows and cols:
            return rows, cols
    side = math.isqrt(len(patches))
    if side * side != len(patches):
        raise RasterError(
            f"{folder}: scene {name} has {len(patches)} patches without georeference, which is no square. Say "
            f'in {path} how they lie: {{"{name}": [rows, columns]}}.'
        )
    return side, side


def _lists(folder: Path, scenes: Mapping[str, list[Patch]]) -> dict[str, set[str]]:
    """Return the scenes of every split where lists say so, else nothing."""
    lists = {split: set(path.read_text().split()) for split in FOLDERS if (path := folder / f"{split}.txt").exists()}
    for (one, names), (other, others) in itertools.combinations(lists.items(), 2):
        if names & others:
            raise RasterError(f"{folder}: {sorted(names & others)[0]} is in {one}.txt and in {other}.txt.")
    unknown = sorted(set().union(*lists.values()) - scenes.keys())
    if unknown:
        raise RasterError(f"{folder}: {', '.join(unknown)} in the lists, but no patch of it is here.")
    return lists


def _labelled(placed: list[Patch], split: str, name: str, lists: Mapping[str, set[str]]) -> list[tuple[Patch, int]]:
    """Return which patches label a scene in a split: weight 1, and weight 0 for those that hide what they share."""
    if lists:
        return [(patch, int(name in lists.get(split, ()))) for patch in placed]
    order = list(FOLDERS)
    own = [(patch, 1) for patch in placed if patch.split == split]
    later = [(patch, 0) for patch in placed if order.index(patch.split) > order.index(split)]
    return own + later if own else []


def _kind(path: Path) -> Kind:
    with open_raster(path) as source:
        if source.height != source.width:
            raise RasterError(f"{path}: expected a square patch, found {source.height} x {source.width} pixels.")
        dtypes = set(source.dtypes)
        if len(dtypes) > 1 or not dtypes <= _TYPES.keys():
            raise RasterError(f"{path}: expected bands of one of {', '.join(_TYPES)}, found {', '.join(dtypes)}.")
        crs = "" if source.crs is None else source.crs.to_wkt()
        return Kind(source.height, source.count, dtypes.pop(), crs, tuple(source.transform)[:6])


def _write(path: Path, sources: list[tuple[Path, Patch, int]], placed: list[Patch]) -> None:
    """Write the virtual raster of (file, its place, weight): later ones cover earlier ones, weight 0 writes zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = _kind(sources[0][0])
    height, width = (max(getattr(patch, edge) for patch in placed) + kind.side for edge in ("top", "left"))
    lines = [f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">']
    if kind.crs:
        corner = _kind(next(p.image for p in placed if p.left == 0)).transform[2]
        upper = _kind(next(p.image for p in placed if p.top == 0)).transform[5]
        a, b, _, d, e, _ = kind.transform
        lines += [
            f"<SRS>{escape(kind.crs)}</SRS>",
            f"<GeoTransform>{corner}, {a}, {b}, {upper}, {d}, {e}</GeoTransform>",
        ]
    for band in range(1, kind.bands + 1):
        lines.append(f'<VRTRasterBand dataType="{_TYPES[kind.dtype]}" band="{band}"><NoDataValue>0</NoDataValue>')
        lines += list(_band(path, sources, band, kind))
        lines.append("</VRTRasterBand>")
    path.write_text("\n".join([*lines, "</VRTDataset>"]) + "\n")


def _band(path: Path, sources: list[tuple[Path, Patch, int]], band: int, kind: Kind) -> Iterator[str]:
    side = kind.side
    for file, patch, weight in sources:
        name = escape(os.path.relpath(file.absolute(), path.parent.absolute()))
        tag = "SimpleSource" if weight else "ComplexSource"
        yield (
            f'<{tag}><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SourceProperties RasterXSize="{side}" RasterYSize="{side}" DataType="{_TYPES[kind.dtype]}"/>'
            f'<SrcRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
            f'<DstRect xOff="{patch.left}" yOff="{patch.top}" xSize="{side}" ySize="{side}"/>'
            + ("" if weight else "<ScaleOffset>0</ScaleOffset><ScaleRatio>0</ScaleRatio>")
            + f"</{tag}>"
        )
