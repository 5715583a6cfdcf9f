"""ViT against the libraries whose weights it takes, by the numbers of make_vit.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.checkpoints.keymaps.vit import resize_positions
from holojax.encoders import ViT
from tests.parity import ROOT, assert_close, section, variables

# File: (source, whether the last map is normalised, cases).
FILES = {
    "timm": ("timm", True, ("own", "large", "small")),
    "timm_bare": ("timm", False, ("own",)),
    "mmseg": ("mmseg", False, ("large",)),
    "transformers": ("transformers", True, ("large",)),
    "torchvision": ("torchvision", True, ("own",)),
}


def load(name):
    return np.load(ROOT / "tests" / "parity" / f"vit_{name}.npz")


def vit(name, weights=None, **changes):
    """Build the encoder and import the fixture's weights under the names of its library."""
    sizes = dict(bands=3, dim=16, depth=5, heads=2, patch=8, mlp_ratio=2.0, grid=(4, 4), class_token="bare" not in name)
    encoder = ViT(**{**sizes, **changes}, rngs=nnx.Rngs(0))
    weights = section(load(name), "weight:") if weights is None else weights
    return encoder, holojax.import_weights(encoder, weights, source=FILES[name][0])


@pytest.mark.parametrize("name", FILES)
def test_blocks_and_maps_equal_those_of_the_library(name):
    numbers, (encoder, report), (source, normed, cases) = load(name), vit(name), FILES[name]
    assert (encoder.numerics, encoder.output_norms) == (source, normed)
    assert not report.resized
    graph, state = nnx.split(encoder)

    @jax.jit
    def walk(state, images):
        encoder, blocks = nnx.merge(graph, state), []

        def record(block, x):
            blocks.append(block(x))
            return blocks[-1]

        encoder.run = record
        return encoder(images), blocks

    for case in cases:
        maps, blocks = walk(state, jnp.asarray(numbers[f"{case}:images"]))
        assert_close(maps[-1], numbers[f"{case}:last"], 2e-5)
        # 5 blocks in 4 stages: they end after blocks 2, 3, 4 and 5.
        for i, x in enumerate(maps[:-1]):
            assert_close(x, numbers[f"{case}:block{i + 1}"], 2e-5)
        for i, x in enumerate(blocks):
            expected = numbers[f"{case}:block{i}"]
            assert_close(x[:, encoder.class_token is not None :].reshape(expected.shape), expected, 2e-5)


def test_gradients_equal_those_of_the_library():
    numbers, (encoder, _) = load("transformers"), vit("transformers")
    graph, params = nnx.split(encoder)

    def loss(params, images):
        return sum(jnp.sin(x).sum() for x in nnx.merge(graph, params)(images))

    images = jnp.asarray(numbers["large:images"])
    dparams, dimages = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, images)
    assert_close(dimages, numbers["grad:images"], 1e-4 * np.abs(numbers["grad:images"]).max())
    # The library's gradients take the way of weights through the import; those that were not stored stay weights.
    grads = {key: x for key, x in section(numbers, "grad:").items() if key != "images"}
    twin, _ = vit("transformers", section(numbers, "weight:") | grads)
    compared, found = 0, {".".join(map(str, path)): x for path, x in nnx.to_flat_state(dparams)}
    weights = variables(encoder)
    for path, expected in variables(twin).items():
        if not np.array_equal(expected[...], weights[path][...]):
            assert_close(found[path][...], expected[...], 1e-4 * float(jnp.abs(expected[...]).max()))
            compared += 1
    assert compared == len(grads) == 5


@pytest.mark.parametrize("side", [3, 6])
@pytest.mark.parametrize(("library", "method"), [("timm", "bicubic antialias"), ("torchvision", "bicubic corners")])
def test_positions_are_resized_as_by_the_loader(library, method, side):
    numbers = load("tables")
    found = resize_positions(numbers["positions"][0], (side * side + 1, 16), method=method)
    assert_close(found, numbers[f"{library}{side}"][0], 2e-6)


def test_another_grid_is_resized_and_a_class_token_left_out():
    encoder, report = vit("timm", grid=(6, 6), class_token=False)
    assert_close(encoder.positions[...], load("tables")["timm6"][0, 1:], 2e-6)
    assert list(report.resized) == ["positions"]
    assert "class_token=True" in report.ignored["cls_token"]


def test_published_names_of_old_files_are_known():
    old = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    old |= {"o_proj": "output.dense", "layers.": "encoder.layer.", "mlp.fc1": "intermediate.dense"}
    old |= {"mlp.fc2": "output.dense"}
    weights = {}
    for key, value in section(load("transformers"), "weight:").items():
        for new, before in old.items():
            key = key.replace(new, before)
        weights[f"vit.{key}"] = value
    renamed, straight = (variables(encoder) for encoder, _ in (vit("transformers", weights), vit("transformers")))
    for path, variable in renamed.items():
        np.testing.assert_array_equal(variable[...], straight[path][...])
    old = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
           for key, value in section(load("torchvision"), "weight:").items()}  # fmt: skip
    vit("torchvision", old)
