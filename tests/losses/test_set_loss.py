"""The set loss: transformers' numbers at the same points, alike on any mesh, zero where nothing is labelled."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.borders import Exact, Isolated
from holojax.decoders.prediction import Queries
from holojax.errors import ConfigError
from holojax.losses import LOSSES, SetLoss
from holojax.ops.assignment import assign
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum
from tests.parity import ROOT


@functools.cache
def numbers():
    return dict(np.load(ROOT / "tests" / "parity" / "mask2former_loss.npz"))


@dataclasses.dataclass(frozen=True)
class AtGivenPoints(SetLoss):
    """Take the points of the file."""

    def draw(self, keys, layer):
        return tuple(jnp.asarray(numbers()[f"{name}{layer}"]) for name in ("compare", "learn"))


def answer_of(layers, **options):
    first, *earlier = (Queries(classes, masks) for classes, masks in layers)
    return dataclasses.replace(first, earlier=tuple(earlier), **options)


def test_values_and_gradients_are_transformers_at_the_same_points():
    loss = AtGivenPoints(points=24)
    layers = [(numbers()[f"classes{i}"], numbers()[f"masks{i}"]) for i in range(2)]

    def f(layers):
        sums = loss.sums(answer_of(layers), numbers()["labels"])
        return loss.value(sums), sums

    (value, sums), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))(layers)
    np.testing.assert_allclose(value, numbers()["loss"], rtol=2e-6)
    for i, end in enumerate(("", "_0")):
        np.testing.assert_allclose(sums.mask[i] / sums.masks, numbers()["part:loss_mask" + end], rtol=2e-6)
        np.testing.assert_allclose(sums.dice[i] / sums.masks, numbers()["part:loss_dice" + end], rtol=2e-6)
        for part, name in zip(gradient[i], ("classes", "masks"), strict=True):
            np.testing.assert_allclose(part, numbers()[f"gradient:{name}{i}"], atol=2e-6)


QUERIES, CLASSES, SIZE = 5, 3, (32, 64)


def case(seed=0):
    """Two scenes with one layer of answers [l b ...]; ignored and invalid pixels, and a scene that ends early."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 2, (2, 4, 8)), np.ones((1, 8, 8), int)).astype(np.uint8)
    labels[1, 3:20, 30:50] = 2
    labels[:, 5:9] = 255
    valid = np.ones(labels.shape, bool)
    valid[0, 27:] = valid[0, :, 49:] = valid[:, 12:20, 8:20] = False
    masks = rng.normal(size=(1, 2, SIZE[0] // 4, SIZE[1] // 4, QUERIES)).astype(np.float32)
    classes = rng.normal(size=(1, 2, QUERIES, CLASSES + 1)).astype(np.float32)
    return classes, masks, labels, valid


def on_mesh(loss, grid, devices, data=1, exact=True, by_class=False):
    """Return f(classes [l b q k], masks [l b h w q], labels, valid) -> the loss, on a mesh."""
    layout, place = Layout.create(data=data, region=devices), P(DATA, REGION)

    def body(keys, classes, masks, labels, valid):
        b, r = labels.shape[:2]
        fold = lambda x: x.reshape(b * r, *x.shape[2:])  # noqa: E731
        if exact:
            borders = Exact(RegionShard(grid), b, valid=fold(valid), axes=(DATA, REGION))
        else:
            borders = Isolated(valid=fold(valid), strides=(4,), axes=(DATA, REGION))
        keys = jnp.broadcast_to(keys[:, None], (b, r)).reshape(-1)
        layers = [(borders.per_region(c) if exact else jnp.repeat(c, r, 0), fold(m)) for c, m in zip(classes, masks)]  # noqa: B905
        answer = answer_of(layers, by_class=by_class)
        return loss.value(psum(loss.sums(answer, fold(labels), fold(valid), borders, keys), (DATA, REGION)))

    sharded = layout.shard(body, in_specs=(P(DATA), P(None, DATA), [place], place, place), out_specs=P())

    def whole(classes, masks, labels, valid):
        keys = jax.random.split(jax.random.key(3), 2)
        masks = [grid.split(x) for x in masks]
        return sharded(keys, classes, masks, grid.split(jnp.asarray(labels)), grid.split(jnp.asarray(valid)))

    return whole


def value_and_gradient(f, classes, masks, labels, valid):
    return jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(classes, masks, labels, valid)


@functools.cache
def reference(exact):
    grid = RegionGrid(1, 1) if exact else RegionGrid(2, 4)
    return value_and_gradient(on_mesh(SetLoss(points=50), grid, 1, exact=exact), *case())


@pytest.mark.parametrize(
    ("grid", "devices", "data", "exact"),
    [
        ((2, 4), 8, 1, True),
        ((2, 4), 4, 2, False),
        pytest.param((2, 2), 2, 2, True, marks=pytest.mark.slow),
        pytest.param((2, 4), 4, 1, True, marks=pytest.mark.slow),
        pytest.param((2, 4), 8, 1, False, marks=pytest.mark.slow),
    ],
)
def test_the_loss_is_the_same_on_any_mesh_and_exact_on_any_grid(grid, devices, data, exact):
    value, gradient = reference(exact)
    classes, masks, labels, valid = case()
    seen = np.kron(valid.reshape(2, 8, 4, 16, 4).any((2, 4)), np.ones(1, bool))[None, ..., None]
    rubbish = np.where(seen, masks, 9) if exact else masks
    found, found_gradient = value_and_gradient(
        on_mesh(SetLoss(points=50), RegionGrid(*grid), devices, data, exact), classes, rubbish, labels, valid
    )
    np.testing.assert_allclose(found, value, rtol=1e-5)
    for part, expected in zip(found_gradient, gradient, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-5)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("by_class", [False, True])
def test_nothing_labelled_gives_zero_and_zero_gradient(by_class):
    classes, masks, labels, valid = case()
    if by_class:
        masks, classes = masks[..., :CLASSES], classes[:, :, :CLASSES]
    loss = SetLoss(points=20, mask_loss="focal" if by_class else "bce")
    f = on_mesh(loss, RegionGrid(1, 2), 2, by_class=by_class)
    value, gradient = value_and_gradient(f, classes, masks, np.full_like(labels, 255), valid)
    assert value == 0
    assert all((part == 0).all() for part in gradient)
    # One labelled scene is enough for a loss, which the other adds nothing to.
    labels[1] = 255
    value, (_, gradient) = value_and_gradient(f, classes, masks, labels, valid)
    assert value > 0
    assert np.isfinite(gradient).all()
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, 0] != 0).any()


def test_a_query_of_each_class_needs_no_matching():
    """SegViT's ATM loss, on all pixels: points that are the pixels' centres stand for them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (1, 4, 6))
    masks, classes = rng.normal(size=(1, 4, 6, 3)).astype("f"), rng.normal(size=(1, 3, 4)).astype("f")
    centres = np.stack(np.meshgrid((np.arange(4) + 0.5) / 4, (np.arange(6) + 0.5) / 6, indexing="ij"), -1)

    class OnPixels(SetLoss):
        def draw(self, keys, layer):
            return (jnp.asarray(centres.reshape(1, -1, 2), jnp.float32),) * 2

    loss = OnPixels(points=24, oversample=1.0, importance=1.0, mask_loss="focal")
    sums = loss.sums(Queries(jnp.asarray(classes), jnp.asarray(masks), by_class=True), labels)
    p = 1 / (1 + np.exp(-masks[0, ..., :2]))
    truth = labels[0, ..., None] == np.arange(2)
    focal = np.where(truth, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)).mean((0, 1))
    dice = 1 - (2 * (p * truth).sum((0, 1)) + 1) / (p.sum((0, 1)) + truth.sum((0, 1)) + 1)
    logs = classes[0] - np.log(np.exp(classes[0]).sum(-1, keepdims=True))
    entropy = -(logs[0, 0] + logs[1, 1] + 0.1 * logs[2, 3])
    np.testing.assert_allclose(sums.mask[0], focal.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.dice[0], dice.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.entropy[0], entropy, rtol=1e-5)
    np.testing.assert_allclose(sums.weight[0], 2.1, rtol=1e-6)
    assert sums.masks == 2


def test_classes_beyond_the_queries_are_left_and_a_wrong_label_makes_it_nan():
    rng = np.random.default_rng(0)
    labels = np.arange(4)[None, :, None].repeat(4, 2)
    answer = Queries(*(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((1, 2, 5), (1, 4, 4, 2))))
    loss = SetLoss(points=9)
    value = jax.jit(lambda labels: loss.value(loss.sums(answer, labels)))
    assert value(labels) > 0
    assert np.isnan(value(labels + 2))


@pytest.mark.parametrize("shape", [(3, 3), (4, 9), (1, 5)])
def test_an_assignment_is_the_cheapest(shape):
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(3, *shape)).astype("f")
    wanted = rng.random((3, shape[0])) < 0.7
    wanted[0] = True
    for one, rows, found in zip(cost, wanted, jax.jit(assign)(cost, wanted), strict=True):
        one, found = one[rows], found[rows]
        assert len(set(found.tolist())) == rows.sum()
        ways = itertools.permutations(range(shape[1]), int(rows.sum()))
        cheapest = min(sum(one[i, j] for i, j in enumerate(way)) for way in ways)
        np.testing.assert_allclose(one[np.arange(rows.sum()), found].sum(), cheapest, rtol=1e-5, atol=1e-6)


def test_options_that_do_not_fit_are_refused():
    assert LOSSES["set"] is SetLoss
    with pytest.raises(ConfigError, match="set: mask_loss is 'bce' or 'focal', found 'dice'"):
        SetLoss(mask_loss="dice")
    with pytest.raises(ConfigError, match="set: importance is a share from 0 to 1, found 2"):
        SetLoss(importance=2.0)
