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
from holojax.data.datasets.base import CLASSES_FILE, is_built, resolve, survey
from holojax.data.scenes import IMAGE_FOLDERS, LABEL_FOLDERS, LAYOUT, find_pairs
from holojax.errors import ConfigError, HoloJAXError, RasterError

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


def take_inventory(folder: str | os.PathLike[str], name: str, on_fault: Fault) -> tuple[list[Entry], Labels]:
    """List all scenes of a data set, split by split, and say how labels are read; no raster is opened.

    `folder` holds the files of the set `name`, or what its builder made of them. What is wrong goes to `on_fault`, line
    by line, and the rest is listed.

    Raises:
        ConfigError: no such set. RasterError: no such folder. What `on_fault` raises.
    """
    if name not in SETS:
        raise ConfigError(f"--set: expected one of {', '.join(SETS)}, found {name!r}.")
    root = Path(folder)
    if not root.is_dir():
        raise RasterError(f"{root}: no such folder. Give the folder of a data set.")
    if is_built(root):
        return _built(root, on_fault)
    facts = SETS[name]
    if name != "folder" or (root / CLASSES_FILE).exists():
        facts = attempt(on_fault, root, lambda: resolve(SETS[name], root)) or facts
    known = Labels(None if facts is SETS["folder"] else facts.classes, facts.label_map, facts.coding)
    if name == "folder":
        return _folder(root, on_fault), known
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
        return work()
    except HoloJAXError as error:
        on_fault(str(error))
    except OSError as error:  # a folder that may not be listed
        on_fault(f"{error.filename or path}: cannot be read ({error.strerror or error}); correct its permissions.")
    return None


def _folder(root: Path, on_fault: Fault) -> list[Entry]:
    parts = (*IMAGE_FOLDERS, *LABEL_FOLDERS)
    splits = sorted({path.parent.name for part in parts for path in root.glob(f"[!.]*/{part}") if path.is_dir()})
    if not splits:
        on_fault(f"{root}: holds no scenes. Expected {LAYOUT}.")
    entries = []
    for split in splits:
        find = functools.partial(find_pairs, root, split, on_fault)
        for image, label in attempt(on_fault, root / split, find) or ():
            files = attempt(on_fault, image, functools.partial(list_files, image)) or ()
            entries.append(Entry(split, image.name if image.is_dir() else image.stem, tuple(files), str(label)))
    return entries


def _built(root: Path, on_fault: Fault) -> tuple[list[Entry], Labels]:
    from holojax.data.datasets import builder  # half a second for TFDS, only where it is needed

    table = attempt(on_fault, root, lambda: builder.read_table(root))
    if table is None:
        return [], Labels()
    entries = []
    for split, name, paths, changes in attempt(on_fault, root, lambda: list(builder.list_built(root))) or ():
        for part, text in changes.items():
            if text:
                on_fault(f"{paths[part]}: {text}")
        there = {part: path for part, path in paths.items() if not changes[part].startswith("no such file")}
        entries.append(Entry(split, name, (there["image"],) if "image" in there else (), there.get("label")))
    return entries, Labels(**builder.classes_of(table))
