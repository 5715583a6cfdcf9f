"""What reading costs: bytes of a share of a scene, speed against rasterio's bare windowed reads, memory, conversion.

    python benchmarks/data.py [--side=12800] [--tall=25000] [--folder=/tmp/...] [--parts=bytes,speed,memory,cache]

The scene is smooth noise, uint8, 3 bands, as tiled GeoTIFFs (blocks of 256): raw, and zstd with predictor. Bytes are
those that the process asks of the system (`rchar` in /proc/self/io), file headers and all, against the region's part of
the file. Figures of memory are peaks of a process of its own, less that of one that imports the same and reads nothing.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import rasterio
import rasterio.shutil
from rasterio.windows import Window as RasterWindow
from ratios import race, report

from holojax.data import SceneReader, load_scene
from holojax.data.raster import allow_no_georeference
from holojax.ops.normalize import normalize
from holojax.parallel import Layout, RegionGrid

GRID = RegionGrid(2, 4)
GB = 1e9 / 2**20  # in MiB
KINDS = {"raw": {}, "zstd": dict(compress="zstd", predictor=2, zstd_level=3)}
CHILD = """
import sys
from holojax.data import SceneReader
from holojax.data.cache import cached
from holojax.parallel import RegionGrid
what, path, folder = sys.argv[1:]
if what == "region":
    reader = SceneReader.open(path, quiet=True)
    with reader.session() as read:
        for region in (0, 3):  # one after another, as a process of two devices reads them
            read(RegionGrid(2, 4).window(region, reader.height, reader.width))
elif what == "cached":
    cached(path, folder)
status = open("/proc/self/status").read()  # not getrusage: its peak is handed down from the parent
print(int(status.split("VmHWM:")[1].split()[0]) / 2**10)
"""


def scene(path, side, **profile):
    """Write a scene row by row of blocks, unless it is there."""
    if path.exists():
        return path
    allow_no_georeference()
    rng = np.random.default_rng(0)
    profile |= dict(driver="GTiff", count=3, dtype="uint8", tiled=True, blockxsize=256, blockysize=256)
    profile |= dict(interleave="pixel", bigtiff="IF_SAFER")
    with rasterio.open(path, "w", height=side, width=side, **profile) as target:
        for top in range(0, side, 256):
            rows = min(256, side - top)
            steps = rng.integers(-3, 4, (3, rows, side), dtype=np.int8)
            pixels = np.cumsum(steps, -1, dtype=np.int16).astype(np.uint8)
            target.write(pixels, window=RasterWindow(0, top, side, rows))
    return path


def bytes_read():
    with open("/proc/self/io") as counts:
        return int(counts.readline().split()[1])


def measure_bytes(path, side):
    """Read each of 8 processes' region, and compare its bytes with the region's part of the file."""
    reader = SceneReader.open(path, quiet=True)
    ratios = []
    for region in range(GRID.count):
        window = GRID.window(region, side, side)
        before = bytes_read()
        reader.read(window)
        share = window.height * window.width / side**2
        ratios.append((bytes_read() - before) / (os.path.getsize(path) * share))
    report(f"{path.name}: bytes read / bytes of its own regions, 8 processes, mean", np.mean(ratios), 1.1)
    report(f"{path.name}: the same, of the process that reads most", max(ratios))


def measure_speed(path, side, rounds):
    """Race the bare windowed read, ours, and ours placed and normalised on the device."""
    reader, layout = SceneReader.open(path, quiet=True), Layout.create(region=1)
    windows = [GRID.window(region, side, side) for region in range(GRID.count)]

    def bare():
        with rasterio.open(path) as source:
            for window in windows:
                source.read(window=RasterWindow(window.left, window.top, window.width, window.height))

    def ours():
        with reader.session() as read:
            for window in windows:
                read(window)

    place = jax.jit(lambda image, valid: normalize(image, valid, (127.5,), (64.0,)))
    contestants = {
        "bare": bare,
        "ours": ours,
        "placed": lambda: load_scene(reader, GRID, layout),
        "normalised": lambda: place(*load_scene(reader, GRID, layout)),
    }
    seconds = race(contestants, rounds)
    pixels = side * side / 1e6
    report(f"{path.name}: rasterio.read(window), megapixels/s", pixels / seconds["bare"])
    report(f"{path.name}: SceneReader, pixels/s over the bare read", seconds["bare"] / seconds["ours"], at_least=0.8)
    report(f"{path.name}: load_scene, pixels/s over the bare read", seconds["bare"] / seconds["placed"])
    where = jax.devices()[0].device_kind
    report(f"{path.name}: ... and normalised on {where}", seconds["bare"] / seconds["normalised"], at_least=0.8)


def peak(what, path="", folder=""):
    """Return the peak memory of a process that does one thing, MiB."""
    command = [sys.executable, "-c", CHILD, what, str(path), str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(folder, tall):
    base = peak("nothing")
    for side in (tall // 2, tall):
        path = scene(folder / f"tall{side}.tif", side, **KINDS["zstd"])
        used = peak("region", path) - base
        report(f"{side} x {side}: memory of a process that reads two eighths of it, one by one, GB", used / GB, 2.0)


def measure_cache(folder, tall):
    base = peak("nothing")
    for side in (tall // 2, tall):
        source = scene(folder / f"tall{side}.tif", side, **KINDS["zstd"])
        for driver, name, options in (("PNG", f"tall{side}.png", {"ZLEVEL": "1"}), ("JPEG", f"tall{side}.jpg", {})):
            path = folder / name
            if not path.exists():
                rasterio.shutil.copy(source, path, driver=driver, **options)
            with tempfile.TemporaryDirectory(dir=folder) as out:
                report(f"{name}: memory while it is converted, GB", (peak("cached", path, out) - base) / GB, 2.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=12800)
    parser.add_argument("--tall", type=int, default=25000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="bytes,speed,memory,cache")
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the scenes for another time")
    args = parser.parse_args()
    parts = args.parts.split(",")
    print(f"{len(os.sched_getaffinity(0))} core(s), load {os.getloadavg()[0]:.1f}, {jax.devices()[0].device_kind}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, profile in KINDS.items():
            if "bytes" in parts or "speed" in parts:
                path = scene(folder / f"{name}{args.side}.tif", args.side, **profile)
            if "bytes" in parts:
                measure_bytes(path, args.side)
            if "speed" in parts:
                measure_speed(path, args.side, args.rounds)
        if "memory" in parts:
            measure_memory(folder, args.tall)
        if "cache" in parts:
            measure_cache(folder, args.tall)


if __name__ == "__main__":
    main()
