import importlib
import json
import os
import shutil

import numpy as np
import pytest

from holojax.config import DATA_SETS
from holojax.data import SceneReader
from holojax.data.datasets import SETS, open_set, survey, verify
from holojax.data.datasets.base import resolve
from holojax.data.datasets.stand_ins import STAND_INS, write_stand_in
from holojax.data.datasets.synapse.volumes import read_nifti
from holojax.data.files import write_geotiff
from holojax.errors import ConfigError, LabelError, RasterError
from holojax.parallel import Window
from tests.parity import ROOT, shared

tfds = pytest.importorskip("tensorflow_datasets")
tfds.disable_progress_bar()

SCENES = {
    "folder": dict(train=2, val=1, test=1),
    "fbp": dict(train=2, val=1, test=1),
    "fbp_16bit": dict(train=2, val=1, test=1),
    "glh_water": dict(train=2, val=1, test=1),
    "whu_ohs": dict(train=2, val=1, test=2),
    "uavid": dict(train=4, val=2, test=2),
    "uavid_rest": dict(train=4, val=2, test=2),
    "deepglobe": dict(train=2, val=1, test=1),
    "wuhan": dict(train=2, val=1, test=1),
    "guangdong": dict(train=2, val=1, test=1),
    "isic": dict(train=2, val=1, test=1),
    "crag": dict(train=2, test=1),
    "synapse": dict(train=6, test=3),
}
# What the first pixels of the first row mean, where the stand-ins hold every raw value in turn.
KNOWN = {
    "folder": [0, 1, 2],
    "fbp": [255, *range(24)],  # 0 is not labelled, ids move down by one
    "fbp_16bit": [255, *range(24)],
    "glh_water": [0, 1],  # 255 is water
    "whu_ohs": [255, *range(24)],
    "uavid": [*range(8)],
    "uavid_rest": [0, 1, 2, 6, 3, 4, 7, 5],  # the same pixels, REST's ids
    "deepglobe": [*range(6), 255],  # unknown is ignored
    "wuhan": [*range(8), 255],
    "guangdong": [*range(11), 255],
    "isic": [0, 1],
    "crag": [0, 1, 1, 1],  # glands number 1, 2 and 255
    "synapse": [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0],
}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Return the folder of a stand-in, made once; tests that change it take a copy."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = write_stand_in(name, tmp_path_factory.mktemp(name) / name)
        return made[name]

    return get


def build(name, folder, target, config="index", **settings):
    package = name.removesuffix("_16bit").removesuffix("_rest")
    module = importlib.import_module(f"holojax.data.datasets.{package}.{package}_dataset_builder")
    kind = getattr(module, {"fbp_16bit": "Fbp16bit", "uavid_rest": "UavidRest"}.get(name, "Builder"))
    builder = kind(data_dir=str(target), config=config, **{"counts": {}} | settings)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
    return builder


def test_every_set_has_a_stand_in_and_a_name_in_the_configuration():
    assert set(SETS) == set(STAND_INS) == set(DATA_SETS) == set(SCENES) == set(KNOWN)


@pytest.mark.parametrize("name", SETS)
def test_scenes_are_found_split_and_decoded(stand_in, name):
    folder = stand_in(name)
    found = survey(resolve(SETS[name], folder), folder)
    assert found.missing == ()
    assert {split: len(scenes) for split, scenes in found.scenes.items()} == SCENES[name]
    scenes = open_set(SETS[name], folder, "train")
    assert len({scene.name for scene in scenes}) == SCENES[name]["train"]
    labels = [scene.label.read() for scene in scenes]
    np.testing.assert_array_equal(labels[0][0, : len(KNOWN[name])], KNOWN[name])
    assert set(np.unique(np.concatenate([label.ravel() for label in labels]))) - {255} <= set(
        range(len(scenes.classes))
    )
    if SETS[name].bands:
        assert scenes.bands == len(SETS[name].bands)


@pytest.mark.parametrize("name", SETS)
def test_builders_index_their_sets(stand_in, tmp_path, name):
    from holojax.data.datasets.built import open_built

    builder = build(name, stand_in(name), tmp_path)
    assert builder.name == name
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == SCENES[name]
    record = builder.as_data_source(split="train")[0]
    assert record["scene_id"].decode()
    assert os.path.exists(record["image_path"].decode())
    assert (record["height"], record["width"]) == open_set(SETS[name], stand_in(name), "train")[0].size
    indexed, direct = open_built(builder.data_dir, "train"), open_set(SETS[name], stand_in(name), "train")
    assert [scene.name for scene in indexed] == [scene.name for scene in direct]
    np.testing.assert_array_equal(indexed[1].label.read(), direct[1].label.read())
    assert indexed.classes == direct.classes


@pytest.mark.parametrize("name", ["uavid", "whu_ohs", "glh_water"])
def test_index_and_blocks_give_the_same_bytes(stand_in, tmp_path, monkeypatch, name):
    from holojax.data.datasets import builder, built

    monkeypatch.setattr(builder, "SIDE", 16)
    paths = [build(name, stand_in(name), tmp_path, config).data_dir for config in ("index", "blocks")]
    index, blocks = (built.open_built(path, "train") for path in paths)
    assert [scene.name for scene in index] == [scene.name for scene in blocks]
    for one, other in zip(index, blocks, strict=True):
        assert one.size == other.size
        for window in (Window(0, 0, *one.size), Window(7, 15, 20, 20), Window(30, 40, 30, 30)):
            for found, expected in zip(other.image.read(window), one.image.read(window), strict=True):
                assert found.tobytes() == expected.tobytes()
            np.testing.assert_array_equal(other.label.read(window), one.label.read(window))


@pytest.mark.parametrize(
    ("name", "gone", "named"),
    [
        ("glh_water", ["train/label/00.png", "val/img/00.jpg"], ["train/img/00.jpg: has no label",
                                                                 "val/label/00.png: has no image"]),
        ("uavid", ["train/seq1/Labels/000000.png", "valid/seq16/Labels/000100.png"],
         ["seq1/Images/000000.png: has no label", "seq16/Images/000100.png: has no label"]),
        ("deepglobe", ["train/606_mask.png"], ["606_sat.jpg: has no label", "train.txt: 606 is in the list"]),
        ("fbp", ["Image__8bit_NirRGB/GF2_PMS0__L1A0000-MSS0.tif"],
         ["MSS0_24label.png: has no image", "train.txt: GF2_PMS0"]),
        ("whu_ohs", ["tr/label/S1_0001.tif", "ts/image/S1_0003.tif"],
         ["S1_0001.tif has no label", "S1_0003.tif has no image"]),
        ("synapse", ["label/label0005.nii.gz"], ["img0005.nii.gz has no label"]),
        ("isic", ["ISIC2018_Task1_Training_GroundTruth/ISIC_0080001_segmentation.png"],
         ["ISIC_0080001.jpg: has no label"]),
        ("crag", ["test/Annotations/test_1.png", "train/Images/train_2.png"],
         ["test_1.png: has no label", "train_2.png: has no image"]),
        ("guangdong", ["val/image/scene_0.tif"], ["scene_0.png: has no image"]),
        ("wuhan", ["classes.json"], ["classes.json: no such file"]),
    ],
)  # fmt: skip
def test_all_that_is_missing_is_named_at_once(stand_in, tmp_path, name, gone, named):
    folder = shutil.copytree(stand_in(name), tmp_path / name, ignore=shutil.ignore_patterns("scenes", "slices"))
    for path in gone:
        (folder / path).unlink()
    with pytest.raises(RasterError) as error:
        verify(resolve(SETS[name], folder), folder, {})
    for part in named:
        assert part in str(error.value)


def test_an_incomplete_set_is_not_built_and_counts_are_named(stand_in, tmp_path):
    with pytest.raises(
        RasterError, match=r"(?s)train: expected 200 scenes.*found 2\n.*val: expected 25.*test: expected 25"
    ):
        build("glh_water", stand_in("glh_water"), tmp_path, counts=None)
    pieces = r"(?s)tr/image/\*\.tif: expected 4822 files, found 9.*val/image.*513.*ts/image.*2460"
    with pytest.raises(RasterError, match=pieces):
        verify(SETS["whu_ohs"], stand_in("whu_ohs"))
    with pytest.raises(RasterError, match=r"(?s)img/img\*\.nii\*: expected 30 files, found 3.*label/label"):
        verify(SETS["synapse"], stand_in("synapse"))
    with pytest.raises(RasterError, match=r"(?s)no such folder\. GLH-Water is not downloaded.*https://jack-bo1220"):
        build("glh_water", tmp_path / "none", tmp_path)
    with pytest.raises(RasterError, match=r"no file like \{split\}/img/\*\.jpg"):
        verify(SETS["glh_water"], tmp_path)


def test_two_files_of_one_scene_are_refused(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("glh_water"), tmp_path / "set")
    shutil.copy(folder / "train/label/00.png", folder / "train/img/00.png")
    with pytest.raises(RasterError, match=r"img/00\.png: is scene 00 as well as 00\.jpg"):
        open_set(SETS["glh_water"], folder, "train")
    assert len(survey(SETS["glh_water"], folder).scenes["train"]) == 2  # the others are still found


def test_suffixes_may_be_written_large_and_other_files_may_lie_there(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("folder"), tmp_path / "set")
    (folder / "train/image/scene_0.tif").rename(folder / "train/image/scene_0.TIF")
    (folder / "train/image/scene_0.TIF.aux.xml").write_text("<PAMDataset/>")
    (folder / "train/label/Thumbs.db").write_text("")
    found = survey(resolve(SETS["folder"], folder), folder)
    assert found.missing == ()
    assert len(found.scenes["train"]) == 2


def test_without_lists_files_that_lie_together_are_one_split(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("deepglobe"), tmp_path / "set")
    for path in folder.glob("*.txt"):
        path.unlink()
    assert {split: len(found) for split, found in survey(SETS["deepglobe"], folder).scenes.items()} == {"all": 4}
    with pytest.raises(RasterError, match=r"no labelled scenes in the split 'train' \(splits there: all\)"):
        open_set(SETS["deepglobe"], folder, "train")


@pytest.mark.parametrize("config", ["index", "blocks"])
def test_a_built_set_is_opened_without_opening_its_files(stand_in, tmp_path, monkeypatch, config):
    from holojax.data import bands
    from holojax.data.datasets.built import open_built

    built = build("fbp", stand_in("fbp"), tmp_path, config).data_dir
    direct = open_set(SETS["fbp"], stand_in("fbp"), "train", bands=(3, 1))
    monkeypatch.setattr(bands, "open_raster", lambda path: pytest.fail(f"{path} was opened"))
    for scene, expected in zip(open_built(built, "train", bands=(3, 1)), direct, strict=True):
        for field in ("height", "width", "bands", "dtype", "crs", "transform", "nodata"):
            assert getattr(scene.image, field) == getattr(expected.image, field)
        assert (scene.label.table, scene.size) == (expected.label.table, expected.size)


def test_a_file_that_changed_since_it_was_indexed_is_named(stand_in, tmp_path):
    from holojax.data.datasets.built import open_built

    folder = shutil.copytree(stand_in("glh_water"), tmp_path / "set")
    built = build("glh_water", folder, tmp_path / "built").data_dir
    os.utime(folder / "train/img/01.jpg", ns=(1, 1))
    with pytest.raises(RasterError, match=r"01\.jpg: changed since it was indexed"):
        open_built(built, "train")
    (folder / "train/img/01.jpg").unlink()
    with pytest.raises(RasterError, match=r"01\.jpg: no such file; it was there"):
        open_built(built, "train")
    with pytest.raises(RasterError, match="no split 'other'; there are test, train, val"):
        open_built(built, "other")


def other_folder(folder):
    return shutil.copytree(folder, folder.with_name("other"))


def touched(folder):
    os.utime(folder / "train/label/scene_0.png", ns=(1, 1))


def world_file(folder):
    (folder / "val/image/scene_0.tif.aux.xml").write_text("<PAMDataset/>")


def another_scene(folder):
    for path in (folder / "train").glob("*/scene_0.*"):
        shutil.copy(path, path.with_stem("z"))


def another_class(folder):
    table = json.loads((folder / "classes.json").read_text())
    (folder / "classes.json").write_text(json.dumps(table | dict(names=["x", *table["names"][1:]])))


@pytest.mark.parametrize("change", [other_folder, touched, world_file, another_scene, another_class])
def test_what_was_made_from_something_else_is_not_taken_for_the_set(stand_in, tmp_path, change):
    from holojax.data.datasets.built import open_built, read_table

    folder = shutil.copytree(stand_in("folder"), tmp_path / "set")
    index, blocks = (build("folder", folder, tmp_path, config).data_dir for config in ("index", "blocks"))
    before = read_table(index), read_table(blocks), os.stat(index).st_ino
    for config in ("index", "blocks"):
        build("folder", folder, tmp_path, config)
    assert (read_table(index), read_table(blocks), os.stat(index).st_ino) == before
    now = change(folder) or folder
    with pytest.raises(RasterError, match=rf"{blocks}: blocks are there already, but .*Remove this folder"):
        build("folder", now, tmp_path, "blocks")
    assert read_table(blocks) == before[1]
    assert build("folder", now, tmp_path).info.splits["train"].num_examples == 2 + (change is another_scene)
    scenes, direct = open_built(index, "train"), open_set(SETS["folder"], now, "train")
    assert [scene.image.path for scene in scenes] == [scene.image.path for scene in direct]
    assert scenes.classes == direct.classes
    assert [path.name for path in (tmp_path / "folder/index").iterdir()] == ["1.1.0"]
    shutil.rmtree(blocks)
    build("folder", now, tmp_path, "blocks")
    assert len(open_built(blocks, "train")) == len(direct)


def test_other_codecs_are_other_blocks(stand_in, tmp_path):
    build("glh_water", stand_in("glh_water"), tmp_path, "blocks")
    with pytest.raises(RasterError, match=r"codec \(zstd then, png now\)\. Remove this folder"):
        build("glh_water", stand_in("glh_water"), tmp_path, "blocks", codec="png")


def test_an_index_that_cannot_be_made_anew_leaves_the_old_one(stand_in, tmp_path):
    from holojax.data.datasets.built import open_built

    folder = shutil.copytree(stand_in("folder"), tmp_path / "set")
    built = build("folder", folder, tmp_path).data_dir
    (folder / "val/image/scene_0.tif").write_bytes(b"II")
    with pytest.raises(RasterError, match=r"scene_0\.tif: expected a readable raster"):
        build("folder", folder, tmp_path)
    assert len(open_built(built, "train")) == 2
    assert [path.name for path in (tmp_path / "folder/index").iterdir()] == ["1.1.0"]


def test_a_folder_of_bands_is_an_image_and_is_joined_before_it_is_built(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("folder"), tmp_path / "set")
    path = folder / "train/image/scene_0.tif"
    path.with_suffix("").mkdir()
    for band, plane in enumerate(np.moveaxis(SceneReader.open(path, quiet=True).read()[0], -1, 0)):
        write_geotiff(path.with_suffix("") / f"B{band}.tif", plane)
    path.unlink()
    for scenes in zip(*(open_set(SETS["folder"], each, "train") for each in (folder, stand_in("folder"))), strict=True):
        found, expected = (scene.image.read()[0] for scene in scenes)
        np.testing.assert_array_equal(found, expected)
        assert scenes[0].name == scenes[1].name
    for config in ("index", "blocks"):
        with pytest.raises(RasterError, match=r"image/scene_0: is a folder of bands.*prepare\.py convert"):
            build("folder", folder, tmp_path / "out", config)


@pytest.mark.parametrize("config", [None, "index", "blocks"])
def test_training_reads_files_index_and_blocks_alike(stand_in, tmp_path, config):
    from holojax.config import experiment
    from holojax.training.scenes import open_scenes

    folder = stand_in("glh_water")
    root = build("glh_water", folder, tmp_path, config).data_dir if config else folder
    cfg = experiment(model=dict(classes=2), data=dict(name="glh_water", root=str(root)))
    scenes = open_scenes(cfg, "val")
    assert scenes.classes == SETS["glh_water"].classes
    direct = open_set(SETS["glh_water"], folder, "val")
    assert scenes[0].image.read()[0].tobytes() == direct[0].image.read()[0].tobytes()
    np.testing.assert_array_equal(scenes[0].label.read(), direct[0].label.read())


def test_the_band_order_of_the_two_forms_of_fbp_differs():
    assert SETS["fbp"].bands == ("near infrared", "red", "green", "blue")
    assert SETS["fbp_16bit"].bands == ("blue", "green", "red", "near infrared")


def test_colours_of_uavid_are_one_class_in_both_orders():
    official, rest = SETS["uavid"], SETS["uavid_rest"]
    for raw, name in enumerate(official.classes.names):
        there = rest.label_map[raw]
        assert rest.classes.names[there] == name
        assert rest.classes.palette[there] == official.classes.palette[raw] == rest.coding.colours[raw]


def test_a_scene_of_whu_ohs_is_what_its_patches_were_cut_from(stand_in):
    import rasterio

    folder = stand_in("whu_ohs")
    scenes = {split: {scene.name: scene for scene in open_set(SETS["whu_ohs"], folder, split)}
              for split in ("train", "val", "test")}  # fmt: skip
    assert scenes["train"]["S1"].size == (80, 80)  # 48 + 2 * 16
    pixels, valid = scenes["train"]["S1"].image.read()
    assert valid.all()  # the patch that is missing overlaps the others everywhere
    for split, patch, row, col in (("tr", "S1_0001", 0, 0), ("tr", "S1_0008", 2, 1)):
        with rasterio.open(folder / split / "image" / f"{patch}.tif") as source:
            np.testing.assert_array_equal(
                pixels[16 * row : 16 * row + 48, 16 * col : 16 * col + 48], np.moveaxis(source.read(), 0, -1)
            )
    train, val, test = (scenes[split]["S1"].label.read() for split in ("train", "val", "test"))
    labelled = np.stack([label != 255 for label in (train, val, test)])
    own = np.zeros((80, 80), bool)
    own[0:48, 32:80] = True  # patch 3 is of the test split
    assert not labelled[:2, own].any()
    assert labelled.sum(0).max() == 1  # no pixel is labelled in two splits
    assert not labelled[2, ~own].any()


def test_patches_that_disagree_are_named(stand_in):
    lines = SETS["whu_ohs"].inspect(stand_in("whu_ohs"))
    assert len(lines) == 2  # with its upper and its left neighbour
    assert all("label/T1_0004.tif differ in 1 of the" in line for line in lines)


def test_whu_ohs_may_be_split_by_scene(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("whu_ohs"), tmp_path / "ohs", ignore=shutil.ignore_patterns("scenes"))
    (folder / "train.txt").write_text("S1\n")
    (folder / "test.txt").write_text("T1\n")
    found = verify(SETS["whu_ohs"], folder, {})
    assert {split: [scene.name for scene in scenes] for split, scenes in found.scenes.items()} == {
        "train": ["S1"],
        "test": ["T1"],
    }
    label = open_set(SETS["whu_ohs"], folder, "train")[0].label.read()
    assert (label == 255).mean() < 0.2
    (folder / "train.txt").write_text("S1\nT1\n")
    with pytest.raises(RasterError, match=r"T1 is in train\.txt and in test\.txt"):
        survey(SETS["whu_ohs"], folder)


def test_patches_that_cannot_be_placed_ask_for_the_grid(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("whu_ohs"), tmp_path / "ohs", ignore=shutil.ignore_patterns("scenes"))
    (folder / "grid.json").unlink()
    with pytest.raises(RasterError, match=r"scene S1 has 8 patches without georeference.*\"S1\": \[rows, columns\]"):
        survey(SETS["whu_ohs"], folder)


def test_volumes_are_read_in_either_byte_order_and_refused_when_cut_short(stand_in, tmp_path):
    folder = stand_in("synapse")
    for number in (5, 21):  # little, big endian
        label = read_nifti(folder / f"label/label{number:04d}.nii.gz")
        np.testing.assert_array_equal(label[:14, 0, 0], range(14))
    assert read_nifti(folder / "img/img0021.nii.gz").dtype == np.int16
    raw = (folder / "img/img0005.nii.gz").read_bytes()
    (tmp_path / "img0005.nii.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(RasterError, match=r"img0005\.nii\.gz: expected a NIfTI file, cannot read it"):
        read_nifti(tmp_path / "img0005.nii.gz")


def test_a_table_of_classes_that_does_not_fit_is_refused(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("wuhan"), tmp_path / "wuhan")
    (folder / "classes.json").write_text(json.dumps(dict(names=["one"])))
    with pytest.raises(ConfigError, match=r"Wuhan-1 has 8 classes, found 1 names"):
        open_set(SETS["wuhan"], folder, "train")
    (folder / "classes.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"classes\.json: expected"):
        open_set(SETS["wuhan"], folder, "train")


def test_a_label_of_another_size_stops_the_index(stand_in, tmp_path):
    folder = shutil.copytree(stand_in("glh_water"), tmp_path / "set")
    shutil.copy(folder / "train/label/00.png", folder / "train/label/01.png")
    with pytest.raises(LabelError, match=r"01\.png: expected 41 x 47 pixels"):
        build("glh_water", folder, tmp_path / "built")


REAL = {
    # folder: scenes (image, label) of the split, and the table of classes
    "banepa": (
        [("pairs/train/image/banepa_train.tif", "pairs/train/label/banepa_train.tif")],
        dict(names=["background", "building"]),
    ),
    "clouds": (
        [(f"{name}.tif", f"{name}_label.tif") for name in ("landsat5", "landsat7", "sentinel2")],
        dict(names=["cloud shadow", "water", "snow", "land", "cloud"]),
    ),
    "floods_sar": (
        [(f"{name}_S1Hand.tif", f"{name}_LabelHand.tif") for name in ("Ghana_53713", "Spain_7370579", "USA_905409")],
        dict(names=["dry", "water"], label_map={"-1": 255, "0": 0, "1": 1}),
    ),
}
BANDS = {"banepa": 3, "clouds": 6, "floods_sar": 2}


@pytest.mark.parametrize("name", REAL)
def test_real_scenes_are_read_through_folder_as_index_and_as_blocks(tmp_path, name):
    from holojax.data.datasets.built import open_built

    source, bands, (pairs, table) = shared(f"data/{name}"), BANDS[name], REAL[name]
    for image, label in pairs:
        for part, path in (("image", image), ("label", label)):
            link = (
                tmp_path
                / "set/train"
                / part
                / path.rsplit("/", 1)[-1].replace("_label", "").replace("LabelHand", "S1Hand")
            )
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / path)
    (tmp_path / "set/classes.json").write_text(json.dumps(table))
    built = (build("folder", tmp_path / "set", tmp_path, config).data_dir for config in ("index", "blocks"))
    index, blocks = (open_built(folder, "train") for folder in built)
    assert len(index) == len(pairs)
    assert index.bands == blocks.bands == bands
    for one, other in zip(index, blocks, strict=True):
        window = Window(one.size[0] // 2, one.size[1] - 300, 400, 400)
        for found, expected in zip(other.image.read(window), one.image.read(window), strict=True):
            assert found.tobytes() == expected.tobytes()
        labels = one.label.read(window)
        assert set(np.unique(labels)) <= {*range(len(table["names"])), 255}
        np.testing.assert_array_equal(other.label.read(window), labels)
        assert (other.image.crs, other.image.transform) == (one.image.crs, one.image.transform)


def test_the_page_of_data_sets_names_them_all():
    page = (ROOT / "docs/datasets.md").read_text()
    assert all(f"`{name}`" in page for name in SETS)
