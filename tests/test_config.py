"""The schema: what is left out is filled in, what is unknown is refused with the nearest name."""

import json
import re
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["steps", "learning_rate"])
def test_numbers_are_finite(key, value):
    with pytest.raises(ConfigError, match=rf"train\.{key}: expected a .*number, found {value}"):
        config.experiment(train={key: value})


@pytest.mark.parametrize(
    ("train", "found"),
    [
        (dict(loss=()), "loss: expected one pair"),
        (dict(loss=(("ce", 1.0), ("dice", 1.0), ("ce", 2.0))), "loss: 'ce' is there twice"),
        (dict(loss=(("ce", 1.0), ("cross_entropy", 2.0))), "loss: 'ce' is there twice"),
        *[
            (
                dict(loss=(("dice", weight),)),
                f"loss: the weight of 'dice' has to be .* at least 0, found {weight!r}",
            )
            for weight in ("1.0", None, float("nan"), float("inf"), -1.0, True)
        ],
        (dict(loss=(("ce", 0.0), ("dice", 0))), "loss: all weights are 0"),
        (dict(loss=((["ce"], 1.0),)), "loss: unknown loss"),
        (dict(smoothing=2.0), "smoothing: expected a share from 0 to 1, found 2.0"),
        (dict(smoothing=-0.1), "smoothing: expected a share"),
        *[
            (dict(class_weights=table), "class_weights: expected numbers of at least 0")
            for table in (2, "ab", ("a", "b"), (1.0, -1.0), (1.0, float("nan")), (True, 1.0), (0.0, 0.0), ())
        ],
        (dict(class_weights=(1.0, 2.0, 3.0)), "class_weights: expected 2 entries .*, found 3"),
    ],
)
def test_losses_that_cannot_be_added_up_are_refused(train, found):
    with pytest.raises(ConfigError, match=r"^train\." + found):
        config.experiment(train=train)


def test_weights_become_floats():
    train = config.complete(dict(train=dict(loss=[["ce", 1], ["dice", 0]], class_weights=[1, 0])))["train"]
    assert train["loss"] == (("ce", 1.0), ("dice", 0.0))
    assert all(isinstance(x, float) for x in (*train["class_weights"], *(weight for _, weight in train["loss"])))


@pytest.mark.parametrize(
    ("part", "key", "values"),
    [
        (dict(name="upernet"), "channels", (0, -4)),
        (dict(name="upernet"), "pool_scales", ((0, 1), (-2,), ())),
        (dict(name="upernet"), "dropout", (1.5, 1.0, -0.5)),
        (dict(name="upernet", variant="lwc"), "dropout", (0.1,)),
        (dict(name="fcn"), "convs", (-1,)),
        (dict(name="fcn"), "stage", (-1,)),
        (dict(name="fcn"), "kernel", (0,)),
        (dict(name="setr"), "channels", (0,)),
        (dict(name="segvit"), "heads", (0, -1)),
        (dict(name="segvit"), "layers", (0,)),
        (dict(name="segvit"), "stages", ((), (-1,))),
        *[
            (dict(name="mask2former"), key, (0, -1))
            for key in ("heads", "queries", "points", "encoder_layers", "encoder_mlp", "decoder_layers", "decoder_mlp")
        ],
    ],
)
def test_decoders_of_sizes_that_cannot_be_are_refused(part, key, values):
    for value in values:
        with pytest.raises(ConfigError, match=rf"^model\.decoder\.{key}: .*, found {re.escape(str(value))}\."):
            config.complete_decoder(part | {key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("stage", ()), ("stage", -1), ("weight", -0.4), ("channels", 0), ("dropout", 1.0)]
)
@pytest.mark.parametrize("name", ["fcn", "setr"])
def test_auxiliary_heads_of_sizes_that_cannot_be_are_refused(name, key, value):
    with pytest.raises(ConfigError, match=rf"^model\.aux\.{key}: expected "):
        config.complete_model({"aux": {"name": name, key: value}})


@pytest.mark.parametrize(("key", "value"), [("heads", 0), ("heads", -1), ("mlp_ratio", 0.0), ("drop_path", 1.5)])
def test_contexts_of_sizes_that_cannot_be_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"^model\.context\.{key}: expected .*, found {value}"):
        config.complete_model({"context": {key: value}})


@pytest.mark.parametrize("regions", [(2,), (2, 2, 2), ()])
def test_regions_are_rows_and_columns(regions):
    with pytest.raises(ConfigError, match=r"model\.regions: expected \(rows, columns\)"):
        config.complete_model({"regions": regions})


def test_sizes_of_0_that_mean_something_are_allowed():
    assert config.complete_model({"aux": dict(convs=0, stage=(0, 1), weight=0, dropout=0)})["aux"]["convs"] == 0


def test_lwc_drops_nothing():
    once = config.complete_decoder(dict(name="upernet", variant="lwc"))
    assert once["dropout"] == 0
    assert config.complete_decoder(once) == once


@pytest.mark.parametrize("classes", [0, -1, 256, 300])
def test_more_classes_than_a_map_can_hold_are_refused(classes):
    with pytest.raises(ConfigError, match=rf"model\.classes: expected 1 to 255 .*, found {classes}"):
        config.complete_model({"classes": classes})
    assert config.complete_model({"classes": 255})["classes"] == 255


def test_entries_that_are_no_list_are_refused():
    with pytest.raises(ConfigError, match=r"data\.bands: expected 3 entries .*, found 3"):
        config.experiment(data=dict(bands=3))


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


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "steps", -1),
        ("train", "learning_rate", -1e-3),
        ("train", "clip", -1.0),
        ("train", "keep", 0),
        ("data", "batch", 0),
        ("data", "prefetch", 0),
        ("data", "workers", -1),
    ],
)
def test_numbers_below_what_they_can_be_are_refused(section, key, value):
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: expected . or more, found {value}"):
        config.complete({section: {key: value}})


def test_mean_and_deviation_are_given_or_measured_together():
    assert config.complete(dict(data=dict(mean=(), std=())))["data"]["mean"] == ()
    with pytest.raises(ConfigError, match=r"data\.mean and data\.std: expected both"):
        config.complete(dict(data=dict(mean=())))
