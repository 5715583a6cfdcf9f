"""What a set of scenes holds: mean and spread of the bands, and where which classes are; found in one pass by window.

Sums are exact: those of a window are added up as fractions, so nothing depends on the order of the windows, nor on the
number of threads, and 10^10 pixels lose no digit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, Int64, Shaped, UInt8, UInt32

from holojax.data.blocks import SCHEME, spans
from holojax.data.cache import beside
from holojax.data.classes import IGNORE
from holojax.data.files import written_whole
from holojax.data.fingerprint import fingerprint
from holojax.data.raster import is_remote
from holojax.data.scenes import OnSkip, RasterScenes, SceneSource, skipping
from holojax.data.sweep import sweep
from holojax.errors import ConfigError, LabelError, RasterError
from holojax.parallel import Window

RECIPE = 1  # raise it when the same data give other statistics
CELL, CELLS = 256, 64  # smallest side of a cell, pixels; most cells a side


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What was found in scenes.

    Attributes:
        mean, std: of each band over all valid pixels, labelled or not, in the units of the files.
        valid: number of these pixels.
        counts: pixels of each class in each scene, `[scenes classes]`; labelled and valid ones.
        cells: the same in each cell of a coarse grid, `[rows cols classes]` for each scene.
        sides: side of a cell in pixels, for each scene; cells begin at the scene's upper left corner.
        names: of the classes.
        fingerprint: of the data.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    valid: int
    counts: Int64[np.ndarray, "scenes classes"]
    cells: tuple[UInt32[np.ndarray, "_ _ classes"], ...]
    sides: tuple[int, ...]
    names: tuple[str, ...]
    fingerprint: str

    def class_weights(self, kind: str = "inverse") -> tuple[float, ...]:
        """Return a weight for each class, larger for rarer ones; 0 for a class without pixels.

        `inverse`: one over the class's share of the labelled pixels, all divided by their mean over the classes that
        have pixels. `median`: median frequency balancing (Eigen and Fergus, 2015): the median frequency over the
        class's own, where its frequency is its share of the labelled pixels in those scenes that have it.

        Raises:
            ConfigError: another kind. LabelError: no pixel has a class.
        """
        pixels, present = self.counts.sum(0), self.counts > 0
        found = pixels > 0
        if not found.any():
            raise LabelError("Expected labelled pixels to weigh classes by, found none in any scene. Check the labels.")
        weights = np.zeros(len(pixels))
        if kind == "inverse":
            weights[found] = pixels.sum() / pixels[found]
            weights /= weights[found].mean()
        elif kind == "median":
            around = (present * self.counts.sum(1, keepdims=True)).sum(0)
            frequency = pixels[found] / around[found]
            weights[found] = np.median(frequency) / frequency
        else:
            raise ConfigError(f"Class weights: expected 'inverse' or 'median', found {kind!r}.")
        return tuple(weights.tolist())

    def summary(self) -> str:
        """Return mean and std of the bands, and pixels, share and scenes of the classes, as lines for people."""
        pixels, scenes = self.counts.sum(0), (self.counts > 0).sum(0)
        labelled = int(pixels.sum())
        lines = [f"{self.valid:,} valid pixels in {len(self.counts)} scene(s), {labelled:,} labelled"]
        lines += ["", f"{'band':>4} {'mean':>14} {'std':>14}"]
        lines += [f"{band:4} {m:14.6g} {s:14.6g}" for band, (m, s) in enumerate(zip(self.mean, self.std, strict=True))]
        lines += ["", f"{'class':>5} {'pixels':>18} {'share':>9} {'scenes':>7}  name"]
        for number, (name, count, places) in enumerate(zip(self.names, pixels, scenes, strict=True)):
            share = count / labelled if labelled else 0.0
            lines.append(f"{number:5} {count:18,} {share:9.3%} {places:7}  {name}")
        flat = [str(band) for band, spread in enumerate(self.std) if spread == 0]
        if flat:
            lines += ["", f"note: band {', '.join(flat)} has one value everywhere: it says nothing, and cannot be "
                          f"normalised; leave it out"]  # fmt: skip
        return "\n".join(lines)

    def settings(self, kind: str = "inverse") -> str:
        """Return what a configuration should say of these data, a line for each key. Raises as `class_weights`."""
        values = {"data.mean": self.mean, "data.std": self.std, "train.class_weights": self.class_weights(kind)}
        return "\n".join(f"{key}=({', '.join(f'{each:.6g}' for each in row)},)" for key, row in values.items())


def measure(
    scenes: RasterScenes,
    *,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
    on_skip: OnSkip | None = None,
) -> Statistics:
    """Read all scenes once, by window, on all cores, and return what they hold; or what is kept of an earlier time.

    Memory does not grow with the size of a scene. What was found is kept in a file named by the fingerprint of the
    data, so that other data never get it; one that is damaged is made anew, and where none can be written the
    statistics are returned all the same, with a warning. Those of a pass that skipped anything are not kept.

    Args:
        scenes: to be measured, at least one; files or blocks.
        cache: folder that keeps it; "": `.holojax` beside the first image (nothing is kept of remote ones); None:
            nothing is kept.
        progress: whether a bar is shown on a terminal.
        on_skip: called with a line for each window that cannot be read, which then is left out; None: that is an error.

    Raises:
        RasterError: a file is damaged or changed meanwhile, or no pixel of any scene is valid.
        LabelError: a label has a value without a class.
    """
    key = fingerprint(scenes)
    home = _home(scenes, cache)
    path = None if home is None else home / f"statistics.{key[:16]}.{RECIPE}.npz"
    kept = None if path is None else _load(path, scenes, key)
    if kept is not None:
        return kept
    skipped: list[str] = []

    def skip(line: str) -> None:
        skipped.append(line)
        on_skip(line)

    found = _measure(scenes, key, progress, on_skip and skip)
    if fingerprint(scenes) != key:
        raise RasterError(
            f"{scenes.scene(0).image.path} or a file beside it changed while it was measured. Start again when all "
            f"files are complete."
        )
    if path is not None and not skipped:
        _save(path, found)
    return found


def count_classes(scenes: RasterScenes, *, progress: bool = True) -> int:
    """Return one more than the largest class that occurs in the labels; the scenes may be opened with 255 classes.

    Raises:
        LabelError: no pixel has a class. RasterError: a file is damaged.
    """
    highest = max(found for _, found in sweep(scenes, _highest, progress))
    if highest < 0:
        raise LabelError(f"{scenes.scene(0).label.path}: no pixel of this or any other label has a class.")
    return highest + 1


def cell_side(size: tuple[int, int]) -> int:
    """Return the side in pixels of the cells of a scene of `size`: 256, doubled until 64 x 64 cells are enough."""
    side = CELL
    while side * CELLS < max(size):
        side *= 2
    return side


@dataclasses.dataclass(frozen=True)
class _Share:
    """What some windows of a scene hold: valid pixels, sums of values and of squares by band, classes from cell row
    `top` on.
    """

    valid: int
    totals: tuple[Fraction, ...]
    squares: tuple[Fraction, ...]
    top: int
    cells: UInt32[np.ndarray, "rows cols classes"]


def _measure(scenes: RasterScenes, key: str, progress: bool, on_skip: OnSkip | None) -> Statistics:
    sizes, classes = [scenes.scene(index).size for index in range(len(scenes))], len(scenes.classes)
    sides = tuple(map(cell_side, sizes))
    cells = tuple(
        np.zeros((-(-height // side), -(-width // side), classes), np.uint32)
        for (height, width), side in zip(sizes, sides, strict=True)
    )
    valid, totals, squares = 0, [Fraction(0)] * scenes.bands, [Fraction(0)] * scenes.bands
    for index, share in sweep(scenes, functools.partial(_look, classes, on_skip), progress):
        valid += share.valid
        totals = [a + b for a, b in zip(totals, share.totals, strict=True)]
        squares = [a + b for a, b in zip(squares, share.squares, strict=True)]
        cells[index][share.top : share.top + len(share.cells)] += share.cells
    if not valid:
        raise RasterError(
            f"{scenes.scene(0).image.path}: no pixel of this or any other scene is valid. Check the nodata value "
            f"(data.nodata)."
        )
    counts = np.stack([each.sum((0, 1), dtype=np.int64) for each in cells])
    return Statistics(*_mean_and_std(valid, totals, squares), valid, counts, cells, sides, scenes.classes.names, key)


def _mean_and_std(
    valid: int, totals: Sequence[Fraction], squares: Sequence[Fraction]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Turn the sums of values and of squares, exact ones, into mean and standard deviation, each rounded once."""
    mean = tuple(float(total / valid) for total in totals)
    spread = [(valid * square - total**2) / valid**2 for total, square in zip(totals, squares, strict=True)]
    return mean, tuple(math.sqrt(each) for each in spread)


def _look(classes: int, on_skip: OnSkip | None, scene: SceneSource, windows: Sequence[Window]) -> _Share:
    """Read windows that lie side by side or below each other."""
    side, bottom = cell_side(scene.size), windows[-1].top + windows[-1].height
    top = windows[0].top // side
    cells = np.zeros((-(-bottom // side) - top, -(-scene.size[1] // side), classes), np.uint32)
    valid, totals, squares = 0, [Fraction(0)] * len(scene.image.bands), [Fraction(0)] * len(scene.image.bands)
    label_session = contextlib.nullcontext() if scene.label is None else scene.label.session()
    with skipping(on_skip), scene.image.session() as read_image, label_session as read_label:
        for window in windows:
            with skipping(on_skip):
                pixels, inside = read_image(window)
                labels = None if read_label is None else np.where(inside, read_label(window), np.uint8(IGNORE))
                count = int(np.count_nonzero(inside))
                sums = [_band_sums(scene, pixels, inside, band, window) for band in range(pixels.shape[-1])]
                valid += count
                totals = [total + own for total, (own, _) in zip(totals, sums, strict=True)]
                squares = [square + own for square, (_, own) in zip(squares, sums, strict=True)]
                if labels is not None and count:
                    _count(labels, window, side, cells, top)
    return _Share(valid, tuple(totals), tuple(squares), top, cells)


def _band_sums(
    scene: SceneSource, pixels: np.ndarray, inside: np.ndarray, band: int, window: Window
) -> tuple[Fraction, Fraction]:
    try:
        return _sums(pixels[..., band], inside, int(np.count_nonzero(inside)))
    except OverflowError as error:
        raise RasterError(
            f"{scene.image.path}: band {scene.image.bands[band]} holds values too large to be squared "
            f"({np.abs(pixels[..., band]).max():.3g}), in rows from {window.top}, columns from "
            f"{window.left}. If they mean no data, say so in data.nodata."
        ) from error


def _sums(plane: Shaped[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"], count: int) -> tuple[Fraction, Fraction]:
    """Return the sum of the values that are inside, and of their squares; others are 0.

    Exact for integers up to 16 bits. Otherwise in float64 from their mean, so that nothing cancels.
    """
    if plane.dtype.kind in "iu" and plane.dtype.itemsize <= 2:
        wide = plane.astype(np.int32 if plane.dtype.itemsize == 1 else np.int64)
        return Fraction(int(wide.sum(dtype=np.int64))), Fraction(int((wide * wide).sum(dtype=np.int64)))
    if not count:
        return Fraction(0), Fraction(0)
    with np.errstate(over="ignore", invalid="ignore"):  # Fraction says so, of infinity and NaN
        values = plane[inside].astype(np.float64)
        middle = float(values.mean())
        values -= middle
        if not math.isfinite(square := float(values @ values)):
            raise OverflowError(f"a sum of squares of {count} values is {square}")
    rest, center = Fraction(float(values.sum())), Fraction(middle)
    return count * center + rest, Fraction(square) + 2 * center * rest + count * center**2


def _count(labels: UInt8[np.ndarray, "h w"], window: Window, side: int, cells: np.ndarray, top: int) -> None:
    """Add the classes of a window to the cells, the first row of which is row `top` of the scene's."""
    classes = cells.shape[-1]
    for row, _, rows in spans(window.top, window.height, side):
        for col, _, cols in spans(window.left, window.width, side):
            found = np.bincount(labels[rows, cols].ravel(), minlength=classes)[:classes]
            cells[row - top, col] += found.astype(np.uint32)


def _highest(scene: SceneSource, windows: Sequence[Window]) -> int:
    if scene.label is None:
        return -1
    with scene.label.session() as read:
        return max(int(np.max(labels, where=labels != IGNORE, initial=-1))
                   for labels in (read(window).astype(np.int16) for window in windows))  # fmt: skip


def _home(scenes: RasterScenes, cache: str | os.PathLike[str] | None) -> Path | None:
    path = scenes.scene(0).image.path
    if cache is None or cache:
        return None if cache is None else Path(cache)
    if path.startswith(SCHEME):
        return beside(f"{path.removeprefix(SCHEME).partition('#')[0]}/metadata.json")
    return None if is_remote(path) else beside(path)


def _save(path: Path, found: Statistics) -> None:
    arrays = {field: getattr(found, field) for field in ("mean", "std", "valid", "counts", "sides", "fingerprint")}
    arrays["shapes"] = np.array([each.shape for each in found.cells])
    arrays["cells"] = np.concatenate([each.ravel() for each in found.cells])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    except OSError as error:
        logging.warning(
            "%s: the statistics cannot be kept (%s), and will be measured again. Give another folder, or make room.",
            path, error,
        )  # fmt: skip


def _load(path: Path, scenes: RasterScenes, key: str) -> Statistics | None:
    """Return what is kept of the data, or None: nothing, of other data, or damaged."""
    try:
        with open(path, "rb") as file, np.load(file) as kept:  # given a name, it leaves a damaged file open
            arrays = {name: kept[name] for name in kept.files}
        if str(arrays["fingerprint"]) != key:
            return None
        ends = np.cumsum(arrays["shapes"].prod(-1))
        parts = np.split(arrays["cells"], ends[:-1])
        cells = tuple(part.reshape(shape) for part, shape in zip(parts, arrays["shapes"], strict=True))
        mean, std, sides = (tuple(arrays[name].tolist()) for name in ("mean", "std", "sides"))
        return Statistics(
            mean, std, int(arrays["valid"]), arrays["counts"], cells, sides, scenes.classes.names, key
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logging.warning("%s: damaged (%s); the data are measured again.", path, error)
        return None
