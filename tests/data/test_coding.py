import numpy as np
import pytest

from holojax.data.coding import Coding
from holojax.data.labels import LabelReader
from holojax.errors import ConfigError, LabelError
from holojax.parallel import Window

COLOURS = ((0, 0, 0), (0, 255, 255), (255, 255, 0))


def test_colours_become_numbers_by_window(tiff, rng):
    raw = rng.integers(0, 3, (21, 17)).astype(np.uint8)
    path = tiff("a.tif", np.array(COLOURS, np.uint8)[raw])
    reader = LabelReader.open(path, classes=2, coding=Coding(COLOURS), label_map={0: 255, 1: 0, 2: 1})
    whole = np.array([255, 0, 1], np.uint8)[raw]
    np.testing.assert_array_equal(reader.read(), whole)
    np.testing.assert_array_equal(reader.read(Window(3, 5, 7, 8)), whole[3:10, 5:13])
    assert (reader.read(Window(18, 15, 6, 6))[3:] == 255).all()


def test_a_colour_that_is_not_in_the_palette_is_named_with_its_place(tiff):
    pixels = np.zeros((9, 8, 3), np.uint8)
    pixels[6, 5] = (1, 2, 3)
    reader = LabelReader.open(tiff("a.tif", pixels), classes=3, coding=Coding(COLOURS))
    with pytest.raises(LabelError, match=r"a\.tif: colour \(1, 2, 3\) at row 6, column 5, the first of 1 such"):
        reader.read()
    with pytest.raises(LabelError, match=r"row 6, column 5"):
        reader.read(Window(4, 4, 4, 4))


def test_a_threshold_forgives_colours_that_are_not_exact(tiff):
    pixels = np.array([[[3, 250, 128], [127, 0, 2]]], np.uint8)
    reader = LabelReader.open(tiff("a.tif", pixels), classes=3, coding=Coding(COLOURS, threshold=128))
    np.testing.assert_array_equal(reader.read(), [[1, 0]])


def test_numbered_objects_are_one_class(tiff):
    path = tiff("a.tif", np.array([[0, 1, 300, 255]], np.uint16))
    reader = LabelReader.open(path, classes=2, coding=Coding(above=0))
    np.testing.assert_array_equal(reader.read(), [[0, 1, 1, 1]])


def test_a_label_of_another_coding_is_refused(tiff):
    grey, colour = tiff("g.tif", np.zeros((4, 4), np.uint8)), tiff("c.tif", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(LabelError, match=r"g\.tif: expected a label with three bands of colours, found 1 band"):
        LabelReader.open(grey, classes=3, coding=Coding(COLOURS))
    with pytest.raises(LabelError, match=r"c\.tif: expected a label with one band of class numbers, found 3 band"):
        LabelReader.open(colour, classes=3)


@pytest.mark.parametrize("wrong", [dict(colours=COLOURS, above=0), dict(colours=COLOURS[:1] * 2)])
def test_codings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        Coding(**wrong)
