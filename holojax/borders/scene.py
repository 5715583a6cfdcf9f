"""What regions know of their scene: which of its places exist, where they lie, what lies beside them, and sums."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from holojax.borders.base import Borders, any_by_bins, check_widths, keep
from holojax.errors import ConfigError, LayoutError
from holojax.ops.varying import vary
from holojax.parallel import collectives
from holojax.parallel.collectives import halo, pmax, psum
from holojax.parallel.regions import RegionShard
from holojax.types import Bool


# eq=False: compared and hashed by identity, since arrays have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Scene(Borders):
    """Know the scene: the half of `Exact` on which the operations that join its places are built.

    To be used inside `Layout.shard`; maps hold this device's regions of all its scenes.

    Args:
        shard: place of the regions on the mesh.
        scenes: number of scenes on this device.
        valid: True on real pixels of each region, at pixel resolution [n h w]; None: all of them.
        axes: mesh axes over which batch statistics are taken.
    """

    shard: RegionShard
    scenes: int
    valid: Bool[jax.Array, "n h w"] | None = None
    axes: tuple[str, ...] = ()

    def hide(self, x, value=0):
        """Set places that cover no valid pixel to `value`."""
        return keep(self.valid_tokens(*x.shape[1:3]), x, value)

    def valid_tokens(self, height, width):
        """Say which places cover any valid pixel, be they larger or smaller than pixels."""
        if self.valid is None:
            return None
        valid = self.valid
        for axis, extent in ((1, height), (2, width)):
            pixels = valid.shape[axis]
            if pixels % extent:
                # Regions are alike, so parts of a region are those of the scene whatever the ratio.
                valid = any_by_bins(valid, extent, axis)
            else:
                shape = (*valid.shape[:axis], extent, pixels // extent, *valid.shape[axis + 1 :])
                valid = valid.reshape(shape).any(axis + 1)
        return valid

    def pad(self, x, top, bottom, left, right):
        """Extend a map by its neighbours, and by zeros beyond the scene; invalid places are zero.

        Sends the strips of `parallel.collectives.halo`.
        """
        check_widths(top, bottom, left, right)
        return self._fold(halo(self._regions(self.hide(x)), top, bottom, left, right, self.shard))

    def roll(self, x, rows, cols):
        """Roll the canvas (the scene and its padding).

        Sends one map's worth for each of rows and columns, as far as it comes from other devices. Shifted windows do
        not need it: see `map_windows`.
        """
        return self._fold(collectives.roll(self._regions(x), rows, cols, self.shard))

    def extent(self, height, width):
        """Count rows and columns of the canvas, of which only the valid ones count."""
        return height * self.shard.grid.rows, width * self.shard.grid.cols, self.valid is None

    def span(self, height, width):
        """Count the scene's rows and columns up to the last valid one; sends two numbers a scene."""
        extents = (extent.astype(jnp.float32) for extent in self._extents(height, width))
        return tuple(jnp.repeat(extent, self._local) for extent in extents)

    def places(self, height, width):
        """Count rows and columns from the scene's corner."""
        local = self._local
        return tuple(
            jnp.tile((place[:, None] * extent + jnp.arange(extent)).astype(jnp.float32), (self.scenes, 1))
            for place, extent in zip(self.shard.places(local), (height, width), strict=True)
        )

    def sum(self, x):
        """Sum over the scene's valid places; sends c float32 numbers a scene."""
        return self._per_region(self._sum(self.hide(x))).astype(x.dtype)

    def mean(self, x):
        """Average over the scene's valid places; sends c + 1 float32 numbers a scene."""
        sums = self._sum(self._fold(self._marked(x)))
        return self._per_region(sums[..., :-1] / jnp.maximum(sums[..., -1:], 1)).astype(x.dtype)

    def max(self, x):
        """Take the largest value of the scene's valid places (the lowest number there is, if it has none).

        Sends c numbers a scene, and c + c sums for the gradient: places that share the maximum share its gradient.
        """
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ConfigError(f"max over the scene: expected a floating-point map, found {x.dtype}. Convert it first.")
        x = self._regions(self.hide(x, float(jnp.finfo(x.dtype).min)))
        # pmax has no gradient, so it only finds the value; the sum below has its gradient and adds nothing to it.
        top = pmax(x.max((1, 2, 3), keepdims=True), (self.shard.axis,))
        equal = x == top
        above = jnp.where(equal, x - top, 0).astype(jnp.float32)
        sums = self._sum(self._fold(jnp.concatenate([above, equal.astype(jnp.float32)], -1)))
        excess, ties = jnp.split(sums, 2, axis=-1)
        return self._per_region(top[:, 0, 0, 0] + (excess / ties).astype(x.dtype))

    def key_mask(self, height, width, extra=0):
        """Hide invalid tokens, and all copies of the extra ones but that of the scene's first region."""
        valid = self.valid_tokens(height, width)
        if valid is None and not extra:
            return None
        n = self.scenes * self._local
        valid = jnp.ones((n, height * width), bool) if valid is None else valid.reshape(n, -1)
        first = jnp.tile(self.shard.indices(self._local) == 0, self.scenes)
        return jnp.concatenate([jnp.broadcast_to(first[:, None], (n, extra)), valid], axis=1)

    def surroundings(self, n):
        """Count the scenes."""
        return self.scenes

    def per_surrounding(self, x, n):
        """Give every scene a copy of a parameter, the same on all devices that hold it."""
        # Typed as differing between scenes before it is repeated: so its gradient is summed over them once.
        x = vary(x, tuple(a for a in self.axes if a != self.shard.axis))
        return jnp.broadcast_to(x, (self.scenes, *x.shape))

    def per_region(self, x):
        """Give every region what its scene has."""
        # Typed as differing between devices before it is repeated: so its gradient is summed over them once a scene.
        return jnp.repeat(vary(x, (self.shard.axis,)), self._local, axis=0)

    def add_regions(self, x):
        """Add up what the regions of each scene have; sends it once a scene, in float32."""
        return psum(self._regions(x).sum(1, dtype=jnp.float32), (self.shard.axis,)).astype(x.dtype)

    @property
    def _local(self) -> int:
        """Number of regions on this device."""
        grid, devices = self.shard.grid, lax.axis_size(self.shard.axis)
        if grid.count % devices:
            raise LayoutError(
                f"Exact borders: {grid.rows} x {grid.cols} regions cannot be spread evenly over {devices} devices "
                f"along {self.shard.axis!r}. Use a number of devices that divides {grid.count}."
            )
        return grid.count // devices

    def _regions(self, x: jax.Array) -> jax.Array:
        """Unfold the regions of every scene: [n ...] to [b r ...]."""
        if x.shape[0] != self.scenes * self._local:
            raise LayoutError(
                f"Exact borders of scenes={self.scenes} with {self._local} regions each on this device: expected "
                f"{self.scenes * self._local} maps, found {x.shape[0]}. Give `scenes` as they are on one device."
            )
        return rearrange(x, "(b r) ... -> b r ...", r=self._local)

    def _fold(self, x: jax.Array) -> jax.Array:
        return rearrange(x, "b r ... -> (b r) ...")

    def _join_tokens(self, x: jax.Array) -> jax.Array:
        """Put the tokens of a scene's regions on this device together: [n t ...] to [b (r t) ...]."""
        return rearrange(self._regions(x), "b r t ... -> b (r t) ...")

    def _marked(self, x: jax.Array) -> jax.Array:
        """Return the regions of a map [b r h w c + 1], invalid places zero; the last channel is 1 where valid."""
        present = self.hide(jnp.ones_like(x[..., :1]))
        return self._regions(jnp.concatenate([self.hide(x), present], -1))

    def _sum(self, x: jax.Array) -> jax.Array:
        """Sum a map over its scene, float32 [b c]."""
        return psum(self._regions(x).sum((1, 2, 3), dtype=jnp.float32), (self.shard.axis,))

    def _per_region(self, x: jax.Array) -> jax.Array:
        """Give every region its scene's numbers: [b c] to [n 1 1 c]."""
        return self.per_region(x)[:, None, None]

    def _extents(self, height: int, width: int) -> list[jax.Array]:
        """Return how many rows and columns of maps of this size each scene has, int32 [b]; at least 1."""
        extents = []
        for axis, extent, regions in ((1, height, self.shard.grid.rows), (2, width, self.shard.grid.cols)):
            if self.valid is None:
                extents.append(jnp.full(self.scenes, extent * regions))
                continue
            place = self.shard.places(self._local)[axis - 1]
            any_valid = self._regions(self.valid_tokens(height, width).any(3 - axis))
            beyond = jnp.where(any_valid, (place * extent)[:, None] + jnp.arange(1, extent + 1), 1).max((1, 2))
            extents.append(pmax(beyond, (self.shard.axis,)))
        return extents
