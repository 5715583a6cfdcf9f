"""The same losses and gradients on any number of devices as without a mesh: padding and borders count nowhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from holojax import losses
from holojax.borders import Exact
from holojax.losses.common import evaluate
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum
from tests.losses.every import KINDS, patches

AXES, PLACE = (DATA, REGION), P(DATA, REGION)
SHAPE = (2, 7, 13)


def a_batch():
    logits, labels = patches(shape=SHAPE)
    valid = np.ones(SHAPE, bool)
    valid[0, 2:4, 5:9] = False  # a hole across a region border
    return logits, np.where(valid, labels, 3), valid


def on_mesh(data, region, grid, body):
    """Run body(logits, labels, valid, borders) of all regions of a device on stacks [b r h w ...], summed by `psum`."""
    layout = Layout.create(data=data, region=region)

    def local(logits, labels, valid):
        scenes = logits.shape[0]
        logits, labels, valid = (x.reshape(-1, *x.shape[2:]) for x in (logits, labels, valid))
        borders = Exact(shard=RegionShard(grid), scenes=scenes, valid=valid, axes=AXES)
        return body(logits, labels, valid, borders)

    sharded = layout.shard(local, in_specs=(PLACE,) * 3, out_specs=P())
    logits, labels, valid = a_batch()
    place = functools.partial(jax.device_put, device=layout.scenes)
    stacks = place(grid.split(labels, fill=255)), place(grid.split(valid, fill=False))

    @jax.jit
    def run(x):
        values, back = jax.vjp(lambda x: sharded(x, *stacks), x)
        return values, jax.vmap(lambda out: back(out)[0])(jnp.eye(len(values)))

    values, gradients = run(place(grid.split(logits)))
    return values, np.stack([grid.stitch(np.asarray(g), *SHAPE[1:]) for g in gradients])


def in_rounds(loss, logits, labels, valid):
    totals = ()
    for number in range(loss.rounds):
        known = loss.known(*totals) if totals else ()
        last = number + 1 == loss.rounds
        totals += (psum(loss.sums(logits if last else lax.stop_gradient(logits), labels, valid, *known), AXES),)
    return loss.value(*totals)


@pytest.fixture(scope="module")
def whole():
    logits, labels, valid = a_batch()
    both = [jax.value_and_grad(lambda x, loss=loss: evaluate(loss, x, labels, valid)) for loss in KINDS.values()]
    return jax.jit(lambda x: [one(x) for one in both])(logits)


@pytest.mark.parametrize(("data", "region"), [(1, 1), (1, 2), pytest.param(2, 2, marks=pytest.mark.slow), (2, 4)])
def test_losses_of_pixels(whole, data, region):
    values, gradients = on_mesh(
        data,
        region,
        RegionGrid(2, 4),
        lambda logits, labels, valid, borders: jnp.stack(
            [in_rounds(loss, logits, labels, valid) for loss in KINDS.values()]
        ),
    )
    for name, value, gradient, (expected, slope) in zip(KINDS, values, gradients, whole, strict=True):
        assert value == pytest.approx(float(expected), rel=2e-6), name
        np.testing.assert_allclose(gradient, slope, atol=1e-6 * float(np.abs(slope).max()), err_msg=name)


@pytest.fixture(scope="module")
def whole_boundary():
    logits, labels, valid = a_batch()
    return jax.jit(jax.value_and_grad(lambda x: evaluate(losses.Boundary(), x, labels, valid)))(logits)


@pytest.mark.parametrize(
    ("rows", "cols", "data", "region"),
    [
        (2, 2, 1, 2),
        (2, 4, 2, 4),
        pytest.param(1, 1, 1, 1, marks=pytest.mark.slow),
        pytest.param(7, 1, 1, 1, marks=pytest.mark.slow),
    ],
)
def test_boundary_loss_across_region_borders(whole_boundary, rows, cols, data, region):
    loss, (expected, slope) = losses.Boundary(), whole_boundary
    values, gradients = on_mesh(
        data,
        region,
        RegionGrid(rows, cols),
        lambda logits, labels, valid, borders: loss.value(psum(loss.sums(logits, labels, valid, borders), AXES))[None],
    )
    assert values[0] == pytest.approx(float(expected), rel=2e-6)
    np.testing.assert_allclose(gradients[0], slope, atol=1e-6 * float(np.abs(slope).max()))
