import numpy as np
import pytest
import rasterio

from holojax.data import RasterScenes, files
from holojax.data.synthetic import FIELDS, KINDS, WATER, write_scenes
from holojax.errors import ConfigError, RasterError


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes(tmp_path, kind):
    arguments = dict(kind=kind, splits={"train": 2, "val": 1}, size=96)
    a = bytes_of(write_scenes(tmp_path / "a", seed=5, **arguments))
    b = bytes_of(write_scenes(tmp_path / "b", seed=5, **arguments))
    c = bytes_of(write_scenes(tmp_path / "c", seed=6, **arguments))
    assert a == b
    assert len(a) == 7
    assert all(a[name] != c[name] for name in a)


def test_more_scenes_leave_the_first_ones_alone(tmp_path):
    few = bytes_of(write_scenes(tmp_path / "few", "fields", {"train": 1}, size=64))
    many = bytes_of(write_scenes(tmp_path / "many", "fields", {"val": 1, "train": 2}, size=64))
    name = next(name for name in few if name.match("train/label/*.tif"))
    with rasterio.open(tmp_path / "few" / name) as a, rasterio.open(tmp_path / "many" / name) as b:
        np.testing.assert_array_equal(a.read(), b.read())
    assert len(many) == 7


def test_scenes_are_georeferenced_with_nodata_colours_and_names(tmp_path):
    root = write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64)
    with rasterio.open(root / "train/image/train_000.tif") as image:
        assert image.crs.to_epsg() == 32633
        assert image.res == (10, 10)
        assert image.nodata == 0
        assert image.profile["tiled"]
        assert image.read().min() >= 1
        place = image.transform
    with rasterio.open(root / "train/label/train_000.tif") as label:
        assert label.nodata == 255
        assert label.transform == place
        assert label.colormap(1)[2][:3] == FIELDS.palette[2]
        assert label.tags(1)["class_4"] == "pump station"


def test_fields_follow_the_markers_of_their_scene(tmp_path):
    root = write_scenes(tmp_path / "s", "fields", {"train": 6}, size=96)
    kinds = []
    for scene in RasterScenes.from_folder(root, "train", classes=FIELDS):
        present = set(np.unique(scene.label.read()))
        assert present in ({0, 1, 3}, {0, 2, 4})
        kinds.append(2 in present)
    assert sum(kinds) == 3


def test_fields_look_the_same_dry_or_irrigated(tmp_path):
    root = write_scenes(tmp_path / "s", "fields", {"train": 16}, size=128)
    means = {1: [], 2: []}
    for scene in RasterScenes.from_folder(root, "train", classes=FIELDS):
        pixels, label = scene.image.read()[0], scene.label.read()
        kind = 1 if (label == 1).any() else 2
        means[kind].append(pixels[label == kind].mean(0))
    dry, irrigated = (np.mean(means[kind], 0) for kind in (1, 2))
    assert np.abs(dry - irrigated).max() < 6  # of 255


def flood(mask, seeds):
    while True:
        wide = seeds.copy()
        wide[1:] |= seeds[:-1]
        wide[:-1] |= seeds[1:]
        wide[:, 1:] |= seeds[:, :-1]
        wide[:, :-1] |= seeds[:, 1:]
        wide &= mask
        if (wide == seeds).all():
            return seeds
        seeds = wide


def test_rivers_run_from_border_to_border_and_lakes_are_closed(tmp_path):
    root = write_scenes(tmp_path / "s", "water", {"train": 4}, size=128)
    frame = np.ones((128, 128), bool)
    frame[1:-1, 1:-1] = False
    for scene in RasterScenes.from_folder(root, "train", classes=WATER):
        label = scene.label.read()
        river, lake = label == 2, label == 1
        assert river.any()
        assert lake.any()
        assert not (lake & frame).any()
        np.testing.assert_array_equal(flood(river, river & frame), river)
        assert not (flood(river | lake, lake.copy()) & river).any()


def test_a_complete_folder_is_left_as_it_is(tmp_path, monkeypatch):
    root = write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64)
    monkeypatch.setattr(files, "write_geotiff", None)
    assert write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64) == root


def test_other_parameters_are_an_error_that_names_them(tmp_path):
    write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64)
    with pytest.raises(ConfigError, match=r"other parameters: seed 0 \(wanted 1\)"):
        write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64, seed=1)


def test_lost_files_are_noticed(tmp_path):
    root = write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64)
    (root / "train/image/train_000.tif").unlink()
    with pytest.raises(ConfigError, match="expected the 2 generated rasters, found 1"):
        write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("holojax.data.synthetic.write_geotiff", fail)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "s", "fields", {"train": 1}, size=64)
    assert list(tmp_path.iterdir()) == []


def test_wrong_kinds_sizes_and_places_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="expected one of fields, water, found 'rivers'"):
        write_scenes(tmp_path / "s", "rivers", {"train": 1})
    with pytest.raises(ConfigError, match="size >= 64"):
        write_scenes(tmp_path / "s", "water", {"train": 1}, size=40)
    (tmp_path / "file").touch()
    with pytest.raises(RasterError, match="cannot be made"):
        write_scenes(tmp_path / "file" / "s", "fields", {"train": 1}, size=64)
