"""What the functions of `parallel.collectives` and attention may send."""

from __future__ import annotations

import math
from collections.abc import Mapping

from holojax.parallel.exchange import Plan
from holojax.parallel.regions import RegionGrid

TRADE, PERMUTE, REDUCE = "all-to-all", "collective-permute", "all-reduce"

Shape = tuple[int, ...]


def add(*parts: Mapping[str, int]) -> dict[str, int]:
    """Add up traffic by kind; kinds without bytes are left out."""
    kinds = sorted({kind for part in parts for kind in part})
    sums = {kind: sum(part.get(kind, 0) for part in parts) for kind in kinds}
    return {kind: size for kind, size in sums.items() if size}


def psum(*shapes: Shape, itemsize: int = 4) -> dict[str, int]:
    """One all-reduce of everything that is summed.

    The gradient of a sum is a copy, so backward sends nothing. Other than that, what is the same on all devices and is
    used where they differ (parameters) has a gradient that is summed: as many bytes again.
    """
    return add({REDUCE: itemsize * sum(math.prod(shape) for shape in shapes)})


def from_region(block: Shape, offset: int, devices: int, *, itemsize: int = 4, wrap: bool = False) -> dict[str, int]:
    """One block in at most two permutes, less the regions that stay on their device or come from beyond the ends.

    Region i + offset of device d lies `hops` devices on, or one more if the remainder reaches over the device's end.
    """
    local = block[1]
    hops, shift = divmod(offset, local)

    def travels(distance: int) -> bool:
        return distance % devices != 0 if wrap else 0 < abs(distance) < devices

    regions = (local - shift) * travels(hops) + shift * travels(hops + 1)
    return add({PERMUTE: itemsize * regions * math.prod(block) // local})


def from_neighbour(
    block: Shape, rows: int, cols: int, grid: RegionGrid, *, itemsize: int = 4, wrap: bool = False
) -> dict[str, int]:
    """As `from_region` of the neighbour's number; with `wrap` across columns once more, from the other side."""
    if not wrap and (abs(rows) >= grid.rows or abs(cols) >= grid.cols):
        return {}
    devices, offset = grid.count // block[1], rows * grid.cols + cols
    parts = [from_region(block, offset, devices, itemsize=itemsize, wrap=wrap)]
    if cols and wrap:
        other = offset + (-grid.cols if cols > 0 else grid.cols)
        parts.append(from_region(block, other, devices, itemsize=itemsize, wrap=True))
    return add(*parts)


def halo(block: Shape, widths: tuple[int, int, int, int], grid: RegionGrid, *, itemsize: int = 4) -> dict[str, int]:
    """One strip a side, as wide as the halo; those to the left and right are longer by the rows that came first.

    `widths` are (top, bottom, left, right). A halo wider than a region comes in strips of at most one region each, from
    neighbours further and further away.
    """
    b, r, h, w, *rest = block
    top, bottom, left, right = widths
    parts = []

    def strips(shape: Shape, axis: int, width: int, sign: int) -> None:
        for hop in range(1, -(-width // shape[axis]) + 1):
            take = min(shape[axis], width - (hop - 1) * shape[axis])
            step = (sign * hop, 0) if axis == 2 else (0, sign * hop)
            strip = (*shape[:axis], take, *shape[axis + 1 :])
            parts.append(from_neighbour(strip, *step, grid, itemsize=itemsize))

    for width, sign in ((top, -1), (bottom, 1)):
        strips((b, r, h, w, *rest), 2, width, sign)
    for width, sign in ((left, -1), (right, 1)):
        strips((b, r, top + h + bottom, w, *rest), 3, width, sign)
    return add(*parts)


def roll(block: Shape, rows: int, cols: int, grid: RegionGrid, *, itemsize: int = 4) -> dict[str, int]:
    """Two parts of one block for rows, two for columns, each from the neighbour that it comes from, round the grid."""
    parts = []
    for axis, distance, extent in ((2, rows, grid.rows), (3, cols, grid.cols)):
        hops, shift = divmod(distance % (extent * block[axis]), block[axis])
        for back, taken in ((hops + 1, shift), (hops, block[axis] - shift)):
            if taken and back % extent:
                step = (-(back % extent), 0) if axis == 2 else (0, -(back % extent))
                part = (*block[:axis], taken, *block[axis + 1 :])
                parts.append(from_neighbour(part, *step, grid, itemsize=itemsize, wrap=True))
    return add(*parts)


def entering_state(edge: Shape, along: str, grid: RegionGrid, *, itemsize: int = 4) -> dict[str, int]:
    """Two edges a round, one in the last: from neighbours at distances 1, then 1, 2, 4 ... below e - 1 of e regions."""
    extent = grid.rows if along == "rows" else grid.cols
    rounds = [] if extent == 1 else [1, *(2**i for i in range((extent - 2).bit_length()))]

    def one(distance: int) -> dict[str, int]:
        step = (-distance, 0) if along == "rows" else (0, -distance)
        return from_neighbour(edge, *step, grid, itemsize=itemsize)

    return add(*[one(distance) for distance in (*rounds, *rounds[:-1])])


def ring_sum(block: Shape, devices: int, *, itemsize: int = 4, backward: bool = False) -> dict[str, int]:
    """The block to the D - 1 other devices; backward again, and its float32 gradient all the way home, D times."""
    if devices == 1:
        return {}
    gradient = 4 * devices if backward else 0
    return add({PERMUTE: math.prod(block) * ((devices - 1) * itemsize + gradient)})


def attention(plan: Plan, *, backward: bool = False) -> dict[str, int]:
    """What `parallel.exchange` states for a plan."""
    trade, ring = (part.backward if backward else part.forward for part in (plan.trade, plan.ring))
    return add({TRADE: trade, PERMUTE: ring})
