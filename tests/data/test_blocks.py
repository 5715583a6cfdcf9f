import json

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax.data import blocks
from holojax.data.bands import Part
from holojax.data.blocks import BlockRaster, block_path, describe, encode, read_blocks
from holojax.data.files import write_geotiff
from holojax.data.labels import LabelReader
from holojax.data.raster import open_raster
from holojax.data.scene import SceneReader
from holojax.errors import ConfigError, RasterError
from holojax.parallel import Window

tfds = pytest.importorskip("tensorflow_datasets")

SIDE = 16
WINDOWS = [
    Window(0, 0, 16, 16),
    Window(3, 5, 30, 29),
    Window(15, 15, 2, 2),
    Window(30, 40, 40, 40),  # beyond the edge
    Window(32, 48, 5, 3),
    Window(0, 0, 41, 53),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build blocks of a folder with one scene of every kind; returns the folder and what was built."""
    from holojax.data.datasets import builder
    from holojax.data.datasets.folder.folder_dataset_builder import Builder

    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(3)
    for part in ("image", "label"):
        (root / "train" / part).mkdir(parents=True)
    place = dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000))
    many = rng.integers(-5000, 5000, (41, 53, 32)).astype(np.int16)
    many[20:30, 10:40] = -1
    radar = rng.normal(0, 1, (41, 53, 2)).astype(np.float32)
    radar[5, 7, 1], radar[40, 52] = np.nan, np.nan
    images = dict(many=(many, dict(nodata=-1)), radar=(radar, dict(nodata=np.nan)))
    images["plain"] = rng.integers(0, 256, (41, 53, 3)).astype(np.uint8), dict(nodata=0)
    for name, (pixels, more) in images.items():
        write_geotiff(root / "train/image" / f"{name}.tif", pixels, **place, **more)
        write_geotiff(root / "train/label" / f"{name}.tif", rng.integers(0, 3, (41, 53)).astype(np.uint8), **place)
    pixels = rng.integers(0, 256, (4, 41, 53)).astype(np.uint8)
    pixels[3, 10:20] = 0
    profile = dict(driver="PNG", width=53, height=41, count=4, dtype="uint8")
    with rasterio.open(root / "train/image/alpha.png", "w", **profile) as target:
        target.write(pixels)
    write_geotiff(root / "train/label/alpha.tif", np.zeros((41, 53), np.uint8))
    (root / "classes.json").write_text(json.dumps(dict(names=["a", "b", "c"])))
    tfds.disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SIDE", SIDE)
        made = Builder(data_dir=str(root / "built"), config="blocks")
        made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(root)))
    return root, made.data_dir


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("many.tif", {}),
        ("many.tif", dict(bands=(30, 2, 5), nodata=7)),
        ("many.tif", dict(bands=(0,), nodata=-1, nodata_tolerance=2)),
        ("radar.tif", {}),
        ("plain.tif", {}),
        ("alpha.png", {}),
        ("alpha.png", dict(bands=(0, 1, 2, 3))),
    ],
)
def test_blocks_give_the_same_bytes_as_the_file(built, name, options):
    root, folder = built
    file = SceneReader.open(root / "train/image" / name, **options)
    here = SceneReader.open(block_path(folder, "image", "train", name.partition(".")[0]), **options)
    for field in ("height", "width", "bands", "dtype", "crs", "transform"):
        assert getattr(here, field) == getattr(file, field)
    with here.session() as read:
        for window in WINDOWS:
            for found, expected in zip(read(window), file.read(window), strict=True):
                assert found.dtype == expected.dtype
                assert found.tobytes() == expected.tobytes()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from(["many.tif", "radar.tif", "alpha.png"]),
    st.tuples(st.integers(-20, 45), st.integers(-20, 57), st.integers(0, 50), st.integers(0, 50)),
)
def test_any_window_gives_the_same_bytes(built, name, window):
    root, folder = built
    file = SceneReader.open(root / "train/image" / name)
    here = SceneReader.open(block_path(folder, "image", "train", name.partition(".")[0]))
    for found, expected in zip(here.read(Window(*window)), file.read(Window(*window)), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_labels_do_so_too(built):
    root, folder = built
    file = LabelReader.open(root / "train/label/many.tif", classes=3)
    here = LabelReader.open(block_path(folder, "label", "train", "many"), classes=3)
    for window in WINDOWS:
        np.testing.assert_array_equal(here.read(window), file.read(window))
        np.testing.assert_array_equal(here.read(window, (5, 7)), file.read(window, (5, 7)))


@pytest.mark.parametrize("shape", [(7, 9), (20, 26), (41, 10), (1, 1)])
def test_pixels_are_picked_as_gdal_picks_them(built, shape):
    root, folder = built
    area = rasterio.windows.Window(3, 2, 44, 37)
    for window in (None, area):
        with (
            rasterio.open(root / "train/image/many.tif") as file,
            open_raster(block_path(folder, "image", "train", "many")) as here,
        ):
            expected = file.read([3, 1], window=window, out_shape=(2, *shape))
            np.testing.assert_array_equal(here.read([3, 1], window=window, out_shape=(2, *shape)), expected)


def test_a_region_is_a_few_record_reads(built):
    with open_raster(block_path(built[1], "image", "train", "plain")) as source:
        reader = SceneReader.open(source.name)
        parts = [Part.of(source, source.name, reader.bands, range(len(reader.bands)))]
        reader._read(parts, Window(17, 17, 10, 10))
        assert source.reads == 1
        reader._read(parts, Window(17, 17, 20, 10))  # shares a block with the last window
        assert source.reads == 2
        reader._read(parts, Window(0, 0, 41, 53))
        assert source.reads == 12  # 3 x 4 blocks, of which two were at hand


def test_what_is_not_there_is_named(built, tmp_path):
    with pytest.raises(RasterError, match=r"no image of such a scene there; scenes of 'train': alpha, many"):
        SceneReader.open(block_path(built[1], "image", "train", "other"))
    with pytest.raises(RasterError, match=r"no such folder of blocks"):
        SceneReader.open(block_path(tmp_path, "image", "train", "many"))


def test_a_damaged_or_misplaced_block_is_named_and_never_read_silently(tiff, rng):
    path = tiff("a.tif", rng.integers(0, 256, (20, 20, 3)).astype(np.uint8))
    with rasterio.open(path) as source:
        records = [record for row in read_blocks(source, "zstd", SIDE) for record in row]
        facts = dict(describe(source), first=0, side=SIDE)
    with pytest.raises(RasterError, match=r"blocks://x: expected block 0, 1, found 1, 0"):
        BlockRaster("blocks://x", [records[0], *records[2:]], facts).read()
    sound, bits = records[1], bytearray(records[1]["pixels"])
    bits[-9] ^= 1  # GDAL reads this in silence
    records[1] = dict(sound, pixels=bytes(bits))
    with pytest.raises(RasterError, match=r"blocks://x: block 0, 1 \(rows from 0, columns from 16\) .*checksum"):
        BlockRaster("blocks://x", records, facts).read()
    del sound["crc"]  # written before there were checksums
    records[1] = sound
    BlockRaster("blocks://x", records, facts).read()
    records[1] = dict(sound, pixels=sound["pixels"][:200])
    with pytest.raises(rasterio.errors.RasterioError):
        BlockRaster("blocks://x", records, facts).read()


@pytest.mark.parametrize("codec", blocks.CODECS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_codecs_lose_nothing(rng, codec, dtype):
    pixels = rng.integers(0, 256, (3, 9, 11)).astype(dtype)
    with rasterio.io.MemoryFile(encode(pixels, codec)) as memory, memory.open() as source:
        np.testing.assert_array_equal(source.read(), pixels)


def test_a_codec_that_cannot_hold_the_pixels_says_so():
    with pytest.raises(ConfigError, match=r"found 'png' for 5 band\(s\) of float32\. Use zstd"):
        encode(np.zeros((5, 2, 2), np.float32), "png")


@pytest.mark.parametrize("name", ["many", "alpha"])
def test_scaled_images_of_blocks_are_picked_with_their_masks(built, name):
    reader = SceneReader.open(block_path(built[1], "image", "train", name))
    pixels, valid = reader.read()
    rows, cols = ((2 * np.arange(n // 3) + 1) * n // (2 * (n // 3)) for n in valid.shape)
    found, shown = reader.read(shape=(len(rows), len(cols)))
    np.testing.assert_array_equal(found, pixels[np.ix_(rows, cols)])
    np.testing.assert_array_equal(shown, valid[np.ix_(rows, cols)])
