"""The commands, as a person calls them: real processes, on virtual devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from holojax.config import experiment

def get_config(arg=None):
    return experiment(
        name="tiny",
        model=dict(
            name="ringformer", bands=3, classes=5, regions=(2, 2),
            encoder=dict(
                name="vit", dim=8, depth=4, heads=2, patch=8, pos="sincos", mlp_ratio=1.0, drop_path=0.2
            ),
            context=dict(name="cdcr", heads=2, stages=(3,), mlp_ratio=1.0),
            decoder=dict(name="setr", channels=8, dropout=0.1),
        ),
        data=dict(root={root!r}, generator="fields", generate=dict(size=32, train=4, val=2), batch=2),
        train=dict(steps=6, learning_rate=1e-3, log_every=1, checkpoint_every=2, keep=9),
    )
"""


def call(script, *arguments, cwd=ROOT):
    command = [sys.executable, ROOT / "scripts" / f"{script}.py", *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | {"PYTHONPATH": path}
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration file; its scenes are made by the first run."""
    folder = tmp_path_factory.mktemp("config")
    path = folder / "tiny.py"
    path.write_text(CONFIG.replace("{root!r}", repr(str(folder / "scenes"))))
    return path


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finished run on 4 virtual devices: its folder and the last line of its output."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = call("train", f"--config={config}", f"--workdir={workdir}", "--virtual_devices=4")
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_training_ends_with_one_line_of_json(run):
    _, done = run
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    assert sorted(result) == ["loss", "miou", "params_sha256", "seconds", "step"]
    assert result["step"] == 6
    assert len(result["params_sha256"]) == 64
    assert "step 6/6  loss" in done.stderr
    assert "4 cpu device(s)" in done.stderr


def test_killed_and_called_again_it_ends_with_the_same_weights(run, config, tmp_path):
    whole = json.loads(run[1].stdout)
    arguments = [f"--config={config}", f"--workdir={tmp_path}", "--virtual_devices=4"]
    slow = "import time; from holojax.training.hooks import Progress; Progress.__call__ = lambda *_: time.sleep(0.5)"
    script = f"{slow}; import runpy; runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoints" / "2").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    done = call("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert "goes on from step" in done.stderr
    result = json.loads(done.stdout)
    assert (result["loss"], result["params_sha256"]) == (whole["loss"], whole["params_sha256"])


def test_evaluation_prints_a_table_and_json_and_leaves_a_report(run, tmp_path):
    workdir, trained = run
    report = tmp_path / "report"
    done = call(
        "evaluate", f"--workdir={workdir}", "--virtual_devices=2", f"--out={report}", "--boundary=2", "--seam=4"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["miou"] == pytest.approx(json.loads(trained.stdout)["miou"], abs=0.01)
    assert len(figures["iou"]) == len(figures["boundary_iou"]) == 5
    assert figures["error_near_seams"] > 0
    assert "class 4" in done.stdout
    assert json.loads((report / "metrics.json").read_text()) == figures
    assert done.stdout.startswith((report / "table.txt").read_text())
    done = call("compare", f"--before={report}", f"--after={report}")
    assert done.returncode == 0, done.stderr
    assert "+0.0000" in done.stdout


def test_prediction_writes_the_same_map_on_any_devices(run, config, tmp_path):
    workdir, _ = run
    source = next((config.parent / "scenes" / "val" / "image").iterdir())
    maps = []
    for devices in (1, 8):
        target = tmp_path / f"map{devices}.tif"
        done = call(
            "predict",
            f"--workdir={workdir}",
            f"--input={source}",
            f"--output={target}",
            f"--virtual_devices={devices}",
        )
        assert done.returncode == 0, done.stderr
        with rasterio.open(target) as found, rasterio.open(source) as scene:
            assert (found.crs, found.transform, found.shape) == (scene.crs, scene.transform, scene.shape)
            assert (found.nodata, found.dtypes[0]) == (255, "uint8")
            maps.append(found.read(1))
    assert "uses 4 of 8 devices" in done.stderr
    assert (maps[0] != maps[1]).sum() <= 1
    assert np.unique(maps[0]).max() < 5


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("--config.train.stpes=3", "steps"),
        ("--config.trian.steps=3", "train"),
        ("--config.model.encoder.name=vitt", "vit"),
        ("--config.model.encoder.dims=3", "dim"),
    ],
)
def test_a_misspelt_key_fails_and_names_the_nearest(config, tmp_path, override, hint):
    done = call("train", f"--config={config}", f"--workdir={tmp_path / 'w'}", override)
    assert done.returncode != 0
    assert "ConfigError" in done.stderr
    assert f'"{hint}"' in done.stderr or f"'{hint}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists()


def test_mistakes_are_told_in_one_line(run, tmp_path):
    workdir, _ = run
    mistakes = [
        (("evaluate", f"--workdir={tmp_path}"), "CheckpointError"),
        (("evaluate", f"--workdir={workdir}", "--split=test"), "RasterError"),
        (("evaluate", f"--workdir={workdir}", "--region=3", "--virtual_devices=4"), "LayoutError"),
        (("compare", f"--before={tmp_path}", f"--after={tmp_path}"), "HoloJAXError"),
        (
            ("predict", f"--workdir={workdir}", "--input=no.tif", f"--output={tmp_path}/map.tif"),
            "RasterError",
        ),
        (
            ("train", "--config=configs/fbp.py", f"--workdir={tmp_path}/fbp", "--config.data.root=none"),
            "https://x-ytong",
        ),
    ]
    for arguments, expected in mistakes:
        done = call(*arguments)
        assert done.returncode != 0
        assert expected in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "map.tif").exists()
