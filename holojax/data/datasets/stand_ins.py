"""Tiny generated stand-ins for every data set: the right names, formats and label values, odd sizes, and the traps.

They show that files are found, paired and decoded; nothing can be learnt from them, and no figure means anything.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Shaped

from holojax.data.datasets import SETS
from holojax.data.datasets.base import CLASSES_FILE
from holojax.data.datasets.whu_ohs.mosaic import OVERLAP
from holojax.data.files import write_geotiff, write_once
from holojax.data.raster import allow_no_georeference
from holojax.errors import ConfigError

SIZES = ((37, 53), (41, 47))
"""Height and width of the scenes, in turn."""
COUNTS = {"train": 2, "val": 1, "test": 1}

Fill = Callable[[Path, np.random.Generator], None]


def write_stand_in(name: str, folder: str | os.PathLike[str], seed: int = 0) -> Path:
    """Write the stand-in of a data set, as its files would lie after unpacking; two to four scenes.

    A folder that is complete and made with the same arguments is left as it is.

    Raises:
        ConfigError: the set is not known, or the folder holds something else. RasterError: it cannot be written.
    """
    if name not in STAND_INS:
        raise ConfigError(f"No stand-in for {name!r}; there are {', '.join(STAND_INS)}.")
    parameters = dict(kind=f"stand-in of {name}", seed=seed, recipe=1)
    return write_once(folder, parameters, lambda root: STAND_INS[name](root, np.random.default_rng(seed)))


def _write(path: Path, pixels: Shaped[np.ndarray, "h w *c"]) -> None:
    """Write an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        write_geotiff(path, pixels)
        return
    allow_no_georeference()
    bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    driver = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    count, height, width = bands.shape
    profile = dict(driver=driver, count=count, height=height, width=width, dtype=pixels.dtype.name)
    with rasterio.open(path, "w", **profile) as target:
        target.write(bands)


def _photo(rng: np.random.Generator, label: Shaped[np.ndarray, "h w"], bands: int = 3) -> np.ndarray:
    """Draw an image in which a pixel's colour tells its raw label, uint8 `[h w bands]`."""
    colours = np.random.default_rng(1).integers(30, 226, (256, bands))
    return np.clip(colours[label.astype(np.int64) % 256] + rng.normal(0, 8, (*label.shape, bands)), 0, 255).astype(
        np.uint8
    )


def _label(rng: np.random.Generator, values: list[int], size: tuple[int, int]) -> Shaped[np.ndarray, "h w"]:
    """Draw squares of raw label values; the first pixels of the first row hold every value once."""
    height, width = size
    coarse = rng.choice(np.array(values), (-(-height // 6), -(-width // 6)))
    label = np.kron(coarse, np.ones((6, 6), coarse.dtype))[:height, :width]
    label[0, : len(values)] = values
    return label


def _pairs(image: str, label: str, values: list[int], counts: Mapping[str, int] = COUNTS) -> Fill:
    """Return what writes images and labels of numbers under names with `{split}` and `{n}`."""

    def fill(root: Path, rng: np.random.Generator) -> None:
        for split, count in counts.items():
            for n in range(count):
                raw = _label(rng, values, SIZES[n % 2])
                _write(root / image.format(split=split, n=n), _photo(rng, raw))
                _write(root / label.format(split=split, n=n), raw.astype(np.uint8))

    return fill


def _fbp(bands: int, dtype: str, folder: str) -> Fill:
    def fill(root: Path, rng: np.random.Generator) -> None:
        names = [f"GF2_PMS{n}__L1A000{n}-MSS{n}" for n in range(4)]
        for n, name in enumerate(names):
            raw = _label(rng, list(range(25)), SIZES[n % 2])
            factor = 40 if dtype == "uint16" else 1
            _write(root / folder / f"{name}.tif", (_photo(rng, raw, bands).astype(np.uint16) * factor).astype(dtype))
            _write(root / "Annotation__index" / f"{name}_24label.png", raw.astype(np.uint8))
        for split, part in (("train", names[:2]), ("val", names[2:3]), ("test", names[3:])):
            (root / f"{split}.txt").write_text("".join(f"{name}.tif\n" for name in part))

    return fill


def _uavid(root: Path, rng: np.random.Generator) -> None:
    colours = np.array(SETS["uavid"].coding.colours, np.uint8)
    for folder, sequence in (("train", 1), ("train", 2), ("valid", 16), ("test", 21)):
        for n in range(2):  # the same numbers in every sequence
            raw = _label(rng, list(range(8)), SIZES[n % 2])
            _write(root / folder / f"seq{sequence}" / "Images" / f"{100 * n:06d}.png", _photo(rng, raw))
            if folder != "test":
                _write(root / folder / f"seq{sequence}" / "Labels" / f"{100 * n:06d}.png", colours[raw])


def _deepglobe(root: Path, rng: np.random.Generator) -> None:
    colours = np.array(SETS["deepglobe"].coding.colours, np.int64)
    numbers = (119, 606, 855, 2334)
    for n, number in enumerate(numbers):
        raw = _label(rng, list(range(7)), SIZES[n % 2])
        frayed = np.where(colours[raw] == 255, 255 - rng.integers(0, 100, (*raw.shape, 3)),
                          rng.integers(0, 100, (*raw.shape, 3)))  # fmt: skip
        _write(root / "train" / f"{number}_sat.jpg", _photo(rng, raw))
        _write(root / "train" / f"{number}_mask.png", frayed.astype(np.uint8))
    for name, part in (("train", numbers[:2]), ("crossvali", numbers[2:3]), ("test", numbers[3:])):
        (root / f"{name}.txt").write_text("".join(f"{number}_sat.jpg\n" for number in part))


def _own(count: int, coloured: bool = False) -> Fill:
    """Return what writes scenes in the project's own layout, with a table of `count` classes."""

    def fill(root: Path, rng: np.random.Generator) -> None:
        values = list(range(count)) if coloured else [*range(1, count + 1), 0]
        _pairs("{split}/image/scene_{n}.tif", "{split}/label/scene_{n}.png", values)(root, rng)
        palette = [[10 * n, 255 - 10 * n, 40] for n in range(count)]
        table = dict(names=[f"kind {n}" for n in range(count)], palette=palette)
        if coloured:
            table["colours"] = True
            for path in sorted(root.glob("*/label/*.png")):
                with rasterio.open(path) as source:
                    raw = source.read(1)
                _write(path, np.array(palette, np.uint8)[raw])
        else:
            table["label_map"] = {"0": 255} | {str(n): n - 1 for n in range(1, count + 1)}
        (root / CLASSES_FILE).write_text(json.dumps(table))

    return fill


def _crag(root: Path, rng: np.random.Generator) -> None:
    for split, folder, count in (("train", "Annotation", 2), ("test", "Annotations", 1)):
        for n in range(count):
            glands = _label(rng, [0, 1, 2, 255], SIZES[n % 2])
            _write(root / split / "Images" / f"{split}_{n + 1}.png", _photo(rng, glands))
            _write(root / split / folder / f"{split}_{n + 1}.png", glands.astype(np.uint8))
            _write(root / split / "Overlay" / f"{split}_{n + 1}.png", _photo(rng, glands))


def _isic(root: Path, rng: np.random.Generator) -> None:
    for split, count in (("Training", 2), ("Validation", 1), ("Test", 1)):
        for n in range(count):
            name = f"ISIC_{len(split):03d}{n:04d}"
            raw = _label(rng, [0, 255], SIZES[n % 2])
            _write(root / f"ISIC2018_Task1-2_{split}_Input" / f"{name}.jpg", _photo(rng, raw))
            if split != "Test":
                _write(root / f"ISIC2018_Task1_{split}_GroundTruth" / f"{name}_segmentation.png", raw.astype(np.uint8))
        readme = root / f"ISIC2018_Task1-2_{split}_Input" / "LICENSE.txt"
        readme.write_text("the archives hold other files, too\n")


def _whu_ohs(root: Path, rng: np.random.Generator) -> None:
    """Write a scene of 3 x 3 patches of all splits, one missing, two that disagree; and one of 2 x 2."""
    side, step = 48, 48 - OVERLAP
    for scene, patches in (("S1", 3), ("T1", 2)):
        extent = step * (patches - 1) + side
        label = _label(rng, list(range(25)), (extent, extent)).astype(np.uint8)
        image = (_photo(rng, label, 32).astype(np.int16) * 30) + 1
        for number in range(patches**2):
            if (scene, number) == ("S1", 5):
                continue  # a patch is missing
            split = ("tr", "tr", "ts", "tr", "val", "ts", "tr", "tr", "tr")[number]
            top, left = (step * place for place in divmod(number, patches))
            area = np.s_[top : top + side, left : left + side]
            raw = label[area].copy()
            if (scene, number) == ("T1", 3):
                raw[0, 0] = (raw[0, 0] + 1) % 25  # and one does not agree with its neighbours
            name = f"{scene}_{number + 1:04d}.tif"
            _write(root / split / "image" / name, image[area])
            _write(root / split / "label" / name, raw)
    (root / "grid.json").write_text(json.dumps({"S1": [3, 3]}))


def _synapse(root: Path, rng: np.random.Generator) -> None:
    for number, order in ((5, "<"), (21, ">"), (1, "<")):
        shape = (21, 17, 3)
        organs = np.stack([_label(rng, list(range(14)), (17, 21)).T for _ in range(3)], -1)
        for part, volume in (("img", rng.integers(-1000, 1000, shape)), ("label", organs)):
            (root / part).mkdir(exist_ok=True)
            header = np.zeros(352, np.uint8)
            for at, dtype, value in (
                (0, "i4", 348), (40, "i2", [3, *shape, 1, 1, 1, 1]), (70, "i2", 4 if part == "img" else 2),
                (72, "i2", 16), (108, "f4", 352), (112, "f4", 1),
            ):  # fmt: skip
                raw = np.array(value, order + dtype).tobytes()
                header[at : at + len(raw)] = np.frombuffer(raw, np.uint8)
            header[344:348] = np.frombuffer(b"n+1\0", np.uint8)
            values = volume.astype(order + "i2" if part == "img" else "u1").tobytes(order="F")
            with gzip.open(root / part / f"{part}{number:04d}.nii.gz", "wb") as file:
                file.write(header.tobytes() + values)


STAND_INS: dict[str, Fill] = {
    "folder": _own(3, coloured=True),
    "fbp": _fbp(4, "uint8", "Image__8bit_NirRGB"),
    "fbp_16bit": _fbp(4, "uint16", "Image_16bit_BGRNir"),
    "glh_water": _pairs("{split}/img/{n:02d}.jpg", "{split}/label/{n:02d}.png", [0, 255]),
    "whu_ohs": _whu_ohs,
    "uavid": _uavid,
    "uavid_rest": _uavid,
    "deepglobe": _deepglobe,
    "wuhan": _own(8),
    "guangdong": _own(11),
    "isic": _isic,
    "crag": _crag,
    "synapse": _synapse,
}
