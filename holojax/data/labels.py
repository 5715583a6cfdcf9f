"""Labels on disk: raw values become class numbers and the ignore value, and anything else is an error."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import rasterio
import rasterio.crs
from jaxtyping import Shaped, UInt8
from rasterio.windows import Window as RasterWindow

from holojax.data.bands import Header
from holojax.data.blocks import Raster
from holojax.data.checksums import Checksums
from holojax.data.classes import IGNORE
from holojax.data.coding import NUMBERS, Coding
from holojax.data.open_files import OpenFiles
from holojax.data.raster import open_raster, overlap
from holojax.errors import ConfigError, LabelError
from holojax.parallel import Window


@dataclasses.dataclass(frozen=True)
class LabelReader:
    """The header of a label raster, and the way to its classes. Make one with `LabelReader.open`.

    Holds no open file, so it may be copied and used from any thread.

    Attributes:
        path: the file.
        height, width: pixels.
        table: raw value -> class 0..K-1 or 255 (ignore), sorted by raw value.
        coding: how the file writes raw values: as numbers, or as colours.
        crs, transform: of the file; None where it has none.
        verify: compare blocks with their checksums, as `SceneReader.open` says.
    """

    path: str
    height: int
    width: int
    table: tuple[tuple[int, int], ...]
    coding: Coding = NUMBERS
    crs: rasterio.crs.CRS | None = None
    transform: rasterio.Affine | None = None
    verify: bool = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        classes: int,
        label_map: Mapping[int, int] | None = None,
        ignore: int = IGNORE,
        coding: Coding = NUMBERS,
        known: Mapping[str, Header] | None = None,
        verify: bool = False,
    ) -> LabelReader:
        """Read the header of a label raster.

        Without a `label_map` the raw values are the classes 0..`classes`-1. A map names every raw value that
        may occur and its class, or 255 to ignore it. Either way the raw value `ignore` and the file's nodata
        value are ignored unless the map says otherwise. A `coding` turns colours or numbered objects into raw
        values. A header that is `known`, by path, is not read.

        Raises:
            RasterError: the file is missing or unreadable.
            LabelError: it has another number of bands than its coding, values that are no integers, or was
                compressed with loss.
            ConfigError: the map leads to a class that does not exist.
        """
        path = os.fspath(path)
        header = (known or {}).get(path) or Header.read(path)
        count, dtype, nodata = len(header.dtypes), header.dtypes[0], header.nodatavals[0]
        if count != coding.bands and not (coding.colours and count == 4):  # the fourth is alpha
            wanted = "three bands of colours" if coding.colours else "one band of class numbers"
            raise LabelError(
                f"{path}: expected a label with {wanted}, found {count} bands. If it is coloured, name "
                f"a data set whose palette it has, or convert colours to class numbers first."
            )
        if np.dtype(dtype).kind not in "ui":
            raise LabelError(f"{path}: expected integer class numbers, found {dtype}. Convert it.")
        if header.lossy and not coding.threshold:
            raise LabelError(
                f"{path}: expected a label without loss, but it is compressed as JPEG or the like, and values at edges "
                f"are not those that were drawn. Make it again from its original as PNG or GeoTIFF (deflate)."
            )
        table = {int(ignore): IGNORE}
        if nodata is not None and float(nodata).is_integer() and coding == NUMBERS:
            table[int(nodata)] = IGNORE
        if label_map is None:
            label_map = {value: value for value in range(classes) if value not in table}
        table |= label_map
        _check_targets(table, classes)
        transform = None if header.transform.is_identity else header.transform
        return cls(path, *header.size, tuple(sorted(table.items())), coding, header.crs, transform, verify)

    @property
    def known(self) -> str:
        """The raw values in the table, for people: `0..3, 255`."""
        return _list(np.array([value for value, _ in self.table], np.int64))

    @contextlib.contextmanager
    def session(self, files: OpenFiles | None = None) -> Iterator[Callable[..., np.ndarray]]:
        """Open the file once for several windows: `with reader.session() as read: labels = read(window)`.

        With `files` it is borrowed from those that are open, and stays so after the session.
        """
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_raster(self.path, files))
            checksums = stack.enter_context(Checksums.of(self.path, source)) if self.verify else None
            yield functools.partial(self._read, source, checksums)

    def read(self, window: Window | None = None, shape: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w"]:
        """Read the classes of a window (None: all), uint8 `[h w]`; 255 where ignored and beyond the scene.

        The window may stick out beyond any edge. With a smaller `shape` (rows, columns) the window is scaled down to
        it: pixels are picked, from overviews where the file has them.

        Raises:
            RasterError: the file is damaged. LabelError: values are not in the table; says how many
                pixels have one, and names the first value and its row and column in the scene.
        """
        with self.session() as read:
            return read(window or Window(0, 0, self.height, self.width), shape)

    def _read(
        self, source: Raster, checksums: Checksums | None, window: Window, shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        shape = shape or (window.height, window.width)
        rows, to_rows = overlap(window.top, window.height, self.height, shape[0])
        cols, to_cols = overlap(window.left, window.width, self.width, shape[1])
        labels = np.full(shape, IGNORE, np.uint8)
        part = labels[to_rows, to_cols]
        if part.size:
            inner = Window(rows.start, cols.start, len(rows), len(cols))
            area = RasterWindow(inner.left, inner.top, inner.width, inner.height)
            bands = list(range(1, self.coding.bands + 1))
            if part.shape == (inner.height, inner.width):
                if checksums is not None:
                    checksums.verify(area)
                raw = source.read(bands, window=area)
            else:
                raw = source.read(bands, window=area, out_shape=(len(bands), *part.shape))
            try:
                part[:] = self._look_up(self.coding.decode(raw, self.path, inner), inner)
            except LabelError:
                if part.shape != (inner.height, inner.width):
                    self._read(source, checksums, inner)  # fails likewise, and knows the place in the scene
                raise
        return labels

    def _look_up(self, raw: Shaped[np.ndarray, "h w"], window: Window) -> UInt8[np.ndarray, "h w"]:
        values = np.array([value for value, _ in self.table], np.int64)
        targets = np.array([target for _, target in self.table], np.uint8)
        if raw.dtype == np.uint8:  # a table of all values, as bytes: many times as fast as a search or `take`
            inside = (values >= 0) & (values <= 255)
            # Stands for what is not known; if all are targets, then 256 values are known, and they are all there are.
            spare = min(set(range(256)) - set(targets.tolist()), default=None)
            look_up = np.full(256, spare or 0, np.uint8)
            look_up[values[inside]] = targets[inside]
            labels = np.frombuffer(raw.tobytes().translate(look_up.tobytes()), np.uint8).reshape(raw.shape)
            known = np.True_ if spare is None else labels != spare
        else:
            place = np.minimum(np.searchsorted(values, raw.astype(np.int64)), len(values) - 1)
            known, labels = values[place] == raw, targets[place]
        if not known.all():
            row, col = np.unravel_index(int(np.argmin(known)), known.shape)
            raise LabelError(
                f"{self.path}: label value {raw[row, col]} at row {window.top + row}, column {window.left + col}, the "
                f"first of {np.count_nonzero(~known):,} such pixels of {known.size:,}, is not in the class table "
                f"(known: {self.known}). Correct the file, raise model.classes, or map the value in "
                f"data.label_map (to 255 to ignore it)."
            )
        return labels


def _check_targets(table: Mapping[int, int], classes: int) -> None:
    wrong = {raw: target for raw, target in table.items() if target != IGNORE and not 0 <= target < classes}
    if wrong:
        raise ConfigError(
            f"data.label_map: expected classes 0..{classes - 1} or {IGNORE} (ignore), found {wrong}. "
            f"Correct the map or model.classes."
        )


def _list(values: np.ndarray) -> str:
    """Write sorted numbers shortly: runs as `0..23`."""
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
