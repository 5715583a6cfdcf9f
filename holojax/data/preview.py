"""Contact sheets: scenes with their labels as small pictures, and what the colours mean."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from holojax.data.classes import IGNORE, ClassTable
from holojax.data.files import written_whole
from holojax.data.labels import LabelReader
from holojax.data.scene import SceneReader
from holojax.data.scenes import RasterScenes
from holojax.errors import ConfigError, RasterError

WIDTHS = (6.0, 4.0, 3.0)  # of a picture, inches, with 1, 2 or 3 scenes side by side
DOTS = 120  # an inch
TALLEST = 2.0  # a picture of a scene that is taller than that, over its width, is narrower
LINE, LETTER = 0.2, 0.075  # height of a line of text and width of a letter, inches
LONGEST_NAME = 36  # letters; of longer ones the middle is left out
SQUARE = 12  # side of the squares, pixels, that stand for what is not there
DARK, LIGHT = 0.55, 0.75  # their greys

Picture = Float[np.ndarray, "h w 3"]


def write_preview(path: str | os.PathLike[str], scenes: RasterScenes, *, count: int = 12) -> Path:
    """Draw a contact sheet as a PNG and return its path: `count` scenes, evenly spread over all, each with its label.

    Images are stretched (`draw_image`), labels have the colours of the classes, and grey squares stand for what is not
    valid, or has no label. A legend names all classes. Scenes are read scaled down, in little memory.

    Raises:
        ConfigError: `count` is below 1, or the path is no PNG. RasterError: a scene is damaged, or the place is not
            writable. LabelError: a label has a value without a class.
    """
    path = Path(path)
    if count < 1 or path.suffix.lower() != ".png":
        raise ConfigError(f"Expected at least one scene and a path NAME.png for the preview, found {count} and {path}.")
    picked = np.unique(np.linspace(0, len(scenes) - 1, min(count, len(scenes))).round().astype(int))
    try:
        with written_whole(path) as temporary:
            FigureCanvasAgg(contact_sheet(scenes, picked.tolist())).print_png(temporary)
    except OSError as error:
        raise RasterError(f"{path}: the preview cannot be written ({error}). Choose another path.") from error
    return path


def contact_sheet(scenes: RasterScenes, numbers: Sequence[int]) -> Figure:
    """Draw image and label of some scenes, by their numbers, and the legend; errors as `write_preview`."""
    shown = [scenes.scene(number) for number in numbers]
    columns = min(len(WIDTHS), len(shown))
    rows, width = math.ceil(len(shown) / columns), WIDTHS[columns - 1]
    tall = width * min(max(scene.size[0] / scene.size[1] for scene in shown), TALLEST)
    longest = round(DOTS * max(width, tall))
    across, high = 2 * columns * width, rows * (tall + 3 * LINE)
    sheet, figure = _with_legend(across, high, scenes.classes)
    axes = np.reshape(figure.subplots(rows, 2 * columns), (rows * columns, 2))
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 2.5 * LINE / high, wspace=0.03, hspace=2.5 * LINE / tall)
    for each in axes.ravel():
        each.set_axis_off()
    for (left, right), scene in zip(axes, shown, strict=False):
        name, (height, width) = _short(scene.name), scene.size
        left.imshow(draw_image(scene.image, longest), interpolation="nearest")
        left.set_title(f"{name}\n{width} x {height} (w x h)", fontsize=8)
        right.imshow(draw_label(scene.label, scenes.classes, longest), interpolation="nearest")
        right.set_title(f"{name}\nlabel", fontsize=8)
    return sheet


def draw_image(reader: SceneReader, longest: int) -> Picture:
    """Return a small picture of an image, `[h w 3]`, 0 to 1, at most `longest` pixels a side.

    The first three bands that the reader picks are red, green and blue. One band is grey; of two, as radar has, the
    first is red and blue and the second green, so that what both show alike is grey. Each is stretched from its 2nd to
    its 98th percentile over valid pixels; the others are grey squares. Raises RasterError: the file is damaged.
    """
    pixels, valid = reader.read(shape=_fit(reader.height, reader.width, longest))
    bands = {1: (0, 0, 0), 2: (0, 1, 0)}.get(pixels.shape[-1], (0, 1, 2))
    picture = np.stack([_stretch(pixels[..., band], valid) for band in bands], -1)
    return np.where(valid[..., None], picture, _squares(valid.shape))


def draw_label(reader: LabelReader | None, table: ClassTable, longest: int) -> Picture:
    """Return a small picture of a label in the colours of its classes, as `draw_image`; ignored pixels are squares.

    A scene without label gives one square. Pixels are picked, not averaged. Raises RasterError, LabelError: the file is
    damaged, or has a value without a class.
    """
    if reader is None:
        return _squares((SQUARE, SQUARE))
    labels = reader.read(shape=_fit(reader.height, reader.width, longest))
    colours = np.zeros((256, 3))
    colours[: len(table)] = np.array(table.palette) / 255
    return np.where((labels != IGNORE)[..., None], colours[labels], _squares(labels.shape))


def _with_legend(across: float, high: float, table: ClassTable) -> tuple[Figure, SubFigure]:
    """Return a sheet with the legend of classes at the bottom, and the part above, which is `high` inches."""
    patches = [Patch(facecolor=np.array(colour) / 255, edgecolor="black", label=_short(name))
               for name, colour in zip(table.names, table.palette, strict=True)]  # fmt: skip
    patches.append(Patch(facecolor=(LIGHT,) * 3, edgecolor=(DARK,) * 3, hatch="++", label="no data, or no label"))
    longest = max(len(patch.get_label()) for patch in patches)
    columns = max(min(int(across / (0.6 + LETTER * longest)), len(patches)), 1)
    low = (math.ceil(len(patches) / columns) + 1) * LINE
    sheet = Figure((across, high + low), dpi=DOTS)
    above, below = sheet.subfigures(2, 1, height_ratios=(high, low))
    below.legend(handles=patches, ncols=columns, loc="center", fontsize=8, frameon=False)
    return sheet, above


def _fit(height: int, width: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _stretch(plane: Shaped[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    values = plane.astype(np.float64)
    if not valid.any():
        return values
    low, high = np.percentile(values[valid], (2, 98))
    if high == low:  # of one value: in the middle
        return np.full(plane.shape, 0.5)
    return np.clip((values - low) / (high - low), 0, 1)


def _squares(shape: tuple[int, int]) -> Picture:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    dark = (rows // SQUARE + cols // SQUARE) % 2 == 0
    return np.repeat(np.where(dark, DARK, LIGHT)[..., None], 3, -1)


def _short(text: str) -> str:
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[: half - 2]}...{text[-half + 1 :]}"
