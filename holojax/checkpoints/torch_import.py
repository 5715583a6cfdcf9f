"""Bringing published torch weights into our models, strictly: everything fits, or nothing is changed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from holojax.checkpoints.fitting import ImportReport, Plan, encoder_of, family_of, named_parameters, part_alone
from holojax.checkpoints.keymaps import SOURCES, KeyMap, key_map
from holojax.checkpoints.torch_file import read_weights, unwrap
from holojax.config import nearest
from holojax.decoders import Decoder
from holojax.encoders import Encoder
from holojax.errors import ConfigError, WeightsError

HEADS = ("file", "random")


def import_weights(
    module: nnx.Module,
    weights: str | os.PathLike[str] | Mapping[str, Any],
    source: str = "rest",
    *,
    heads: str = "file",
) -> ImportReport:
    """Fill a module with published weights, in place.

    What weights cannot carry (the epsilon of norms, the order of merged patches, whether maps are normalised) the
    encoder takes over from the source (`Encoder.adopt`), and the report says so. An encoder for another number of bands
    adapts the first convolution as its `bands_init` says; tables of positions are resized as the source's loader does.

    Args:
        module: a whole model, or an encoder or a decoder alone (then the file's other parts are ignored).
        weights: a file, as `torch_file.read_weights` takes it, or a mapping of names to arrays; training checkpoints
            (`state_dict`, `model`, `module.`) are unwrapped.
        source: whose names they are: a name of `keymaps.SOURCES`; "auto" guesses and prints the guess.
        heads: "file": everything is in the file. "random": decoder and auxiliary head keep the weights that they have,
            and so do the mixers if the file has none.

    Returns:
        What came from where, what was resized, and what was left out, with the reason.

    Raises:
        ConfigError: the source is not known, or has no weights of this family of encoders.
        WeightsError: the file cannot be read, or a name of it is unknown, a parameter of the module is not
            filled, or a shape differs; all mistakes are listed, and nothing has been changed.
    """
    given = weights if isinstance(weights, Mapping) else read_weights(weights)
    where = "the weights" if isinstance(weights, Mapping) else os.fspath(weights)
    tensors = {key: _array(key, value) for key, value in unwrap(given).items()}
    plan = _plan(module, tensors, source, heads)
    plan.check(where)
    plan.adopt(module)
    variables = named_parameters(module)
    for path, value in plan.values.items():
        variables[path][...] = jnp.asarray(value, variables[path].dtype)
    return plan.report()


def check_names(
    module: nnx.Module, shapes: Mapping[str, Sequence[int]], source: str = "rest", *, heads: str = "file"
) -> ImportReport:
    """Check the names and shapes of a file against a module, without values.

    `module` may be abstract (made under `nnx.eval_shape`), so a model of any size can be checked. Otherwise
    as `import_weights`.
    """
    # Arrays that take no memory: one number, seen everywhere.
    empty = {key: np.broadcast_to(np.float32(0), tuple(shape)) for key, shape in unwrap(shapes).items()}
    plan = _plan(module, empty, source, heads, values=False)
    plan.check("the names")
    return plan.report()


def guess_source(module: nnx.Module, shapes: Mapping[str, Sequence[int]], heads: str = "file") -> str:
    """Return the source whose names a file has: the one by which the module and the file would fit best.

    Raises WeightsError if no source knows the names.
    """
    empty = {key: np.broadcast_to(np.float32(0), tuple(shape)) for key, shape in shapes.items()}
    plans = {}
    for source in SOURCES:
        if key_map(source, family_of(module)) is not None:
            with contextlib.suppress(ConfigError):  # an encoder that cannot compute as the source does
                plans[source] = _plan(module, empty, source, heads, values=False)
    plans = {source: plan for source, plan in plans.items() if plan.taken}
    if not plans:
        raise WeightsError(
            f"source='auto': the names fit none of {', '.join(SOURCES)} (first: {', '.join(list(shapes)[:3])}). "
            "Is this a checkpoint of this kind of encoder?"
        )
    return min(plans, key=lambda source: len(plans[source].mistakes))


def _plan(module: nnx.Module, tensors: Mapping[str, np.ndarray], source: str, heads: str, values: bool = True) -> Plan:
    if heads not in HEADS:
        raise ConfigError(f"import_weights: heads: expected one of {', '.join(HEADS)}, found {heads!r}.")
    if not isinstance(module, Encoder | Decoder) and not hasattr(module, "encoder"):
        raise WeightsError(f"import_weights: expected a model, an encoder or a decoder, found {type(module).__name__}.")
    if source == "auto":
        source = guess_source(module, {key: value.shape for key, value in tensors.items()}, heads)
        print(f"import_weights: the names look like those of {source!r}", file=sys.stderr)
    table, part = table_for(module, source, tensors)
    if table.variant is not None:
        table = table.variant({name: value.shape for name, value in tensors.items()}, encoder_of(module)) or table
    return Plan(module, tensors, source, table, part, heads, values)


def table_for(module: nnx.Module, source: str, names: Collection[str] = ()) -> tuple[KeyMap, str | None]:
    """Return the names of a source for a module, and which part of a model it is alone (None: it is a whole one).

    Raises:
        ConfigError: the source is not known, or has no weights of this family of encoders.
    """
    if source not in SOURCES:
        raise ConfigError(f"weights: {nearest(source, (*SOURCES, 'auto'), 'source')}")
    family = family_of(module)
    table = key_map(source, family)
    if table is None:
        there = ", ".join(name for name in SOURCES if key_map(name, family)) or "no source"
        raise ConfigError(f"weights: {source} has no names of a {family or 'decoder alone'}; known to: {there}.")
    return table, part_alone(module, table, names)


def _array(key: str, value: Any) -> np.ndarray:
    # A torch tensor: numpy takes none that has a gradient, lies on a device, or is bfloat16.
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    array = np.asarray(value)
    if array.dtype.kind in "OUSMm":
        raise WeightsError(f"{key}: expected an array, found {type(value).__name__}.")
    return array
