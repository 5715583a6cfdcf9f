"""How the names and shapes of torch's layers become ours, and back: patterns, written once for both ways."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holojax.ops.windows import relative_index

Shape = tuple[int, ...]
_HOLE = re.compile(r"\{(?:(\d+)\*)?([a-z])([+-]\d+)?\}")


@dataclass(frozen=True)
class Transform:
    """What is done to one tensor of a file, and how it is undone.

    Attributes:
        load: from their array to ours.
        save: from our array to theirs.
        resize: (our array, the shape that the model wants) -> an array of that shape, where the source's own loader
            resizes; None: another shape is a mistake.
        differs: from the shape of our array to what makes it need `resize` though the model's shape may be equal, in
            words; "" if nothing does.
        bands: the third axis of our array holds the bands of an image, which may be adapted.
        companion: from their name to that of a second tensor, which `load` takes too where the file has it, and
            `derive` makes anew from ours.
        derive: from our array to the companion.
    """

    load: Callable[..., np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]
    resize: Callable[[np.ndarray, Shape], np.ndarray | None] | None = None
    differs: Callable[[Shape], str] | None = None
    bands: bool = False
    companion: Callable[[str], str] | None = None
    derive: Callable[[np.ndarray], np.ndarray] | None = None


Leaves = Mapping[str, tuple[str, Transform]]  # their leaf: (our leaf, what becomes of it)


@dataclass(frozen=True)
class Rule:
    """One row of a key map: modules of ours, what they are called in the file, and what their tensors become.

    A name may have holes for numbers: "{s}", in theirs also "{s+1}" or "{2*s+1}". Several names of theirs are packed
    into one of ours along its last axis.
    """

    ours: str
    theirs: str | tuple[str, ...]
    leaves: Leaves

    def sources(self, path: str) -> tuple[list[str], Transform] | None:
        """Return the names of the file that make up our parameter `path`, and how; None if the rule is not for it."""
        module, _, leaf = path.rpartition(".")
        match = re.fullmatch(_as_pattern(self.ours), module)
        if not match:
            return None
        for their_leaf, (our_leaf, transform) in self.leaves.items():
            if our_leaf == leaf:
                names = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
                return [_join(_fill(name, match.groupdict()), their_leaf) for name in names], transform
        return None


@dataclass(frozen=True)
class KeyMap:
    """All rules of a source for one family of encoders, or for other parts.

    Attributes:
        rules: tried in order; the first whose names the file has is taken.
        parts: the prefix of each part's names in the file.
        prefixes: what may stand in a file in place of the encoder's prefix.
        more_parts: further prefixes, and the part that names with them belong to.
        ignored: names of the file that carry nothing we need, as regular expressions, and why.
        refused: names of the file that must not be left out, as regular expressions, and what to do about it.
        numerics: whose details the encoder must compute to mean the same.
        output_norms: whether the source normalises the encoder's maps; a regular expression: if a name of a file fits.
        optional: our parameters that a file may lack, as regular expressions; they keep their values.
        variant: chooses another map by the names and shapes of a file and by the encoder (None: a decoder alone), for
            sources whose files are not all alike; None from it: this one.
    """

    rules: tuple[Rule, ...]
    parts: Mapping[str, str]
    prefixes: tuple[str, ...] = ()
    more_parts: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    numerics: str | None = None
    output_norms: bool | str = True
    optional: tuple[str, ...] = ()
    variant: Callable[[Mapping[str, Shape], Any], KeyMap | None] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: KeyMap) -> KeyMap:
        """Join the rules for two sets of parts; the details of the encoder are those of the first."""
        variant = self.variant and functools.partial(_vary, self.variant, other)
        return KeyMap(
            rules=self.rules + other.rules,
            parts={**other.parts, **self.parts},
            prefixes=self.prefixes,
            more_parts={**other.more_parts, **self.more_parts},
            ignored={**self.ignored, **other.ignored},
            numerics=self.numerics,
            output_norms=self.output_norms,
            optional=self.optional + other.optional,
            variant=variant,
            refused={**self.refused, **other.refused},
        )

    def sources(self, path: str) -> Iterator[tuple[list[str], Transform]]:
        """Yield the ways in which a file may hold our parameter `path`: names, and what becomes of the tensors."""
        found = (rule.sources(path) for rule in self.rules)
        return (source for source in found if source)

    def part(self, key: str) -> str | None:
        """Return the part that `key` belongs to, by its longest known prefix; None without one."""
        prefixes = {prefix: part for part, prefix in self.parts.items()} | self.more_parts
        return prefixes.get(max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None))

    def as_in_files(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Name the tensors of a whole model as files do in which the encoder has another prefix beside this decoder."""
        used = {prefix for prefix, part in self.more_parts.items() if part == "decoder"}
        other = next((prefix for prefix, part in self.more_parts.items() if part == "encoder"), None)
        if other is None or not any(key.startswith(tuple(used)) for key in tensors):
            return dict(tensors)
        own = self.parts["encoder"]
        return {other + key.removeprefix(own) if key.startswith(own) else key: x for key, x in tensors.items()}

    def reason(self, key: str) -> str | None:
        """Return why `key` may be ignored, or None."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, key)), None)

    def advice(self, key: str) -> str:
        """Return what to do where nothing of ours takes `key`; "" if nothing is known."""
        return next((f"; {what}" for pattern, what in self.refused.items() if re.fullmatch(pattern, key)), "")

    def may_lack(self, path: str) -> bool:
        """Say whether a file may lack our parameter `path`."""
        return any(re.fullmatch(pattern, path) for pattern in self.optional)


def _vary(choose: Callable[..., KeyMap | None], other: KeyMap, *args: Any) -> KeyMap | None:
    chosen = choose(*args)
    return None if chosen is None else chosen + other


def _as_pattern(ours: str) -> str:
    """Turn a name of ours into a regular expression with a named group for every hole."""
    return _HOLE.sub(lambda hole: rf"(?P<{hole[2]}>\d+)", ours.replace(".", r"\."))


def _fill(theirs: str, numbers: Mapping[str, str]) -> str:
    def number(hole: re.Match[str]) -> str:
        return str(int(hole[1] or 1) * int(numbers[hole[2]]) + int(hole[3] or 0))

    return _HOLE.sub(number, theirs)


def _join(module: str, leaf: str) -> str:
    return ".".join(name for name in (module, leaf) if name)


def _point(x: np.ndarray) -> np.ndarray:
    """Drop the window of a 1 x 1 convolution."""
    if x.ndim == 4 and x.shape[2:] != (1, 1):
        raise ValueError(f"a 1 x 1 kernel, found {x.shape}")
    return x[:, :, 0, 0] if x.ndim == 4 else x


def check_square(table: np.ndarray) -> np.ndarray:
    """Return a bias table [(2 w - 1)^2, heads] as it is.

    Raises ValueError if no square window has so many rows: what shape of window they belong to, no file says.
    """
    side = round(len(table) ** 0.5)
    if side * side != len(table) or side % 2 == 0:
        raise ValueError(
            f"a table of a square window, (2 w - 1)^2 rows, found {len(table)}; rectangular windows (or tables that "
            "were cut to rectangular maps) are not supported"
        )
    return table


def _reorder(table: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
    """Bring the rows of a bias table from the order of the stored `index` to ours, which is also Microsoft's."""
    check_square(table)
    if index is None:
        return table
    ours = relative_index((round(len(table) ** 0.5) + 1) // 2)
    if index.size != ours.size or index.min() < 0 or index.max() >= len(table):
        raise ValueError(f"an index of shape {ours.shape} with values below {len(table)}")
    result = np.empty_like(table)
    result[ours] = table[index.reshape(ours.shape)]
    return result


def _index_of(table: np.ndarray) -> np.ndarray:
    return np.asarray(relative_index((round(len(table) ** 0.5) + 1) // 2), np.int64)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def window_bias(resize: Callable[[np.ndarray, Shape], np.ndarray] | None = None, *, flat: bool = False) -> Leaves:
    """Return the leaves of a table of relative positions with its index; `flat`: the index has one dimension."""
    return {
        "relative_position_bias_table": (
            "bias_table",
            Transform(
                _reorder,
                _same,
                resize,
                companion=lambda key: key.replace("_bias_table", "_index"),
                derive=(lambda table: _index_of(table).reshape(-1)) if flat else _index_of,
            ),
        )
    }


SAME = Transform(_same, _same)
TRANSPOSED = Transform(np.transpose, np.transpose)
KERNEL = Transform(lambda x: np.transpose(x, (2, 3, 1, 0)), lambda x: np.transpose(x, (3, 2, 0, 1)))
# A batch norm's average comes with a count of batches, which torch's average by momentum does not use.
COUNTED = Transform(
    lambda x, count=None: x,
    _same,
    companion=lambda key: key.replace("running_mean", "num_batches_tracked"),
    derive=lambda mean: np.zeros((), np.int64),
)
STEM_KERNEL = Transform(KERNEL.load, KERNEL.save, bands=True)
POINT_KERNEL = Transform(lambda x: _point(x).T, lambda x: x.T[:, :, None, None])

_BIAS = {"bias": ("bias", SAME)}
NORM: Leaves = {"weight": ("scale", SAME), **_BIAS}
BATCH_NORM: Leaves = {**NORM, "running_mean": ("mean", COUNTED), "running_var": ("var", SAME)}
LINEAR: Leaves = {"weight": ("kernel", TRANSPOSED), **_BIAS}
PACKED_LINEAR: Leaves = {"in_proj_weight": ("kernel", TRANSPOSED), "in_proj_bias": ("bias", SAME)}
CONV: Leaves = {"weight": ("kernel", KERNEL), **_BIAS}
STEM: Leaves = {"weight": ("kernel", STEM_KERNEL), **_BIAS}
POINT_CONV: Leaves = {"weight": ("kernel", POINT_KERNEL), **_BIAS}
# Linear layers are 1 x 1 convolutions in some files (timm's conv_mlp, VMamba's Linear2d); written back they are linear.
ANY_LINEAR: Leaves = {"weight": ("kernel", Transform(POINT_KERNEL.load, TRANSPOSED.save)), **_BIAS}
WINDOW_BIAS: Leaves = window_bias()
