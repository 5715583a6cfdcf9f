"""How the names and shapes of torch's layers become ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from holojax.ops.windows import relative_index

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """What is done to one tensor: the shape it gets, and its values.

    `companion` turns the tensor's name into that of a second tensor that `values` needs.
    """

    shape: Callable[[Shape], Shape]
    values: Callable[..., np.ndarray]
    companion: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Rule:
    """One row of a key map: modules of the file whose names match, ours, and what their tensors become.

    `leaves` says for each tensor of such a module what its name is here, and its transform.
    """

    pattern: str
    target: str
    leaves: Mapping[str, tuple[str, Transform]]


@dataclass(frozen=True)
class KeyMap:
    """All rules of a source.

    `parts` gives the prefix of each part's names in the file; `ignored` the names that carry nothing we need,
    as regular expressions, and why.
    """

    rules: tuple[Rule, ...]
    parts: Mapping[str, str]
    ignored: Mapping[str, str] = field(default_factory=dict)

    def find(self, key: str) -> tuple[str, Transform] | None:
        """Return the path of the parameter that `key` fills, and how; None if no rule knows it."""
        module, _, leaf = key.rpartition(".")
        for rule in self.rules:
            match = re.fullmatch(rule.pattern, module)
            if match and leaf in rule.leaves:
                name, transform = rule.leaves[leaf]
                return f"{match.expand(rule.target)}.{name}", transform
        return None

    def part(self, key: str) -> str | None:
        """Return the part that `key` belongs to, by its longest known prefix; None without one."""
        matching = [part for part, prefix in self.parts.items() if key.startswith(prefix)]
        return max(matching, key=lambda part: len(self.parts[part]), default=None)

    def reason(self, key: str) -> str | None:
        """Return why `key` may be ignored, or None."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, key)), None)


def _window_side(rows: int) -> int:
    return (round(rows**0.5) + 1) // 2


def _reorder(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Bring the rows of a bias table from the order of the stored `index` to ours."""
    ours = relative_index(_window_side(len(table)))
    if index.shape != ours.shape or index.min() < 0 or index.max() >= len(table):
        raise ValueError(f"an index of shape {ours.shape} with values below {len(table)}")
    result = np.empty_like(table)
    result[ours] = table[index]
    return result


SAME = Transform(lambda s: s, lambda x: x)
TRANSPOSED = Transform(lambda s: s[::-1], np.transpose)
KERNEL = Transform(lambda s: (s[2], s[3], s[1], s[0]) if len(s) == 4 else s, lambda x: np.transpose(x, (2, 3, 1, 0)))
POINT_KERNEL = Transform(lambda s: (s[1], s[0]) if len(s) == 4 and s[2:] == (1, 1) else s, lambda x: x[:, :, 0, 0].T)
BIAS_TABLE = Transform(lambda s: s, _reorder, lambda key: key.replace("_bias_table", "_index"))

_BIAS = {"bias": ("bias", SAME)}
NORM = {"weight": ("scale", SAME), **_BIAS}
BATCH_NORM = {**NORM, "running_mean": ("mean", SAME), "running_var": ("var", SAME)}
LINEAR = {"weight": ("kernel", TRANSPOSED), **_BIAS}
PACKED_LINEAR = {"in_proj_weight": ("kernel", TRANSPOSED), "in_proj_bias": ("bias", SAME)}
CONV = {"weight": ("kernel", KERNEL), **_BIAS}
POINT_CONV = {"weight": ("kernel", POINT_KERNEL), **_BIAS}
WINDOW_BIAS = {"relative_position_bias_table": ("bias_table", BIAS_TABLE)}
