"""ViT against the libraries whose weights it takes, by the numbers of make_vit.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.checkpoints.keymaps.vit import Grid
from holojax.encoders import ViT
from holojax.errors import WeightsError
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
    found = Grid(method, True, (side, side), 1).resize(numbers["positions"][0], (side * side + 1, 16))
    assert_close(found, numbers[f"{library}{side}"][0], 2e-6)


def test_positions_without_a_class_token_are_resized():
    weights = section(load("timm"), "weight:")
    del weights["cls_token"]
    encoder, report = vit("timm", weights, grid=(6, 6), class_token=False)
    assert_close(encoder.positions[...], load("tables")["timm6"][0, 1:], 2e-6)
    assert report.resized == {
        "positions": "from a grid of 4 x 4 to one of 6 x 6, without the class token's place, 17 to 36 rows "
        "(bicubic antialias)"
    }


@pytest.mark.parametrize("grid", [(2, 8), (8, 2), (6, 9), (2, 3)])
def test_square_tables_are_resized_to_any_grid_of_however_many_places(grid):
    weights = section(load("timm_bare"), "weight:")
    # One channel is as far down as its row, another as far right: resizing keeps that, reading row by row does not.
    table = np.zeros((4, 4, 16), np.float32)
    table[..., 0], table[..., 1] = np.arange(4)[:, None] - 1.5, np.arange(4) - 1.5
    encoder, report = vit("timm_bare", weights | {"pos_embed": table.reshape(1, 16, 16)}, grid=grid)
    assert f"from a grid of 4 x 4 to one of {grid[0]} x {grid[1]}" in report.resized["positions"]
    found = np.asarray(encoder.positions[...]).reshape(*grid, 16)
    assert np.ptp(found[..., 0], axis=1).max() < 1e-6
    assert np.ptp(found[..., 1], axis=0).max() < 1e-6
    assert (np.diff(found[:, 0, 0]) > 0).all()
    assert (np.diff(found[0, :, 1]) > 0).all()


def test_a_table_whose_places_are_no_square_must_have_as_many():
    weights = section(load("timm"), "weight:")
    weights["pos_embed"] = np.arange(13 * 16, dtype=np.float32).reshape(1, 13, 16)
    encoder, report = vit("timm", weights, grid=(3, 4))
    assert not report.resized
    np.testing.assert_array_equal(encoder.positions[...], weights["pos_embed"][0])
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 13, 16\): expected shape \(17, 16\)"):
        vit("timm", weights, grid=(4, 4))


@pytest.mark.parametrize("name", ["timm", "mmseg", "transformers", "torchvision"])
def test_a_class_token_is_not_dropped_in_silence(name):
    with pytest.raises(WeightsError, match=r"set model\.encoder\.class_token=True"):
        vit(name, class_token=False)


def test_fixed_positions_of_a_file_are_ignored_by_an_encoder_that_computes_them():
    _, report = vit("timm", pos="sincos")
    assert report.ignored["pos_embed"] == "pos='sincos' computes positions"
    with pytest.raises(WeightsError, match=r"pos_embed .* nothing that this fills"):
        vit("timm", pos="none")


def test_names_of_features_only_are_known():
    straight, _ = vit("timm_bare")
    weights = {f"model.{key}": value for key, value in section(load("timm_bare"), "weight:").items()}
    encoder, report = vit("timm_bare", weights)
    assert not encoder.output_norms
    assert set(report.ignored.values()) == {"the classifier"}
    for path, variable in variables(encoder).items():
        np.testing.assert_array_equal(variable[...], variables(straight)[path][...])


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
