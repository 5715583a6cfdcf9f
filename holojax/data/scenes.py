"""Scenes with their labels: given as pairs of files, or found in `{split}/{image,label}/*.tif|png|jpg`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from absl import logging
from rasterio.crs import CRS

from holojax.data.bands import Header, Paths, is_raster, shift
from holojax.data.cache import by_window
from holojax.data.classes import IGNORE, ClassTable
from holojax.data.coding import NUMBERS, Coding
from holojax.data.labels import LabelReader
from holojax.data.raster import SUFFIXES
from holojax.data.scene import SceneReader
from holojax.errors import ConfigError, LabelError, RasterError

IMAGE_FOLDERS = ("image", "img")
LABEL_FOLDERS = ("label", "annotation")
OnSkip = Callable[[str], None]
"""Called with a line for each scene or window that cannot be read and is left out."""

LAYOUT = "{split}/{image,label}/NAME.tif|vrt|png|jpg (or {split}/{img,annotation}/...), the same NAME in both"


@dataclasses.dataclass(frozen=True)
class SceneSource:
    """One scene: the way to its image and its label, which have the same size. Holds headers only.

    Attributes:
        name: of the scene, unique in its data set.
        image: reads pixels by window.
        label: reads classes by window; None where the scene has no label.
    """

    name: str
    image: SceneReader
    label: LabelReader | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width


class RasterScenes(Sequence):
    """Labelled scenes given as pairs of raster files; `scenes[i]` is a `SceneSource`.

    All headers are read and checked at once, so a bad file is found before any computing. Pixels are read by
    window, later.

    Args:
        pairs: (image, label) paths; an image may be a list of files, or a folder, see `SceneReader.open`.
        classes: the class table, or the number of classes.
        bands: zero-based numbers of the image bands to read, in order; None: all but an alpha band.
        label_map: raw label value (a number or string) -> class, or 255 to ignore; None: as they are.
        ignore: raw label value that is ignored unless the map says otherwise.
        coding: how label files write raw values: as numbers, as colours, as numbered objects.
        nodata: image value that means no data in all bands; None: as the file says.
        nodata_tolerance: see `SceneReader.open`.
        names: of the scenes, each once; None: those of the image files.
        cache: folder in which large PNGs and JPEGs are converted once to tiled GeoTIFFs, to be read by window;
            "": `.holojax` beside the files; None: they are read as they are, whole for each window.
        known: headers that need not be read, by path.
        verify: compare blocks with their checksums, see `SceneReader.open`; None: where `on_skip` is given.
        on_skip: called with a line for each scene that cannot be used, which then is left out; None: that is an error.

    Raises:
        RasterError: a file is missing or unreadable, or an image has other bands or another dtype than the
            first; or no scene is left.
        LabelError: a label has another size than its image, lies elsewhere, or is no raster of class numbers.
        ConfigError: the label map leads to a class that does not exist.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Paths, str | os.PathLike[str]]],
        *,
        classes: ClassTable | int,
        bands: Sequence[int] | None = None,
        label_map: Mapping | None = None,
        ignore: int = IGNORE,
        coding: Coding = NUMBERS,
        nodata: float | int | None = None,
        nodata_tolerance: float | int = 0,
        names: Sequence[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        known: Mapping[str, Header] | None = None,
        verify: bool | None = None,
        on_skip: OnSkip | None = None,
    ) -> None:
        if not pairs:
            raise RasterError("Expected at least one pair of image and label, found none. Give (image, label) paths.")
        self.classes = ClassTable.numbered(classes) if isinstance(classes, int) else classes
        mapping = None if label_map is None else _numbers(label_map)
        picked = None if bands is None else tuple(bands)
        common = dict(known=known, verify=on_skip is not None if verify is None else verify)
        scenes = []
        titles = names or [_name(image) for image, _ in pairs]
        for name, (image, label) in zip(titles, pairs, strict=True):
            with skipping(on_skip):
                if cache is not None:
                    image, label = by_window(image, cache), by_window(label, cache)
                reader = SceneReader.open(
                    image, bands=picked, nodata=nodata, nodata_tolerance=nodata_tolerance, quiet=True, **common
                )
                labels = LabelReader.open(
                    label, classes=len(self.classes), label_map=mapping, ignore=ignore, coding=coding, **common
                )
                _check_pair(reader, labels, scenes[0].image if scenes else reader)
                scenes.append(SceneSource(name, reader, labels))
        if not scenes:
            raise RasterError(f"None of the {len(pairs)} scenes can be used; what is wrong with each was said before.")
        self._scenes = tuple(scenes)
        bare = [scene.image.path for scene in scenes if scene.image.crs is None]
        if bare:
            logging.warning("%d of %d images have no CRS (%s, ...).", len(bare), len(scenes), bare[0])

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], split: str, **settings) -> RasterScenes:
        """Pair the files of `folder/split` by name, in sorted order; `settings` are those of the constructor.

        Raises:
            RasterError: a folder is missing or empty, or a file has no partner; names it and the expected
                layout.
        """
        return cls(find_pairs(folder, split, settings.get("on_skip")), **settings)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> SceneSource:
        return self._scenes[index]

    def scene(self, index: int) -> SceneSource:
        """Return scene `index`: its readers and its size."""
        return self._scenes[index]

    @property
    def bands(self) -> int:
        """Number of bands that are read."""
        return len(self._scenes[0].image.bands)

    @property
    def largest(self) -> tuple[int, int]:
        """The largest height and the largest width of all scenes (perhaps of different scenes)."""
        heights, widths = zip(*(scene.size for scene in self._scenes), strict=True)
        return max(heights), max(widths)


@contextlib.contextmanager
def skipping(on_skip: OnSkip | None) -> Iterator[None]:
    """Hand what is wrong with a file or a window to `on_skip` and go on after the block; None: raise it."""
    try:
        yield
    except (RasterError, LabelError) as error:
        if on_skip is None:
            raise
        on_skip(str(error))


def find_pairs(folder: str | os.PathLike[str], split: str, on_skip: OnSkip | None = None) -> list[tuple[Path, Path]]:
    """Pair image and label files of `folder/split` by their names without suffix, sorted by name.

    An image may be a folder, NAME, that holds a file for each band or group of bands. With `on_skip`, which is called
    with a line for each, files without a partner are left out.

    Raises:
        RasterError: a folder is missing or empty, a file has no partner, or two files share a name.
    """
    root = Path(folder) / split
    images = _files(root, IMAGE_FOLDERS, on_skip)
    labels = _files(root, LABEL_FOLDERS, on_skip)
    for found, others, kind in ((images, labels, "label"), (labels, images, "image")):
        alone = sorted(found.keys() - others.keys())
        for name in alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 and on_skip is None else ""
            with skipping(on_skip):
                raise RasterError(
                    f"{found[name]}: has no {kind}{more}. Expected {LAYOUT} in {folder}; add the missing file "
                    f"or remove this one."
                )
    return [(images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]


def _files(root: Path, names: Sequence[str], on_skip: OnSkip | None = None) -> dict[str, Path]:
    """Return the rasters of the first of the folders `names` that exists, by stem."""
    here = next((root / name for name in names if (root / name).is_dir()), None)
    if here is None:
        raise RasterError(f"{root / names[0]}: no such folder. Expected {LAYOUT} in {root.parent}.")
    found: dict[str, Path] = {}
    try:
        paths = sorted(here.iterdir())
    except OSError as error:
        raise RasterError(
            f"{here}: cannot be listed ({error.strerror}). Give yourself the right to read it."
        ) from error
    for path in paths:
        bands = path.is_dir() and names == IMAGE_FOLDERS and any(map(is_raster, path.iterdir()))
        if path.name.startswith(".") or not (bands or is_raster(path)):
            continue
        name = path.name if bands else path.stem
        with skipping(on_skip):
            if name in found:
                raise RasterError(f"{path}: shares its name with {found[name].name}; keep one of them.")
            found[name] = path
    if not found:
        raise RasterError(f"{here}: no rasters ({', '.join(SUFFIXES)}) here. Expected {LAYOUT} in {root.parent}.")
    return found


def check_label(label: LabelReader, image: SceneReader) -> None:
    """Raise a LabelError if a label has another size than its image, or lies elsewhere."""
    if (label.height, label.width) != (image.height, image.width):
        raise LabelError(
            f"{label.path}: expected {image.height} x {image.width} pixels (height x width) as its image "
            f"{image.path}, found {label.height} x {label.width}. Resample or replace the label."
        )
    elsewhere = misplaced(label, image)
    if elsewhere:
        raise LabelError(f"{label.path}: {elsewhere}")


def _check_pair(image: SceneReader, label: LabelReader, first: SceneReader) -> None:
    check_label(label, image)
    if len(image.bands) != len(first.bands) or image.dtype != first.dtype:
        raise RasterError(
            f"{image.path}: expected {len(first.bands)} band(s) of {first.dtype} as in {first.path}, found "
            f"{len(image.bands)} of {image.dtype}. Convert the file, or pick bands that all files have "
            f"(data.bands)."
        )


def misplaced(label: LabelReader, image: SceneReader) -> str:
    """Say how a label of the right size lies elsewhere than its image and what to do, "" where it does not.

    Only files that both say where they lie are compared; a tenth of a pixel is allowed for rounding.
    """
    if label.crs is not None and image.crs is not None and label.crs != image.crs:
        return (
            f"expected the CRS of its image {image.path}, {_short(image.crs)}, found {_short(label.crs)}. Warp the "
            f"label to its image's grid, or correct the CRS."
        )
    if label.transform is None or image.transform.is_identity:
        return ""
    away = shift(image.transform, label.transform, (image.height, image.width))
    if away <= 0.1:
        return ""
    return (
        f"lies up to {away:,.1f} pixels away from its image {image.path}: expected the transform "
        f"{tuple(image.transform)[:6]}, found {tuple(label.transform)[:6]}. Warp the label to its image's grid, or "
        f"correct the transform."
    )


def _short(crs: CRS) -> str:
    return crs.to_string()[:60]


def _numbers(label_map: Mapping) -> dict[int, int]:
    try:
        return {int(raw): int(target) for raw, target in label_map.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data.label_map: expected numbers (raw value: class), found {dict(label_map)}.") from error


def _name(image: Paths) -> str:
    """Name a scene: a folder of bands by its name, a file by its name without suffix."""
    path = Path(image if isinstance(image, str | os.PathLike) else image[0])
    return path.name if path.is_dir() else path.stem
