"""Scenes on their way to the devices: which views a batch holds, and who reads which windows of them."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from holojax.data.augment import NO_AUGMENT, Augment
from holojax.data.batches import SKIPPED, THREADS, Draws, HostBatches, Listed, Look, host_batches
from holojax.data.geometry import View
from holojax.data.order import Order, Uniform
from holojax.data.photometry import KINDS
from holojax.data.raster import gdal_env
from holojax.data.scenes import OnSkip
from holojax.data.sweep import cores
from holojax.errors import ConfigError, LayoutError, RasterError
from holojax.parallel import Layout, RegionGrid, Window

Batch = dict[str, jax.Array]

ALIGNMENT = 64  # bytes


class Skipped:
    """Counts what could not be read, by what was wrong; give it to a pipeline as `on_skip`.

    Args:
        say: called with each line once, as it comes first.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.say = say
        self.counts: collections.Counter[str] = collections.Counter()

    def __call__(self, line: str) -> None:
        """Count a line."""
        if line not in self.counts:
            self.say(f"skipped: {line}")
        self.counts[line] += 1

    def summary(self) -> str:
        """Return how much was skipped, and a line for each thing that was wrong, the most frequent first."""
        lines = [f"  {count} x {line}" for line, count in self.counts.most_common()]
        return "\n".join([f"skipped {self.counts.total()} windows or scenes that could not be read:", *lines])


def train_batches(
    dataset: Any,
    grid: RegionGrid,
    layout: Layout,
    *,
    batch: int,
    window: tuple[int, int] | None = None,
    augment: Augment = NO_AUGMENT,
    seed: int = 0,
    order: Order | None = None,
    start_step: int = 0,
    prefetch: int = 1,
    workers: int = 0,
    on_skip: OnSkip | None = None,
) -> Iterator[Batch]:
    """Yield training batches without end; batch number `step` depends on `seed`, `order` and `step` alone.

    Every scene comes once an epoch, unless `order` says otherwise, and each time one view of it is drawn, which all its
    regions share. The draw does not depend on the batch it comes in, nor on what was read before, so that every process
    draws the same and a run that goes on needs no state but its step. Each process reads the windows of the regions on
    its own devices, no more; beside them the few labels that `class_share` looks at.

    Args:
        dataset: `len(dataset)`, `dataset.scene(i)` (with `.size`, `.image`, `.label`), `dataset.largest`; see
            `RasterScenes`. With `workers` it travels to them by pickle.
        batch: scenes a batch, a multiple of `layout.data`.
        window: height and width of the crop, None: whole scenes, on a canvas of the dataset's largest height
            and width, so that there is one shape to compile.
        augment: what may be drawn.
        seed: not negative.
        order: which scene comes when; None: `Uniform`.
        start_step: number of the first batch, to go on where a run ended.
        prefetch: batches read ahead.
        workers: processes that read them; 0: threads of this one.
        on_skip: called with a line for each region that cannot be read, which then is not valid; None: that is an
            error.

    Yields:
        image `[b r h w c]` in the file's dtype (float64 as float32), label uint8 `[b r h w]` (255: ignore),
        valid bool `[b r h w]`, gain and offset float32 `[b]`, and the entries of `photometry.KINDS` that `augment` has,
        placed by the layout. Not valid are padding (a view may be smaller than the window), what a turned view shows
        beyond the file, and nodata: there images are 0 and labels are ignored.

    Raises:
        LayoutError: batch, regions or window do not fit the layout or the grid.
        ConfigError: images of this kind cannot be augmented so.
        RasterError, LabelError: from the iterator, when a file turns out to be damaged.
    """
    _check(grid, layout, batch, seed)
    first, canvas = dataset.scene(0).image, tuple(window or dataset.largest)
    _check_canvas(grid, canvas, first.path)
    augment.check_images(first.path, len(first.bands), first.dtype)
    plan = Draws(dataset, order or Uniform(len(dataset), seed), batch, canvas, window, augment)
    own = _own_regions(layout, batch, grid.count)
    source = HostBatches(plan, grid, own, start=start_step, skip=on_skip is not None)
    return _placed(source, layout, batch, prefetch, workers, on_skip)


def eval_batches(
    dataset: Any,
    grid: RegionGrid,
    layout: Layout,
    *,
    batch: int = 1,
    window: tuple[int, int] | None = None,
    prefetch: int = 1,
    workers: int = 0,
    on_skip: OnSkip | None = None,
) -> Iterator[Batch]:
    """Yield every pixel of the dataset once, not augmented, as batches like those of `train_batches`.

    Without a `window`, whole scenes: a batch has the size of its largest scene (with `batch=1`, each scene
    its own size, as `predict_scene` sees it). With one, scenes are cut into windows side by side, the last
    ones padded. A last batch that is not full is filled with empty scenes, in which nothing is valid.

    Raises:
        LayoutError: batch, regions or window do not fit the layout or the grid.
        RasterError: with `on_skip` no scene is left. RasterError, LabelError: from the iterator, when a file turns out
            to be damaged.
    """
    _check(grid, layout, batch)
    scenes = list(map(dataset.scene, range(len(dataset))))
    if window is None and on_skip is not None:
        scenes = [scene for scene in scenes if _fits(grid, scene, on_skip)]
        if not scenes:
            raise RasterError(f"{dataset.scene(0).image.path}: neither this nor another scene can be cut into regions.")
    items = [(scene, view) for scene in scenes for view in _tiles(scene.size, window)]
    groups: list[tuple[list[Look], tuple[int, int]]] = []
    for start in range(0, len(items), batch):
        group = items[start : start + batch]
        scene = group[0][0]
        canvas = tuple(window or map(max, zip(*(view.size for _, view in group), strict=True)))
        _check_canvas(grid, canvas, scene.image.path)
        groups.append((group + [(scene, View(Window(0, 0, 0, 0)))] * (batch - len(group)), canvas))
    own = _own_regions(layout, batch, grid.count)
    source = HostBatches(Listed(groups), grid, own, count=len(groups), skip=on_skip is not None)
    return _placed(source, layout, batch, prefetch, workers, on_skip)


def load_scene(reader: Any, grid: RegionGrid, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """Read one scene for prediction, each process the windows of its own regions.

    The host holds one device's regions at a time, whatever the size of the scene.

    Returns image `[1 r h w c]` in the file's dtype (float64 as float32) and valid bool `[1 r h w]`, placed by
    the layout. `reader` is a `SceneReader`.

    Raises:
        LayoutError: the layout spreads scenes over several devices, or the grid does not fit the layout or
            scene. RasterError: the file is damaged.
    """
    canvas = (reader.height, reader.width)
    _check(grid, layout, 1)
    _check_canvas(grid, canvas, reader.path)
    h, w = grid.region_size(*canvas)
    shape = (1, grid.count, h, w, len(reader.bands))
    dtype = np.dtype(np.float32) if reader.dtype == np.float64 else reader.dtype
    images, valids = [], []
    with gdal_env(reader.path, GDAL_NUM_THREADS=str(min(cores(), THREADS))), reader.session() as read:
        for device, index in layout.scenes.addressable_devices_indices_map(shape).items():
            regions = range(*index[1].indices(grid.count))
            image = _zeros((1, len(regions), h, w, len(reader.bands)), dtype)
            valid = _zeros((1, len(regions), h, w), np.dtype(bool))
            for place, region in enumerate(regions):
                window = grid.window(region, *canvas)
                inside = 0, place, slice(window.height), slice(window.width)
                if dtype == reader.dtype:
                    read(window, out=(image[inside], valid[inside]))
                else:  # values are compared with nodata before they are rounded
                    image[inside], valid[inside] = read(window)
            images.append(jax.device_put(image, device))
            valids.append(jax.device_put(valid, device))
            jax.block_until_ready((images[-1], valids[-1]))  # or the host would hold them all on their way
    return (
        jax.make_array_from_single_device_arrays(shape, layout.scenes, images),
        jax.make_array_from_single_device_arrays(shape[:-1], layout.scenes, valids),
    )


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return zeros whose memory begins where a CPU device takes it for its own: without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _check(grid: RegionGrid, layout: Layout, batch: int, seed: int = 0) -> None:
    """Refuse what does not spread over the devices."""
    if batch < 1 or batch % layout.data:
        raise LayoutError(
            f"A batch of {batch} scene(s) does not spread over {layout.data} devices on the data axis; use a "
            f"multiple of {layout.data}, or a layout with data=1."
        )
    if grid.count % layout.region:
        raise LayoutError(
            f"{grid.rows} x {grid.cols} regions do not spread over {layout.region} devices on the region "
            f"axis; use a number of devices that divides {grid.count}."
        )
    if seed < 0:
        raise ConfigError(f"seed: expected 0 or more, found {seed}.")


def _check_canvas(grid: RegionGrid, canvas: tuple[int, int], path: str) -> None:
    """Refuse a canvas that is too small for the grid; `path` is the file to name."""
    try:
        grid.region_size(*canvas)
    except LayoutError as error:
        raise LayoutError(f"{path}: {error}") from error


def _fits(grid: RegionGrid, scene: Any, on_skip: OnSkip) -> bool:
    """Tell whether a whole scene can be cut, and say so if it cannot."""
    try:
        _check_canvas(grid, scene.size, scene.image.path)
    except LayoutError as error:
        on_skip(str(error))
        return False
    return True


def _tiles(size: tuple[int, int], window: tuple[int, int] | None) -> list[View]:
    height, width = size
    rows, cols = window or size
    return [
        View(Window(top, left, min(rows, height - top), min(cols, width - left)))
        for top in range(0, height, rows)
        for left in range(0, width, cols)
    ]


def _placed(
    source: HostBatches, layout: Layout, batch: int, prefetch: int, workers: int, on_skip: OnSkip | None
) -> Iterator[Batch]:
    """Place batches on the devices, in the consumer's thread: at exit no thread is inside JAX."""
    with contextlib.closing(host_batches(source, prefetch, workers)) as ready:
        for host in ready:
            for line in filter(None, host.pop(SKIPPED).split("\n")):
                on_skip(line)
            yield {
                name: jax.make_array_from_callback(values.shape, layout.per_scene, values.__getitem__)
                if name in KINDS
                else _assemble(values, source, layout, batch)
                for name, values in host.items()
            }


def _own_regions(layout: Layout, batch: int, regions: int) -> tuple[tuple[int, int], ...]:
    """Return the (scene, region) pairs that lie on this process's devices, sorted."""
    shape, found = (batch, regions), set()
    for index in layout.scenes.addressable_devices_indices_map(shape).values():
        slots, places = (range(*part.indices(extent)) for part, extent in zip(index, shape, strict=True))
        found |= set(itertools.product(slots, places))
    return tuple(sorted(found))


def _assemble(values: np.ndarray, source: HostBatches, layout: Layout, batch: int) -> jax.Array:
    """Make the global array `[b r ...]` of the regions that this process holds, `[n ...]`."""
    shape = (batch, source.grid.count, *values.shape[1:])

    def block(index: tuple[slice, ...]) -> np.ndarray:
        slots, regions = (range(*part.indices(extent)) for part, extent in zip(index[:2], shape[:2], strict=True))
        at = [source.own.index(pair) for pair in itertools.product(slots, regions)]
        together = at == list(range(at[0], at[0] + len(at)))
        picked = values[at[0] : at[0] + len(at)] if together else values[at]  # no copy, if it can be
        return picked.reshape(len(slots), len(regions), *shape[2:])

    return jax.make_array_from_callback(shape, layout.scenes, block)
