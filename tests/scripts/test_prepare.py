"""The commands that prepare data, called as a person calls them, and in this process where that is enough."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from holojax.data.datasets import SETS
from holojax.data.datasets.stand_ins import write_stand_in
from tests.data.bad_files import CLASSES, IMAGE, cut, write_kind
from tests.parity import ROOT


def test_check_is_called_as_promised_and_starts_no_devices(tmp_path):
    folder = write_kind(tmp_path, "all_nodata")
    command = [sys.executable, ROOT / "scripts/prepare.py", "check", folder, f"--classes={CLASSES}", "--bands=3"]
    strange = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "none"}  # any device that is asked for is an error
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | strange)
    assert done.returncode == 1, done.stderr
    fault, summary = done.stdout.splitlines()
    assert fault.startswith(f"{folder / IMAGE}: has no valid pixel")
    assert summary == "5 scenes, 10 files, 63,000 pixels read: 1 faults, 0 notes"
    assert done.stderr == ""


@pytest.mark.parametrize(("kind", "status"), [("healthy", 0), ("unlabelled", 0), ("no_crs", 1)])
def test_only_faults_change_the_exit_status(prepare, tmp_path, capsys, kind, status):
    assert prepare.main(["check", str(write_kind(tmp_path, kind)), "--classes=4"]) == status
    out = capsys.readouterr().out
    assert ("note: " in out) == (kind == "unlabelled")


def test_mistakes_end_in_one_line(prepare, tmp_path, capsys):
    nowhere = tmp_path / "none"
    assert prepare.main(["check", str(nowhere)]) == 1
    assert capsys.readouterr().err == f"RasterError: {nowhere}: no such folder. Give the folder of a data set.\n"
    with pytest.raises(SystemExit):
        prepare.main(["check", str(tmp_path), "--set=other"])
    assert "invalid choice: 'other'" in capsys.readouterr().err


def test_convert_says_what_it_did(prepare, tmp_path, capsys):
    folder, out = str(write_kind(tmp_path, "healthy")), str(tmp_path / "out")
    for line in ("10 files written, 0 were there", "0 files written, 10 were there"):
        assert prepare.main(["convert", folder, out, "--codec=zstd"]) == 0
        assert capsys.readouterr().out == f"{out}: {line}\n"
    assert prepare.main(["check", out, "--classes=4"]) == 0


@pytest.mark.parametrize("word", ["index", "blocks"])
def test_what_is_built_is_opened_by_the_last_line(prepare, tmp_path, capsys, word):
    tfds = pytest.importorskip("tensorflow_datasets")
    tfds.disable_progress_bar()
    folder = write_stand_in("uavid", tmp_path / "set")
    arguments = [word, str(folder), str(tmp_path / "out"), "--set=uavid_rest"]
    assert prepare.main(arguments) == 1
    assert "expected 200 scenes" in capsys.readouterr().err
    assert prepare.main([*arguments, "--partial"]) == 0
    built = capsys.readouterr().out.splitlines()[-1]
    assert f"uavid_rest/{word}" in built
    assert prepare.main(["check", built]) == 0
    with pytest.raises(SystemExit):
        prepare.main([*arguments, "--codec=jpeg"])


@pytest.mark.parametrize("name", sorted(SETS))
def test_every_set_has_its_builder(name):
    pytest.importorskip("tensorflow_datasets")
    from holojax.data.datasets.builder import builder_of

    assert builder_of(name).FACTS is SETS[name]
    assert builder_of(name).name == name


AS_NOBODY = """
import importlib.util, os, sys
from pathlib import Path
root = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("prepare", "scripts/prepare.py")
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)
import tensorflow_datasets.core.file_adapters  # before rights are gone
if os.geteuid() == 0:
    os.setuid(65534)
for line in sys.stdin:
    print("status", prepare.main([str(root / word[1:]) if word[0] == "@" else word for word in line.split()]))
    sys.stdout.flush()
"""
REFUSED = {
    # command: what must be named, and said of it
    "check @closed": ("@closed/dataset_info.json", "cannot be read (Permission denied); correct its permissions."),
    "stats @closed": ("@closed/dataset_info.json", "cannot be read (Permission denied)"),
    "check @split": ("@split/train", "cannot be read (Permission denied)"),
    "check @glh --set=glh_water": ("@glh/val/img", "cannot be read (Permission denied)"),
    "stats @split --classes=4": ("@split/train/image", "Permission denied"),
    "stats @table": ("@table/classes.json", "cannot be read (Permission denied)"),
    "index @good @locked": ("@locked", "the set cannot be built"),
    "blocks @good @locked/below": ("@locked/below", "the set cannot be built"),
    "index @good @good/classes.json": ("@good/classes.json", "the set cannot be built"),
    "blocks @good @good/classes.json/below": ("@good/classes.json/below", "the set cannot be built"),
    "convert @good @locked": ("@locked", "cannot be written"),
}


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions are POSIX")
def test_what_may_not_be_read_or_written_is_one_line_that_names_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for name in ("good", "closed", "split", "table"):
        write_kind(tmp_path, "healthy").rename(tmp_path / name)
        (tmp_path / name / "classes.json").write_text(json.dumps(dict(names=[*"abcd"])))
    (tmp_path / "split/classes.json").unlink()
    write_stand_in("glh_water", tmp_path / "glh")
    (tmp_path / "locked").mkdir(mode=0o555)
    for name in ("closed", "split/train", "glh/val/img", "table/classes.json"):
        (tmp_path / name).chmod(0)
    for path in (tmp_path, *tmp_path.parents):  # which pytest keeps for its user
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, tmp_path], input="\n".join(REFUSED), capture_output=True, text=True,
        check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for name in ("closed", "split/train", "glh/val/img", "table/classes.json", "locked"):
        (tmp_path / name).chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("status 1") == len(REFUSED), done.stdout + done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line]
    for command, (file, words) in REFUSED.items():
        assert any(f"{tmp_path}/{file[1:]}: {words}" in line for line in said), "\n".join([command, *said])


@pytest.mark.parametrize("name", ["metadata.json", "features.json", "dataset_info.json"])
def test_a_damaged_index_in_the_way_is_named(prepare, tmp_path, capsys, name):
    pytest.importorskip("tensorflow_datasets")
    folder = write_stand_in("folder", tmp_path / "set")
    assert prepare.main(["index", str(folder), str(tmp_path / "out")]) == 0
    built = tmp_path / "out/folder/index/1.1.0"
    cut(built / name, 0.5)
    if prepare.main(["index", str(folder), str(tmp_path / "out")]):
        assert name == "dataset_info.json"  # is made anew, if TFDS gets that far
        assert f"{built}: holds a damaged data set" in capsys.readouterr().err
        shutil.rmtree(built)
        assert prepare.main(["index", str(folder), str(tmp_path / "out")]) == 0
    assert prepare.main(["check", str(built)]) == 0


FULL = """
import resource, signal, sys
from holojax.data.datasets.builder import build_set
from holojax.errors import RasterError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for config, room in (("index", 100), ("index", 60_000), ("blocks", 3000)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        build_set("folder", sys.argv[1], sys.argv[2], config=config)
    except RasterError as error:
        print("said:", error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are POSIX")
def test_a_full_disk_leaves_nothing_built(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    folder, out = write_stand_in("folder", tmp_path / "set"), tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL, folder, out], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.count(f"said: {out}: the set cannot be built") == 3, done.stdout + done.stderr
    assert [path for path in out.glob("folder/*/*") if path.is_dir()] == []


def test_a_part_of_a_set_is_asked_for_as_the_command_line_does(prepare, tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    folder = write_stand_in("glh_water", tmp_path / "set")
    assert prepare.main(["index", str(folder), str(tmp_path / "out"), "--set=glh_water"]) == 1
    assert "To take a part of the set, say --partial " in capsys.readouterr().err
    (tmp_path / "own").mkdir()
    assert prepare.main(["index", str(tmp_path / "own"), str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path}/own/classes.json: no such file. In {tmp_path}/own: {{split}}" in err
    assert "download" not in err


@pytest.mark.parametrize("count", ["0", "256", "-1", "many"])
def test_only_so_many_classes_can_be(prepare, tmp_path, capsys, count):
    with pytest.raises(SystemExit):
        prepare.main(["check", str(tmp_path), f"--classes={count}"])
    assert "argument --classes: " in capsys.readouterr().err
