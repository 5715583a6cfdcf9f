"""A data set as a table of facts: where its files lie, what they are called, what their numbers mean.

No set is downloaded: archives lie behind registrations and drives. `SceneSet.layout` says exactly which files go
where, and `verify` names all that is missing at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from holojax.data.bands import is_raster
from holojax.data.classes import ClassTable
from holojax.data.coding import NUMBERS, Coding
from holojax.data.scenes import RasterScenes, skipping
from holojax.errors import ConfigError, RasterError

SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
LISTS = {"train": ("train.txt",), "val": ("val.txt", "crossvali.txt"), "test": ("test.txt",)}
ALL = "all"
"""The one split of files that are not split: neither by folders nor by lists of names."""

CLASSES_FILE = "classes.json"
"""Table of the classes, where the set itself does not say what they are."""

_Found = tuple[dict[str, Path], dict[str, Path]]
"""Images and labels by scene name."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Which files are images and which are labels, and how they pair.

    Attributes:
        images, labels: patterns relative to the set's folder; `{split}` stands for the name of a split's folder.
        name: a regular expression; the groups that it finds in a file's path, joined by `_`, name its scene.
        bands_apart: an image may also be a folder, NAME, that holds a file for each band.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    name: str = r"([^/]+)\.[^./]+$"
    bands_apart: bool = False

    @property
    def split_by_folder(self) -> bool:
        """Whether splits are folders; otherwise lists of names tell them apart."""
        return "{split}" in self.images[0]

    def name_of(self, path: str) -> str | None:
        """Return the scene's name in a path or in a line of a list; None if there is none."""
        found = re.search(self.name, path)
        return None if found is None else "_".join(group for group in found.groups() if group)


@dataclasses.dataclass(frozen=True)
class SceneSet:
    """The facts of one data set.

    Attributes:
        name, title, url, citation: what it is and where it comes from, "" where that is not known.
        layout: which files go where in the set's folder, for people.
        classes: names and colours of the classes 0..K-1.
        files: layouts that are known, the first of which anything exists is taken.
        label_map: raw label value -> class, or 255 to ignore; None: as they are.
        coding: how label files write raw values.
        bands: what the bands are, in the order of the files.
        mean, std: per band in raw units, () where nobody published them.
        counts: scenes that each split has when complete; ALL: of all splits together.
        pieces: pattern of what `prepare` makes scenes of -> files that match it when complete.
        splits: our name of a split -> names of its folder.
        unlabelled: splits that were published without labels.
        table_file: the classes come from `classes.json` in the set's folder.
        any_split: every folder there is a split.
        prepare: makes folders of scenes out of what is downloaded, where it holds something else (patches,
            volumes): set's folder -> folder that `files` describe.
        inspect: looks into pixels for what the headers cannot tell: set's folder -> what is wrong, a line each.
    """

    name: str
    title: str
    url: str
    citation: str
    layout: str
    classes: ClassTable
    files: tuple[Files, ...]
    label_map: Mapping[int, int] | None = None
    coding: Coding = NUMBERS
    bands: tuple[str, ...] = ("red", "green", "blue")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    pieces: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(SPLITS))
    unlabelled: tuple[str, ...] = ()
    table_file: bool = False
    any_split: bool = False
    prepare: Callable[[Path], Path] | None = None
    inspect: Callable[[Path], list[str]] | None = None

    def instructions(self, folder: str | os.PathLike[str] = "its folder") -> str:
        """Say where the data come from and how the folder is laid out."""
        where = f"{self.title} is not downloaded automatically. Get it from {self.url}. " if self.url else ""
        return f"{where}In {folder}: {self.layout}"


def resolve(facts: SceneSet, folder: str | os.PathLike[str]) -> SceneSet:
    """Complete the facts of a set by what its folder says: the table of classes, and which splits there are.

    Raises:
        RasterError: folder or table are missing or unreadable. ConfigError: the table makes no sense; says where.
    """
    root = Path(folder)
    if facts.any_split and root.is_dir():
        with readable(root):
            names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        facts = dataclasses.replace(facts, splits={name: (name,) for name in names})
    if not facts.table_file:
        return facts
    path = root / CLASSES_FILE
    if not exists(path):
        raise RasterError(f"{path}: no such file. {facts.instructions(root)}")
    with readable(path):
        text = path.read_bytes()
    try:
        table = json.loads(text)
        names = table["names"]
        palette = [tuple(colour) for colour in table.get("palette", ())]
        classes = ClassTable.complete(len(names), names, palette)
        label_map = {int(raw): int(target) for raw, target in table.get("label_map", {}).items()} or None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'{path}: expected {{"names": [...], "palette": [[r, g, b], ...], "label_map": {{"raw": class}}}}, found '
            f"something else ({error!r})."
        ) from error
    if not facts.any_split and len(classes) != len(facts.classes):
        raise ConfigError(f"{path}: {facts.title} has {len(facts.classes)} classes, found {len(classes)} names.")
    coding = Coding(classes.palette) if table.get("colours") else facts.coding
    return dataclasses.replace(facts, classes=classes, label_map=label_map, coding=coding)


@dataclasses.dataclass(frozen=True)
class SceneFiles:
    """The files of one scene: `image` may be a folder of its bands; `label` is None where it has none."""

    name: str
    image: Path
    label: Path | None


@dataclasses.dataclass(frozen=True)
class Survey:
    """What lies in the folder of a set.

    Attributes:
        scenes: split -> its scenes, sorted by name.
        missing: what is missing or too much, a line each.
    """

    scenes: Mapping[str, tuple[SceneFiles, ...]]
    missing: tuple[str, ...]


def survey(facts: SceneSet, folder: str | os.PathLike[str]) -> Survey:
    """Look for the scenes of a set: names only, no file is opened (but those that `facts.prepare` needs).

    Raises:
        RasterError: the folder does not exist, or cannot be prepared.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RasterError(f"{root}: no such folder. {facts.instructions(root)}")
    if facts.prepare is not None:
        root = facts.prepare(root)
    missing: list[str] = []
    for files in facts.files:
        find = functools.partial(_find, root, files, missing)
        found = _folders(facts, find) if files.split_by_folder else {ALL: find("")}
        if any(images or labels for images, labels in found.values()):
            break
    else:
        return Survey({}, (f"no file like {' or '.join(files.images[0] for files in facts.files)}",))
    scenes = {}
    for split, (images, labels) in found.items():
        labelled = split not in facts.unlabelled or bool(labels)
        missing += [f"{images[name]}: has no label" for name in sorted(images.keys() - labels.keys()) if labelled]
        missing += [f"{labels[name]}: has no image" for name in sorted(labels.keys() - images.keys())]
        both = sorted(images.keys() & labels.keys() if labelled else images.keys())
        scenes[split] = tuple(SceneFiles(name, images[name], labels.get(name)) for name in both)
    if not files.split_by_folder:
        scenes, absent = _split_by_lists(scenes[ALL], root, files)
        missing += absent
    return Survey({split: found for split, found in scenes.items() if found}, tuple(missing))


def verify(facts: SceneSet, folder: str | os.PathLike[str], counts: Mapping[str, int] | None = None) -> Survey:
    """Survey the folder of a set and refuse it unless it is complete; all that is missing is named at once.

    `counts` replaces the published numbers of scenes and pieces (`{}`: any number will do).

    Raises:
        RasterError: files are missing; a line for each.
    """
    lines = []
    for pattern, expected in (facts.pieces if counts is None else {}).items():
        have = sum(1 for _ in Path(folder).glob(pattern))
        if have != expected:
            lines.append(f"{pattern}: expected {expected} files, found {have}")
    try:
        found = survey(facts, folder)
    except RasterError as error:
        if not lines:
            raise
        raise _incomplete(facts, folder, [*lines, str(error)]) from error
    lines += found.missing
    for split, expected in (facts.counts if counts is None else counts).items():
        have = sum(map(len, found.scenes.values())) if split == ALL else len(found.scenes.get(split, ()))
        if have != expected:
            lines.append(f"{split}: expected {expected} scenes with their labels, found {have}")
    if lines:
        raise _incomplete(facts, folder, lines)
    return found


def is_built(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is what a TFDS builder made (`built.open_built`), not the files of a set.

    Raises RasterError: the folder may not be read.
    """
    return exists(Path(folder) / "dataset_info.json")


def exists(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is a file or folder. Raises RasterError: the folder that it would lie in may not be read."""
    with readable(path):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


@contextlib.contextmanager
def readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says of a file or folder that may not be read into a RasterError that names it."""
    try:
        yield
    except RasterError:  # is an OSError, too
        raise
    except OSError as error:
        raise RasterError(
            f"{error.filename or path}: cannot be read ({error.strerror or error}); correct its permissions."
        ) from error


def open_set(facts: SceneSet, folder: str | os.PathLike[str], split: str, **settings: Any) -> RasterScenes:
    """Open the labelled scenes of a split; `settings` are those of `RasterScenes` and replace the set's own.

    A part of a set will do: that scenes are missing is logged, not refused.

    Raises:
        RasterError: there are no scenes (says where to get them), a file has no partner, or is unreadable.
        LabelError: a label does not fit its image.
    """
    facts = resolve(facts, folder)
    found = survey(facts, folder)
    for line in found.missing:
        with skipping(settings.get("on_skip")):
            raise RasterError(f"{folder}: {line} ({len(found.missing)} such line(s)). {facts.instructions(folder)}")
    scenes = [scene for scene in found.scenes.get(split, ()) if scene.label is not None]
    if not scenes:
        have = ", ".join(sorted(found.scenes)) or "none"
        raise RasterError(
            f"{folder}: no labelled scenes in the split {split!r} (splits there: {have}). {facts.instructions(folder)}"
        )
    if split in facts.counts and len(scenes) != facts.counts[split]:
        logging.warning(
            "%s: %s has %d scenes in %s, found %d.", folder, facts.title, facts.counts[split], split, len(scenes)
        )
    own = {"classes": facts.classes, "label_map": facts.label_map, "coding": facts.coding}
    own["names"] = [scene.name for scene in scenes]
    return RasterScenes([(scene.image, scene.label) for scene in scenes], **(own | settings))


def _incomplete(facts: SceneSet, folder: str | os.PathLike[str], lines: list[str]) -> RasterError:
    listed = "\n".join(f"  {line}" for line in lines)
    return RasterError(
        f"{folder}: {facts.title} is not complete:\n{listed}\n{facts.instructions(folder)} To take a part of the set, "
        f"say --partial (in Python counts={{}}): every image still needs its label."
    )


def _folders(facts: SceneSet, find: Callable[[str], _Found]) -> dict[str, _Found]:
    """Return images and labels of every split, by scene name."""
    found = {}
    for split, folders in facts.splits.items():
        for theirs in folders:
            images, labels = find(theirs)
            if images or labels:
                found[split] = images, labels
                break
    return found


def _find(root: Path, files: Files, missing: list[str], split: str) -> _Found:
    """Return images and labels of a split's folder by scene name; two files of one name are put into `missing`."""
    parts = []
    for patterns, bands_apart in ((files.images, files.bands_apart), (files.labels, False)):
        here: dict[str, Path] = {}
        for path in sorted(path for pattern in patterns for path in root.glob(pattern.format(split=split))):
            name = files.name_of(path.relative_to(root).as_posix())
            if name is None and bands_apart and path.is_dir() and any(map(is_raster, path.iterdir())):
                name = path.name
            if name is None or path.name.startswith(".") or here.get(name) == path:
                continue
            if name in here:
                missing.append(f"{path}: is scene {name} as well as {here[name].name}; keep one of them")
            else:
                here[name] = path
        parts.append(here)
    return parts[0], parts[1]


def _split_by_lists(
    scenes: tuple[SceneFiles, ...], root: Path, files: Files
) -> tuple[dict[str, tuple[SceneFiles, ...]], list[str]]:
    """Divide scenes by the lists of names beside them; without lists they stay together."""
    lists = {split: next((root / name for name in names if (root / name).exists()), None)
             for split, names in LISTS.items()}  # fmt: skip
    if not any(lists.values()):
        return {ALL: scenes}, []
    by_name = {scene.name: scene for scene in scenes}
    out, missing = {}, []
    for split, path in lists.items():
        with readable(root):
            lines = [] if path is None else [line.strip() for line in path.read_text().splitlines() if line.strip()]
        names = sorted({files.name_of(line) or Path(line).stem for line in lines})
        missing += [f"{path}: {name} is in the list, but has no image and label" for name in names
                    if name not in by_name]  # fmt: skip
        out[split] = tuple(by_name[name] for name in names if name in by_name)
    return out, missing
