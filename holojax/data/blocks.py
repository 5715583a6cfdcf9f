"""Scenes kept as encoded blocks of pixels in records: a region is a few record reads, from a disk or a bucket.

A block raster is named by a path, `blocks://FOLDER#image/SPLIT/SCENE` or `#label/...`, and read like any file:
`SceneReader` and `LabelReader` take it, and find the bands, nodata, mask and CRS that the file had. FOLDER is what a
data set's builder made (`holojax.data.datasets.builder`), in its config `blocks`.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Shaped, UInt8
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterWindow

from holojax.errors import ConfigError, RasterError

SCHEME = "blocks://"
SIDE = 512
CODECS = ("zstd", "deflate", "png")
IMAGE, LABEL = "image", "label"


def block_path(folder: str | os.PathLike[str], part: str, split: str, scene: str) -> str:
    """Return the path under which `SceneReader` (part "image") or `LabelReader` ("label") open a scene of blocks."""
    return f"{SCHEME}{os.fspath(folder)}#{part}/{split}/{scene}"


def places(height: int, width: int, side: int = SIDE) -> Iterator[tuple[int, int, RasterWindow]]:
    """Yield row, column and window of every block of a raster, in row-major order; the last ones are smaller."""
    for row, top in enumerate(range(0, height, side)):
        for col, left in enumerate(range(0, width, side)):
            yield row, col, RasterWindow(left, top, min(side, width - left), min(side, height - top))


def encode(pixels: Shaped[np.ndarray, "c h w"], codec: str = "zstd") -> bytes:
    """Encode the pixels of a block without loss: any dtype and number of bands.

    `zstd` and `deflate` are one-strip GeoTIFFs with differences of neighbours, band by band, so that a few of many
    bands are read alone; `png` is smaller for photographs, and takes up to 4 bands of uint8 or uint16.

    Raises:
        ConfigError: the codec does not exist or cannot hold such pixels.
    """
    from holojax.data.raster import allow_no_georeference  # which reads blocks

    allow_no_georeference()
    bands, height, width = pixels.shape
    profile: dict[str, Any] = dict(count=bands, height=height, width=width, dtype=pixels.dtype.name)
    if codec == "png" and bands <= 4 and pixels.dtype in (np.uint8, np.uint16):
        profile |= dict(driver="PNG")
    elif codec in ("zstd", "deflate"):
        predictor = 3 if pixels.dtype.kind == "f" else 2
        profile |= dict(driver="GTiff", compress=codec, predictor=predictor, interleave="band", blockysize=height)
        profile |= dict(photometric="minisblack", **(dict(zstd_level=3) if codec == "zstd" else {}))
    else:
        raise ConfigError(f"Expected a codec of {CODECS} (png: 1 to 4 bands of uint8 or uint16), found {codec!r} for "
                          f"{bands} band(s) of {pixels.dtype}. Use zstd.")  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(pixels)
        return bytes(memory.getbuffer())


def describe(source: rasterio.DatasetReader) -> dict[str, Any]:
    """Return what `BlockRaster` must know of a raster besides its pixels, as plain JSON values."""
    return dict(
        height=source.height,
        width=source.width,
        dtypes=list(source.dtypes),
        crs="" if source.crs is None else source.crs.to_wkt(),
        transform=list(source.transform)[:6],
        nodata=[None if value is None else float(value) for value in source.nodatavals],
        colorinterp=[meaning.name for meaning in source.colorinterp],
        mask_flags=[[flag.name for flag in flags] for flags in source.mask_flag_enums],
        lossy=is_lossy(source),
    )


def is_lossy(source: Raster) -> bool:
    """Tell whether a raster was compressed with loss, so that values near edges are not those that were written."""
    if isinstance(source, BlockRaster):
        return source.lossy
    facts = source.tags(ns="IMAGE_STRUCTURE")
    kind, lossless = facts.get("COMPRESSION", ""), facts.get("COMPRESSION_REVERSIBILITY", "LOSSLESS")
    return kind in ("JPEG", "YCbCr JPEG") or lossless.startswith("LOSSY")  # "JPEG2000" has both ways


def read_blocks(source: rasterio.DatasetReader, codec: str, side: int = SIDE) -> Iterator[list[dict[str, Any]]]:
    """Read a raster once, a row of blocks at a time, and yield the records of each row's blocks.

    A record holds `row`, `col`, the encoded `pixels`, the `mask` where not all pixels are valid for GDAL, and the
    checksum `crc` of both: no codec has one that GDAL looks at, and bits that changed would be read in silence.
    """
    dtype = np.result_type(*source.dtypes)
    masked = any(MaskFlags.all_valid not in flags for flags in source.mask_flag_enums)
    for top in range(0, source.height, side):
        strip = RasterWindow(0, top, source.width, min(side, source.height - top))
        pixels = source.read(window=strip, out_dtype=dtype)
        mask = source.dataset_mask(window=strip) > 0 if masked else None
        records = []
        for row, col, area in places(pixels.shape[1], source.width, side):
            inside = np.s_[:, area.col_off : area.col_off + area.width]
            hidden = mask is not None and not mask[inside].all()
            packed = zlib.compress(np.packbits(mask[inside]).tobytes()) if hidden else b""
            block = encode(np.ascontiguousarray(pixels[:, *inside]), codec)
            place = dict(row=top // side + row, col=col)
            records.append(dict(place, pixels=block, mask=packed, crc=_checksum(block, packed)))
        yield records


class BlockRaster:
    """A raster that lies in records, with those attributes and methods of a rasterio dataset that readers use.

    `records` are mappings; none is looked at before it is needed. For one thread, like any dataset; it keeps the
    records of the last window, since the next one often shares some.

    Attributes:
        reads: records fetched so far.
    """

    driver = "blocks"

    def __init__(self, name: str, records: Sequence, facts: Mapping[str, Any]) -> None:
        self.name = name
        self.reads = 0
        self._records, self._facts = records, facts
        self._held: dict[int, Mapping[str, Any]] = {}
        self.height, self.width = facts["height"], facts["width"]
        self.dtypes = tuple(facts["dtypes"])
        self.count = len(self.dtypes)
        self.crs = rasterio.crs.CRS.from_wkt(facts["crs"]) if facts["crs"] else None
        self.transform = rasterio.Affine(*facts["transform"])
        self.block_shapes = [(facts["side"], facts["side"])] * self.count
        self.nodatavals = tuple(facts["nodata"])
        self.nodata = self.nodatavals[0]
        self.colorinterp = tuple(ColorInterp[name] for name in facts["colorinterp"])
        self.mask_flag_enums = tuple([MaskFlags[name] for name in flags] for flags in facts["mask_flags"])
        self.lossy = facts.get("lossy", False)

    def read(
        self,
        indexes: int | Sequence[int] | None = None,
        window: RasterWindow | None = None,
        out_dtype: Any = None,
        out_shape: Sequence[int] | None = None,
    ) -> Shaped[np.ndarray, ...]:
        """Read bands (from 1; None: all) of a window inside the raster: `[c h w]`, or `[h w]` of a single number.

        With an `out_shape` (its last two entries are rows and columns) pixels are picked as GDAL's nearest does.

        Raises:
            RasterError: a record is not the block that should be there, or is damaged.
        """
        single = isinstance(indexes, int | np.integer)
        picked = [indexes] if single else list(indexes or range(1, self.count + 1))
        dtype = out_dtype or np.result_type(*(self.dtypes[band - 1] for band in picked))
        area = self._area(window)
        if out_shape is not None and tuple(out_shape[-2:]) != (area.height, area.width):
            out = self._read_scaled(picked, area, dtype, out_shape[-2:])
            return out[0] if single else out
        out = np.empty((len(picked), area.height, area.width), dtype)
        for record, (there, here) in self._blocks(area):
            with MemoryFile(record["pixels"]) as memory, memory.open() as block:
                out[:, *here] = block.read(picked)[:, *there]
        return out[0] if single else out

    def dataset_mask(
        self, window: RasterWindow | None = None, out_shape: Sequence[int] | None = None
    ) -> UInt8[np.ndarray, "h w"]:
        """Read where GDAL calls pixels of a window valid: 255, else 0; with an `out_shape` as `read`."""
        area = self._area(window)
        out = np.full((area.height, area.width), 255, np.uint8)
        side = self._facts["side"]
        for record, (there, here) in self._blocks(area):
            if record["mask"]:
                height = min(side, self.height - record["row"] * side)
                width = min(side, self.width - record["col"] * side)
                bits = np.frombuffer(zlib.decompress(record["mask"]), np.uint8)
                mask = np.unpackbits(bits, count=height * width).reshape(height, width)
                out[here] = mask[there] * np.uint8(255)
        if out_shape is None or tuple(out_shape) == out.shape:
            return out
        return out[np.ix_(*(_picks(length, wanted) for length, wanted in zip(out.shape, out_shape, strict=True)))]

    def _read_scaled(
        self, picked: list[int], area: RasterWindow, dtype: Any, shape: Sequence[int]
    ) -> Shaped[np.ndarray, "c h w"]:
        """Pick pixels row of blocks by row of blocks, so that no more than one such row is in memory."""
        rows, cols = (_picks(length, wanted) for length, wanted in zip((area.height, area.width), shape, strict=True))
        out = np.empty((len(picked), *shape), dtype)
        for _, _, strip in spans(area.row_off, area.height, self._facts["side"]):
            first, last = np.searchsorted(rows, (strip.start, strip.stop))
            if first < last:
                part = RasterWindow(area.col_off, area.row_off + strip.start, area.width, strip.stop - strip.start)
                pixels = self.read(picked, window=part, out_dtype=dtype)
                out[:, first:last] = pixels[:, rows[first:last] - strip.start][:, :, cols]
        return out

    def _area(self, window: RasterWindow | None) -> RasterWindow:
        return RasterWindow(0, 0, self.width, self.height) if window is None else window

    def _blocks(self, area: RasterWindow) -> Iterator[tuple[Mapping[str, Any], tuple[Any, Any]]]:
        """Yield the records that a window touches, and which part of each goes where in the window."""
        side, per_row = self._facts["side"], -(-self.width // self._facts["side"])
        rows = spans(area.row_off, area.height, side)
        cols = spans(area.col_off, area.width, side)
        wanted = {row * per_row + col: (row, col) for row, *_ in rows for col, *_ in cols}
        self._held = {number: record for number, record in self._held.items() if number in wanted}
        for row, from_rows, to_rows in rows:
            for col, from_cols, to_cols in cols:
                yield self._record(row * per_row + col, row, col), ((from_rows, from_cols), (to_rows, to_cols))

    def _record(self, number: int, row: int, col: int) -> Mapping[str, Any]:
        if number not in self._held:
            try:
                record = self._records[self._facts["first"] + number]
            except (RuntimeError, ValueError, IndexError, OSError) as error:  # array_record has none of its own
                raise RasterError(
                    f"{self.name}: block {row}, {col} cannot be read ({error}): the record is damaged. Copy the folder "
                    f"again, or build it again."
                ) from error
            self.reads += 1
            if (record["row"], record["col"]) != (row, col):
                raise RasterError(
                    f"{self.name}: expected block {row}, {col}, found {record['row']}, {record['col']}. The records "
                    f"and their table do not fit; build the blocks again."
                )
            if record.get("crc") not in (None, _checksum(record["pixels"], record["mask"])):  # None: built before 1.1.0
                side = self._facts["side"]
                raise RasterError(
                    f"{self.name}: block {row}, {col} (rows from {row * side}, columns from {col * side}) has another "
                    f"checksum than it was written with: it is damaged. Copy the folder again, or build it again."
                )
            self._held[number] = record
        return self._held[number]


def _checksum(pixels: bytes, mask: bytes) -> int:
    return zlib.crc32(mask, zlib.crc32(pixels))


Raster = rasterio.DatasetReader | BlockRaster
"""What readers read: a file that GDAL opens, or blocks."""


def open_blocks(path: str) -> BlockRaster:
    """Open a raster of blocks by its path (`block_path`).

    Raises:
        RasterError: the folder holds no blocks, or not this scene; lists what there is.
    """
    folder, _, rest = path.removeprefix(SCHEME).partition("#")
    part, split, scene = (*rest.split("/", 2), "", "")[:3]
    table = Path(folder) / "metadata.json"
    if not table.exists():
        raise RasterError(f"{path}: no such folder of blocks. Build the data set's config `blocks` first.")
    records, scenes = _open(folder, split, table.stat().st_mtime_ns, os.getpid())
    if (part, scene) not in scenes:
        known = ", ".join(sorted({name for _, name in scenes})[:8]) or "none"
        raise RasterError(f"{path}: no {part} of such a scene there; scenes of {split!r}: {known} ...")
    return BlockRaster(path, records, scenes[part, scene])


@functools.lru_cache(maxsize=32)
def _open(folder: str, split: str, written: int, process: int) -> tuple[Sequence, Mapping[tuple[str, str], Mapping]]:
    del written, process  # parts of the key: what was built anew is opened anew, and so it is in a forked process
    import tensorflow_datasets as tfds  # takes half a second, and most runs read files

    scenes = {
        (part, scene["name"]): scene[part]
        for scene in json.loads((Path(folder) / "metadata.json").read_text())["scenes"]
        for part in (IMAGE, LABEL)
        if scene["split"] == split and scene.get(part) and "first" in scene[part]
    }
    if not scenes:
        return (), {}
    return tfds.builder_from_directory(folder).as_data_source(split=split), scenes


def _picks(length: int, wanted: int) -> np.ndarray:
    """Return which of `length` pixels stand for `wanted` evenly spaced ones: those under their centres."""
    return np.minimum(((np.arange(wanted) + 0.5) * length / wanted).astype(np.intp), length - 1)


def spans(start: int, length: int, side: int) -> list[tuple[int, slice, slice]]:
    """Return the blocks along one axis that an interval touches: number, part of the block, part of the interval."""
    return [
        (number, slice(max(start - number * side, 0), min(start + length - number * side, side)),
         slice(max(number * side - start, 0), min((number + 1) * side - start, length)))
        for number in range(start // side, -(-(start + length) // side))
    ]  # fmt: skip
