"""Published weights become a folder that training begins with and prediction uses."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import holojax
from holojax.checkpoints.convert import convert_weights
from holojax.checkpoints.store import load_model
from holojax.checkpoints.torch_export import export_weights
from holojax.errors import CheckpointError
from holojax.parallel import Layout
from tests.parity import variables
from tests.scripts.test_commands import call
from tests.training import tiny


@pytest.fixture
def cfg(tmp_path):
    """A small REST whose scenes are made where it runs."""
    return tiny.experiment(tiny.REST, root=str(tmp_path / "scenes"))


@pytest.fixture
def file(cfg, tmp_path):
    """Its weights, drawn from another seed, under REST's names."""
    path = tmp_path / "rest.safetensors"
    export_weights(holojax.build_model(cfg.model.to_dict(), seed=7), path, "rest")
    return path


def test_the_folder_holds_the_weights_and_training_begins_with_them(cfg, file, tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text("from tests.training import tiny\ndef get_config(arg=None):\n"
                      f"    return tiny.experiment(tiny.REST, root={str(tmp_path / 'scenes')!r})\n")  # fmt: skip
    done = call("import_torch", f"--config={config}", f"--weights={file}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "look like those of 'rest'" in done.stderr
    assert done.stdout.startswith("rest: ")
    assert "numerics='mmseg'" in done.stdout
    model, again, step = load_model(tmp_path / "out", Layout.create(1, 1))
    assert (step, again.model.encoder.numerics) == (0, "mmseg")
    expected = variables(holojax.build_model(cfg.model.to_dict(), seed=7))
    for path, value in variables(model).items():
        np.testing.assert_array_equal(value[...], expected[path][...], err_msg=path)

    flags = [f"--config.train.init={tmp_path / 'out'}", "--config.train.learning_rate=0", "--config.train.steps=1"]
    done = call("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode == 0, done.stderr
    assert "begins with the weights of" in done.stderr
    trained, _, _ = load_model(tmp_path / "run", Layout.create(1, 1))
    for path, value in variables(trained).items():
        if not path.endswith(("norm.mean", "norm.var")):
            np.testing.assert_array_equal(value[...], expected[path][...], err_msg=path)


def test_a_folder_in_use_is_refused_and_bad_weights_leave_none(cfg, file, tmp_path):
    convert_weights(cfg, file, "rest", tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds a run already"):
        convert_weights(cfg, file, "rest", tmp_path / "out")
    weights = load_file(file)
    del weights["backbone.norm0.bias"]
    save_file(weights, file)
    done = call("import_torch", "--config=configs/fbp.py:tiny", f"--weights={file}", f"--out={tmp_path / 'other'}")
    assert done.returncode != 0
    assert "WeightsError" in done.stderr
    assert "nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "other").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["encoder"]["numerics"] == "mmseg"
