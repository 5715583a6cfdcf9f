import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from holojax.borders import ISOLATED, Isolated
from holojax.decoders.layers import BatchNorm
from holojax.parallel import Layout


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_evaluation_uses_and_keeps_the_running_averages():
    norm, x = BatchNorm(3), _random(2, 4, 5, 3)
    np.testing.assert_allclose(norm(x, ISOLATED), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    norm.train()
    norm(x, ISOLATED)
    norm.eval()
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.asarray(x).mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * np.asarray(x).reshape(-1, 3).var(0, ddof=1), rtol=1e-5)


def test_invalid_places_do_not_reach_the_statistics():
    valid = jnp.ones((2, 8, 8), bool).at[1, :, 4:].set(False)
    x = _random(2, 2, 2, 3)
    spoilt = x.at[1, :, 1].set(1e4)
    found = []
    for y in (x, spoilt):
        norm = BatchNorm(3)
        norm.train()
        found.append((norm(y, Isolated(valid=valid, strides=(4,)))[0], norm.mean[...], norm.var[...]))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_batch_without_data_moves_no_average():
    norm = BatchNorm(3)
    norm.train()
    norm(_random(2, 2, 2, 3), Isolated(valid=jnp.zeros((2, 8, 8), bool), strides=(4,)))
    np.testing.assert_array_equal(norm.mean[...], 0)
    np.testing.assert_array_equal(norm.var[...], 1)


def test_training_does_not_depend_on_the_mesh():
    x, target = _random(2, 4, 3, 5, 6), _random(2, 4, 3, 5, 6, seed=1)
    norm = BatchNorm(6)
    norm.train()
    graph, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)
    params, stats = nnx.as_pure(params), nnx.as_pure(stats)

    def loss(params, stats, x, target, axes):
        norm = nnx.merge(graph, params, stats)
        y = norm(x.reshape(-1, *x.shape[2:]), Isolated(axes=axes)).reshape(x.shape)
        total = (jnp.sin(y) * target).sum()
        total = jax.lax.psum(total, axes) if axes else total
        return total, nnx.as_pure(nnx.state(norm, nnx.BatchStat))

    def grads(f):
        return jax.jit(jax.value_and_grad(f, argnums=(0, 2), has_aux=True))(params, stats, x, target)

    axes = ("data", "region")
    layout = Layout.create(data=2, region=4)
    specs = (P(), P(), P(*axes), P(*axes))
    sharded = layout.shard(lambda *a: loss(*a, axes), in_specs=specs, out_specs=(P(), P()))
    expected, found = grads(lambda *a: loss(*a, ())), grads(sharded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, expected)
