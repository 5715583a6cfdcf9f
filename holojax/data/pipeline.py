"""Scenes on their way to the devices: which views a batch holds, and who reads which windows of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from holojax.data.augment import NO_AUGMENT, Augment, draw_view
from holojax.data.classes import IGNORE
from holojax.data.geometry import View, Warp
from holojax.data.photometry import shade_arrays
from holojax.data.prefetch import Prefetch
from holojax.errors import ConfigError, LayoutError
from holojax.parallel import Layout, RegionGrid, Window

_ORDER, _VIEW = 0, 1  # independent streams of random numbers: the order of scenes, and what is drawn for each

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a batch goes: the grid, the layout, and the canvas (height, width) that the grid cuts."""

    grid: RegionGrid
    layout: Layout
    canvas: tuple[int, int]


def train_batches(
    dataset: Any,
    grid: RegionGrid,
    layout: Layout,
    *,
    batch: int,
    window: tuple[int, int] | None = None,
    augment: Augment = NO_AUGMENT,
    seed: int = 0,
    start_step: int = 0,
    prefetch: int = 1,
) -> Iterator[Batch]:
    """Yield training batches without end; batch number `step` depends on `seed` and `step` alone.

    Every scene comes once an epoch, in an order drawn for the epoch, and each time one view of it is drawn,
    which all its regions share. The draw follows from seed, epoch and the scene's number alone: not from the batch it
    comes in, nor from what was read before, so that every process draws the same and a run that goes on needs no state
    but its step. Each process reads the windows of the regions on its own devices, no more; beside them the few labels
    that `class_share` looks at.

    Args:
        dataset: `len(dataset)`, `dataset.scene(i)` (with `.size`, `.image`, `.label`), `dataset.largest`; see
            `RasterScenes`.
        batch: scenes a batch, a multiple of `layout.data`.
        window: height and width of the crop, None: whole scenes, on a canvas of the dataset's largest height
            and width, so that there is one shape to compile.
        augment: what may be drawn.
        seed: not negative.
        start_step: number of the first batch, to go on where a run ended.
        prefetch: batches read ahead.

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
    first = dataset.scene(0).image
    place = _lay(grid, layout, tuple(window or dataset.largest), first.path)
    augment.check_images(first.path, len(first.bands), first.dtype)

    def read() -> Iterator[Callable[[], Batch]]:
        step = start_step
        while True:
            picks = [_pick(len(dataset), seed, step * batch + slot) for slot in range(batch)]
            scenes = [dataset.scene(index) for _, index in picks]
            rngs = [np.random.default_rng((seed, _VIEW, epoch, index)) for epoch, index in picks]
            views = [_draw(augment, rng, scene, window) for rng, scene in zip(rngs, scenes, strict=True)]
            yield _read_batch(scenes, views, place)
            step += 1

    return _placed(read(), prefetch)


def eval_batches(
    dataset: Any,
    grid: RegionGrid,
    layout: Layout,
    *,
    batch: int = 1,
    window: tuple[int, int] | None = None,
    prefetch: int = 1,
) -> Iterator[Batch]:
    """Yield every pixel of the dataset once, not augmented, as batches like those of `train_batches`.

    Without a `window`, whole scenes: a batch has the size of its largest scene (with `batch=1`, each scene
    its own size, as `predict_scene` sees it). With one, scenes are cut into windows side by side, the last
    ones padded. A last batch that is not full is filled with empty scenes, in which nothing is valid.

    Raises:
        LayoutError: batch, regions or window do not fit the layout or the grid.
        RasterError, LabelError: from the iterator, when a file turns out to be damaged.
    """
    _check(grid, layout, batch)
    items = [(scene, view) for scene in map(dataset.scene, range(len(dataset))) for view in _tiles(scene.size, window)]
    groups = []
    for start in range(0, len(items), batch):
        group = items[start : start + batch]
        scene, views = group[0][0], [view for _, view in group]
        canvas = tuple(window or map(max, zip(*(view.size for view in views), strict=True)))
        place = _lay(grid, layout, canvas, scene.image.path)
        filling = [(scene, View(Window(0, 0, 0, 0)))] * (batch - len(group))
        groups.append((*zip(*group, *filling, strict=True), place))

    def read() -> Iterator[Callable[[], Batch]]:
        for scenes, views, place in groups:
            yield _read_batch(scenes, views, place)

    return _placed(read(), prefetch)


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
    _lay(grid, layout, canvas, reader.path)
    h, w = grid.region_size(*canvas)
    shape = (1, grid.count, h, w, len(reader.bands))
    dtype = np.dtype(np.float32) if reader.dtype == np.float64 else reader.dtype
    images, valids = [], []
    with reader.session() as read:
        for device, index in layout.scenes.addressable_devices_indices_map(shape).items():
            regions = range(*index[1].indices(grid.count))
            image = np.zeros((1, len(regions), h, w, len(reader.bands)), dtype)
            valid = np.zeros((1, len(regions), h, w), bool)
            for place, region in enumerate(regions):
                window = grid.window(region, *canvas)
                inside = 0, place, slice(window.height), slice(window.width)
                image[inside], valid[inside] = read(window)
            images.append(jax.device_put(image, device))
            valids.append(jax.device_put(valid, device))
            jax.block_until_ready((images[-1], valids[-1]))  # or the host would hold them all on their way
    return (
        jax.make_array_from_single_device_arrays(shape, layout.scenes, images),
        jax.make_array_from_single_device_arrays(shape[:-1], layout.scenes, valids),
    )


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


def _lay(grid: RegionGrid, layout: Layout, canvas: tuple[int, int], path: str) -> _Place:
    """Lay a grid on a canvas that is large enough for it; `path` is the file to name if it is not."""
    try:
        grid.region_size(*canvas)
    except LayoutError as error:
        raise LayoutError(f"{path}: {error}") from error
    return _Place(grid, layout, canvas)


def _pick(count: int, seed: int, number: int) -> tuple[int, int]:
    """Return the epoch and the scene that comes `number`-th: each once an epoch."""
    epoch, position = divmod(number, count)
    return epoch, int(np.random.default_rng((seed, _ORDER, epoch)).permutation(count)[position])


def _draw(augment: Augment, rng: np.random.Generator, scene: Any, window: tuple[int, int] | None) -> View | Warp:
    bands = len(scene.image.bands)
    if augment.class_share == 1:
        return draw_view(augment, rng, scene.size, window, bands=bands)
    with scene.label.session() as read_label:
        return draw_view(augment, rng, scene.size, window, bands=bands, read_label=read_label)


def _tiles(size: tuple[int, int], window: tuple[int, int] | None) -> list[View]:
    height, width = size
    rows, cols = window or size
    return [
        View(Window(top, left, min(rows, height - top), min(cols, width - left)))
        for top in range(0, height, rows)
        for left in range(0, width, cols)
    ]


def _read_batch(scenes: Sequence[Any], views: Sequence[View | Warp], place: _Place) -> Callable[[], Batch]:
    """Read this process's regions of a batch, and return a function that places them on the devices.

    Reading happens in the prefetching thread, placing in the consumer's: at exit no thread is inside JAX.
    """
    h, w = place.grid.region_size(*place.canvas)
    shape = (len(scenes), place.grid.count, h, w, len(scenes[0].image.bands))
    parts: dict[str, dict[tuple[int, int], np.ndarray]] = {"image": {}, "label": {}, "valid": {}}
    own = _own_regions(place.layout, shape)
    for slot, (scene, view) in enumerate(zip(scenes, views, strict=True)):
        regions = [region for at, region in own if at == slot]
        if not regions:
            continue
        with scene.image.session() as read_image, scene.label.session() as read_label:
            for region in regions:
                window = _clip(place.grid.window(region, *place.canvas), view.size)
                pixels, valid, label = view.look(window, read_image, read_label)
                key = slot, region
                parts["image"][key] = _pad(_narrow(pixels), h, w, 0)
                parts["valid"][key] = _pad(valid, h, w, False)
                parts["label"][key] = _pad(label, h, w, IGNORE)
    shades = shade_arrays([view.shade for view in views])

    def put() -> Batch:
        out = {
            name: _assemble(part, shape if name == "image" else shape[:-1], place.layout)
            for name, part in parts.items()
        }
        for name, values in shades.items():
            out[name] = jax.make_array_from_callback(values.shape, place.layout.per_scene, values.__getitem__)
        return out

    return put


def _placed(source: Iterator[Callable[[], Batch]], depth: int) -> Iterator[Batch]:
    with Prefetch(source, depth) as ready:
        for put in ready:
            yield put()


def _own_regions(layout: Layout, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the (scene, region) pairs that lie on this process's devices, sorted."""
    found = set()
    for index in layout.scenes.addressable_devices_indices_map(shape).values():
        slots, regions = (range(*part.indices(extent)) for part, extent in zip(index[:2], shape[:2], strict=True))
        found |= {(slot, region) for slot in slots for region in regions}
    return sorted(found)


def _assemble(parts: dict[tuple[int, int], np.ndarray], shape: tuple[int, ...], layout: Layout) -> jax.Array:
    """Make the global array of the regions that this process holds."""

    def block(index: tuple[slice, ...]) -> np.ndarray:
        slots, regions = (range(*part.indices(extent)) for part, extent in zip(index[:2], shape[:2], strict=True))
        out = np.empty((len(slots), len(regions), *shape[2:]), parts[slots[0], regions[0]].dtype)
        for slot, region in itertools.product(slots, regions):
            out[slot - slots.start, region - regions.start] = parts[slot, region]
        return out

    return jax.make_array_from_callback(shape, layout.scenes, block)


def _clip(window: Window, size: tuple[int, int]) -> Window:
    """Cut a window of the canvas to the view, which may be smaller."""
    top, left = min(window.top, size[0]), min(window.left, size[1])
    return Window(top, left, min(window.height, size[0] - top), min(window.width, size[1] - left))


def _pad(array: np.ndarray, height: int, width: int, fill: int | bool) -> np.ndarray:
    rows, cols = height - array.shape[0], width - array.shape[1]
    if not rows and not cols:
        return array
    return np.pad(array, [(0, rows), (0, cols)] + [(0, 0)] * (array.ndim - 2), constant_values=fill)


def _narrow(pixels: np.ndarray) -> np.ndarray:
    """Give up float64, which JAX would cut in any case."""
    return pixels.astype(np.float32) if pixels.dtype == np.float64 else pixels
