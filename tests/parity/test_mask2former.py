"""transformers' Mask2Former, backbone and decoder, means here what it means there, and is written back equal."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.checkpoints.torch_file import read_weights
from holojax.errors import WeightsError
from tests.parity import ROOT, assert_close, section, variables

MODEL = dict(
    name="rest",
    classes=3,
    regions=(1, 1),
    encoder=dict(name="swin", embed_dim=4, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4, mlp_ratio=1.0),
    context=None,
    decoder=dict(
        name="mask2former",
        channels=32,
        queries=5,
        heads=4,
        encoder_layers=1,
        encoder_mlp=16,
        decoder_layers=3,
        decoder_mlp=16,
    ),
    aux=None,
)


@functools.cache
def numbers():
    return dict(np.load(ROOT / "tests" / "parity" / "mask2former_transformers.npz"))


def weights():
    return {name: x for name, x in numbers().items() if ":" not in name}


def imported():
    model = holojax.build_model(MODEL)
    report = holojax.import_weights(model, weights(), source="auto")
    assert report.source == "transformers"
    return model, report


def maps_of(model):
    return jax.jit(lambda x: model.encoder(x))(numbers()["input:images"])


def test_the_file_is_read_whole_and_comes_back(tmp_path):
    model, report = imported()
    left = {"criterion.empty_weight", *(n for n in weights() if ".swin.layernorm." in n)}
    assert set(report.ignored) == left
    holojax.export_weights(model, tmp_path / "again.safetensors", "transformers", like=weights())
    again = read_weights(tmp_path / "again.safetensors")
    assert again.keys() == weights().keys() - left
    for key, value in again.items():
        np.testing.assert_array_equal(value, weights()[key], err_msg=key)
    # Without a file to follow, names are those of published files, which are read as well.
    holojax.export_weights(model, tmp_path / "published.safetensors", "transformers")
    published = read_weights(tmp_path / "published.safetensors")
    assert "model.pixel_level_module.encoder.embeddings.norm.weight" in published
    other = holojax.build_model(MODEL, seed=1)
    holojax.import_weights(other, published, source="transformers")
    for path, variable in variables(other).items():
        np.testing.assert_array_equal(variable[...], variables(model)[path][...], err_msg=path)


def test_every_layer_is_matched():
    model, _ = imported()
    maps = maps_of(model)
    model.decoder.train()

    @jax.jit
    def run(maps):
        return model.decoder.pixels(maps, holojax.borders.ISOLATED), model.decoder.decode(maps)

    (levels, pixels), answer = run(maps)
    for i, level in enumerate(levels):
        assert_close(level, numbers()[f"output:level{i}"], 2e-5)
    assert_close(pixels[:, ::2], numbers()["output:pixels"], 2e-5)
    layers = [*answer.earlier, answer]
    assert len(layers) == 4
    for i, layer in enumerate(layers):
        assert_close(layer.masks, numbers()[f"output:masks{i}"], 2e-5)
        assert_close(layer.classes, numbers()[f"output:classes{i}"], 2e-5)


def test_scores_of_odd_images_and_their_gradients_are_matched():
    """Masks resized to the image, then summed over queries: transformers' way to semantic maps."""

    model, report = imported()
    maps, size = maps_of(model), numbers()["input:images"].shape[1:3]
    structure, params, rest = nnx.split(model.decoder, nnx.Param, ...)
    shape = (2, *size, 3)
    weight = np.cos(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)

    def loss(params):
        found = nnx.merge(structure, params, rest)(maps, size)
        return (found * weight).sum(), found

    (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert_close(found[:, ::2, ::2], numbers()["output:scores"], 2e-5)
    gradients = variables(nnx.merge(structure, gradient, rest))
    names = {key: path for path, keys in report.taken.items() for key in keys}
    for name, expected in section(numbers(), "gradient:").items():
        path = names[name].removeprefix("decoder.")
        ours = np.asarray(gradients[path][...])
        ours = ours if (ours.shape == expected.shape and "level_embed" in path) or "queries" in name else ours.T
        scale = max(1, np.abs(expected).max())
        assert_close(ours / scale, expected / scale, 2e-5)


def test_the_decoder_alone_is_filled():
    model, _ = imported()
    decoder = holojax.build_decoder(MODEL["decoder"], model.encoder.channels, 3)
    report = holojax.import_weights(decoder, weights(), source="transformers")
    assert "belongs to the file's encoder" in report.ignored["model.pixel_level_module.encoder.swin.layernorm.weight"]
    whole = variables(model.decoder)
    for path, variable in variables(decoder).items():
        np.testing.assert_array_equal(variable[...], whole[path][...])


def test_an_encoder_alone_leaves_the_decoder():
    report = holojax.import_weights(holojax.build_encoder(MODEL["encoder"]), weights(), source="transformers")
    assert "belongs to the file's decoder" in report.ignored["class_predictor.weight"]


def test_a_layer_too_many_in_the_file_is_refused():
    model = holojax.build_model(MODEL | dict(decoder=MODEL["decoder"] | dict(decoder_layers=2)))
    with pytest.raises(WeightsError, match=r"decoder\.layers\.2.*the model has nothing that this fills"):
        holojax.import_weights(model, weights(), source="transformers")
