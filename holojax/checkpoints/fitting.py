"""Which tensors of a file fill which parameters of a module: the plan of an import, and what it reports."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from flax import nnx

from holojax.checkpoints.keymaps import KeyMap
from holojax.checkpoints.keymaps.rules import SAME, Shape, Transform
from holojax.decoders import FCN, Decoder, Heads, SETRAux
from holojax.encoders import ENCODERS, Encoder
from holojax.errors import WeightsError

_MOST = 60  # mistakes that are listed one by one


@dataclass(frozen=True)
class ImportReport:
    """What an import did with a file.

    Attributes:
        source: whose names they are.
        taken: for every parameter of the module that was filled, the names in the file that it came from.
        ignored: the other names of the file, and why each was left out.
        kept: parameters of the module that keep their values, and why.
        resized: parameters whose shape was not that of the file, and what was done.
        transposed: parameters whose axes lie in another order here.
        numerics: what the encoder computes as the source does, beyond its weights.
        parameters: numbers that were filled in, running averages not counted.
    """

    source: str
    taken: Mapping[str, tuple[str, ...]]
    ignored: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)
    resized: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    numerics: str = ""
    parameters: int = 0

    @property
    def consumed(self) -> tuple[str, ...]:
        """Names of the file whose values are in the module now."""
        return tuple(sorted(name for names in self.taken.values() for name in names))

    def __str__(self) -> str:
        """Say how much was imported, what was changed on the way, and what was left out."""
        lines = [
            f"{self.source}: {len(self.consumed)} tensors ({self.parameters:,} parameters) imported, "
            f"{len(self.transposed)} of {len(self.taken)} transposed, {len(self.ignored)} ignored"
        ]
        lines += [f"  encoder: {self.numerics}"] if self.numerics else []
        lines += [f"  resized {path}: {what}" for path, what in self.resized.items()]
        for title, reasons in (("ignored", self.ignored), ("kept", self.kept)):
            for why in dict.fromkeys(reasons.values()):
                names = [name for name, reason in reasons.items() if reason == why]
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"  {title} {', '.join(names[:3])}{more}: {why}")
        return "\n".join(lines)


class Plan:
    """Which tensors of a file fill which parameters of a module, what is left out, and what does not fit."""

    def __init__(
        self,
        module: nnx.Module,
        tensors: Mapping[str, np.ndarray],
        source: str,
        table: KeyMap,
        part: str | None,
        heads: str,
        with_values: bool,
    ):
        self.source, self.table, self.heads, self.with_values = source, table, heads, with_values
        self.part = part
        self.names = dict(canonical_names(tensors, table, self.part))  # as the rules have them: as the file has them
        self.tensors = tensors
        # Tried on a copy, which shares the arrays: the module is changed when all fits.
        trial = nnx.merge(*nnx.split(module))
        self.details = self.adopt(trial)
        self.bands_init = getattr(encoder_of(trial), "bands_init", "mean")
        self.variables = named_parameters(trial)
        self.taken: dict[str, tuple[str, ...]] = {}
        self.values: dict[str, np.ndarray] = {}
        self.resized: dict[str, str] = {}
        self.transposed: list[str] = []
        self.kept: dict[str, str] = {}
        self.mistakes: list[str] = []
        self.used: set[str] = set()
        self.there = {part for part in table.parts if self.part == part or getattr(module, part, None) is not None}
        for path in self.variables:
            self._fill(path)
        self.ignored = {}
        for key, name in self.names.items():
            if name not in self.used:
                self._leave_out(key, name)

    def adopt(self, module: nnx.Module) -> str:
        """Let the encoder of a module compute as the source does, and say what that is."""
        encoder, table = encoder_of(module), self.table
        if encoder is None or table.numerics is None:
            return ""
        norms = table.output_norms
        if isinstance(norms, str):
            norms = any(KeyMap(rules=(), parts={}, ignored={norms: "yes"}).reason(key) for key in self.names)
        encoder.adopt(table.numerics, norms)
        return f"numerics={table.numerics!r}, output_norms={norms}"

    def check(self, where: str) -> None:
        """Raise a WeightsError that lists all mistakes, if there are any."""
        if not self.mistakes:
            return
        lines = [f"  - {mistake}" for mistake in self.mistakes[:_MOST]]
        if len(self.mistakes) > _MOST:
            lines.append(f"  ... and {len(self.mistakes) - _MOST} more")
        raise WeightsError(
            f"{where} and the model do not fit each other (source {self.source!r}); nothing was changed. "
            "Build the model with the file's sizes, or name another source. "
            f"{len(self.mistakes)} mistakes:\n" + "\n".join(lines)
        )

    def report(self) -> ImportReport:
        """Return what was, or would be, imported."""
        sizes = (math.prod(v.shape) for p, v in self.variables.items() if p in self.taken and isinstance(v, nnx.Param))
        return ImportReport(
            source=self.source,
            taken=self.taken,
            ignored=self.ignored,
            kept=self.kept,
            resized=self.resized,
            transposed=tuple(self.transposed),
            numerics=self.details,
            parameters=sum(sizes),
        )

    def _fill(self, path: str) -> None:
        """Find what fills a parameter, or say why it keeps its value."""
        full = f"{self.part}.{path}" if self.part else path
        part, shape = full.partition(".")[0], self.variables[path].shape
        if self.heads == "random" and part in ("decoder", "aux", "pyramid"):
            self.kept[path] = "heads='random'"
            return
        ways = list(self.table.sources(full))
        way = next(((keys, transform) for keys, transform in ways if self.names.keys() >= set(keys)), None)
        if way is not None:
            self._take(path, *way)
        elif self.heads == "random" and part == "mixers" and not self._has("mixers"):
            self.kept[path] = "the file has no mixers"
        elif self.table.may_lack(full):
            self.kept[path] = "the file does not have it"
        elif ways:
            missing = [key for key in ways[0][0] if key not in self.names]
            near = [close for key in missing for close in difflib.get_close_matches(key, self.names, 1, 0.8)]
            hint = f"; the nearest name is {self.names[near[0]]}" if near else ""
            expected = ", ".join(self._in_file(key) for key in missing)
            self.mistakes.append(f"{path} {shape}: nothing in the file fills it, expected {expected}{hint}")
        else:
            self.mistakes.append(f"{path} {shape}: nothing in the file fills it; {self.source} has no such parameter")

    def _in_file(self, key: str) -> str:
        """Return how a name of the rules would look in this file."""
        prefix = self.table.parts.get(self.part or "encoder", "")
        renamed = next((name for k, name in self.names.items() if k != name), None)
        if renamed is None or not key.startswith(prefix):
            return key
        canonical = next(k for k, name in self.names.items() if name == renamed)
        return renamed[: len(renamed) - len(canonical.removeprefix(prefix))] + key.removeprefix(prefix)

    def _has(self, part: str) -> bool:
        return any(self.table.part(key) == part for key in self.names)

    def _take(self, path: str, keys: list[str], transform: Transform) -> None:
        expected = self.variables[path].shape
        names = [self.names[key] for key in keys]
        companions = [self.names.get(transform.companion(key)) for key in keys] if transform.companion else []
        companions = [name for name in companions if name]
        self.used.update(names, companions)
        self.taken[path] = (*names, *companions)
        found = [self.tensors[name].shape for name in names]
        try:
            # Without values there is no order to read in a companion.
            value = self._load(names, companions if self.with_values else [], transform)
        except (ValueError, IndexError) as error:
            self.mistakes.append(f"{', '.join(names)}: expected {error}")
            return
        if value.shape != expected or (transform.differs and transform.differs(value.shape)):
            value = self._adapt(path, value, transform, expected)
        if value is None:
            shapes = ", ".join(f"{name} {shape}" for name, shape in zip(names, found, strict=True))
            self.mistakes.append(f"{shapes}: expected shape {expected} here (as {path}){self._advice(path)}")
            return
        if value.ndim > 1 and transform.companion is None and transform.load is not SAME.load:
            self.transposed.append(path)
        if self.with_values:
            self.values[path] = value

    def _load(self, names: list[str], companions: list[str], transform: Transform) -> np.ndarray:
        if companions:
            return transform.load(self.tensors[names[0]], self.tensors[companions[0]])
        parts = [transform.load(self.tensors[name]) for name in names]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _adapt(self, path: str, value: np.ndarray, transform: Transform, shape: Shape) -> np.ndarray | None:
        """Bring an array to another shape where that has a meaning, else return None."""
        if transform.bands and value.ndim == len(shape) and value.shape[:2] + value.shape[3:] == shape[:2] + shape[3:]:
            self.resized[path] = f"from {value.shape[2]} to {shape[2]} bands, bands_init={self.bands_init!r}"
            if self.bands_init == "random":
                return np.asarray(self.variables[path][...]) if self.with_values else np.zeros(shape, np.float32)
            return _other_bands(value, shape[2], self.bands_init)
        if transform.resize is None or value.ndim != len(shape):
            return None
        resized = transform.resize(value, shape)
        if resized is None or resized.shape != shape:
            return None
        what = transform.differs(value.shape) if transform.differs else ""
        self.resized[path] = what or f"from {value.shape} to {shape}, as {self.source} does"
        return resized

    def _leave_out(self, key: str, name: str) -> None:
        part = self.table.part(key)
        if part is not None and part not in self.there:
            reason = f"belongs to the file's {part}, which the module does not have"
        elif self.heads == "random" and part in ("decoder", "aux"):
            reason = "heads='random'"
        else:
            reason = self.table.reason(key) or self.table.reason(name)
        if reason is not None:
            self.ignored[name] = reason
            return
        advice = self.table.advice(key)
        self.mistakes.append(f"{name} {self.tensors[name].shape}: the model has nothing that this fills{advice}")

    def _advice(self, path: str) -> str:
        if "classifier" not in path:
            return ""
        return (
            ". A head for other classes: build the model with as many classes as the file has, "
            "or keep a new head by heads='random'"
        )


def _other_bands(kernel: np.ndarray, bands: int, way: str) -> np.ndarray:
    """Return a kernel [h w i o] for another number of bands whose sum over them is the same."""
    given = kernel.shape[2]
    if way == "first":
        result = np.zeros((*kernel.shape[:2], bands, kernel.shape[3]), kernel.dtype)
        result[:, :, : min(bands, given)] = kernel[:, :, :bands]
        return result
    share = np.float32(given / bands)
    if way == "repeat":
        return kernel[:, :, np.arange(bands) % given] * share
    return np.repeat(kernel.mean(2, keepdims=True), bands, axis=2) * share


def canonical_names(names: Collection[str], table: KeyMap, part: str | None) -> Iterator[tuple[str, str]]:
    """Yield the names as the rules have them, and as the file has them: a part's prefix may differ or be missing."""
    part = part or "encoder"
    prefix = table.parts.get(part, "")
    found = ""
    if prefix and not any(name.startswith(prefix) for name in names):
        others = [other for name, other in table.parts.items() if name != part and other]
        found = next((p for p in table.prefixes if p and any(name.startswith(p) for name in names)), "")
        for name in names:
            # Without a prefix, names are the part's unless another prefix says whose they are.
            inside = name.startswith(found) and not any(name.startswith(other) for other in others)
            inside = inside and (bool(found) or table.part(name) is None)
            yield (prefix + name.removeprefix(found) if inside else name), name
        return
    yield from ((name, name) for name in names)


def named_parameters(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Return the parameters and running averages of a module by their dotted paths."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Param | nnx.BatchStat)
    }


def encoder_of(module: nnx.Module) -> Encoder | None:
    """Return the encoder of a whole model, or the module itself if it is one; else None."""
    return module if isinstance(module, Encoder) else getattr(module, "encoder", None)


def family_of(module: nnx.Module) -> str | None:
    """Return the name of the encoder's family; None for a decoder alone."""
    encoder = encoder_of(module)
    return next((name for name, kind in ENCODERS.items() if isinstance(encoder, kind)), None)


def part_alone(module: nnx.Module, table: KeyMap, names: Collection[str]) -> str | None:
    """Return the part that a module is, or None if it is a whole model."""
    if isinstance(module, Encoder):
        return "encoder"
    if isinstance(module, Decoder):
        auxiliary = isinstance(module, FCN | SETRAux | Heads) and any(table.part(key) == "aux" for key in names)
        return "aux" if auxiliary else "decoder"
    return None
