"""Mixers on 1 to 8 devices against dense attention over the stitched scene: values, gradients, masks, pooled keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from holojax.context import Cdcr, Spim
from holojax.errors import ConfigError
from holojax.ops.rotary import rotate
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from tests.ops.test_attention import dense

WIDTH, HEADS = 8, 2


def run(mixer, grid, layout, scene, valid=None):
    """Mix a stitched scene [b H W c] whose sides the grid divides."""
    graph, state = nnx.split(mixer)

    def block(state, x, *valid):
        return nnx.merge(graph, state)(x, valid[0] if valid else None, RegionShard(grid))

    place = P(DATA, REGION)
    stacks = [grid.split(x) for x in (scene, valid) if x is not None]
    f = jax.jit(layout.shard(block, in_specs=(P(), *[place] * len(stacks)), out_specs=place))
    return grid.stitch(f(nnx.as_pure(state), *stacks), *scene.shape[1:3])


def pooled_twin(x, valid, size):
    """Averages over squares of the scene's token grid by plain padding."""
    b, h, w = x.shape[:3]
    pads = ((0, 0), (0, -h % size), (0, -w % size))
    weight = jnp.pad(valid, pads).astype(x.dtype)
    x = jnp.pad(x, (*pads, (0, 0))) * weight[..., None]

    def squares(y):
        y = y.reshape(b, y.shape[1] // size, size, y.shape[2] // size, size, -1)
        return y.sum((2, 4)).reshape(b, -1, y.shape[-1])

    count = squares(weight[..., None])
    return squares(x) / jnp.maximum(count, 1), count[..., 0] > 0


def places(height, width, size):
    """Centres of squares of the scene's token grid."""
    rows, cols = (np.arange(0.0, extent, size, np.float32) + (size - 1) / 2 for extent in (height, width))
    return tuple(jnp.asarray(x.ravel(), jnp.float32) for x in np.meshgrid(rows, cols, indexing="ij"))


def layer_twin(mixer, scene, valid=None):
    """A pre-norm transformer layer on one device, written out."""
    b, h, w, c = scene.shape
    valid = jnp.ones((b, h, w), bool) if valid is None else valid
    y = mixer.norm1(scene)
    pooled, mask = pooled_twin(y, valid, mixer.kv_pool)
    kernel, bias = mixer.qkv.kernel[...], mixer.qkv.bias[...]
    heads = lambda t: t.reshape(b, -1, HEADS, c // HEADS)  # noqa: E731
    q = heads(y @ kernel[:, :c] + bias[:c])
    k, v = (heads(pooled @ kernel[:, i * c : (i + 1) * c] + bias[i * c : (i + 1) * c]) for i in (1, 2))
    if mixer.position == "rope2d":
        q, k = (rotate(x, *places(h, w, size)) for x, size in ((q, 1), (k, mixer.kv_pool)))
    out, _ = dense(q, k, v, mask)
    a = scene + mixer.proj(out.reshape(b, h, w, c))
    return a + mixer.fc2(jax.nn.gelu(mixer.fc1(mixer.norm2(a)), approximate=False))


def scenes(height, width, masked):
    scene = jax.random.normal(jax.random.key(2), (2, height, width, WIDTH))
    valid = jax.random.bernoulli(jax.random.key(3), 0.6, (2, height, width)) if masked else None
    return scene, valid


@pytest.mark.parametrize(
    ("grid", "data", "region", "size", "kv_pool", "masked"),
    [
        ((2, 4), 1, 8, (4, 8), 1, False),
        ((2, 4), 2, 4, (4, 8), 2, True),  # 2 heads on 4 devices: the ring
        ((2, 2), 1, 2, (6, 10), 2, False),  # squares lie across regions of 3 x 5 tokens
        ((2, 4), 1, 8, (6, 12), 4, True),  # squares larger than a region
        ((3, 1), 1, 1, (15, 7), 3, True),
    ],
)
def test_spim_is_dense_attention_over_the_scene(grid, data, region, size, kv_pool, masked):
    mixer = Spim(channels=WIDTH, heads=HEADS, kv_pool=kv_pool, residual="single", rngs=nnx.Rngs(0))
    scene, valid = scenes(*size, masked)
    weights = jax.random.normal(jax.random.key(4), scene.shape)
    graph, state = nnx.split(mixer)

    def derive(run):
        def loss(state, scene):
            out = run(nnx.merge(graph, state), scene)
            return (out * weights).sum(), out

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(nnx.as_pure(state), scene)

    layout = Layout.create(data=data, region=region)
    (dstate, dscene), found = derive(lambda mixer, scene: run(mixer, RegionGrid(*grid), layout, scene, valid))
    (twin_dstate, twin_dscene), expected = derive(lambda mixer, scene: layer_twin(mixer, scene, valid))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(dscene, twin_dscene, atol=5e-5)
    for a, b in zip(jax.tree.leaves(dstate), jax.tree.leaves(twin_dstate), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("kv_pool", [1, 2, 3])
def test_rotary_positions_are_those_of_the_scene_whatever_the_regions(kv_pool):
    mixer = Spim(channels=WIDTH, heads=HEADS, kv_pool=kv_pool, position="rope2d", residual="single", rngs=nnx.Rngs(0))
    scene, valid = scenes(6, 12, kv_pool != 3)
    expected = layer_twin(mixer, scene, valid)
    for grid, devices in (((1, 1), 1), ((1, 2), 2), ((2, 2), 4), ((2, 4), 8)):  # 3 x 3 tokens a region in the last
        found = run(mixer, RegionGrid(*grid), Layout.create(region=devices), scene, valid)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"grid {grid}")
    plain = Spim(channels=WIDTH, heads=HEADS, kv_pool=kv_pool, residual="single", rngs=nnx.Rngs(0))
    assert np.abs(layer_twin(plain, scene, valid) - expected).max() > 1e-2, "positions matter"


def test_exact_cdcr_takes_rotary_positions_too():
    mixer = Cdcr(channels=WIDTH, heads=HEADS, position="rope2d", rngs=nnx.Rngs(0))
    scene, _ = scenes(4, 8, False)
    found = run(mixer, RegionGrid(2, 4), Layout.create(region=4), scene)
    np.testing.assert_allclose(found, layer_twin(mixer, scene), atol=1e-5)


def test_the_double_residual_adds_the_input_once_more():
    scene, _ = scenes(4, 4, False)
    single, double = (Spim(channels=WIDTH, heads=HEADS, residual=r, rngs=nnx.Rngs(0)) for r in ("single", "double"))
    f = functools.partial(run, grid=RegionGrid(2, 2), layout=Layout.create(region=4), scene=scene)
    np.testing.assert_allclose(f(double), f(single) + scene, atol=1e-5)


def test_exact_cdcr_is_dense_attention_over_the_scene():
    mixer = Cdcr(channels=WIDTH, heads=HEADS, rngs=nnx.Rngs(0))
    scene, valid = scenes(4, 8, True)
    found = run(mixer, RegionGrid(2, 4), Layout.create(data=2, region=4), scene, valid)
    np.testing.assert_allclose(found, layer_twin(mixer, scene, valid), atol=2e-5)


@pytest.mark.parametrize("kv_pool", [1, 2])
def test_paper_cdcr_depends_on_regions_but_not_on_devices(kv_pool):
    mixer = Cdcr(channels=WIDTH, heads=HEADS, mode="paper", kv_pool=kv_pool, rngs=nnx.Rngs(0))
    scene, valid = scenes(6, 12, True)
    alone = run(mixer, RegionGrid(2, 4), Layout.create(region=1), scene, valid)
    for devices in (2, 8):
        np.testing.assert_allclose(
            run(mixer, RegionGrid(2, 4), Layout.create(region=devices), scene, valid), alone, atol=2e-5
        )
    other_grid = run(mixer, RegionGrid(2, 2), Layout.create(region=1), scene, valid)
    assert np.abs(other_grid - alone).max() > 1e-2


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match=r"context.heads: expected a divisor of the 8 channels"):
        Spim(channels=8, heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"context.mode: expected one of exact, paper, found 'papr'"):
        Cdcr(channels=8, heads=2, mode="papr", rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"context.position: expected one of none, rope2d, found 'rope'"):
        Spim(channels=8, heads=2, position="rope", rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"multiple of 4, found 2"):
        Spim(channels=8, heads=4, position="rope2d", rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r'context.position: mode="paper" adds values to its queries'):
        Cdcr(channels=8, heads=2, mode="paper", position="rope2d", rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"context.exchange: expected one of all_to_all, ring, hybrid, found 'rin'"):
        Spim(channels=8, heads=2, exchange="rin", rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"context.residual: expected one of double, single"):
        Spim(channels=8, heads=2, residual="triple", rngs=nnx.Rngs(0))
