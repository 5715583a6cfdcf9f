import itertools
import subprocess
import sys

import numpy as np
import pytest
import rasterio

from holojax.data import ClassTable, SceneReader
from holojax.data.files import write_geotiff
from holojax.errors import RasterError
from holojax.inference.geotiff import BLOCK, MapWriter
from holojax.parallel import RegionGrid, Window

PLACE = dict(crs=rasterio.crs.CRS.from_epsg(32633), transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6))
TABLE = ClassTable(("land", "water"), ((9, 8, 7), (0, 0, 255)))


@pytest.fixture
def classes():
    return np.random.default_rng(1).integers(0, 7, (1100, 1300)).astype(np.uint8)


def writer(path, classes, **settings):
    height, width = classes.shape
    return MapWriter(path, height=height, width=width, **(PLACE | settings))


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (7, 5), (1100, 1)])
def test_windows_in_any_order_make_the_same_map(tmp_path, classes, grid):
    grid = RegionGrid(*grid)
    order = np.random.default_rng(0).permutation(grid.count)
    with writer(tmp_path / "map.tif", classes) as out:
        for index in order:
            window = grid.window(int(index), *classes.shape)
            rows, cols = (
                slice(window.top, window.top + window.height),
                slice(window.left, window.left + window.width),
            )
            out.write(window, classes[rows, cols])
    with rasterio.open(tmp_path / "map.tif") as source:
        np.testing.assert_array_equal(source.read(1), classes)


def test_the_map_lies_where_its_image_lies_with_nodata_colours_and_names(tmp_path):
    write_geotiff(tmp_path / "in.tif", np.ones((40, 60, 3), np.uint8), **PLACE)
    with MapWriter.like(tmp_path / "map.tif", SceneReader.open(tmp_path / "in.tif"), TABLE) as out:
        out.write(Window(0, 0, 40, 60), np.ones((40, 60), np.uint8))
    with rasterio.open(tmp_path / "map.tif") as source:
        assert (source.height, source.width, source.count) == (40, 60, 1)
        assert source.dtypes == ("uint8",)
        assert source.nodata == 255
        assert source.crs == PLACE["crs"]
        assert source.transform == PLACE["transform"]
        assert source.colormap(1)[1] == (0, 0, 255, 255)
        assert source.tags(1) == {"class_0": "land", "class_1": "water"}
        assert source.profile["blockxsize"] == BLOCK
        assert source.profile["compress"] == "deflate"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "map.tif"]


def test_padding_is_dropped_and_invalid_and_unwritten_pixels_are_nodata(tmp_path):
    valid = np.ones((40, 40), bool)
    valid[0, 0] = False
    with MapWriter(tmp_path / "map.tif", height=30, width=50, **PLACE) as out:
        out.write(Window(0, 0, 30, 20), np.zeros((40, 40), np.uint8), valid)
    with rasterio.open(tmp_path / "map.tif") as source:
        found = source.read(1)
    assert (found[:, 20:] == 255).all()
    assert found[0, 0] == 255
    assert (found == 255).sum() == 30 * 30 + 1


def test_only_unfinished_blocks_are_kept(tmp_path, classes):
    with writer(tmp_path / "map.tif", classes) as out:
        kept = []
        for top in range(0, 1100, 100):
            out.write(Window(top, 0, min(100, 1100 - top), 1300), classes[top : top + 100])
            kept.append(len(out._parts))
    assert max(kept) == 3  # of 9
    assert kept[-1] == 0


def test_every_block_is_written_once(tmp_path, classes):
    rng = np.random.default_rng(0)
    with writer(tmp_path / "aligned.tif", classes) as out:
        out.write(Window(0, 0, *classes.shape), classes)
    corners = list(itertools.product(range(0, 1100, 90), range(0, 1300, 110)))
    rng.shuffle(corners)
    with writer(tmp_path / "scattered.tif", classes) as out:
        for top, left in corners:
            part = classes[top : top + 90, left : left + 110]
            out.write(Window(int(top), int(left), *part.shape), part)
    sizes = [(tmp_path / name).stat().st_size for name in ("aligned.tif", "scattered.tif")]
    assert sizes[0] == sizes[1]


def test_a_failure_leaves_nothing_and_an_old_map_in_place(tmp_path, classes):
    (tmp_path / "map.tif").write_text("old")

    def fail():
        with writer(tmp_path / "map.tif", classes) as out:
            out.write(Window(0, 0, 600, 1300), classes[:600])
            raise RuntimeError("lost a device")

    with pytest.raises(RuntimeError, match="lost a device"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    assert (tmp_path / "map.tif").read_text() == "old"


def test_a_success_replaces_an_old_map(tmp_path, classes):
    (tmp_path / "map.tif").write_text("old")
    with writer(tmp_path / "map.tif", classes) as out:
        out.write(Window(0, 0, *classes.shape), classes)
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.shape == classes.shape


def test_an_unwritable_place_is_found_on_entering(tmp_path, classes):
    (tmp_path / "file").touch()
    (tmp_path / "folder.tif").mkdir()
    for path in (tmp_path / "none" / "map.tif", tmp_path / "file" / "map.tif", tmp_path / "folder.tif"):
        with pytest.raises(RasterError, match="cannot be written"):
            writer(path, classes).__enter__()


FULL_DISK = """
import resource, signal, sys
import numpy as np, rasterio
from holojax.errors import RasterError
from holojax.inference.geotiff import MapWriter
from holojax.parallel import Window

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = np.random.default_rng(0).integers(0, 200, (1024, 1024)).astype(np.uint8)
place = dict(crs=rasterio.crs.CRS.from_epsg(4326), transform=rasterio.Affine(1, 0, 0, 0, -1, 0))
for limit in (100, 200_000, 900_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with MapWriter(sys.argv[1], height=1024, width=1024, **place) as out:
            out.write(Window(0, 0, 1024, 1024), noise)
    except RasterError as error:
        print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "map.tif")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("map.tif: the map cannot be written") == 3
    assert list(tmp_path.iterdir()) == []


def test_an_image_without_crs_gets_a_map_without_and_a_warning(tmp_path):
    with (
        pytest.warns(UserWarning, match=r"map\.tif: the image has no CRS"),
        MapWriter(tmp_path / "map.tif", height=4, width=4) as out,
    ):
        out.write(Window(0, 0, 4, 4), np.zeros((4, 4), np.uint8))
    assert SceneReader.open(tmp_path / "map.tif").crs is None


@pytest.mark.parametrize("window", [Window(0, 0, 5, 4), Window(-1, 0, 2, 2), Window(3, 3, 1, 2)])
def test_a_window_that_leaves_the_map_is_an_error(tmp_path, window):
    with (
        MapWriter(tmp_path / "map.tif", height=4, width=4, **PLACE) as out,
        pytest.raises(RasterError, match="does not fit the map of 4 x 4"),
    ):
        out.write(window, np.zeros((9, 9), np.uint8))


def test_overlapping_windows_are_an_error(tmp_path):
    with MapWriter(tmp_path / "map.tif", height=4, width=4, **PLACE) as out:
        out.write(Window(0, 0, 3, 4), np.zeros((3, 4), np.uint8))
        with pytest.raises(RasterError, match="windows overlap"):
            out.write(Window(2, 0, 2, 4), np.zeros((2, 4), np.uint8))
        out.write(Window(3, 0, 1, 4), np.zeros((1, 4), np.uint8))
        with pytest.raises(RasterError, match="windows overlap"):
            out.write(Window(3, 3, 1, 1), np.zeros((1, 1), np.uint8))
