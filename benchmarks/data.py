"""What reading costs: bytes of a share of a scene, speed against rasterio's bare windowed reads, memory, conversion.

    python benchmarks/data.py [--side=12800] [--tall=25000] [--folder=/tmp/...]
        [--parts=bytes,speed,memory,cache,statistics,pipeline]

The scene is smooth noise, uint8, 3 bands, as tiled GeoTIFFs (blocks of 256): raw, and zstd with predictor. Bytes are
those that the process asks of the system (`rchar` in /proc/self/io), file headers and all, against the region's part of
the file. Figures of memory are peaks of a process of its own, less that of one that imports the same and reads nothing.
The pipeline races those of `torch_windows.py`, where torch and torchgeo are: the same files, more than caches hold, as
many workers, crops at scales 0.5 to 2, turns, mirrors, brightness and contrast, until a batch is normalised float32.
Ours changes values on the device, which is the processor where there is no other one.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import rasterio
import rasterio.shutil
from rasterio.windows import Window as RasterWindow
from ratios import race, report

from holojax.data import Augment, RasterScenes, SceneReader, load_scene, train_batches
from holojax.data.raster import allow_no_georeference
from holojax.data.statistics import measure
from holojax.data.sweep import sweep
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


def labels_of(path, side, **profile):
    """Write the label of a scene, patches of 8 classes, unless it is there."""
    if not path.exists():
        patches = np.random.default_rng(0).integers(0, 8, (side // 64 + 1,) * 2).astype(np.uint8)
        profile |= dict(driver="GTiff", count=1, dtype="uint8", tiled=True, blockxsize=256, blockysize=256)
        with rasterio.open(path, "w", height=side, width=side, **profile) as target:
            target.write(np.kron(patches, np.ones((64, 64), np.uint8))[:side, :side], 1)
    return path


def pairs_of(folder, count, side):
    """Write scenes with labels, side by side on one grid."""
    pairs = []
    for number in range(count):
        place = dict(crs="EPSG:32633", transform=rasterio.Affine(1, 0, 4e5 + number * side, 0, -1, 5e6))
        image = scene(folder / f"image{number}_{side}.tif", side, compress="deflate", predictor=2, **place)
        pairs.append((image, labels_of(folder / f"label{number}_{side}.tif", side, compress="deflate", **place)))
    return pairs


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


def measure_statistics(folder, side, rounds):
    """Race the pass over image and label against the bare reads of its windows, on as many threads."""
    scenes = RasterScenes(pairs_of(folder, 1, side), classes=8)

    def read(scene, windows):
        with rasterio.open(scene.image.path) as image, rasterio.open(scene.label.path) as label:
            for window in windows:
                area = RasterWindow(window.left, window.top, window.width, window.height)
                image.read(window=area), label.read(1, window=area)

    contestants = {
        "bare": lambda: [None for _ in sweep(scenes, read, progress=False)],
        "ours": lambda: measure(scenes, progress=False).valid,
    }
    seconds = race(contestants, rounds)
    report(f"{side} x {side}: statistics, megapixels/s", side * side / 1e6 / seconds["ours"])
    report(f"{side} x {side}: statistics, pixels/s over bare reads in threads", seconds["bare"] / seconds["ours"])


def our_pace(settings, workers):
    """Return the seconds of one of our batches, normalised on the device, when they are under way."""
    pairs, window, ranges = settings["pairs"], settings["window"], settings["ranges"]
    changes = {name: ranges[name] for name in ("brightness", "contrast", "center")}
    batches = train_batches(
        RasterScenes([tuple(pair) for pair in pairs], classes=8), RegionGrid(1, 1), Layout.create(region=1),
        batch=settings["batch"], window=(window, window), augment=Augment(scale=settings["scale"], **changes),
        prefetch=2 * settings["workers"], workers=workers,
    )  # fmt: skip
    place = jax.jit(lambda x: normalize(x["image"], x["valid"], ranges["mean"], ranges["std"], x["gain"], x["offset"]))
    with contextlib.closing(batches):
        for number in range(settings["warm_up"] + settings["count"]):
            if number == settings["warm_up"]:
                started = time.perf_counter()
            jax.block_until_ready(place(next(batches)))
        return (time.perf_counter() - started) / settings["count"]


def peer_pace(kind, settings, python):
    command = [python, pathlib.Path(__file__).with_name("torch_windows.py"), kind, json.dumps(settings)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_pipeline(folder, args):
    """Race pipelines, each alone; they take turns, and the best of each counts."""
    ranges = dict(brightness=20.0, contrast=0.2, center=127.5, mean=(127.5,), std=(64.0,))
    pairs = [tuple(map(str, pair)) for pair in pairs_of(folder, 8, 8192)]
    settings = dict(pairs=pairs, window=args.window, batch=4, scale=(0.5, 2.0), ranges=ranges, workers=args.workers,
                    warm_up=4 * args.workers, count=24)  # fmt: skip
    contestants = {
        "ours, threads": lambda: our_pace(settings, 0),
        "ours, processes": lambda: our_pace(settings, args.workers),
        "rasterio": lambda: peer_pace("rasterio", settings, args.peer),
        "torchgeo": lambda: peer_pace("torchgeo", settings, args.peer),
    }
    best = {}
    for _ in range(args.rounds):
        for name, pace in contestants.items():
            try:
                best[name] = min(best.get(name, float("inf")), pace())
            except subprocess.CalledProcessError:  # it has said why: not installed
                continue
    for name, seconds in best.items():
        megapixels = settings["batch"] * args.window**2 / 1e6 / seconds
        report(f"crops of {args.window}, {args.workers} worker(s): {name}, megapixels/s", megapixels)
    ours = min(seconds for name, seconds in best.items() if name.startswith("ours"))
    for name in ("rasterio", "torchgeo"):
        if name in best:
            report(f"... pixels/s over torch.utils.data with {name}", best[name] / ours, at_least=1.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=12800)
    parser.add_argument("--tall", type=int, default=25000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="bytes,speed,memory,cache,statistics,pipeline")
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the scenes for another time")
    parser.add_argument("--window", type=int, default=1024, help="of the pipeline's crops")
    parser.add_argument("--peer", default=sys.executable, help="Python that has torch and torchgeo")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the pipelines")
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
        if "statistics" in parts:
            measure_statistics(folder, args.side, args.rounds)
        if "pipeline" in parts:
            measure_pipeline(folder, args)


if __name__ == "__main__":
    main()
