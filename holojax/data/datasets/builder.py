"""TFDS builders of the data sets: an index of their scenes, or their pixels as blocks; no TensorFlow is needed.

`index` takes seconds: headers only, pixels stay in the files. `blocks` copies all pixels into array_record. Records are
written one after another in the order of the scenes: TFDS's shuffling writer would gather a whole set in memory.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from holojax.data.blocks import IMAGE, LABEL, SIDE, describe, read_blocks
from holojax.data.datasets.base import SceneFiles, SceneSet, Survey, exists, resolve, verify
from holojax.data.datasets.built import intact, read_table, state_of
from holojax.data.datasets.origin import difference, origin_of
from holojax.data.raster import open_raster
from holojax.errors import ConfigError, HoloJAXError, LabelError, RasterError

INDEX, BLOCKS = "index", "blocks"
_PER_SHARD = 1024  # blocks: below 1 GB each, of three bands of uint8


class SceneBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a data set out of the folder that it was unpacked in (`manual_dir`).

    Args:
        counts: scenes that are expected in each split; None: those published, `{}`: whatever there is.
        codec: of the images' blocks, see `holojax.data.blocks.encode`; labels are always `zstd`.
        settings: those of any TFDS builder: `data_dir`, `config` ("index" or "blocks").

    Called again, `download_and_prepare` leaves what it made of the same files in the same way; an index of others is
    replaced, blocks are not: they may have taken hours.

    Raises, from `download_and_prepare`:
        RasterError: files are missing (all are named) or unreadable, or blocks were made from something else.
        LabelError: a label has another size.
    """

    FACTS: ClassVar[SceneSet]
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.1.0": "Blocks have checksums."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=INDEX, description="Paths, sizes and places of the scenes."),
        tfds.core.BuilderConfig(name=BLOCKS, description=f"Pixels as encoded blocks of {SIDE} x {SIDE}."),
    ]

    def __init__(self, *, counts: Mapping[str, int] | None = None, codec: str = "zstd", **settings: Any) -> None:
        self._counts, self._codec = counts, codec
        super().__init__(**{"file_format": "array_record"} | settings)

    def _info(self) -> tfds.core.DatasetInfo:
        facts = self.FACTS
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{facts.title}. {facts.layout}",
            homepage=facts.url,
            citation=facts.citation,
            features=_index_features() if self.builder_config.name == INDEX else _block_features(),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        raise NotImplementedError("records are written in order by _download_and_prepare")

    def _generate_examples(self) -> Any:
        raise NotImplementedError("records are written in order by _download_and_prepare")

    def download_and_prepare(self, *, download_config: Any = None, **settings: Any) -> None:
        """Build the set, unless that was done of the same files in the same way; arguments are those of TFDS."""
        build = functools.partial(super().download_and_prepare, download_config=download_config, **settings)
        path, manual_dir = Path(self.data_dir), download_config and download_config.manual_dir
        if manual_dir is None or not path.exists():  # without files there is nothing to compare with
            return build()
        *_, origin = self._survey(Path(manual_dir))
        differs = difference(_origin_there(path), origin)
        if not differs:
            return None
        if self.builder_config.name == BLOCKS:
            raise RasterError(f"{path}: blocks are there already, but {differs}. Remove this folder to build anew.")
        logging.info("%s: is replaced, for %s.", path, differs)
        with _set_aside(path):
            return build()

    def _survey(self, folder: Path) -> tuple[SceneSet, Survey, dict[str, Any]]:
        """Return the facts and the scenes of a folder, which must be complete, and what will be made from."""
        facts = resolve(self.FACTS, folder)
        found = verify(facts, folder, self._counts)
        for scene in itertools.chain.from_iterable(found.scenes.values()):
            if scene.image.is_dir():
                raise RasterError(
                    f"{scene.image}: is a folder of bands, which neither index nor blocks hold. Join them first: "
                    f"python scripts/prepare.py convert {folder} OUT; then build OUT."
                )
        codec = self._codec if self.builder_config.name == BLOCKS else ""
        return facts, found, origin_of(folder, found, _class_facts(facts), codec)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        folder = _manual_folder(self.FACTS, download_config.manual_dir)
        facts, found, origin = self._survey(folder)
        if self.builder_config.name == BLOCKS and facts.inspect is not None:
            for line in facts.inspect(folder):
                logging.warning("%s: %s", facts.title, line)
        info = self._info()  # of the folder that is being filled; `self.info` is of the finished one
        writer = tfds.core.SequentialWriter(info, _PER_SHARD, file_format="array_record")
        writer.initialize_splits(sorted(found.scenes))
        write = self._write_index if self.builder_config.name == INDEX else self._write_blocks
        scenes = write(writer, found)
        writer.close_all()
        self.info.set_splits(info.splits)
        self.info.metadata.update(_class_facts(facts), scenes=scenes, made_from=origin)

    def _write_index(self, writer: Any, found: Survey) -> list[dict[str, Any]]:
        for split, scenes in found.scenes.items():
            writer.add_examples({split: [_index_record(split, scene) for scene in scenes]})
        return []

    def _write_blocks(self, writer: Any, found: Survey) -> list[dict[str, Any]]:
        table = []
        for split, scenes in found.scenes.items():
            count = 0
            for scene in tfds.core.utils.tqdm(scenes, desc=f"{split}: scenes", unit=" scenes"):
                entry: dict[str, Any] = dict(name=scene.name, split=split)
                for part, path in ((IMAGE, scene.image), (LABEL, scene.label)):
                    if path is None:
                        continue
                    with open_raster(path) as source:
                        entry[part] = dict(first=count, side=SIDE, **describe(source))
                        for records in read_blocks(source, self._codec if part == IMAGE else "zstd", SIDE):
                            named = [dict(record, scene=scene.name, part=part) for record in records]
                            writer.add_examples({split: named})
                            count += len(records)
                _check_sizes(scene, entry)
                table.append(entry)
        return table


def builder_of(name: str) -> type[SceneBuilder]:
    """Return the builder of a set by the set's name, one of `holojax.data.datasets.SETS`."""
    package = name if importlib.util.find_spec(f"holojax.data.datasets.{name}") else name.rpartition("_")[0]
    module = importlib.import_module(f"holojax.data.datasets.{package}.{package}_dataset_builder")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, SceneBuilder)]
    return next(kind for kind in kinds if getattr(kind, "FACTS", None) is not None and kind.FACTS.name == name)


def build_set(
    name: str,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str = INDEX,
    codec: str = "zstd",
    partial: bool = False,
) -> str:
    """Build a set below `out`, as `index` or as `blocks`, and return the folder to open.

    `folder` holds its files; `partial`: a part of a published set will do.

    Raises:
        RasterError, LabelError: as `SceneBuilder`, or `out` cannot be written. ConfigError: no such codec.
    """
    kind, counts = builder_of(name), {} if partial else None
    manual = tfds.download.DownloadConfig(manual_dir=os.path.abspath(folder))
    there = Path(out) / name / config / str(kind.VERSION)
    try:
        with _damaged(there) if exists(there) else contextlib.nullcontext():
            builder = kind(data_dir=os.fspath(out), config=config, counts=counts, codec=codec)
        builder.download_and_prepare(download_config=manual)
    except HoloJAXError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record, where the disk is full
        raise RasterError(
            f"{out}: the set cannot be built ({error}). Is the disk full, OUT no folder that may be written, or a file "
            f"not readable? Nothing is kept; build again."
        ) from error
    return str(builder.data_dir)


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Name the folder of what was built before where TFDS cannot read it, which fails in many ways."""
    try:
        yield
    except Exception as error:
        raise RasterError(f"{path}: holds a damaged data set ({error}). Remove this folder.") from error


@contextlib.contextmanager
def _set_aside(path: Path) -> Iterator[None]:
    """Move a folder away while it is made anew; it comes back if that fails."""
    aside = path.with_name(f".{path.name}.old")
    if aside.exists():  # of a process that was killed
        shutil.rmtree(aside)
    path.rename(aside)
    try:
        yield
    except BaseException:
        if not path.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside)


def _origin_there(path: Path) -> dict[str, Any] | None:
    """Return what a built set was made from, None where it does not say so or is damaged."""
    with contextlib.suppress(RasterError), intact(path):
        tfds.builder_from_directory(path)
        return read_table(path).get("made_from")
    return None


def _class_facts(facts: SceneSet) -> dict[str, Any]:
    coding = facts.coding
    return dict(
        names=list(facts.classes.names),
        palette=[list(colour) for colour in facts.classes.palette],
        label_map=facts.label_map and {str(raw): target for raw, target in facts.label_map.items()},
        coding=dict(colours=[list(c) for c in coding.colours], threshold=coding.threshold, above=coding.above),
        bands=list(facts.bands),
        mean=list(facts.mean),
        std=list(facts.std),
    )


def _index_features() -> tfds.features.FeaturesDict:
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        dict(
            scene_id=text(),
            split=text(),
            image_path=text(),
            label_path=text(doc="empty where the scene has no label"),
            height=np.int64,
            width=np.int64,
            bands=np.int64,
            dtype=text(),
            crs=text(doc="WKT, empty where the file has none"),
            transform=tfds.features.Tensor(shape=(6,), dtype=np.float64),
            nodata=text(doc="empty where the file has none"),
            image_header=text(doc="JSON: dtypes, nodata, meaning of every band"),
            label_header=text(),
            image_state=text(doc="bytes and time of change when it was indexed"),
            label_state=text(),
        )
    )


def _block_features() -> tfds.features.FeaturesDict:
    data = tfds.features.Tensor(shape=(), dtype=np.object_)  # bytes
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        dict(scene=text(), part=text(), row=np.int64, col=np.int64, pixels=data, mask=data, crc=np.int64)
    )


def _index_record(split: str, scene: SceneFiles) -> dict[str, Any]:
    with open_raster(scene.image) as source:
        facts = describe(source)
        dtype = np.result_type(*source.dtypes).name
    labels = None
    if scene.label is not None:
        with open_raster(scene.label) as source:
            labels = describe(source)
        _check_sizes(scene, {IMAGE: facts, LABEL: labels})
    nodata = facts["nodata"][0]
    return dict(
        scene_id=scene.name,
        split=split,
        image_path=os.fspath(scene.image.absolute()),
        label_path="" if scene.label is None else os.fspath(scene.label.absolute()),
        height=facts["height"],
        width=facts["width"],
        bands=len(facts["dtypes"]),
        dtype=dtype,
        crs=facts["crs"],
        transform=np.array(facts["transform"], np.float64),
        nodata="" if nodata is None else str(nodata),
        image_header=json.dumps(facts),
        label_header="" if labels is None else json.dumps(labels),
        image_state=state_of(scene.image),
        label_state="" if scene.label is None else state_of(scene.label),
    )


def _check_sizes(scene: SceneFiles, entry: Mapping[str, Any]) -> None:
    image, label = entry[IMAGE], entry.get(LABEL)
    if label is not None and (label["height"], label["width"]) != (image["height"], image["width"]):
        raise LabelError(
            f"{scene.label}: expected {image['height']} x {image['width']} pixels (height x width) as its image "
            f"{scene.image}, found {label['height']} x {label['width']}. Resample or replace the label."
        )


def _manual_folder(facts: SceneSet, manual_dir: Any) -> Path:
    if manual_dir is None:
        raise ConfigError(
            f"{facts.title}: say where its files are: "
            f"download_config=tfds.download.DownloadConfig(manual_dir=FOLDER). {facts.instructions()}"
        )
    return Path(manual_dir)
