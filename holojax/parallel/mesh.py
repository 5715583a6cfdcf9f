"""The mesh: the two axis names, spelled once, and every decision about where an array lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from holojax.errors import LayoutError

DATA, REGION = "data", "region"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where scenes, regions and parameters lie on the devices.

    A stack of regions `[b, r, h, w, c]` is placed as `P("data", "region")`: scenes over the first mesh axis,
    regions (row-major) over the second; parameters are on every device.
    """

    mesh: Mesh

    @classmethod
    def create(cls, data: int = 1, region: int | None = None) -> Layout:
        """Make a layout of the first `data * region` devices; without `region`, of all devices.

        Raises:
            LayoutError: there are fewer devices than asked for, or `data` does not divide them.
        """
        devices = jax.devices()
        if region is None:
            if data < 1 or len(devices) % data:
                raise LayoutError(f"data={data} does not divide the {len(devices)} devices found; give `region` too.")
            region = len(devices) // data
        if data < 1 or region < 1 or data * region > len(devices):
            raise LayoutError(
                f"A layout of data={data} x region={region} needs {data * region} devices (at least one on each axis); "
                f"found {len(devices)} ({devices[0].platform}). Use fewer, or on a CPU set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={data * region} before JAX starts."
            )
        grid = np.asarray(devices[: data * region]).reshape(data, region)
        return cls(Mesh(grid, (DATA, REGION), axis_types=(AxisType.Auto, AxisType.Auto)))

    @classmethod
    def fitting(cls, regions: int, data: int = 1) -> Layout:
        """Make the layout with the most devices on `region` whose number divides `regions`."""
        available = max(len(jax.devices()) // data, 1)
        return cls.create(data, max(n for n in range(1, available + 1) if regions % n == 0))

    @property
    def data(self) -> int:
        """Number of devices over which the scenes of a batch are spread."""
        return self.mesh.shape[DATA]

    @property
    def region(self) -> int:
        """Number of devices over which the regions of a scene are spread."""
        return self.mesh.shape[REGION]

    @property
    def scenes(self) -> NamedSharding:
        """Placement of `[b, r, ...]`: scenes over `data`, regions over `region`."""
        return NamedSharding(self.mesh, P(DATA, REGION))

    @property
    def per_scene(self) -> NamedSharding:
        """Placement of `[b, ...]`: one value a scene, the same on all its regions."""
        return NamedSharding(self.mesh, P(DATA))

    @property
    def replicated(self) -> NamedSharding:
        """Placement of parameters: a copy on every device."""
        return NamedSharding(self.mesh, P())

    def shard(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """Wrap `f`, which sees one device's block, into a function of whole arrays.

        `check_vma` stays on: without it a gradient taken inside is silently wrong.
        """
        return jax.shard_map(f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True)

    def regions_per_device(self, regions: int) -> int:
        """Count the regions that lie on each device.

        Raises:
            LayoutError: the devices on `region` do not divide the regions.
        """
        if regions % self.region:
            fits = [n for n in range(1, regions + 1) if regions % n == 0]
            raise LayoutError(
                f"{regions} regions (rows x cols) cannot be spread evenly over {self.region} devices on the "
                f"{REGION!r} axis. Use one of {fits} devices, or change model.regions."
            )
        return regions // self.region

    def check_batch(self, scenes: int) -> None:
        """Raise a LayoutError unless `scenes` scenes spread evenly over the `data` axis."""
        if scenes % self.data:
            raise LayoutError(
                f"{scenes} scenes cannot be spread evenly over {self.data} devices on the {DATA!r} axis. "
                f"Use a multiple of {self.data} scenes a batch, or a layout with data=1."
            )

    def describe(self, regions: int | None = None) -> str:
        """Say in one line which devices hold what.

        Which exchange attention over the scene takes depends on its tokens: `models.plans` says it stage by stage.

        Args:
            regions: of a scene; None: say nothing of regions.
        """
        kind = self.mesh.devices.flat[0].platform
        text = f"{self.mesh.size} {kind} device(s): data {self.data} x region {self.region}"
        return text if regions is None else f"{text}; {regions} regions, {self.regions_per_device(regions)} a device"


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Return the shapes of a tree of arrays or shapes, all placed by `sharding`: enough to compile for."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
