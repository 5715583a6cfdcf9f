import dataclasses
import os
from fractions import Fraction

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from holojax.data import RasterScenes, statistics, sweep
from holojax.data.bands import Header
from holojax.data.blocks import block_path
from holojax.data.classes import IGNORE
from holojax.data.fingerprint import fingerprint
from holojax.data.statistics import Statistics, cell_side, count_classes, measure
from holojax.errors import ConfigError, LabelError, RasterError

DTYPES = ["uint8", "int16", "uint16", "float32", "float64"]
PLACE = dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000))


def open_folder(folder, **settings):
    return RasterScenes.from_folder(folder, "train", **(dict(classes=4) | settings))


def check_against_the_whole(found, scenes):
    """Compare with what numpy says of all pixels at once, in the longest type there is."""
    values, counts = [], []
    for number in range(len(scenes)):
        image, valid = scenes[number].image.read()
        values.append(image[valid].astype(np.longdouble))
        label = np.where(valid, scenes[number].label.read(), IGNORE)
        counts.append(np.bincount(label.ravel(), minlength=256)[: len(scenes.classes)])
        side, cells = found.sides[number], found.cells[number]
        for row, col in np.ndindex(cells.shape[:2]):
            part = label[row * side : (row + 1) * side, col * side : (col + 1) * side]
            np.testing.assert_array_equal(cells[row, col], np.bincount(part.ravel(), minlength=256)[: cells.shape[-1]])
    values = np.concatenate(values)
    assert found.valid == len(values)
    np.testing.assert_allclose(found.mean, values.mean(0).astype(float), rtol=1e-14)
    np.testing.assert_allclose(found.std, values.std(0).astype(float), rtol=1e-13)
    np.testing.assert_array_equal(found.counts, counts)


@pytest.fixture
def small_reads(monkeypatch):
    """Several windows and cells in scenes of a few pixels."""
    monkeypatch.setattr(sweep, "READ", 32)
    monkeypatch.setattr(statistics, "CELL", 8)
    monkeypatch.setattr(statistics, "CELLS", 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiled", [True, False])
def test_windows_add_up_to_the_whole(small_reads, tmp_path, rng, dtype, tiled):
    layout = dict(tiled=True, blockxsize=16, blockysize=16) if tiled else dict(blockysize=3)
    for number, (height, width) in enumerate([(70, 45), (33, 130)]):
        image = (rng.normal(100, 30, (2, height, width))).astype(dtype)
        image[:, :9, 5:30] = 0
        label = rng.choice(np.array([0, 1, 3, 255], np.uint8), (1, height, width))
        for part, pixels, nodata in (("image", image, 0), ("label", label, None)):
            path = tmp_path / "train" / part / f"s{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = dict(count=len(pixels), height=height, width=width, dtype=pixels.dtype.name)
            with rasterio.open(path, "w", driver="GTiff", nodata=nodata, **PLACE, **shape, **layout) as target:
                target.write(pixels)
    scenes = open_folder(tmp_path)
    found = measure(scenes)
    check_against_the_whole(found, scenes)
    assert found.sides == (32, 64)
    assert found.counts[0, 2] == 0


def test_a_narrow_spread_far_from_zero_loses_no_digit(small_reads, tiff, rng):
    image = (1e9 + rng.normal(0, 1e-3, (50, 60, 1))).astype(np.float64)
    tiff("train/image/a.tif", image)
    tiff("train/label/a.tif", np.zeros((50, 60), np.uint8))
    found = measure(open_folder(tiff("x.tif", image).parent, bands=(0,)))
    np.testing.assert_allclose(found.std, [(image - 1e9).std()], rtol=1e-9)


def test_sums_of_ten_thousand_million_pixels_are_exact():
    """Two values of uint16 in turn: squares of so many would overflow int64, and round in float64."""
    half = 5 * 10**9
    sums = [Fraction(half * (65535 + 65533))], [Fraction(half * (65535**2 + 65533**2))]
    assert statistics._mean_and_std(2 * half, *sums) == ((65534.0,), (1.0,))


def test_order_of_scenes_and_number_of_threads_change_nothing(small_reads, scene_folder, monkeypatch):
    folder = scene_folder([(40, 70), (50, 30), (61, 33)])
    scenes = open_folder(folder)
    turned = RasterScenes([(s.image.path, s.label.path) for s in reversed(scenes)], classes=4)
    found, other = measure(scenes), measure(turned)
    monkeypatch.setattr(sweep, "cores", lambda: 1)
    alone = measure(scenes)
    for each in (other, alone):
        assert (each.mean, each.std, each.valid) == (found.mean, found.std, found.valid)
    np.testing.assert_array_equal(other.counts, found.counts[::-1])
    np.testing.assert_array_equal(alone.cells[2], found.cells[2])


def test_blocks_hold_the_same(small_reads, scene_folder, tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from holojax.data.datasets import builder
    from holojax.data.datasets.folder.folder_dataset_builder import Builder

    root = scene_folder([(40, 70), (50, 30)])
    (root / "classes.json").write_text('{"names": ["a", "b", "c", "d"]}')
    tfds.disable_progress_bar()
    monkeypatch.setattr(builder, "SIDE", 16)
    made = Builder(data_dir=str(tmp_path / "built"), config="blocks")
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(root)))
    places = [tuple(block_path(made.data_dir, part, "train", f"s{i}") for part in ("image", "label")) for i in range(2)]
    scenes = RasterScenes(places, classes=4)
    found, files = measure(scenes, cache=""), measure(open_folder(root))
    assert (found.mean, found.std, found.valid) == (files.mean, files.std, files.valid)
    np.testing.assert_array_equal(found.counts, files.counts)
    assert measure(scenes, cache="").mean == found.mean
    assert [path.suffix for path in (made.data_path / ".holojax").iterdir()] == [".npz"]


def test_the_second_time_nothing_is_read(scene_folder, monkeypatch):
    folder = scene_folder([(40, 30), (20, 50)])
    found = measure(open_folder(folder), cache="")
    assert [path.suffix for path in (folder / "train/image/.holojax").iterdir()] == [".npz"]
    monkeypatch.setattr(statistics, "sweep", None)
    again = measure(open_folder(folder), cache="")
    for name in ("mean", "std", "valid", "sides", "names", "fingerprint"):
        assert getattr(again, name) == getattr(found, name)
    for a, b in zip((again.counts, *again.cells), (found.counts, *found.cells), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_changed_file_is_measured_again(scene_folder, tmp_path, part):
    folder, cache = scene_folder([(40, 30), (20, 50)]), tmp_path / "kept"
    before = measure(open_folder(folder), cache=cache)
    path = folder / f"train/{part}/s1.tif"
    with rasterio.open(path) as source:
        pixels, profile = source.read(), source.profile
    pixels[:] = 1
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
    after = measure(open_folder(folder), cache=cache)
    assert after.fingerprint != before.fingerprint
    assert (after.mean != before.mean) if part == "image" else (after.counts[1, 1] == 1000)


def test_a_change_of_the_same_size_within_the_clock_is_seen_by_time_alone(scene_folder):
    scenes = open_folder(scene_folder([(40, 30)]))
    before = fingerprint(scenes)
    status = os.stat(scenes[0].image.path)
    os.utime(scenes[0].image.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint(scenes) != before


@pytest.mark.parametrize("settings", [dict(bands=(2, 1, 0)), dict(nodata=7), dict(classes=5), dict(ignore=3)])
def test_another_way_of_reading_is_another_fingerprint(scene_folder, settings):
    folder = scene_folder([(20, 30)])
    assert fingerprint(open_folder(folder, **settings)) != fingerprint(open_folder(folder))


def test_moved_data_keep_their_fingerprint_and_a_mask_beside_them_changes_it(scene_folder, tmp_path):
    folder = scene_folder([(20, 30), (30, 20)])
    before = fingerprint(open_folder(folder))
    os.rename(folder / "train", folder / "moved")
    assert fingerprint(RasterScenes.from_folder(folder, "moved", classes=4)) == before
    with rasterio.open(folder / "moved/image/s0.tif", "r+") as target, rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        target.write_mask(np.zeros((20, 30), bool))
    assert (folder / "moved/image/s0.tif.msk").exists()
    os.utime(folder / "moved/image/s0.tif.msk", (0, 0))
    masked = fingerprint(RasterScenes.from_folder(folder, "moved", classes=4))
    os.utime(folder / "moved/image/s0.tif.msk", (9, 9))
    assert len({before, masked, fingerprint(RasterScenes.from_folder(folder, "moved", classes=4))}) == 3


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_file_of_statistics_is_made_anew(scene_folder, tmp_path, damage):
    scenes = open_folder(scene_folder([(40, 30)]))
    found = measure(scenes, cache=tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert measure(scenes, cache=tmp_path / "kept").mean == found.mean
    assert statistics._load(path, scenes, found.fingerprint) is not None


def test_statistics_that_cannot_be_kept_are_returned_all_the_same(scene_folder, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert measure(open_folder(scene_folder([(20, 20)])), cache=tmp_path / "taken").valid == 400


def test_a_file_that_changes_meanwhile_is_an_error(scene_folder, monkeypatch, tmp_path):
    scenes = open_folder(scene_folder([(20, 20)]))
    look = statistics._look

    def touch(*arguments):
        os.utime(scenes[0].label.path, (0, 0))
        return look(*arguments)

    monkeypatch.setattr(statistics, "_look", touch)
    with pytest.raises(RasterError, match=r"changed while it was measured"):
        measure(scenes, cache=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_bad_file_ends_it_by_name(scene_folder, tiff):
    folder = scene_folder([(40, 40)] * 3)
    label = np.zeros((40, 40), np.uint8)
    label[3, 4] = 9
    tiff("train/label/s1.tif", label)
    with pytest.raises(LabelError, match=r"label/s1\.tif: label value 9 at row 3, column 4"):
        measure(open_folder(folder))


def test_what_was_skipped_is_never_kept(scene_folder, tiff, tmp_path):
    folder = scene_folder([(40, 40)] * 2)
    tiff("train/label/s1.tif", np.full((40, 40), 9, np.uint8))
    skipped = []
    assert measure(open_folder(folder), cache=tmp_path / "kept", on_skip=skipped.append).valid == 1600
    assert len(skipped) == 1
    with pytest.raises(LabelError, match=r"s1\.tif: label value 9"):
        measure(open_folder(folder), cache=tmp_path / "kept")


def test_values_that_can_only_mean_no_data_are_named(tiff):
    image = np.ones((20, 20, 2))
    image[5, 5, 1] = -1.7e308
    tiff("train/image/a.tif", image)
    tiff("train/label/a.tif", np.zeros((20, 20), np.uint8))
    with pytest.raises(RasterError, match=r"a\.tif: band 1 holds values too large.*data\.nodata"):
        measure(open_folder(tiff("x.tif", image).parent))


def test_scenes_without_a_valid_pixel_are_an_error(tiff):
    folder = tiff("train/image/a.tif", np.zeros((20, 20, 3), np.uint8), nodata=0).parents[2]
    tiff("train/label/a.tif", np.zeros((20, 20), np.uint8))
    with pytest.raises(RasterError, match=r"a\.tif: no pixel of this or any other scene is valid.*data\.nodata"):
        measure(open_folder(folder))


def make(counts):
    counts = np.array(counts, np.int64)
    names = tuple(f"class {number}" for number in range(counts.shape[1]))
    return Statistics((1.5,), (0.25,), 100, counts, (), (), names, "")


def test_inverse_weights_make_classes_count_alike_and_have_mean_one():
    found = make([[60, 0, 20, 0], [20, 0, 0, 50]])
    weights = np.array(found.class_weights())
    assert weights[1] == 0
    np.testing.assert_allclose(weights[[0, 2, 3]].mean(), 1)
    np.testing.assert_allclose((weights * found.counts.sum(0))[[0, 2, 3]], weights[0] * 80)


def test_median_weights_look_at_the_scenes_that_have_a_class():
    found = make([[60, 0, 20, 0], [20, 0, 0, 60]])  # frequencies: 80 / 160, -, 20 / 80, 60 / 80; median 1 / 2
    np.testing.assert_allclose(found.class_weights("median"), [1, 0, 2, 2 / 3])


def test_weights_of_nothing_or_of_an_unknown_kind_are_errors():
    with pytest.raises(LabelError, match=r"found none in any scene"):
        make([[0, 0]]).class_weights()
    with pytest.raises(ConfigError, match=r"'inverse' or 'median', found 'mean'"):
        make([[1, 0]]).class_weights("mean")


def test_the_summary_says_what_there_is():
    found = make([[750, 0], [0, 250]])
    assert "100 valid pixels in 2 scene(s), 1,000 labelled" in found.summary()
    assert any(line.split() == ["1", "250", "25.000%", "1", "class", "1"] for line in found.summary().splitlines())
    lines = found.settings().splitlines()
    assert lines == ["data.mean=(1.5,)", "data.std=(0.25,)", "train.class_weights=(0.5, 1.5,)"]


def test_classes_are_counted(small_reads, scene_folder, tiff):
    folder = scene_folder([(40, 70), (50, 30)])
    assert count_classes(open_folder(folder, classes=255)) == 4
    for number, size in enumerate([(40, 70), (50, 30)]):
        tiff(f"train/label/s{number}.tif", np.full(size, 255, np.uint8))
    with pytest.raises(LabelError, match=r"s0\.tif: no pixel of this or any other label has a class"):
        count_classes(open_folder(folder, classes=255))


@pytest.mark.parametrize(("size", "side"), [((1, 1), 256), ((16384, 9), 256), ((9, 16385), 512), ((25000, 25000), 512)])
def test_cells_are_doubled_until_they_are_few(size, side):
    assert cell_side(size) == side
    assert all(-(-extent // side) <= 64 for extent in size)


def test_remote_files_count_by_their_address(tiff):
    def far(name):
        header = dataclasses.replace(Header.read(str(tiff("a.tif", np.zeros((4, 4), np.uint8)))), path=name)
        return RasterScenes([(name, name)], classes=2, known={name: header}, names=["a"])

    address = "https://127.0.0.1:9/bucket/a.tif"
    assert fingerprint(far(address)) == fingerprint(far(address))
    assert fingerprint(far(address)) != fingerprint(far(address.replace("bucket", "other")))


def test_a_file_behind_a_virtual_raster_counts(tiff, tmp_path):
    source = tiff("a.tif", np.ones((4, 4), np.uint8))
    tiff("b.tif", np.ones((4, 4), np.uint8))
    rasterio.shutil.copy(source, tmp_path / "a.vrt", driver="VRT")
    scenes = RasterScenes([(tmp_path / "a.vrt", tmp_path / "b.tif")], classes=2)
    before = fingerprint(scenes)
    os.utime(source, (0, 0))
    assert fingerprint(scenes) != before
