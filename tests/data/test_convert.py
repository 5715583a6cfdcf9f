import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio

from holojax.data import RasterScenes, SceneReader
from holojax.data import convert as module
from holojax.data.check import check_set
from holojax.data.convert import convert_set
from holojax.data.datasets import SETS, open_set
from holojax.data.datasets.stand_ins import write_stand_in
from holojax.errors import ConfigError, LabelError, RasterError
from tests.data.bad_files import IMAGE, LABEL, build, cut, draw, write_healthy, write_kind, write_raster
from tests.parity import ROOT


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_converted_set_reads_as_the_set(tmp_path, name):
    source, out = write_stand_in(name, tmp_path / "set"), tmp_path / "out"
    written, there = convert_set(source, out, name=name)
    assert written > 0
    assert there == 0
    assert list(out.rglob(".*")) == []
    assert check_set(out).faults == ()
    mine, theirs = open_set(SETS["folder"], out, "train"), open_set(SETS[name], source, "train")
    assert [scene.name for scene in mine] == [scene.name for scene in theirs]
    assert mine.classes == theirs.classes
    for here, origin in zip(mine, theirs, strict=True):
        for found, expected in zip(here.image.read(), origin.image.read(), strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(here.label.read(), origin.label.read())
        np.testing.assert_array_equal(RasterScenes.from_folder(out, "train", classes=len(mine.classes))[0].label.read(),
                                      mine[0].label.read())  # fmt: skip
        assert (here.image.crs, here.image.transform) == (origin.image.crs, origin.image.transform)


def gaps(pixels, value):
    pixels = pixels.copy()
    pixels[3:30, 5:40] = value
    return pixels


@pytest.mark.parametrize(
    "kind", ["nodata", "nan", "mask", "alpha", "each band its own", "many bands", "bands in files"]
)
def test_what_is_valid_stays_so(tmp_path, kind):
    pixels, label = draw(1)
    path = tmp_path / "set/train/image/a.tif"
    if kind == "nodata":
        write_raster(path, gaps(pixels, 7), nodata=7)
    elif kind == "nan":
        write_raster(path, gaps(pixels.astype(np.float32), np.nan))
    elif kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write_raster(path, pixels)
            with rasterio.open(path, "r+") as target:
                target.write_mask(gaps(np.full(pixels.shape[:2], 255, np.uint8), 0))
    elif kind == "alpha":
        write_raster(path, np.dstack([pixels, gaps(pixels[..., 0] * 0 + 255, 0)]), photometric="rgb", alpha="yes")
    elif kind == "a value a band":
        vrt = tmp_path / "set/train/image/a.vrt"
        write_raster(tmp_path / "a.tif", gaps(pixels, (1, 2, 3)))
        vrt.parent.mkdir(parents=True)
        rasterio.shutil.copy(tmp_path / "a.tif", vrt, driver="VRT")
        text = vrt.read_text()
        for band in (1, 2, 3):
            before, mark, after = text.partition(f'band="{band}"')
            end = after.index(">") + 1
            text = f"{before}{mark}{after[:end]}<NoDataValue>{band}</NoDataValue>{after[end:]}"
        vrt.write_text(text)
    elif kind == "many bands":
        write_raster(path, gaps(np.concatenate([pixels] * 3, -1).astype(np.int16), -1), nodata=-1)
    else:
        for band in range(3):
            write_raster(path.with_suffix("") / f"B{band}.tif", gaps(pixels[..., band], 9), nodata=9)
    write_raster(tmp_path / "set/train/label/a.tif", label)
    convert_set(tmp_path / "set", tmp_path / "out")
    image = next(path for path in (tmp_path / "set/train/image").iterdir())
    origin, made = SceneReader.open(image), SceneReader.open(tmp_path / "out/train/image/a.tif")
    found, valid = made.read()
    expected, seen = origin.read()
    assert not seen.all()
    np.testing.assert_array_equal(valid, seen)
    np.testing.assert_array_equal(found, expected)
    assert (made.crs, made.transform, made.bands, made.dtype) == (
        origin.crs, origin.transform, origin.bands, origin.dtype
    )  # fmt: skip
    if origin.nodata is not None:
        np.testing.assert_equal(made.nodata, origin.nodata)


def test_files_are_tiled_with_overviews_and_labels_have_names_and_colours(tmp_path):
    rng = np.random.default_rng(0)
    write_raster(tmp_path / "set/x/image/a.tif", rng.integers(0, 9, (300, 1100, 5)).astype(np.uint16))
    write_raster(tmp_path / "set/x/label/a.tif", rng.integers(0, 3, (300, 1100)).astype(np.uint8))
    (tmp_path / "set/classes.json").write_text(json.dumps(dict(names=["u", "v", "w"], palette=[[1, 2, 3]] * 3)))
    convert_set(tmp_path / "set", tmp_path / "out", codec="zstd")
    for part in ("image", "label"):
        with rasterio.open(tmp_path / f"out/x/{part}/a.tif") as made:
            assert made.block_shapes[0] == (256, 256)
            assert made.overviews(1) == [2, 4, 8]
            assert made.compression.name == "zstd"
    with rasterio.open(tmp_path / "out/x/label/a.tif") as made:
        assert made.nodata == 255
        assert made.colormap(1)[2] == (1, 2, 3, 255)
        assert made.tags(1)["class_1"] == "v"


def test_called_again_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write_healthy(tmp_path / "set")
    write_tiled, calls = module.write_tiled, []

    def breaks(*args, **settings):
        calls.append(args)
        if len(calls) == 4:
            raise OSError("no space left")
        write_tiled(*args, **settings)

    monkeypatch.setattr(module, "write_tiled", breaks)
    with pytest.raises(RasterError, match=r"out: cannot be written \(no space left\).*call again to go on"):
        convert_set(tmp_path / "set", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 3
    assert convert_set(tmp_path / "set", tmp_path / "out") == (7, 3)
    assert convert_set(tmp_path / "set", tmp_path / "out") == (0, 10)
    assert convert_set(tmp_path / "set", tmp_path / "out", codec="lzw") == (10, 0)
    write_raster(tmp_path / "set" / IMAGE, 255 - draw(2)[0], 2)
    os.utime(tmp_path / "set" / IMAGE, (1, 1))
    (tmp_path / "out/train/label/a.tif").unlink()
    assert convert_set(tmp_path / "set", tmp_path / "out", codec="lzw") == (2, 8)
    found = SceneReader.open(tmp_path / "out" / IMAGE).read()[0]
    np.testing.assert_array_equal(found, 255 - draw(2)[0])


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["raster", "damaged", "link to nowhere", "table", "no table"])
def test_a_file_that_convert_did_not_make_is_never_replaced(tmp_path, kind):
    write_healthy(tmp_path / "set")
    (tmp_path / "set/classes.json").write_text(json.dumps(dict(names=["a", "b", "c", "d"])))
    mine = tmp_path / "out" / ("classes.json" if "table" in kind else LABEL)
    mine.parent.mkdir(parents=True)
    if kind == "link to nowhere":
        mine.symlink_to(tmp_path / "nowhere")
    elif "table" in kind:
        mine.write_text(json.dumps(dict(names=["other"])) if kind == "table" else "mine")
    else:
        write_raster(mine, draw(1)[1])
        if kind == "damaged":
            cut(mine, 0.01)
    before = files_in(tmp_path)
    with pytest.raises(RasterError, match=rf"{mine}: is there already and was not made by convert"):
        convert_set(tmp_path / "set", tmp_path / "out")
    assert files_in(tmp_path) == before
    mine.unlink()
    assert convert_set(tmp_path / "set", tmp_path / "out") == (10, 0)
    assert convert_set(tmp_path / "set", tmp_path / "out") == (0, 10)  # its own table is no other's


@pytest.mark.parametrize("made", [False, True])
def test_a_built_set_is_not_converted_onto_its_own_files(tmp_path, made):
    pytest.importorskip("tensorflow_datasets")
    root = tmp_path / "set"
    write_healthy(root)
    if made:
        (root / "classes.json").write_text(json.dumps(dict(names=["a", "b", "c", "d"])))
        convert_set(root, tmp_path / "made")
        root = tmp_path / "made"
    built = build(root, "index")
    before = files_in(root)
    with pytest.raises(RasterError, match=rf"{root}/train/.*is a file of the set itself"):
        convert_set(built, root, codec="lzw")
    assert files_in(root) == before


def test_what_says_where_a_scene_lies_is_a_reason_to_convert_again(tmp_path):
    write_healthy(tmp_path / "set")
    convert_set(tmp_path / "set", tmp_path / "out")
    with rasterio.open(tmp_path / "set" / IMAGE, "r+") as image:
        image.transform @= rasterio.Affine.translation(0.02, 0)
        place = image.transform
    assert convert_set(tmp_path / "set", tmp_path / "out") == (2, 8)
    for part in (IMAGE, LABEL):
        with rasterio.open(tmp_path / "out" / part) as made:
            assert made.transform == place
    hidden = np.full_like(draw(0)[1], 255)
    hidden[:9] = 0
    mask = (tmp_path / "set" / IMAGE).with_suffix(".tif.msk")
    write_raster(tmp_path / "mask.tif", hidden)
    with rasterio.open(tmp_path / "mask.tif", "r+") as source:
        source.update_tags(INTERNAL_MASK_FLAGS_1="2", INTERNAL_MASK_FLAGS_2="2", INTERNAL_MASK_FLAGS_3="2")
    (tmp_path / "mask.tif").rename(mask)
    assert convert_set(tmp_path / "set", tmp_path / "out") == (1, 9)
    assert not SceneReader.open(tmp_path / "out" / IMAGE).read()[1][:9].any()


FULL = """
import resource, signal, sys
from holojax.data.convert import convert_set
from holojax.errors import RasterError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for room in (3000, 12_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        convert_set(sys.argv[1], sys.argv[2])
    except RasterError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are POSIX")
def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    write_healthy(tmp_path / "set")
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "set", tmp_path / "out"], capture_output=True, text=True, check=True,
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all("cannot be written" in line and "call again" in line for line in lines)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("label_size", LabelError, f"{LABEL}: expected 70 x 90"),
        ("label_value", LabelError, f"{LABEL}: label value 9"),
        ("label_shifted", LabelError, f"{LABEL}: lies up to 3.0 pixels away"),
        ("truncated", RasterError, f"{IMAGE}: expected a readable raster"),
        ("no_label", RasterError, f"{IMAGE}: has no label"),
    ],
)
def test_a_bad_file_is_named_and_its_name_stays_free(tmp_path, kind, error, text):
    root = write_kind(tmp_path, kind)
    (root / "classes.json").write_text(json.dumps(dict(names=["a", "b", "c", "d"])))
    with pytest.raises(error, match=rf"(?s).*{text}"):
        convert_set(root, tmp_path / "out")
    bad = IMAGE if "image" in text else LABEL
    assert not (tmp_path / "out" / bad).exists()


def test_mistakes_are_told(tmp_path):
    write_healthy(tmp_path)
    with pytest.raises(ConfigError, match="--codec: expected one of deflate"):
        convert_set(tmp_path, tmp_path / "out", codec="jpeg")
    with pytest.raises(ConfigError, match="is the folder of the set itself"):
        convert_set(tmp_path, tmp_path)


def test_scenes_without_label_go_elsewhere(tmp_path):
    source = write_stand_in("isic", tmp_path / "set")
    convert_set(source, tmp_path / "out", name="isic")
    assert not (tmp_path / "out/test").exists()
    assert len(list((tmp_path / "out/unlabelled/test/image").glob("*.tif"))) == 1
