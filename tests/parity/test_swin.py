"""Swin against the libraries whose weights it takes, by the numbers of make_swin.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.checkpoints.keymaps.swin import resize_bicubic
from holojax.encoders import Swin
from holojax.ops.windows import table_steps
from tests.parity import ROOT, assert_close, section, variables

# File: (source, whether its maps are normalised).
CASES = {
    "mmseg": ("mmseg", True),
    "timm": ("timm", False),
    "timm_small": ("timm", False),
    "transformers": ("transformers", True),
    "transformers_model": ("transformers", False),
    "torchvision": ("torchvision", False),
}


def load(case):
    return np.load(ROOT / "tests" / "parity" / f"swin_{case}.npz")


def swin(case, **changes):
    """Build the encoder and import the fixture's weights under the names of its library."""
    sizes = dict(bands=3, embed_dim=4, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=4, mlp_ratio=2.0)
    encoder = Swin(**{**sizes, **changes}, rngs=nnx.Rngs(0))
    return encoder, holojax.import_weights(encoder, section(load(case), "weight:"), source=CASES[case][0])


def run(encoder, images):
    """Return the maps of the stages and what every block makes."""
    graph, state = nnx.split(encoder)

    def walk(state, images):
        encoder, blocks = nnx.merge(graph, state), []

        def record(block, x):
            blocks.append(block(x))
            return blocks[-1]

        encoder.run = record
        return encoder(images), blocks

    return jax.jit(walk)(state, jnp.asarray(images))


@pytest.mark.parametrize("case", CASES)
def test_blocks_and_stages_equal_those_of_the_library(case):
    numbers, (encoder, report) = load(case), swin(case)
    assert (encoder.numerics, encoder.output_norms) == CASES[case]
    maps, blocks = run(encoder, numbers["images"])
    for i, x in enumerate(maps):
        assert_close(x, numbers[f"stage{i}"], 2e-5)
    assert len(blocks) == 8
    for i, x in enumerate(blocks):
        if f"block{i}" in numbers:
            assert_close(x, numbers[f"block{i}"], 2e-5)
    assert (len(report.resized) == 4) == (case == "timm_small")


def test_gradients_equal_those_of_the_library():
    numbers, (encoder, _) = load("mmseg"), swin("mmseg")
    graph, params = nnx.split(encoder)

    def loss(params, images):
        return sum(jnp.sin(x).sum() for x in nnx.merge(graph, params)(images))

    dparams, dimages = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, jnp.asarray(numbers["images"]))
    assert_close(dimages, numbers["grad:images"], 1e-4 * np.abs(numbers["grad:images"]).max())
    # The library's gradients take the way of weights through the import; those that were not stored stay weights.
    weights, grads = section(numbers, "weight:"), section(numbers, "grad:")
    twin, _ = swin("mmseg")
    holojax.import_weights(twin, weights | {k: v for k, v in grads.items() if k != "images"}, source="mmseg")
    compared, found = 0, dict(nnx.to_flat_state(dparams))
    weights = variables(encoder)
    for path, expected in variables(twin).items():
        if not np.array_equal(expected[...], weights[path][...]):
            gradient = found[tuple(int(k) if k.isdigit() else k for k in path.split("."))][...]
            assert_close(gradient, expected[...], 1e-4 * float(jnp.abs(expected[...]).max()))
            compared += 1
    assert compared == 4


def test_tables_are_resized_as_by_timm_and_mmseg():
    numbers = np.load(ROOT / "tests" / "parity" / "swin_tables.npz")
    for window in (2, 3, 5, 7):
        steps = table_steps(4, window)
        found = np.einsum("hi,ijk,wj->hwk", steps, numbers["table"].reshape(7, 7, 2), steps)
        assert_close(found.reshape(-1, 2), numbers[f"to{window}"], 2e-5)
    for window in (3, 7):
        found = resize_bicubic(numbers["table"], ((2 * window - 1) ** 2, 2))
        assert_close(found, numbers[f"bicubic_to{window}"], 5e-6)


def test_another_window_is_said_to_be_resized():
    for case in ("mmseg", "timm"):
        encoder, report = swin(case, window=5)
        assert len(report.resized) == 8
        assert encoder.stages[0][0].attention.bias_table.shape == (81, 1)
