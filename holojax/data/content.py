"""What the pixels of images and labels hold, gathered window by window: for `holojax.data.check`."""

from __future__ import annotations

import zlib
from collections.abc import Hashable

import numpy as np
from jaxtyping import Bool, Shaped
from rasterio.enums import MaskFlags
from rasterio.windows import Window as RasterWindow

from holojax.data.bands import Header
from holojax.data.blocks import Raster
from holojax.data.classes import IGNORE
from holojax.data.coding import pack, unpack
from holojax.data.labels import LabelReader

_NAMED = 5  # label values that are listed


class ImageContent:
    """Looks for NaN and infinities, and for images without data."""

    def __init__(self) -> None:
        self.pixels = self.valid = 0
        self.constant: np.ndarray | None = None  # the bands of all pixels so far, while they are alike
        self.alike = True
        self._sum = 0
        self._odd: dict[str, tuple[int, int, int]] = {}  # kind -> values, row and column of the first

    def __call__(self, source: Raster, window: RasterWindow, pixels: Shaped[np.ndarray, "c h w"]) -> None:
        """Look at a window; see `holojax.data.scan.Visit`."""
        self.pixels += pixels[0].size
        self._sum = zlib.crc32(np.ascontiguousarray(pixels), self._sum)
        valid = np.ones(pixels.shape[1:], bool)
        if any(MaskFlags.all_valid not in flags for flags in source.mask_flag_enums):
            valid = source.dataset_mask(window=window) > 0
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels).all(0)
            if not finite.all():
                gaps = any(value is not None and np.isnan(value) for value in source.nodatavals)
                self._count("infinite", np.isinf(pixels), window)
                if not gaps:
                    self._count("NaN", np.isnan(pixels), window)
                valid &= finite
        self.valid += int(np.count_nonzero(valid))
        if self.alike and valid.any():
            row, col = np.unravel_index(int(np.argmax(valid)), valid.shape)
            if self.constant is None:
                self.constant = pixels[:, row, col].copy()
            self.alike = bool(((pixels == self.constant[:, None, None]).all(0) | ~valid).all())

    def _count(self, kind: str, where: Bool[np.ndarray, "c h w"], window: RasterWindow) -> None:
        if where.any():
            row, col = np.unravel_index(int(np.argmax(where.any(0))), where.shape[1:])
            count, *first = self._odd.get(kind, (0, window.row_off + int(row), window.col_off + int(col)))
            self._odd[kind] = count + int(np.count_nonzero(where)), *first

    def faults(self) -> list[str]:
        """Say what makes the image useless, or its values no numbers; a line each."""
        lines = [
            f"{count:,} values are {kind}, the first at row {row}, column {col}; correct them, or if nothing was seen "
            f"there, set them and the file's nodata value to NaN (gdal_edit.py -a_nodata nan FILE)."
            for kind, (count, row, col) in self._odd.items()
        ]
        if self.pixels and not self.valid:
            lines.append(f"has no valid pixel, all {self.pixels:,} are nodata; remove the scene or correct its nodata.")
        elif self.alike and self.constant is not None and not self.constant.any():
            lines.append(f"is empty: all {self.valid:,} pixels are 0; copy or download it again, or remove the scene.")
        return lines

    def notes(self) -> list[str]:
        """Say what is odd and may be meant; a line each."""
        if self.alike and self.constant is not None and self.constant.any():
            return [f"all its {self.valid:,} valid pixels hold {self.constant.tolist()[:8]}; is it a picture?"]
        return []

    def key(self, header: Header) -> Hashable:
        """Return what images with the same pixels share; images of one colour share nothing."""
        return header.path if self.alike or self.pixels == 0 else (header.size, header.dtypes, self._sum)


class LabelContent:
    """Counts the values of a label, and finds those that its table does not hold."""

    def __init__(self, reader: LabelReader) -> None:
        self._reader = reader
        self._counts: dict[int, int] = {}
        self._first: dict[int, tuple[int, int]] = {}
        self._targets = dict(reader.table)
        if reader.coding.colours:
            codes = pack(np.array(reader.coding.colours, np.uint8).T)
            self._targets = {int(code): self._targets.get(raw) for raw, code in enumerate(codes)}

    def __call__(self, source: Raster, window: RasterWindow, pixels: Shaped[np.ndarray, "c h w"]) -> None:
        """Look at a window; see `holojax.data.scan.Visit`."""
        codes = self._reader.coding.codes(pixels)
        for value, count in _tally(codes):
            self._counts[value] = self._counts.get(value, 0) + count
            if self._targets.get(value) is None and value not in self._first:
                row, col = np.unravel_index(int(np.argmax(codes == value)), codes.shape)
                self._first[value] = window.row_off + int(row), window.col_off + int(col)

    def faults(self) -> list[str]:
        """Say which values are not in the table."""
        if not self._first:
            return []
        colours = self._reader.coding.colours
        listed = ", ".join(str(unpack(value) if colours else value) for value in list(self._first)[:_NAMED])
        listed += ", ..." if len(self._first) > _NAMED else ""
        row, col = min(self._first.values())
        pixels = sum(self._counts[value] for value in self._first)
        kind, place = ("colour", "palette") if colours else ("label value", "class table")
        known = "" if colours else f" (known: {self._reader.known})"
        return [
            f"{kind} {listed} in {pixels:,} of {sum(self._counts.values()):,} pixels, the first at row {row}, column "
            f"{col}, is not in the {place}{known}; correct the file, or --classes or --ignore."
        ]

    def notes(self) -> list[str]:
        """Say if the label labels nothing."""
        if self._counts and not any(self._targets.get(value) not in (None, IGNORE) for value in self._counts):
            return ["labels no pixel: all are ignored; label it, or remove the scene."] if not self._first else []
        return []

    def key(self, header: Header) -> Hashable:
        """Return the path: labels may be alike."""
        return header.path


def _tally(values: Shaped[np.ndarray, "h w"]) -> list[tuple[int, int]]:
    """Return the values that occur and how often; without sorting where the range is small."""
    low, high = int(values.min()), int(values.max())
    if high - low >= 1 << 20:
        found, counts = np.unique(values, return_counts=True)
    else:
        counts = np.bincount(values.ravel().astype(np.int64) - low) if low else np.bincount(values.ravel())
        found = np.flatnonzero(counts)
        counts, found = counts[found], found + low
    return list(zip(found.tolist(), counts.tolist(), strict=True))
