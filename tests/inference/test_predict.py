"""GeoTIFF to GeoTIFF: the map is in its image's place, complete or not there, and the same from any devices."""

import numpy as np
import pytest
import rasterio

import holojax
from holojax.data import cache
from holojax.data.files import write_geotiff
from holojax.errors import LayoutError, RasterError
from holojax.parallel import Layout

MODEL = dict(
    name="ringformer",
    classes=3,
    regions=(2, 4),
    encoder=dict(name="vit", dim=8, depth=4, heads=2, patch=8, pos="sincos", mlp_ratio=1.0),
    context=dict(name="cdcr", heads=2, stages=(3,), placement="trunk", mlp_ratio=1.0),
    decoder=dict(name="setr", channels=8),
)
DATA = dict(mean=(120.0,), std=(60.0,), nodata=0, class_names=("a", "b", "c"), palette=((1, 2, 3),) * 3)
HEIGHT, WIDTH = 61, 90
TRANSFORM = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


@pytest.fixture(scope="module")
def model():
    return holojax.build_model(MODEL, seed=3)


@pytest.fixture
def scene(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[20:30, 40:70] = 0
    path = tmp_path / "scene.tif"
    write_geotiff(path, pixels, crs="EPSG:32633", transform=TRANSFORM, nodata=None, table=None)
    return path


def test_the_map_is_in_its_images_place_and_the_same_from_any_devices(model, scene, tmp_path):
    maps = []
    for devices in (1, 2, 8):
        target = tmp_path / f"map{devices}.tif"
        holojax.predict_scene(model, scene, target, Layout.create(region=devices), data=DATA)
        with rasterio.open(target) as source:
            assert (source.crs, source.transform, source.nodata) == ("EPSG:32633", TRANSFORM, 255)
            assert (source.height, source.width, source.dtypes) == (HEIGHT, WIDTH, ("uint8",))
            assert source.colormap(1)[2] == (1, 2, 3, 255)
            maps.append(source.read(1))
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[20:30, 40:70] = True
    np.testing.assert_array_equal(maps[0] == 255, hole)
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])  # no two logits of this scene are close enough to tie


def test_the_map_is_the_largest_logit_of_segment(model, scene, tmp_path):
    target = tmp_path / "map.tif"
    holojax.predict_scene(model, scene, target, Layout.create(region=4), data=DATA)
    with rasterio.open(scene) as source, rasterio.open(target) as written:
        pixels, found = np.moveaxis(source.read(), 0, -1), written.read(1)
    valid = (pixels != 0).any(-1)
    images = np.where(valid[..., None], (pixels.astype(np.float32) - 120) / 60, 0)[None]
    logits = np.asarray(holojax.segment(model, images, Layout.create(region=2), valid=valid[None]))[0]
    chosen = np.take_along_axis(logits, np.where(valid, found, 0)[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen[valid], logits.max(-1)[valid], atol=1e-5)
    assert np.ptp(logits, axis=-1).mean() > 1e-2, "another class would have been noticed"


def test_pictures_and_folders_of_bands_give_the_same_map_and_large_pictures_are_converted_once(
    model, scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "WORTH_IT", 1)
    with rasterio.open(scene) as source:
        pixels = source.read()
        place = dict(crs=source.crs, transform=source.transform)
    (tmp_path / "bands").mkdir()
    for band, plane in enumerate(pixels):
        write_geotiff(tmp_path / "bands" / f"B{band}.tif", plane, **place)
    with rasterio.open(tmp_path / "scene.png", "w", driver="PNG", dtype="uint8", count=3, height=HEIGHT, width=WIDTH,
                       **place) as target:  # fmt: skip
        target.write(pixels)
    maps = {}
    for name in ("scene.tif", "bands", "scene.png"):
        holojax.predict_scene(model, tmp_path / name, tmp_path / "map.tif", Layout.create(region=2), data=DATA)
        with rasterio.open(tmp_path / "map.tif") as source:
            maps[name] = source.read(1)
    np.testing.assert_array_equal(maps["bands"], maps["scene.tif"])
    np.testing.assert_array_equal(maps["scene.png"], maps["scene.tif"])
    assert len(list((tmp_path / cache.FOLDER).glob("*.tif"))) == 1
    (tmp_path / "file").write_text("in the way of the folder")
    said = []
    holojax.predict_scene(
        model, tmp_path / "scene.png", tmp_path / "map.tif", Layout.create(region=2),
        data=DATA | dict(cache=str(tmp_path / "file")), report=said.append,
    )  # fmt: skip
    assert any("It is read as it is" in line for line in said)


def test_nothing_half_written_is_left(model, scene, tmp_path):
    before = sorted(tmp_path.iterdir())
    layout = Layout.create(region=2)
    with pytest.raises(RasterError, match="cannot be written"):
        holojax.predict_scene(model, scene, tmp_path / "nowhere" / "map.tif", layout, data=DATA)
    with pytest.raises(RasterError, match=r"bands"):
        holojax.predict_scene(model, scene, tmp_path / "map.tif", layout, data=DATA | dict(bands=(0, 1, 5)))
    with pytest.raises(RasterError, match="missing"):
        holojax.predict_scene(model, tmp_path / "missing.tif", tmp_path / "map.tif", layout)
    with pytest.raises(LayoutError, match="8 regions"):
        holojax.predict_scene(model, scene, tmp_path / "map.tif", Layout.create(region=3), data=DATA)
    scene.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
    with pytest.raises(RasterError, match=r"scene\.tif"):
        holojax.predict_scene(model, scene, tmp_path / "map.tif", layout, data=DATA)
    assert sorted(tmp_path.iterdir()) == before
