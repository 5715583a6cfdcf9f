"""Isolated borders: a region sees itself alone, as in REST and RingFormer-Seg and their published weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from holojax.borders.base import Borders, WindowFunction, any_by_bins, check_widths
from holojax.errors import ConfigError
from holojax.ops import windows
from holojax.ops.attention import attend
from holojax.ops.cross_attention import cross_attend
from holojax.ops.resize import blend_rows, cut_rows, extend_edges, pool, resize, source_weights
from holojax.ops.resize_conv import resize_conv
from holojax.ops.sample import bilinear_sample, deformable_sample
from holojax.ops.scan import linear_scan
from holojax.ops.selective_scan import selective_scan
from holojax.ops.varying import align, vary
from holojax.types import Bool, KeyMask, KeysValues, Queries

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

    def hide(self, x, value=0):
        """Return the map as it is: here padding takes part, as in the libraries that are matched."""
        return x

    def pad(self, x, top, bottom, left, right):
        """Extend a map by zeros."""
        check_widths(top, bottom, left, right)
        if not (top or bottom or left or right):
            return x
        return jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))

    def roll(self, x, rows, cols):
        """Roll a map inside the region."""
        return jnp.roll(x, (rows, cols), (1, 2))

    def extent(self, height, width):
        """Count the region's rows and columns; padding inside it counts."""
        return height, width, True

    def map_windows(self, f: WindowFunction, x, size, shift, fill=None, roll_first=False):
        """Apply `f` to the region's windows, shifted even where the map is smaller than one (as mmseg).

        The map is padded with `fill` at the bottom and right to whole windows; the padding takes part.
        """
        (rows, cols), (down, right) = windows.sides(size), windows.sides(shift)
        shifted = down or right
        n, h, w, _ = x.shape
        x = self.roll(x, -down, -right) if shifted and roll_first else x
        x = _complete(_complete(x, 1, rows, fill), 2, cols, fill)
        height, width = x.shape[1:3]
        x = self.roll(x, -down, -right) if shifted and not roll_first else x
        allowed = windows.same_origin(windows.window_origins(height, width, size, shift), n) if shifted else None
        y = windows.merge_windows(f(windows.cut_windows(x, size), allowed), size, height, width)
        if roll_first:
            y = y[:, :h, :w]
        return (self.roll(y, down, right) if shifted else y)[:, :h, :w]

    def resize(self, x, size, method="bilinear"):
        """Resize within the region: its edge pixels are repeated beyond its edge."""
        return resize(x, size, method)

    def row_blocks(self, x, size, rows):
        """Resize within the region, block by block."""
        blocks = cut_rows(extend_edges(x, 1), size[0], rows)
        return blocks, lambda block: resize(blend_rows(*block), (rows, size[1]))

    def resize_conv(self, x, kernel, size):
        """Resize within the region and convolve; where the map grows, the products are taken before that."""
        return resize_conv(x, kernel, size)

    def map_pooled(self, f, x, bins, kernel=None):
        """Average the region adaptively and spread the result over it."""
        y, size = f(pool(x, bins), self), x.shape[1:3]
        return resize(y, size) if kernel is None else resize_conv(y, kernel, size)

    def spread(self, table, height, width, method="bicubic"):
        """Resize a table to the region."""
        rows, cols = (
            source_weights(jnp.arange(extent), extent, size, method)
            for extent, size in zip((height, width), table.shape[:2], strict=True)
        )
        return jnp.einsum("hi,ijc,wj->hwc", rows, table, cols, precision=lax.Precision.HIGHEST)[None]

    def places(self, height, width):
        """Count rows and columns from the region's corner."""
        return jnp.arange(height, dtype=jnp.float32)[None], jnp.arange(width, dtype=jnp.float32)[None]

    def sum(self, x):
        """Sum over the region."""
        return x.sum((1, 2), keepdims=True)

    def mean(self, x):
        """Average over the region."""
        return x.mean((1, 2), keepdims=True)

    def max(self, x):
        """Take the region's largest value."""
        return x.max((1, 2), keepdims=True)

    def scan(self, a, b, axis, reverse=False):
        """Run the recurrence along the region's rows or columns, from zero at its edge."""
        if axis not in _AXES:
            raise ConfigError(f"scan: unknown axis {axis!r}; known: {', '.join(_AXES)}.")
        return linear_scan(a, b, _AXES[axis], reverse)

    def selective_scan(self, u, delta, a, b, c, lines, reverse=(False,)):
        """Scan the region's rows or columns one after the other, from zero."""
        u, delta, a, b, c = align(u, delta, a, b, c)
        return selective_scan(u, delta, a, b, c, reverse)

    def sample(self, x, positions):
        """Read the region's map bilinearly; zero beyond its edge."""
        return bilinear_sample(x, positions)

    def deform(self, x, positions, weights):
        """Read the region's map; zero beyond its edge."""
        return deformable_sample(x, positions, weights)

    def attend(self, q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None = None) -> Queries:
        """Attend over the region's tokens; invalid ones take part unless `kv_mask` says otherwise."""
        return attend(q, k, v, kv_mask)[0]

    def cross_attend(self, q, k, v, kv_mask=None, mask=None):
        """Let each region's queries read its own tokens."""
        return cross_attend(q, k, v, kv_mask, mask)

    def surroundings(self, n):
        """Count the regions: each is its own surroundings."""
        return n

    def per_surrounding(self, x, n):
        """Give every region a copy of a parameter."""
        # Typed as differing between devices before it is repeated: so its gradient is summed over them once.
        x = vary(x, self.axes)
        return jnp.broadcast_to(x, (n, *x.shape))

    def per_region(self, x):
        """Return what each region has already."""
        return x

    def add_regions(self, x):
        """Return what each region has: there is no other to be added."""
        return x

    def span(self, height, width):
        """Count the region's rows and columns; padding inside it counts."""
        return jnp.full(1, height, jnp.float32), jnp.full(1, width, jnp.float32)

    def key_mask(self, height, width, extra=0):
        """Hide no key: here invalid tokens take part."""
        return

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
        return any_by_bins(any_by_bins(self.valid, height, 1), width, 2)

    def _stride(self, height: int, width: int) -> int | None:
        rows, cols = self.valid.shape[1:]
        # Rounding up first: on tiny maps several strides fit, and a wrong one rounded down would drop pixels.
        for fits in (lambda extent, s: -(-extent // s), lambda extent, s: extent // s):
            for stride in self.strides:
                if (fits(rows, stride), fits(cols, stride)) == (height, width):
                    return stride
        return None


def _complete(x: jax.Array, axis: int, size: int, fill: jax.Array | None) -> jax.Array:
    """Extend `axis` at its end to a multiple of `size` by places that hold `fill` [c], or zeros."""
    missing = -x.shape[axis] % size
    if not missing:
        return x
    shape = (*x.shape[:axis], missing, *x.shape[axis + 1 :])
    # Typed as differing between devices before it is repeated: else its gradient is summed over them at full size.
    fill, _ = align(fill, x)
    value = jnp.zeros_like(x, shape=shape) if fill is None else jnp.broadcast_to(fill.astype(x.dtype), shape)
    return jnp.concatenate([x, value], axis)


def _any_by_stride(valid: jax.Array, height: int, width: int, stride: int) -> jax.Array:
    _, rows, cols = valid.shape
    valid = valid[:, : height * stride, : width * stride]
    pads = ((0, 0), (0, max(height * stride - rows, 0)), (0, max(width * stride - cols, 0)))
    return lax.reduce_window(valid, False, lax.bitwise_or, (1, stride, stride), (1, stride, stride), pads)


ISOLATED = Isolated()
