"""Swin against the libraries whose weights it takes, by the numbers of make_swin.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.checkpoints.keymaps.swin import resize_bicubic
from holojax.encoders import Swin
from holojax.errors import WeightsError
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


def swin(case, weights=None, **changes):
    """Build the encoder and import the fixture's weights under the names of its library."""
    sizes = dict(bands=3, embed_dim=4, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=4, mlp_ratio=2.0)
    encoder = Swin(**{**sizes, **changes}, rngs=nnx.Rngs(0))
    weights = section(load(case), "weight:") if weights is None else weights
    return encoder, holojax.import_weights(encoder, weights, source=CASES[case][0])


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
    twin, _ = swin("mmseg", weights | {k: v for k, v in grads.items() if k != "images"})
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


@pytest.mark.parametrize("case", ["mmseg", "timm", "transformers", "torchvision"])
def test_tables_of_rectangular_windows_are_said_to_be_unsupported(case):
    weights = section(load(case), "weight:")
    name = next(key for key in weights if key.endswith("bias_table"))
    with pytest.raises(WeightsError, match=rf"{re.escape(name)}.*expected a table of a square window.*found 35; rect"):
        swin(case, weights | {name: np.zeros((35, 1), np.float32)})


def old_transformers(key):
    """Name a tensor as transformers' published files do."""
    for new, old in {
        "attention.relative_position_bias.": "attention.self.",
        "attention.q_proj": "attention.self.query",
        "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }.items():
        key = key.replace(new, old)
    return key


OTHER_NAMES = {
    # The first Swin code counts a merging with the stage before it.
    "microsoft": ("timm", lambda k: re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", k)),
    "timm's features_only": ("timm", lambda k: k.replace("layers.", "layers_")),
    "transformers' files": ("transformers_model", lambda k: f"swin.{old_transformers(k)}"),
    "transformers' UperNet": ("transformers", lambda k: "backbone." + old_transformers(k).removeprefix("swin.")),
    "transformers' UperNet in memory": ("transformers", lambda k: f"backbone.{k}"),
    "transformers' Mask2Former": (
        "transformers",
        lambda k: "model.pixel_level_module.encoder." + old_transformers(k).removeprefix("swin."),
    ),
    "mmseg without a prefix": ("mmseg", lambda k: k.removeprefix("backbone.")),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_of_the_same_tensors_are_known(name):
    case, rename = OTHER_NAMES[name]
    weights = {rename(key): value for key, value in section(load(case), "weight:").items()}
    encoder, report = swin(case, weights)
    straight, _ = swin(case)
    assert encoder.output_norms == CASES[case][1]
    assert all("classifier" in why for why in report.ignored.values())
    for path, variable in variables(straight).items():
        np.testing.assert_array_equal(variables(encoder)[path][...], variable[...])


def test_a_backbone_may_have_some_output_norms_alone():
    weights = {k: x for k, x in section(load("transformers"), "weight:").items() if not re.search(r"\.stage[13]\.", k)}
    encoder, report = swin("transformers", weights)
    assert encoder.output_norms
    assert sorted(report.kept) == [f"norms.{i}.{leaf}" for i in (0, 2) for leaf in ("bias", "scale")]


def test_mmpretrain_has_the_last_norm_alone():
    weights = {
        key: x for key, x in section(load("mmseg"), "weight:").items() if not re.match(r"backbone\.norm[012]", key)
    }
    _, report = swin("mmseg", weights | {"head.fc.weight": np.zeros((3, 32))})
    assert sorted(report.kept) == [f"norms.{i}.{leaf}" for i in range(3) for leaf in ("bias", "scale")]
    with pytest.raises(WeightsError, match=r"norms\.0\.bias"):
        holojax.import_weights(swin("mmseg")[0], weights, source="rest")
