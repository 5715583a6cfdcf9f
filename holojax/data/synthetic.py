"""Generated scenes in which a pixel's class depends on the whole scene, written as real GeoTIFFs.

`fields`: fields look the same everywhere; they are irrigated if the scene has pump stations, dry if it has
silos, and the three markers may stand anywhere. A model that sees less than the scene can only guess. The
markers are classes of their own: without that supervision no model learns to tell them apart, and so nothing
at all (measured).

`water`: rivers and lakes have the same colour, texture and width; a river runs from border to border of the
scene, a lake is closed. Extent and connection decide.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Float, UInt8

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.files import write_geotiff, write_once
from holojax.errors import ConfigError

SIZE = 192
PIXEL = 10.0  # metres
CRS = "EPSG:32633"
RECIPE = 1  # raise it when the same seed gives other files

FIELDS = ClassTable(
    ("bare soil", "dry field", "irrigated field", "silo", "pump station"),
    ((190, 170, 140), (230, 200, 60), (40, 150, 60), (60, 60, 220), (220, 50, 50)),
)
WATER = ClassTable(("land", "lake", "river"), ((200, 190, 160), (0, 200, 200), (0, 70, 220)))

Image = Float[np.ndarray, "size size 3"]
Label = UInt8[np.ndarray, "size size"]


def draw_fields(rng: np.random.Generator, size: int, number: int) -> tuple[Image, Label]:
    """Draw one `fields` scene: image float 0..1 (about) and label; scenes of odd `number` are irrigated.

    Same statistics as the trial that showed what attention over the scene is worth: at 192 pixels 6 striped
    fields of 30 to 79 pixels a side and 3 markers of 14 pixels.
    """
    image = rng.normal(0.4, 0.08, (size, size, 3))
    label = np.zeros((size, size), np.uint8)
    irrigated = number % 2
    low, high = min(30, size // 4), min(80, size // 2)
    rows, cols = np.mgrid[:size, :size]
    for _ in range(max(round(6 * size**2 / SIZE**2), 2)):
        h, w = rng.integers(low, high, 2)
        top, left = rng.integers(0, size - h), rng.integers(0, size - w)
        area, angle = np.s_[top : top + h, left : left + w], rng.random() * 6
        stripes = np.sin(0.9 * (cols[area] * np.cos(angle) + rows[area] * np.sin(angle)))
        image[(*area, 1)] += 0.2 + 0.15 * stripes
        label[area] = 1 + irrigated
    side = min(14, size // 4)
    checker = (rows[:side, :side] // 3 + cols[:side, :side] // 3) % 2
    for _ in range(3):
        top, left = rng.integers(0, size - side, 2)
        area = np.s_[top : top + side, left : left + side]
        image[area] = 0.2
        image[(*area, 0 if irrigated else 2)] += 0.7 * checker
        label[area] = 3 + irrigated
    return image, label


def draw_water(rng: np.random.Generator, size: int, number: int) -> tuple[Image, Label]:
    """Draw one `water` scene with at least one river and one lake: image float 0..1 (about) and label."""
    del number
    image = rng.normal(0.4, 0.08, (size, size, 3))
    label = np.zeros((size, size), np.uint8)
    waters = round(5 * size**2 / SIZE**2)
    kinds = [True, False, *(rng.random(max(waters - 2, 0)) < 0.4)]
    for river in kinds:
        for _ in range(50):  # of the places tried, the first that keeps clear of other water
            strip = _strip(rng, size, bool(river))
            if strip is not None and not (_widen(strip, 6) & (label > 0)).any():
                label[strip] = 2 if river else 1
                image[strip] = rng.normal((0.25, 0.25, 0.45), 0.05, (int(strip.sum()), 3))
                break
    return image, label


KINDS: dict[str, tuple[ClassTable, Callable[..., tuple[np.ndarray, np.ndarray]]]] = {
    "fields": (FIELDS, draw_fields),
    "water": (WATER, draw_water),
}


def write_scenes(
    folder: str | os.PathLike[str], kind: str, splits: Mapping[str, int], size: int = SIZE, seed: int = 0
) -> Path:
    """Write generated scenes as `folder/{split}/{image,label}/{split}_000.tif` and return the folder.

    Images are 3 bands uint8 (1..255, nodata 0), labels uint8 with colours, class names and nodata 255, both
    in EPSG:32633 with 10 m pixels. The same arguments give the same bytes. A folder that is complete and made
    with the same arguments is left as it is.

    Args:
        kind: "fields" (5 classes) or "water" (3 classes).
        splits: number of scenes by split.
        size: pixels a side, at least 32 ("water": 64).
        seed: not negative.

    Raises:
        ConfigError: unknown kind, too small a size, or the folder holds something else.
        RasterError: the place is not writable.
    """
    if kind not in KINDS:
        raise ConfigError(f"data.kind: expected one of {', '.join(sorted(KINDS))}, found {kind!r}.")
    smallest = 64 if kind == "water" else 32
    if size < smallest or seed < 0:
        raise ConfigError(
            f"Generated {kind} scenes need size >= {smallest} and seed >= 0; found size {size}, seed {seed}."
        )
    splits = {name: int(count) for name, count in splits.items()}
    table, draw = KINDS[kind]

    def fill(root: Path) -> None:
        for row, (split, count) in enumerate(splits.items()):
            for part in ("image", "label"):
                (root / split / part).mkdir(parents=True)
            for number in range(count):
                # One stream a scene, named by its split: more scenes in one split change no other scene.
                rng = np.random.default_rng((seed, *split.encode(), number))
                image, label = draw(rng, size, number)
                pixels = np.clip(np.round(255 * image), 1, 255).astype(np.uint8)
                west, north = 400_000 + number * size * PIXEL, 5_300_000 - row * size * PIXEL
                place = dict(crs=CRS, transform=rasterio.Affine(PIXEL, 0, west, 0, -PIXEL, north))
                name = f"{split}_{number:03d}.tif"
                write_geotiff(root / split / "image" / name, pixels, nodata=0, **place)
                write_geotiff(root / split / "label" / name, label, nodata=IGNORE, table=table, **place)

    return write_once(folder, dict(kind=kind, splits=splits, size=size, seed=seed, recipe=RECIPE), fill)


def _strip(rng: np.random.Generator, size: int, river: bool) -> Bool[np.ndarray, "size size"] | None:
    """Draw a winding strip of water, from border to border or ending inside; None if that failed."""
    mask = np.zeros((size, size), bool)
    base, phase, swell = rng.uniform(4, 6.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.55)
    margin = 14
    if river:
        along = rng.uniform(0.15, 0.85) * size
        starts = ((-8, along, 90), (size + 7, along, -90), (along, -8, 0), (along, size + 7, 180))
        row, col, degrees = starts[rng.integers(4)]
        heading, steps = np.deg2rad(degrees), 8 * size
    else:
        row, col = rng.uniform(margin + 10, size - margin - 10, 2)
        heading, steps = rng.uniform(0, 2 * np.pi), int(rng.integers(size // 3, size * 5 // 8))
    bend, entered = 0.0, False
    for step in range(steps):
        bend = float(np.clip(0.9 * bend + rng.normal(0, 0.02), -0.04, 0.04))
        heading += bend
        row, col = row + np.sin(heading), col + np.cos(heading)
        radius = base * (1 + swell * np.sin(phase + step / 9))
        inside = -radius <= row < size + radius and -radius <= col < size + radius
        entered |= 0 <= row < size and 0 <= col < size
        if river and entered and not inside:
            return mask if step > 0.7 * size else None
        if not river and not (margin < row < size - margin and margin < col < size - margin):
            break
        _disk(mask, row, col, radius)
    return None if river or mask.sum() < 300 else mask


def _disk(mask: Bool[np.ndarray, "size size"], row: float, col: float, radius: float) -> None:
    size = mask.shape[0]
    top, bottom = max(int(row - radius), 0), min(int(row + radius) + 2, size)
    left, right = max(int(col - radius), 0), min(int(col + radius) + 2, size)
    if top < bottom and left < right:
        rows, cols = np.ogrid[top:bottom, left:right]
        mask[top:bottom, left:right] |= (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


def _widen(mask: Bool[np.ndarray, "size size"], by: int) -> Bool[np.ndarray, "size size"]:
    wide = mask.copy()
    for axis in (0, 1):
        grown = wide.copy()
        for shift in (-by, by):
            grown |= np.roll(wide, shift, axis)
        wide = grown
    return wide
