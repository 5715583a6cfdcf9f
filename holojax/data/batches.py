"""What one process holds of a batch, in the host's memory: read region by region, in threads or worker processes."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from holojax.data.augment import Augment, draw_view
from holojax.data.classes import IGNORE
from holojax.data.geometry import View, Warp, blank
from holojax.data.open_files import OpenFiles
from holojax.data.order import Order, Pick
from holojax.data.photometry import shade_arrays
from holojax.data.raster import gdal_env
from holojax.data.scenes import OnSkip, skipping
from holojax.data.sweep import cores
from holojax.parallel import RegionGrid, Window

Look = tuple[Any, View | Warp]
"""A scene (with `.size`, `.image`, `.label`), and how it is seen."""

THREADS = 16  # that read, at most

SKIPPED = "skipped"
"""Entry of a host's batch: what could not be read, a line each."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """The batches of a training run: views of scenes, drawn; `looks(step)` is batch number `step`."""

    dataset: Any
    order: Order
    batch: int
    canvas: tuple[int, int]
    window: tuple[int, int] | None
    augment: Augment

    def looks(
        self, step: int, on_skip: OnSkip | None = None, files: OpenFiles | None = None
    ) -> tuple[list[Look], tuple[int, int]]:
        """Return scenes and views of a batch, and the canvas that they are laid on."""
        picks = [self.order.pick(step * self.batch + n) for n in range(self.batch)]
        return [self._look(pick, on_skip, files) for pick in picks], self.canvas

    def _look(self, pick: Pick, on_skip: OnSkip | None, files: OpenFiles | None) -> Look:
        scene = self.dataset.scene(pick.index)
        settings = dict(size=scene.size, window=self.window, bands=len(scene.image.bands), point=pick.point)
        if self.augment.class_share < 1 and self.window is not None:
            with skipping(on_skip), scene.label.session(files) as read_label:
                rng = np.random.default_rng(pick.key)
                return scene, draw_view(self.augment, rng, read_label=read_label, **settings)
        return scene, draw_view(self.augment, np.random.default_rng(pick.key), **settings)


@dataclasses.dataclass(frozen=True)
class Listed:
    """Batches that are all known: the views of each, and its canvas."""

    groups: Sequence[tuple[list[Look], tuple[int, int]]]

    def looks(
        self, step: int, on_skip: OnSkip | None = None, files: OpenFiles | None = None
    ) -> tuple[list[Look], tuple[int, int]]:
        """Return scenes and views of a batch, and the canvas that they are laid on."""
        del on_skip, files  # nothing is read
        return self.groups[step]


@dataclasses.dataclass(frozen=True)
class HostBatches:
    """This process's share of batches, by number: a source for `grain`.

    Batch number `start + i` is a dict of arrays: image `[n h w c]` in the file's dtype (float64 as float32), label
    uint8 and valid bool `[n h w]`, an entry for each of the `n` pairs (scene, region) in `own`; `[b]` arrays of
    `photometry.KINDS` for all scenes; and `SKIPPED`, lines of text.

    Attributes:
        plan: says which views a batch holds.
        grid: cuts the canvas.
        own: pairs (scene, region) that are read, sorted.
        start, count: number of the first batch, and how many there are.
        skip: what cannot be read is not valid, and its labels are ignored, instead of ending in an error.
        side_by_side: as many batches are read at once as there are cores, so that each is decoded in its one thread: an
            eighth less work for the processor.
        files: that stay open from batch to batch.
    """

    plan: Draws | Listed
    grid: RegionGrid
    own: tuple[tuple[int, int], ...]
    start: int = 0
    count: int = sys.maxsize // 2
    skip: bool = False
    side_by_side: bool = False
    files: OpenFiles = dataclasses.field(default_factory=OpenFiles, compare=False, repr=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        failures: list[str] = []
        on_skip = failures.append if self.skip else None
        looks, canvas = self.plan.looks(self.start + number, on_skip, self.files)
        h, w = self.grid.region_size(*canvas)
        first = looks[0][0].image
        dtype = np.dtype(np.float32) if first.dtype == np.float64 else first.dtype  # which JAX would cut in any case
        seen = blank((len(self.own), h, w), len(first.bands), dtype)
        for slot, (scene, view) in enumerate(looks):
            pairs = [(at, region) for at, (own_slot, region) in enumerate(self.own) if own_slot == slot]
            windows = [(at, _clip(self.grid.window(region, *canvas), view.size)) for at, region in pairs]
            parts = [
                (window, tuple(whole[at, : window.height, : window.width] for whole in seen))
                for at, window in windows
                if window.height and window.width
            ]
            with gdal_env(scene.image.path, **({"GDAL_NUM_THREADS": "1"} if self.side_by_side else {})):
                _see(scene, view, parts, self.files, on_skip)
        out: dict[str, Any] = dict(zip(("image", "valid", "label"), seen, strict=True))
        return out | shade_arrays([view.shade for _, view in looks]) | {SKIPPED: "\n".join(failures)}


def _see(
    scene: Any, view: View | Warp, parts: Sequence[tuple[Window, tuple]], files: OpenFiles, on_skip: OnSkip | None
) -> None:
    """Fill each window's arrays with what is seen there; with `on_skip`, those that cannot be read stay blank."""
    waiting = list(parts)
    while waiting:
        count = len(waiting)
        with (
            skipping(on_skip),
            scene.image.session(files) as read_image,
            scene.label.session(files) as read_label,
        ):  # anew after a failure, which closes the files
            while waiting:
                window, seen = waiting.pop(0)
                try:
                    view.look(window, read_image, read_label, seen)
                except BaseException:  # some of its blocks may have been read
                    for whole, nothing in zip(seen, (0, False, IGNORE), strict=True):
                        whole[...] = nothing
                    raise
        if len(waiting) == count:  # it cannot be opened
            return


def host_batches(source: HostBatches, prefetch: int = 1, workers: int = 0) -> Iterator[dict[str, Any]]:
    """Read batches ahead and yield them in order; close the iterator to stop early.

    Args:
        source: of the batches.
        prefetch: batches that are read side by side and wait, at least 1.
        workers: processes that read, each `prefetch / workers` batches, at least one, ahead; 0: threads of this one.

    Raises:
        RasterError, LabelError: a file turns out to be damaged.
    """
    import grain  # takes half a second, and predicting needs none

    ahead = max(prefetch, 1)
    side_by_side = max(workers, min(ahead, THREADS)) >= cores()
    files = OpenFiles()
    dataset = grain.MapDataset.source(dataclasses.replace(source, side_by_side=side_by_side, files=files))
    if workers:
        if not flags.FLAGS.is_parsed():  # grain's workers are told its flags, which only commands parse
            flags.FLAGS.mark_as_parsed()
        each = max(ahead // workers, 1)
        reading = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
        reading = reading.mp_prefetch(options, worker_init_fn=_settle)
    else:
        reading = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=min(ahead, THREADS), prefetch_buffer_size=ahead)
        )
    batches = _read(reading, files, shared=workers > 0)
    atexit.register(_close, weakref.ref(batches))  # before the interpreter takes apart what closing needs
    return batches


def _read(reading: Iterable[dict[str, Any]], files: OpenFiles, shared: bool) -> Iterator[dict[str, Any]]:
    with contextlib.closing(files), contextlib.closing(iter(reading)) as batches:
        for batch in batches:
            # A worker's arrays lie in memory that both share until they are dropped; JAX may keep what it is given.
            yield (
                {name: np.array(x) if isinstance(x, np.ndarray) else x for name, x in batch.items()}
                if shared
                else batch
            )


def _close(reference: weakref.ref) -> None:
    if (batches := reference()) is not None:
        batches.close()


def _settle(number: int, count: int) -> None:
    """Keep a worker process, which computes nothing with JAX, off the accelerators."""
    del number, count
    jax.config.update("jax_platforms", "cpu")


def _clip(window: Window, size: tuple[int, int]) -> Window:
    """Cut a window of the canvas to the view, which may be smaller."""
    top, left = min(window.top, size[0]), min(window.left, size[1])
    return Window(top, left, min(window.height, size[0] - top), min(window.width, size[1] - left))
