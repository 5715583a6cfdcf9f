import numpy as np
import pytest

from holojax.data.datasets import fbp, open_set
from holojax.errors import ConfigError, RasterError


def test_stand_ins_are_read_as_the_real_set_is(tmp_path):
    root = fbp.stand_in(tmp_path / "fbp", seed=3, scenes={"train": 3, "val": 1}, size=(20, 24))
    scenes = open_set(fbp.FACTS, root, "train", bands=(1, 2, 3))
    assert [scene.size for scene in scenes] == [(20, 24), (21, 25), (20, 24)]
    pixels, valid = scenes[0].image.read()
    assert pixels.shape == (20, 24, 3)
    assert valid.all()
    assert set(np.unique(scenes[0].label.read())) <= {*range(24), 255}
    assert scenes[0].image.crs is not None
    assert len(open_set(fbp.FACTS, root, "val").classes) == 24
    assert open_set(fbp.FACTS, root, "val").bands == 4


def test_unlabelled_is_ignored_and_ids_move_down_by_one(tiff):
    raw = np.arange(25, dtype=np.uint8).reshape(5, 5)
    image = tiff("val/image/a.tif", np.ones((5, 5, 4), np.uint8))
    tiff("val/label/a_24label.tif", raw)
    scenes = open_set(fbp.FACTS, image.parents[2], "val")
    np.testing.assert_array_equal(scenes[0].label.read().ravel(), [255, *range(24)])
    assert scenes.classes.names[0] == "industrial area"
    assert scenes.classes.palette[23] == (200, 150, 0)


def test_without_the_data_the_error_says_where_to_get_them(tmp_path):
    with pytest.raises(RasterError, match=r"no such folder.*x-ytong\.github\.io.*In .*fbp: the archives"):
        open_set(fbp.FACTS, tmp_path / "fbp", "train")


def test_a_stand_in_never_lands_on_real_data(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ConfigError, match="found something else"):
        fbp.stand_in(tmp_path)
