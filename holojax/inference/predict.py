"""GeoTIFF in, georeferenced class map out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from holojax.config import Section
from holojax.data import ClassTable, SceneReader, load_scene
from holojax.data.bands import Paths
from holojax.data.cache import by_window
from holojax.errors import LayoutError, RasterError
from holojax.inference.geotiff import NODATA, MapWriter
from holojax.models.base import SceneModel
from holojax.models.plans import stage_plans
from holojax.ops.normalize import normalize
from holojax.parallel import DATA, REGION, Layout, RegionShard

# How pixels are read where nothing else is said: the first bands of the file, as they are.
RAW = {
    "bands": None,
    "mean": (0.0,),
    "std": (1.0,),
    "nodata": None,
    "nodata_tolerance": 0,
    "cache": "",
    "class_names": (),
    "palette": (),
}


def predict_scene(
    model: SceneModel,
    source: Paths,
    target: str | os.PathLike[str],
    layout: Layout,
    *,
    data: Section | None = None,
    report: Callable[[str], None] | None = None,
) -> None:
    """Segment one raster as a whole and write its class map.

    Regions are read by windows straight onto their devices and leave them as uint8 classes, one by one: besides the
    model's own work nothing of the scene's size is held.

    Args:
        model: from `build_model`; its grid cuts the scene.
        source: GeoTIFF, PNG or JPEG with the model's bands, or a folder of files that hold its bands.
        target: the GeoTIFF to write: uint8 classes, 255 where the scene has no data, size, CRS and transform of
            `source`. It appears when it is complete; an existing file is replaced.
        layout: the mesh; its `region` axis divides the model's regions. The map does not depend on it.
        data: how pixels become what the model was trained on, the `data` section of its configuration: `bands`,
            `mean`, `std`, `nodata`, `nodata_tolerance`, `cache` (a large PNG or JPEG is converted there once), and
            `class_names` and `palette` for the map. None: the first bands, not normalised.
        report: called with a line of text as each part of the work begins; None: nothing is said.

    Raises:
        RasterError: `source` is missing, damaged or lacks bands, or `target` cannot be written.
        LayoutError: scene, regions and devices do not fit, or there are several processes.
    """
    if jax.process_count() > 1:
        raise LayoutError(
            f"predict_scene writes one file from one process, found {jax.process_count()}. Start it on one host."
        )
    settings = {**RAW, **({} if data is None else dict(data.items()))}
    layout.regions_per_device(model.grid.count)
    say = report or (lambda text: None)
    reader = SceneReader.open(
        _files(source, settings["cache"], say),
        bands=settings["bands"] or tuple(range(model.bands)),
        nodata=settings["nodata"],
        nodata_tolerance=settings["nodata_tolerance"],
    )
    table = ClassTable.complete(model.classes, settings["class_names"], settings["palette"])
    say(f"{source}: {reader.height} x {reader.width} pixels; {layout.describe(model.grid.count)}; reads")
    for one in stage_plans(model, layout, (reader.height, reader.width)):
        say(one.describe())
    with MapWriter.like(target, reader, table) as writer:
        image, valid = load_scene(reader, model.grid, layout)
        graph, state = nnx.split(model)
        state = jax.device_put(nnx.as_pure(state), layout.replicated)
        say("segments the regions")
        pixels = (tuple(settings["mean"]), tuple(settings["std"]))
        classes = _classify(graph, layout, pixels, state, image, valid)
        del image, valid
        jax.block_until_ready(classes)
        say(f"writes {target}")
        for region, part in _regions(classes):
            writer.write(model.grid.window(region, reader.height, reader.width), part)


def _files(source: Paths, cache: str | os.PathLike[str], say: Callable[[str], None]) -> Paths:
    """Return what is read in place of the source, so that windows are cheap."""
    try:
        return by_window(source, cache)
    except RasterError as error:  # the folder may not be ours to write in; a damaged file is found again
        say(f"{error} It is read as it is, which is slow.")
        return source


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _classify(graph: Any, layout: Layout, pixels: tuple, state: Any, image: jax.Array, valid: jax.Array) -> jax.Array:
    def block(state: Any, image: jax.Array, valid: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state)
        classes = model(normalize(image, valid, *pixels), valid, RegionShard(model.grid), output="classes")
        return jnp.where(valid, classes, jnp.uint8(NODATA))

    place = P(DATA, REGION)
    return layout.shard(block, in_specs=(P(), place, place), out_specs=place)(state, image, valid)


def _regions(classes: jax.Array) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the classes [h w] of every region, one at a time on the host."""
    for shard in classes.addressable_shards:
        first = shard.index[1].start or 0
        for local in range(shard.data.shape[1]):
            yield first + local, np.asarray(shard.data[0, local])
