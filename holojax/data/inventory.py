"""What lies in the folder of a data set, in all its splits, and how its labels are read."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holojax.data.bands import list_files
from holojax.data.classes import IGNORE, ClassTable
from holojax.data.coding import NUMBERS, Coding
from holojax.data.datasets import SETS
from holojax.data.datasets.base import CLASSES_FILE, exists, is_built, readable, resolve, survey
from holojax.data.scenes import IMAGE_FOLDERS, LABEL_FOLDERS, LAYOUT, find_pairs
from holojax.errors import ConfigError, HoloJAXError, RasterError

UNLABELLED = "unlabelled"
"""Folder beside the splits that holds scenes without labels; convert writes them there."""

Fault = Callable[[str], None]
"""Called with a line that begins with the file that is bad."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A scene: its split, its name, the files of its image and its label (None: it has none)."""

    split: str
    name: str
    files: tuple[str, ...]
    label: str | None


@dataclasses.dataclass(frozen=True)
class Labels:
    """How the labels of a set are read; `classes` is None where nothing says what they are."""

    classes: ClassTable | None = None
    label_map: Mapping[int, int] | None = None
    coding: Coding = NUMBERS

    def settings(self, ignore: int = IGNORE) -> dict[str, Any]:
        """Return what `LabelReader.open` takes; any of 0..254 is a class where they are not known."""
        count = IGNORE if self.classes is None else len(self.classes)
        return dict(classes=count, label_map=self.label_map, coding=self.coding, ignore=ignore)


def take_inventory(
    folder: str | os.PathLike[str], name: str, on_fault: Fault, on_note: Fault | None = None
) -> tuple[list[Entry], Labels]:
    """List all scenes of a data set, split by split, and say how labels are read; no raster is opened.

    `folder` holds the files of the set `name`, or what its builder made of them. What is wrong goes to `on_fault`, line
    by line, and the rest is listed; folders that are no splits go to `on_note`.

    Raises:
        ConfigError: no such set. RasterError: no such folder, or it may not be read. What `on_fault` raises.
    """
    if name not in SETS:
        raise ConfigError(f"--set: expected one of {', '.join(SETS)}, found {name!r}.")
    root = Path(folder)
    if not os.path.isdir(root):
        raise RasterError(f"{root}: no such folder. Give the folder of a data set.")
    if is_built(root):
        return _built(root, on_fault)
    facts = SETS[name]
    if name != "folder" or exists(root / CLASSES_FILE):
        facts = attempt(on_fault, root, lambda: resolve(SETS[name], root)) or facts
    known = Labels(None if facts is SETS["folder"] else facts.classes, facts.label_map, facts.coding)
    if name == "folder":
        return _folder(root, on_fault, on_note), known
    for _ in os.walk(root, onerror=lambda error: attempt(on_fault, root, functools.partial(_raise, error))):
        pass  # patterns find nothing, in silence, in a folder that may not be listed
    found = attempt(on_fault, root, lambda: survey(facts, root))
    if found is None:
        return [], known
    for line in found.missing:
        on_fault(f"{line}; add the file, or remove this one.")
    return [
        Entry(split, scene.name, (str(scene.image),), None if scene.label is None else str(scene.label))
        for split, scenes in found.scenes.items()
        for scene in scenes
    ], known


def attempt(on_fault: Fault, path: str | os.PathLike[str], work: Callable[[], Any]) -> Any:
    """Return what `work` on a file or folder returns; None where it fails, which is a fault."""
    try:
        with readable(path):
            return work()
    except HoloJAXError as error:
        on_fault(str(error))
    return None


def _folder(root: Path, on_fault: Fault, on_note: Fault | None) -> list[Entry]:
    splits = []
    for folder in attempt(on_fault, root, lambda: _subfolders(root)) or ():
        inside = attempt(on_fault, folder, functools.partial(_subfolders, folder))
        if inside is None:
            continue
        if {each.name for each in inside} & {*IMAGE_FOLDERS, *LABEL_FOLDERS}:
            splits.append(folder.name)
        elif folder.name != UNLABELLED and on_note is not None:
            names = ", ".join((*IMAGE_FOLDERS, *LABEL_FOLDERS))
            on_note(f"{folder}: holds no folder {names}, and is passed by; rename its folders if it is a split.")
    if not splits:
        on_fault(f"{root}: holds no scenes. Expected {LAYOUT}.")
    entries = []
    for split in splits:
        find = functools.partial(find_pairs, root, split, on_fault)
        for image, label in attempt(on_fault, root / split, find) or ():
            files = attempt(on_fault, image, functools.partial(list_files, image)) or ()
            entries.append(Entry(split, image.name if image.is_dir() else image.stem, tuple(files), str(label)))
    return entries


def _raise(error: OSError) -> None:
    raise error


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones."""
    with os.scandir(folder) as found:
        return sorted(Path(each.path) for each in found if not each.name.startswith(".") and each.is_dir())


def _built(root: Path, on_fault: Fault) -> tuple[list[Entry], Labels]:
    from holojax.data.datasets import built  # half a second for TFDS, only where it is needed

    table = attempt(on_fault, root, lambda: built.read_table(root))
    if table is None:
        return [], Labels()
    entries = []
    for split, name, paths, changes in attempt(on_fault, root, lambda: list(built.list_built(root))) or ():
        for part, text in changes.items():
            if text:
                on_fault(f"{paths[part]}: {text}")
        there = {part: path for part, path in paths.items() if not changes[part].startswith("no such file")}
        entries.append(Entry(split, name, (there["image"],) if "image" in there else (), there.get("label")))
    return entries, Labels(**built.classes_of(table))
