"""Decoders in training on whole scenes, cut or not: for tests that compare one with the other."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from holojax.borders import Exact
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum

SIZE, STRIDE = (16, 32), 2  # of a scene in pixels, and of its first map
RUBBISH = 7


def scene(channels, flat):
    """Return maps and validity of two scenes: one ends early and has a hole, where there is rubbish; one is whole."""
    rng, valid = np.random.default_rng(1), np.ones((2, *SIZE), bool)
    valid[0, 13:] = valid[0, :, 27:] = valid[0, 4:8, 8:20] = False
    maps = []
    for i, c in enumerate(channels):
        stride = STRIDE if flat else STRIDE << i
        x = rng.normal(size=(2, SIZE[0] // stride, SIZE[1] // stride, c)).astype(np.float32)
        maps.append(np.where(counted(valid, stride)[..., None], x, RUBBISH))
    return maps, valid


def counted(valid, stride):
    """Say which places of a map cover a valid pixel."""
    b, h, w = valid.shape
    return valid.reshape(b, h // stride, stride, w // stride, stride).any((2, 4))


def train(decoder, grid, devices, maps, valid):
    """Return what a step of training gives, dropping included: scores, gradients, running averages."""
    grid, layout, place = RegionGrid(*grid), Layout.create(region=devices), P(DATA, REGION)
    decoder.train()
    graph, params, rest = nnx.split(decoder, nnx.Param, ...)
    size = SIZE[0] // grid.rows, SIZE[1] // grid.cols

    def body(params, rest, keys, maps, valid):
        b, r = valid.shape[:2]
        maps, valid = jax.tree.map(lambda x: x.reshape(b * r, *x.shape[2:]), (maps, valid))
        borders = Exact(RegionShard(grid), b, valid=valid, axes=(DATA, REGION))
        module = nnx.merge(graph, params, rest)
        keys = jnp.broadcast_to(keys[:, None], (b, r)).reshape(-1)
        y = jnp.where(valid[..., None], module(maps, size, borders, keys), 0)
        # Scores are weighed differently at every place of the scene.
        rows, cols = borders.places(*size)
        weight = jnp.cos(rows[:, :, None] + 3 * cols[:, None])[..., None] + jnp.arange(y.shape[-1])
        loss = psum((y * weight).mean(), (DATA, REGION)) / grid.count * r
        return loss, (y.reshape(b, r, *y.shape[1:]), nnx.as_pure(nnx.state(module, nnx.BatchStat)))

    sharded = layout.shard(body, in_specs=(P(), P(), P(DATA), place, place), out_specs=(P(), (place, P())))
    step = jax.jit(jax.grad(sharded, has_aux=True))
    keys = jax.random.split(jax.random.key(5), len(valid))
    stacks = [grid.split(x) for x in maps], grid.split(valid)
    gradients, (scores, moved) = step(nnx.as_pure(params), nnx.as_pure(rest), keys, *stacks)
    return grid.stitch(np.asarray(scores), *SIZE), gradients, moved


def compare(found, expected, tolerance=1e-4):
    """Compare trees of arrays, each by its largest number."""
    for (path, x), y in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        scale = max(1e-2, float(np.abs(y).max()))
        np.testing.assert_allclose(x, y, atol=tolerance * scale, rtol=0, err_msg=jax.tree_util.keystr(path))
