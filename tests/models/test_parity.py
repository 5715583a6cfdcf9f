"""The whole REST model against numbers of the official code: stages, logits, loss and gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

import holojax
from holojax.context import Spim
from holojax.losses import cross_entropy
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum
from tests.parity import shared

CONFIG = dict(
    name="rest",
    bands=3,
    classes=6,
    regions=(2, 2),
    encoder=dict(name="swin", embed_dim=16, depths=(2, 2, 2, 2), heads=(2, 2, 4, 4), window=7, mlp_ratio=2.0),
    context=dict(name="spim", heads=4, mlp_ratio=2.0),
    decoder=dict(name="upernet", channels=32),
    aux=dict(name="fcn", stage=2, channels=32),
)


def normalized(image):
    return (image.astype(np.float32) - 127.5) / 64


def ranks(numbers, name):
    """Arrays of the four ranks as regions in row-major order, channels last: the official order is column-major."""
    order = [0, 2, 1, 3]
    return [np.moveaxis(numbers[f"rank{r}_{name}"], 1, -1) if f"rank{r}_{name}" in numbers else None for r in order]


@pytest.fixture(scope="module")
def model():
    weights = shared("parity_fixtures/rest_swin_upernet.safetensors")
    model = holojax.build_model(CONFIG)
    holojax.import_weights(model, weights, source="rest")
    return model


def test_stages_logits_and_classes_are_those_of_the_official_code(model):
    numbers = np.load(shared("parity_fixtures/rest_swin_upernet.c108x180_batch2.npz"))
    images, layout = normalized(numbers["image_u8"]), Layout.create(data=2, region=4)
    maps = holojax.segment(model, images, layout, output="features")
    compared = 0
    for stage, found in enumerate(maps):
        for region, expected in enumerate(ranks(numbers, f"stage{stage}")):
            if expected is not None:
                part = RegionGrid(2, 2).split(np.asarray(found))[:, region]
                np.testing.assert_allclose(part, expected, atol=2e-5, err_msg=f"stage {stage}, region {region}")
                compared += 1
    assert compared == 14
    logits = np.moveaxis(holojax.segment(model, images, layout), -1, 1)
    np.testing.assert_allclose(logits[:, :, numbers["rows"]], numbers["full_logits_rows"], atol=2e-5)
    np.testing.assert_allclose(logits[..., numbers["cols"]], numbers["full_logits_cols"], atol=2e-5)
    np.testing.assert_array_equal(logits.argmax(1), numbers["full_argmax"])


def test_loss_and_gradients_are_those_of_the_official_code(model):
    weights = shared("parity_fixtures/rest_swin_upernet.safetensors")
    numbers = np.load(shared("parity_fixtures/rest_swin_upernet.grad.npz"))
    layout, grid = Layout.create(region=4), RegionGrid(2, 2)
    images, labels = grid.split(normalized(numbers["image_u8"])[None]), grid.split(numbers["label"][None])
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.as_pure(params), nnx.as_pure(rest)

    def block(params, rest, images, labels):
        out = nnx.merge(graph, params, rest)(images, None, RegionShard(grid), output="train")
        # The official loss averages over the ignored pixels of a region too; regions are of one size here.
        decode, aux = (
            psum(cross_entropy(out[head][0].logits(), labels[0], average="all"), (DATA, REGION)) / grid.count
            for head in ("main", "aux")
        )
        return decode + 0.4 * aux

    place = P(DATA, REGION)
    loss = layout.shard(block, in_specs=(P(), P(), place, place), out_specs=P())
    derive = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))
    found, (dparams, dimages) = derive(params, rest, images, labels)

    losses = json.loads(shared("parity_fixtures/rest_swin_upernet.json").read_text())["grad"]
    expected = np.mean([losses[f"rank{r}_losses"][f"{head}.loss_ce"] for r in range(4) for head in ("decode", "aux")])
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-6)
    for region, expected in enumerate(ranks(numbers, "input_grad")):
        np.testing.assert_allclose(4 * dimages[:, region], expected, atol=1e-4 * np.abs(expected).max())

    # Gradients take the way of weights through the importer; those that were not recorded stay weights.
    recorded = {key.removeprefix("grad:"): numbers[key] for key in numbers if key.startswith("grad:")}
    twin = holojax.build_model(CONFIG)
    holojax.import_weights(twin, load_file(weights) | recorded, source="rest")
    compared = 0
    for (path, expected), (_, weight), (_, gradient) in zip(
        *(jax.tree.leaves_with_path(nnx.as_pure(x)) for x in (nnx.state(twin, nnx.Param), params, dparams)),
        strict=True,
    ):
        if not np.array_equal(expected, weight):
            scale = max(np.abs(expected).max(), 1e-3)
            np.testing.assert_allclose(gradient, expected, atol=1e-4 * scale, err_msg=jax.tree_util.keystr(path))
            compared += 1
    assert compared == len(recorded)


@pytest.mark.parametrize("regions", [1, 2, 4, 8])
def test_spim_alone_is_that_of_the_official_code(regions):
    weights = load_file(shared("parity_fixtures/spim_layer.safetensors"))
    numbers = np.load(shared("parity_fixtures/spim_layer.npz"))
    mixer = Spim(channels=32, heads=regions, mlp_ratio=2.0, rngs=nnx.Rngs(0))
    names = dict(norm1="ln1", norm2="ln2", qkv="attn.attn.in_proj", proj="attn.attn.out_proj")
    names |= dict(fc1="ffn.layers.0.0", fc2="ffn.layers.1")
    for ours, theirs in names.items():
        part = getattr(mixer, ours)
        joint = "_" if ours == "qkv" else "."
        kernel = weights[f"{theirs}{joint}weight"]
        (part.scale if ours.startswith("norm") else part.kernel)[...] = jnp.asarray(kernel.T)
        part.bias[...] = jnp.asarray(weights[f"{theirs}{joint}bias"])
    graph, state = nnx.split(mixer)
    place, grid = P(DATA, REGION), RegionGrid(1, regions)

    def block(state, x):
        return nnx.merge(graph, state)(x, None, RegionShard(grid))

    f = jax.jit(Layout.create(region=regions).shard(block, in_specs=(P(), place), out_specs=place))
    tokens = {
        name: numbers[f"world{regions}_{name}"].swapaxes(0, 1)[:, :, :, None]
        for name in ("x", "x_plus_layer_out", "cotangent", "dx")
    }
    found, pullback = jax.vjp(lambda x: f(nnx.as_pure(state), x), tokens["x"])
    np.testing.assert_allclose(found, tokens["x_plus_layer_out"], atol=1e-5)
    dx = pullback(jnp.asarray(tokens["cotangent"]))[0]
    np.testing.assert_allclose(dx, tokens["dx"], atol=1e-4 * np.abs(tokens["dx"]).max())
