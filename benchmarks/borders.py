"""What exact borders cost: FLOPs and traffic of regions together, as ratios, each beside the limit that it must keep.

    python benchmarks/borders.py

Nothing is run: programs are compiled for 8 virtual CPU devices, one region on each, and looked at.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ratios import report

from holojax.borders import Exact
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.profiling import totals, traffic
from holojax.profiling.contract import borders as contract
from holojax.profiling.programs import abstract_model, forward


def flops(regions, size):
    """Return the FLOPs of Swin-T and a tiny head on its last map, all devices together, one region a device."""
    model = abstract_model(
        dict(
            name="rest",
            bands=3,
            classes=8,
            regions=regions,
            border="exact",
            encoder=dict(name="swin", embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7),
            context=None,
            decoder=dict(name="fcn", channels=8, stage=3),
            aux=None,
        )
    )
    layout = Layout.create(region=regions[0] * regions[1])
    f, shapes = forward(model, layout, (size, size))
    return f.lower(*shapes).compile().cost_analysis()["flops"] * layout.region


def scan_bytes(along):
    """Return bytes of a scan across 2 x 4 regions over those of its formula, and over those of the whole map."""
    grid, layout = RegionGrid(2, 4), Layout.create(region=8)
    shape = (1, grid.count, 32, 32, 64)

    def scan(a, b):
        fold = (a.shape[0] * a.shape[1], *a.shape[2:])
        borders = Exact(RegionShard(grid), a.shape[0], axes=(DATA, REGION))
        return borders.scan(a.reshape(fold), b.reshape(fold), along).reshape(a.shape)

    place = P(DATA, REGION)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout.scenes)
    found = totals(traffic(layout.shard(scan, in_specs=(place, place), out_specs=place), x, x))
    stated = contract.scan((1, 1, *shape[2:]), along, grid)
    return sum(found.values()) / sum(stated.values()), sum(found.values()) / (2 * 4 * 32 * 32 * 64)


def main():
    alone, together = (flops(regions, size=1024) for regions in ((1, 1), (2, 4)))
    what = f"Swin-T, exact, 1024 x 1024: FLOPs of 8 regions together / of one ({alone / 1e9:.0f} G)"
    report(what, together / alone, 1.15)
    for along in ("rows", "cols"):
        formula, whole = scan_bytes(along)
        report(f"scan along {along} across 2 x 4 regions: bytes / formula of edges", formula, 1.01)
        report(f"scan along {along} across 2 x 4 regions: bytes / both whole maps of a region", whole)


if __name__ == "__main__":
    main()
