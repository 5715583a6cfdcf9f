"""Writing our models under the names of published torch code: the way back of `torch_import`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from holojax.checkpoints.fitting import canonical_names, named_parameters
from holojax.checkpoints.torch_file import read_weights, unwrap
from holojax.checkpoints.torch_import import table_for
from holojax.errors import WeightsError


def export_weights(
    module: nnx.Module,
    path: str | os.PathLike[str],
    source: str = "rest",
    *,
    prefix: str = "",
    like: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> None:
    """Write the weights of a module to a .safetensors file under the names of a source.

    What `import_weights` took from a file of that source comes back equal; tensors that it ignored do not, and what it
    resized comes back in its new size. Counters of batch norms begin at 0. The file is written beside its place and
    renamed.

    Args:
        module: a whole model, or an encoder or a decoder alone.
        path: the file; its folder is made.
        source: whose names: a name of `keymaps.SOURCES`.
        prefix: what the names of an encoder or decoder alone begin with ("backbone.", say). A whole model's have those
            of the source.
        like: a file (or its tensors) of that source. Where its files are not all alike, the one that is written follows
            it: names of other versions, prefixes, matrices as 1 x 1 convolutions, whether indices are stored.

    Raises:
        ConfigError: the source is not known, or has no weights of this family of encoders.
        WeightsError: the source has no name for a parameter, or the encoder computes what its weights cannot say there;
            or the file cannot be written.
    """
    table, part = table_for(module, source)
    encoder = getattr(module, "encoder", module if part == "encoder" else None)
    if table.numerics is not None and encoder is not None and encoder.numerics != table.numerics:
        raise WeightsError(
            f"export_weights: the encoder computes as {encoder.numerics!r}, which weights under the names of {source} "
            f"would not mean; export for {encoder.numerics!r}, or train with model.encoder.numerics={table.numerics!r}."
        )
    there = {} if like is None else unwrap(like if isinstance(like, Mapping) else read_weights(like))
    names = dict(canonical_names(there, table, part))  # as the rules have them: as `like` has them
    tensors, nameless = {}, []
    for ours, variable in named_parameters(module).items():
        ways = list(table.sources(f"{part}.{ours}" if part else ours))
        if not ways:
            nameless.append(ours)
            continue
        keys, transform = next((way for way in ways if names.keys() >= set(way[0])), ways[0])
        parts = np.split(np.asarray(variable[...]), len(keys), axis=-1) if len(keys) > 1 else [variable[...]]
        for key, value in zip(keys, map(np.asarray, parts), strict=True):
            tensors[key] = transform.save(value)
            if transform.derive is not None:
                tensors[transform.companion(key)] = transform.derive(value)
    if nameless:
        more = f" and {len(nameless) - 5} more" if len(nameless) > 5 else ""
        raise WeightsError(f"export_weights: {source} has no name for {', '.join(nameless[:5])}{more}.")
    if like is not None:
        tensors = {
            names[key]: _shaped(value, np.shape(there[names[key]])) for key, value in tensors.items() if key in names
        }
    elif part is None:
        tensors = table.as_in_files(tensors)
    else:
        tensors = {prefix + key.removeprefix(table.parts[part]): value for key, value in tensors.items()}
    _write({key: np.asarray(value, order="C") for key, value in tensors.items()}, pathlib.Path(path))


def _shaped(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Give an array the axes of length 1 that it has elsewhere."""
    same = [n for n in value.shape if n > 1] == [n for n in shape if n > 1]
    return value.reshape(shape) if same else value


def _write(tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            safetensors.numpy.save_file(tensors, draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error}).") from error
