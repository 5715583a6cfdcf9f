"""Writing our models under the names of published torch code: the way back of `torch_import`."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import safetensors.numpy
from flax import nnx

from holojax.checkpoints.torch_import import named_parameters, table_for
from holojax.errors import WeightsError


def export_weights(module: nnx.Module, path: str | os.PathLike[str], source: str = "rest", *, prefix: str = "") -> None:
    """Write the weights of a module to a .safetensors file under the names of a source.

    What `import_weights` took from a file of that source comes back equal; tensors that it ignored do not. Counters of
    batch norms begin at 0. The file is written beside its place and renamed.

    Args:
        module: a whole model, or an encoder or a decoder alone.
        path: the file; its folder is made.
        source: whose names: a name of `keymaps.SOURCES`.
        prefix: what the names of an encoder or decoder alone begin with ("backbone.", say). A whole model's have those
            of the source.

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
    tensors, nameless = {}, []
    for ours, variable in named_parameters(module).items():
        way = next(table.sources(f"{part}.{ours}" if part else ours), None)
        if way is None:
            nameless.append(ours)
            continue
        keys, transform = way
        parts = np.split(np.asarray(variable[...]), len(keys), axis=-1) if len(keys) > 1 else [variable[...]]
        for key, value in zip(keys, parts, strict=True):
            value = np.asarray(value)
            tensors[key] = transform.save(value)
            if transform.derive is not None:
                tensors[transform.companion(key)] = transform.derive(value)
    if nameless:
        more = f" and {len(nameless) - 5} more" if len(nameless) > 5 else ""
        raise WeightsError(f"export_weights: {source} has no name for {', '.join(nameless[:5])}{more}.")
    if part:
        tensors = {prefix + key.removeprefix(table.parts[part]): value for key, value in tensors.items()}
    _write({key: np.ascontiguousarray(value) for key, value in tensors.items()}, pathlib.Path(path))


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
