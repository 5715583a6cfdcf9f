"""ConvNeXt against other libraries, by the numbers of make_convnext.py and of the official REST code."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.borders import ISOLATED
from holojax.checkpoints.torch_import import check_names
from holojax.config import SIZES
from holojax.encoders import ConvNeXt
from holojax.parallel import Layout, RegionGrid
from tests.parity import ROOT, assert_close, section, shared, variables

DIMS, DEPTHS = (8, 12, 16, 20), (2, 1, 2, 1)
V1, V2 = dict(layer_scale=True, grn=False), dict(layer_scale=False, grn=True)
# File: source, kind of block, whether the maps are normalised.
FILES = {
    "mmseg": ("mmseg", dict(layer_scale=True, grn=True), True),
    "timm_v1_conv": ("timm", V1, False),
    "timm_v2": ("timm", V2, False),
    "transformers_v1": ("transformers", V1, True),
    "transformers_v2": ("transformers", V2, True),
    "torchvision": ("torchvision", V1, False),
}


def read(name):
    return dict(np.load(ROOT / "tests" / "parity" / f"convnext_{name}.npz"))


def build(kind, **changes):
    return ConvNeXt(**(dict(bands=3, dims=DIMS, depths=DEPTHS) | kind | changes), rngs=nnx.Rngs(0))


@functools.cache
def images():
    return read("mmseg")["images"]


@pytest.mark.parametrize("name", FILES)
def test_maps_of_odd_images_are_those_of_the_library(name):
    source, kind, normed = FILES[name]
    # Built with the other choice: the import has to change it.
    encoder, numbers = build(kind, output_norms=not normed), read(name)
    report = holojax.import_weights(encoder, section(numbers, "weights:"), source=source)
    assert encoder.output_norms == normed
    assert encoder.numerics == source
    assert not report.kept
    assert all("classifier" in why for why in report.ignored.values())
    for i, found in enumerate(nnx.jit(lambda encoder, x: encoder(x))(encoder, images())):
        assert_close(found, numbers[f"stage{i}"], 2e-5)


def test_every_block_and_all_gradients_are_those_of_the_formula():
    numbers, encoder = read("mmseg"), build(FILES["mmseg"][1])
    weights = section(numbers, "weights:")
    holojax.import_weights(encoder, weights, source="mmseg")
    graph, state = nnx.split(encoder)

    def loss(state, x):
        encoder, blocks, total = nnx.merge(graph, state), {}, 0.0
        x, _ = encoder.embed(x, ISOLATED)
        for i, stage in enumerate(encoder.stages):
            for j, block in enumerate(stage):
                x = blocks[f"{i}.{j}"] = block(x, ISOLATED, None)
            total += (encoder.normalize(i, x) * numbers[f"cotangent{i}"]).sum()
            if i < 3:
                x = encoder.downsample(i, x, ISOLATED)
        return total, blocks

    (dstate, dimages), blocks = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(nnx.as_pure(state), images())
    assert len(blocks) == sum(DEPTHS)
    for path, found in blocks.items():
        assert_close(found, numbers[f"block:{path}"], 2e-5)
    largest = np.abs(numbers["input_gradient"]).max()
    assert_close(dimages / largest, numbers["input_gradient"] / largest, 2e-5)
    # Gradients take the way of weights through the importer.
    expected = build(FILES["mmseg"][1])
    holojax.import_weights(expected, section(numbers, "gradient:"), source="mmseg")
    found = nnx.merge(graph, dstate)
    for (path, a), b in zip(variables(found).items(), variables(expected).values(), strict=True):
        scale = max(np.abs(b[...]).max(), 1e-2)
        np.testing.assert_allclose(a[...] / scale, b[...] / scale, atol=2e-5, err_msg=path)


def test_weights_without_layer_scale_mean_the_same_beside_it():
    # Official V2 weights in the model of REST, whose blocks have both.
    numbers = read("timm_v2")
    encoder = build(dict(layer_scale=True, grn=True), output_norms=False)
    report = holojax.import_weights(encoder, section(numbers, "weights:"), source="timm")
    assert len(report.kept) == sum(DEPTHS)
    found = nnx.jit(lambda encoder, x: encoder(x))(encoder, images())
    assert_close(found[-1], numbers["stage3"], 2e-5)


def test_names_of_wrapped_models_and_of_classifiers_fit():
    weights = section(read("transformers_v1"), "weights:")
    plain = {key: value for key, value in weights.items() if "hidden_states_norms" not in key}
    classifier = {f"convnext.{key}": value for key, value in plain.items()}
    classifier |= {f"convnext.layernorm.{leaf}": np.ones(20, np.float32) for leaf in ("weight", "bias")}
    classifier |= {"classifier.weight": np.ones((3, 20), np.float32), "classifier.bias": np.ones(3, np.float32)}
    wrapped = {f"backbone.{key}": value for key, value in weights.items()}
    for names, normed in ((classifier, False), (plain, False), (wrapped, True)):
        encoder = build(V1)
        holojax.import_weights(encoder, names, source="transformers")
        assert encoder.output_norms == normed
    features = {
        key.replace("stem.", "stem_").replace("stages.", "stages_"): value
        for key, value in section(read("timm_v2"), "weights:").items()
        if not key.startswith("head")
    }
    holojax.import_weights(build(V2), features, source="timm")
    mmpretrain = {f"backbone.{key}": value for key, value in section(read("mmseg"), "weights:").items()}
    mmpretrain = {key: x for key, x in mmpretrain.items() if not key.startswith(("backbone.norm0", "backbone.norm1"))}
    report = holojax.import_weights(
        build(FILES["mmseg"][1]), mmpretrain | {"head.fc.bias": np.ones(3, np.float32)}, source="mmseg"
    )
    assert sorted(report.kept) == ["norms.0.bias", "norms.0.scale", "norms.1.bias", "norms.1.scale"]


def test_all_names_and_shapes_of_the_official_large_model_fit():
    listed = json.loads(shared("parity_keys/convnextv2_large_sp.json").read_text())
    shapes = {key: shape for key, (shape, _) in listed.items()}
    assert len(shapes) == 468
    model = nnx.eval_shape(
        lambda: holojax.build_model(
            dict(
                name="rest",
                encoder=dict(name="convnext", **SIZES["convnext"]["large"], layer_scale=True),
                context=dict(name="spim", heads=8),
                aux=None,
            )
        )
    )
    report = check_names(model, shapes, source="rest", heads="random")
    assert set(report.consumed) == set(shapes)
    assert report.parameters == pytest.approx(234.088e6, rel=1e-5)


REST = dict(
    name="rest",
    classes=5,
    regions=(2, 2),
    encoder=dict(name="convnext", dims=(16, 24, 48, 96), depths=(2, 1, 3, 1), layer_scale=True, drop_path=0.4),
    context=dict(name="spim", heads=4),
    decoder=dict(name="upernet", channels=24),
    aux=dict(name="fcn", stage=2, channels=24),
)


def test_a_whole_model_is_that_of_the_official_code():
    numbers = np.load(shared("parity_fixtures/rest_convnext_upernet.b204x140_batch2.npz"))
    model = holojax.build_model(REST)
    holojax.import_weights(model, shared("parity_fixtures/rest_convnext_upernet.safetensors"), source="rest")
    assert model.placement == "trunk"
    images = (numbers["image_u8"].astype(np.float32) - 127.5) / 64
    layout, grid = Layout.create(region=4), RegionGrid(2, 2)
    compared = 0
    for stage, found in enumerate(holojax.segment(model, images, layout, output="features")):
        # Ranks count regions down the columns first.
        for region, rank in enumerate((0, 2, 1, 3)):
            if f"rank{rank}_stage{stage}" in numbers:
                expected = np.moveaxis(numbers[f"rank{rank}_stage{stage}"], 1, -1)
                assert_close(grid.split(np.asarray(found))[:, region], expected, 2e-5)
                compared += 1
    assert compared >= 4
    logits = np.moveaxis(np.asarray(holojax.segment(model, images, layout)), -1, 1)
    assert_close(logits[:, :, numbers["rows"]], numbers["full_logits_rows"], 2e-5)
    assert_close(logits[..., numbers["cols"]], numbers["full_logits_cols"], 2e-5)
    np.testing.assert_array_equal(logits.argmax(1), numbers["full_argmax"])
