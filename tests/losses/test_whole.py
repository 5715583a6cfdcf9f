"""The losses of a batch are those of its scenes at once: by blocks of rows, on any mesh, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax import losses
from holojax.borders import ISOLATED, Exact
from holojax.decoders import painter as module
from holojax.decoders.painter import Painter
from holojax.decoders.prediction import Dense
from holojax.losses.whole import batch_losses
from holojax.ops.resize import resize
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum

CLASSES, SIZE = 4, (24, 40)
ALL = {
    "ce": losses.CrossEntropy(smoothing=0.1, class_weights=(1.0, 2.0, 1.0, 0.5)),
    "dice": losses.Dice(),
    "lovasz": losses.Lovasz(),
    "ohem": losses.Ohem(threshold=0.3, keep=400),
    "boundary": losses.Boundary(),
}


def scene():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, SIZE[0] // 4, SIZE[1] // 4, CLASSES)).astype(np.float32)
    labels = np.repeat(np.repeat(rng.integers(0, CLASSES, (2, 6, 10)), 4, 1), 4, 2).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    valid = np.ones(labels.shape, bool)
    valid[1, 16:] = False
    return scores, labels, valid


def on_mesh(grid, layout, pixels, monkeypatch):
    """Values and the gradient of their sum, of borders that are exact."""
    monkeypatch.setattr(module, "NUMBERS", pixels)
    stacks = [grid.split(x) for x in scene()]

    def local(scores, labels, valid):
        b = scores.shape[0]
        scores, labels, valid = (x.reshape(-1, *x.shape[2:]) for x in (scores, labels, valid))
        borders = Exact(shard=RegionShard(grid), scenes=b, valid=valid, axes=(DATA, REGION))
        painter = Painter(Dense(scores), labels.shape[1:], borders)
        values = batch_losses(ALL, painter, labels, valid, lambda x: psum(x, (DATA, REGION)), borders)
        return sum(values.values()), values

    place = P(DATA, REGION)
    f = layout.shard(local, in_specs=(place, place, place), out_specs=(P(), P()))
    (_, values), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))(*stacks)
    return values, grid.stitch(gradient, SIZE[0] // 4, SIZE[1] // 4)


@pytest.fixture(scope="module")
def whole():
    with pytest.MonkeyPatch.context() as patch:
        return on_mesh(RegionGrid(1, 1), Layout.create(region=1), 1 << 20, patch)


@pytest.mark.parametrize(("rows", "cols", "data", "region"), [(2, 2, 2, 4), (3, 1, 1, 1)])
def test_the_loss_depends_neither_on_the_mesh_nor_on_the_grid_nor_on_the_blocks(
    rows, cols, data, region, whole, monkeypatch
):
    values, gradient = on_mesh(RegionGrid(rows, cols), Layout.create(data=data, region=region), 200, monkeypatch)
    for name, value in values.items():
        np.testing.assert_allclose(value, whole[0][name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(gradient, whole[1], atol=1e-5 * np.abs(whole[1]).max())


def test_the_loss_of_one_device_is_that_of_the_functions(whole):
    scores, labels, valid = scene()
    labels = np.where(valid, labels, 255)
    # Rows without data do not exist: those above end where they begin.
    parts = [resize(jnp.asarray(scores[:1]), SIZE), resize(jnp.asarray(scores[1:, :4]), (16, SIZE[1]))]
    pixels = jnp.concatenate([x.reshape(-1, CLASSES) for x in parts])
    truth = np.concatenate([labels[0].ravel(), labels[1, :16].ravel()])
    expected = {
        "ce": losses.cross_entropy(pixels, truth, smoothing=0.1, class_weights=(1.0, 2.0, 1.0, 0.5)),
        "dice": losses.dice(pixels, truth),
        "lovasz": losses.lovasz_softmax(pixels, truth),
        "ohem": losses.ohem(pixels, truth, threshold=0.3, keep=400),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(whole[0][name], value, atol=2.0**-16, err_msg=name)


# One large region, and many flat ones on a device.
@pytest.mark.parametrize(("n", "height", "width"), [(1, 1024, 1024), (16, 32, 2048)])
def test_nothing_of_a_block_is_kept_for_the_gradient(n, height, width):
    classes = 24
    scores, labels = jnp.zeros((n, height // 4, width // 4, classes)), jnp.zeros((n, height, width), jnp.uint8)

    def loss(scores):
        painter = Painter(Dense(scores), (height, width), ISOLATED)
        some = {"ce": losses.CrossEntropy(), "dice": losses.Dice()}
        return sum(batch_losses(some, painter, labels, labels == 0, lambda x: x, ISOLATED).values())

    memory = jax.jit(jax.value_and_grad(loss)).lower(scores).compile().memory_analysis()
    assert memory.temp_size_in_bytes < n * height * width * classes * 4 * 0.7  # of one float32 map
