"""The configurations describe what their papers describe."""

import importlib.util
import pathlib

import jax
import pytest
from flax import nnx

from holojax.data.datasets import fbp
from holojax.data.synthetic import FIELDS
from holojax.models import build_model

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def config(name, variant=None):
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def count(*modules):
    return sum(leaf.size for module in modules for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_the_paper_size_model_has_the_parameters_of_the_official_code():
    cfg = config("fbp")
    model = nnx.eval_shape(lambda: build_model(cfg.model.to_dict()))
    assert count(model.encoder, model.mixers) == pytest.approx(232.637e6, abs=500)
    assert count(model.decoder) == pytest.approx(36.889e6, abs=500)
    assert (cfg.train.steps, cfg.train.learning_rate, cfg.train.schedule) == (10_000, 6e-5, "poly")


def test_class_tables_are_those_of_the_data():
    for variant in (None, "tiny"):
        cfg = config("fbp", variant)
        assert (cfg.data.class_names, cfg.data.palette) == (fbp.CLASSES.names, fbp.CLASSES.palette)
    for name in ("quickstart", "ringformer_quickstart"):
        cfg = config(name)
        assert (cfg.data.class_names, cfg.data.palette) == (FIELDS.names, FIELDS.palette)


def test_the_bands_of_the_data_are_normalised_by_their_own_statistics():
    cfg = config("fbp")
    picked = cfg.data.bands
    assert cfg.data.mean == tuple(fbp.MEAN[band] for band in picked)
    assert cfg.data.std == tuple(fbp.STD[band] for band in picked)


@pytest.mark.parametrize("model", ["rest", "ringformer"])
@pytest.mark.parametrize("decoder", ["upernet", "fcn", "setr", "setr_pup", "setr_mla", "segvit", "mask2former"])
def test_the_globe_goes_with_any_decoder(model, decoder):
    cfg = config("global_landcover", f"{model},{decoder}")
    nnx.eval_shape(lambda: build_model(cfg.model.to_dict()))
    with pytest.raises(ValueError, match="found 'rest,setr_ups'"):
        config("global_landcover", "rest,setr_ups")
