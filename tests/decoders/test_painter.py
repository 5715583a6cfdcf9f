"""Painting by blocks of rows is painting at once: values, sums and gradients, whatever the sizes and the borders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.borders import ISOLATED, Exact
from holojax.decoders import painter as module
from holojax.decoders.painter import Painter
from holojax.decoders.prediction import Dense, Queries
from holojax.ops.resize import resize
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(params=[1, 400, 1 << 20])
def pixels(request, monkeypatch):
    monkeypatch.setattr(module, "NUMBERS", request.param)


def answers(h, w):
    queries = Queries(classes=random(2, 5, 4, seed=1), masks=random(2, h, w, 5))
    return [Dense(random(2, h, w, 3)), queries]


@pytest.mark.parametrize(("h", "w", "size"), [(3, 4, (12, 16)), (7, 5, (27, 18)), (6, 6, (5, 4)), (4, 4, (4, 9))])
def test_blocks_make_up_the_whole(h, w, size, pixels):
    for answer in answers(h, w):
        painter = Painter(answer, size, ISOLATED)
        whole = answer.paint(resize(answer.source, size))
        np.testing.assert_allclose(painter.whole(), whole, atol=1e-6)
        np.testing.assert_array_equal(painter.map_rows(lambda x: x.argmax(-1)), whole.argmax(-1))
        np.testing.assert_allclose(painter.logits(), answer.logits(resize(answer.source, size)), atol=1e-5)


def test_sums_and_their_gradients_do_not_depend_on_the_blocks(pixels):
    size, target = (27, 18), random(2, 27, 18, seed=3)
    valid = random(2, 27, 18, seed=4) > 0

    def by_hand(answer):
        return (jnp.sin(answer.logits(resize(answer.source, size))).sum(-1) * target * valid).sum()

    def in_blocks(answer):
        def f(logits, target, valid):
            return (jnp.sin(logits).sum(-1) * target * valid).sum()

        return Painter(answer, size, ISOLATED).sum_rows(f, target, valid)

    for answer in answers(7, 5):
        (expected, d), (found, e) = (jax.jit(jax.value_and_grad(f))(answer) for f in (by_hand, in_blocks))
        np.testing.assert_allclose(found, expected, atol=1e-4)  # terms of order 1 cancel
        for a, b in zip(jax.tree.leaves(e), jax.tree.leaves(d), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("rows", "cols", "devices"), [(1, 1, 1), (2, 2, 4), (2, 4, 2)])
def test_exact_blocks_are_those_of_the_whole_scene(rows, cols, devices, monkeypatch):
    grid, layout = RegionGrid(rows, cols), Layout.create(region=devices)
    x, target = random(2, 8, 16, 3), random(2, 32, 64, seed=3)
    valid = np.ones((2, 32, 64), bool)
    valid[0, 20:] = False
    valid[1, 8:16, 4:40] = False

    def total(x, target, valid, pixels):
        monkeypatch.setattr(module, "NUMBERS", pixels)
        n = x.shape[0] * x.shape[1]
        fold = [a.reshape(n, *a.shape[2:]) for a in (x, target, valid)]
        borders = Exact(shard=RegionShard(grid), scenes=x.shape[0], valid=fold[2], axes=(DATA, REGION))
        painter = Painter(Dense(fold[0]), (32 // rows, 64 // cols), borders)
        found = painter.sum_rows(lambda y, t, v: (jnp.sin(y).sum(-1) * t * v).sum(), *fold[1:])
        return psum(found, (DATA, REGION)), borders.resize(fold[0], painter.size).reshape(*target.shape, 3)

    def run(pixels):
        place = P(DATA, REGION)
        f = layout.shard(lambda *a: total(*a, pixels), in_specs=(place, place, place), out_specs=(P(), place))
        return jax.jit(jax.value_and_grad(f, has_aux=True))(grid.split(x), grid.split(target), grid.split(valid))

    (small, whole), gradient = run(64)
    (large, _), same = run(1 << 20)
    by_hand = (np.sin(np.asarray(whole, np.float64)).sum(-1) * grid.split(target) * grid.split(valid)).sum()
    np.testing.assert_allclose([small, large], by_hand, rtol=1e-4)
    np.testing.assert_allclose(gradient, same, atol=1e-5)
