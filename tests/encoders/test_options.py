"""What all families of encoders have in common: remat, bfloat16, frozen stages, sizes, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from holojax.config import ENCODERS as SCHEMA
from holojax.config import SIZES, complete_encoder
from holojax.encoders import ENCODERS
from holojax.errors import ConfigError
from holojax.models import build_encoder
from holojax.training.optimizer import map_frozen

TINY = {
    "swin": dict(name="swin", embed_dim=4, depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), window=2, mlp_ratio=1.0),
    "vit": dict(name="vit", dim=8, depth=4, heads=2, patch=4, grid=(3, 3), class_token=True, mlp_ratio=1.0),
    "convnext": dict(name="convnext", dims=(4, 4, 8, 8), depths=(1, 2, 1, 1), layer_scale=True),
    "vmamba": dict(name="vmamba", dims=(4, 4, 8, 8), depths=(1, 1, 1, 1), ssm_ratio=1.0, mlp_ratio=1.0),
}
families = pytest.mark.parametrize("family", sorted(ENCODERS))


def loss_and_gradient(family, **options):
    encoder = build_encoder(TINY[family] | dict(drop_path=0.5) | options)
    graph, state = nnx.split(encoder)
    images = jax.random.normal(jax.random.key(0), (2, 33, 38, 3))

    @jax.jit
    def both(state):
        def loss(state):
            maps = nnx.merge(graph, state)(images, keys=jax.random.split(jax.random.key(1), 2))
            return sum(jnp.square(x.astype(jnp.float32)).mean() for x in maps)

        return jax.value_and_grad(loss)(state)

    return both(nnx.as_pure(state))


@functools.cache
def plain(family):
    return loss_and_gradient(family)


@pytest.mark.parametrize(
    ("family", "remat"),
    [
        *((family, "block") for family in ("convnext", "swin", "vit")),
        ("vit", "stage"),
        *(pytest.param(family, "stage", marks=pytest.mark.slow) for family in ("convnext", "swin", "vmamba")),
        pytest.param("vmamba", "block", marks=pytest.mark.slow),
    ],
)
def test_computing_again_changes_no_gradient(family, remat):
    loss, gradient = plain(family)
    again, found = loss_and_gradient(family, remat=remat)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, gradient)


# For vmamba see test_vmamba.py.
@pytest.mark.parametrize("family", ["convnext", "swin", "vit", pytest.param("vmamba", marks=pytest.mark.slow)])
def test_half_precision_changes_the_loss_little_and_gives_gradients_in_full(family):
    half, found = loss_and_gradient(family, dtype="bfloat16")
    np.testing.assert_allclose(half, plain(family)[0], rtol=0.05)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}


@families
def test_maps_in_half_precision_stay_in_half_precision(family):
    encoder = build_encoder(TINY[family] | dict(dtype="bfloat16"))
    maps = jax.eval_shape(encoder, jnp.zeros((1, 32, 32, 3)))
    assert {x.dtype for x in maps} == {jnp.dtype(jnp.bfloat16)}


@families
def test_frozen_stages_are_whole_and_drop_nothing(family):
    encoder = build_encoder(TINY[family] | dict(freeze=4))
    parameters = nnx.as_pure(nnx.state(encoder, nnx.Param))
    learned = {path[0].key for path, frozen in jax.tree.leaves_with_path(
        map_frozen(lambda _, frozen: frozen, parameters, encoder.frozen())) if not frozen}  # fmt: skip
    # In mmseg's ConvNeXt the output norms of frozen stages learn.
    assert learned == ({"norms"} if family == "convnext" else set())
    some = build_encoder(TINY[family] | dict(freeze=1)).frozen()
    found = jax.tree.leaves(map_frozen(lambda _, frozen: frozen, parameters, some))
    assert any(found)
    assert not all(found)
    # Every name that is given is there.
    names = {
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(parameters)
    }
    for prefix in encoder.frozen():
        assert any(name == prefix or name.startswith(prefix + ".") for name in names), prefix
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    frozen = build_encoder(TINY[family] | dict(freeze=4, drop_path=0.9))
    with_keys = jax.jit(lambda x: frozen(x, keys=jax.random.split(jax.random.key(1), 1)))(images)
    jax.tree.map(np.testing.assert_array_equal, with_keys, jax.jit(frozen)(images))


@pytest.mark.parametrize("family", SIZES)
def test_a_size_stands_for_its_numbers_and_unknown_ones_list_the_known(family):
    for size, numbers in SIZES[family].items():
        full = complete_encoder(dict(name=family, size=size))
        assert full | numbers == full
    first = next(iter(SIZES[family]["tiny"]))
    assert complete_encoder(dict(name=family, size="tiny") | {first: SCHEMA[family][first]})[first]
    with pytest.raises(ConfigError, match=r"size: unknown value 'enormous'\. Known: .*tiny"):
        complete_encoder(dict(name=family, size="enormous"))


@families
def test_sizes_that_cannot_be_are_refused(family):
    key = next(key for key in ("embed_dim", "dims", "dim") if key in TINY[family])
    wrong = (0, 4, 4, 4) if key == "dims" else -8
    with pytest.raises(ConfigError, match=f"model.encoder.{key}: expected numbers above 0"):
        build_encoder(TINY[family] | {key: wrong})
    with pytest.raises(ConfigError, match=r"freeze: expected a number of stages, 0 to 4, found 5"):
        build_encoder(TINY[family] | dict(freeze=5))
    with pytest.raises(ConfigError, match="smaller than one patch of 4"):
        jax.eval_shape(build_encoder(TINY[family]), jnp.zeros((1, 3, 32, 3)))
