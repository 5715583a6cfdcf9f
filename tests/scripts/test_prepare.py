"""The commands that prepare data, called as a person calls them, and in this process where that is enough."""

import importlib.util
import os
import subprocess
import sys

import pytest

from holojax.data.datasets import SETS
from holojax.data.datasets.stand_ins import write_stand_in
from tests.data.bad_files import CLASSES, IMAGE, write_kind
from tests.parity import ROOT


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "scripts" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
