"""The schema: what is left out is filled in, what is unknown is refused with the nearest name."""

import json
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from holojax import config
from holojax.errors import ConfigError


def test_a_model_of_nothing_is_the_default_rest():
    model = config.complete_model({})
    assert (model["name"], model["encoder"]["name"], model["context"]["name"]) == ("rest", "swin", "spim")
    assert (model["decoder"]["name"], model["aux"]["name"], model["aux"]["weight"]) == ("upernet", "fcn", 0.4)
    assert model["context"]["placement"] == "side"


def test_the_models_name_decides_which_parts_are_taken():
    model = config.complete_model({"name": "ringformer"})
    assert [model[key]["name"] for key in ("encoder", "context", "decoder")] == ["vit", "cdcr", "setr"]
    assert model["aux"] is None


def test_completing_twice_changes_nothing():
    for given in ({}, {"name": "ringformer", "encoder": {"size": "base"}}, {"context": None, "aux": None}):
        once = config.complete_model(given)
        assert config.complete_model(once) == once
    whole = config.complete({"model": {"name": "ringformer"}})
    assert config.complete(whole) == whole


def test_sections_may_be_none():
    model = config.complete_model({"context": None, "aux": None})
    assert model["context"] == {"name": "none"}
    assert model["aux"] is None
    with pytest.raises(ConfigError, match=r"model\.decoder: a model needs one"):
        config.complete_model({"decoder": None})


def test_a_size_stands_for_numbers_which_may_be_overridden():
    vit = config.complete_encoder({"name": "vit", "size": "base", "depth": 4})
    assert (vit["dim"], vit["depth"], vit["heads"]) == (768, 4, 12)
    assert "size" not in vit


def test_ints_and_floats_stand_for_each_other_and_lists_for_tuples():
    given = {"encoder": {"name": "swin", "mlp_ratio": 4, "embed_dim": 8.0, "depths": [1, 1, 1, 1.0]}}
    encoder = config.complete_model(given)["encoder"]
    assert isinstance(encoder["mlp_ratio"], float)
    assert isinstance(encoder["embed_dim"], int)
    assert encoder["depths"] == (1, 1, 1, 1)
    assert all(isinstance(depth, int) for depth in encoder["depths"])


def test_pooling_is_one_number_or_one_per_stage():
    for pool in (4, (4, 2, 1, 1)):
        assert config.complete_model({"context": {"kv_pool": pool}})["context"]["kv_pool"] == pool
    with pytest.raises(ConfigError, match="kv_pool: expected a whole number"):
        config.complete_model({"context": {"kv_pool": "many"}})


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({"model": {"encodr": {}}}, "Did you mean 'encoder'"),
        ({"model": {"encoder": {"name": "swim"}}}, "Did you mean 'swin'"),
        ({"model": {"encoder": {"embed_dims": 8}}}, "Did you mean 'embed_dim'"),
        ({"model": {"context": {"name": "cdcr", "mode": "papr"}}}, "Did you mean 'paper'"),
        ({"model": {"border": "isolate"}}, "Did you mean 'isolated'"),
        ({"train": {"stpes": 3}}, "Did you mean 'steps'"),
        ({"data": {"generate": {"sise": 3}}}, "Did you mean 'size'"),
        ({"trian": {}}, "Did you mean 'train'"),
        ({"seeds": 1}, "Did you mean 'seed'"),
        ({"train": {"steps": 1.5}}, "expected a whole number, found 1.5"),
        ({"train": {"steps": True}}, "expected True or False|found True"),
        ({"train": {"learning_rate": "fast"}}, "expected a number, found 'fast'"),
        ({"train": 3}, "expected a mapping"),
        ({"model": {"regions": 4}}, "model.regions: expected a list"),
        ({"data": {"mean": (1.0, 2.0)}}, "data.mean: expected 1 or 3 entries"),
        ({"data": {"class_names": ("water",)}}, "data.class_names: expected 2 entries"),
        ({"data": {"window": 64}}, "data.window: expected"),
        ({"train": {"loss": (("dise", 1.0),)}}, "Did you mean 'dice'"),
        ({"train": {"loss": ("dice",)}}, "train.loss: expected pairs"),
    ],
)
def test_what_is_unknown_is_refused_with_a_hint(sections, found):
    with pytest.raises(ConfigError, match=found):
        config.experiment(**sections)


def test_any_mapping_will_do():
    plain = {"encoder": {"name": "vit", "dim": 8}}
    assert config.complete_model(ConfigDict(plain)) == config.complete_model(plain)


def test_a_configuration_survives_json():
    cfg = config.experiment(model={"context": None}, data={"label_map": ((0, 255), (1, 0)), "window": (64, 64)})
    text = config.to_json(cfg)
    assert json.loads(text)["model"]["context"] == {"name": "none"}
    assert config.from_json(text) == cfg


def test_the_schema_needs_no_configuration_library():
    code = "import sys, holojax.config; sys.exit('ml_collections' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
