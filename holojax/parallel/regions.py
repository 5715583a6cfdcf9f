"""Regions: how a scene is cut, where each piece lies in it, and how the pieces come together again."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from holojax.errors import LayoutError
from holojax.parallel.mesh import REGION


class Window(NamedTuple):
    """A rectangle of pixels in a scene; height and width may be zero."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class RegionGrid:
    """A grid of `rows` x `cols` equal regions, numbered in row-major order.

    A region has ceil(H / rows) x ceil(W / cols) pixels, rounded up to `multiple` (1 in isolated mode; in exact mode the
    largest stride of the model, so that no place of a map lies across two regions): the scene is padded at the bottom
    and right only.
    """

    rows: int
    cols: int
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise LayoutError(f"model.regions: expected at least 1 x 1 regions, found {self.rows} x {self.cols}.")
        if self.multiple < 1:
            raise LayoutError(f"Regions need a multiple of at least 1 pixel, found {self.multiple}.")

    @classmethod
    def of_power(cls, power: int) -> RegionGrid:
        """Make the default grid of 2^power regions: REST's equation 5 with its error for odd powers mended."""
        return cls(rows=2 ** (power // 2), cols=2 ** (power - power // 2))

    @property
    def count(self) -> int:
        """Number of regions."""
        return self.rows * self.cols

    def region_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a region in pixels, for a scene of `height` x `width` pixels.

        Raises:
            LayoutError: the scene has fewer pixels along a side than the grid has regions.
        """
        if height < self.rows or width < self.cols:
            raise LayoutError(
                f"A scene of {height} x {width} pixels is smaller than the {self.rows} x {self.cols} region grid. "
                f"Use a larger scene or fewer regions (model.regions)."
            )
        return (
            math.ceil(math.ceil(height / self.rows) / self.multiple) * self.multiple,
            math.ceil(math.ceil(width / self.cols) / self.multiple) * self.multiple,
        )

    def window(self, index: int, height: int, width: int) -> Window:
        """Return the pixels of region `index` that lie inside the scene (none for a region wholly in the padding)."""
        h, w = self.region_size(height, width)
        top, left = (index // self.cols) * h, (index % self.cols) * w
        top, left = min(top, height), min(left, width)
        return Window(top, left, min(h, height - top), min(w, width - left))

    def split(self, scene: jax.Array | np.ndarray, multiple: int = 1, fill: int | float = 0) -> jax.Array | np.ndarray:
        """Cut `[b H W c]` or `[b H W]` into `[b r h w (c)]`, padded with `fill` (labels: the ignore value).

        Region sizes are multiples of the grid's own multiple and of `multiple`. NumPy in, NumPy out; anything else
        gives a JAX array. The dtype stays.
        """
        xp = np if isinstance(scene, np.ndarray) else jnp
        if scene.ndim not in (3, 4):
            raise LayoutError(f"Expected a batch of scenes [b H W c] or [b H W], found shape {scene.shape}.")
        height, width = scene.shape[1:3]
        coarser = dataclasses.replace(self, multiple=math.lcm(self.multiple, multiple))
        h, w = coarser.region_size(height, width)
        pads = [(0, 0), (0, h * self.rows - height), (0, w * self.cols - width)] + [(0, 0)] * (scene.ndim - 3)
        padded = xp.pad(scene, pads, constant_values=fill) if any(map(any, pads)) else scene
        return rearrange(padded, "b (i h) (j w) ... -> b (i j) h w ...", i=self.rows, j=self.cols)

    def stitch(self, stack: jax.Array | np.ndarray, height: int, width: int) -> jax.Array | np.ndarray:
        """Put `[b r h w ...]` together as `[b height width ...]`, padding dropped: the inverse of `split`."""
        if stack.ndim < 4 or stack.shape[1] != self.count:
            raise LayoutError(
                f"Expected a stack [b {self.count} h w ...] for a {self.rows} x {self.cols} grid, found {stack.shape}."
            )
        scene = rearrange(stack, "b (i j) h w ... -> b (i h) (j w) ...", i=self.rows, j=self.cols)
        return scene[:, :height, :width]


@dataclasses.dataclass(frozen=True)
class RegionShard:
    """What code inside `Layout.shard` knows of its place: the grid, and the mesh axis that holds it."""

    grid: RegionGrid
    axis: str = REGION

    def indices(self, local: int) -> jax.Array:
        """Return the numbers of the `local` regions on this device, int32 `[local]`."""
        return jax.lax.axis_index(self.axis) * local + jnp.arange(local, dtype=jnp.int32)

    def places(self, local: int) -> tuple[jax.Array, jax.Array]:
        """Return grid row and grid column of the `local` regions on this device, int32 `[local]` each."""
        index = self.indices(local)
        return index // self.grid.cols, index % self.grid.cols
