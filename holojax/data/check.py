"""Checks a data set before it is trained on: opens every file, reads every block, and names all that is wrong.

A *fault* is a file that cannot be used, or that is not like the others of its set. What is odd but the same in the
whole set, or does no harm, is a *note*.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from holojax.data.agreement import compare_bands, compare_places, compare_turns, find_unplaced
from holojax.data.bands import Header, list_files
from holojax.data.blocks import SCHEME
from holojax.data.classes import IGNORE
from holojax.data.coding import NUMBERS
from holojax.data.content import ImageContent, LabelContent
from holojax.data.datasets import SETS
from holojax.data.datasets.base import CLASSES_FILE, is_built, resolve, survey
from holojax.data.labels import LabelReader
from holojax.data.raster import gdal_path
from holojax.data.scan import scan
from holojax.data.scene import SceneReader
from holojax.data.scenes import IMAGE_FOLDERS, LABEL_FOLDERS, LAYOUT, find_pairs, misplaced
from holojax.errors import ConfigError, HoloJAXError, RasterError

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


@dataclasses.dataclass(frozen=True)
class _Table:
    """How the labels of a set are to be read, as `LabelReader.open` takes it."""

    classes: int
    label_map: Any = None
    coding: Any = NUMBERS


class _Findings:
    def __init__(self) -> None:
        self.faults: dict[str, None] = {}  # in order, each once
        self.notes: dict[str, None] = {}

    def fault(self, path: str | os.PathLike[str], text: str) -> None:
        self.faults[_line(path, text)] = None

    def note(self, path: str | os.PathLike[str], text: str) -> None:
        self.notes[_line(path, text)] = None

    def attempt(self, path: str | os.PathLike[str], work: Callable[[], Any]) -> Any:
        """Return what `work` returns; None where it fails, which is a fault of the file."""
        try:
            return work()
        except HoloJAXError as error:
            self.fault("", str(error))  # begins with the file that is bad
        except OSError as error:  # a folder that may not be listed
            self.fault(error.filename or path, f"cannot be read: {error.strerror}; correct its permissions.")
        return None


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
        ConfigError: no such set. RasterError: no such folder.
    """
    if name not in SETS:
        raise ConfigError(f"--set: expected one of {', '.join(SETS)}, found {name!r}.")
    if not os.path.isdir(folder):
        raise RasterError(f"{folder}: no such folder. Give the folder of a data set.")
    found = _Findings()
    scenes, table = _gather(Path(folder), name, found)
    if classes is not None:
        table = dataclasses.replace(table, classes=classes)
    for scene in scenes:
        _open(scene, table, ignore, found)
    if bands is None and SETS[name].bands:
        bands = len(SETS[name].bands)
    images = [scene.image for scene in scenes if scene.image is not None]
    labels = [scene.label for scene in scenes if scene.label is not None]
    places = compare_places(images, any_crs), find_unplaced(labels), compare_turns(images)
    for path, text, harmful in itertools.chain(compare_bands(images, bands), *places):
        (found.fault if harmful else found.note)(path, text)
    pixels = _read_pixels(scenes, found, progress)
    files = len({path for scene in scenes for path in (*scene.files, scene.label_path) if path})
    return Report(tuple(sorted(found.faults)), tuple(sorted(found.notes)), len(scenes), files, pixels)


def _gather(folder: Path, name: str, found: _Findings) -> tuple[list[_Scene], _Table]:
    """List the scenes of a set, whatever is wrong with them, and say how labels are read."""
    if is_built(folder):
        return _gather_built(folder, found)
    facts = SETS[name]
    if name == "folder":
        scenes = _gather_folder(folder, found)
        if not (folder / CLASSES_FILE).exists():
            return scenes, _Table(IGNORE)
        facts = found.attempt(folder / CLASSES_FILE, lambda: resolve(facts, folder)) or facts
        return scenes, _Table(len(facts.classes), facts.label_map, facts.coding)
    facts = found.attempt(folder, lambda: resolve(facts, folder)) or facts
    listed = found.attempt(folder, lambda: survey(facts, folder))
    for line in listed.missing if listed else ():
        found.fault("", f"{line}; add the file, or remove this one.")
    scenes = [
        _Scene([str(scene.image)], None if scene.label is None else str(scene.label))
        for split in (listed.scenes.values() if listed else ())
        for scene in split
    ]
    return scenes, _Table(len(facts.classes), facts.label_map, facts.coding)


def _gather_folder(folder: Path, found: _Findings) -> list[_Scene]:
    parts = (*IMAGE_FOLDERS, *LABEL_FOLDERS)
    splits = sorted(path.parent.name for part in parts for path in folder.glob(f"*/{part}") if path.is_dir())
    if not splits:
        found.fault(folder, f"holds no scenes. Expected {LAYOUT}.")
    scenes = []
    for split in dict.fromkeys(splits):
        if split.startswith("."):
            continue
        find = functools.partial(find_pairs, folder, split, lambda line: found.fault("", line))
        for image, label in found.attempt(folder / split, find) or ():
            files = found.attempt(image, lambda image=image: list_files(image)) or []
            scenes.append(_Scene(files, str(label)))
    return scenes


def _gather_built(folder: Path, found: _Findings) -> tuple[list[_Scene], _Table]:
    from holojax.data.datasets import builder  # half a second for TFDS, only where it is needed

    settings = builder.classes_of(builder.read_table(folder))
    scenes = []
    for paths, changes in builder.list_built(folder):
        for part, text in changes.items():
            if text:
                found.fault(paths[part], text)
        there = {part: path for part, path in paths.items() if path.startswith(SCHEME) or os.path.exists(path)}
        scenes.append(_Scene([there["image"]] if "image" in there else [], there.get("label")))
    return scenes, _Table(len(settings["classes"]), settings["label_map"], settings["coding"])


def _open(scene: _Scene, table: _Table, ignore: int, found: _Findings) -> None:
    """Read the headers of a scene; a file that has none is a fault."""
    headers = {path: _header(path, found) for path in scene.files}
    label = scene.label_path and _header(scene.label_path, found)
    scene.headers = [header for header in headers.values() if header is not None]
    if scene.files and len(scene.headers) == len(scene.files):
        first = scene.files[0]
        scene.image = found.attempt(first, lambda: SceneReader.open(scene.files, quiet=True, known=headers))
    if label:
        scene.headers.append(label)
        settings = dict(classes=table.classes, label_map=table.label_map, coding=table.coding, ignore=ignore)
        known = {label.path: label}
        scene.label = found.attempt(label.path, lambda: LabelReader.open(label.path, known=known, **settings))
    if scene.image is not None:
        height, width = scene.image.height, scene.image.width
        if min(height, width) == 1:
            found.fault(scene.files[0], f"is a line of {height} x {width} pixels (height x width); remove the scene.")
        if label and label.size != (height, width):
            found.fault(
                label.path,
                f"expected {height} x {width} pixels (height x width) as its image {scene.files[0]}, found "
                f"{label.size[0]} x {label.size[1]}; resample or replace the label.",
            )
        elif scene.label is not None:
            elsewhere = misplaced(scene.label, scene.image)
            if elsewhere:
                found.fault(scene.label.path, elsewhere)


def _header(path: str, found: _Findings) -> Header | None:
    name = gdal_path(path)
    if os.path.isfile(name) and os.path.getsize(name) == 0:
        return found.fault(path, "is empty (0 bytes); copy or download it again.")
    header = found.attempt(path, lambda: Header.read(path))
    expected = _DRIVERS.get(os.path.splitext(path)[1].lower())
    if header is not None and expected and header.driver != expected and not path.startswith(SCHEME):
        found.fault(path, f"expected a {expected} file by its name, found {header.driver}; rename or convert it.")
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
                damaged = found.attempt(header.path, lambda h=header, c=content: scan(h.path, c, advance))
                if damaged:
                    found.fault(header.path, damaged)
                for line in content.faults():
                    found.fault(header.path, line)
                for line in content.notes():
                    found.note(header.path, line)
                twin = known.setdefault(content.key(header), header.path)
                if twin != header.path:
                    found.note(header.path, f"has the same pixels as {twin}; keep one of them.")
    return done


def _line(path: str | os.PathLike[str], text: str) -> str:
    """Write a finding in one line that begins with its file."""
    name, text = os.fspath(path), " ".join(text.split())
    return text if not name or text.startswith(f"{name}") else f"{name}: {text}"
