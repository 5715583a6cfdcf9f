"""Bringing published torch weights into our models, strictly: everything fits, or nothing is changed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from holojax.checkpoints.keymaps import SOURCES, KeyMap
from holojax.checkpoints.keymaps.rules import Shape, Transform
from holojax.checkpoints.torch_file import read_weights, unwrap
from holojax.decoders import FCN, Decoder
from holojax.encoders import Encoder
from holojax.errors import ConfigError, WeightsError


@dataclass(frozen=True)
class ImportReport:
    """What an import did with a file.

    Attributes:
        source: name of the key map.
        consumed: names of the file whose values are in the module now.
        ignored: the other names of the file, and why each was left out.
        parameters: numbers that were filled in, running averages not counted.
    """

    source: str
    consumed: tuple[str, ...]
    ignored: Mapping[str, str]
    parameters: int

    def __str__(self) -> str:
        """Say in one line how much was imported and left out."""
        return (
            f"{self.source}: {len(self.consumed)} tensors ({self.parameters:,} parameters) imported, "
            f"{len(self.ignored)} ignored"
        )


def import_weights(
    module: nnx.Module, weights: str | os.PathLike[str] | Mapping[str, Any], source: str = "rest"
) -> ImportReport:
    """Fill a module with published weights, in place.

    Args:
        module: a whole model, or an encoder or a decoder alone (then the file's other parts are ignored).
        weights: a .safetensors or torch file, or a mapping of names to arrays; training checkpoints
            (`state_dict`, `model`, `module.`) are unwrapped.
        source: whose names they are: a name of `keymaps.SOURCES`.

    Returns:
        What was imported and what was left out, with the reason.

    Raises:
        ConfigError: the source is not known.
        WeightsError: the file cannot be read, or a name of it is unknown, a parameter of the module is not
            filled, or a shape differs; all mistakes are listed, and nothing has been changed.
    """
    given = weights if isinstance(weights, Mapping) else read_weights(weights)
    where = "the weights" if isinstance(weights, Mapping) else os.fspath(weights)
    tensors = {key: _array(key, value) for key, value in unwrap(given).items()}
    plan = _Plan(module, {key: value.shape for key, value in tensors.items()}, source)
    plan.check(where)
    values = {}
    for path, (key, transform) in plan.filled.items():
        try:
            values[path] = transform.values(*(tensors[name] for name in plan.read(key, transform)))
        except ValueError as error:
            plan.mistakes.append(f"{transform.companion(key)}: expected {error}")
    plan.check(where)
    for path, value in values.items():
        variable = plan.variables[path]
        variable[...] = jnp.asarray(value, variable.dtype)
    return plan.report()


def check_names(module: nnx.Module, shapes: Mapping[str, Sequence[int]], source: str = "rest") -> ImportReport:
    """Check the names and shapes of a file against a module, without values.

    `module` may be abstract (made under `nnx.eval_shape`), so a model of any size can be checked. Otherwise
    as `import_weights`.
    """
    plan = _Plan(module, {key: tuple(shape) for key, shape in unwrap(shapes).items()}, source)
    plan.check("the names")
    return plan.report()


class _Plan:
    """Which tensor of a file fills which parameter of a module, what is left out, and what does not fit."""

    def __init__(self, module: nnx.Module, shapes: Mapping[str, Shape], source: str):
        if source not in SOURCES:
            raise ConfigError(f"import_weights: unknown source {source!r}; known: {', '.join(SOURCES)}.")
        self.source, self.table = source, SOURCES[source]
        self.variables = _variables(module)
        self.filled: dict[str, tuple[str, Transform]] = {}
        self.ignored: dict[str, str] = {}
        self.mistakes: list[str] = []
        self.parts, self.alone = _parts(module, shapes, self.table)
        self.shapes = shapes
        self.prefix = self._missing_prefix()
        for key in shapes:
            self._place(key)
        for path in sorted(self.variables.keys() - self.filled.keys()):
            self.mistakes.append(f"{path}: found nothing in the file that fills this parameter of the model")

    def read(self, key: str, transform: Transform) -> list[str]:
        """Return the names in the file of the tensors that a transform of `key` takes."""
        return [key] if transform.companion is None else [key, transform.companion(key)]

    def check(self, where: str) -> None:
        """Raise a WeightsError that lists all mistakes, if there are any."""
        if not self.mistakes:
            return
        lines = "\n".join(f"  - {mistake}" for mistake in self.mistakes)
        raise WeightsError(
            f"{where} and the model do not fit each other (source {self.source!r}); nothing was changed. "
            "Build the model with the file's sizes, or name another source. "
            f"{len(self.mistakes)} mistakes:\n{lines}"
        )

    def report(self) -> ImportReport:
        """Return what was, or would be, imported."""
        parameters = sum(math.prod(v.shape) for v in self.variables.values() if isinstance(v, nnx.Param))
        return ImportReport(
            self.source, tuple(sorted(key for key, _ in self.filled.values())), self.ignored, parameters
        )

    def _missing_prefix(self) -> str:
        """Return what to put before every name: a part alone is often saved without its prefix."""
        prefixes = tuple(self.table.parts.values())
        if not self.alone or any(key.startswith(prefixes) for key in self.shapes):
            return ""
        return self.table.parts[self.alone]

    def _place(self, key: str) -> None:
        full = self.prefix + key
        part = self.table.part(full)
        reason = self.table.reason(full)
        if reason is None and part is not None and part not in self.parts:
            reason = f"belongs to the file's {part}, which the module does not have"
        if reason is not None:
            self.ignored[key] = reason
            return
        found = self.table.find(full)
        if found is None:
            self.mistakes.append(f"{key}: unknown name in the file")
            return
        path, transform = found
        if self.alone:
            path = path.partition(".")[2]
        self._fill(key, path, transform)

    def _fill(self, key: str, path: str, transform: Transform) -> None:
        if path not in self.variables:
            self.mistakes.append(f"{key}: the model has no {path}")
            return
        if path in self.filled:
            self.mistakes.append(f"{key}: {path} is filled by {self.filled[path][0]} already")
            return
        expected, found = self.variables[path].shape, transform.shape(self.shapes[key])
        self.filled[path] = (key, transform)
        if expected != found:
            self.mistakes.append(f"{key}: expected shape {expected} (as {path}), found {found}")
        for name in self.read(key, transform)[1:]:
            if name not in self.shapes:
                self.mistakes.append(f"{name}: missing, needed to read {key}")


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Return the parameters and running averages of a module by their dotted paths."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Param | nnx.BatchStat)
    }


def _parts(module: nnx.Module, shapes: Mapping[str, Shape], table: KeyMap) -> tuple[set[str], str | None]:
    """Return the parts of a source that a module has, and the name of the part if it is one alone."""
    if isinstance(module, Encoder):
        return {"encoder"}, "encoder"
    if isinstance(module, Decoder):
        auxiliary = isinstance(module, FCN) and any(table.part(key) == "aux" for key in shapes)
        part = "aux" if auxiliary else "decoder"
        return {part}, part
    if not hasattr(module, "encoder"):
        raise WeightsError(f"import_weights: expected a model, an encoder or a decoder, found {type(module).__name__}.")
    return {part for part in table.parts if getattr(module, part, None) is not None}, None


def _array(key: str, value: Any) -> np.ndarray:
    # A torch tensor: numpy takes none that has a gradient, lies on a device, or is bfloat16.
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    array = np.asarray(value)
    if array.dtype.kind in "OUSMm":
        raise WeightsError(f"{key}: expected an array, found {type(value).__name__}.")
    return array
