"""Exact borders make the map of one large device: no matter how the scene is cut and where its regions lie."""

import functools

import jax
import numpy as np
import pytest

import holojax
from holojax.errors import ConfigError, LayoutError
from holojax.parallel import Layout, RegionGrid
from tests.models.test_mesh import CONVNEXT, PAPER, REST, RINGFORMER, VMAMBA, gradients

VIT = dict(name="vit", dim=8, depth=4, heads=2, patch=4, pos="learned", class_token=True, mlp_ratio=2.0)
MODELS = {
    "swin, spim, upernet, fcn": REST,
    "vit with positions and class token, cdcr, setr pup": RINGFORMER
    | dict(encoder=VIT, decoder=dict(name="setr", variant="pup", channels=8)),
    "vit, pyramid, upernet": RINGFORMER
    | dict(encoder=VIT | dict(pos="sincos", patch=8), decoder=dict(name="upernet", channels=8, pool_scales=(1, 3))),
    # 4 x 4 places for 14 x 14 pixels: neither divides the other.
    "vit of patch 14, setr naive": RINGFORMER | dict(encoder=VIT | dict(pos="none", patch=14, depth=4), context=None),
    "convnext, spim, upernet, fcn": CONVNEXT,
    "vmamba, spim, upernet, fcn": VMAMBA,
}
# No grid below divides it, nor do patches, windows and pooled squares; a hole without data lies across borders.
HEIGHT, WIDTH = 75, 101


def build(name, grid):
    return holojax.build_model(MODELS[name] | dict(regions=grid, border="exact"), seed=1)


@functools.cache
def scene():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, HEIGHT, WIDTH, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (2, HEIGHT, WIDTH))
    valid = np.ones((2, HEIGHT, WIDTH), bool)
    valid[0, 20:50, 30:70] = False
    valid[1, :, 60:] = False
    return images, labels, valid


def logits(name, grid, devices):
    images, _, valid = scene()
    found = holojax.segment(build(name, grid), images, Layout.create(region=devices), valid=valid)
    return np.where(valid[..., None], found, 0)


@functools.cache
def whole(name):
    return logits(name, (1, 1), 1)


@functools.cache
def whole_gradients(name):
    images, labels, valid = scene()
    return gradients(build(name, (1, 1)), images, labels, Layout.create(region=1), valid)


SWIN, VIT_SETR, VIT_UPERNET, VIT_14, *OTHERS = MODELS


# Meshes with a device a region and with several; `make test-all` has all models and grids.
@pytest.mark.parametrize(
    ("name", "grid", "devices"),
    [
        *((SWIN, *mesh) for mesh in (((1, 2), 2), ((2, 4), 8))),
        *((VIT_SETR, *mesh) for mesh in (((2, 2), 1), ((2, 4), 8))),
        *((VIT_UPERNET, *mesh) for mesh in (((1, 2), 2), ((4, 2), 4))),
        (VIT_14, (1, 2), 2),
        *(pytest.param(SWIN, *mesh, marks=pytest.mark.slow) for mesh in (((2, 2), 1), ((4, 2), 4))),
        *(pytest.param(name, (2, 4), 8, marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_logits_depend_neither_on_the_grid_nor_on_the_devices(name, grid, devices):
    # Untrained logits are small: what counts is the error relative to them.
    scale = np.abs(whole(name)).max()
    np.testing.assert_allclose(logits(name, grid, devices) / scale, whole(name) / scale, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "grid", "devices"),
    [
        (SWIN, (2, 4), 8),
        pytest.param(VIT_SETR, (4, 2), 4, marks=pytest.mark.slow),
        pytest.param(SWIN, (4, 2), 2, marks=pytest.mark.slow),
        *(pytest.param(name, (2, 2), 4, marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_gradients_in_training_depend_neither_on_the_grid_nor_on_the_devices(name, grid, devices):
    images, labels, valid = scene()
    loss, derivative = whole_gradients(name)
    found_loss, found = gradients(build(name, grid), images, labels, Layout.create(region=devices), valid)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(derivative), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-2), err_msg=jax.tree_util.keystr(path))


def test_isolated_regions_do_not_see_what_exact_ones_do():
    # The test above would pass for a model that ignores everything around a pixel: this one must not agree.
    images, _, valid = scene()
    name = "swin, spim, upernet, fcn"
    model = holojax.build_model(MODELS[name] | dict(regions=(2, 4)), seed=1)
    found = holojax.segment(model, images, Layout.create(region=8), valid=valid)
    change = np.abs(np.where(valid[..., None], found, 0) - whole(name)).max()
    assert change > 0.05 * np.abs(whole(name)).max()


@pytest.mark.parametrize("name", list(MODELS)[:1])
def test_one_exact_region_without_padding_is_one_isolated_region(name):
    # 96 x 192 pixels: 24 x 48, 12 x 24, 6 x 12 and 3 x 6 tokens are whole windows of 3.
    images = np.random.default_rng(0).normal(size=(1, 96, 192, 3)).astype(np.float32)
    layout = Layout.create(region=1)
    exact, isolated = (
        holojax.segment(holojax.build_model(MODELS[name] | dict(regions=(1, 1), border=border), seed=1), images, layout)
        for border in ("exact", "isolated")
    )
    np.testing.assert_allclose(exact, isolated, atol=2e-6)


def test_features_end_where_the_scene_ends():
    images, _, valid = scene()
    maps = holojax.segment(
        build("swin, spim, upernet, fcn", (2, 2)), images, Layout.create(region=2), valid=valid, output="features"
    )
    assert [x.shape[1:3] for x in maps] == [(19, 26), (10, 13), (5, 7), (3, 4)]


def test_what_depends_on_the_grid_is_refused():
    with pytest.raises(ConfigError, match=r'"exact" does not go with context\.mode="paper"'):
        holojax.build_model(PAPER | dict(border="exact"))
    assert build("swin, spim, upernet, fcn", (2, 2)).grid == RegionGrid(2, 2, multiple=32)
    assert build("vit, pyramid, upernet", (2, 2)).grid == RegionGrid(2, 2, multiple=16)
    with pytest.raises(LayoutError, match="smaller than the 2 x 2 region grid"):
        holojax.segment(build("vit, pyramid, upernet", (2, 2)), np.zeros((1, 1, 9, 3), np.float32), Layout.create(1, 1))
