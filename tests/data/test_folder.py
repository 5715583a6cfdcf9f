import shutil

import numpy as np
import pytest

from holojax.data import ClassTable, RasterScenes
from holojax.errors import ConfigError, LabelError, RasterError


def test_pairs_come_sorted_with_their_sizes(scene_folder):
    scenes = RasterScenes.from_folder(scene_folder([(8, 9), (7, 12), (5, 5)]), "train", classes=4)
    assert len(scenes) == 3
    assert [scene.name for scene in scenes] == ["s0", "s1", "s2"]
    assert [scene.size for scene in scenes] == [(8, 9), (7, 12), (5, 5)]
    assert scenes.largest == (8, 12)
    assert scenes.bands == 3
    assert len(scenes.classes) == 4


def test_other_names_of_the_folders_are_known(scene_folder):
    assert len(RasterScenes.from_folder(scene_folder([(5, 5)], "val", "img", "annotation"), "val", classes=4)) == 1


def test_a_list_of_pairs_and_a_class_table_do_as_well(tiff):
    table = ClassTable(("a", "b"), ((1, 2, 3), (4, 5, 6)))
    image, label = tiff("x.tif", np.ones((4, 4, 2), np.uint8)), tiff("y.tif", np.ones((4, 4), np.uint8))
    scenes = RasterScenes([(image, label)], classes=table, bands=[1], label_map={"1": 0})
    assert scenes.classes is table
    assert scenes.bands == 1
    assert (scenes[0].label.read() == 0).all()


@pytest.mark.parametrize(("gone", "kind"), [("label", "label"), ("image", "image")])
def test_a_missing_partner_is_named(scene_folder, gone, kind):
    root = scene_folder([(5, 5), (5, 5)])
    (root / "train" / gone / "s1.tif").unlink()
    with pytest.raises(RasterError, match=rf"s1\.tif: has no {kind}\. Expected \{{split\}}/\{{image,label\}}"):
        RasterScenes.from_folder(root, "train", classes=4)


def test_a_missing_split_and_an_empty_folder_say_what_is_expected(scene_folder):
    root = scene_folder([(5, 5)])
    with pytest.raises(RasterError, match=r"val/image: no such folder\. Expected \{split\}"):
        RasterScenes.from_folder(root, "val", classes=4)
    shutil.rmtree(root / "train" / "label")
    (root / "train" / "label").mkdir()
    with pytest.raises(RasterError, match=r"label: no rasters \(\.tif, .*Expected \{split\}"):
        RasterScenes.from_folder(root, "train", classes=4)


def test_two_files_of_one_name_are_refused(scene_folder):
    root = scene_folder([(5, 5)])
    shutil.copy(root / "train/image/s0.tif", root / "train/image/s0.tiff")
    with pytest.raises(RasterError, match=r"s0\.tiff: shares its name with s0\.tif"):
        RasterScenes.from_folder(root, "train", classes=4)


def test_a_label_of_another_size_is_an_error(scene_folder, tiff):
    root = scene_folder([(5, 6)])
    tiff("train/label/s0.tif", np.zeros((6, 5), np.uint8))
    with pytest.raises(LabelError, match=r"label/s0\.tif: expected 5 x 6 pixels .*found 6 x 5"):
        RasterScenes.from_folder(root, "train", classes=4)


@pytest.mark.parametrize("other", [np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.uint16)])
def test_images_must_agree_in_bands_and_type(scene_folder, tiff, other):
    root = scene_folder([(5, 5), (5, 5)])
    tiff("train/image/s1.tif", other)
    with pytest.raises(RasterError, match=r"s1\.tif: expected 3 band\(s\) of uint8 as in .*s0\.tif, found"):
        RasterScenes.from_folder(root, "train", classes=4)


def test_no_pairs_and_a_bad_map_are_errors(tiff):
    with pytest.raises(RasterError, match="at least one pair"):
        RasterScenes([], classes=2)
    pair = tiff("x.tif", np.ones((4, 4, 3), np.uint8)), tiff("y.tif", np.ones((4, 4), np.uint8))
    with pytest.raises(ConfigError, match=r"data\.label_map: expected numbers"):
        RasterScenes([pair], classes=2, label_map={"water": 1})


def test_class_tables_are_checked():
    assert len(set(ClassTable.numbered(40).palette)) == 40
    assert ClassTable.numbered(2).colormap()[255] == (0, 0, 0, 0)
    with pytest.raises(ConfigError, match="one colour per name"):
        ClassTable(("a",), ())
    with pytest.raises(ConfigError, match="1 to 255 classes"):
        ClassTable.numbered(256)
    with pytest.raises(ConfigError, match=r"Class 'a': expected a colour"):
        ClassTable(("a",), ((0, 0, 256),))


def test_a_folder_of_files_is_one_image(scene_folder, tiff, rng):
    root = scene_folder([(5, 6)])
    bands = rng.integers(0, 9, (5, 6, 3)).astype(np.uint8)
    for band in range(3):
        tiff(f"train/image/many.bands/B{band}.tif", bands[..., band])
    tiff("train/label/many.bands.tif", np.zeros((5, 6), np.uint8))
    (root / "train/image/notes").mkdir()
    scenes = RasterScenes.from_folder(root, "train", classes=4)
    assert [scene.name for scene in scenes] == ["many.bands", "s0"]
    np.testing.assert_array_equal(scenes[0].image.read()[0], bands)
