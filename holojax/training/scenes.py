"""From a configuration to scenes: opened, or made first where a generator is named and nothing is there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from holojax.data import Augment, ClassTable, RasterScenes
from holojax.data.datasets import SETS, fbp, is_built, open_set
from holojax.data.datasets.base import CLASSES_FILE, exists, resolve
from holojax.data.files import RECORD
from holojax.data.fingerprint import fingerprint
from holojax.data.order import ByClass, Order, Uniform
from holojax.data.photometry import Distortion
from holojax.data.pipeline import Skipped
from holojax.data.scenes import OnSkip
from holojax.data.statistics import Statistics, measure
from holojax.data.synthetic import write_scenes
from holojax.errors import ConfigError, RasterError


def open_scenes(cfg: Any, split: str, on_skip: OnSkip | None = None) -> RasterScenes:
    """Open the scenes of a split; headers only.

    `cfg.data.root` is the folder of the set's files, or what the set's TFDS builder made of it, index or blocks.
    Where the folder is missing and `cfg.data.generator` names a generator, the scenes are made first. Classes, and what
    label values mean, are those of the configuration where it says so, else the set's own (of a plain folder: those of
    its classes.json, if there is one). With `cfg.data.on_error="skip"` scenes that cannot be used are left out and
    `on_skip` gets a line for each. Raises RasterError if there are none (says where to get them, which folder to
    fill), ConfigError if the number of classes is another or processes see other scenes, and what the readers raise.
    """
    data = cfg.data
    make_missing_scenes(data)
    if not data.root:
        raise RasterError(
            "data.root: no folder given. Say --config.data.root=FOLDER; it holds {split}/{image,label}/*.tif."
        )
    label_map = None if data.label_map is None else dict(data.label_map)
    settings = {
        "classes": class_table(cfg),
        "bands": data.bands or tuple(range(cfg.model.bands)),
        "label_map": label_map,
        "ignore": data.ignore,
        "nodata": data.nodata,
        "nodata_tolerance": data.nodata_tolerance,
        "cache": data.cache,
        "verify": data.verify,
        "on_skip": skipper(cfg, on_skip),
    }
    built, plain = is_built(data.root), data.name == "folder"
    own = {}
    if plain and not built and exists(Path(data.root) / CLASSES_FILE):
        facts = resolve(SETS["folder"], data.root)
        own = {"classes": facts.classes, "label_map": facts.label_map, "coding": facts.coding}
    if own or built or not plain:  # the set knows its own
        if label_map is None:
            del settings["label_map"]
        if not (data.class_names or data.palette):
            del settings["classes"]
    if built:
        from holojax.data.datasets.built import open_built  # half a second for TFDS, only where it is needed

        scenes = open_built(data.root, split, **settings)
    elif plain:
        scenes = RasterScenes.from_folder(data.root, split, **(own | settings))
    else:
        scenes = open_set(SETS[data.name], data.root, split, **settings)
    if len(scenes.classes) != cfg.model.classes:
        raise ConfigError(
            f"model.classes: {data.name} in {data.root} has {len(scenes.classes)} classes, found {cfg.model.classes}. "
            f"Say model.classes={len(scenes.classes)}, or join classes by data.label_map, data.class_names and "
            f"data.palette."
        )
    check_same_scenes(scenes)
    return scenes


def check_same_scenes(scenes: RasterScenes) -> None:
    """Raise a ConfigError unless all processes see the same scenes: they would draw different ones."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    listed = repr([(scene.name, scene.size, scene.image.bands, str(scene.image.dtype)) for scene in scenes])
    digest = np.frombuffer(hashlib.sha256(listed.encode()).digest(), np.uint8)
    mine = np.concatenate([np.array([len(scenes)], np.int32), digest.astype(np.int32)])
    found = multihost_utils.process_allgather(mine)
    if (found != found[0]).any():
        counts = ", ".join(str(count) for count in found[:, 0])
        raise ConfigError(
            f"{scenes.scene(0).image.path}: processes see other scenes beside it (they have {counts}). Give all hosts "
            f"the same files; with data.on_error='skip' one may have left out what another can read."
        )


def skipper(cfg: Any, on_skip: OnSkip | None) -> OnSkip | None:
    """Return what hears of files that cannot be read; None where they end the run."""
    return (on_skip or Skipped()) if cfg.data.on_error == "skip" else None


def measure_scenes(cfg: Any, scenes: RasterScenes, on_skip: OnSkip | None = None) -> Statistics | None:
    """Measure the scenes where the configuration needs it, and complete its mean and standard deviation.

    Returns None where it needs nothing. What was found is kept beside the data (`cfg.data.cache`). Raises what reading
    raises.
    """
    data = cfg.data
    if data.mean and data.sampling != "classes":
        return None
    found = None
    if jax.process_index() == 0:  # the others find what it keeps, where they share a disk
        found = measure(scenes, cache=data.cache, on_skip=skipper(cfg, on_skip))
    wait_for_all("scenes are measured")
    found = found or measure(scenes, cache=data.cache, on_skip=skipper(cfg, on_skip))
    if not data.mean:
        data.mean, data.std = found.mean, tuple(max(std, 1e-6) for std in found.std)  # a band may be empty
    return found


def order_of(cfg: Any, scenes: RasterScenes, found: Statistics | None) -> Order:
    """Return which scene comes when, as `cfg.data.sampling` says."""
    if cfg.data.sampling == "scenes":
        return Uniform(len(scenes), cfg.seed)
    sizes = [scenes.scene(index).size for index in range(len(scenes))]
    return ByClass(found.cells, found.sides, sizes, cfg.seed)


def data_record(cfg: Any, scenes: RasterScenes) -> dict[str, Any]:
    """Return all that decides, beside its number, which batch comes next: kept in every checkpoint."""
    data = cfg.data
    return {
        "fingerprint": fingerprint(scenes),
        "seed": cfg.seed,
        "batch": data.batch,
        "window": data.window and list(data.window),
        "sampling": data.sampling,
        "augment": json.loads(json.dumps(cfg.augment.to_dict())),
    }


def other_data(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in which way batches will not be those of a run without a break; nothing where they will be."""
    differ = [key for key in now if key in before and before[key] != now[key]]
    if not differ:
        return []
    what = ["files of the scenes" if key == "fingerprint" else f"{key} was {before[key]}" for key in differ]
    return [f"warning: not the data of the run so far ({', '.join(what)}): the result is not that of an unbroken run"]


def class_table(cfg: Any) -> ClassTable:
    """Return names and colours of the classes, numbered and evenly coloured where none are given."""
    return ClassTable.complete(cfg.model.classes, cfg.data.class_names, cfg.data.palette)


def augmentation(cfg: Any) -> Augment:
    """Turn `cfg.augment`, which speaks in fractions, into the units of the files."""
    mean, std = cfg.data.mean, cfg.data.std
    same = dict(cfg.augment.items())
    brightness, distort = same.pop("brightness"), same.pop("distort")
    return Augment(
        **same,
        brightness=brightness * sum(std) / len(std),
        center=sum(mean) / len(mean),
        distort=Distortion(**dict(distort.items())),
    )


def make_missing_scenes(data: Any) -> None:
    """Make the scenes of `cfg.data.generator` in `cfg.data.root`, where nothing is; one process makes them.

    A folder of generated scenes is checked to be of this generator, any other is left alone. Raises
    ConfigError if the generated scenes are not those of the configuration.
    """
    if data.generator is None or not data.root:
        return
    root, make = Path(data.root), data.generate
    splits = {"train": make.train, "val": make.val}
    strange = root.exists() and any(root.iterdir()) and not (root / RECORD).exists()
    if jax.process_index() == 0 and not strange:
        if data.generator == "fbp":
            fbp.stand_in(root, make.seed, splits, (make.size, make.size))
        else:
            write_scenes(root, data.generator, splits, make.size, make.seed)
    wait_for_all("scenes are made")


def wait_for_all(what: str) -> None:
    """Wait until all processes have come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils  # only where several processes share a folder

        multihost_utils.sync_global_devices(what)
