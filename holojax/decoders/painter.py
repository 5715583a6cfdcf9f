"""From a decoder's answer to scores of every pixel, row block by row block, so that they need never exist whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from holojax.borders import Borders
from holojax.decoders.prediction import Dense, Prediction
from holojax.ops.varying import vary
from holojax.types import Float

# Pixels of all regions of a device that are painted at a time: with 24 classes some 6 MB.
PIXELS = 1 << 16

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
            return self.borders.resize(self.answer.source, self.size)
        return self.map_rows(lambda scores: scores)

    def logits(self) -> Float[jax.Array, "n H W k"]:
        """Return the whole map of what losses take: the logarithm of probabilities, up to a constant."""
        return self._map_rows(lambda rows: self.answer.logits(rows))

    def map_rows(self, f: RowsFunction, *maps: jax.Array) -> Any:
        """Apply f(scores, *rows) to blocks of rows; return its results [n i ...] joined to maps [n H ...]."""
        return self._map_rows(lambda rows, *others: f(self.answer.paint(rows), *others), *maps)

    def sum_rows(self, f: RowsFunction, *maps: jax.Array | None) -> Any:
        """Add up f(logits, *rows) over blocks of rows.

        For the gradient nothing of a block is kept, it is painted again. `maps` [n H W] are cut into the same rows; the
        last block is filled up with rows that `f` has to tell by them. None stays None.
        """
        blocks, draw = self._blocks(maps)

        @jax.checkpoint
        def block(rows: Any, *others: jax.Array | None) -> Any:
            return f(self.answer.logits(draw(rows)), *others)

        first = jax.tree.map(lambda x: x[0], blocks)
        if jax.tree.leaves(blocks)[0].shape[0] == 1:
            return block(*first)
        total = jax.tree.map(_zeros, jax.eval_shape(block, *first))
        return lax.scan(lambda total, now: (jax.tree.map(jnp.add, total, block(*now)), None), total, blocks)[0]

    def _map_rows(self, f: RowsFunction, *maps: jax.Array) -> Any:
        blocks, draw = self._blocks(maps)
        found = lax.map(lambda now: f(draw(now[0]), *now[1:]), blocks)
        return jax.tree.map(lambda x: _join(x, self.size[0]), found)

    def _blocks(self, maps: tuple[jax.Array | None, ...]) -> tuple[Any, Callable[[Any], jax.Array]]:
        source, (height, width) = self.answer.source, self.size
        rows = min(height, max(1, PIXELS // (source.shape[0] * width)))
        blocks, draw = self.borders.row_blocks(source, self.size, rows)
        return (blocks, *(None if x is None else _cut(x, rows) for x in maps)), draw


def _cut(x: jax.Array, rows: int) -> jax.Array:
    """Cut a map [n H ...] into blocks of rows [blocks n rows ...]; the last one is filled up with zeros."""
    n, height = x.shape[:2]
    count = -(-height // rows)
    x = jnp.pad(x, ((0, 0), (0, count * rows - height), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(n, count, rows, *x.shape[2:]), 1, 0)


def _join(x: jax.Array, height: int) -> jax.Array:
    """Undo `_cut`."""
    blocks, n, rows, *rest = x.shape
    return jnp.moveaxis(x, 0, 1).reshape(n, blocks * rows, *rest)[:, :height]


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    kind = like.manual_axis_type
    return vary(jnp.zeros(like.shape, like.dtype), sorted(kind.varying) if kind else ())
