import numpy as np
import pytest

from holojax.data.labels import LabelReader
from holojax.errors import ConfigError, LabelError
from holojax.parallel import Window


def test_classes_stay_and_nodata_and_beyond_are_ignored(tiff):
    raw = np.array([[0, 1, 2], [2, 9, 255]], np.uint8)
    reader = LabelReader.open(tiff("a.tif", raw, nodata=9), classes=3)
    np.testing.assert_array_equal(reader.read(Window(0, 0, 3, 4)), [[0, 1, 2, 255], [2, 255, 255, 255], [255] * 4])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_a_map_translates_raw_values_of_any_integer_type(tiff, dtype):
    raw = np.array([[0, 7], [100, 255]]).astype(dtype)
    reader = LabelReader.open(tiff("a.tif", raw), classes=2, label_map={0: 255, 7: 0, 100: 1})
    np.testing.assert_array_equal(reader.read(), [[255, 0], [1, 255]])


def test_negative_raw_values_can_be_mapped(tiff):
    raw = np.array([[-1, 0], [1, 1]], np.int16)
    reader = LabelReader.open(tiff("a.tif", raw), classes=2, label_map={-1: 255, 0: 0, 1: 1})
    np.testing.assert_array_equal(reader.read(), [[255, 0], [1, 1]])


def test_255_can_be_a_class_on_disk(tiff):
    reader = LabelReader.open(tiff("a.tif", np.array([[0, 255]], np.uint8)), classes=2, label_map={0: 0, 255: 1})
    np.testing.assert_array_equal(reader.read(), [[0, 1]])


def test_every_value_of_a_byte_can_be_known(tiff):
    raw = np.arange(256, dtype=np.uint8).reshape(16, 16)
    reader = LabelReader.open(tiff("a.tif", raw), classes=255)  # and 255 is ignored
    np.testing.assert_array_equal(reader.read(), raw)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_a_value_outside_the_table_is_named_with_its_first_position(tiff, dtype):
    raw = np.zeros((20, 30), dtype)
    raw[12, 9] = raw[12, 20] = raw[17, 3] = 44
    reader = LabelReader.open(tiff("a.tif", raw), classes=3)
    with pytest.raises(
        LabelError,
        match=r"a\.tif: label value 44 at row 12, column 9, the first of 2 such pixels of 300, .*known: 0\.\.2, 255",
    ):
        reader.read(Window(5, 5, 15, 20))


def test_a_map_to_no_class_is_an_error(tiff):
    with pytest.raises(ConfigError, match=r"label_map: expected classes 0\.\.2 or 255 .*\{7: 3\}"):
        LabelReader.open(tiff("a.tif", np.zeros((2, 2), np.uint8)), classes=3, label_map={7: 3})


def test_a_label_of_several_bands_is_an_error(tiff):
    with pytest.raises(LabelError, match=r"expected a label with one band .*found 3 bands"):
        LabelReader.open(tiff("a.tif", np.zeros((2, 2, 3), np.uint8)), classes=3)


def test_a_label_of_floats_is_an_error(tiff):
    with pytest.raises(LabelError, match="expected integer class numbers, found float32"):
        LabelReader.open(tiff("a.tif", np.zeros((2, 2), np.float32)), classes=3)


def test_beyond_any_edge_labels_are_ignored(tiff, rng):
    raw = rng.integers(0, 3, (6, 7)).astype(np.uint8)
    reader = LabelReader.open(tiff("a.tif", raw), classes=3)
    np.testing.assert_array_equal(
        reader.read(Window(-2, -3, 12, 11)), np.pad(raw, [(2, 4), (3, 1)], constant_values=255)
    )
    assert (reader.read(Window(-9, 0, 4, 4)) == 255).all()
    assert (reader.read(Window(0, 99, 4, 4)) == 255).all()


def test_scaled_labels_are_picked_and_a_bad_value_is_found_in_its_place(tiff):
    raw = np.repeat(np.repeat(np.array([[0, 1], [2, 3]], np.uint8), 8, 0), 8, 1)
    path = tiff("a.tif", raw)
    reader = LabelReader.open(path, classes=4)
    np.testing.assert_array_equal(reader.read(shape=(4, 4)), np.repeat(np.repeat([[0, 1], [2, 3]], 2, 0), 2, 1))
    assert set(np.unique(reader.read(Window(-8, 0, 24, 16), shape=(3, 2)))) == {0, 1, 2, 3, 255}
    with pytest.raises(LabelError, match="label value 3 at row 8, column 8, the first of 64"):
        LabelReader.open(path, classes=3).read(shape=(4, 4))
