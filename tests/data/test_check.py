import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio

from holojax.data import RasterScenes, Skipped, eval_batches
from holojax.data.check import check_set
from holojax.data.checksums import Checksums
from holojax.data.datasets import SETS, is_built, open_set
from holojax.data.datasets.stand_ins import write_stand_in
from holojax.data.raster import open_raster
from holojax.data.scan import BUDGET, scan, windows
from holojax.errors import ConfigError, HoloJAXError, RasterError
from holojax.parallel import Layout, RegionGrid, Window
from tests.data import bad_files
from tests.data.bad_files import CLASSES, KINDS, LEGAL, REFUSED, draw, write_healthy, write_kind, write_raster
from tests.parity import ROOT, shared

BUILT = [name for name, kind in KINDS.items() if kind.opened]
AS_NOBODY = "permissions"  # root reads everything


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write the set of a kind once and return its folder."""
    pytest.importorskip("tensorflow_datasets")
    folder, made = tmp_path_factory.mktemp("corpus"), {}

    def get(name):
        if name not in made:
            made[name] = write_kind(folder, name)
        return made[name]

    return get


def lines_of(root, kind):
    report = check_set(root / kind.opened, classes=CLASSES)
    return report.notes if kind.note else report.faults


def says(line, words):
    """Tell whether a line holds all words, one after another."""
    for word in words:
        _, found, line = line.partition(word)
        if not found:
            return False
    return True


def train_on(root, name, on_skip=None):
    """Read every scene of a set as training does; return the share of the pixels of each batch that is valid."""
    opened = root / KINDS[name].opened
    if is_built(opened):
        from holojax.data.datasets.built import open_built

        scenes = open_built(opened, "train", on_skip=on_skip)
    elif name == "colour":
        scenes = open_set(SETS["folder"], opened, "train", on_skip=on_skip)
    else:
        scenes = RasterScenes.from_folder(opened, "train", classes=CLASSES, on_skip=on_skip)
    batches = eval_batches(scenes, RegionGrid(2, 2), Layout.create(1, 1), on_skip=on_skip)
    return [float(np.asarray(batch["valid"]).mean()) for batch in batches]


def test_there_are_enough_kinds():
    assert len(KINDS) >= 22


def test_a_healthy_set_has_no_line(corpus):
    report = check_set(corpus("healthy"), classes=CLASSES)
    assert (report.faults, report.notes) == ((), ())
    assert (report.scenes, report.files, report.pixels) == (5, 10, 2 * 5 * 70 * 90)
    assert str(report) == "5 scenes, 10 files, 63,000 pixels read: 0 faults, 0 notes"


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {AS_NOBODY}))
def test_every_kind_is_named_with_place_and_remedy(corpus, name):
    kind = KINDS[name]
    root = corpus(name)
    found = [line for line in lines_of(root, kind) if kind.file in line.partition(": ")[0]]
    assert len(found) in (1, 2), found  # two where one mistake is two: a PNG has no CRS
    assert any(says(line, kind.words) for line in found), found


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {AS_NOBODY}))
def test_no_other_file_is_named(corpus, name):
    kind = KINDS[name]
    report = check_set(corpus(name) / kind.opened, classes=CLASSES)
    for line in (*report.faults, *report.notes):
        assert kind.file in line.partition(": ")[0], line


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {AS_NOBODY}))
def test_training_refuses_what_is_not_legal(corpus, name):
    kind = KINDS[name]
    root = corpus(name)
    if kind.training != REFUSED:
        train_on(root, name, Skipped() if name == "line" else None)  # one line of pixels cannot be cut into regions
        return
    with pytest.raises(HoloJAXError) as error:
        train_on(root, name)
    assert kind.file in str(error.value).partition(": ")[0]


@pytest.mark.parametrize("name", sorted(n for n in KINDS.keys() - {AS_NOBODY} if KINDS[n].training != LEGAL))
def test_a_run_that_skips_goes_on_without_it_and_lists_it(corpus, name):
    skipped = Skipped()
    valid = train_on(corpus(name), name, skipped)
    assert any(KINDS[name].file in line.partition(": ")[0] for line in skipped.counts), skipped.summary()
    assert len(valid) >= 4
    assert sum(share > 0.9 for share in valid) >= 3  # the other scenes are whole


AS = """
import os, sys
from pathlib import Path
from holojax.data.check import check_set
from tests.data import bad_files
root = bad_files.write_kind(Path(sys.argv[1]), "permissions")
root.chmod(0o755)
if os.geteuid() == 0:
    os.setuid(65534)
print(check_set(root, classes=4))
try:
    from holojax.data import RasterScenes
    RasterScenes.from_folder(root, "train", classes=4)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions are POSIX")
def test_a_file_that_may_not_be_read_is_named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nobody")
    for path in (folder, *folder.parents):  # which pytest keeps for its user
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", AS, folder], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert bad_files.IMAGE in lines[0]
    assert all(word in lines[0] for word in KINDS[AS_NOBODY].words)
    assert lines[1].endswith("1 faults, 0 notes")
    assert lines[2].startswith("RasterError")
    assert bad_files.IMAGE in lines[2]


def test_all_kinds_in_one_folder_are_all_named(tmp_path, corpus):
    """One bad file never hides another."""
    write_healthy(tmp_path / "train")
    (tmp_path / "train/train").rename(tmp_path / "all")
    skipped = {"no_label", "no_image", "same_pixels", "unlabelled", "bad_table", "colour", "virtual", AS_NOBODY}
    expected = []
    for name in sorted(KINDS.keys() - {"nan", "infinite", *BUILT} - skipped):  # those two make all others floats
        root = corpus(name)
        for part in ("image", "label"):
            for path in (root / "train" / part).glob("c.*"):
                path.read_bytes()
                (tmp_path / "all" / part / f"{name}{path.suffix}").write_bytes(path.read_bytes())
        expected.append((KINDS[name].file.split("/")[1], name, KINDS[name].words[-1]))
    report = check_set(tmp_path, classes=CLASSES)
    for part, name, remedy in expected:
        mine = [line for line in report.faults if f"all/{part}/{name}." in line.partition(": ")[0]]
        assert any(remedy in line for line in mine), (name, mine)


def test_a_tie_names_both_files(tmp_path):
    for name, bands in (("a", 3), ("b", 4)):
        image, label = draw(ord(name))
        write_raster(tmp_path / f"x/image/{name}.tif", np.concatenate([image] * 2, -1)[..., :bands])
        write_raster(tmp_path / f"x/label/{name}.tif", label)
    (line,) = check_set(tmp_path, classes=CLASSES).faults
    assert "b.tif: expected 3 band(s) as " in line
    assert "a.tif has (1 of 2 each), found 4" in line
    (line,) = check_set(tmp_path, classes=CLASSES, bands=4).faults
    assert "a.tif: expected 4 band(s), found 3" in line


def test_zones_that_differ_on_purpose_are_notes(corpus):
    report = check_set(corpus("other_crs"), classes=CLASSES, any_crs=True)
    assert report.faults == ()
    assert len(report.notes) == 1


def test_what_the_whole_set_has_is_a_note(tmp_path):
    for number in range(3):
        image, label = draw(number)
        place = dict(crs=None, transform=bad_files.NORTH @ rasterio.Affine.rotation(10))
        write_raster(tmp_path / f"train/image/{number}.tif", image, **place)
        write_raster(tmp_path / f"train/label/{number}.tif", label, **place)
    report = check_set(tmp_path, classes=CLASSES)
    assert report.faults == ()
    assert sum("has no CRS, as 3 of 3" in line for line in report.notes) == 1
    assert sum("rotated" in line for line in report.notes) == 3


def test_without_classes_any_label_below_255_will_do(corpus):
    assert check_set(corpus("label_value")).faults == ()
    (line,) = check_set(corpus("healthy"), classes=3).faults[:1]
    assert "label value 3 in " in line
    assert len(check_set(corpus("healthy"), classes=CLASSES, ignore=7).faults) == 5  # 255 is no class


@pytest.mark.parametrize("name", sorted(SETS))
def test_stand_ins_of_all_sets_are_sound(tmp_path, name):
    if SETS[name].prepare is not None and name == "synapse":
        pytest.importorskip("numpy")
    report = check_set(write_stand_in(name, tmp_path / name), name=name)
    assert report.faults == ()
    assert report.scenes >= 3


def test_what_is_missing_of_a_known_set_is_named_and_the_rest_is_checked(tmp_path):
    root = write_stand_in("glh_water", tmp_path / "set")
    (root / "train/label/00.png").unlink()
    bad_files.cut(root / "val/label/00.png", 0.5)
    report = check_set(root, name="glh_water")
    assert [line.partition(": ")[0][-16:] for line in report.faults] == ["train/img/00.jpg", "val/label/00.png"]


def test_nothing_to_check_is_an_error_or_a_fault(tmp_path):
    with pytest.raises(RasterError, match="no such folder"):
        check_set(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"expected one of folder, fbp"):
        check_set(tmp_path, name="other")
    (line,) = check_set(tmp_path).faults
    assert "holds no scenes" in line
    (tmp_path / "train/image").mkdir(parents=True)
    (line,) = check_set(tmp_path).faults
    assert "train/image: no rasters" in line


def test_a_folder_that_is_no_split_is_not_passed_by_in_silence(tmp_path):
    write_healthy(tmp_path)
    for part in ("image", "label"):
        (tmp_path / "wrong" / f"{part}s").mkdir(parents=True)
    for name in (".holojax", ".hidden", "unlabelled/test/image"):
        (tmp_path / name).mkdir(parents=True)
    report = check_set(tmp_path, classes=CLASSES)
    assert report.faults == ()
    (line,) = report.notes
    assert line.startswith(f"{tmp_path / 'wrong'}: holds no folder image, img, label, annotation")
    (tmp_path / "half/image").mkdir(parents=True)
    (line,) = check_set(tmp_path, classes=CLASSES).faults
    assert "half/image: no rasters" in line


@pytest.mark.parametrize(
    ("dtype", "bands", "layout"),
    [
        ("uint8", 3, dict(tiled=True, blockxsize=256, blockysize=256)),
        ("float32", 32, dict(tiled=True, blockxsize=512, blockysize=512)),
        ("uint16", 1, dict(blockysize=1)),
    ],
)
def test_windows_are_whole_blocks_within_the_budget(tmp_path, dtype, bands, layout):
    size = dict(height=25_000, width=25_001, count=bands, dtype=dtype, sparse_ok=True, bigtiff=True)
    size |= dict(crs="EPSG:32633", transform=bad_files.NORTH)
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", photometric="minisblack", **size, **layout) as target:
        high, wide = target.block_shapes[0]
    with open_raster(tmp_path / "x.tif") as source:
        found, area = list(windows(source)), 0
    for window in found:
        assert window.row_off % high == window.col_off % wide == 0
        assert window.width * window.height * bands * np.dtype(dtype).itemsize <= BUDGET
        area += window.width * window.height
    assert area == 25_000 * 25_001
    assert len(found) < 8000


def test_sound_parts_of_a_damaged_file_are_still_looked_at(corpus):
    seen = []
    text = scan(str(corpus("corrupt_block") / bad_files.IMAGE), lambda s, window, p: seen.append(window), lambda n: n)
    assert "a block at rows 32..63, columns 32..63" in text
    assert sum(window.width * window.height for window in seen) == 70 * 90 - 32 * 32


def test_the_real_bad_file_is_named(tmp_path):
    floods = shared("data/floods_sar")
    for part, suffix in (("image", "S1Hand"), ("label", "LabelHand")):
        (tmp_path / "train" / part).mkdir(parents=True)
        for name in ("Paraguay_34417", "Nigeria_812045", "Ghana_53713"):
            (tmp_path / "train" / part / f"{name}.tif").symlink_to(floods / f"{name}_{suffix}.tif")
    report = check_set(tmp_path, classes=2, ignore=-1)
    assert [line.partition("train/")[2] for line in report.faults] == [
        "image/Paraguay_34417.tif: has no valid pixel, all 262,144 are nodata; remove the scene or correct its nodata."
    ]
    assert report.notes == ()


def test_what_gdal_reads_in_silence_is_refused_where_checksums_are_compared(corpus):
    silent = [name for name, kind in KINDS.items() if kind.training not in (LEGAL, REFUSED)]
    assert silent == ["other_bits"]
    for settings in (dict(verify=True), dict(on_skip=pytest.fail)):  # who asks to skip what is bad wants to know it
        scene = RasterScenes.from_folder(corpus("other_bits"), "train", classes=CLASSES, **settings)[2]
        scene.image.read(Window(0, 0, 32, 90))
        scene.label.read()
        with pytest.raises(RasterError, match=r"c\.tif: the block at rows from 32, columns from 32 is damaged"):
            scene.image.read(Window(60, 60, 10, 30))


def test_blocks_are_compared_once_in_a_process(corpus, monkeypatch):
    compared, sound = [], Checksums.sound
    monkeypatch.setattr(Checksums, "sound", lambda self, *place: compared.append(place) or sound(self, *place))
    scene = RasterScenes.from_folder(corpus("healthy"), "train", classes=CLASSES, verify=True)[0]
    for _ in range(2):
        scene.image.read(Window(10, 10, 20, 60))
        scene.image.read(Window(40, 40, 2, 2))
        scene.label.read(Window(0, 0, 5, 5))
    assert compared == [(0, 0), (0, 1), (0, 2), (1, 1), (0, 0)]
    scene.image.read(shape=(7, 9))  # scaled: from overviews, if there are any
    assert len(compared) == 5


@pytest.mark.parametrize("damage", ["records", "table", "info"])
def test_what_was_built_and_is_damaged_is_named(tmp_path, damage):
    pytest.importorskip("tensorflow_datasets")
    write_healthy(tmp_path)
    built = bad_files.build(tmp_path, "index")
    name = {"records": "*.array_record*", "table": "metadata.json", "info": "features.json"}[damage]
    bad_files.cut(next(built.glob(name)), 0.5)
    (line,) = check_set(built).faults
    assert line.startswith(f"{built}")
    assert "uild it again" in line
    from holojax.data.datasets.built import open_built

    with pytest.raises(RasterError, match="uild it again"):
        open_built(built, "train")
