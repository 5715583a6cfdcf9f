"""The map does not depend on the devices: logits and gradients of both models on 1 to 8 of them, with 8 regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import holojax
from holojax.config import experiment
from holojax.errors import ConfigError, LayoutError
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum

REST = dict(
    name="rest",
    classes=3,
    regions=(2, 4),
    encoder=dict(name="swin", embed_dim=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), window=3, drop_path=0.3),
    context=dict(name="spim", heads=4, stages=(1, 3), kv_pool=(2, 1), mlp_ratio=1.0),
    decoder=dict(name="upernet", channels=8, pool_scales=(1, 2)),
    aux=dict(name="fcn", channels=8),
)
RINGFORMER = dict(
    name="ringformer",
    classes=3,
    regions=(2, 4),
    encoder=dict(name="vit", dim=8, depth=4, heads=2, patch=8, pos="sincos", mlp_ratio=2.0),
    context=dict(name="cdcr", heads=2, stages=(3,), mlp_ratio=1.0),
    decoder=dict(name="setr", channels=8),
    aux=None,
)
CONVNEXT = REST | dict(
    regions=(2, 2),  # its regions need 32 x 32 pixels
    encoder=dict(name="convnext", dims=(8, 8, 8, 16), depths=(1, 1, 1, 1), drop_path=0.3),
)
VMAMBA = REST | dict(
    encoder=dict(name="vmamba", dims=(8, 8, 8, 16), depths=(1, 1, 1, 1), ssm_ratio=1.0, mlp_ratio=1.0, drop_path=0.3)
)
PAPER = RINGFORMER | dict(context=dict(name="cdcr", heads=2, stages=(1, 3), mode="paper", placement="trunk"))
MODELS = {"rest": REST, "ringformer": RINGFORMER, "paper": PAPER, "convnext": CONVNEXT, "vmamba": VMAMBA}
# 2 x 4 regions of 32 x 27 pixels, the last ones cut: neither patches nor windows nor regions divide the scene.
HEIGHT, WIDTH = 63, 105


def gradients(model, images, labels, layout, valid=None):
    """Loss and gradients in training mode: batch statistics, drop path and dropout included."""
    grid = model.grid
    valid, pixels = np.ones(images.shape[:3], bool) if valid is None else valid, labels.size
    images, valid = np.where(valid[..., None], images, 0), grid.split(valid, fill=False)
    model = nnx.clone(model)
    model.set_attributes(use_running_average=False, raise_if_not_found=False)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def block(params, rest, keys, images, labels, valid):
        out = nnx.merge(graph, params, nnx.as_pure(rest))(images, valid, RegionShard(grid), keys=keys, output="train")
        total = 0.0
        for painter in (*out["main"], *out["aux"]):
            logits = painter.logits().reshape(*labels.shape, 3)
            entropy = -jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 3) * valid[..., None]
            total += psum(entropy.sum(), (DATA, REGION))
        return total / pixels

    place = P(DATA, REGION)
    loss = layout.shard(block, in_specs=(P(), P(), P(DATA), place, place, place), out_specs=P())
    keys = jax.random.split(jax.random.key(5), images.shape[0])
    stacks = grid.split(images), grid.split(labels)
    return jax.jit(jax.value_and_grad(loss))(nnx.as_pure(params), nnx.as_pure(rest), keys, *stacks, valid)


@functools.cache
def on_one_device(name):
    model = holojax.build_model(MODELS[name], seed=1)
    images = np.random.default_rng(0).normal(size=(2, HEIGHT, WIDTH, 3)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, (2, HEIGHT, WIDTH))
    layout = Layout.create(region=1)
    return (
        model,
        images,
        labels,
        holojax.segment(model, images, layout),
        gradients(model, images, labels, layout),
    )


@pytest.mark.parametrize(
    ("name", "data", "region"),
    [
        *((name, 2, 4) for name in ("rest", "ringformer")),
        *((name, 1, 8) for name in ("ringformer", "paper")),
        pytest.param("rest", 1, 8, marks=pytest.mark.slow),
        *(pytest.param(name, 1, n, marks=pytest.mark.slow) for name in ("rest", "ringformer") for n in (2, 4)),
        *(pytest.param(name, 2, 4, marks=pytest.mark.slow) for name in ("convnext", "vmamba")),
    ],
)
def test_logits_and_gradients_do_not_depend_on_the_devices(name, data, region):
    model, images, labels, logits, (loss, derivative) = on_one_device(name)
    layout = Layout.create(data=data, region=region)
    np.testing.assert_allclose(holojax.segment(model, images, layout), logits, atol=1e-4)
    found_loss, found = gradients(model, images, labels, layout)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(derivative), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-2), err_msg=jax.tree_util.keystr(path))


def test_regions_one_by_one_give_the_classes_of_all_at_once():
    vit_pyramid = RINGFORMER | dict(decoder=dict(name="upernet", channels=8, pool_scales=(1, 2)))
    images = np.random.default_rng(0).normal(size=(1, 32, 96, 3)).astype(np.float32)
    for config in (REST, vit_pyramid):
        model, layout, grid = holojax.build_model(config, seed=1), Layout.create(region=2), RegionGrid(2, 4)
        graph, state = nnx.split(model)

        def block(state, images, output, graph=graph, grid=grid):
            return nnx.merge(graph, state)(images, None, RegionShard(grid), output=output)

        place = P(DATA, REGION)
        logits, classes = (
            jax.jit(layout.shard(functools.partial(block, output=output), in_specs=(P(), place), out_specs=place))(
                nnx.as_pure(state), grid.split(images)
            )
            for output in ("logits", "classes")
        )
        assert classes.dtype == jnp.uint8
        chosen = np.take_along_axis(np.asarray(logits), np.asarray(classes)[..., None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(chosen, np.asarray(logits).max(-1), atol=1e-5)
        assert np.ptp(np.asarray(logits), axis=-1).min() > 1e-4, "any other class would have been noticed"


def test_padding_beyond_the_scene_is_seen_by_no_other_region():
    model, images, *_, logits, _ = on_one_device("ringformer")
    # Padding by hand what `segment` pads itself changes nothing, and neither does what stands in the padding.
    padded = np.pad(images, ((0, 0), (0, 1), (0, 3), (0, 0)))
    valid = np.pad(np.ones(images.shape[:3], bool), ((0, 0), (0, 1), (0, 3)))
    found = holojax.segment(model, padded, Layout.create(region=8), valid=valid)
    np.testing.assert_allclose(found[:, :HEIGHT, :WIDTH], logits, atol=1e-4)
    noise = np.where(valid[..., None], padded, 7.0)
    np.testing.assert_allclose(holojax.segment(model, noise, Layout.create(region=8), valid=valid), found, atol=1e-4)


def test_regions_see_each_other_through_the_mixers_alone():
    images = np.random.default_rng(0).normal(size=(1, 32, 64, 3)).astype(np.float32)
    changed = images.copy()
    changed[:, :16, :16] += 1
    layout = Layout.create(region=8)
    for context, hears in ((RINGFORMER["context"], True), (None, False)):
        model = holojax.build_model(RINGFORMER | dict(context=context), seed=1)
        change = np.abs(holojax.segment(model, changed, layout) - holojax.segment(model, images, layout))
        assert change[:, :16, :16].max() > 1e-3
        assert (change[:, 16:].max() > 1e-5) == hears


def test_a_config_dict_builds_the_model_that_its_plain_dict_builds():
    whole = experiment(model=RINGFORMER)
    built = [jax.tree.leaves(nnx.as_pure(nnx.state(holojax.build_model(x, seed=1)))) for x in (whole.model, RINGFORMER)]
    assert all(np.array_equal(a, b) for a, b in zip(*built, strict=True))


def test_what_does_not_fit_is_refused_before_anything_runs():
    model, images, *_ = on_one_device("ringformer")
    with pytest.raises(LayoutError, match=r"8 regions .* cannot be spread evenly over 3 devices"):
        holojax.segment(model, images, Layout.create(region=3))
    with pytest.raises(LayoutError, match="smaller than the 2 x 4 region grid"):
        holojax.segment(model, images[:, :1], Layout.create(region=2))
    with pytest.raises(ConfigError, match=r"expected 3 bands \(model.bands\), found 2"):
        holojax.segment(model, images[..., :2], Layout.create(region=2))
    with pytest.raises(ConfigError, match=r"float images"):
        holojax.segment(model, jnp.zeros((1, 64, 64, 3), jnp.uint8), Layout.create(region=2))
    with pytest.raises(ConfigError, match=r"model.context.stages: expected numbers 0 to 3, found \[4\]"):
        holojax.build_model(RINGFORMER | dict(context=dict(name="cdcr", stages=(4,))))
    assert model.grid == RegionGrid(2, 4)
