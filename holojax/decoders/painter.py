"""From a decoder's answer to scores of every pixel, row block by row block, so that they need never exist whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from holojax.borders import Borders
from holojax.decoders.prediction import Dense, Prediction
from holojax.ops.varying import vary
from holojax.types import Float

# Numbers of a map of scores (or of masks) that are painted at a time: 8 MiB.
NUMBERS = 1 << 21

# f(logits [n i W k], *rows of maps [n i W]) -> a tree of arrays
RowsFunction = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Painter:
    """An answer and what it takes to paint it.

    Attributes:
        answer: of a decoder.
        size: rows and columns of a region in pixels.
        borders: what a region sees beyond its edge when a map is resized.
    """

    answer: Prediction
    size: tuple[int, int]
    borders: Borders

    def whole(self) -> Float[jax.Array, "n H W k"]:
        """Return float32 scores of all pixels: logits, or those of queries."""
        if isinstance(self.answer, Dense):
            return self.borders.resize(self.answer.towards(self.size, self.borders).source, self.size)
        return self.map_rows(lambda scores: scores)

    def logits(self) -> Float[jax.Array, "n H W k"]:
        """Return the whole map of what losses take: the logarithm of probabilities, up to a constant."""
        return self._map_rows(lambda answer, rows: answer.logits(rows))

    def map_rows(self, f: RowsFunction, *maps: jax.Array) -> Any:
        """Apply f(scores, *rows) to blocks of rows; return its results [m i ...] joined to maps [n H ...]."""
        return self._map_rows(lambda answer, rows, *others: f(answer.paint(rows), *others), *maps)

    def sum_rows(self, f: RowsFunction, *maps: jax.Array | None) -> Any:
        """Add up f(logits, *rows) over blocks of rows.

        For the gradient nothing of a block is kept, it is painted again. `maps` [n H W] are cut into the same rows; the
        last block is filled up with rows that `f` has to tell by them. None stays None.
        """
        cut = self._blocks(maps)

        @jax.checkpoint
        def block(number: jax.Array, rows: Any, *others: jax.Array | None) -> Any:
            answer = self.answer.of_region(number, cut.regions)
            return f(answer.logits(cut.draw(rows)), *others)

        first = jax.tree.map(lambda x: x[0], cut.arrays)
        if len(cut.arrays[0]) == 1:
            return block(*first)
        total = jax.tree.map(_zeros, jax.eval_shape(block, *first))
        return lax.scan(lambda total, now: (jax.tree.map(jnp.add, total, block(*now)), None), total, cut.arrays)[0]

    def _map_rows(self, f: RowsFunction, *maps: jax.Array) -> Any:
        cut = self._blocks(maps)

        def block(now: Any) -> Any:
            number, rows, *others = now
            return f(self.answer.of_region(number, cut.regions), cut.draw(rows), *others)

        found = lax.map(block, cut.arrays)
        return jax.tree.map(lambda x: _join(x, len(self.answer.source), self.size[0]), found)

    def _blocks(self, maps: tuple[jax.Array | None, ...]) -> _Blocks:
        """Cut all that is painted into blocks: rows of one region, or several regions that are small."""
        source, (height, width) = self.answer.towards(self.size, self.borders).source, self.size
        n, numbers = len(source), width * source.shape[-1]
        regions = max(1, min(n, NUMBERS // (height * numbers)))
        regions = max(count for count in range(1, regions + 1) if n % count == 0)
        rows = min(height, max(1, NUMBERS // numbers))
        (pieces, low, part), draw = self.borders.row_blocks(source, self.size, rows)
        groups, count = n // regions, len(pieces)
        pieces = _grouped(pieces, regions)
        low, part = (jnp.tile(x, (groups, 1)) for x in (low, part))
        others = (None if x is None else _grouped(_cut(x, rows), regions) for x in maps)
        number = jnp.repeat(jnp.arange(groups) * regions, count)
        return _Blocks((number, (pieces, low, part), *others), draw, regions)


class _Blocks(NamedTuple):
    """What a scan over blocks runs over, and how a block's rows of the source are drawn."""

    arrays: tuple[Any, ...]  # number of the first region, what `draw` takes, rows of maps; block by block
    draw: Callable[[Any], jax.Array]
    regions: int  # of a block


def _grouped(blocks: jax.Array, regions: int) -> jax.Array:
    """Let blocks of rows of all regions [blocks n ...] be blocks of some regions [groups * blocks regions ...]."""
    count, n, *rest = blocks.shape
    blocks = blocks.reshape(count, n // regions, regions, *rest)
    return jnp.moveaxis(blocks, 1, 0).reshape(-1, regions, *rest)


def _cut(x: jax.Array, rows: int) -> jax.Array:
    """Cut a map [n H ...] into blocks of rows [blocks n rows ...]; the last one is filled up with zeros."""
    n, height = x.shape[:2]
    count = -(-height // rows)
    x = jnp.pad(x, ((0, 0), (0, count * rows - height), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(n, count, rows, *x.shape[2:]), 1, 0)


def _join(x: jax.Array, n: int, height: int) -> jax.Array:
    """Join blocks [groups * blocks regions rows ...] to maps [n height ...]."""
    _, regions, rows, *rest = x.shape
    x = x.reshape(n // regions, -1, regions, rows, *rest)
    return jnp.moveaxis(x, 2, 1).reshape(n, -1, *rest)[:, :height]


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    kind = like.manual_axis_type
    return vary(jnp.zeros(like.shape, like.dtype), sorted(kind.varying) if kind else ())
