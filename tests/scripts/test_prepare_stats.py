"""`stats` and `preview` of scripts/prepare.py."""

import json

import numpy as np
import pytest

from holojax.data.files import write_geotiff
from tests.parity import shared


@pytest.fixture
def folder(tmp_path):
    """Two scenes of two bands: left halves of class 0, a fifth of it not labelled, right halves of class 2."""
    for split in ("train", "val"):
        for part in ("image", "label"):
            (tmp_path / split / part).mkdir(parents=True)
        for name in ("a", "b"):
            image = np.full((20, 40, 2), (10, 30), np.int16)
            image[:10] += 2
            label = np.zeros((20, 40), np.uint8)
            label[:, 20:], label[:4, :20] = 2, 255
            write_geotiff(tmp_path / split / "image" / f"{name}.tif", image)
            write_geotiff(tmp_path / split / "label" / f"{name}.tif", label)
    return tmp_path


def test_stats_counts_classes_and_says_what_to_configure(prepare, folder, capsys):
    assert prepare.main(["stats", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classes: 3, from the data"
    assert "1,600 valid pixels in 2 scene(s), 1,440 labelled" in lines
    assert lines[-4:] == [
        "for the configuration:",
        "data.mean=(11, 31,)",
        "data.std=(1, 1,)",
        "train.class_weights=(1.11111, 0, 0.888889,)",
    ]


def test_stats_reads_what_it_is_told(prepare, folder, capsys):
    options = ["--split=val", "--classes=5", "--bands=1", "--nodata=30", "--weights=median"]
    assert prepare.main(["stats", str(folder), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classes: 5"
    assert "800 valid pixels in 2 scene(s), 640 labelled" in lines
    assert lines[-3:] == ["data.mean=(32,)", "data.std=(0,)", "train.class_weights=(1.33333, 0, 0.8, 0, 0,)"]
    assert "note: band 0 has one value everywhere: it says nothing, and cannot be normalised; leave it out" in lines


def test_the_table_of_classes_beside_the_scenes_names_them(prepare, folder, capsys):
    (folder / "classes.json").write_text(json.dumps(dict(names=["dry", "wet", "snow"])))
    assert prepare.main(["stats", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("classes: 3, from the data")
    assert all(name in out for name in ("dry", "wet", "snow"))


def test_preview_writes_the_picture(prepare, folder, capsys):
    out = folder / "sheet.png"
    assert prepare.main(["preview", str(folder), f"--out={out}", "--count=1"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_mistakes_end_in_one_line(prepare, folder, capsys):
    assert prepare.main(["stats", str(folder), "--split=test"]) == 1
    assert capsys.readouterr().err.startswith(f"RasterError: {folder}/test/image: no such folder.")
    with pytest.raises(SystemExit):
        prepare.main(["stats", str(folder), "--bands=red"])
    assert "argument --bands" in capsys.readouterr().err


def test_without_labels_the_bands_are_still_told(prepare, folder, capsys):
    for path in (folder / "train/label").iterdir():
        write_geotiff(path, np.full((20, 40), 255, np.uint8))
    assert prepare.main(["stats", str(folder), "--classes=2"]) == 1
    said = capsys.readouterr()
    assert "1,600 valid pixels in 2 scene(s), 0 labelled" in said.out
    assert said.err.startswith("LabelError: Expected labelled pixels")


def test_a_value_that_means_no_label_is_recognised(prepare, folder, capsys):
    for path in (folder / "train/label").iterdir():
        write_geotiff(path, np.tile(np.array([-1, 0, 1], np.int16), (20, 14))[:, :40])
    for options in ([], ["--classes=2"]):
        assert prepare.main(["stats", str(folder), *options]) == 1
        assert capsys.readouterr().err.endswith(" Or say --ignore=-1.\n")
    assert prepare.main(["stats", str(folder), "--ignore=-1"]) == 0


def test_what_is_found_is_kept_where_it_is_told(prepare, folder, tmp_path, capsys):
    cache = tmp_path / "kept"
    assert prepare.main(["stats", str(folder), f"--cache={cache}"]) == 0
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    assert list(folder.rglob(".holojax")) == []


@pytest.mark.parametrize("name", ["clouds", "floods"])
def test_real_scenes_of_six_and_of_two_bands(prepare, tmp_path, capsys, name):
    image, label = dict(
        clouds=("clouds/landsat7.tif", "clouds/landsat7_label.tif"),
        floods=("floods_sar/India_900498_S1Hand.tif", "floods_sar/India_900498_LabelHand.tif"),
    )[name]
    for part, path in (("image", image), ("label", label)):
        (tmp_path / "train" / part).mkdir(parents=True)
        (tmp_path / "train" / part / "scene.tif").symlink_to(shared(f"data/{path}"))
    assert prepare.main(["stats", str(tmp_path), "--ignore=-1"]) == 0
    out = capsys.readouterr().out
    assert ("classes: 5" if name == "clouds" else "classes: 2") in out
    assert "262,144 valid pixels" in out
    assert prepare.main(["preview", str(tmp_path), "--ignore=-1", f"--out={tmp_path}/sheet.png"]) == 0
