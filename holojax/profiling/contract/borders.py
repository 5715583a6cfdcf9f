"""What the methods of `borders.Exact` may send: `sums` for `sum` and `norm`, `means`, `maxima`, the others by name."""

from __future__ import annotations

from holojax.ops.windows import Sides, sides
from holojax.parallel.regions import RegionGrid
from holojax.profiling.contract.collectives import Shape, add, entering_state, from_neighbour, halo, psum


def map_windows(block: Shape, size: Sides, shift: Sides, grid: RegionGrid, *, itemsize: int = 4) -> dict[str, int]:
    """A halo that completes the windows, with a mark of validity as one more channel.

    Where the regions of a side are multiples of the window, or there is one alone, it reaches from the first window's
    begin (shift - size of the scene's corner) to the last one's end; elsewhere regions begin anywhere in a window and
    take size - 1 rows and columns on each side. Columns are as long as the rows of whole windows.
    """
    b, r, h, w, c = block
    marked, parts = [b, r, h, w, c + 1], []
    sizes = zip((2, 3), (grid.rows, grid.cols), sides(size), sides(shift), strict=True)
    for axis, regions, side, step in sizes:
        extent = marked[axis]
        if regions == 1 or extent % side == 0:
            before = (side - step) % side
            after = -(before + extent) % side
            length = before + extent + after
        else:
            before = after = side - 1
            length = -(-(extent + side - 1) // side) * side
        widths = (before, after, 0, 0) if axis == 2 else (0, 0, before, after)
        parts.append(halo(tuple(marked), widths, grid, itemsize=itemsize))
        marked[axis] = length
    return add(*parts)


def resize(block: Shape, size: tuple[int, int], grid: RegionGrid, *, itemsize: int = 4) -> dict[str, int]:
    """Where the map grows, one row or column a side and a mark of validity; else nothing."""
    b, r, h, w, c = block
    rows, cols = int(size[0] > h), int(size[1] > w)
    return halo((b, r, h, w, c + 1), (rows, rows, cols, cols), grid, itemsize=itemsize)


def map_pooled(block: Shape, bins: int, channels_out: int, *, masked: bool, backward: bool = False) -> dict[str, int]:
    """Float32 sums of every bin, and its count; backward the gradient of what was made of the bins.

    With invalid pixels the extent of each scene is found first, and what was made of the bins has a mark too.
    """
    b, c = block[0], block[-1]
    if backward:
        return psum((b, bins, bins, channels_out + masked))
    return add(psum((b, bins, bins, c + 1)), extents(b) if masked else {})


def extents(scenes: int) -> dict[str, int]:
    """The last valid row and column of every scene, int32; no gradient."""
    return psum((2, scenes))


def sums(block: Shape) -> dict[str, int]:
    """A float32 sum for every channel of a scene; backward as much again."""
    return psum(_per_scene(block))


def means(block: Shape, *, backward: bool = False) -> dict[str, int]:
    """As `sums`, and the count of places, which has no gradient."""
    return psum(_per_scene(block)) if backward else psum(_per_scene(block), (block[0],))


def maxima(block: Shape, *, itemsize: int = 4, backward: bool = False) -> dict[str, int]:
    """A maximum for every channel, the number of places that share it, and a sum that carries its gradient."""
    if backward:
        return psum(_per_scene(block))
    return add(psum(_per_scene(block), itemsize=itemsize), psum(_per_scene(block), _per_scene(block)))


def per_scene(shape: Shape) -> dict[str, int]:
    """What the regions of a scene have, summed in float32, `shape` [b ...]; backward nothing."""
    return psum(shape)


def cross_attend(queries: Shape, *, masked: bool, backward: bool = False) -> dict[str, int]:
    """For queries [b q k d] a maximum, a sum, and d sums a head, and with a mask of their own whether it shows any.

    Backward the gradient of the queries, which are the same on all devices.
    """
    b, q, heads, width = queries
    if backward:
        return psum(queries)
    return psum((b, q, heads, width + 2), *[(b, q)] * masked)


def moments(channels: int, *, backward: bool = False) -> dict[str, int]:
    """Sums, then squared distances from the mean, and the count, float32, over all scenes.

    Backward for each use of a result: of the mean where the distances are taken, of both where a map is normalised.
    """
    return psum((3 * channels if backward else 2 * channels + 1,))


def _per_scene(block: Shape) -> Shape:
    return block[0], block[-1]


def scan(block: Shape, along: str, grid: RegionGrid, *, itemsize: int = 4) -> dict[str, int]:
    """What enters each region, of the size of its edge, and the decay along with it; backward as much again."""
    axis = 2 if along == "rows" else 3
    return entering_state((*block[:axis], 1, *block[axis + 1 :]), along, grid, itemsize=itemsize)


def selective_scan(block: Shape, states: int, lines: str, grid: RegionGrid) -> dict[str, int]:
    """What enters a region's lines, `states` float32 numbers a channel and line; backward as much again.

    Both arrays of the composition along the lines, what enters whole lines across them, and that state back along them.
    """
    b, r, h, w, d = block
    along, across = ("cols", "rows") if lines == "rows" else ("rows", "cols")
    extent = grid.cols if lines == "rows" else grid.rows
    edge = (b, r, states, h if lines == "rows" else w, d)

    def fetch(distance: int) -> dict[str, int]:
        return from_neighbour(edge, *((distance, 0) if along == "rows" else (0, distance)), grid)

    forth = [-1, *(-(2**k) for k in range(max(extent - 2, 0).bit_length()))] if extent > 1 else []
    back = [2**k for k in range((extent - 1).bit_length())]
    return add(
        *(fetch(distance) for distance in forth for _ in range(2)),
        entering_state((b, r, states, 1, d), across, grid),
        *(fetch(distance) for distance in back),
    )
