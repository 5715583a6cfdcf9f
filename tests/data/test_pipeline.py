import dataclasses
import itertools
import time
import types

import jax
import numpy as np
import pytest
import rasterio.env

from holojax.data import Augment, RasterScenes, SceneReader, Skipped, eval_batches, load_scene, pipeline, train_batches
from holojax.data.augment import draw_view
from holojax.data.batches import HostBatches, Listed
from holojax.data.geometry import View
from holojax.data.order import ByClass, Uniform
from holojax.data.raster import gdal_settings
from holojax.errors import ConfigError, LabelError, LayoutError, RasterError
from holojax.parallel import Layout, RegionGrid, Window
from tests.data import bad_files

GRID = RegionGrid(2, 2)
AUGMENT = Augment(brightness=5, contrast=0.2, center=100)


@dataclasses.dataclass(frozen=True)
class CountingReader:
    """Stands in for a reader and notes the windows it reads."""

    reader: object
    windows: list

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def session(self, files=None):
        outer = self

        class Session:
            def __enter__(self):
                self.inner = outer.reader.session(files)
                read = self.inner.__enter__()

                def counted(window, **settings):
                    outer.windows.append(window)
                    return read(window, **settings)

                return counted

            def __exit__(self, *error):
                return self.inner.__exit__(*error)

        return Session()


def counting(scene, windows):
    """Put readers that count into a scene; `windows` gets those of the image."""
    image, label = CountingReader(scene.image, windows), CountingReader(scene.label, [])
    return types.SimpleNamespace(size=scene.size, image=image, label=label)


@pytest.fixture
def square(scene_folder):
    return RasterScenes.from_folder(scene_folder([(24, 24), (24, 24), (24, 24)]), "train", classes=4)


@pytest.fixture
def mixed(scene_folder):
    return RasterScenes.from_folder(scene_folder([(20, 31), (23, 17), (9, 12)]), "train", classes=4)


def take(batches, count):
    taken = [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, count)]
    batches.close()
    return taken


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batches_have_the_agreed_names_types_and_places(square):
    layout = Layout.create(data=2, region=4)
    batch = next(train_batches(square, GRID, layout, batch=4, window=(15, 18), augment=AUGMENT))
    found = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert found == {
        "image": ((4, 4, 8, 9, 3), "uint8"),
        "label": ((4, 4, 8, 9), "uint8"),
        "valid": ((4, 4, 8, 9), "bool"),
        "gain": ((4,), "float32"),
        "offset": ((4,), "float32"),
    }
    for name, value in batch.items():
        wanted = layout.per_scene if value.ndim == 1 else layout.scenes
        assert value.sharding.is_equivalent_to(wanted, value.ndim), name


def test_batches_depend_on_seed_and_step_alone(square):
    layout = Layout.create(data=1, region=4)
    settings = dict(batch=2, window=(15, 18), augment=AUGMENT)
    first = take(train_batches(square, GRID, layout, seed=3, **settings), 5)
    resumed = take(train_batches(square, GRID, layout, seed=3, start_step=3, prefetch=3, **settings), 2)
    same(first[3], resumed[0])
    same(first[4], resumed[1])
    other = take(train_batches(square, GRID, layout, seed=4, **settings), 1)[0]
    assert (other["image"] != first[0]["image"]).any()


@pytest.mark.parametrize(("data", "region"), [(1, 1), (1, 2), (2, 4)])
def test_batches_do_not_depend_on_the_mesh(square, data, region):
    settings = dict(batch=2, window=(15, 18), augment=AUGMENT, seed=1)
    wanted = take(train_batches(square, GRID, Layout.create(1, 4), **settings), 1)[0]
    same(wanted, take(train_batches(square, GRID, Layout.create(data, region), **settings), 1)[0])


@pytest.mark.parametrize("window", [None, (15, 15), (13, 20), (40, 26)])
def test_every_region_is_a_slice_of_the_same_augmented_scene(square, window):
    batches = take(train_batches(square, GRID, Layout.create(1, 4), batch=1, window=window, augment=AUGMENT, seed=8), 6)
    for step, batch in enumerate(batches):
        pick = Uniform(len(square), 8).pick(step)
        view = draw_view(AUGMENT, np.random.default_rng(pick.key), (24, 24), window)
        canvas = window or (24, 24)
        image, label, valid = (GRID.stitch(batch[name], *canvas)[0] for name in ("image", "label", "valid"))
        height, width = view.size
        assert valid[:height, :width].all()
        assert valid.sum() == height * width
        wanted = [
            (view.orient(scene.image.read(view.area)[0]), view.orient(scene.label.read(view.area))) for scene in square
        ]
        matches = [(image[:height, :width] == pixels).all() for pixels, _ in wanted]
        assert sum(matches) == 1
        np.testing.assert_array_equal(label[:height, :width], wanted[matches.index(True)][1])
        assert (image[~valid] == 0).all()
        assert (label[~valid] == 255).all()
        np.testing.assert_allclose(
            (batch["gain"], batch["offset"]), ([view.shade.gain], [view.shade.offset]), rtol=1e-6
        )


def test_each_scene_comes_once_an_epoch(square):
    batches = take(train_batches(square, GRID, Layout.create(1, 1), batch=1), 9)
    names = [batch["image"].tobytes() for batch in batches]
    epochs = [set(names[start : start + 3]) for start in (0, 3, 6)]
    assert all(len(epoch) == 3 for epoch in epochs)
    assert len(set(names)) == 3


def test_whole_scenes_of_several_sizes_share_the_largest_canvas(mixed):
    batch = next(train_batches(mixed, GRID, Layout.create(1, 4), batch=3))
    assert batch["image"].shape == (3, 4, 12, 16, 3)
    areas = sorted(np.asarray(batch["valid"]).sum((1, 2, 3)))
    assert areas == sorted([20 * 31, 23 * 17, 9 * 12])


def test_only_the_windows_of_the_regions_are_read(square):
    layout = Layout.create(1, 4)
    windows = []

    class Counting:
        largest = square.largest

        def __len__(self):
            return 1

        def scene(self, index):
            return counting(square.scene(index), windows)

    take(train_batches(Counting(), GRID, layout, batch=1, window=(12, 16), augment=AUGMENT), 1)
    first = windows[:4]
    assert sum(window.height * window.width for window in first) == 12 * 16
    assert len(set(first)) == 4
    assert max(window.height * window.width for window in first) == 12 * 16 // 4


def test_a_process_reads_the_regions_of_its_own_devices_only(square, monkeypatch):
    windows = []
    mine = jax.devices()[2]  # of 2 x 2: the second scene, its upper two regions

    def own(self, shape):
        return {mine: self.devices_indices_map(shape)[mine]}

    monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", own)
    whole = View(Window(0, 0, 24, 24))
    unread = types.SimpleNamespace(image=square.scene(1).image)
    plan = Listed([([(unread, whole), (counting(square.scene(0), windows), whole)], (24, 24))])
    batch = HostBatches(plan, GRID, pipeline._own_regions(Layout.create(data=2, region=2), 2, 4))[0]
    assert windows == [Window(0, 0, 12, 12), Window(0, 12, 12, 12)]
    assert batch["image"].shape == (2, 12, 12, 3)


@pytest.mark.parametrize("window", [None, (8, 10), (50, 50)])
@pytest.mark.parametrize("batch", [1, 2])
def test_evaluation_sees_every_pixel_once(mixed, window, batch):
    seen = np.zeros(256, int)
    count = 0
    for group in eval_batches(mixed, GRID, Layout.create(1, 2), batch=batch, window=window):
        label, valid = np.asarray(group["label"]), np.asarray(group["valid"])
        assert label.shape[0] == batch
        assert (label[~valid] == 255).all()
        np.testing.assert_array_equal((group["gain"], group["offset"]), [[1] * batch, [0] * batch])
        seen += np.bincount(label[valid], minlength=256)
        count += valid.sum()
    wanted = sum(np.bincount(scene.label.read().ravel(), minlength=256) for scene in mixed)
    np.testing.assert_array_equal(seen, wanted)
    assert count == sum(height * width for height, width in (scene.size for scene in mixed))


def test_evaluation_of_whole_scenes_keeps_their_sizes(mixed):
    shapes = [batch["label"].shape[2:] for batch in eval_batches(mixed, GRID, Layout.create(1, 4))]
    assert shapes == [(10, 16), (12, 9), (5, 6)]


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_scene_is_loaded_by_the_windows_of_its_regions(mixed, multiple):
    windows = []
    reader = mixed.scene(1).image
    layout = Layout.create(1, 4)
    grid = dataclasses.replace(GRID, multiple=multiple)
    image, valid = load_scene(CountingReader(reader, windows), grid, layout)
    pixels, _ = reader.read()
    np.testing.assert_array_equal(GRID.stitch(np.asarray(image), 23, 17)[0], pixels)
    assert GRID.stitch(np.asarray(valid), 23, 17).all()
    assert valid.sum() == 23 * 17
    assert len(windows) == 4
    assert sum(window.height * window.width for window in windows) == 23 * 17
    assert image.sharding.is_equivalent_to(layout.scenes, 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_a_scene_is_loaded_with_its_frayed_holes(tiff, rng, dtype):
    pixels = rng.integers(0, 3, (29, 31, 2)).astype(dtype)
    pixels[4:25, 6:28] = 0
    reader = SceneReader.open(tiff("i.tif", pixels), nodata=0, nodata_tolerance=1)
    image, valid = load_scene(reader, RegionGrid(2, 2, multiple=4), Layout.create(1, 1))
    wanted, wanted_valid = reader.read()
    assert 0 < wanted_valid.sum() < wanted_valid.size
    np.testing.assert_array_equal(GRID.stitch(np.asarray(image), 29, 31)[0], wanted)
    np.testing.assert_array_equal(GRID.stitch(np.asarray(valid), 29, 31)[0], wanted_valid)


def test_loading_a_damaged_scene_names_it(square):
    damage(square.scene(0).image.path)
    with pytest.raises(RasterError, match=r"s0\.tif.*damaged"):
        load_scene(square.scene(0).image, GRID, Layout.create(1, 1))


def test_a_cpu_device_takes_what_was_read_without_a_copy():
    for size in range(1000, 1020):  # one alone might lie well by chance
        host = pipeline._zeros((2, size, 7), np.dtype(np.uint16))
        placed = jax.device_put(host, jax.devices()[0])
        assert placed.unsafe_buffer_pointer() == host.ctypes.data


def test_nodata_is_not_valid_and_its_labels_are_ignored(tiff):
    pixels = np.full((8, 8, 3), 50, np.uint8)
    pixels[2:5, 3:6] = 255
    pair = tiff("i.tif", pixels), tiff("l.tif", np.ones((8, 8), np.uint8))
    scenes = RasterScenes([pair], classes=2, nodata=255)
    batch = next(eval_batches(scenes, GRID, Layout.create(1, 1)))
    valid = GRID.stitch(np.asarray(batch["valid"]), 8, 8)[0]
    assert not valid[2:5, 3:6].any()
    assert valid.sum() == 64 - 9
    assert (GRID.stitch(np.asarray(batch["label"]), 8, 8)[0][~valid] == 255).all()


def test_float64_becomes_float32(tiff):
    reader = SceneReader.open(tiff("i.tif", np.full((4, 4, 1), 0.5, np.float64)))
    image, _ = load_scene(reader, GRID, Layout.create(1, 1))
    assert image.dtype == np.float32


def test_a_damaged_file_reaches_the_consumer(square):
    damage(square.scene(1).image.path)
    with pytest.raises(RasterError, match=r"s1\.tif.*damaged"):
        take(train_batches(square, GRID, Layout.create(1, 1), batch=1), 3)


def test_a_label_value_outside_the_table_reaches_the_consumer(scene_folder):
    scenes = RasterScenes.from_folder(scene_folder([(9, 9)]), "train", classes=3)
    with pytest.raises(LabelError, match=r"label value 3 at row \d+, column \d+"):
        next(eval_batches(scenes, GRID, Layout.create(1, 1)))


def test_what_does_not_fit_is_said_before_anything_is_read(square):
    layout = Layout.create(data=2, region=4)
    with pytest.raises(LayoutError, match="A batch of 3"):
        train_batches(square, GRID, layout, batch=3)
    with pytest.raises(LayoutError, match="do not spread over 4 devices on the region axis"):
        train_batches(square, RegionGrid(3, 2), layout, batch=2)
    with pytest.raises(LayoutError, match=r"s0\.tif: A scene of 24 x 24 .* smaller than the 30 x 2 region grid"):
        eval_batches(square, RegionGrid(30, 2), Layout.create(1, 4))
    with pytest.raises(LayoutError, match="A batch of 1"):
        load_scene(square.scene(0).image, GRID, layout)
    with pytest.raises(ConfigError, match="seed: expected 0 or more"):
        train_batches(square, GRID, layout, batch=2, seed=-1)


def test_worker_processes_read_the_same_bytes(square):
    layout = Layout.create(data=1, region=4)
    settings = dict(batch=2, window=(15, 18), augment=AUGMENT, seed=3)
    wanted = take(train_batches(square, GRID, layout, **settings), 5)
    for a, b in zip(
        wanted, take(train_batches(square, GRID, layout, workers=2, prefetch=2, **settings), 5), strict=True
    ):
        same(a, b)


def test_errors_of_worker_processes_reach_the_consumer(square):
    damage(square.scene(1).image.path)
    with pytest.raises(RasterError, match=r"s1\.tif.*damaged"):
        take(train_batches(square, GRID, Layout.create(1, 1), batch=1, workers=1), 3)


def damage(path):
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: len(content) * 3 // 4])


def test_reading_runs_ahead_but_no_further_than_asked(square, monkeypatch):
    read = []
    whole = HostBatches.__getitem__
    monkeypatch.setattr(HostBatches, "__getitem__", lambda self, number: read.append(number) or whole(self, number))
    batches = train_batches(square, GRID, Layout.create(1, 1), batch=1, prefetch=3)
    next(batches)
    deadline = time.monotonic() + 20
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert sorted(read) == [0, 1, 2, 3]  # one handed out, three ahead
    batches.close()


@pytest.mark.parametrize("region", [1, 4])
def test_what_cannot_be_read_is_not_valid_counted_and_listed(square, region):
    damage(square.scene(1).image.path)
    wanted = take(eval_batches(square, GRID, Layout.create(1, 1), batch=1, on_skip=Skipped()), 3)
    skipped = Skipped()
    found = take(eval_batches(square, GRID, Layout.create(1, region), batch=1, on_skip=skipped), 3)
    for a, b in zip(wanted, found, strict=True):
        same(a, b)
    bad = found[1]
    assert not bad["valid"].any()
    assert (bad["label"] == 255).all()
    assert (bad["image"] == 0).all()
    assert all(batch["valid"].all() for batch in (found[0], found[2]))
    (line,) = skipped.counts
    assert "s1.tif" in line
    assert "damaged" in line
    assert f"{skipped.counts[line]} x {line}" in skipped.summary()


def test_a_region_with_a_wrong_label_is_skipped_and_the_others_are_not(tiff, rng):
    label = np.zeros((24, 24), np.uint8)
    label[20, 21] = 9
    pair = tiff("i.tif", rng.integers(1, 256, (24, 24, 3)).astype(np.uint8)), tiff("l.tif", label)
    skipped = Skipped()
    layout = Layout.create(1, 4)
    batch = next(eval_batches(RasterScenes([pair], classes=2), GRID, layout, on_skip=skipped))
    assert np.asarray(batch["valid"]).mean((0, 2, 3)).tolist() == [1, 1, 1, 0]
    assert not np.asarray(batch["image"])[:, 3].any(), "its image was read before its label"
    assert (np.asarray(batch["label"])[:, 3] == 255).all()
    assert "l.tif: label value 9 at row 20, column 21" in next(iter(skipped.counts))


def test_scenes_that_cannot_be_opened_are_left_out_and_listed(scene_folder):
    folder = scene_folder([(24, 24), (24, 24), (24, 24)])
    (folder / "train/image/s0.tif").write_bytes(b"")
    (folder / "train/label/s2.tif").unlink()
    with pytest.raises(RasterError, match=r"s2\.tif: has no label"):
        RasterScenes.from_folder(folder, "train", classes=4)
    skipped = Skipped()
    scenes = RasterScenes.from_folder(folder, "train", classes=4, on_skip=skipped)
    assert [scene.name for scene in scenes] == ["s1"]
    assert len(skipped.counts) == 2
    (folder / "train/image/s1.tif").write_bytes(b"")
    with pytest.raises(RasterError, match="None of the 2 scenes"):
        RasterScenes.from_folder(folder, "train", classes=4, on_skip=skipped)


def test_which_regions_are_skipped_does_not_depend_on_who_reads_them(tmp_path):
    scenes = RasterScenes.from_folder(bad_files.write_kind(tmp_path, "jpeg_block"), "train", classes=4, on_skip=print)
    bad = next(scene for scene in scenes if scene.image.path.endswith(bad_files.IMAGE))
    for grid in (GRID, RegionGrid(1, 4)):
        plan = Listed([([(bad, View(Window(0, 0, *bad.size)))], bad.size)])
        pairs = [(0, region) for region in range(grid.count)]
        together = HostBatches(plan, grid, tuple(pairs), skip=True)[0]
        alone = [HostBatches(plan, grid, (pair,), skip=True)[0] for pair in pairs]
        for name in ("image", "label", "valid"):
            np.testing.assert_array_equal(together[name], np.concatenate([each[name] for each in alone]))
        assert not together["valid"].all()


def test_an_evaluation_of_nothing_is_refused(tiff):
    pair = tiff("i.tif", np.ones((1, 9, 1), np.uint8)), tiff("l.tif", np.ones((1, 9), np.uint8))
    with pytest.raises(RasterError, match=r"i\.tif: neither this nor another scene can be cut into regions"):
        eval_batches(RasterScenes([pair], classes=2), GRID, Layout.create(1, 1), on_skip=Skipped())


def test_an_order_by_class_shows_what_is_rare(tiff):
    labels = np.zeros((64, 64), np.uint8)
    labels[50:54, 10:14] = 1
    pair = tiff("i.tif", np.ones((64, 64, 1), np.uint8)), tiff("l.tif", labels)
    scenes = RasterScenes([pair], classes=2)
    cells = np.stack([(labels == k).reshape(8, 8, 8, 8).sum((1, 3)) for k in range(2)], -1).astype(np.uint32)

    def share(order):
        batches = train_batches(
            scenes, RegionGrid(1, 1), Layout.create(1, 1), batch=1, window=(16, 16), augment=Augment(), order=order
        )
        return np.mean([(batch["label"] == 1).any() for batch in take(batches, 40)])

    assert share(ByClass([cells], (8,), [(64, 64)], seed=0)) > 2 * share(None)


@pytest.mark.parametrize(("prefetch", "threads"), [(1, "2"), (4, "1")])
def test_where_batches_fill_the_cores_each_is_decoded_in_one_thread(square, monkeypatch, prefetch, threads):
    monkeypatch.setattr("holojax.data.batches.cores", lambda: 4)
    look, used = View.look, set()

    def note(*arguments):
        used.add(gdal_settings("a.tif").get("GDAL_NUM_THREADS") or rasterio.env.getenv().get("GDAL_NUM_THREADS"))
        return look(*arguments)

    monkeypatch.setattr(View, "look", note)
    take(train_batches(square, GRID, Layout.create(1, 1), batch=1, prefetch=prefetch), 2)
    assert used == {threads}
