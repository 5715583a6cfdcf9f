import os
import pickle
import threading
import time

import numpy as np
import pytest
import rasterio

from holojax.data import RasterScenes, open_files, train_batches
from holojax.data import batches as batches_module
from holojax.data.open_files import OpenFiles
from holojax.data.scene import SceneReader
from holojax.errors import RasterError
from holojax.parallel import Layout, RegionGrid, Window

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files in /proc")

WHOLE = Window(0, 0, 8, 8)


@pytest.fixture
def files():
    files = OpenFiles()
    yield files
    files.close()


@pytest.fixture
def opened(monkeypatch):
    """Names of what is opened, in order."""
    names, really = [], rasterio.open

    def note(name, *arguments, **settings):
        names.append(str(name))
        return really(name, *arguments, **settings)

    monkeypatch.setattr(rasterio, "open", note)
    return names


def held(path):
    """Count the descriptors of this process that lead to a file."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}") == str(path)
        except FileNotFoundError:
            continue
    return found


def test_a_raster_is_opened_once_for_all_sessions(tiff, rng, files, opened):
    pixels = rng.integers(1, 255, (20, 30, 2)).astype(np.uint8)
    reader = SceneReader.open(tiff("a.tif", pixels))
    opened.clear()
    for _ in range(3):
        with reader.session(files) as read:
            np.testing.assert_array_equal(read(WHOLE)[0], pixels[:8, :8])
    assert opened == [reader.path]


def test_a_raster_is_lent_to_one_reader_at_a_time(tiff, rng, files):
    path = str(tiff("a.tif", rng.integers(0, 255, (8, 8, 1)).astype(np.uint8)))
    with files.lend(path) as first, files.lend(path) as second:
        assert first is not second
    with files.lend(path) as again:
        assert again in (first, second)
    assert held(path) == 2


def test_a_file_that_was_replaced_is_read_anew(tiff, files):
    for value in (1, 2):
        path = tiff("a.tif", np.full((8, 8, 1), value, np.uint8))
        with SceneReader.open(path).session(files) as read:
            assert (read(WHOLE)[0] == value).all()


def test_a_raster_whose_reader_failed_is_opened_anew(tiff, rng, files, opened):
    path = tiff("a.tif", rng.integers(0, 255, (8, 8, 1)).astype(np.uint8))
    opened.clear()
    with pytest.raises(RasterError), files.lend(str(path)):
        raise RasterError("damaged")
    assert held(path) == 0
    with files.lend(str(path)):
        pass
    assert opened == [str(path)] * 2


def test_those_that_waited_longest_are_closed(tiff, monkeypatch):
    monkeypatch.setattr(open_files, "LIMIT", 2)
    few = OpenFiles()
    paths = [str(tiff(f"{name}.tif", np.zeros((4, 4, 1), np.uint8))) for name in "abc"]
    for path in paths:
        with few.lend(path):
            pass
    assert [held(path) for path in paths] == [0, 1, 1]
    few.close()
    assert [held(path) for path in paths] == [0, 0, 0]


def test_no_more_than_a_quarter_of_the_files_that_a_process_may_hold_wait(monkeypatch):
    resource = open_files.resource
    for soft, limit in ((64, 16), (10**6, open_files.LIMIT), (resource.RLIM_INFINITY, open_files.LIMIT)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert OpenFiles()._limit == limit


def test_what_comes_back_after_closing_is_closed(tiff):
    path, files = str(tiff("a.tif", np.zeros((4, 4, 1), np.uint8))), OpenFiles()
    with files.lend(path):
        files.close()
        assert held(path) == 1
    assert held(path) == 0


def test_files_stay_open_from_batch_to_batch(scene_folder, opened):
    scenes = RasterScenes.from_folder(scene_folder([(9, 9), (9, 9)]), "train", classes=4)
    paths = [path for scene in scenes for path in (scene.image.path, scene.label.path)]
    opened.clear()
    batches = train_batches(scenes, RegionGrid(1, 2), Layout.create(1, 1), batch=2)
    for _ in range(4):
        next(batches)
    assert len(opened) < 3 * len(paths), "every batch reads all files"
    assert all(held(path) for path in paths)
    batches.close()


def test_nothing_stays_open_once_the_batches_under_way_are_read(scene_folder, monkeypatch):
    kept = []  # or files would be closed as garbage, whoever forgot to

    class Kept(OpenFiles):
        def __init__(self):
            super().__init__()
            kept.append(self)

    monkeypatch.setattr(batches_module, "OpenFiles", Kept)
    scenes = RasterScenes.from_folder(scene_folder([(9, 9), (9, 9)]), "train", classes=4)
    paths = [path for scene in scenes for path in (scene.image.path, scene.label.path)]
    before = set(threading.enumerate())
    for taken in (1, 2, 3):
        batches = train_batches(scenes, RegionGrid(1, 2), Layout.create(1, 1), batch=2, prefetch=4)
        for _ in range(taken):
            next(batches)
        batches.close()
        # A thread ends its batch first, and opens what that needs.
        deadline = time.monotonic() + 60
        while set(threading.enumerate()) - before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(held(path) for path in paths)


def test_open_files_travel_empty(tiff, files):
    path = str(tiff("a.tif", np.zeros((4, 4, 1), np.uint8)))
    with files.lend(path):
        pass
    travelled = pickle.loads(pickle.dumps(files))
    with travelled.lend(path):
        assert held(path) == 2
    travelled.close()
    assert held(path) == 1
