"""What the devices do to the pixels of an augmented scene is the same on any mesh, and done where there are data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax import config
from holojax.data import Augment
from holojax.data.photometry import NEUTRAL, Distortion, shade_arrays
from holojax.errors import ConfigError
from holojax.models import build_model
from holojax.ops.photometry import white_noise
from holojax.parallel import DATA, REGION, Layout, RegionGrid
from holojax.training.optimizer import make_optimizer
from holojax.training.scenes import augmentation
from holojax.training.shapes import batch_shapes
from holojax.training.state import first_state, take_apart
from holojax.training.step import BATCH_SPECS, make_recipe, make_train_step, normalized
from tests.training import tiny

GRID = RegionGrid(2, 4)
DRAWN = Augment(brightness=5, contrast=0.1, distort=Distortion(probability=0.7), noise=0.5, band_dropout=0.5)


@functools.cache
def parts():
    cfg = tiny.experiment(regions=(2, 4))
    return cfg, *take_apart(build_model(cfg.model.to_dict(), 0))


def shaded(shades):
    layout = Layout.create(1, 1)
    scene = tiny.batch(layout, GRID)
    return {name: np.asarray(scene[name]) for name in ("image", "valid")} | shade_arrays(shades)


def seen(batch, data=1, region=1):
    layout = Layout.create(data, region)
    specs = {name: BATCH_SPECS.get(name, P(DATA)) for name in batch}
    recipe = make_recipe(*parts()[:2], layout)
    f = layout.shard(lambda batch: normalized(batch, recipe), in_specs=(specs,), out_specs=P(DATA, REGION))
    return np.asarray(jax.jit(f)(batch))


@pytest.fixture(scope="module")
def drawn():
    return shaded([DRAWN.draw_shade(np.random.default_rng(seed), 0.2, 0.9, 3) for seed in (3, 8)])


@pytest.mark.parametrize(("data", "region"), [(2, 4), (1, 8)])
def test_augmented_pixels_are_the_same_on_any_mesh(drawn, data, region):
    np.testing.assert_allclose(seen(drawn, data, region), seen(drawn), atol=1e-5)


def test_where_there_are_no_data_there_is_no_noise(drawn):
    out = seen(drawn)
    assert not out[~drawn["valid"]].any()
    assert out[drawn["valid"]].std() > 0.5


def test_noise_goes_on_across_regions_and_hidden_bands_are_at_their_mean():
    plain = seen(shaded([NEUTRAL, NEUTRAL]))
    noisy = Augment(noise=0.5)
    batch = shaded([noisy.draw_shade(np.random.default_rng(seed), 0.5, 0.5, 3) for seed in (0, 1)])
    batch["valid"] = np.ones_like(batch["valid"])
    clean = {name: x for name, x in batch.items() if name not in ("noise", "grain")}
    noise = GRID.stitch(seen(batch) - seen(clean), GRID.rows * plain.shape[2], GRID.cols * plain.shape[3])
    np.testing.assert_allclose(noise.std((1, 2)), np.repeat(batch["noise"][:, None], 3, 1), rtol=0.1)
    rows, cols = (jnp.arange(extent)[None] for extent in noise.shape[1:3])
    wanted = white_noise(jnp.asarray(batch["grain"]), rows, cols, 3)[:, 0] * batch["noise"][:, None, None, None]
    np.testing.assert_allclose(noise, wanted, atol=1e-5)  # as if the scene were one region
    hidden = {"keep": np.array([[True, False, True], [False, True, True]])}
    out = seen(clean | hidden)
    assert not out[0, ..., 1].any()
    assert not out[1, ..., 0].any()
    np.testing.assert_array_equal(out[..., 2], seen(clean)[..., 2])


def test_a_step_takes_a_batch_that_is_augmented_in_every_way(drawn):
    (cfg, structure, weights), layout = parts(), Layout.create(2, 4)
    optimizer = make_optimizer(cfg.train)
    state = first_state(weights, optimizer, layout)
    batch = tiny.batch(layout, GRID) | drawn
    step = make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)
    figures = jax.eval_shape(lambda state, batch: step(state, batch)[1], state, batch)  # traced, not compiled
    assert figures["loss"].dtype == jnp.float32
    cfg = tiny.experiment(regions=(2, 4))
    for key, value in (("distort.probability", 0.5), ("noise", 0.1), ("band_dropout", 0.1)):
        cfg.augment.update_from_flattened_dict({key: value})
    shapes = batch_shapes(cfg, layout, batch["image"].shape)
    assert {k: (x.shape, x.dtype) for k, x in shapes.items()} == {k: (x.shape, x.dtype) for k, x in batch.items()}
    assert all(x.sharding.spec[0] == DATA for x in shapes.values())


def test_a_configuration_says_all_that_may_be_drawn():
    cfg = config.experiment(data=dict(mean=(10.0, 20.0, 30.0), std=(4.0, 5.0, 6.0)))
    assert augmentation(cfg) == Augment(center=20.0)
    drawn = dict(angle=10, scale=[0.5, 2], class_share=0.75, brightness=0.2, noise=0.1, band_dropout=0.1)
    cfg = config.experiment(augment=drawn | dict(distort=dict(probability=0.5, hue=18)))
    wanted = Augment(
        angle=10.0, scale=(0.5, 2.0), class_share=0.75, brightness=0.2 * 64, center=127.5, noise=0.1, band_dropout=0.1,
        distort=Distortion(probability=0.5, hue=18.0),
    )  # fmt: skip
    assert augmentation(cfg) == wanted


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (dict(angle=200), r"augment\.angle: expected 0 to 180 degrees, found 200"),
        (dict(scale=(2, 0.5)), r"augment\.scale: expected \(smallest, largest\) from 0.25 to 4.0, found \(2.0, 0.5\)"),
        (dict(scale=(0.01, 1)), r"augment\.scale: .* from 0.25"),
        (dict(scale=(1, 1, 1)), r"augment\.scale: expected \(smallest, largest\), found"),
        (dict(class_share=0), r"augment\.class_share"),
        (dict(contrast=1.5), r"augment\.contrast: expected 0 <= contrast < 1, found 1.5"),
        (dict(brightness=-1), r"augment\.brightness"),
        (dict(noise=-1), r"augment\.noise"),
        (dict(noise=float("inf")), r"augment\.noise: expected"),
        (dict(angle=float("nan")), r"augment\.angle"),
        (dict(band_dropout=1), r"augment\.band_dropout"),
        (dict(distort=dict(probability=2)), r"augment\.distort\.probability: expected 0 to 1, found 2"),
        (dict(distort=dict(saturation=2)), r"augment\.distort\.saturation: expected 0 to 1, found 2"),
        (dict(distort=dict(hue=400)), r"augment\.distort\.hue: expected 0 to 180"),
        (dict(distort=dict(gamma=1)), r"augment\.distort.*unknown key 'gamma'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_its_key(augment, message):
    with pytest.raises(ConfigError, match=message):
        augmentation(config.experiment(augment=augment))


def test_hues_need_three_bands():
    with pytest.raises(ConfigError, match=r"augment\.distort: .*model\.bands=3\), found 6"):
        config.experiment(model=dict(bands=6), augment=dict(distort=dict(probability=0.5)))
