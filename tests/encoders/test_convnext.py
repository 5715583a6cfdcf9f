import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import holojax
from holojax.borders import ISOLATED, Exact
from holojax.encoders import ConvNeXt
from holojax.encoders.convnext import ConvNeXtBlock
from holojax.errors import ConfigError, LayoutError
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum


def _convnext(**changes):
    sizes = dict(bands=2, dims=(6, 8, 8, 10), depths=(1, 1, 1, 1), layer_scale=True)
    return _stir(ConvNeXt(**{**sizes, **changes}, rngs=nnx.Rngs(0)))


def _stir(module):
    """Draw the parameters that begin at 0 or 1: there a block would do next to nothing."""
    for number, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(module, nnx.Param))):
        if path[-1] in ("gamma", "beta"):
            variable[...] = 1 + 0.5 * jax.random.normal(jax.random.key(number), variable.shape)
    return module


def _images(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def test_every_stage_halves_the_map_rounding_down():
    encoder = _convnext()
    maps = nnx.jit(lambda encoder, x: encoder(x))(encoder, _images(1, 102, 70, 2))
    assert [x.shape for x in maps] == [(1, 25, 17, 6), (1, 12, 8, 8), (1, 6, 4, 8), (1, 3, 2, 10)]
    assert (encoder.channels, encoder.strides) == ((6, 8, 8, 10), (4, 8, 16, 32))


def test_large_maps_and_small_ones_take_two_ways_to_one_result():
    # With more places than channels the response norm multiplies the weights in place of the map.
    block = _stir(ConvNeXtBlock(channels=12, layer_scale=True, grn=True, drop=(0, 0.0), rngs=nnx.Rngs(0)))
    x = _images(2, 4, 4, 48)

    def loss(block, x, narrow):
        # A layer that claims more outputs than there are places.
        block.fc2.out_features = 99 if narrow else 12
        y = block._respond(x, ISOLATED)
        return jnp.sin(y).sum(), y

    wide, narrow = (
        nnx.jit(nnx.grad(functools.partial(loss, narrow=n), argnums=(0, 1), has_aux=True))(block, x)
        for n in (False, True)
    )
    for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))


def test_the_start_of_training_follows_the_papers():
    v1 = ConvNeXt(bands=1, dims=(2,) * 4, depths=(1,) * 4, layer_scale=True, grn=False, rngs=nnx.Rngs(0)).stages[0][0]
    rest = ConvNeXt(bands=1, dims=(2,) * 4, depths=(1,) * 4, layer_scale=True, grn=True, rngs=nnx.Rngs(0)).stages[0][0]
    np.testing.assert_array_equal(v1.gamma[...], np.float32([1e-6, 1e-6]))
    np.testing.assert_array_equal(rest.gamma[...], [1, 1])
    assert not rest.grn.gamma[...].any()
    assert v1.grn is None


def test_drop_path_grows_linearly_and_the_first_stages_can_be_frozen():
    encoder = _convnext(drop_path=0.6, depths=(1, 1, 1, 1))
    np.testing.assert_allclose([stage[0].rate for stage in encoder.stages], [0, 0.2, 0.4, 0.6])
    encoder.set_options(bands_init="mean", freeze=2, remat="block", dtype="float32")
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(encoder, nnx.Param))}
    named = [name for i in range(4) for name in encoder.modules_of(i)]
    assert len(named) == len(set(named))
    # As in mmseg, output norms belong to no stage that could be frozen.
    blocks = {path for path in paths if not path.startswith("norms.")}
    assert all(sum(path.startswith(name + ".") for name in named) == 1 for path in blocks)
    assert encoder.frozen() == ("stem", "stages.0", "downsamples.0", "stages.1")


def test_bfloat16_stays_near_float32():
    encoder, images = _convnext(), _images(1, 64, 64, 2)
    run = nnx.jit(lambda encoder, x: encoder(x))
    exact = run(encoder, images)
    encoder.set_options(bands_init="mean", freeze=0, remat="none", dtype="bfloat16")
    rough = run(encoder, images)
    assert {x.dtype for x in rough} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(rough[-1].astype(jnp.float32), exact[-1], atol=0.15)


def test_wrong_sizes_say_what_to_change():
    with pytest.raises(ConfigError, match="4 dims and 4 depths"):
        _convnext(depths=(1, 1, 1))
    with pytest.raises(ConfigError, match="unknown numerics 'mmsegg'; known: mmseg, timm"):
        _convnext(numerics="mmsegg")
    with pytest.raises(LayoutError, match="at least 32 x 32 pixels, found 31 x 64"):
        _convnext()(_images(1, 31, 64, 2))
    encoder = holojax.build_encoder(dict(name="convnext", dims=(4, 4, 4, 4), depths=(1, 1, 1, 1)))
    assert isinstance(encoder, ConvNeXt)


# No stride divides it; a hole without data lies across borders.
HEIGHT, WIDTH = 75, 101


def _exactly(cells, devices):
    """Maps, loss and gradients of a scene with a hole, cut into a grid of regions with exact borders."""
    grid, layout = RegionGrid(*cells, multiple=32), Layout.create(region=devices)
    valid = np.ones((1, HEIGHT, WIDTH), bool)
    valid[0, 20:50, 30:70] = False
    # What lies in the hole must not be seen.
    images = np.where(valid[..., None], _images(1, HEIGHT, WIDTH, 2), 5.0).astype(np.float32)
    graph, state = nnx.split(_convnext())

    def block(state, images, valid):
        fold = [x.reshape(-1, *x.shape[2:]) for x in (images, valid)]
        borders = Exact(shard=RegionShard(grid), scenes=images.shape[0], valid=fold[1], axes=(DATA, REGION))
        maps = [borders.hide(x) for x in nnx.merge(graph, state)(fold[0], borders)]
        loss = sum(psum(jnp.sin(3 * x).sum() / x.shape[-1], (DATA, REGION)) for x in maps)
        return loss, [x.reshape(*images.shape[:2], *x.shape[1:]) for x in maps]

    place = P(DATA, REGION)
    run = layout.shard(block, in_specs=(P(), place, place), out_specs=(P(), place))
    derive = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (loss, maps), (dstate, dimages) = derive(nnx.as_pure(state), grid.split(images), grid.split(valid, fill=False))
    ends = [(-(-HEIGHT // s), -(-WIDTH // s)) for s in (4, 8, 16, 32)]
    maps = [grid.stitch(x, *end) for x, end in zip(maps, ends, strict=True)]
    return loss, maps, jax.tree.leaves(dstate), grid.stitch(dimages, HEIGHT, WIDTH)


@functools.cache
def _whole():
    return _exactly((1, 1), 1)


@pytest.mark.parametrize(("cells", "devices"), [((2, 2), 2), ((2, 4), 8)])
def test_exact_maps_and_gradients_do_not_depend_on_the_grid(cells, devices):
    found, expected = _exactly(cells, devices), _whole()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1))
