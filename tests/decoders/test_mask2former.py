"""Mask2Former in both border modes: a scene's answer does not depend on its cut; isolated regions send nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import holojax
from holojax.borders import ISOLATED, Exact, Isolated
from holojax.errors import ConfigError
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.profiling import totals, traffic

CHANNELS, STRIDES, SIZE = (4, 4, 6, 6), (4, 8, 16, 32), (64, 128)
SIZES = dict(
    channels=16, queries=3, heads=2, points=1, encoder_layers=1, encoder_mlp=8, decoder_layers=2, decoder_mlp=8
)


@functools.cache
def decoder():
    """A decoder whose offsets, masks and classes are not those of its start, which are mild."""
    made = holojax.build_decoder(dict(name="mask2former", **SIZES), CHANNELS, 2)
    rng = np.random.default_rng(0)
    params = nnx.state(made, nnx.Param)
    nnx.update(made, jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params))
    made.train()
    return made


def scene():
    """Two scenes: one ends early and has a hole, where there is rubbish; the other is whole."""
    rng = np.random.default_rng(1)
    valid = np.ones((2, *SIZE), bool)
    valid[0, 55:] = valid[0, :, 101:] = valid[0, 8:44, 30:70] = False
    sizes = [(2, SIZE[0] // s, SIZE[1] // s, c) for s, c in zip(STRIDES, CHANNELS, strict=True)]
    maps = [rng.normal(size=size).astype(np.float32) for size in sizes]
    return maps, valid


def counted(valid, stride):
    b, h, w = valid.shape
    return valid.reshape(b, h // stride, stride, w // stride, stride).any((2, 4))


def on_grid(grid, devices, valid, exact=True, data=1):
    """Return f(params, maps) -> (masks, classes) of all layers; classes as the first region has them."""
    layout, place = Layout.create(data=data, region=devices), P(DATA, REGION)
    structure, _, rest = nnx.split(decoder(), nnx.Param, ...)

    def body(params, maps, valid):
        b, r = valid.shape[:2]
        fold = lambda x: x.reshape(b * r, *x.shape[2:])  # noqa: E731
        if exact:
            borders = Exact(RegionShard(grid), b, valid=fold(valid), axes=(DATA, REGION))
        else:
            borders = Isolated(valid=fold(valid), strides=STRIDES, axes=(DATA, REGION))
        answer = nnx.merge(structure, params, rest).decode([fold(x) for x in maps], borders)
        layers = [*answer.earlier, answer]
        unfold = lambda x: x.reshape(b, r, *x.shape[1:])  # noqa: E731
        return [(unfold(layer.masks), unfold(layer.classes)) for layer in layers]

    sharded = layout.shard(body, in_specs=(P(), place, place), out_specs=place)

    def whole(params, maps):
        layers = sharded(params, [grid.split(x) for x in maps], grid.split(jnp.asarray(valid)))
        stitch = lambda x: grid.stitch(x, x.shape[2] * grid.rows, x.shape[3] * grid.cols)  # noqa: E731
        return [(stitch(masks), classes) for masks, classes in layers]

    return whole


def value_and_gradient(f, maps, valid):
    """Return all answers of f, and the gradient of a weighted sum of what counts."""
    params = nnx.state(decoder(), nnx.Param)
    seen = counted(valid, 4)[..., None]

    def loss(params, maps):
        layers = [(jnp.where(seen, masks, 0), classes[:, 0]) for masks, classes in f(params, maps)]
        weigh = lambda x: (x * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)).mean()  # noqa: E731
        return sum(weigh(x) for layer in layers for x in layer), layers

    (_, layers), gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, maps)
    return layers, gradient


@functools.cache
def uncut():
    maps, valid = scene()
    return value_and_gradient(on_grid(RegionGrid(1, 1), 1, valid), maps, valid)


@pytest.mark.parametrize(
    ("grid", "devices", "data"),
    [
        ((2, 4), 8, 1),
        pytest.param((2, 2), 2, 1, marks=pytest.mark.slow),
        pytest.param((1, 4), 1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_cut_scene_is_answered_as_the_whole_one(grid, devices, data):
    maps, valid = scene()
    layers, gradient = uncut()
    # What lies where nothing is valid is seen by nobody.
    rubbish = [np.where(counted(valid, s)[..., None], x, 7) for x, s in zip(maps, STRIDES, strict=True)]
    found, found_gradient = value_and_gradient(on_grid(RegionGrid(*grid), devices, valid, data=data), rubbish, valid)
    for pair, expected in zip(jax.tree.leaves(found), jax.tree.leaves(layers), strict=True):
        np.testing.assert_allclose(pair, expected, atol=1e-4)
    for part, expected in zip(jax.tree.leaves(found_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_a_scene_without_padding_is_answered_as_an_isolated_region():
    (maps, _), (exact, _) = scene(), uncut()
    answer = jax.jit(lambda maps: decoder().decode(maps, ISOLATED))([x[1:] for x in maps])
    for (masks, classes), alone in zip(exact, [*answer.earlier, answer], strict=True):
        np.testing.assert_allclose(masks[1:], alone.masks, atol=2e-5)
        np.testing.assert_allclose(classes[1:], alone.classes, atol=2e-5)


def test_isolated_regions_send_nothing():
    layout = Layout.create(region=8)
    structure, params, rest = nnx.split(decoder(), nnx.Param, ...)

    def body(params, maps):
        borders = Isolated(strides=STRIDES, axes=(DATA, REGION))
        return nnx.merge(structure, params, rest)([x[:, 0] for x in maps], (32, 32), borders)[:, None]

    sharded = layout.shard(body, in_specs=(P(), P(DATA, REGION)), out_specs=P(DATA, REGION))
    maps = [jnp.zeros((1, 8, 32 // s, 32 // s, c)) for s, c in zip(STRIDES, CHANNELS, strict=True)]
    assert totals(traffic(sharded, params, maps)) == {}


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ConfigError, match="at least 4 maps, found 3"):
        holojax.build_decoder(dict(name="mask2former", **SIZES), CHANNELS[1:], 2)
    with pytest.raises(ConfigError, match="found channels=18, heads=2"):
        holojax.build_decoder(dict(name="mask2former", **SIZES | dict(channels=18)), CHANNELS, 2)
