"""Augmentation: one draw a scene, mapped pixel by pixel, so that all regions are slices of the same scene."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from holojax.data.classes import IGNORE
from holojax.data.geometry import ReadLabel, View, Warp, draw_place
from holojax.data.photometry import NO_DISTORTION, Distortion, Shade, draw_keep
from holojax.errors import ConfigError
from holojax.parallel import Window

CROPS = 10  # places that are looked at for one whose classes are mixed enough, as mmseg does
LOOKS = 16  # rows and columns of pixels whose labels are looked at for that
NARROWEST, WIDEST = 0.25, 4.0  # scales: at 1/4 a region reads 16 times its pixels


@dataclasses.dataclass(frozen=True)
class Augment:
    """What may be drawn for a scene.

    Attributes:
        flip: mirror rows and columns, each with probability 1/2.
        rotate: turn by 0, 90, 180 or 270 degrees, equally likely; only by 0 or 180 where a turned window
            would not fit.
        angle: largest free turn beside that, degrees either way.
        scale: smallest and largest factor by which the scene grows, all in between equally likely.
        class_share: of up to `CROPS` crops the first in which no class has a larger share of the labelled pixels that
            are looked at, else the one with the most mixed classes; 1: any crop.
        brightness: largest shift of all values, in the units of the file.
        contrast: largest relative change of the distance to `center`, 0 to 1.
        center: the value that contrast leaves alone, in the units of the file (the data's mean, say).
        distort: changes of colour, for red, green and blue in uint8.
        noise: largest standard deviation of white noise, in standard deviations of each band; 0 to it equally likely.
        band_dropout: probability of each band to be hidden (set to its mean); one always stays.

    Raises:
        ConfigError: a value is not possible; names the key of the configuration.
    """

    flip: bool = True
    rotate: bool = True
    angle: float | int = 0.0
    scale: tuple[float | int, float | int] = (1.0, 1.0)
    class_share: float | int = 1.0
    brightness: float | int = 0.0
    contrast: float | int = 0.0
    center: float | int = 0.0
    distort: Distortion = NO_DISTORTION
    noise: float | int = 0.0
    band_dropout: float | int = 0.0

    def __post_init__(self) -> None:
        checks = {
            "angle": (0 <= self.angle <= 180, "0 to 180 degrees"),
            "scale": (
                NARROWEST <= self.scale[0] <= self.scale[1] <= WIDEST,
                f"(smallest, largest) from {NARROWEST} to {WIDEST}",
            ),
            "class_share": (0 < self.class_share <= 1, "a share above 0, up to 1"),
            "brightness": (0 <= self.brightness < math.inf, "0 or more"),
            "contrast": (0 <= self.contrast < 1, "0 <= contrast < 1"),
            "noise": (0 <= self.noise < math.inf, "0 or more"),
            "band_dropout": (0 <= self.band_dropout < 1, "a probability below 1"),
        }
        for name, (fits, wanted) in checks.items():
            if not fits:
                raise ConfigError(f"augment.{name}: expected {wanted}, found {getattr(self, name)}.")

    def check_images(self, path: str, bands: int, dtype: np.dtype) -> None:
        """Raise a ConfigError if images of these bands and dtype cannot be augmented so; `path` is one to name."""
        if self.distort.probability > 0 and (bands != 3 or dtype != np.uint8):
            raise ConfigError(
                f"augment.distort: expected red, green and blue in uint8, found {bands} band(s) of {dtype} in {path}. "
                f"Set augment.distort.probability to 0; augment.brightness and augment.contrast do for any bands."
            )

    def draw_shade(self, rng: np.random.Generator, shade: float, tone: float, bands: int) -> Shade:
        """Draw what happens to the values of a scene; `shade` and `tone`, 0 to 1, are the draws for gain and offset."""
        gain = 1 + self.contrast * (2 * tone - 1)
        offset = self.center * (1 - gain) + self.brightness * (2 * shade - 1)
        # All are drawn, wanted or not: so switching one on leaves the others as they were.
        distortion, keep = self.distort.draw(rng), draw_keep(rng, bands, self.band_dropout)
        noise, grain = float(self.noise * rng.random()), int(rng.integers(2**32))
        return Shade(
            gain=float(gain),
            offset=float(offset),
            distortion=distortion if self.distort.probability > 0 else None,
            noise=noise if self.noise > 0 else None,
            grain=grain if self.noise > 0 else None,
            keep=keep if self.band_dropout > 0 else None,
        )


NO_AUGMENT = Augment(flip=False, rotate=False)


def draw_view(
    augment: Augment,
    rng: np.random.Generator,
    size: tuple[int, int],
    window: tuple[int, int] | None = None,
    *,
    bands: int = 3,
    read_label: ReadLabel | None = None,
    point: tuple[float, float] | None = None,
) -> View | Warp:
    """Draw one view of a scene of `size` (height, width): a crop of `window`, turned and mirrored.

    Without a window the view is all of the scene, or of its scaled and turned self as much as `size` holds; one larger
    than the scene is cut to it. The same state of `rng`, and the same labels where `class_share` asks for them, give
    the same view.

    Args:
        augment: what may be drawn.
        rng: its state alone decides.
        size: of the scene.
        window: of the crop, height and width, or None.
        bands: of the images.
        read_label: reads a window of the scene's label; needed with `class_share` below 1 and a window. Up to `CROPS`
            times `LOOKS` x `LOOKS` pixels are looked at.
        point: row and column in the scene, pixels, that the crop holds, anywhere in it; None: it lies anywhere.
    """
    rows, cols = window or size
    fits = rows == cols or (window is not None and cols <= size[0] and rows <= size[1])
    transpose, flips = _draw_turn(augment, rng, fits)
    across, down, shade, tone = rng.random(4)
    zoom, lean = rng.random(2)
    scale = augment.scale[0] + (augment.scale[1] - augment.scale[0]) * zoom
    angle = augment.angle * (2 * lean - 1)
    places = [(down, across), *rng.random((CROPS - 1, 2))]
    drawn = augment.draw_shade(rng, float(shade), float(tone), bands)

    def around(place: tuple[float, float], reach: tuple[float | int, ...], slack: int) -> tuple[float, float]:
        return place if point is None or window is None else _around(point, place, reach, size, slack)

    def crop(down: float, across: float) -> View | Warp:
        if scale == 1 and angle == 0:
            reach = (cols, rows) if transpose else (rows, cols)
            return _crop_on_grid(size, reach, transpose, flips, around((down, across), reach, 1), drawn)
        matrix = _matrix(float(scale), float(angle), transpose, flips)
        down, across = around((down, across), tuple((np.abs(matrix) @ (rows, cols)).tolist()), 0)
        seen, center = draw_place(size, (rows, cols), matrix, down, across)
        (a, b), (c, d) = matrix.tolist()
        return Warp(seen, ((a, b), (c, d)), center, size, drawn)

    if augment.class_share == 1 or window is None or read_label is None:
        return crop(down, across)
    best, lowest = crop(down, across), math.inf
    for place in places:
        view = crop(*place)
        share = largest_share(view, size, read_label)
        if share < lowest:
            best, lowest = view, share
        if share <= augment.class_share:
            break
    return best


def largest_share(view: View | Warp, scene: tuple[int, int], read_label: ReadLabel) -> float:
    """Return the share that the most frequent class has of the labelled pixels of a view; infinity without labels.

    Looks at `LOOKS` x `LOOKS` pixels, evenly spread, in full resolution: overviews of labels may hold mixed numbers.
    """
    at = [((2 * np.arange(LOOKS) + 1) * extent) // (2 * LOOKS) for extent in view.size]
    rows, cols = (places.ravel() for places in view.places(*np.meshgrid(*at, indexing="ij")))
    inside = (rows >= 0) & (rows < scene[0]) & (cols >= 0) & (cols < scene[1])
    rows, cols = rows[inside], cols[inside]
    counts = np.zeros(256, np.int64)
    for row in np.unique(rows):
        line = cols[rows == row]
        first = int(line.min())
        labels = read_label(Window(int(row), first, 1, int(line.max()) - first + 1))[0]
        counts += np.bincount(labels[line - first], minlength=256)
    counts[IGNORE] = 0
    return float(counts.max() / counts.sum()) if counts.any() else math.inf


def _draw_turn(augment: Augment, rng: np.random.Generator, fits: bool) -> tuple[bool, tuple[bool, bool]]:
    """Draw whether rows and columns are swapped, which `fits` allows, and which of them are mirrored then."""
    turn, mirror_rows, mirror_cols = (int(rng.integers(n)) for n in (4, 2, 2))
    if not augment.rotate:
        turn = 0
    elif turn % 2 and not fits:
        turn -= 1
    flip_rows = (turn in (1, 2)) != (augment.flip and mirror_rows == 1)
    return turn % 2 == 1, (flip_rows, (turn in (2, 3)) != (augment.flip and mirror_cols == 1))


def _around(
    point: tuple[float, float],
    place: tuple[float, float],
    reach: tuple[float | int, ...],
    size: tuple[int, int],
    slack: int,
) -> tuple[float, float]:
    """Turn where in a crop a point is to lie, 0 to 1 down and across, into where in the scene the crop lies, 0 to 1.

    A crop reaches over so many pixels of the scene; `slack` is 1 where it begins at whole pixels (there is one place
    more than free pixels), else 0. Near the scene's edge the point lies nearer to the crop's.
    """
    shares = []
    for at, share, length, extent in zip(point, place, reach, size, strict=True):
        free = max(extent - length, 0)
        start = min(max(at - share * length, 0), free)
        shares.append(float(start / max(free + slack, 1)))
    return shares[0], shares[1]


def _crop_on_grid(
    scene: tuple[int, int],
    reach: tuple[int, int],
    transpose: bool,
    flips: tuple[bool, bool],
    place: tuple[float, float],
    shade: Shade,
) -> View:
    rows, cols = min(reach[0], scene[0]), min(reach[1], scene[1])
    area = Window(int(place[0] * (scene[0] - rows + 1)), int(place[1] * (scene[1] - cols + 1)), rows, cols)
    return View(area, transpose, *flips, shade)


def _matrix(scale: float, angle: float, transpose: bool, flips: tuple[bool, bool]) -> np.ndarray:
    """Return the map from a step in a view to one in the file: mirrored, transposed, turned, then scaled."""
    turned = np.deg2rad(angle)
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    mirrored = np.diag([-1.0 if flip else 1.0 for flip in flips])
    return turn @ (mirrored[::-1] if transpose else mirrored) / scale
