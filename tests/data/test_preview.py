import numpy as np
import pytest
import rasterio

from holojax.data import ClassTable, RasterScenes
from holojax.data.labels import LabelReader
from holojax.data.preview import DARK, LIGHT, contact_sheet, draw_image, draw_label, write_preview
from holojax.data.scene import SceneReader
from holojax.errors import ConfigError, LabelError, RasterError

TABLE = ClassTable(("land", "water", "never"), ((200, 30, 40), (0, 90, 250), (1, 2, 3)))


def is_squares(pixels):
    return np.isin(pixels, (DARK, LIGHT)).all() and (pixels == pixels[..., :1]).all() and len(np.unique(pixels)) == 2


@pytest.mark.parametrize("bands", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_images_of_any_bands_are_stretched_and_show_where_nothing_is(tiff, rng, bands, dtype):
    pixels = rng.normal(60, 10, (90, 120, bands)).astype(dtype)
    pixels[:40, :50] = 0
    reader = SceneReader.open(tiff("a.tif", pixels, nodata=0))
    picture = draw_image(reader, 400)
    assert picture.shape == (90, 120, 3)
    assert is_squares(picture[:40, :50])
    seen = picture[40:]
    assert (seen.min(), seen.max()) == (0, 1)
    shown = {1: (0, 0, 0), 2: (0, 1, 0), 3: (0, 1, 2), 6: (0, 1, 2)}[bands]
    for channel, band in enumerate(shown):
        values = pixels[..., band][pixels[..., band] != 0]
        low, high = np.percentile(values.astype(float), (2, 98))
        expected = np.clip((pixels[40:, :, band].astype(float) - low) / (high - low), 0, 1)
        np.testing.assert_allclose(seen[..., channel], expected, atol=1e-6)


def test_one_value_and_nothing_at_all_can_be_drawn(tiff):
    flat = SceneReader.open(tiff("a.tif", np.full((20, 30, 3), 7, np.uint8)))
    assert (draw_image(flat, 50) == 0.5).all()
    empty = SceneReader.open(tiff("b.tif", np.full((40, 30, 2), np.nan, np.float32)))
    assert is_squares(draw_image(empty, 50))


def test_a_large_scene_is_read_small_and_keeps_its_shape(tiff):
    path = tiff("a.tif", np.zeros((600, 300, 1), np.uint8))
    assert draw_image(SceneReader.open(path), 100).shape == (100, 50, 3)
    assert draw_label(LabelReader.open(path, classes=1), ClassTable.numbered(1), 100).shape == (100, 50, 3)


def test_labels_have_the_colours_of_their_classes(tiff):
    label = np.zeros((50, 60), np.uint8)
    label[10:20, :30], label[20:] = 1, 255
    picture = draw_label(LabelReader.open(tiff("l.tif", label), classes=3), TABLE, 100)
    np.testing.assert_allclose(picture[0], np.array([[200, 30, 40]] * 60) / 255)
    np.testing.assert_allclose(picture[15, :30], np.array([[0, 90, 250]] * 30) / 255)
    assert is_squares(picture[20:])


def make_scenes(tiff, tmp_path, count, **settings):
    for number in range(count):
        image, label = np.full((30, 40, 3), number, np.uint8), np.zeros((30, 40), np.uint8)
        image[0] = 255
        tiff(f"train/image/scene {number:02d}.tif", image)
        tiff(f"train/label/scene {number:02d}.tif", label)
    return RasterScenes.from_folder(tmp_path, "train", classes=TABLE, **settings)


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))]


def test_the_sheet_names_every_scene_and_every_class(tiff, tmp_path):
    texts = texts_of(contact_sheet(make_scenes(tiff, tmp_path, 4), [0, 2, 3]))
    for wanted in ("scene 00\n40 x 30 (w x h)", "scene 02\nlabel", "scene 03\nlabel", "land", "water", "never"):
        assert wanted in texts
    assert not any("scene 01" in text for text in texts)


def test_the_sheet_shows_scenes_from_first_to_last(tiff, tmp_path, monkeypatch):
    shown = []

    def note(scenes, numbers):
        shown.extend(numbers)
        return contact_sheet(scenes, numbers[:1])

    monkeypatch.setattr("holojax.data.preview.contact_sheet", note)
    path = write_preview(tmp_path / "out.png", make_scenes(tiff, tmp_path, 9), count=5)
    assert shown == [0, 2, 4, 6, 8]
    with rasterio.open(path) as picture:
        assert min(picture.shape) > 100
        assert picture.read([1, 2, 3]).std() > 10
    assert [each.name for each in tmp_path.iterdir() if "png" in each.name] == ["out.png"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_scenes_fits(tiff, tmp_path, count):
    sheet = contact_sheet(make_scenes(tiff, tmp_path, count), range(count))
    assert len([text for text in texts_of(sheet) if text.endswith("label") and "\n" in text]) == count


def test_what_cannot_be_drawn_or_written_is_named(tiff, tmp_path):
    scenes = make_scenes(tiff, tmp_path, 1)
    with pytest.raises(ConfigError, match=r"NAME\.png.*found 12 and .*out\.pdf"):
        write_preview(tmp_path / "out.pdf", scenes)
    with pytest.raises(ConfigError, match=r"at least one scene"):
        write_preview(tmp_path / "out.png", scenes, count=0)
    with pytest.raises(RasterError, match=r"nowhere/out\.png: the preview cannot be written"):
        write_preview(tmp_path / "nowhere/out.png", scenes)
    tiff("train/label/scene 00.tif", np.full((30, 40), 77, np.uint8))
    with pytest.raises(LabelError, match=r"scene 00\.tif: label value 77"):
        write_preview(tmp_path / "out.png", scenes)
    assert not (tmp_path / "out.png").exists()
