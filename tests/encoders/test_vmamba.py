import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import holojax
from holojax.borders import Exact
from holojax.encoders import VMamba
from holojax.encoders.vmamba import CrossScan
from holojax.errors import ConfigError
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum


def _vmamba(**changes):
    sizes = dict(bands=2, dims=(6, 8, 8, 10), depths=(1, 0, 0, 0))
    return VMamba(**{**sizes, **changes}, rngs=nnx.Rngs(0))


def _images(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def test_every_stage_halves_the_map_rounding_up():
    encoder = _vmamba()
    maps = nnx.eval_shape(lambda encoder, x: encoder(x), encoder, jnp.zeros((1, 102, 70, 2)))
    assert [x.shape for x in maps] == [(1, 26, 18, 6), (1, 13, 9, 8), (1, 7, 5, 8), (1, 4, 3, 10)]
    assert (encoder.channels, encoder.strides) == ((6, 8, 8, 10), (4, 8, 16, 32))


def test_the_start_of_training_follows_mamba():
    scan = CrossScan(channels=40, state=3, ratio=2.0, rngs=nnx.Rngs(0))
    steps = np.logaddexp(0, np.asarray(scan.dt_bias[...], np.float64))
    assert 0.001 * (1 - 1e-4) < steps.min() < 0.002
    assert 0.05 < steps.max() < 0.1 * (1 + 1e-4)
    np.testing.assert_allclose(np.exp(scan.a_log[...]), np.broadcast_to([1, 2, 3], (4, 80, 3)), rtol=1e-6)
    np.testing.assert_array_equal(scan.skip[...], np.ones((4, 80)))
    assert scan.rank == math.ceil(40 / 16)


def test_drop_path_grows_linearly_and_stages_can_be_frozen():
    encoder = _vmamba(drop_path=0.6, depths=(1, 1, 1, 1))
    np.testing.assert_allclose([stage[0].rate for stage in encoder.stages], [0, 0.2, 0.4, 0.6])
    encoder.set_options(bands_init="mean", freeze=2, remat="block", dtype="float32")
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(encoder, nnx.Param))}
    named = [name for i in range(4) for name in encoder.modules_of(i)]
    assert all(sum(path.startswith(name + ".") for name in named) == 1 for path in paths)
    assert encoder.frozen() == ("patch_embed", "stages.0", "norms.0", "downsamples.0", "stages.1", "norms.1")


def test_bfloat16_stays_near_float32_and_keys_drop_branches():
    encoder, images = _vmamba(drop_path=0.5, depths=(1, 0, 0, 1)), _images(1, 32, 32, 2)
    exact = nnx.jit(lambda encoder, x: encoder(x))(encoder, images)
    encoder.set_options(bands_init="mean", freeze=0, remat="none", dtype="bfloat16")
    run = nnx.jit(lambda encoder, x, keys: (encoder(x), encoder(x, keys=keys)))
    rough, dropped = run(encoder, images, jax.random.split(jax.random.key(2), 1))
    assert {x.dtype for x in rough} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(rough[-1].astype(jnp.float32), exact[-1], atol=0.15)
    assert not np.allclose(rough[-1].astype(jnp.float32), dropped[-1].astype(jnp.float32))


def test_wrong_sizes_say_what_to_change():
    with pytest.raises(ConfigError, match="4 dims and 4 depths"):
        _vmamba(depths=(1, 1, 1))
    with pytest.raises(ConfigError, match="at least 1 number of state per channel, found state=0"):
        _vmamba(state=0)
    with pytest.raises(ConfigError, match="unknown numerics 'timm'; known: mmseg, vmamba"):
        _vmamba(numerics="timm")
    encoder = holojax.build_encoder(dict(name="vmamba", dims=(4, 4, 4, 4), depths=(1, 1, 1, 1)))
    assert isinstance(encoder, VMamba)


# No stride divides it; a hole without data lies across borders.
HEIGHT, WIDTH = 75, 101


def _exactly(cells, devices):
    """Maps, loss and gradients of a scene with a hole, cut into a grid of regions with exact borders."""
    grid, layout = RegionGrid(*cells, multiple=32), Layout.create(region=devices)
    valid = np.ones((1, HEIGHT, WIDTH), bool)
    valid[0, 20:50, 30:70] = False
    # What lies in the hole must not be seen.
    images = np.where(valid[..., None], _images(1, HEIGHT, WIDTH, 2), 5.0).astype(np.float32)
    graph, state = nnx.split(_vmamba())

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


def test_exact_maps_and_gradients_do_not_depend_on_the_grid():
    found, expected = _exactly((2, 4), 4), _exactly((1, 1), 1)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1))


def test_isolated_is_exact_where_there_is_one_region_without_padding():
    encoder, images = _vmamba(), _images(1, 64, 96, 2)
    graph, state = nnx.split(encoder)

    def block(state, images):
        maps = nnx.merge(graph, state)(images[0], Exact(shard=RegionShard(RegionGrid(1, 3)), scenes=1))
        return [x[None] for x in maps]

    place, grid = P(DATA, REGION), RegionGrid(1, 3)
    f = jax.jit(Layout.create(region=3).shard(block, in_specs=(P(), place), out_specs=place))
    found = f(nnx.as_pure(state), grid.split(images))
    for a, b in zip(found, nnx.jit(lambda encoder, x: encoder(x))(encoder, images), strict=True):
        np.testing.assert_allclose(grid.stitch(a, *b.shape[1:3]), b, atol=1e-5)
