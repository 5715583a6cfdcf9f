"""Five-Billion-Pixels: 150 Gaofen-2 scenes of about 6,800 x 7,200 pixels at 4 m, 24 land cover classes.

Source: Tong, Xia, Zhu: "Enabling country-scale land cover mapping with meter-resolution satellite imagery",
    ISPRS Journal 2023. Class order and palette are those of REST's `fbp.py`; band order and statistics those
    of pangaea-bench.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.datasets.base import ALL, Files, SceneSet
from holojax.data.files import write_geotiff, write_once
from holojax.errors import ConfigError

_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("industrial area", (200, 0, 0)),
    ("paddy field", (0, 200, 0)),
    ("irrigated field", (150, 250, 0)),
    ("dry cropland", (150, 200, 150)),
    ("garden land", (200, 0, 200)),
    ("arbor forest", (150, 0, 250)),
    ("shrub forest", (150, 150, 250)),
    ("park land", (200, 150, 200)),
    ("natural meadow", (250, 200, 0)),
    ("artificial meadow", (200, 200, 0)),
    ("river", (0, 0, 200)),
    ("urban residential", (250, 0, 150)),
    ("lake", (0, 150, 200)),
    ("pond", (0, 200, 250)),
    ("fish pond", (150, 200, 250)),
    ("snow", (250, 250, 250)),
    ("bareland", (200, 200, 200)),
    ("rural residential", (200, 150, 150)),
    ("stadium", (250, 200, 150)),
    ("square", (150, 150, 0)),
    ("road", (250, 150, 150)),
    ("overpass", (250, 150, 0)),
    ("railway station", (250, 200, 250)),
    ("airport", (200, 150, 0)),
)
CLASSES = ClassTable(tuple(name for name, _ in _CLASSES), tuple(colour for _, colour in _CLASSES))

LABEL_MAP = {0: IGNORE} | {value: value - 1 for value in range(1, len(CLASSES) + 1)}
"""Raw label -> class: 0 is not labelled, 1..24 are the classes 0..23."""

BANDS = ("near infrared", "red", "green", "blue")
MEAN = (92.6, 124.3, 94.2, 98.0)
"""Mean of the 8-bit images, by band."""
STD = (44.5, 51.0, 50.0, 47.1)
"""Standard deviation of the 8-bit images, by band."""

LABEL_SUFFIX = "_24label"
NAME = r"(?i)([^/]+?)(?:_24label)?\.(?:tiff?|png|jpe?g)$"


_LABELS = ("{split}/label/*", "{split}/annotation/*")
_SPLIT = tuple(Files((f"{{split}}/{folder}/*",), _LABELS, NAME) for folder in ("image", "img"))

FACTS = SceneSet(
    name="fbp",
    title="Five-Billion-Pixels",
    url="https://x-ytong.github.io/project/Five-Billion-Pixels.html",
    citation="Tong, Xia, Zhu: Enabling country-scale land cover mapping with meter-resolution satellite imagery. ISPRS "
    "Journal 196, 2023.",
    layout=f"the archives' folders Image__8bit_NirRGB/NAME.tif and Annotation__index/NAME{LABEL_SUFFIX}.png (150) "
    "with lists train.txt, val.txt and test.txt of names (the authors publish no split; without lists all are in one "
    "split, `all`), or {train,val,test}/{image,label}/NAME.tif|png (or img and annotation). Labels hold 0 (not "
    "labelled) and 1..24.",
    classes=CLASSES,
    files=(*_SPLIT, Files(("Image__8bit_NirRGB/*.tif*",), ("Annotation__index/*.png",), NAME)),
    label_map=LABEL_MAP,
    bands=BANDS,
    mean=MEAN,
    std=STD,
    counts={ALL: 150},
)

FACTS_16BIT = dataclasses.replace(
    FACTS,
    name="fbp_16bit",
    layout=FACTS.layout.replace("Image__8bit_NirRGB", "Image_16bit_BGRNir"),
    files=(*_SPLIT, Files(("Image_16bit_BGRNir/*.tif*",), ("Annotation__index/*.png",), NAME)),
    bands=tuple(reversed(BANDS)),  # blue, green, red, near infrared: the other way round
    mean=(),
    std=(),
)


def stand_in(
    folder: str | os.PathLike[str],
    seed: int = 0,
    scenes: Mapping[str, int] | None = None,
    size: tuple[int, int] = (68, 72),
) -> Path:
    """Write tiny generated scenes with the layout, bands and label values of Five-Billion-Pixels.

    4 bands uint8 (near infrared, red, green, blue), labels 0..24 with 0 not labelled; patches whose colour
    tells their class. As in the real set, sizes vary: every second scene is a pixel higher and wider than
    `size` (height, width). A folder that is complete and made with the same arguments is left as it is.

    Raises:
        ConfigError: the folder holds something else, or seed or size do not make sense.
        RasterError: the place is not writable.
    """
    counts = {name: int(count) for name, count in (scenes or {"train": 4, "val": 2}).items()}
    if seed < 0 or min(size) < 8:
        raise ConfigError(f"A stand-in needs seed >= 0 and at least 8 x 8 pixels; found seed {seed}, size {size}.")

    def fill(root: Path) -> None:
        colours = np.random.default_rng(seed).integers(30, 226, (len(CLASSES) + 1, len(BANDS)))
        for split, count in counts.items():
            for part in ("image", "label"):
                (root / split / part).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng((seed, *split.encode(), number))
                label = _patches(rng, size[0] + number % 2, size[1] + number % 2)
                image = np.clip(colours[label] + rng.normal(0, 8, (*label.shape, len(BANDS))), 1, 255)
                place = dict(
                    crs="EPSG:32650",
                    transform=rasterio.Affine(4, 0, 500_000 + 40_000 * number, 0, -4, 3_400_000),
                )
                name = f"GF2_{split}_{number:03d}.tif"
                write_geotiff(root / split / "image" / name, image.astype(np.uint8), nodata=0, **place)
                write_geotiff(root / split / "label" / name, label, **place)

    return write_once(folder, dict(kind="fbp", splits=counts, size=list(size), seed=seed, recipe=1), fill)


def _patches(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Cut a scene into patches round random points, raw labels 0..24, uint8 `[height width]`."""
    points = rng.uniform(0, (height, width), (40, 2))
    values = rng.integers(0, len(CLASSES) + 1, len(points)).astype(np.uint8)
    rows, cols = np.ogrid[:height, :width]
    nearest, distance = np.zeros((height, width), np.intp), np.full((height, width), np.inf)
    for number, (row, col) in enumerate(points):
        here = (rows - row) ** 2 + (cols - col) ** 2
        nearest[here < distance] = number
        distance = np.minimum(distance, here)
    return values[nearest]
