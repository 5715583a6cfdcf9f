"""Which scenes come when: each once an epoch, or those that hold a class that is drawn."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from holojax.errors import ConfigError

_ORDER, _VIEW, _POINT = 0, 1, 2  # independent streams of random numbers: the order, the views, places of classes


@dataclasses.dataclass(frozen=True)
class Pick:
    """A scene whose turn it is.

    Attributes:
        index: of the scene.
        key: seeds what is drawn for it.
        point: row and column in the scene that its crop should hold, pixels; None: any crop will do.
    """

    index: int
    key: tuple[int, ...]
    point: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every scene once an epoch, in an order drawn for the epoch.

    What is drawn for a scene follows from seed, epoch and the scene's number, not from when it comes.
    """

    count: int
    seed: int

    def pick(self, number: int) -> Pick:
        """Return the scene that comes `number`-th, from 0."""
        epoch, position = divmod(number, self.count)
        order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.count)
        index = int(order[position])
        return Pick(index, (self.seed, _VIEW, epoch, index))


class ByClass:
    """A class is drawn, all that occur equally likely, then a scene and a cell of it by their pixels of the class.

    So a class on a thousandth of the pixels is looked at as often as one on half of them. An epoch is as many draws as
    there are scenes; a scene may come several times in one, or never.

    Args:
        cells: of each scene the pixels of each class in a coarse grid of cells, `[rows cols k]`.
        sides: of each scene the side of its cells, pixels.
        sizes: height and width of each scene, pixels.
        seed: not negative.

    Raises:
        ConfigError: no pixel has a label.
    """

    def __init__(
        self,
        cells: Sequence[np.ndarray],
        sides: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        seed: int,
    ) -> None:
        self._cells, self._sides, self._sizes, self._seed = cells, sides, sizes, seed
        counts = np.stack([np.asarray(cell, np.float64).sum((0, 1)) for cell in cells])
        self._present = np.flatnonzero(counts.sum(0))
        if not len(self._present):
            raise ConfigError("data.sampling: 'classes' needs labelled pixels, found none. Say data.sampling='scenes'.")
        self._shares = counts / np.maximum(counts.sum(0), 1)

    def pick(self, number: int) -> Pick:
        """Return the scene that comes `number`-th, from 0, and a place of the class that was drawn for it."""
        epoch, position = divmod(number, len(self._cells))
        rng = np.random.default_rng((self._seed, _POINT, epoch, position))
        drawn = int(rng.choice(self._present))
        index = int(rng.choice(len(self._cells), p=self._shares[:, drawn]))
        here = self._likely(index, drawn)
        cell = np.unravel_index(int(np.searchsorted(here, rng.random() * here[-1], "right")),
                                self._cells[index].shape[:2])  # fmt: skip
        side = self._sides[index]
        # Somewhere in the cell: the counts do not say where.
        row, col = (
            min((at + share) * side, extent - 1)
            for at, share, extent in zip(cell, rng.random(2), self._sizes[index], strict=True)
        )
        return Pick(index, (self._seed, _VIEW, epoch, index, 1 + position), (float(row), float(col)))

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - lives as long as the run
    def _likely(self, index: int, drawn: int) -> np.ndarray:
        """Return the running sum of a class's pixels over the cells of a scene, row by row."""
        return np.cumsum(self._cells[index][..., drawn].ravel().astype(np.float64))


Order = Uniform | ByClass
