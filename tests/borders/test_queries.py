"""Queries of a scene, which read all its regions, against the same on the whole scene: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.borders import ISOLATED, Exact
from holojax.ops.cross_attention import cross_attend
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.profiling.contract import borders as contract
from holojax.profiling.contract.collectives import add
from tests.profiling.test_contract import check

QUERIES, HEADS, WIDTH = 5, 2, 3


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def read_scene(borders, learned, x, wanted):
    """Queries from a parameter and from what the scene sums up to read keys and values made of its map."""
    n, h, w, _ = x.shape
    m = borders.surroundings(n)
    q = borders.per_surrounding(learned, n) + borders.add_regions(x[:, 0, 0, 0])[:, None, None, None]
    assert q.shape == (m, QUERIES, HEADS, WIDTH)
    tokens = x.reshape(n, h * w, HEADS, WIDTH)
    mask = wanted.reshape(n, h * w, QUERIES).swapaxes(1, 2)
    read = borders.cross_attend(q, tokens, jnp.sin(tokens), borders.key_mask(h, w), mask)
    return jnp.einsum("nhwkd,nqkd->nhwq", borders.hide(x).reshape(n, h, w, HEADS, WIDTH), borders.per_region(read))


def dense(learned, x, wanted, valid, corners):
    """The same on a whole scene [1 H W c], in the plainest way; `corners` are the regions' first places."""
    q = learned[None] + sum(x[:, i, j, 0] for i, j in corners)[:, None, None, None]
    x, wanted, valid = x.reshape(-1, HEADS, WIDTH), wanted.reshape(-1, QUERIES), valid.reshape(-1)
    wanted = wanted & valid[:, None]
    seen = jnp.where(wanted.any(0), wanted, valid[:, None]).T
    keys = jnp.where(valid[:, None, None], x, 0)
    score = jnp.einsum("bqkd,tkd->bkqt", q, keys) / np.sqrt(WIDTH)
    score = jax.nn.softmax(jnp.where(seen, score, -jnp.inf), -1)
    read = jnp.einsum("bkqt,tkd->bqkd", score, jnp.sin(keys))
    return jnp.einsum("tkd,bqkd->tq", x, read)


def on_mesh(grid, devices, valid, data=1):
    layout, place = Layout.create(data=data, region=devices), P(DATA, REGION)

    def body(learned, x, wanted, valid):
        b, r = x.shape[:2]
        x, wanted, valid = (y.reshape(b * r, *y.shape[2:]) for y in (x, wanted, valid))
        borders = Exact(RegionShard(grid), b, valid=valid, axes=(DATA, REGION))
        y = read_scene(borders, learned, x, wanted)
        return y.reshape(b, r, *y.shape[1:])

    sharded = layout.shard(body, in_specs=(P(), place, place, place), out_specs=place)

    def whole(learned, x, wanted):
        y = sharded(learned, *(grid.split(part) for part in (x, wanted, jnp.asarray(valid))))
        return grid.stitch(y, *x.shape[1:3])

    return whole


@pytest.mark.parametrize(("grid", "devices", "data"), [((2, 4), 4, 2), ((1, 1), 1, 1), ((3, 1), 3, 2), ((2, 2), 1, 2)])
def test_queries_read_a_cut_scene_as_the_whole_one(grid, devices, data):
    grid, seed = RegionGrid(*grid), 3
    canvas = (3 * grid.rows, 2 * grid.cols)
    rng = np.random.default_rng(seed)
    x, learned = random(2, *canvas, HEADS * WIDTH, seed=seed), random(QUERIES, HEADS, WIDTH, seed=seed)
    wanted, valid = rng.random((2, *canvas, QUERIES)) > 0.7, rng.random((2, *canvas)) > 0.3
    wanted[..., 0] = False  # a query that wants to see nothing
    wanted[1, ..., 1] = ~valid[1]  # and one that wants what nobody sees
    corners = [(3 * i, 2 * j) for i in range(grid.rows) for j in range(grid.cols)]
    for i, j in corners:
        valid[:, i, j] = True
    weight = np.where(valid[..., None], random(2, *canvas, QUERIES, seed=seed + 1), 0)

    def whole(learned, x, wanted):
        parts = [dense(learned, *(y[i : i + 1] for y in (x, wanted, valid)), corners) for i in range(2)]
        return jnp.stack(parts).reshape(weight.shape)

    def both(f):
        loss = lambda learned, x: jnp.where(valid[..., None], f(learned, x, wanted) * weight, 0).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    mesh = on_mesh(grid, devices, valid, data)
    found, expected = (both(f)(learned, x) for f in (mesh, whole))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))
    # What is hidden stays hidden, whatever it is.
    rubbish = np.where(valid[..., None], x, np.nan)
    again = both(mesh)(learned, rubbish)
    assert float(again[0]) == float(found[0])
    np.testing.assert_array_equal(again[1][0], found[1][0])


def test_isolated_queries_read_their_own_region():
    x, learned = jnp.asarray(random(3, 4, 5, HEADS * WIDTH)), jnp.asarray(random(QUERIES, HEADS, WIDTH))
    wanted = jnp.asarray(random(3, 4, 5, QUERIES, seed=1) > 0.5).at[:, :, :, 0].set(False)
    found = read_scene(ISOLATED, learned, x, wanted)
    for i in range(3):
        expected = dense(learned, x[i : i + 1], wanted[i], jnp.ones((4, 5), bool), [(0, 0)])
        np.testing.assert_allclose(found[i].reshape(-1, QUERIES), expected, atol=2e-6)


def test_no_key_at_all_gives_zeros_and_zero_gradient():
    q, k = jnp.ones((1, 2, 1, 3)), jnp.full((1, 4, 1, 3), jnp.nan)

    def f(q, k):
        return cross_attend(q, k, k, jnp.zeros((1, 4), bool), jnp.ones((1, 2, 4), bool)).sum()

    value, grads = jax.jit(jax.value_and_grad(f, (0, 1)))(q, k)
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("masked", [False, True])
def test_queries_send_what_is_stated(masked):
    grid, layout, (h, w) = RegionGrid(2, 4), Layout.create(data=2, region=4), (2, 3)

    def f(x):
        scenes, r = x.shape[:2]
        x = x.reshape(scenes * r, h * w, HEADS, WIDTH)
        borders = Exact(RegionShard(grid), scenes, axes=(DATA, REGION))
        q = borders.per_surrounding(jnp.ones((h * w, HEADS, WIDTH)), len(x)) * borders.add_regions(x)
        mask = x[:, :, :1, 0] > x[:, None, :, 0, 0] if masked else None
        y = borders.per_region(borders.cross_attend(q, x, jnp.sin(x), None, mask))
        return y.reshape(scenes, r, -1)

    queries = (1, h * w, HEADS, WIDTH)
    stated = add(contract.per_scene(queries), contract.cross_attend(queries, masked=masked))
    # Backward, what every region has read has its gradient summed too (`per_region`).
    backward = add(contract.per_scene(queries), contract.cross_attend(queries, masked=masked, backward=True))
    check(f, layout, [(2, grid.count, h, w, HEADS * WIDTH)], stated, backward)
