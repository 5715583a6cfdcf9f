"""Where things lie: the mesh, the region grid, and what devices send each other."""

from holojax.parallel.mesh import DATA, REGION, Layout
from holojax.parallel.regions import RegionGrid, RegionShard, Window

__all__ = ["DATA", "REGION", "Layout", "RegionGrid", "RegionShard", "Window"]
