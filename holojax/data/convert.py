"""Turns any data set into the plain layout: tiled GeoTIFFs in `{split}/{image,label}`, labels as class numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterWindow

from holojax.data.blocks import SCHEME
from holojax.data.classes import IGNORE, ClassTable
from holojax.data.datasets.base import CLASSES_FILE
from holojax.data.files import written_whole
from holojax.data.fingerprint import files_of, state_of
from holojax.data.inventory import UNLABELLED, Entry, take_inventory
from holojax.data.labels import LabelReader
from holojax.data.raster import allow_no_georeference, open_raster
from holojax.data.scene import SceneReader
from holojax.data.scenes import check_label
from holojax.data.tiled import add_overviews, tiled_profile, write_tiled
from holojax.errors import ConfigError, RasterError
from holojax.parallel import Window

CODECS = ("deflate", "zstd", "lzw")
_VERSION = 2  # of the converted files; another one is converted anew
_TAG = "HOLOJAX_MADE_FROM"
_MAKER = "holojax convert"


def convert_set(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str = "folder",
    codec: str = "deflate",
    ignore: int = IGNORE,
    progress: bool = False,
) -> tuple[int, int]:
    """Write all scenes of a data set to `out/{split}/{image,label}/NAME.tif`, and its classes to `out/classes.json`.

    The files are tiled GeoTIFFs with overviews, compressed without loss. Images keep bands, dtype, CRS, transform and
    nodata (a mask or alpha band becomes a mask; float images without nodata get NaN where a value is no number). Labels
    hold class numbers 0..K-1 and 255 where ignored, with the names and colours of the classes. Memory stays bounded; a
    file appears under its name when it is complete and was read again; called again, what is there and was made of the
    same files in the same way is left as it is. Where `out` holds a file under such a name that was not made here,
    nothing is written. Scenes that were published without label go to `out/unlabelled`.

    Args:
        folder: of the set's files, or what its builder made.
        out: where to write; made if missing.
        name: of the set, one of `holojax.data.datasets.SETS`; classes of `folder` are those of its classes.json,
            without which labels keep their numbers 0..254 and have no names.
        codec: one of `CODECS`.
        ignore: raw label value that is ignored.
        progress: show a bar for each file on a terminal.

    Returns:
        How many files were written, and how many were there already.

    Raises:
        RasterError, LabelError: a file is bad, `out` cannot be written or holds a file that was not made here; names
            it. ConfigError: no such set or codec.
    """
    if codec not in CODECS:
        raise ConfigError(f"--codec: expected one of {', '.join(CODECS)}, found {codec!r}.")
    if Path(out).resolve() == Path(folder).resolve():
        raise ConfigError(f"{out}: is the folder of the set itself; choose another one.")
    entries, labels = take_inventory(folder, name, _refuse)
    written = []
    with _failures(out):
        targets = [_targets(entry, Path(out)) for entry in entries]
        how = _How(codec, progress, _look_before(entries, targets))
        if labels.classes is not None:
            _write_table(Path(out) / CLASSES_FILE, labels.classes)
        for entry, target in zip(entries, targets, strict=True):
            image = SceneReader.open(entry.files, quiet=True)
            written.append(_convert_image(image, target[0], how))
            if entry.label is not None:
                label = LabelReader.open(entry.label, **labels.settings(ignore))
                written.append(_convert_label(label, image, labels.classes, target[1], how))
    return sum(written), len(written) - sum(written)


@dataclasses.dataclass(frozen=True)
class _How:
    """How files are converted, and what those that are there say of what they were made from."""

    codec: str
    progress: bool
    there: Mapping[Path, str]

    def bar(self, target: Path) -> str | None:
        return target.name if self.progress else None


def _targets(entry: Entry, out: Path) -> tuple[Path, ...]:
    """Return where the image of a scene goes, and its label if it has one."""
    home = out / (UNLABELLED if entry.label is None else ".") / entry.split
    return tuple(home / part / f"{entry.name}.tif" for part in ("image", "label")[: 1 if entry.label is None else 2])


def _look_before(entries: Sequence[Entry], targets: Sequence[tuple[Path, ...]]) -> dict[Path, str]:
    """Return what the files that are there were made from; refuse those that were not made here, and sources."""
    sources = {os.path.realpath(path) for entry in entries for path in (*entry.files, *filter(None, [entry.label]))}
    there = {}
    for target in itertools.chain.from_iterable(targets):
        if not os.path.lexists(target):
            continue
        if os.path.realpath(target) in sources:
            raise RasterError(f"{target}: is a file of the set itself and would be replaced; choose another OUT.")
        made_from = None
        with contextlib.suppress(RasterError), open_raster(target) as source:
            made_from = source.tags().get(_TAG)
        if made_from is None:
            raise _foreign(target)
        there[target] = made_from
    return there


def _foreign(path: Path) -> RasterError:
    return RasterError(
        f"{path}: is there already and was not made by convert, or is damaged; it is not replaced. Remove it, or "
        f"choose another OUT."
    )


def _convert_image(image: SceneReader, target: Path, how: _How) -> bool:
    """Write an image unless it is there; tell whether it was written."""
    nodata, masked = image.nodata, False
    if image.dtype.kind == "f":
        nodata = np.nan if nodata is None else nodata
    else:
        masked = any(_hides(path) for path, _ in image.files)
        nodata = None if masked else nodata
    made_from = _made_from([path for path, _ in image.files], how.codec)
    if how.there.get(target) == made_from:
        return False
    profile = tiled_profile(
        image.height, image.width, len(image.bands), image.dtype.name, nodata=nodata, compress=how.codec,
        predictor=3 if image.dtype.kind == "f" else 2, crs=image.crs, transform=image.transform,
        **({} if len(image.bands) == 3 else dict(photometric="minisblack")),  # else GDAL calls the fourth band alpha
    )  # fmt: skip
    with image.session() as read:

        def fetch(window: RasterWindow) -> tuple[Shaped[np.ndarray, "c h w"], UInt8[np.ndarray, "h w"] | None]:
            pixels, valid = read(Window(window.row_off, window.col_off, window.height, window.width))
            if nodata is not None:
                pixels[~valid] = nodata
            mask = np.where(valid, np.uint8(255), np.uint8(0)) if masked else None
            return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), mask

        with _temporary(target) as temporary:
            begin = functools.partial(_tag, made_from=made_from)
            write_tiled(temporary, profile, fetch, begin=begin, bar=how.bar(target))
            add_overviews(temporary, Resampling.average)
    return True


def _convert_label(label: LabelReader, image: SceneReader, classes: ClassTable | None, target: Path, how: _How) -> bool:
    """Write a label unless it is there; tell whether it was written. It gets the place of its image."""
    check_label(label, image)
    place = dict(crs=image.crs, transform=image.transform)
    crs = image.crs.to_wkt() if image.crs else ""
    more = repr((label.table, label.coding, classes, crs, tuple(image.transform)))
    made_from = _made_from([label.path], how.codec, more)
    if how.there.get(target) == made_from:
        return False
    profile = tiled_profile(image.height, image.width, 1, "uint8", nodata=IGNORE, compress=how.codec, **place)
    with label.session() as read:

        def fetch(window: RasterWindow) -> tuple[UInt8[np.ndarray, "1 h w"], None]:
            return read(Window(window.row_off, window.col_off, window.height, window.width))[None], None

        with _temporary(target) as temporary:
            begin = functools.partial(_tag, made_from=made_from, table=classes)
            write_tiled(temporary, profile, fetch, begin=begin, bar=how.bar(target))
            add_overviews(temporary, Resampling.nearest)
    return True


def _tag(out: DatasetWriter, made_from: str, table: ClassTable | None = None) -> None:
    out.update_tags(**{_TAG: made_from})
    if table is not None:
        out.write_colormap(1, table.colormap())
        out.update_tags(1, **table.tags())


def _write_table(path: Path, classes: ClassTable) -> None:
    table = dict(names=list(classes.names), palette=[list(colour) for colour in classes.palette])
    found: object = None
    if os.path.lexists(path):
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise _foreign(path) from error
        if not isinstance(found, dict) or (found.get("made_by") != _MAKER and found != table):
            raise _foreign(path)
    table["made_by"] = _MAKER
    if found != table:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n")


def _hides(path: str) -> bool:
    """Tell whether a mask, an alpha band, or nodata values that bands do not share, say what is valid in a file."""
    with open_raster(path) as source:
        flags = {flag for band in source.mask_flag_enums for flag in band}
        return MaskFlags.per_dataset in flags or len(set(source.nodatavals)) > 1


def _made_from(paths: list[str], codec: str, more: str = "") -> str:
    """Return what changes when a file must be converted anew: with the source, or with any file beside it."""
    facts: list[object] = [_VERSION, codec, more]
    for path in paths:
        folder, _, scene = path.removeprefix(SCHEME).partition("#")
        files = [os.path.join(folder, "metadata.json")] if path.startswith(SCHEME) else files_of(path)
        facts.append((scene, [state_of(file) for file in files]))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    allow_no_georeference()
    with written_whole(target) as temporary:
        yield temporary


def _refuse(line: str) -> None:
    raise RasterError(f"{line} (prepare.py check lists all that is wrong)")


@contextlib.contextmanager
def _failures(out: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except RasterError:
        raise
    except (RasterioError, OSError) as error:
        raise RasterError(
            f"{out}: cannot be written ({error}). Is the disk full, or the folder not writable? What is complete is "
            f"kept; call again to go on."
        ) from error
