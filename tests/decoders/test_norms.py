"""Norms of decoders: whose statistics they take, and that neither a cut nor padding changes a scene's training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import holojax
from holojax.borders import ISOLATED, Isolated
from holojax.decoders.layers import NORMS, GroupNorm, PlaceNorm
from holojax.errors import ConfigError
from tests.decoders.scene import RUBBISH, compare, scene, train

PYRAMID, FLAT = (4, 6), (6, 6, 6)
DECODERS = {
    "upernet": (dict(name="upernet", channels=4, pool_scales=(3,), dropout=0.5), PYRAMID),
    "upernet group": (dict(name="upernet", channels=4, pool_scales=(3,), dropout=0.5, norm="group"), PYRAMID),
    "upernet lwc": (dict(name="upernet", channels=4, pool_scales=(3,), variant="lwc"), PYRAMID),
    "fcn layer": (dict(name="fcn", channels=4, convs=2, concat=True, dropout=0.5, norm="layer"), PYRAMID),
    "setr mla": (dict(name="setr", channels=4, variant="mla"), FLAT),
    "segvit pyramid": (dict(name="segvit", channels=4, layers=1, heads=2, stages=(1,), dropout=0.5), PYRAMID),
    "segvit flat": (dict(name="segvit", channels=4, layers=1, heads=2, stages=(0, 1, 2), dropout=0.5), FLAT),
}
QUICK = ("upernet", "segvit pyramid")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in DECODERS])
def test_training_depends_neither_on_the_cut_nor_on_the_devices_nor_on_padding(name):
    config, channels = DECODERS[name]
    decoder = holojax.build_decoder(config, channels, 3, seed=1)
    if name.startswith("segvit"):  # whose weights begin so small that mistakes would not show
        nnx.update(decoder, jax.tree.map(lambda x: 20 * x if x.ndim == 2 else x, nnx.state(decoder, nnx.Param)))
    maps, valid = scene(channels, channels is FLAT)
    clean = [np.where(x == RUBBISH, 0, x) for x in maps]
    compare(train(decoder, (2, 4), 4, maps, valid), train(decoder, (1, 1), 1, clean, valid))


def test_an_isolated_region_of_padding_changes_no_batch_statistic():
    decoder = holojax.build_decoder(DECODERS["upernet"][0] | dict(dropout=0.0), PYRAMID, 3)
    decoder.train()
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(3, 8 >> i, 12 >> i, c)), jnp.float32) for i, c in enumerate(PYRAMID)]
    graph, state = nnx.split(decoder)

    @jax.jit
    def moved(state, maps, valid):
        module = nnx.merge(graph, state)
        module.scores(maps, Isolated(valid=valid, strides=(2, 4)))
        return nnx.as_pure(nnx.state(module, nnx.BatchStat))

    valid = jnp.ones((3, 16, 24), bool).at[2].set(False)
    alone = moved(state, [x[:2] for x in maps], valid[:2])
    compare(moved(state, maps, valid), alone, 1e-6)
    with pytest.raises(AssertionError):
        compare(moved(state, maps, jnp.ones_like(valid)), alone)


def test_groups_are_normalised_as_by_the_formula():
    rng = np.random.default_rng(0)
    x, norm = jnp.asarray(rng.normal(2, 3, (2, 5, 3, 6)), jnp.float32), GroupNorm(6)
    norm.groups = 2
    norm.scale[...] = jnp.arange(1.0, 7)
    groups = np.asarray(x, np.float64).reshape(2, 15, 2, 3)
    mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * np.arange(1, 7)
    np.testing.assert_allclose(norm(x, ISOLATED), expected, atol=2e-5)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (48, 24), (6, 6), (34, 17), (37, 1)])
def test_groups_divide_the_channels(channels, groups):
    assert GroupNorm(channels).groups == groups


def test_places_are_normalised_each_by_its_own():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 8)), jnp.float32)
    y = PlaceNorm(8)(x, ISOLATED)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(PlaceNorm(8)(x[:, :1], ISOLATED), y[:, :1], atol=1e-6)


def test_unknown_norm_names_the_known_ones():
    with pytest.raises(ConfigError, match="Did you mean 'batch'"):
        holojax.build_decoder(dict(name="upernet", norm="batsh"), PYRAMID, 3)
    assert set(NORMS) == {"batch", "group", "layer"}
