"""Reading the maps of regions at points of their surroundings: no region ever holds a whole scene's masks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from holojax.borders import Borders
from holojax.types import Float


class Corner(NamedTuple):
    """One of the four places around each point."""

    index: jax.Array  # int32 [n p], into the rows of `Reader.rows`
    share: Float[jax.Array, "n p"]  # bilinear weight; 0 in all regions but the one in which the point lies
    inside: jax.Array  # bool [n p]: not beyond the surroundings' last row and column


class Reader:
    """Where points of the surroundings lie in maps of one size, and what is there.

    Args:
        points: rows and columns [m p 2] as fractions of the surroundings' extent.
        pixels: rows and columns of a region in pixels, which the extent is counted in.
        size: rows and columns of a region's map; a place covers pixels / size of them.
        borders: what the regions see beyond their edges.
    """

    def __init__(
        self, points: Float[jax.Array, "m p 2"], pixels: tuple[int, int], size: tuple[int, int], borders: Borders
    ) -> None:
        self.borders, self.size = borders, size
        points, extents = borders.per_region(points), borders.span(*pixels)
        places, spans = borders.places(*size), borders.span(*size)
        axes = []
        for axis in (0, 1):
            place = points[..., axis] * extents[axis][:, None] * (size[axis] / pixels[axis]) - 0.5
            base = jnp.floor(place)
            first = places[axis][:, :1]
            # A point in the outer half of the first row has its first corner beyond it, and is that region's.
            owner = jnp.maximum(base, 0) - first
            own = (owner >= 0) & (owner < size[axis])
            sides = []
            for side in (0, 1):
                scene = base + side
                local = jnp.clip(scene - first + 1, 0, size[axis] + 1).astype(jnp.int32)
                weight = place - base if side else 1 - (place - base)
                sides.append((local, jnp.where(own, weight, 0), (scene >= 0) & (scene < spans[axis][:, None])))
            axes.append(sides)
        start = jnp.arange(len(points))[:, None] * (size[0] + 2) * (size[1] + 2)
        self.corners = [
            Corner(start + row[0] * (size[1] + 2) + col[0], row[1] * col[1], row[2] & col[2])
            for row in axes[0]
            for col in axes[1]
        ]

    def rows(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "s c"]:
        """Extend a map by one place on each side and list its places, region by region."""
        return self.borders.pad(x, 1, 1, 1, 1).reshape(-1, x.shape[-1])

    def bilinear(self, x: Float[jax.Array, "n h w c"]) -> Float[jax.Array, "m p c"]:
        """Read a map between its places; zero beyond the surroundings, as torch's grid_sample."""
        rows = self.rows(x.astype(jnp.float32))
        parts = [rows.at[c.index].get(mode="promise_in_bounds") * c.share[..., None] for c in self.corners]
        return self.borders.add_regions(sum(parts[1:], parts[0]))

    def truth(self, marks: Float[jax.Array, "n h w 1"], classes: int) -> tuple[jax.Array, jax.Array]:
        """Read what share of each point belongs to each class, and what share counts at all.

        Args:
            marks: the label's class + 1 where a pixel counts, else 0.
            classes: number of classes.

        Returns:
            [m p k] and [m p]. Corners beyond the surroundings count and belong to no class, as they do in torch's
            grid_sample of a mask; others that are not labelled do not count.
        """
        rows = self.rows(marks)[:, 0]
        found = jnp.stack([rows.at[c.index].get(mode="promise_in_bounds") * (c.share > 0) for c in self.corners], -1)
        lost = sum(c.share * (c.inside & (found[..., i] == 0)) for i, c in enumerate(self.corners))
        shares = jnp.stack([c.share for c in self.corners], -1)
        # Four marks and shares a point travel, not a number for each class.
        sums = self.borders.add_regions(jnp.concatenate([found, shares, lost[..., None]], -1))
        found, shares, lost = sums[..., :4], sums[..., 4:8], sums[..., 8]
        member = found[..., None] == jnp.arange(1, classes + 1)
        return jnp.where(member, shares[..., None], 0).sum(-2), 1 - lost
