"""One pass over all pixels of a set of scenes, by window, on all cores."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from holojax.data.cache import WHOLE_ONLY
from holojax.data.raster import open_raster
from holojax.data.scenes import RasterScenes, SceneSource
from holojax.parallel import Window

READ = 1024  # side of the windows that are read, pixels


def sweep(
    scenes: RasterScenes, work: Callable[[SceneSource, Sequence[Window]], Any], progress: bool = True
) -> Iterator[tuple[int, Any]]:
    """Do `work` on all windows of all scenes, in threads, and yield what it gives with the number of the scene.

    Windows are some of a scene that lie side by side or below each other, in the order in which they should be read.
    Results come in order, scene by scene from top to bottom; the first error ends it. A bar is shown on a terminal.
    """
    pixels = sum(math.prod(scenes.scene(index).size) for index in range(len(scenes)))
    bar = tqdm(desc="measures", total=pixels, unit="pixels", unit_scale=True, disable=None if progress else True)
    with bar, ThreadPoolExecutor(cores(), "holojax-sweep") as pool:
        try:
            waiting = [
                (index, sum(window.height * window.width for window in windows), pool.submit(work, scene, windows))
                for index, scene in ((index, scenes.scene(index)) for index in range(len(scenes)))
                for windows in _windows(scene)
            ]
            for index, size, future in waiting:
                yield index, future.result()
                bar.update(size)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or what is left would be read before the error is seen
            raise


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _windows(scene: SceneSource) -> Iterator[list[Window]]:
    """Yield the windows of a scene, those together that one thread should read: as its blocks lie in the file."""
    height, width = scene.size
    paths = [scene.image.path, *([] if scene.label is None else [scene.label.path])]
    with open_raster(paths[0]) as source:
        rows, cols = source.block_shapes[0]
    tall, wide = READ // rows * rows or READ, READ // cols * cols or READ
    if cols >= width > READ:  # strips: whole lines
        lines = max(READ**2 // width, 1)
        tall, wide = lines // rows * rows or lines, width
    strips = [
        [Window(top, left, min(tall, height - top), min(wide, width - left)) for left in range(0, width, wide)]
        for top in range(0, height, tall)
    ]
    if any(path.lower().endswith(WHOLE_ONLY) for path in paths):  # one stream of pixels, which is read once from above
        strips = [[window for strip in strips for window in strip]]
    yield from strips
