"""Checks a data set before it is trained on: opens every file, reads every block, and names all that is wrong.

A *fault* is a file that cannot be used, or that is not like the others of its set. What is odd but the same in the
whole set, or does no harm, is a *note*.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Hashable, Sequence
from typing import Any

from tqdm import tqdm

from holojax.data.agreement import compare_bands, compare_places, compare_turns, find_unplaced
from holojax.data.bands import Header
from holojax.data.blocks import SCHEME
from holojax.data.classes import IGNORE
from holojax.data.content import ImageContent, LabelContent
from holojax.data.datasets import SETS
from holojax.data.datasets.base import is_built
from holojax.data.inventory import attempt, take_inventory
from holojax.data.labels import LabelReader
from holojax.data.raster import gdal_path
from holojax.data.scan import scan
from holojax.data.scene import SceneReader
from holojax.data.scenes import misplaced

_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".vrt": "VRT", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        faults: lines `FILE: what is wrong (where); what to do`, sorted by file.
        notes: likewise, of what is odd and does no harm.
        scenes, files: that were found.
        pixels: that were read, of images and labels.
    """

    faults: tuple[str, ...]
    notes: tuple[str, ...]
    scenes: int
    files: int
    pixels: int

    def __str__(self) -> str:
        """Write a line for each fault and each note, and a summary."""
        counts = f"{self.scenes:,} scenes, {self.files:,} files, {self.pixels:,} pixels read"
        summary = f"{counts}: {len(self.faults):,} faults, {len(self.notes):,} notes"
        return "\n".join([*self.faults, *(f"note: {line}" for line in self.notes), summary])


@dataclasses.dataclass
class _Scene:
    """A scene on its way through the check; readers are None where headers are bad."""

    files: list[str]
    label_path: str | None
    headers: list[Header] = dataclasses.field(default_factory=list)
    image: SceneReader | None = None
    label: LabelReader | None = None


class _Findings:
    def __init__(self) -> None:
        self.faults: dict[str, None] = {}  # in order, each once
        self.notes: dict[str, None] = {}

    def fault(self, line: str) -> None:
        self.faults[" ".join(line.split())] = None

    def note(self, line: str) -> None:
        self.notes[" ".join(line.split())] = None


def check_set(
    folder: str | os.PathLike[str],
    *,
    name: str = "folder",
    classes: int | None = None,
    bands: int | None = None,
    ignore: int = IGNORE,
    any_crs: bool = False,
    progress: bool = False,
) -> Report:
    """Check a data set: open every file, read every block of every file, compare files with each other.

    Memory stays bounded whatever the size of the scenes, but for files whose blocks are large (one strip).

    Args:
        folder: of the set's files, or what its TFDS builder made of it.
        name: of the set, one of `holojax.data.datasets.SETS`.
        classes: their number; None: as the set or its classes.json says, else labels may hold any of 0..254.
        bands: that images have besides alpha; None: as the set says, else the number that most images have.
        ignore: raw label value that is ignored.
        any_crs: scenes may lie in different CRSs, such as UTM zones; else those unlike the most are faults.
        progress: show a bar on stderr.

    Returns:
        The report; a bad file never raises.

    Raises:
        ConfigError: no such set. RasterError: no such folder, or it may not be read.
    """
    found = _Findings()
    entries, labels = take_inventory(folder, name, found.fault, found.note)
    settings = labels.settings(ignore) | ({} if classes is None else dict(classes=classes))
    scenes = [_Scene(list(entry.files), entry.label) for entry in entries]
    for scene in scenes:
        _open(scene, settings, found)
    if bands is None and SETS[name].bands and not is_built(folder):
        bands = len(SETS[name].bands)
    images = [scene.image for scene in scenes if scene.image is not None]
    labels = [scene.label for scene in scenes if scene.label is not None]
    places = compare_places(images, any_crs), find_unplaced(labels), compare_turns(images)
    for path, text, harmful in itertools.chain(compare_bands(images, bands), *places):
        (found.fault if harmful else found.note)(f"{path}: {text}")
    pixels = _read_pixels(scenes, found, progress)
    files = len({path for scene in scenes for path in (*scene.files, scene.label_path) if path})
    return Report(tuple(sorted(found.faults)), tuple(sorted(found.notes)), len(scenes), files, pixels)


def _open(scene: _Scene, settings: dict[str, Any], found: _Findings) -> None:
    """Read the headers of a scene; a file that has none is a fault."""
    headers = {path: _header(path, found) for path in scene.files}
    label = scene.label_path and _header(scene.label_path, found)
    scene.headers = [header for header in headers.values() if header is not None]
    if scene.files and len(scene.headers) == len(scene.files):
        work = functools.partial(SceneReader.open, scene.files, quiet=True, known=headers)
        scene.image = attempt(found.fault, scene.files[0], work)
    if label:
        scene.headers.append(label)
        work = functools.partial(LabelReader.open, label.path, known={label.path: label}, **settings)
        scene.label = attempt(found.fault, label.path, work)
    if scene.image is None:
        return
    height, width = scene.image.height, scene.image.width
    if min(height, width) == 1:
        found.fault(f"{scene.files[0]}: is a line of {height} x {width} pixels (height x width); remove the scene.")
    if label and label.size != (height, width):
        found.fault(
            f"{label.path}: expected {height} x {width} pixels (height x width) as its image {scene.files[0]}, found "
            f"{label.size[0]} x {label.size[1]}; resample or replace the label."
        )
    elif scene.label is not None:
        elsewhere = misplaced(scene.label, scene.image)
        if elsewhere:
            found.fault(f"{scene.label.path}: {elsewhere}")


def _header(path: str, found: _Findings) -> Header | None:
    name = gdal_path(path)
    if os.path.isfile(name) and os.path.getsize(name) == 0:
        return found.fault(f"{path}: is empty (0 bytes); copy or download it again.")
    header = attempt(found.fault, path, lambda: Header.read(path))
    expected = _DRIVERS.get(os.path.splitext(path)[1].lower())
    if header is not None and expected and header.driver != expected and not path.startswith(SCHEME):
        found.fault(f"{path}: expected a {expected} file by its name, found {header.driver}; rename or convert it.")
    return header


def _read_pixels(scenes: Sequence[_Scene], found: _Findings, progress: bool) -> int:
    """Read every block of every file that could be opened, and look at the pixels; return how many there were."""
    total = sum(header.size[0] * header.size[1] for scene in scenes for header in scene.headers)
    known: dict[Hashable, str] = {}
    done = 0
    with tqdm(total=total, unit="px", unit_scale=True, desc="reads", disable=None if progress else True) as bar:

        def advance(pixels: int) -> None:
            nonlocal done
            done += pixels
            bar.update(pixels)

        for scene in scenes:
            for header in scene.headers:
                if header.path == scene.label_path:
                    content: ImageContent | LabelContent | None = scene.label and LabelContent(scene.label)
                else:
                    content = ImageContent()
                if content is None:
                    continue  # no label as it should be, which is said
                path = header.path
                damaged = attempt(found.fault, path, functools.partial(scan, path, content, advance))
                for line in (*([damaged] if damaged else ()), *content.faults()):
                    found.fault(f"{path}: {line}")
                for line in content.notes():
                    found.note(f"{path}: {line}")
                twin = known.setdefault(content.key(header), path)
                if twin != path:
                    found.note(f"{path}: has the same pixels as {twin}; keep one of them.")
    return done
