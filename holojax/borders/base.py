"""The one interface through which encoders and decoders reach beyond a pixel."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from holojax.errors import ConfigError
from holojax.ops.resize import bin_edges
from holojax.ops.resize_conv import convolve
from holojax.ops.windows import Sides
from holojax.parallel.collectives import psum
from holojax.types import Bool, Float, KeyMask, KeysValues, Queries

# f(windows [m t c], allowed [m q t] with q = t or 1, or None) -> [m t d]
WindowFunction = Callable[[jax.Array, jax.Array | None], jax.Array]


class Borders(abc.ABC):
    """What a region sees beyond its edge.

    Encoders and decoders know nothing of regions and devices: whatever joins different pixels (a padded
    convolution, a window, a pooled mean, a batch statistic) goes through this interface. Maps are `[n h w c]`,
    `n` regions folded with the scenes. A region sees its *surroundings*: itself when isolated, the scene when exact.
    """

    axes: tuple[str, ...]  # mesh axes over which batch statistics are taken

    @abc.abstractmethod
    def hide(self, x: Float[jax.Array, "n h w c"], value: int | float = 0) -> Float[jax.Array, "n h w c"]:
        """Set places that must stay invisible to `value`, before an operation that joins places by itself."""

    @abc.abstractmethod
    def pad(
        self, x: Float[jax.Array, "n h w c"], top: int, bottom: int, left: int, right: int
    ) -> Float[jax.Array, "n i j c"]:
        """Extend a map by what lies beyond its edges. A convolution is this and a VALID convolution."""

    @abc.abstractmethod
    def roll(self, x: Float[jax.Array, "n h w c"], rows: int, cols: int) -> Float[jax.Array, "n h w c"]:
        """Roll the surroundings down by `rows` and right by `cols`; what leaves comes in on the other side."""

    @abc.abstractmethod
    def extent(self, height: int, width: int) -> tuple[int, int, bool]:
        """Return rows and columns of the surroundings of maps of this size, and whether all of them count.

        Where not all of them do, only the device knows how many.
        """

    @abc.abstractmethod
    def map_windows(
        self,
        f: WindowFunction,
        x: Float[jax.Array, "n h w c"],
        size: Sides,
        shift: Sides,
        fill: Float[jax.Array, " c"] | None = None,
        roll_first: bool = False,
    ) -> Float[jax.Array, "n h w d"]:
        """Apply f(windows [m t c], allowed [m q t] or None) to all windows of size x size of the surroundings.

        The windows start at the surroundings' upper left corner, or with `shift` lie `shift` rows and columns further
        down and right. `allowed` says which tokens (last axis) each token (q = t), or all of them (q = 1), may see;
        None: all. `fill` is what padding to whole windows consists of where it takes part; None: zeros. With
        `roll_first` (timm) it lies, where it takes part, behind the rolled map and not behind the map.
        """

    @abc.abstractmethod
    def map_pooled(
        self,
        f: Callable[[jax.Array, Borders], jax.Array],
        x: Float[jax.Array, "n h w c"],
        bins: int,
        kernel: Float[jax.Array, "i j e d"] | None = None,
    ) -> Float[jax.Array, "n h w d"]:
        """Average the surroundings adaptively to bins x bins places, apply f(pooled, borders), and resize to the map.

        `pooled` is [m s s c], one map a surrounding; the borders handed to `f` are those of such maps. With a `kernel`
        the resized map is convolved as by `resize_conv`.
        """

    @abc.abstractmethod
    def resize(
        self, x: Float[jax.Array, "n h w c"], size: tuple[int, int], method: str = "bilinear"
    ) -> Float[jax.Array, "n i j c"]:
        """Resize maps to `size` = (rows, columns) of a region, with the numerics of `holojax.ops.resize`."""

    def resize_conv(
        self, x: Float[jax.Array, "n h w c"], kernel: Float[jax.Array, "i j c d"], size: tuple[int, int]
    ) -> Float[jax.Array, "n H W d"]:
        """Resize maps bilinearly and convolve them there: a kernel of odd sides, zeros beyond the surroundings."""
        return self._convolve(self.resize(x, size), kernel)

    @abc.abstractmethod
    def row_blocks(
        self, x: Float[jax.Array, "n h w c"], size: tuple[int, int], rows: int
    ) -> tuple[tuple[jax.Array, ...], Callable[[Any], jax.Array]]:
        """Resize maps bilinearly as `resize`, block of rows by block of rows, so that the result never exists whole.

        Returns what `ops.resize.cut_rows` does, and a function from one block of it, of all regions or some, to its
        `rows` rows of the result [n rows W c]; the last block is filled up. All that is sent is sent here.
        """

    @abc.abstractmethod
    def spread(
        self, table: Float[jax.Array, "i j c"], height: int, width: int, method: str = "bicubic"
    ) -> Float[jax.Array, "m h w c"]:
        """Resize a table to the surroundings; return what lies on maps of height x width (m = n or 1).

        `method` is one of `ops.resize.source_weights`.
        """

    @abc.abstractmethod
    def places(self, height: int, width: int) -> tuple[Float[jax.Array, "m h"], Float[jax.Array, "m w"]]:
        """Return rows and columns of a map of this size in the surroundings, counted in its places (m = n or 1)."""

    @abc.abstractmethod
    def sum(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Sum over the surroundings."""

    @abc.abstractmethod
    def mean(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Average over the surroundings."""

    @abc.abstractmethod
    def max(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Take the largest value of the surroundings; places that share it share its gradient."""

    def norm(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Take the Euclidean norm over the surroundings; its gradient at zero is zero."""
        square = self.sum(x * x)
        positive = square > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)

    @abc.abstractmethod
    def scan(
        self, a: Float[jax.Array, "n h w c"], b: Float[jax.Array, "n h w c"], axis: str, reverse: bool = False
    ) -> Float[jax.Array, "n h w c"]:
        """Compute h_t = a_t h_(t-1) + b_t along "rows" (downwards) or "cols" (rightwards), or back."""

    @abc.abstractmethod
    def selective_scan(
        self,
        u: Float[jax.Array, "n t l d"],
        delta: Float[jax.Array, "k n t l d"],
        a: Float[jax.Array, "k d s"],
        b: Float[jax.Array, "k n t l s"],
        c: Float[jax.Array, "k n t l s"],
        lines: str,
        reverse: tuple[bool, ...] = (False,),
    ) -> Float[jax.Array, "n t l d"]:
        """Add up k scans (`ops.selective_scan`) of the surroundings, whose `lines` are "rows" or "cols" of a map."""

    @abc.abstractmethod
    def sample(self, x: Float[jax.Array, "n h w c"], positions: Float[jax.Array, "n m 2"]) -> Float[jax.Array, "n m c"]:
        """Read the surroundings bilinearly at (row, column), counted from the region's corner; zero beyond them."""

    @abc.abstractmethod
    def deform(
        self,
        x: Float[jax.Array, "n h w k d"],
        positions: Float[jax.Array, "n m k p 2"],
        weights: Float[jax.Array, "n m k p"],
    ) -> Float[jax.Array, "n m k d"]:
        """Sum what each of k heads reads at p positions, as `sample` reads, times their weights."""

    @abc.abstractmethod
    def attend(self, q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None = None) -> Queries:
        """Attend over all tokens that a region may see: [n t k d] each; `kv_mask` [n t] hides keys."""

    @abc.abstractmethod
    def cross_attend(
        self,
        q: Float[jax.Array, "m q k d"],
        k: KeysValues,
        v: KeysValues,
        kv_mask: KeyMask | None = None,
        mask: Bool[jax.Array, "n q t"] | None = None,
    ) -> Float[jax.Array, "m q k d"]:
        """Let queries of each surrounding (`per_surrounding`) read the tokens [n t k d] of all its regions.

        One softmax over all of them. Tokens that `kv_mask` [n t] hides are seen by nobody (as in `attend`); `mask`
        says what each query wants to see, and one that would see nothing in all the surroundings sees everything.
        """

    @abc.abstractmethod
    def surroundings(self, n: int) -> int:
        """Count the surroundings of n regions: m = n when isolated, the number of scenes when exact."""

    @abc.abstractmethod
    def per_surrounding(self, x: jax.Array, n: int) -> jax.Array:
        """Give every surrounding of n regions a copy of a parameter: [...] to [m ...]."""

    @abc.abstractmethod
    def per_region(self, x: jax.Array) -> jax.Array:
        """Give every region what its surrounding has: [m ...] to [n ...]."""

    @abc.abstractmethod
    def add_regions(self, x: jax.Array) -> jax.Array:
        """Add up what the regions of each surrounding have: [n ...] to [m ...], the way back of `per_region`."""

    @abc.abstractmethod
    def span(self, height: int, width: int) -> tuple[Float[jax.Array, " m"], Float[jax.Array, " m"]]:
        """Return rows and columns of the surroundings up to the last that counts, in places of this size (m = n or 1).

        `places` lie from 0 to less than these.
        """

    @abc.abstractmethod
    def key_mask(self, height: int, width: int, extra: int = 0) -> Bool[jax.Array, "n t"] | None:
        """Return which keys `attend` has to hide: `extra` tokens without a place, then a map's. None: none of them.

        The extra tokens (a class token) are one set per surrounding, of which every region has a copy.
        """

    @abc.abstractmethod
    def valid_tokens(self, height: int, width: int) -> Bool[jax.Array, "n h w"] | None:
        """Say which places of a map of this size cover any valid pixel; None: all of them."""

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve at the same size."""
        rows, cols = (side // 2 for side in kernel.shape[:2])
        return convolve(self.pad(x, rows, rows, cols, cols), kernel)

    def moments(
        self, x: Float[jax.Array, "n h w c"]
    ) -> tuple[Float[jax.Array, " c"], Float[jax.Array, " c"], Float[jax.Array, ""]]:
        """Return float32 mean [c], biased variance [c] and count of the valid places of all scenes and regions.

        Two passes: the variance is the mean of squared distances from the mean over the mesh `axes`, so it neither
        cancels nor depends on how regions lie on devices (beyond rounding).
        """
        x = x.astype(jnp.float32)
        valid = self.valid_tokens(x.shape[1], x.shape[2])
        over = (0, 1, 2)
        # Counted in integers: a float32 that grows by ones stops at 2^24.
        places = jnp.int32(x[..., 0].size) if valid is None else valid.sum(dtype=jnp.int32)
        total, count = psum((keep(valid, x).sum(over), places.astype(jnp.float32)), self.axes)
        # No valid place at all: zeros rather than 0 / 0.
        mean = total / jnp.maximum(count, 1)
        spread = psum(keep(valid, jnp.square(x - mean)).sum(over), self.axes)
        return mean, spread / jnp.maximum(count, 1), count


def check_widths(top: int, bottom: int, left: int, right: int) -> None:
    """Raise a ConfigError if a map is to be extended by less than nothing."""
    if min(top, bottom, left, right) < 0:
        raise ConfigError(
            f"pad: expected rows and columns of at least 0, found top={top}, bottom={bottom}, left={left}, "
            f"right={right}. To cut a map, take a slice."
        )


def keep(valid: jax.Array | None, x: jax.Array, value: int | float = 0) -> jax.Array:
    """Return `x`, with `value` where it is not valid."""
    return x if valid is None else jnp.where(valid[..., None], x, jnp.asarray(value, x.dtype))


def any_by_bins(valid: jax.Array, bins: int, axis: int) -> jax.Array:
    """Say which of `bins` equal parts of `axis`, rounded outwards, hold anything valid."""
    start, stop = bin_edges(valid.shape[axis], bins)
    ends = jnp.cumsum(valid, axis=axis, dtype=jnp.int32)
    pads = [(1, 0) if d == axis else (0, 0) for d in range(valid.ndim)]
    counts = jnp.pad(ends, pads)
    return jnp.take(counts, stop, axis=axis) > jnp.take(counts, start, axis=axis)
