"""A corpus of bad files: a small healthy set, and a copy of it for every kind of damage.

    python -m tests.data.bad_files FOLDER [KIND...]

writes FOLDER/healthy and FOLDER/KIND, each with train/{image,label}; without KIND all of them. `KINDS` says of each
which file is bad, what a check says of it, and whether training refuses it.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster

from holojax.data.raster import allow_no_georeference

NAMES = ("a", "b", "c", "d", "e")
SIZE, SIDE = (70, 90), 32
IMAGE, LABEL = "train/image/c.tif", "train/label/c.tif"
CLASSES = 4
PALETTE = ((10, 200, 30), (200, 20, 20), (0, 0, 250), (250, 250, 0))

REFUSED, LEGAL, SILENT = "refused", "legal", "silent"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of bad file.

    Attributes:
        damage: makes a healthy set bad.
        file: that is to be named, relative to the set; "" for the set itself.
        words: that the line about it holds, in this order: what is wrong, where, what to do.
        training: what becomes of it: REFUSED (an error names the file), LEGAL (it is read as it is), or SILENT (it is
            read, and wrong: nobody can tell without a second pass).
        note: it is a note, no fault.
        opened: folder that is given to the check and to training, relative to the set.
        settings: of `check_set`.
    """

    damage: Callable[[Path], Any]
    file: str
    words: tuple[str, ...]
    training: str = REFUSED
    note: bool = False
    opened: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write_raster(path: Path, pixels: np.ndarray, number: int = 0, **profile: Any) -> None:
    """Write `[h w c]` as a small tiled GeoTIFF, or as `profile` says; it lies `number` scenes to the east."""
    allow_no_georeference()
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    full = dict(driver="GTiff", tiled=True, blockxsize=SIDE, blockysize=SIDE, compress="deflate", interleave="pixel")
    full |= dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000 + 1000 * number, 0, -10, 5_300_000))
    full |= dict(photometric="minisblack") if len(bands) > 3 else {}
    full |= dict(count=bands.shape[0], height=bands.shape[1], width=bands.shape[2], dtype=pixels.dtype.name) | profile
    with rasterio.open(path, "w", **full) as target:
        target.write(bands)


def write_healthy(folder: Path, dtype: str = "uint8", coloured: bool = False) -> None:
    """Write five scenes of three bands with labels 0..3 and 255, in numbers or in colours (then without 255)."""
    for number, name in enumerate(NAMES):
        image, label = draw(number)
        write_raster(folder / f"train/image/{name}.tif", image.astype(dtype), number)
        label = np.array(PALETTE, np.uint8)[label % CLASSES] if coloured else label
        write_raster(folder / f"train/label/{name}.tif", label, number)
    if coloured:
        table = dict(names=["w", "x", "y", "z"], palette=PALETTE, colours=True)
        (folder / "classes.json").write_text(json.dumps(table))


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image and its label."""
    rng = np.random.default_rng(number)
    image = rng.integers(1, 256, (*SIZE, 3)).astype(np.uint8)
    return image, rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), SIZE)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels, **profile: Any) -> None:
    """Write a raster again with other pixels `[h w c]` or in another way."""
    with rasterio.open(path) as source:
        pixels = np.moveaxis(source.read(), 0, -1)
    path.unlink()
    write_raster(path, np.ascontiguousarray(change(pixels)), 2, **profile)


def with_value(value: float, rows: slice, cols: slice) -> Callable[[np.ndarray], np.ndarray]:
    """Return what sets a part of the pixels to a value."""

    def change(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.copy()
        pixels[rows, cols] = value
        return pixels

    return change


def block_at(path: Path, place: str = "1_1") -> tuple[int, int]:
    """Return where a block lies in a TIFF and how many bytes it has."""
    with rasterio.open(path) as source:
        return tuple(int(source.get_tag_item(f"BLOCK_{what}_{place}", "TIFF", 1)) for what in ("OFFSET", "SIZE"))


def cut(path: Path, share: float) -> None:
    """Cut off the end of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _corrupt_block(root: Path) -> None:
    path = root / IMAGE
    start, size = block_at(path)
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\xa5" * size
    path.write_bytes(data)


def _other_bits(**profile: Any) -> Callable[[Path], None]:
    """Return what changes a byte of a block so that GDAL reads other pixels and does not complain."""

    def damage(root: Path) -> None:
        path = root / IMAGE
        smooth = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1]) * 2)[..., None] + np.array([0, 20, 40])
        noise = np.random.default_rng(5).integers(0, 5, smooth.shape)
        rewrite(path, lambda _: (smooth % 200 + noise).astype(np.uint8), **profile)
        start, size = block_at(path)
        sound = path.read_bytes()
        with rasterio.open(path) as source:
            pixels = source.read()
        for place in range(start + size // 2, start + size - 8):
            path.write_bytes(sound[:place] + b"\xa5" + sound[place + 1 :])
            try:
                with rasterio.open(path) as source:
                    if (source.read() != pixels).any():
                        return
            except RasterioError:
                continue
        raise AssertionError("GDAL notices every change")

    return damage


def _jpeg_block(root: Path) -> None:
    """End the JPEG data of a block too early, of which GDAL only warns."""
    path = root / IMAGE
    rewrite(path, compress="jpeg", photometric="rgb")
    start, size = block_at(path)
    data = bytearray(path.read_bytes())
    data[start + size - 40 : start + size - 38] = b"\xff\xd9"
    path.write_bytes(data)


def _header_only(root: Path) -> None:
    path = root / IMAGE
    path.write_bytes(path.read_bytes()[: block_at(path, "0_0")[0]])


def _no_blocks(root: Path) -> None:
    with rasterio.open(root / IMAGE) as source:
        profile = dict(source.profile, sparse_ok=True)
    with rasterio.open(root / IMAGE, "w", **profile):
        pass


def _in_format(file: str, driver: str, suffix: str) -> Callable[[Path], None]:
    """Return what writes a file in another format, under a name with `suffix`."""

    def damage(root: Path) -> None:
        path = root / file
        other = path.with_name(f"other.{driver.lower()}")
        copy_raster(path, other, driver=driver)
        path.unlink()
        other.rename(path.with_suffix(suffix))
        for aside in path.parent.glob("other.*"):
            aside.unlink()

    return damage


def _cut_in_format(driver: str, suffix: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        _in_format(IMAGE, driver, suffix)(root)
        cut((root / IMAGE).with_suffix(suffix), 0.5)

    return damage


def _floats(change: Callable[[np.ndarray], np.ndarray], **profile: Any) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        write_healthy(root, "float32")
        rewrite(root / IMAGE, change, **profile)

    return damage


def _placed(file: str, **place: Any) -> Callable[[Path], None]:
    return lambda root: rewrite(root / file, **place)


def _colour(root: Path) -> None:
    write_healthy(root, coloured=True)
    rewrite(root / LABEL, with_value(77, slice(40, 42), slice(50, 53)))


def _line(root: Path) -> None:
    for file in (IMAGE, LABEL):
        rewrite(root / file, lambda pixels: pixels[:1], tiled=False, blockysize=1)


def _full_of_gaps(root: Path) -> None:
    rewrite(root / IMAGE, lambda pixels: np.full_like(pixels, 7), nodata=7)


def _virtual(root: Path) -> None:
    copy_raster(root / IMAGE, root / "train/image/c.vrt", driver="VRT")
    (root / IMAGE).rename(root / "elsewhere.tif")


def build(root: Path, config: str) -> Path:
    """Build the set as `index` or `blocks`, in root/built; return the folder to open."""
    import tensorflow_datasets as tfds

    from holojax.data.datasets.builder import builder_of

    table = dict(names=[f"class {number}" for number in range(CLASSES)])
    (root / "classes.json").write_text(json.dumps(table))
    tfds.disable_progress_bar()
    builder = builder_of("folder")(data_dir=str(root / "built"), config=config)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(root)))
    shutil.move(builder.data_dir, root / "opened")
    return root / "opened"


def _after_index(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        build(root, "index")
        change(root / IMAGE)

    return damage


def _damaged_record(root: Path) -> None:
    record = next(build(root, "blocks").glob("*.array_record*"))
    data = bytearray(record.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 16] = b"\xa5" * 16
    record.write_bytes(data)


NORTH = rasterio.Affine(10, 0, 502_000, 0, -10, 5_300_000)
AGAIN = "copy or download"
KINDS: dict[str, Kind] = {
    "truncated": Kind(lambda root: cut(root / IMAGE, 0.6), IMAGE, ("blocks, the first at rows", "columns", AGAIN)),
    "corrupt_block": Kind(_corrupt_block, IMAGE, ("a block at rows 32..63, columns 32..63 is damaged", AGAIN)),
    "other_bits": Kind(
        _other_bits(), IMAGE, ("a block at rows 32..63, columns 32..63", "checksum is wrong", AGAIN), SILENT
    ),
    "jpeg_block": Kind(_jpeg_block, IMAGE, ("a block at rows", "Corrupt JPEG data", AGAIN)),
    "header_only": Kind(_header_only, IMAGE, ("9 blocks, the first at rows 0..31, columns 0..31", AGAIN)),
    "no_blocks": Kind(_no_blocks, IMAGE, ("is empty: all 6,300 pixels are 0", AGAIN), LEGAL),
    "zero_bytes": Kind(lambda root: (root / IMAGE).write_bytes(b""), IMAGE, ("empty (0 bytes)", AGAIN)),
    "text": Kind(lambda root: (root / IMAGE).write_text("hello"), IMAGE, ("expected a readable raster", AGAIN)),
    "png_named_tif": Kind(
        _in_format(IMAGE, "PNG", ".tif"), IMAGE, ("expected a GTiff file", "found PNG", "rename"), LEGAL
    ),
    "cut_png": Kind(_cut_in_format("PNG", ".png"), "train/image/c.png", ("at rows 0..69, columns 0..89", AGAIN)),
    "cut_jpeg": Kind(_cut_in_format("JPEG", ".jpg"), "train/image/c.jpg", ("at rows 0..69, columns 0..89", AGAIN)),
    "jpeg_label": Kind(
        lambda root: rewrite(root / LABEL, compress="jpeg"), LABEL, ("without loss", "JPEG", "Make it again")
    ),
    "wrong_bands": Kind(
        lambda root: rewrite(root / IMAGE, lambda pixels: pixels[..., [0, 1, 2, 0, 1]], photometric="minisblack"),
        IMAGE, ("expected 3 band(s) as 4 of 5 have, found 5", "convert or remove"),
    ),
    "other_dtype": Kind(
        lambda root: rewrite(root / IMAGE, lambda pixels: pixels.astype(np.uint16)),
        IMAGE, ("expected bands of uint8 as 4 of 5 have, found uint16", "convert or remove"),
    ),
    "nan": Kind(
        _floats(with_value(np.nan, slice(40, 42), slice(50, 53))),
        IMAGE, ("18 values are NaN, the first at row 40, column 50", "nodata"), LEGAL,
    ),
    "infinite": Kind(
        _floats(with_value(-np.inf, slice(66, 67), slice(80, 81)), nodata=np.nan),
        IMAGE, ("3 values are infinite, the first at row 66, column 80", "orrect"), LEGAL,
    ),
    "all_nodata": Kind(_full_of_gaps, IMAGE, ("no valid pixel, all 6,300 are nodata", "remove the scene"), LEGAL),
    "label_size": Kind(
        lambda root: rewrite(root / LABEL, lambda pixels: pixels[:60]),
        LABEL, ("expected 70 x 90", "found 60 x 90", "esample or replace"),
    ),
    "label_value": Kind(
        lambda root: rewrite(root / LABEL, with_value(9, slice(40, 42), slice(50, 53))),
        LABEL, ("label value 9 in 6 of 6,300", "row 40, column 50", "known: 0..3, 255", "correct the file"),
    ),
    "label_floats": Kind(
        lambda root: rewrite(root / LABEL, lambda pixels: pixels.astype(np.float32)),
        LABEL, ("expected integer class numbers, found float32", "onvert it"),
    ),
    "label_bands": Kind(
        lambda root: rewrite(root / LABEL, lambda pixels: pixels[..., [0, 0, 0]]),
        LABEL, ("expected a label with one band of class numbers, found 3 bands", "convert"),
    ),
    "colour": Kind(
        _colour, LABEL, ("colour (77, 77, 77) in 6 of 6,300", "row 40, column 50", "not in the palette", "correct the")
    ),
    "label_shifted": Kind(
        _placed(LABEL, transform=NORTH @ rasterio.Affine.translation(3, 0)),
        LABEL, ("lies up to 3.0 pixels away from its image", "Warp"),
    ),
    "label_crs": Kind(_placed(LABEL, crs="EPSG:32634"), LABEL, ("expected the CRS of its image", "EPSG:32634", "Warp")),
    "no_crs": Kind(_placed(IMAGE, crs=None), IMAGE, ("has no CRS, as 4 of 5 have", "gdal_edit.py -a_srs"), LEGAL),
    "other_crs": Kind(
        lambda root: [rewrite(root / file, crs="EPSG:32634") for file in (IMAGE, LABEL)],
        IMAGE, ("expected the CRS EPSG:32633 as 4 of 5 have, found EPSG:32634", "warp it"), LEGAL,
    ),
    "rotated": Kind(
        lambda root: [rewrite(root / file, transform=NORTH @ rasterio.Affine.rotation(20)) for file in (IMAGE, LABEL)],
        IMAGE, ("rotated transform", "warp it"), LEGAL,
    ),
    "line": Kind(_line, IMAGE, ("line of 1 x 90 pixels", "emove the scene"), LEGAL),
    "no_label": Kind(lambda root: (root / LABEL).unlink(), IMAGE, ("has no label", "add the missing file")),
    "no_image": Kind(lambda root: (root / IMAGE).unlink(), LABEL, ("has no image", "add the missing file")),
    "same_name": Kind(
        lambda root: shutil.copy(root / IMAGE, (root / IMAGE).with_suffix(".tiff")),
        "train/image/c.tiff", ("shares its name with c.tif", "keep one"),
    ),
    "same_pixels": Kind(
        lambda root: rewrite(root / IMAGE, lambda _: draw(0)[0]),
        IMAGE, ("same pixels as", "train/image/a.tif", "keep one"), LEGAL, note=True,
    ),
    "unlabelled": Kind(
        lambda root: rewrite(root / LABEL, lambda pixels: np.full_like(pixels, 255)),
        LABEL, ("labels no pixel", "remove the scene"), LEGAL, note=True,
    ),
    "virtual": Kind(_virtual, "train/image/c.vrt", ("damaged", AGAIN)),
    "bad_table": Kind(
        lambda root: (root / "classes.json").write_text("{"), "classes.json", ("expected", "names"), LEGAL
    ),
    "permissions": Kind(lambda root: (root / IMAGE).chmod(0), IMAGE, ("permission denied", "chmod u+r")),
    "changed": Kind(
        _after_index(lambda path: rewrite(path, lambda pixels: 255 - pixels)),
        IMAGE, ("changed since it was indexed", "Build the index again"), opened="opened",
    ),
    "gone": Kind(
        _after_index(Path.unlink), IMAGE, ("no such file; it was there", "Build the index again"), opened="opened"
    ),
    "damaged_record": Kind(
        _damaged_record, "opened#image", ("rows", "columns", "damaged", AGAIN), opened="opened"
    ),
}  # fmt: skip


def write_kind(folder: Path, name: str) -> Path:
    """Write the set of a kind to FOLDER/NAME and return that."""
    root = folder / name
    write_healthy(root)
    if name != "healthy":
        KINDS[name].damage(root)
    return root


def main(folder: str, *names: str) -> None:
    """Write the corpus, or some kinds of it."""
    for name in names or ("healthy", *KINDS):
        print(write_kind(Path(folder), name))


if __name__ == "__main__":
    main(*sys.argv[1:])
