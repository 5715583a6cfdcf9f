import concurrent.futures
import dataclasses
import os
import warnings

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling

from holojax.data import SceneReader
from holojax.data.raster import allow_no_georeference
from holojax.errors import RasterError
from holojax.parallel import Window

PLACE = dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_300_000))
KINDS = {
    "tiled.tif": dict(driver="GTiff", tiled=True, blockxsize=32, blockysize=16, compress="deflate", predictor=2),
    "strips.tif": dict(driver="GTiff", compress="lzw"),
    "raw.tif": dict(driver="GTiff", interleave="band"),
    "big.tif": dict(driver="GTiff", bigtiff="YES", tiled=True, blockxsize=16, blockysize=16, compress="zstd"),
    "jpeg.tif": dict(driver="GTiff", tiled=True, blockxsize=32, blockysize=32, compress="jpeg", photometric="ycbcr"),
    "plain.png": dict(driver="PNG"),
    "plain.jpg": dict(driver="JPEG"),
    "cog.tif": dict(driver="COG", blocksize=128, compress="deflate"),
}


def write(path, pixels, **profile):
    allow_no_georeference()
    height, width, count = pixels.shape
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype=pixels.dtype.name, **profile
    ) as target:
        target.write(np.moveaxis(pixels, -1, 0))
    return path


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (75, 91, 3)).astype(np.uint8)
    folder = tmp_path_factory.mktemp("kinds")
    paths = {name: write(folder / name, pixels, **profile) for name, profile in KINDS.items()}
    for dtype in (np.uint16, np.int16, np.float32, np.float64):
        more = dict(KINDS["tiled.tif"], predictor=1, photometric="minisblack")
        paths[dtype.__name__] = write(folder / f"{dtype.__name__}.tif", (pixels * 100.5).astype(dtype), **more)
    paths["many bands"] = write(folder / "m.tif", np.concatenate([pixels] * 3, -1).astype(np.uint16), **more)
    paths["virtual"] = mosaic(folder / "virtual.vrt", folder / "tiled.tif")
    paths["a folder of bands"] = folder / "bands"
    paths["a folder of bands"].mkdir()
    for band in range(3):
        write(paths["a folder of bands"] / f"B{band + 9}.tif", pixels[..., [band]], **KINDS["strips.tif"])
    opened = {name: SceneReader.open(path) for name, path in paths.items()}
    return {name: (reader, reader.read()) for name, reader in opened.items()}


def mosaic(path, source):
    """Write a virtual raster of three bands of one file, as gdalbuildvrt does."""
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">{source.name}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(f'<VRTDataset rasterXSize="91" rasterYSize="75">{bands}</VRTDataset>')
    return path


@pytest.mark.parametrize(
    "name", [*KINDS, "uint16", "int16", "float32", "float64", "many bands", "virtual", "a folder of bands"]
)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(top=st.integers(-40, 99), left=st.integers(-40, 99), height=st.integers(0, 120), width=st.integers(0, 120))
def test_a_window_equals_the_whole_scene_cut(readers, name, top, left, height, width):
    reader, (whole, there) = readers[name]
    margin = 256  # the scene in a wide frame of nothing: then every window is a cut
    frame = [(margin, margin), (margin, margin)]
    expected = np.pad(whole, [*frame, (0, 0)])[margin + top :, margin + left :][:height, :width]
    pixels, valid = reader.read(Window(top, left, height, width))
    assert pixels.dtype == whole.dtype
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, np.pad(there, frame)[margin + top :, margin + left :][:height, :width])
    assert there.all()


def test_header_holds_size_place_and_type(tiff):
    reader = SceneReader.open(tiff("a.tif", np.ones((6, 9, 2), np.float32), nodata=-1))
    assert (reader.height, reader.width, reader.bands) == (6, 9, (0, 1))
    assert reader.dtype == np.float32
    assert reader.crs.to_epsg() == 32633
    assert reader.transform.a == 10
    assert reader.nodata == -1


def test_bands_are_picked_in_the_order_asked(tiff, rng):
    pixels = rng.integers(0, 99, (5, 5, 4)).astype(np.uint16)
    read, _ = SceneReader.open(tiff("a.tif", pixels), bands=(2, 0)).read()
    np.testing.assert_array_equal(read, pixels[..., [2, 0]])


def test_a_missing_band_is_an_error_that_says_what_is_there(tiff):
    with pytest.raises(RasterError, match=r"a\.tif: expected bands \(0, 3\).*has 3 band.*data\.bands"):
        SceneReader.open(tiff("a.tif", np.zeros((5, 5, 3), np.uint8)), bands=(0, 3))


def test_nodata_is_where_all_bands_hold_it(tiff):
    pixels = np.full((4, 4, 2), 9, np.int16)
    pixels[0, 0], pixels[1, 1, 0] = -5, -5
    read, valid = SceneReader.open(tiff("a.tif", pixels, nodata=-5)).read()
    assert not valid[0, 0]
    assert valid.sum() == 15
    assert (read[0, 0] == 0).all()
    assert (read[1, 1] == (-5, 9)).all()


def test_an_override_takes_the_place_of_the_files_nodata(tiff):
    pixels = np.full((4, 4, 3), 9, np.uint8)
    pixels[0], pixels[1] = 0, 255
    path = tiff("a.tif", pixels, nodata=0)
    assert not SceneReader.open(path).read()[1][0].any()
    _, valid = SceneReader.open(path, nodata=255).read()
    assert valid[0].all()
    assert not valid[1].any()


def test_an_override_that_the_type_cannot_hold_is_an_error(tiff):
    with pytest.raises(RasterError, match=r"nodata override 300 is no value of uint8"):
        SceneReader.open(tiff("a.tif", np.zeros((4, 4), np.uint8)), nodata=300)


@pytest.mark.parametrize("nodata", [None, np.nan])
def test_nan_and_infinity_are_not_valid(tiff, nodata):
    pixels = np.ones((4, 4, 2), np.float32)
    pixels[0, 0, 0], pixels[1, 1], pixels[2, 2, 1] = np.nan, np.nan, np.inf
    read, valid = SceneReader.open(tiff("a.tif", pixels, nodata=nodata)).read()
    assert valid.sum() == 13
    assert not valid[[0, 1, 2], [0, 1, 2]].any()
    assert np.isfinite(read).all()


def test_an_alpha_band_is_validity_and_no_band(tmp_path):
    pixels = np.full((8, 8, 4), 7, np.uint8)
    pixels[:3, :, 3] = 0
    pixels[3:, :, 3] = 255
    path = write(tmp_path / "a.png", pixels, driver="PNG")
    reader = SceneReader.open(path)
    assert reader.bands == (0, 1, 2)
    read, valid = reader.read(Window(2, 0, 4, 8))
    assert not valid[0].any()
    assert valid[1:].all()
    assert (read[1:] == 7).all()


def test_a_fourth_band_wrongly_called_alpha_can_be_picked(tmp_path):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0] = 9
    path = write(tmp_path / "a.tif", pixels, driver="GTiff")
    assert SceneReader.open(path).bands == (0, 1, 2)
    reader = SceneReader.open(path, bands=(0, 1, 2, 3))
    assert reader.read()[1].all()


def test_a_mask_in_the_file_is_validity(tmp_path):
    path = tmp_path / "a.tif"
    mask = np.zeros((40, 40), np.uint8)
    mask[10:, 5:] = 255
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", height=40, width=40, count=1, dtype="uint8", crs="EPSG:4326",
            transform=rasterio.Affine(1, 0, 0, 0, -1, 9),
        ) as target,
    ):  # fmt: skip
        target.write(np.full((1, 40, 40), 3, np.uint8))
        target.write_mask(mask)
    _, valid = SceneReader.open(path).read(Window(8, 2, 20, 20))
    np.testing.assert_array_equal(valid, mask[8:28, 2:22] > 0)


def test_a_frayed_hole_is_the_same_by_window_and_whole(tmp_path):
    rng = np.random.default_rng(3)
    pixels = rng.integers(60, 200, (160, 160, 3)).astype(np.uint8)
    rows, cols = np.mgrid[:160, :160]
    hole = (rows > cols + 20) & (rows < 140)
    pixels[hole] = 255
    pixels[5:8, 100:103] = 255
    path = write(tmp_path / "a.tif", pixels, **KINDS["jpeg.tif"], crs="EPSG:4326",
                 transform=rasterio.Affine(1, 0, 0, 0, -1, 9))  # fmt: skip
    exact = SceneReader.open(path, nodata=255)
    reader = SceneReader.open(path, nodata=255, nodata_tolerance=20)
    whole, valid = reader.read()
    missed = [(hole & scene_valid).sum() for scene_valid in (exact.read()[1], valid)]
    assert missed[1] < 0.3 * missed[0]  # the frayed edge is taken in
    assert valid[~hole].mean() > 0.97
    assert valid[:12, 90:110].all()  # a white roof is no hole
    for top, left, height, width in ((0, 0, 40, 160), (37, 11, 50, 63), (90, 0, 70, 31), (130, 100, 30, 60)):
        part, inside = reader.read(Window(top, left, height, width))
        np.testing.assert_array_equal(inside, valid[top : top + height, left : left + width])
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RasterError, match=r"none\.tif: no such file"):
        SceneReader.open(tmp_path / "none.tif")


def test_a_file_that_is_no_raster_is_an_error(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("no raster")
    with pytest.raises(RasterError, match=r"a\.tif: expected a readable raster"):
        SceneReader.open(path)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("window", [None, Window(50, 3, 20, 40)])
def test_a_truncated_file_is_an_error_and_never_silent(tmp_path, name, window):
    rng = np.random.default_rng(0)
    path = write(tmp_path / name, rng.integers(0, 256, (75, 91, 3)).astype(np.uint8), **KINDS[name])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RasterError, match="damaged, cut short"):
        SceneReader.open(path).read(window)


def test_an_image_without_crs_is_read_and_said_once(tmp_path, caplog):
    path = write(tmp_path / "a.png", np.ones((8, 8, 3), np.uint8), driver="PNG")
    for _ in range(2):
        reader = SceneReader.open(path)
    assert reader.crs is None
    assert reader.read()[1].all()
    assert caplog.text.count("has no CRS") == 1


def test_rasterio_never_warns_about_missing_georeferencing(readers):
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            readers["plain.png"][0].read(Window(0, 0, 4, 4))


def test_a_reader_serves_several_threads(readers):
    reader, (whole, _) = readers["tiled.tif"]
    windows = [Window(top, left, 20, 30) for top in range(0, 60, 9) for left in range(0, 60, 9)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for window, (pixels, _) in zip(windows, pool.map(reader.read, windows), strict=True):
            np.testing.assert_array_equal(pixels, whole[window.top : window.top + 20, window.left : window.left + 30])


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_no_file_stays_open(readers):
    reader, _ = readers["plain.png"]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        reader.read(Window(0, 0, 4, 4))
    assert len(os.listdir("/proc/self/fd")) == before


def test_bands_of_several_files_are_counted_on(tmp_path, rng):
    pixels = rng.integers(0, 999, (12, 9, 5)).astype(np.uint16)
    files = [write(tmp_path / f"{i}.tif", pixels[..., part], driver="GTiff", **PLACE)
             for i, part in enumerate((slice(0, 2), slice(2, 3), slice(3, 5)))]  # fmt: skip
    reader = SceneReader.open(files)
    assert reader.bands == (0, 1, 2, 3, 4)
    np.testing.assert_array_equal(reader.read()[0], pixels)
    np.testing.assert_array_equal(SceneReader.open(files, bands=(4, 0, 3)).read()[0], pixels[..., [4, 0, 3]])
    files[1].unlink()  # holds band 2 alone: not opened where that is not read
    part, _ = dataclasses.replace(reader, bands=(3, 1)).read(Window(2, 3, 4, 5))
    np.testing.assert_array_equal(part, pixels[2:6, 3:8, [3, 1]])
    with pytest.raises(RasterError, match=r"1\.tif: no such file"):
        reader.read()


def test_files_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for band in (1, 2, 8, 10):
        write(tmp_path / f"T33_B{band}.tif", np.full((4, 4, 1), band, np.uint8), driver="GTiff", **PLACE)
    write(tmp_path / "T33_B8A.tif", np.full((4, 4, 1), 80, np.uint8), driver="GTiff", **PLACE)
    (tmp_path / "readme.txt").write_text("no raster")
    assert SceneReader.open(tmp_path).read()[0][0, 0].tolist() == [1, 2, 8, 80, 10]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (dict(shape=(5, 4, 1)), "size"),
        (dict(crs="EPSG:32634"), "CRS"),
        (dict(transform=rasterio.Affine(10, 0, 500_001, 0, -10, 5_300_000)), "transform"),
        (dict(transform=rasterio.Affine(10.1, 0, 500_000, 0, -10, 5_300_000)), "transform"),
    ],
)
def test_files_of_a_scene_share_a_grid(tmp_path, other, what):
    shape = other.pop("shape", (4, 4, 1))
    files = [write(tmp_path / "a.tif", np.ones((4, 4, 1), np.uint8), driver="GTiff", **PLACE),
             write(tmp_path / "b.tif", np.ones(shape, np.uint8), driver="GTiff", **(PLACE | other))]  # fmt: skip
    with pytest.raises(RasterError, match=rf"b\.tif: expected the {what}.* of .*a\.tif, .*resample"):
        SceneReader.open(files)


def test_no_files_are_errors(tmp_path):
    with pytest.raises(RasterError, match=r"no rasters .* in this folder"):
        SceneReader.open(tmp_path)
    with pytest.raises(RasterError, match="an empty list"):
        SceneReader.open([])


def test_a_damaged_file_among_several_is_the_one_that_is_named(tmp_path, rng):
    files = [write(tmp_path / f"{i}.tif", rng.integers(0, 256, (64, 64, 1)).astype(np.uint8), **KINDS["tiled.tif"])
             for i in range(3)]  # fmt: skip
    files[1].write_bytes(files[1].read_bytes()[:2000])
    with pytest.raises(RasterError, match=r"1\.tif: expected a readable raster"):
        SceneReader.open(files).read()


def test_no_data_in_several_files_is_where_all_hold_their_own(tmp_path):
    first, second = np.full((4, 4, 1), 9, np.int16), np.full((4, 4, 1), 9, np.int16)
    first[0], second[0, :2], second[1] = -1, -2, -2
    files = [write(tmp_path / "a.tif", first, driver="GTiff", nodata=-1, **PLACE),
             write(tmp_path / "b.tif", second, driver="GTiff", nodata=-2, **PLACE)]  # fmt: skip
    valid = SceneReader.open(files).read()[1]
    assert not valid[0, :2].any()
    assert valid.sum() == 14


def test_alpha_of_one_file_holds_for_the_scene(tmp_path):
    pixels = np.full((8, 8, 4), 7, np.uint8)
    pixels[..., 3] = 255
    pixels[:3, :, 3] = 0
    files = [write(tmp_path / "a.png", pixels, driver="PNG"), write(tmp_path / "b.png", pixels[..., :1], driver="PNG")]
    reader = SceneReader.open(files)
    assert reader.bands == (0, 1, 2, 4)
    _, valid = reader.read()
    np.testing.assert_array_equal(valid, pixels[..., 3] > 0)


def test_a_mask_beside_the_file_is_validity(tmp_path):
    path = write(tmp_path / "a.tif", np.full((40, 40, 3), 3, np.uint8), driver="GTiff", **PLACE)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:, 5:] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(mask)
    assert (tmp_path / "a.tif.msk").exists()
    _, valid = SceneReader.open(path).read(Window(8, 2, 20, 20))
    np.testing.assert_array_equal(valid, mask[8:28, 2:22] > 0)


@pytest.fixture
def pyramid(tmp_path):
    """A scene whose overview holds other values than the scene: whoever reads it scaled shows what was read."""
    pixels = np.full((256, 384, 3), 40, np.uint8)
    pixels[:64] = 0
    path = write(tmp_path / "a.tif", pixels, **KINDS["tiled.tif"], nodata=0, **PLACE)
    with rasterio.open(path, "r+") as target:
        target.build_overviews([4], Resampling.average)
    with rasterio.open(path, "r+", overview_level=0) as overview:
        overview.write(np.where(overview.read() > 0, 90, 0).astype(np.uint8))
    return path


def test_scaled_reads_take_overviews_and_keep_what_is_valid(pyramid):
    reader = SceneReader.open(pyramid)
    pixels, valid = reader.read(shape=(64, 96))
    assert (pixels[16:] == 90).all()
    np.testing.assert_array_equal(valid, np.arange(64)[:, None].repeat(96, 1) >= 16)
    part, inside = reader.read(Window(-128, 128, 256, 128), shape=(64, 32))
    assert not inside[:48].any()
    assert (part[48:] == 90).all()
    assert inside[48:].all()
    assert (reader.read()[0][64:] == 40).all()


def test_scaled_reads_average_images_and_pick_where_an_override_would_be_mixed(tmp_path):
    pixels = np.zeros((8, 8, 1), np.uint8)
    pixels[::2], pixels[:, :4] = 100, 255
    path = write(tmp_path / "a.tif", pixels, driver="GTiff", **PLACE)
    read, valid = SceneReader.open(path).read(shape=(4, 4))
    assert valid.all()
    assert (read[:, 2:] == 50).all()
    read, valid = SceneReader.open(path, nodata=255).read(shape=(4, 4))
    assert not valid[:, :2].any()
    assert valid[:, 2:].all()
    assert set(np.unique(read[:, 2:])) <= {0, 100}


def test_bytes_that_cameras_leave_in_jpegs_are_no_damage(tmp_path, rng):
    path = tmp_path / "a.jpg"
    profile = dict(driver="JPEG", width=40, height=30, count=3, dtype="uint8", **PLACE)
    with rasterio.open(path, "w", **profile) as target:
        target.write(rng.integers(0, 256, (3, 30, 40)).astype(np.uint8))
    data = path.read_bytes()
    sound = SceneReader.open(path).read()[0]
    path.write_bytes(data.replace(b"\xff\xda", b"\x11\x22\x33\xff\xda", 1))
    np.testing.assert_array_equal(SceneReader.open(path).read()[0], sound)
    middle = len(data) * 3 // 4
    path.write_bytes(data[:middle] + b"\xff\xd9" + data[middle + 2 :])
    with pytest.raises(RasterError, match=r"a\.jpg: .*(Premature end|Corrupt JPEG data)"):
        SceneReader.open(path).read()
