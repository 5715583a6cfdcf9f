"""The working directory of a run: its configuration and its checkpoints.

    workdir/config.json            the whole configuration, readable
    workdir/checkpoints/<step>/    model (parameters and statistics), training (the rest) and data (what the next
                                   batch depends on, as JSON), written by orbax

Arrays are stored under their path in the tree ("encoder.stages.0.norm.scale"), so a checkpoint does not
depend on container types. A checkpoint is written beside its place and renamed: killed anywhere, the last
whole one stays.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from flax import nnx

from holojax import config
from holojax.config import Section
from holojax.errors import CheckpointError
from holojax.models import build_model
from holojax.parallel import Layout

Tree = TypeVar("Tree")

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"


def save_config(workdir: str | Path, cfg: Section) -> None:
    """Write the configuration to `workdir/config.json`, all or nothing; the first process writes.

    Raises CheckpointError if the folder cannot be written.
    """
    if jax.process_index():
        return
    path = Path(workdir) / CONFIG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(config.to_json(cfg))
        os.replace(draft, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}). Give another --workdir.") from error


def load_config(workdir: str | Path) -> Any:
    """Read the configuration (a ConfigDict) that a run left in its working directory.

    Raises CheckpointError if there is none.
    """
    path = Path(workdir) / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found, so {workdir} is no working directory of a run. "
            f"Give the --workdir that scripts/train.py was called with."
        )
    return config.from_json(path.read_text())


def load_model(workdir: str | Path, layout: Layout, step: int | None = None) -> tuple[nnx.Module, Any, int]:
    """Build the model of a run with the weights of a checkpoint (the newest by default), on every device.

    Returns the model, ready for use, the run's configuration (a ConfigDict) and the step of the checkpoint.
    Raises CheckpointError if the folder holds none, or one that does not fit.
    """
    cfg = load_config(workdir)
    model = build_model(cfg.model.to_dict(), cfg.seed)
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, constants = (nnx.as_pure(state) for state in states)

    def placed(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.replicated)

    with Store(workdir) as store:
        step = store.latest() if step is None else step
        target = jax.tree.map(placed, {"params": params, "stats": stats})
        weights = store.restore("model", target, step)
    return nnx.merge(graph, weights["params"], weights["stats"], constants), cfg, step


class Store:
    """The checkpoints of one run, the newest `keep` of them; a context manager."""

    def __init__(self, workdir: str | Path, keep: int | None = None):
        self.folder = Path(workdir).absolute() / CHECKPOINTS
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=keep is not None,
            # Arrays are donated to the next step, which could overwrite what is still being written.
            enable_async_checkpointing=False,
            cleanup_tmp_directories=keep is not None,
        )
        handlers: dict[str, Any] = {item: ocp.StandardCheckpointHandler() for item in ("model", "training")}
        handlers["data"] = ocp.JsonCheckpointHandler()
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot be used ({error}). Give another --workdir.") from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, and let go of the folder."""
        self._manager.close()

    def latest(self) -> int | None:
        """Return the step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, model: Any, training: Any = None, data: dict[str, Any] | None = None) -> None:
        """Write two trees of arrays as the checkpoint of `step`; does nothing if that step is there already.

        Without `training` it can be used, but no run can go on from it. `data` is JSON.

        Raises CheckpointError if it cannot be written.
        """
        if step in self._manager.all_steps():
            return
        items = {"model": model} if training is None else {"model": model, "training": training}
        saved: dict[str, Any] = {name: ocp.args.StandardSave(_flat(tree)) for name, tree in items.items()}
        if data is not None:
            saved["data"] = ocp.args.JsonSave(data)
        try:
            self._manager.save(step, args=ocp.args.Composite(**saved), force=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: checkpoint {step} cannot be written ({error}).") from error

    def restore(self, item: str, target: Tree, step: int | None = None) -> Tree:
        """Read `item` ("model" or "training") of a step (the newest by default) into the form of `target`.

        `target` is a tree of arrays or ShapeDtypeStructs with shardings, on any mesh: what is read is bit for
        bit what was saved, placed as `target` says. Raises CheckpointError if there is no checkpoint, or if
        it does not fit.
        """
        step = self.latest() if step is None else step
        there = list(self._manager.all_steps())
        if step is None:
            raise CheckpointError(f"{self.folder}: no checkpoint here. Train first, or give another --workdir.")
        if step not in there:
            raise CheckpointError(f"{self.folder}: no checkpoint {step}; there are {there}.")
        wanted = {path: ocp.utils.to_shape_dtype_struct(leaf) for path, leaf in _flat(target).items()}
        self._check(item, step, wanted)
        found = self._manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(wanted)}))
        leaves = [found[item][path] for path in wanted]
        return jax.tree.unflatten(jax.tree.structure(target), leaves)

    def restore_data(self) -> dict[str, Any]:
        """Return what the newest checkpoint says of the data; nothing where it does not."""
        step = self.latest()
        if step is None or not (self.folder / str(step) / "data").exists():  # written before it was kept, or by hand
            return {}
        return dict(self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"])

    def _check(self, item: str, step: int, wanted: dict[str, Any]) -> None:
        """Compare what is stored with what is wanted, and raise one error that lists the differences."""
        stored = self._manager.item_metadata(step)[item]
        if stored is None:
            raise CheckpointError(f"{self.folder / str(step)}: no {item!r} here; HoloJAX did not write it.")
        stored = {path: tuple(leaf.shape) for path, leaf in dict(stored).items()}
        differences = [f"{path}: not in the checkpoint" for path in wanted if path not in stored]
        differences += [f"{path}: not in the model" for path in stored if path not in wanted]
        differences += [
            f"{path}: expected {leaf.shape}, found {stored[path]}"
            for path, leaf in wanted.items()
            if path in stored and stored[path] != tuple(leaf.shape)
        ]
        if differences:
            raise CheckpointError(
                f"{self.folder / str(step)}: does not fit the model. {_some(differences)}. "
                f"Use the configuration that it was trained with (config.json), or another --workdir."
            )


def _flat(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _some(lines: Sequence[str], most: int = 5) -> str:
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
