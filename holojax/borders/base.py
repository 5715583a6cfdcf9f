"""The one interface through which encoders and decoders reach beyond a pixel."""

from __future__ import annotations

import abc
from collections.abc import Callable

import jax

from holojax.types import Bool, Float, KeyMask, KeysValues, Queries

# f(windows [m t c], allowed [m t t] or None) -> [m t c]
WindowFunction = Callable[[jax.Array, jax.Array | None], jax.Array]


class Borders(abc.ABC):
    """What a region sees beyond its edge.

    Encoders and decoders know nothing of regions and devices: whatever joins different pixels (a padded
    convolution, a rolled window, a pooled mean, a batch statistic) goes through this interface. Maps are
    `[n h w c]`, `n` regions folded with the scenes.
    """

    @abc.abstractmethod
    def pad(
        self, x: Float[jax.Array, "n h w c"], top: int, bottom: int, left: int, right: int
    ) -> Float[jax.Array, "n i j c"]:
        """Extend a map by what lies beyond its edges. A convolution is this and a VALID convolution."""

    @abc.abstractmethod
    def roll(self, x: Float[jax.Array, "n h w c"], rows: int, cols: int) -> Float[jax.Array, "n h w c"]:
        """Roll a map down by `rows` and right by `cols`; what leaves comes in on the other side."""

    @abc.abstractmethod
    def map_windows(
        self, f: WindowFunction, x: Float[jax.Array, "n h w c"], size: int, shift: int
    ) -> Float[jax.Array, "n h w d"]:
        """Apply f(windows [m t c], allowed [m t t] or None) to all windows of size x size.

        The windows are shifted by `shift` rows and columns. `allowed` says which tokens (last axis) each
        token may see; None: all. The map is padded with zeros at the bottom and right to whole windows, and
        the padding takes part as in mmseg's Swin.
        """

    @abc.abstractmethod
    def resize(
        self, x: Float[jax.Array, "n h w c"], size: tuple[int, int], method: str = "bilinear"
    ) -> Float[jax.Array, "n i j c"]:
        """Resize maps to `size` = (rows, columns) of a region, with the numerics of `holojax.ops.resize`."""

    @abc.abstractmethod
    def pool(self, x: Float[jax.Array, "n h w c"], bins: int) -> Float[jax.Array, "n s s c"]:
        """Average adaptively to bins x bins places."""

    @abc.abstractmethod
    def sum(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Sum over all places."""

    @abc.abstractmethod
    def mean(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Average over all places."""

    @abc.abstractmethod
    def max(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Take the largest value of all places."""

    @abc.abstractmethod
    def norm(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "n 1 1 c"]:
        """Take the Euclidean norm over all places; its gradient at zero is zero."""

    @abc.abstractmethod
    def scan(
        self, a: Float[jax.Array, "n h w c"], b: Float[jax.Array, "n h w c"], axis: str, reverse: bool = False
    ) -> Float[jax.Array, "n h w c"]:
        """Compute h_t = a_t h_(t-1) + b_t along "rows" (downwards) or "cols" (rightwards), or back."""

    @abc.abstractmethod
    def sample(self, x: Float[jax.Array, "n h w c"], positions: Float[jax.Array, "n m 2"]) -> Float[jax.Array, "n m c"]:
        """Read maps bilinearly at (row, column) in pixels of the region; zero where nothing lies."""

    @abc.abstractmethod
    def attend(self, q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None = None) -> Queries:
        """Attend over all tokens that a region may see: [n t k d] each; `kv_mask` [n t] hides keys."""

    @abc.abstractmethod
    def moments(
        self, x: Float[jax.Array, "n h w c"]
    ) -> tuple[Float[jax.Array, " c"], Float[jax.Array, " c"], Float[jax.Array, ""]]:
        """Return float32 mean, biased variance and count of the valid places of all scenes and regions."""

    @abc.abstractmethod
    def valid_tokens(self, height: int, width: int) -> Bool[jax.Array, "n h w"] | None:
        """Say which places of a map of this size cover any valid pixel; None: all of them."""
