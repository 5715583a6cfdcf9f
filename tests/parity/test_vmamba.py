"""VMamba against its formulas in torch, by the numbers of make_vmamba.py, and against the official REST code."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import holojax
from holojax.borders import ISOLATED
from holojax.checkpoints.torch_export import export_weights
from holojax.checkpoints.torch_import import check_names
from holojax.config import SIZES
from holojax.encoders import VMamba
from holojax.parallel import Layout
from tests.parity import ROOT, assert_close, section, shared, variables

DEPTHS = (1, 0, 1, 0)
# File and source: sizes.
FILES = {
    "mmseg": dict(dims=(12, 16, 20, 24), output_norms=True),
    "vmamba": dict(dims=(16, 20, 24, 40), state=3, ssm_ratio=1.5, mlp_ratio=2.0, output_norms=False),
}


def read(name):
    return dict(np.load(ROOT / "tests" / "parity" / f"vmamba_{name}.npz"))


def build(name, **changes):
    return VMamba(**(dict(bands=3, depths=DEPTHS) | FILES[name] | changes), rngs=nnx.Rngs(0))


def test_every_stage_and_block_and_all_gradients_are_those_of_the_formulas():
    numbers, encoder = read("mmseg"), build("mmseg")
    holojax.import_weights(encoder, section(numbers, "weights:"), source="mmseg")
    graph, state = nnx.split(encoder)

    def loss(state, x):
        encoder, maps, total = nnx.merge(graph, state), {}, 0.0
        x, _ = encoder.embed(x, ISOLATED)
        for i, stage in enumerate(encoder.stages):
            for j, block in enumerate(stage):
                x = maps[f"block:{i}.{j}"] = block(x, ISOLATED, None)
            maps[f"stage{i}"] = encoder.normalize(i, x)
            total += (maps[f"stage{i}"] * numbers[f"cotangent{i}"]).sum()
            if i < 3:
                x = encoder.downsample(i, x, ISOLATED)
        return total, maps

    derive = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (dstate, dimages), maps = derive(nnx.as_pure(state), numbers["images"])
    assert len(maps) == sum(DEPTHS) + 4
    for path, found in maps.items():
        assert_close(found, numbers[path], 2e-5)
    largest = np.abs(numbers["input_gradient"]).max()
    assert_close(dimages / largest, numbers["input_gradient"] / largest, 2e-5)
    # Gradients take the way of weights through the importer.
    expected = build("mmseg")
    holojax.import_weights(expected, section(numbers, "gradient:"), source="mmseg")
    found = nnx.merge(graph, dstate)
    for (path, a), b in zip(variables(found).items(), variables(expected).values(), strict=True):
        scale = max(np.abs(b[...]).max(), 1e-2)
        np.testing.assert_allclose(a[...] / scale, b[...] / scale, atol=2e-5, err_msg=path)


def test_several_states_and_names_of_the_authors_classifier():
    # Built with output norms: the import has to drop them.
    encoder, numbers = build("vmamba", output_norms=True), read("vmamba")
    report = holojax.import_weights(encoder, section(numbers, "weights:"), source="vmamba")
    assert (encoder.numerics, encoder.output_norms) == ("vmamba", False)
    assert sorted(report.ignored) == [f"classifier.{x}.{leaf}" for x in ("head", "norm") for leaf in ("bias", "weight")]
    for i, found in enumerate(nnx.jit(lambda encoder, x: encoder(x))(encoder, numbers["images"])):
        assert_close(found, numbers[f"stage{i}"], 2e-5)


def test_linear_layers_may_be_stored_as_convolutions():
    weights = section(read("mmseg"), "weights:")
    older = {
        key: x[:, :, None, None] if key.endswith(("_proj.weight", "fc1.weight", "fc2.weight")) else x
        for key, x in weights.items()
    }
    encoders = build("mmseg"), build("mmseg")
    for encoder, names in zip(encoders, (weights, older), strict=True):
        holojax.import_weights(encoder, names, source="rest")
    for a, b in zip(*(variables(encoder).values() for encoder in encoders), strict=True):
        np.testing.assert_array_equal(a[...], b[...])


@pytest.mark.parametrize("name", FILES)
def test_an_export_gives_the_file_back(name, tmp_path):
    weights, encoder = section(read(name), "weights:"), build(name)
    holojax.import_weights(encoder, weights, source=name)
    export_weights(encoder, tmp_path / "file.safetensors", source=name)
    found = load_file(tmp_path / "file.safetensors")
    assert set(found) == {key for key in weights if not key.startswith("classifier")}
    for key, x in found.items():
        np.testing.assert_array_equal(x, weights[key], err_msg=key)


def test_all_names_and_shapes_of_the_official_base_model_fit():
    listed = json.loads(shared("parity_keys/vmamba_base_sp.json").read_text())
    shapes = {key: shape for key, (shape, _) in listed.items()}
    assert len(shapes) == 454
    model = nnx.eval_shape(
        lambda: holojax.build_model(
            dict(
                name="rest",
                encoder=dict(name="vmamba", **SIZES["vmamba"]["base"]),
                context=dict(name="spim", heads=8),
                aux=None,
            )
        )
    )
    report = check_names(model, shapes, source="rest", heads="random")
    assert set(report.consumed) == set(shapes)
    assert report.parameters == pytest.approx(104.271e6, rel=1e-5)


REST = dict(
    name="rest",
    classes=6,
    regions=(2, 2),
    encoder=dict(name="vmamba", dims=(12, 24, 48, 96), depths=(1, 1, 2, 1), drop_path=0.6),
    context=dict(name="spim", heads=4),
    decoder=dict(name="upernet", channels=24),
    aux=dict(name="fcn", stage=2, channels=24),
)


def test_a_whole_model_is_that_of_the_official_code():
    numbers = np.load(shared("parity_fixtures/rest_vmamba_upernet.b140x204_batch2.npz"))
    model = holojax.build_model(REST)
    holojax.import_weights(model, shared("parity_fixtures/rest_vmamba_upernet.safetensors"), source="rest")
    assert model.placement == "side"
    images = (numbers["image_u8"].astype(np.float32) - 127.5) / 64
    logits = np.moveaxis(np.asarray(holojax.segment(model, images, Layout.create(region=4))), -1, 1)
    assert_close(logits[:, :, numbers["rows"]], numbers["full_logits_rows"], 5e-5)
    assert_close(logits[..., numbers["cols"]], numbers["full_logits_cols"], 5e-5)
    np.testing.assert_array_equal(logits.argmax(1), numbers["full_argmax"])
