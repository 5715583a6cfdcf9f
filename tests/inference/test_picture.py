import numpy as np
import pytest
import rasterio

from holojax.data import ClassTable, SceneReader
from holojax.data.files import write_geotiff
from holojax.data.labels import LabelReader
from holojax.errors import RasterError
from holojax.inference.picture import class_overview, image_overview, side_by_side

PLACE = dict(crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6))
TABLE = ClassTable(("land", "water"), ((9, 8, 7), (0, 0, 255)))


def test_an_overview_is_small_and_keeps_the_proportions(tmp_path):
    write_geotiff(tmp_path / "a.tif", np.full((300, 600, 4), 77, np.uint8), **PLACE)
    picture = image_overview(SceneReader.open(tmp_path / "a.tif"), longest=60)
    assert picture.shape == (30, 60, 3)
    assert (picture == 77).all()


def test_other_types_are_stretched_and_one_band_is_grey(tmp_path):
    ramp = np.linspace(-3, 5, 400, dtype=np.float32).reshape(20, 20)
    ramp[0, 0] = np.nan
    write_geotiff(tmp_path / "a.tif", ramp, **PLACE)
    picture = image_overview(SceneReader.open(tmp_path / "a.tif"))
    assert picture.shape == (20, 20, 3)
    assert picture.min() == 0
    assert picture.max() == 255
    assert (picture[..., 0] == picture[..., 2]).all()


def test_classes_are_coloured_and_nodata_is_black(tmp_path):
    write_geotiff(tmp_path / "a.tif", np.array([[0, 1, 255]], np.uint8), nodata=255, **PLACE)
    assert class_overview(tmp_path / "a.tif", TABLE)[0].tolist() == [[9, 8, 7], [0, 0, 255], [0, 0, 0]]
    reader = LabelReader.open(tmp_path / "a.tif", classes=2, label_map={0: 1, 1: 0})
    assert class_overview(reader, TABLE)[0].tolist() == [[0, 0, 255], [9, 8, 7], [0, 0, 0]]


def test_panels_stand_side_by_side_in_a_png(tmp_path):
    panels = [np.full((4, 5, 3), 10, np.uint8), np.full((6, 3, 3), 20, np.uint8)]
    path = side_by_side(tmp_path / "a.png", panels, gap=2)
    pixels, _ = SceneReader.open(path, quiet=True).read()
    assert pixels.shape == (6, 10, 3)
    assert (pixels[:4, :5] == 10).all()
    assert (pixels[:, 5:7] == 255).all()
    assert (pixels[:, 7:] == 20).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_unwritable_picture_is_an_error(tmp_path):
    with pytest.raises(RasterError, match="cannot be written"):
        side_by_side(tmp_path / "none" / "a.png", [np.zeros((4, 4, 3), np.uint8)])
