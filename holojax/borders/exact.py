"""Exact borders: a region sees across its edge what one large device would see."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from holojax.attention import scene_attention
from holojax.borders.base import Borders, WindowFunction, keep
from holojax.borders.isolated import Isolated
from holojax.borders.scene import Scene
from holojax.errors import ConfigError
from holojax.ops import windows
from holojax.ops.cross_attention import cross_attend
from holojax.ops.resize import blend_rows, cut_rows, interpolate, resize, source_weights
from holojax.ops.sample import bilinear_gather
from holojax.ops.scan import affine_scan
from holojax.ops.selective_scan import selective_scan
from holojax.ops.varying import align, vary
from holojax.parallel.collectives import entering_lines, entering_state, halo, pmax, psum, ring_sum, slice_each
from holojax.parallel.regions import RegionGrid, RegionShard
from holojax.types import KeyMask, KeysValues, Queries

_AXES = {"rows": 2, "cols": 3}
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


# eq=False: compared and hashed by identity, since arrays have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Exact(Scene):
    """See the whole scene: every result is that of one device which holds it, whatever the region grid.

    Regions are multiples of every stride of the model (`RegionGrid.multiple`), so no place lies across two of them.
    Places that cover no valid pixel (padding, nodata) do not exist: they are zero to convolutions and samples, hidden
    from attention, left out of sums, maxima and resizing, and passed by scans.

    To be used inside `Layout.shard`; arguments as `Scene`.
    """

    def map_windows(self, f: WindowFunction, x, size, shift, fill=None, roll_first=False):
        """Apply `f` to all windows of the scene that touch this device's regions.

        Rolling a map, as Swin does, brings rows together that may not see each other. Here windows lie where they
        are: the first begins at the scene's corner, or with `shift` reaches out of the scene by size - shift.
        Where a region is no multiple of a window, those on its border are computed on both sides of it. Padding does
        not take part (it is not allowed), so `fill` and `roll_first` are not used.

        Sends at most size - 1 rows and columns of `x` and a mark of validity on each side.
        """
        _, h, w, c = x.shape
        marked, begins = self._marked(x), {}
        for axis, side, step in zip(_AXES.values(), windows.sides(size), windows.sides(shift), strict=True):
            marked, begins[axis] = self._whole_windows(marked, axis, side, step - side if step else 0)
        rows, cols = marked.shape[2:4]
        cut = windows.cut_windows(self._fold(marked), size)
        # Nothing was added and nothing is missing: all may see all.
        everything = self.valid is None and (rows, cols) == (h, w)
        y = f(cut[..., :c], None if everything else rearrange(cut[..., c:], "m t 1 -> m 1 t") > 0)
        y = self._regions(windows.merge_windows(y, size, rows, cols))
        for axis, length in ((2, h), (3, w)):
            begin = begins[axis]
            if isinstance(begin, int):
                y = lax.slice_in_dim(y, begin, begin + length, axis=axis)
            else:
                y = slice_each(y, begin, length, axis)
        return self._fold(y)

    def resize(self, x, size, method="bilinear"):
        """Resize the scene; `size` is that of a region.

        Only valid places count and their weights are divided by their sum, which at the scene's edge amounts to
        repeating it. Sends one row and column on each side where the map grows, with a mark of validity.
        """
        if x.shape[1:3] == tuple(size):
            return x
        if method == "nearest":
            return resize(self.hide(x), size, method)
        if method != "bilinear":
            raise ConfigError(f"resize across borders: expected bilinear or nearest, found {method!r}.")
        marked = self._edged(x, size)
        for axis, of, to in zip((1, 2), x.shape[1:3], size, strict=True):
            marked = interpolate(marked, to, axis) if to != of else lax.slice_in_dim(marked, 1, of + 1, axis=axis)
        return _ratio(marked[..., :-1], marked[..., -1:])

    def row_blocks(self, x, size, rows):
        """Resize the scene, block by block; sends what `resize` sends."""
        (height, width), of = size, x.shape[2]
        blocks = cut_rows(self._edged(x, size), height, rows)

        def draw(block):
            marked = blend_rows(*block)
            marked = interpolate(marked, width, 2) if width != of else marked[:, :, 1:-1]
            return _ratio(marked[..., :-1], marked[..., -1:])

        return blocks, draw

    def map_pooled(self, f, x, bins, kernel=None):
        """Average the scene adaptively, once per scene; all devices hold the pooled maps.

        The bins are those of the scene's valid extent, their averages those of the valid places in them.
        Sends bins^2 (c + 1) float32 sums a scene; with a `kernel` what `pad` sends, too.
        """
        y = self._map_pooled(f, x, bins)
        return y if kernel is None else self._convolve(y, kernel)

    def spread(self, table, height, width, method="bicubic"):
        """Resize a table to the scene's valid extent and return the part of every region."""
        # Typed as differing between devices before it is repeated: so its gradient is summed over them once.
        table = vary(table, self.axes)
        return self._spread(table[None], height, width, method).astype(table.dtype)

    def scan(self, a, b, axis, reverse=False):
        """Run the recurrence through the scene's rows or columns; invalid places pass the state on.

        Every region runs it from zero; what enters it (`collectives.entering_state`: traffic of the size of its edge)
        is then carried through.
        """
        if axis not in _AXES:
            raise ConfigError(f"scan: unknown axis {axis!r}; known: {', '.join(_AXES)}.")
        a, b = self._regions(self.hide(a, 1)), self._regions(self.hide(b))
        decay, state = affine_scan(a, b, _AXES[axis], reverse)
        last = 0 if reverse else a.shape[_AXES[axis]] - 1
        edges = (lax.slice_in_dim(x, last, last + 1, axis=_AXES[axis]) for x in (decay, state))
        return self._fold(state + decay * entering_state(*edges, axis, self.shard, reverse=reverse))

    def selective_scan(self, u, delta, a, b, c, lines, reverse=(False,)):
        """Scan the scene's rows or columns one after the other; invalid places pass the state on.

        A line's part in a region is scanned from zero; what enters it is then found by `collectives.entering_lines`,
        which sends states of the size of a region's edge, and scanned on.
        """
        if lines not in _AXES:
            raise ConfigError(f"selective_scan: unknown lines {lines!r}; known: {', '.join(_AXES)}.")
        turned = lines == "rows"
        _, steps, count, _ = u.shape
        valid = self.valid_tokens(*((count, steps) if turned else (steps, count)))
        valid = valid.swapaxes(1, 2) if turned and valid is not None else valid
        # Nothing invalid takes part: steps of 0 change no state, and what they would write may be no number.
        u, delta, b, c = (keep(valid, x) for x in (u, delta, b, c))
        u, delta, a, b, c = align(u, delta, a, b, c, axis=self.shard.axis)
        return selective_scan(u, delta, a, b, c, reverse, _EnterLines(self.shard, self._local, lines))

    def sample(self, x, positions):
        """Read the scene's map bilinearly; zero beyond the scene and where it is not valid.

        Sampling is linear in the values, so they travel round the ring and every device adds up what it finds in
        them: sends the map once round, in the backward pass again with its float32 gradient.
        """
        return self._read(self.hide(x)[..., None, :], positions[:, :, None, None], None)[:, :, 0]

    def deform(self, x, positions, weights):
        """Read the scene's map, zero beyond the scene and where it is not valid; sends the map as `sample`."""
        n, h, w, k, d = x.shape
        return self._read(self.hide(x.reshape(n, h, w, k * d)).reshape(x.shape), positions, weights)

    def _read(self, x: jax.Array, positions: jax.Array, weights: jax.Array | None) -> jax.Array:
        """Read [n h w k d] at positions [n m k p 2], with weights or without."""
        _, h, w, _, _ = x.shape
        corner = jnp.stack([place[:, 0] for place in self.places(h, w)], axis=-1)
        # In float32 whatever the map is: bfloat16 holds no whole number beyond 256.
        stay = (positions.astype(jnp.float32) + corner[:, None, None, None], weights)
        stay = jax.tree.map(self._join_tokens, stay)
        found = ring_sum(_Sampler(self.shard.grid, self._local, h, w), self.shard.axis, stay, self._regions(x))
        return rearrange(found, "b (r m) k d -> (b r) m k d", r=self._local)

    def attend(self, q: Queries, k: KeysValues, v: KeysValues, kv_mask: KeyMask | None = None) -> Queries:
        """Attend over the scene's tokens; those that `key_mask` hides must be hidden by `kv_mask`.

        Sends what the cheapest plan states (`parallel.exchange`).
        """
        q, k, v, kv_mask = jax.tree.map(self._join_tokens, (q, k, v, kv_mask))
        out = scene_attention(q, k, v, axis_name=self.shard.axis, exchange="hybrid", kv_mask=kv_mask)
        return rearrange(out, "b (r t) k d -> (b r) t k d", r=self._local)

    def cross_attend(self, q, k, v, kv_mask=None, mask=None):
        """Let queries of the scenes [b q k d] read the tokens of all regions under one softmax.

        Every device reads its own tokens; a maximum and a sum over devices join what they found. Sends, float32 each,
        with `mask` one number a query, then one and d + 1 a query and head; backward the queries' gradient.
        """
        q = vary(q, (self.shard.axis,))
        k, v, kv_mask = jax.tree.map(self._join_tokens, (k, v, kv_mask))
        if mask is not None:
            mask = rearrange(self._regions(mask), "b r q t -> b q (r t)")
        return cross_attend(
            q, k, v, kv_mask, mask, lambda x: pmax(x, (self.shard.axis,)), lambda x: psum(x, (self.shard.axis,))
        )

    def _edged(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Return a marked map [n h + 2 w + 2 c + 1] with what lies beyond its edges; zeros where it does not grow."""
        rows, cols = (int(to > of) for of, to in zip(x.shape[1:3], size, strict=True))
        marked = self._fold(halo(self._marked(x), rows, rows, cols, cols, self.shard))
        return jnp.pad(marked, ((0, 0), (1 - rows, 1 - rows), (1 - cols, 1 - cols), (0, 0)))

    def _map_pooled(self, f: Callable[[jax.Array, Borders], jax.Array], x: jax.Array, bins: int) -> jax.Array:
        """Average the scene adaptively, apply `f` and resize."""
        h, w = x.shape[1:3]
        bounds = []
        for place, extent in zip(self.places(h, w), self._extents(h, w), strict=True):
            first = jnp.arange(bins) * extent[:, None] // bins
            last = -(-(jnp.arange(bins) + 1) * extent[:, None] // bins)
            place = self._regions(place)[:, :, None]
            bounds.append(((place >= first[:, None, :, None]) & (place < last[:, None, :, None])).astype(x.dtype))
        marked = self._marked(x)
        sums = psum(_einsum("brsh,brhwc,brtw->bstc", bounds[0], marked, bounds[1]), (self.shard.axis,))
        count = sums[..., -1:]
        pooled = (sums[..., :-1] / jnp.maximum(count, 1)).astype(x.dtype)
        filled = None if self.valid is None else count[..., 0] > 0
        inner = _Pooled(valid=filled, axes=tuple(a for a in self.axes if a != self.shard.axis))
        y = f(pooled, inner)
        if filled is None:
            return self._spread(y, h, w, "bilinear").astype(y.dtype)
        found = keep(filled, jnp.concatenate([y, jnp.ones_like(y[..., :1])], -1))
        spread = self._spread(found, h, w, "bilinear")
        return _ratio(spread[..., :-1], spread[..., -1:]).astype(y.dtype)

    def _spread(self, table: jax.Array, height: int, width: int, method: str) -> jax.Array:
        """Resize maps of whole scenes [b i j c] (or [1 i j c] for all) and return each region's part, float32."""
        weights = []
        for size, place, extent in zip(
            table.shape[1:3], self.places(height, width), self._extents(height, width), strict=True
        ):
            weights.append(source_weights(self._regions(place), extent[:, None, None], size, method))
        table = jnp.broadcast_to(table, (self.scenes, *table.shape[1:]))
        return self._fold(_einsum("brhi,bijc,brwj->brhwc", weights[0], table, weights[1]))

    def _whole_windows(self, x: jax.Array, axis: int, size: int, first: int) -> tuple[jax.Array, int | jax.Array]:
        """Extend `axis` of every region to whole windows of the scene, the first of which begins at `first` <= 0.

        Returns them and where the region begins in them: one number, or one a region [r].
        """
        extent = x.shape[axis]
        regions = self.shard.grid.rows if axis == 2 else self.shard.grid.cols

        def extend(before: int, after: int) -> jax.Array:
            sides = (before, after, 0, 0) if axis == 2 else (0, 0, before, after)
            return halo(x, *sides, self.shard)

        if regions == 1 or extent % size == 0:
            begin = -first % size
            return extend(begin, -(begin + extent) % size), begin
        # Regions begin anywhere in a window, known on the device only, while shapes must be the same everywhere: all
        # take the largest number of windows that a region can touch.
        begin = (self.shard.places(self._local)[axis - 2] * extent - first) % size
        length = -(-(extent + size - 1) // size) * size
        x = extend(size - 1, size - 1)
        beyond = length + size - 1 - x.shape[axis]
        x = jnp.pad(x, [(0, max(beyond, 0) if d == axis else 0) for d in range(x.ndim)])
        return slice_each(x, size - 1 - begin, length, axis), begin


@dataclasses.dataclass(frozen=True, eq=False)
class _Pooled(Isolated):
    """Borders of the pooled map of a scene; bins without a valid place are not seen."""

    def hide(self, x, value=0):
        """Set bins without a valid place to `value`."""
        return keep(self.valid, x, value)

    def sum(self, x):
        """Sum over the bins with a valid place."""
        return super().sum(self.hide(x))

    def mean(self, x):
        """Average over the bins with a valid place."""
        count = x[0, ..., 0].size if self.valid is None else self.valid.sum((1, 2))[:, None, None, None]
        return self.sum(x) / jnp.maximum(count, 1)


@dataclasses.dataclass(frozen=True)
class _Sampler:
    """Read the regions of one device at positions in the scene; what lies on other devices adds nothing."""

    grid: RegionGrid
    local: int
    height: int
    width: int

    def __call__(self, stay: tuple[jax.Array, jax.Array | None], values: jax.Array, device: jax.Array) -> jax.Array:
        def locate(row: jax.Array, col: jax.Array) -> tuple[jax.Array, jax.Array]:
            i, j = row // self.height, col // self.width
            region = i * self.grid.cols + j - device * self.local
            inside = (i >= 0) & (i < self.grid.rows) & (j >= 0) & (j < self.grid.cols)
            inside &= (region >= 0) & (region < self.local)
            place = (region * self.height + row % self.height) * self.width + col % self.width
            return jnp.where(inside, place, 0), inside

        return bilinear_gather(rearrange(values, "b r h w k d -> b (r h w) k d"), *stay, locate)


@dataclasses.dataclass(frozen=True)
class _EnterLines:
    """What enters the lines of the regions on one device, as `ops.selective_scan` asks for it."""

    shard: RegionShard
    local: int
    lines: str

    def __call__(self, log_decay: jax.Array, state: jax.Array, reverse: tuple[bool, ...]) -> jax.Array:
        log_decay, state = (rearrange(x, "k (b r) ... -> k b r ...", r=self.local) for x in (log_decay, state))
        scans = zip(log_decay, state, reverse, strict=True)
        entering = jnp.stack([entering_lines(*x, self.lines, self.shard, reverse=back) for *x, back in scans])
        return rearrange(entering, "k b r ... -> k (b r) ...")


def _ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """Return total / weight, and zero where nothing has weight."""
    found = weight > 0
    return jnp.where(found, total / jnp.where(found, weight, 1), 0)
