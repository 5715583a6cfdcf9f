import collections
import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from holojax.checkpoints.keymaps import FAMILIES
from holojax.checkpoints.torch_export import export_weights
from holojax.checkpoints.torch_file import read_weights
from holojax.checkpoints.torch_import import check_names, guess_source, import_weights
from holojax.decoders import FCN, UPerNet
from holojax.encoders import Swin
from holojax.errors import ConfigError, WeightsError
from holojax.models import build_encoder
from holojax.ops.windows import relative_index
from tests.encoders.test_options import TINY
from tests.parity import shared, variables

CHANNELS = (4, 8, 16, 32)


def _swin(**changes):
    sizes = dict(bands=3, embed_dim=4, depths=(1, 1, 1, 1), heads=(2, 2, 2, 2), window=3, mlp_ratio=2.0)
    return Swin(**{**sizes, **changes}, rngs=nnx.Rngs(0))


def _upernet():
    return UPerNet(channels_in=CHANNELS, classes=3, channels=4, rngs=nnx.Rngs(1))


def _fcn():
    return FCN(channels_in=CHANNELS, classes=3, channels=4, rngs=nnx.Rngs(2))


class Model(nnx.Module):
    """Named like a model; what it computes is no matter here."""

    def __init__(self, *, aux=True):
        self.encoder, self.decoder, self.mixers = _swin(), _upernet(), nnx.Dict({})
        self.aux = _fcn() if aux else None


_LEAVES = {
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "bias": "bias",
    "kernel": "weight",
}


def _theirs(path):
    """Name one of our parameters as the REST code does; the reverse of the key map, written apart from it."""
    part, *names = path.split(".")
    leaf = _LEAVES.get(names.pop(), "relative_position_bias_table")
    if part == "encoder":
        if names[0] == "stages":
            _, s, b, *inner = names
            inner = ".".join(inner)
            inner = inner.replace("attention", "attn.w_msa")
            inner = inner.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
            names = ["stages", s, "blocks", b, inner]
        elif names[0] == "downsamples":
            names = ["stages", names[1], "downsample", *names[2:]]
        elif names[0] == "norms":
            names = ["norm" + names[1]]
        return ".".join(["backbone", *names, leaf])
    text = ".".join(names)
    text = text.replace("classifier.linear", "conv_seg").replace("norm", "bn")
    for ours, theirs in (("pools", "psp_modules"), ("laterals", "lateral_convs"), ("smoothers", "fpn_convs")):
        text = text.replace(ours, theirs)
    if text.startswith("psp_modules"):
        text = text.replace(".conv", ".1.conv").replace(".bn", ".1.bn")
    text = text.replace("fusion", "fpn_bottleneck")
    return ".".join([{"decoder": "decode_head", "aux": "auxiliary_head"}[part], text, leaf])


def _file(model=None, seed=0):
    """Make a file of random weights for a model as torch lays them out, and the values that ours must get."""
    rng, theirs, ours = np.random.default_rng(seed), {}, {}
    for path, variable in variables(model or Model()).items():
        value = rng.normal(size=variable.shape).astype(np.float32)
        key, ours[path] = _theirs(path), value
        if "conv_seg" in key and path.endswith("kernel"):
            value = value.T[:, :, None, None]
        elif path.endswith("kernel"):
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        if "bias_table" in path:
            # Another order than ours, as some code has it: the stored index says which.
            order = rng.permutation(len(value))
            shuffled = np.empty_like(value)
            shuffled[order] = value
            value = shuffled
            theirs[key.replace("_bias_table", "_index")] = order[relative_index(3)]
        theirs[key] = np.ascontiguousarray(value)
        if path.endswith("var"):
            theirs[key.replace("running_var", "num_batches_tracked")] = np.array(3)
    return theirs, ours


def _values(module):
    return {path: np.asarray(variable[...]) for path, variable in variables(module).items()}


def _assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


def test_every_parameter_gets_its_values_and_every_name_is_accounted_for():
    theirs, ours = _file()
    model = Model()
    report = import_weights(model, theirs)
    _assert_same(_values(model), ours)
    assert set(report.consumed) | set(report.ignored) == set(theirs)
    assert not set(report.consumed) & set(report.ignored)
    assert report.parameters == sum(v.size for p, v in ours.items() if not p.endswith(("norm.mean", "norm.var")))
    assert "ignored" in str(report)


@pytest.mark.parametrize("part", ["encoder", "decoder", "aux"])
def test_a_part_alone_takes_its_own_and_lists_the_rest(part):
    theirs, ours = _file()
    module = {"encoder": _swin, "decoder": _upernet, "aux": _fcn}[part]()
    report = import_weights(module, theirs)
    _assert_same(_values(module), {p.partition(".")[2]: v for p, v in ours.items() if p.startswith(part)})
    assert (
        "belongs to" in report.ignored["decode_head.conv_seg.weight" if part != "decoder" else "backbone.norm0.weight"]
    )


@pytest.mark.parametrize(("part", "prefix"), [("encoder", "backbone."), ("decoder", "decode_head.")])
def test_a_part_saved_without_its_prefix_is_understood(part, prefix):
    theirs, ours = _file()
    theirs = {k.removeprefix(prefix): v for k, v in theirs.items() if k.startswith(prefix)}
    module = {"encoder": _swin, "decoder": _upernet}[part]()
    import_weights(module, theirs)
    _assert_same(_values(module), {p.partition(".")[2]: v for p, v in ours.items() if p.startswith(part)})


def test_training_checkpoints_are_unwrapped_and_files_are_read(tmp_path):
    theirs, ours = _file()
    wrapped = {
        "meta": {"epoch": 1},
        "state_dict": collections.OrderedDict({f"module.{k}": v for k, v in theirs.items()}),
    }
    save_file(theirs, tmp_path / "weights.safetensors")
    for weights in (wrapped, tmp_path / "weights.safetensors", str(tmp_path / "weights.safetensors")):
        model = Model()
        import_weights(model, weights)
        _assert_same(_values(model), ours)


def test_a_model_without_auxiliary_head_leaves_that_out():
    theirs, _ = _file()
    report = import_weights(Model(aux=False), theirs)
    assert "belongs to the file's aux" in report.ignored["auxiliary_head.conv_seg.bias"]


def test_all_mistakes_are_listed_and_nothing_is_changed():
    theirs, _ = _file()
    theirs["backbone.stages.0.blocks.7.norm1.weight"] = np.ones(4, np.float32)
    theirs["backbone.spattns.0.ln1.weight"] = np.ones(4, np.float32)
    theirs["something.else"] = np.ones(4, np.float32)
    theirs["decode_head.conv_seg.weight"] = np.ones((5, 4, 1, 1), np.float32)
    del theirs["backbone.norm2.bias"]
    model = Model()
    before = _values(model)
    with pytest.raises(WeightsError) as caught:
        import_weights(model, theirs)
    message = str(caught.value)
    assert "5 mistakes" in message
    for part in (
        "stages.0.blocks.7.norm1.weight (4,): the model has nothing that this fills",
        "spattns.0.ln1.weight (4,): the model has nothing that this fills",
        "something.else (4,): the model has nothing that this fills",
        "decode_head.conv_seg.weight (5, 4, 1, 1): expected shape (4, 3) here (as decoder.classifier.linear.kernel). "
        "A head for other classes: build the model with as many classes as the file has, or keep a new head by "
        "heads='random'",
        "encoder.norms.2.bias (16,): nothing in the file fills it, expected backbone.norm2.bias; the nearest name is "
        "backbone.norm",
    ):
        assert part in message
    _assert_same(_values(model), before)


def test_an_index_that_cannot_be_is_refused_before_anything_is_changed():
    theirs, _ = _file()
    theirs["backbone.stages.3.blocks.0.attn.w_msa.relative_position_index"] = np.full((9, 9), 25)
    model = Model()
    before = _values(model)
    with pytest.raises(WeightsError, match="relative_position_bias_table: expected an index"):
        import_weights(model, theirs)
    _assert_same(_values(model), before)


def test_unknown_source_and_odd_modules_are_refused():
    with pytest.raises(ConfigError, match=r"unknown source 'timmm'\. Did you mean 'timm'"):
        import_weights(_swin(), {}, source="timmm")
    with pytest.raises(WeightsError, match="found Linear"):
        import_weights(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), {})
    with pytest.raises(WeightsError, match=r"a\.b: expected an array, found str"):
        import_weights(_swin(), {"a.b": "text"})


@pytest.mark.parametrize(
    ("names", "build", "parameters"),
    [
        (
            "UPerHead_swinL_24",
            lambda: UPerNet(channels_in=(192, 384, 768, 1536), classes=24, channels=512, rngs=nnx.Rngs(0)),
            36.889e6,
        ),
        (
            "FCNHead_aux_swinL_24",
            lambda: FCN(channels_in=(192, 384, 768, 1536), classes=24, channels=256, rngs=nnx.Rngs(0)),
            None,
        ),
        (
            "swin_large_sp_layer",
            lambda: Swin(bands=3, embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), rngs=nnx.Rngs(0)),
            232.637e6 - 37.6387e6,  # the whole without its four mixers: 12 c^2 + 13 c each
        ),
    ],
)
def test_full_size_names_fit(names, build, parameters):
    listed = json.loads(shared(f"parity_keys/{names}.json").read_text())
    shapes = {key: shape for key, (shape, _) in listed.items()}
    report = check_names(nnx.eval_shape(build), shapes)
    assert set(report.consumed) | set(report.ignored) == set(shapes)
    if parameters:
        assert report.parameters == pytest.approx(parameters, rel=1e-4)


def test_what_was_imported_is_exported_equal_under_its_names(tmp_path):
    theirs, _ = _file()
    # The order that all known code stores; another one is understood, but not written.
    theirs |= {k: relative_index(3) for k in theirs if k.endswith("position_index")}
    theirs |= {k: np.zeros((), np.int64) for k in theirs if k.endswith("num_batches_tracked")}
    model = Model()
    report = import_weights(model, theirs)
    export_weights(model, tmp_path / "folder" / "again.safetensors", "rest")
    again = read_weights(tmp_path / "folder" / "again.safetensors")
    assert again.keys() == theirs.keys() == set(report.consumed)
    for key, value in theirs.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_an_encoder_alone_is_exported_with_the_prefix_that_is_asked_for(tmp_path):
    theirs, _ = _file()
    encoder = _swin()
    import_weights(encoder, theirs)
    for prefix in ("", "backbone."):
        export_weights(encoder, tmp_path / "encoder.safetensors", "rest", prefix=prefix)
        again = read_weights(tmp_path / "encoder.safetensors")
        assert again.keys() == {prefix + key.removeprefix("backbone.") for key in theirs if key.startswith("backbone.")}


def test_an_export_that_would_not_mean_the_same_is_refused(tmp_path):
    other = _swin()
    other.numerics = "timm"
    with pytest.raises(WeightsError, match="computes as 'timm'"):
        export_weights(other, tmp_path / "x.safetensors", "rest")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        export_weights(_swin(), tmp_path / "file" / "x.safetensors", "rest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("way", ["mean", "repeat", "first", "random"])
def test_weights_for_other_bands_are_adapted_as_asked(way):
    theirs, ours = _file()
    encoder = _swin(bands=7)
    encoder.bands_init = way
    before = np.asarray(encoder.patch_embed.projection.kernel[...])
    report = import_weights(encoder, theirs)
    found = np.asarray(encoder.patch_embed.projection.kernel[...])
    given = ours["encoder.patch_embed.projection.kernel"]
    assert f"from 3 to 7 bands, bands_init={way!r}" in str(report)
    if way == "random":
        np.testing.assert_array_equal(found, before)
    elif way == "first":
        np.testing.assert_array_equal(found[:, :, :3], given)
        assert not found[:, :, 3:].any()
    elif way == "repeat":
        np.testing.assert_allclose(found, given[:, :, [0, 1, 2, 0, 1, 2, 0]] * 3 / 7, rtol=1e-6)
    else:
        # An image whose bands are all the same gives what it gave.
        np.testing.assert_allclose(found.sum(2), given.sum(2), atol=1e-6)
        assert (found == found[:, :, :1]).all()


def test_random_heads_keep_what_the_model_has():
    theirs, ours = _file()
    model = Model()
    before = _values(model)
    report = import_weights(model, theirs, heads="random")
    after = _values(model)
    for path in after:
        expected = ours if path.startswith("encoder") else before
        np.testing.assert_array_equal(after[path], expected[path], err_msg=path)
    assert report.kept.keys() == {path for path in after if not path.startswith("encoder")}
    assert report.ignored["decode_head.conv_seg.weight"] == "heads='random'"
    with pytest.raises(ConfigError, match="heads: expected one of file, random"):
        import_weights(model, theirs, heads="none")


def test_the_source_is_guessed_from_the_names(capsys):
    theirs, ours = _file()
    model = Model()
    report = import_weights(model, theirs, source="auto")
    assert report.source == "rest"
    assert "look like those of 'rest'" in capsys.readouterr().err
    _assert_same(_values(model), ours)
    with pytest.raises(WeightsError, match="the names fit none of"):
        import_weights(_swin(), {"a.b": np.ones(3)}, source="auto")


@pytest.mark.parametrize(
    ("family", "source"), [(family, source) for family in FAMILIES for source in FAMILIES[family] if source != "rest"]
)
def test_every_source_is_guessed_from_its_own_names_with_a_classifier(tmp_path, family, source):
    sizes = TINY[family] | (dict(grn=False) if (family, source) == ("convnext", "torchvision") else {})
    encoder, table = build_encoder(sizes), FAMILIES[family][source]
    encoder.adopt(table.numerics, table.output_norms is True)
    export_weights(encoder, tmp_path / "x.safetensors", source)
    names = {key: value.shape for key, value in read_weights(tmp_path / "x.safetensors").items()}
    classifiers = ("head.fc.weight", "head.weight", "classifier.weight", "classifier.head.weight", "heads.head.weight")
    known = [name for name in classifiers if table.reason(name)][:1]
    guess = guess_source(build_encoder(sizes), names | dict.fromkeys(known, (10, 8)))
    assert guess == source or FAMILIES[family][guess].rules == table.rules
