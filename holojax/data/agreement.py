"""Whether the files of a set are alike where they should be: bands, dtype, CRS, direction of the rows."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from holojax.data.labels import LabelReader
from holojax.data.scene import SceneReader

Odd = tuple[str, str, bool]
"""A file, what is odd about it and what to do, and whether that is a fault."""


def compare_bands(images: Sequence[SceneReader], bands: int | None) -> Iterator[Odd]:
    """Compare number of bands (with `bands` if given, else with the most) and dtype of the images."""
    for image in images:
        count, total = len(image.bands), sum(count for _, count in image.files)
        if bands not in (None, count, total):  # with or without alpha
            yield image.path, f"expected {bands} band(s), found {count}; convert or remove the file.", True
    if bands is None:
        for path, count, wanted, why in _unlike({image.path: len(image.bands) for image in images}):
            text = f"expected {wanted} band(s) {why}, found {count}; convert or remove the file, or say --bands."
            yield path, text, True
    for path, dtype, wanted, why in _unlike({image.path: image.dtype.name for image in images}):
        yield path, f"expected bands of {wanted} {why}, found {dtype}; convert or remove the file.", True


def compare_places(images: Sequence[SceneReader], any_crs: bool) -> Iterator[Odd]:
    """Compare the CRSs of images: those that are missing and, unless any will do, those that differ."""
    yield from find_unplaced(images)
    codes: list[Any] = []
    found: dict[str, int] = {}
    for image in images:
        if image.crs is not None:
            if image.crs not in codes:  # == knows one CRS written in two ways, a hash does not
                codes.append(image.crs)
            found[image.path] = codes.index(image.crs)
    for path, number, wanted, why in _unlike(found):
        crs, other = (codes[index].to_string()[:60] for index in (number, wanted))
        text = f"expected the CRS {other} {why}, found {crs}; warp it, or say --any-crs if they are to differ."
        yield path, text, not any_crs


def find_unplaced(readers: Sequence[SceneReader] | Sequence[LabelReader]) -> Iterator[Odd]:
    """Find images or labels without CRS where others have one; that most images have none is a note."""
    bare = [reader.path for reader in readers if reader.crs is None]
    if 2 * len(bare) <= len(readers):
        have = f"{len(readers) - len(bare)} of {len(readers)}"
        for path in bare:
            yield path, f"has no CRS, as {have} have; say gdal_edit.py -a_srs EPSG:N FILE.", True
    elif isinstance(readers[0], SceneReader):
        none = f"{len(bare)} of {len(readers)}"
        yield bare[0], f"has no CRS, as {none} images have none; set it if maps are to have one.", False


def compare_turns(images: Sequence[SceneReader]) -> Iterator[Odd]:
    """Find images whose rows do not run east: a fault, but where most images are so."""
    turned = []
    for image in images:
        a, b, _, d, e = tuple(image.transform)[:5]
        if abs(b) + abs(d) > 1e-6 * (abs(a) + abs(e)):
            turned.append(image.path)
    for path in turned:
        text = "has a rotated transform, its rows do not run east; warp it (gdalwarp) to one that is not rotated."
        yield path, text, 2 * len(turned) <= len(images)


def _unlike(values: Mapping[str, Hashable]) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield path, value, the value expected and why, for each path whose value is not that of the most."""
    ranks = collections.Counter(values.values()).most_common()
    if len(ranks) < 2:
        return
    wanted, count = ranks[0]
    why = f"as {count} of {len(values)} have"
    if ranks[1][1] == count:
        example = next(path for path, value in values.items() if value == wanted)
        why = f"as {example} has ({count} of {len(values)} each)"
    for path, value in values.items():
        if value != wanted:
            yield path, value, wanted, why
