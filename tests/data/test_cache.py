import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio

from holojax.data import RasterScenes, SceneReader, cache
from holojax.data.cache import cached, wants_cache
from holojax.data.raster import allow_no_georeference
from holojax.errors import RasterError
from holojax.parallel import Window

PLACE = dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000))


def write(path, pixels, **profile):
    allow_no_georeference()
    height, width, count = pixels.shape
    profile = dict(driver="JPEG" if path.suffix == ".jpg" else "PNG", dtype=pixels.dtype.name) | profile
    with rasterio.open(path, "w", height=height, width=width, count=count, **profile) as target:
        target.write(np.moveaxis(pixels, -1, 0))
    return path


@pytest.fixture
def noise(rng):
    return rng.integers(0, 256, (300, 540, 3)).astype(np.uint8)


def kinds(folder, rng, noise):
    alpha = np.concatenate([noise, rng.choice(np.array([0, 255], np.uint8), (300, 540, 1))], -1)
    grey16 = rng.integers(0, 60000, (300, 540, 1)).astype(np.uint16)
    masked = write(folder / "masked.jpg", noise)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(masked, "r+") as target:
        target.write_mask(alpha[..., 3])
    coloured = folder / "coloured.png"
    with rasterio.open(coloured, "w", driver="PNG", height=300, width=540, count=1, dtype="uint8") as target:
        target.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255)})
        target.write(noise[None, ..., 0] % 2)
    return {
        "rgb.jpg": write(folder / "rgb.jpg", noise),
        "placed.png": write(folder / "placed.png", noise, **PLACE, nodata=7),
        "alpha.png": write(folder / "alpha.png", alpha),
        "grey.png": write(folder / "grey.png", grey16),
        "masked.jpg": masked,
        "coloured.png": coloured,
    }


def test_a_converted_scene_is_the_scene(tmp_path, rng, noise):
    for name, path in kinds(tmp_path, rng, noise).items():
        made = cached(path, tmp_path / "out")
        here, there = SceneReader.open(path), SceneReader.open(made)
        for window in (None, Window(-3, 250, 310, 300)):
            for mine, theirs in zip(here.read(window), there.read(window), strict=True):
                np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert (here.crs, here.nodata, here.bands, here.dtype) == (there.crs, there.nodata, there.bands, there.dtype)
        assert here.transform == there.transform
        with rasterio.open(path) as a, rasterio.open(made) as b:
            assert b.block_shapes[0] == (256, 256)
            assert b.compression.name == "deflate"
            assert a.colorinterp == b.colorinterp
            if name == "coloured.png":
                assert b.colormap(1)[1] == (4, 5, 6, 255)


def test_what_is_converted_is_not_converted_again(tmp_path, noise, monkeypatch):
    path = write(tmp_path / "a.png", noise)
    made = cached(path)
    assert made.startswith(str(tmp_path / ".holojax"))
    monkeypatch.setattr(cache, "_convert", lambda *_: pytest.fail("converted again"))
    assert cached(path) == made
    os.utime(path, (1, 1))  # copied with another time, same content
    assert cached(path) == made
    record = next((tmp_path / ".holojax").glob("*.json"))
    assert json.loads(record.read_text())["mtime_ns"] == 1_000_000_000
    assert len(json.loads(record.read_text())["sha256"]) == 64


def test_a_source_that_changed_is_converted_anew(tmp_path, noise):
    path = write(tmp_path / "a.png", noise)
    old = cached(path)
    write(path, 255 - noise)
    new = cached(path)
    assert new != old
    assert not os.path.exists(old)
    np.testing.assert_array_equal(SceneReader.open(new).read()[0], 255 - noise)
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n100\n200\n")  # now it lies somewhere
    assert SceneReader.open(cached(path)).transform.a == 2


@pytest.mark.parametrize("damage", ["gone", "cut", "record"])
def test_a_damaged_cache_is_mended(tmp_path, noise, damage):
    path = write(tmp_path / "a.png", noise)
    made = cached(path)
    if damage == "gone":
        os.unlink(made)
    elif damage == "cut":
        os.truncate(made, 100)
    else:
        next((tmp_path / ".holojax").glob("*.json")).write_text('{"made": ')
    np.testing.assert_array_equal(SceneReader.open(cached(path)).read()[0], noise)


def test_bits_that_change_in_a_converted_file_are_an_error(tmp_path, noise):
    made = cached(write(tmp_path / "a.png", noise))
    with open(made, "r+b") as file:
        file.seek(os.path.getsize(made) // 2)
        file.write(b"other bits")
    with pytest.raises(RasterError, match=r"\.holojax/a\.\w+\.\w+\.tif: .*damaged"):
        SceneReader.open(made).read()


def test_of_several_that_ask_at_once_one_converts(tmp_path, noise, monkeypatch):
    path, calls, convert = write(tmp_path / "a.png", noise), [], cache._convert

    def slowly(*args):
        calls.append(args)
        time.sleep(0.2)
        convert(*args)

    monkeypatch.setattr(cache, "_convert", slowly)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # each has its own handle of the lock, as a process has
        found = list(pool.map(cached, [path] * 3))
    assert len(set(found)) == len(calls) == 1
    assert sorted(each.suffix for each in (tmp_path / ".holojax").iterdir()) == [".json", ".lock", ".tif"]


def test_without_locks_the_last_one_wins(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(cache, "fcntl", None)
    path = write(tmp_path / "a.png", noise)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(cached, [path] * 3))
    np.testing.assert_array_equal(SceneReader.open(found[0]).read()[0], noise)
    assert sorted(each.suffix for each in (tmp_path / ".holojax").iterdir()) == [".json", ".lock", ".tif"]


FULL = """
import os, resource, signal, sys
from holojax.data.cache import cached
from holojax.errors import RasterError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for room in (0, 3000, 200_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        cached(sys.argv[1], sys.argv[2])
    except RasterError as error:
        os.write(1, f"{os.listdir(sys.argv[2])} {error}\\n".encode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are POSIX")
def test_a_full_disk_leaves_nothing_and_is_named(tmp_path, noise):
    path, out = write(tmp_path / "a.png", noise), tmp_path / "out"
    command = [sys.executable, "-c", FULL, str(path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.match(r"\['a\.\w{8}\.lock'\] .*a\.png: cannot be converted .*disk full.*data\.cache", line)


def test_a_damaged_source_is_the_one_that_is_named(tmp_path, noise):
    path = write(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(RasterError, match=r"a\.png: expected a readable raster"):
        cached(path)
    assert not list((tmp_path / ".holojax").glob("*.tif"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, noise):
    path = write(tmp_path / "a.png", noise)
    tmp_path.chmod(0o500)
    with pytest.raises(RasterError, match=r"a\.png: cannot be converted .*data\.cache"):
        cached(path)


def test_scenes_read_large_pngs_through_the_cache_and_small_ones_as_they_are(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(cache, "WORTH_IT", 300 * 540)
    pairs = []
    for name, image in (("a", noise), ("b", noise[:200])):
        pairs.append((write(tmp_path / f"{name}.png", image), write(tmp_path / f"{name}_l.png", image[..., :1] % 3)))
    assert [wants_cache(image) for image, _ in pairs] == [True, False]
    scenes = RasterScenes(pairs, classes=3, cache=tmp_path / "out")
    assert [os.path.dirname(scene.image.path) for scene in scenes] == [str(tmp_path / "out"), str(tmp_path)]
    assert os.path.dirname(scenes[0].label.path) == str(tmp_path / "out")
    assert [scene.name for scene in scenes] == ["a", "b"]
    np.testing.assert_array_equal(scenes[0].image.read()[0], noise)
    np.testing.assert_array_equal(scenes[0].label.read(), noise[..., 0] % 3)
    assert RasterScenes(pairs, classes=3, cache=None)[0].image.path == str(pairs[0][0])
