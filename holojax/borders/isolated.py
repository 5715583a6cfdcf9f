"""Isolated borders: a region sees itself alone, as in REST and RingFormer-Seg and their published weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from holojax.borders.base import Borders, WindowFunction
from holojax.errors import ConfigError
from holojax.ops import windows
from holojax.ops.attention import attend
from holojax.ops.resize import bin_edges, pool, resize
from holojax.ops.sample import bilinear_sample
from holojax.ops.scan import linear_scan
from holojax.parallel.collectives import psum
from holojax.types import Bool, Float, KeyMask, KeysValues, Queries

_AXES = {"rows": 1, "cols": 2}


# eq=False: compared and hashed by identity, since arrays have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Isolated(Borders):
    """See one region alone: zeros beyond its edge, statistics of its own.

    Padding and nodata inside a region are ordinary zeros, as in the libraries that are matched. Only batch
    statistics (`moments`) join regions, scenes and devices; they leave invalid places out.

    Args:
        valid: True on real pixels of each region, at pixel resolution [n h w]; None: all of them.
        strides: the encoder's strides, which tell what pixels a place of a map covers.
        axes: mesh axes over which batch statistics are taken, inside `shard_map`; () outside it.
    """

    valid: Bool[jax.Array, "n h w"] | None = None
    strides: tuple[int, ...] = ()
    axes: tuple[str, ...] = ()

    def pad(self, x, top, bottom, left, right):
        """Extend a map by zeros."""
        if not (top or bottom or left or right):
            return x
        return jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))

    def roll(self, x, rows, cols):
        """Roll a map inside the region."""
        return jnp.roll(x, (rows, cols), (1, 2))

    def map_windows(self, f: WindowFunction, x, size, shift):
        """Apply `f` to the region's windows, shifted even where the map is smaller than one (as mmseg)."""
        n, h, w, _ = x.shape
        x = self.pad(x, 0, -h % size, 0, -w % size)
        height, width = x.shape[1:3]
        allowed = None
        if shift:
            x = self.roll(x, -shift, -shift)
            allowed = windows.same_origin(windows.window_origins(height, width, size, shift), n)
        y = windows.merge_windows(f(windows.cut_windows(x, size), allowed), size, height, width)
        if shift:
            y = self.roll(y, shift, shift)
        return y[:, :h, :w]

    def resize(self, x, size, method="bilinear"):
        """Resize within the region: its edge pixels are repeated beyond its edge."""
        return resize(x, size, method)

    def pool(self, x, bins):
        """Average adaptively over the region."""
        return pool(x, bins)

    def sum(self, x):
        """Sum over the region."""
        return x.sum((1, 2), keepdims=True)

    def mean(self, x):
        """Average over the region."""
        return x.mean((1, 2), keepdims=True)

    def max(self, x):
        """Take the region's largest value."""
        return x.max((1, 2), keepdims=True)

    def norm(self, x):
        """Take the Euclidean norm over the region; its gradient at zero is zero."""
        square = self.sum(x * x)
        positive = square > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)

    def scan(self, a, b, axis, reverse=False):
        """Run the recurrence along the region's rows or columns, from zero at its edge."""
        if axis not in _AXES:
            raise ConfigError(f"scan: unknown axis {axis!r}; known: {', '.join(_AXES)}.")
        return linear_scan(a, b, _AXES[axis], reverse)

    def sample(self, x, positions):
        """Read the region's map bilinearly; zero beyond its edge."""
        return bilinear_sample(x, positions)

    def attend(self, q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None = None) -> Queries:
        """Attend over the region's tokens; invalid ones take part unless `kv_mask` says otherwise."""
        return attend(q, k, v, kv_mask)[0]

    def moments(self, x: Float[jax.Array, "n h w c"]):
        """Return float32 mean [c], biased variance [c] and count of the valid places, over the mesh `axes`.

        Two passes: the variance is the mean of squared distances from the mean of all devices, so it neither
        cancels nor depends on how regions lie on devices (beyond rounding).
        """
        x = x.astype(jnp.float32)
        valid = self.valid_tokens(x.shape[1], x.shape[2])
        over = (0, 1, 2)
        # Counted in integers: a float32 that grows by ones stops at 2^24.
        places = jnp.int32(x[..., 0].size) if valid is None else valid.sum(dtype=jnp.int32)
        total, count = psum((_where(valid, x).sum(over), places.astype(jnp.float32)), self.axes)
        # No valid place at all: zeros rather than 0 / 0.
        mean = total / jnp.maximum(count, 1)
        spread = psum(_where(valid, jnp.square(x - mean)).sum(over), self.axes)
        return mean, spread / jnp.maximum(count, 1), count

    def valid_tokens(self, height: int, width: int) -> Bool[jax.Array, "n h w"] | None:
        """Say which places of a map of this size cover any valid pixel of the region; None: all of them.

        The map's stride is the one of `strides` that gives its size, rounded up or else down; a map of any
        other size (pooled, enlarged) is taken to cover the region in adaptive bins.
        """
        if self.valid is None or self.valid.shape[1:] == (height, width):
            return self.valid
        stride = self._stride(height, width)
        if stride is not None:
            return _any_by_stride(self.valid, height, width, stride)
        return _any_by_bins(_any_by_bins(self.valid, height, 1), width, 2)

    def _stride(self, height: int, width: int) -> int | None:
        rows, cols = self.valid.shape[1:]
        # Rounding up first: on tiny maps several strides fit, and a wrong one rounded down would drop pixels.
        for fits in (lambda extent, s: -(-extent // s), lambda extent, s: extent // s):
            for stride in self.strides:
                if (fits(rows, stride), fits(cols, stride)) == (height, width):
                    return stride
        return None


def _where(valid: jax.Array | None, x: jax.Array) -> jax.Array:
    return x if valid is None else jnp.where(valid[..., None], x, 0)


def _any_by_stride(valid: jax.Array, height: int, width: int, stride: int) -> jax.Array:
    _, rows, cols = valid.shape
    valid = valid[:, : height * stride, : width * stride]
    pads = ((0, 0), (0, max(height * stride - rows, 0)), (0, max(width * stride - cols, 0)))
    return lax.reduce_window(valid, False, lax.bitwise_or, (1, stride, stride), (1, stride, stride), pads)


def _any_by_bins(valid: jax.Array, bins: int, axis: int) -> jax.Array:
    start, stop = bin_edges(valid.shape[axis], bins)
    ends = jnp.cumsum(valid, axis=axis, dtype=jnp.int32)
    pads = [(1, 0) if d == axis else (0, 0) for d in range(valid.ndim)]
    counts = jnp.pad(ends, pads)
    return jnp.take(counts, stop, axis=axis) > jnp.take(counts, start, axis=axis)


ISOLATED = Isolated()
