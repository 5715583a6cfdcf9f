"""A step gives the same loss, weights and statistics on any number of devices, and never sees padding."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.errors import ConfigError
from holojax.models import build_model, segment
from holojax.parallel import Layout, RegionGrid
from holojax.training import hooks
from holojax.training.optimizer import make_optimizer
from holojax.training.state import fingerprint, first_state, put_together, take_apart
from holojax.training.step import make_recipe, make_train_step, normalized, scene_keys
from tests.training import tiny

GRID = RegionGrid(2, 4)


def train_some(model, data, region, steps=20, change=None):
    cfg = tiny.experiment(model, regions=(2, 4), loss=(("cross_entropy", 1.0), ("dice", 0.5)))
    layout = Layout.create(data, region)
    structure, weights = take_apart(build_model(cfg.model.to_dict(), 0))
    optimizer = make_optimizer(cfg.train)
    step = make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)
    state, losses = first_state(weights, optimizer, layout), []
    for number in range(steps):
        batch = tiny.batch(layout, GRID, seed=number % 3)
        state, figures = step(state, batch if change is None else change(batch))
        losses.append(float(figures["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def alone():
    """Twenty steps of each model on one device."""
    return {name: train_some(getattr(tiny, name), 1, 1) for name in ("RINGFORMER", "REST")}


@pytest.mark.parametrize(
    ("name", "data", "region"),
    [
        *(("RINGFORMER", *mesh) for mesh in ((1, 8), (2, 4))),
        *(pytest.param("RINGFORMER", 1, n, marks=pytest.mark.slow) for n in (2, 4)),
        ("REST", 1, 8),
    ],
)
def test_twenty_steps_are_the_same_on_any_mesh(alone, name, data, region):
    losses, state = alone[name]
    found, other = train_some(getattr(tiny, name), data, region)
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    assert losses[-1] < losses[0]
    for a, b in zip(jax.tree.leaves(other.weights.stats), jax.tree.leaves(state.weights.stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_batch_without_labels_costs_nothing_and_is_told():
    cfg = tiny.experiment(tiny.RINGFORMER, regions=(2, 4), loss=(("ce", 1.0), ("dice", 0.5), ("lovasz", 1.0)))
    layout = Layout.create(1, 1)
    structure, weights = take_apart(build_model(cfg.model.to_dict(), 0))
    optimizer = make_optimizer(cfg.train)
    batch = tiny.batch(layout, GRID)
    batch["label"] = jnp.full_like(batch["label"], 255)
    step = make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)
    state, figures = step(first_state(weights, optimizer, layout), batch)
    assert int(figures["labelled"]) == 0
    # Dice counts absent classes: of nothing at all it makes (0 + eps) / (0 + eps).
    assert float(figures["loss"]) == 0
    assert float(figures["gradient"]) == 0
    lines = []
    hooks.WarnOfNoLabels(lines.append)(hooks.Moment(3, 5, state, {"labelled": 0.0}))
    hooks.WarnOfNoLabels(lines.append)(hooks.Moment(4, 5, state, {"labelled": 1.0}))
    assert len(lines) == 1
    assert "step 3: no pixel of the batch has a label" in lines[0]


def test_what_lies_where_nothing_is_valid_changes_nothing(alone):
    def scribble(batch):
        image = jnp.where(batch["valid"][..., None], batch["image"], 77)
        label = jnp.where(batch["valid"], batch["label"], 3)
        return batch | {"image": image, "label": label}

    losses, state = train_some(tiny.RINGFORMER, 1, 1, steps=3, change=scribble)
    assert losses == alone["RINGFORMER"][0][:3]
    assert int(state.step) == 3


def test_the_model_is_the_same_taken_apart_and_put_together():
    model = build_model(tiny.RINGFORMER | dict(classes=5, regions=(2, 2)))
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    before = segment(model, images, Layout.create(1, 1))
    structure, weights = take_apart(model)
    again = put_together(structure.inference, weights, structure.constants)
    assert np.array_equal(segment(again, images, Layout.create(1, 1)), before)


def test_pixels_are_normalised_after_their_brightness_and_contrast():
    cfg = tiny.experiment()
    structure, _ = take_apart(build_model(cfg.model.to_dict(), 0))
    recipe = make_recipe(cfg, structure, Layout.create(1, 1))
    image = jnp.full((1, 1, 1, 2, 3), 100, jnp.uint8)
    valid = jnp.asarray([[[[True, False]]]])
    batch = {"image": image, "valid": valid, "gain": jnp.asarray([1.5]), "offset": jnp.asarray([2.0])}
    out = normalized(batch, recipe)
    np.testing.assert_allclose(out[0, 0, 0, 0], [50 / 25, 42 / 32, 50 / 25], rtol=1e-6)
    assert not out[0, 0, 0, 1].any()


def test_random_keys_belong_to_scenes_and_steps():
    three, four = jnp.asarray(3), jnp.asarray(4)
    keys = jax.random.key_data(jnp.stack([*scene_keys(0, three, 4), *scene_keys(0, four, 4), *scene_keys(1, three, 4)]))
    assert len(np.unique(keys, axis=0)) == 12
    assert np.array_equal(
        jax.random.key_data(scene_keys(0, three, 2)), jax.random.key_data(scene_keys(0, three, 4)[:2])
    )


def test_the_fingerprint_is_of_the_bytes_in_the_order_of_sorted_names():
    params = {"b": np.float32([1, 2]), "a": {"y": np.float32([3]), "x": np.float32([4])}}
    same = dict(reversed(params.items()))
    assert fingerprint(params) == fingerprint(jax.tree.map(jnp.asarray, same))
    assert fingerprint(params) != fingerprint(params | {"b": np.float32([2, 1])})
    assert fingerprint(params) == hashlib.sha256(np.float32([4, 3, 1, 2]).tobytes()).hexdigest()


def test_frozen_stages_keep_their_weights_and_the_others_learn():
    cfg = tiny.experiment(tiny.REST | dict(encoder=tiny.REST["encoder"] | dict(freeze=2)), regions=(1, 2), clip=1.0)
    layout = Layout.create(1, 2)
    structure, weights = take_apart(build_model(cfg.model.to_dict(), 0))
    optimizer = make_optimizer(cfg.train, structure.frozen)
    step = make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)
    state = first_state(weights, optimizer, layout)
    for number in range(2):
        state, _ = step(state, tiny.batch(layout, RegionGrid(1, 2), seed=number))
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), weights.params, state.weights.params)
    encoder = same["encoder"]
    for part in (encoder["patch_embed"], *(encoder[k][i] for k in ("stages", "downsamples", "norms") for i in (0, 1))):
        assert all(jax.tree.leaves(part))
    # A bias of keys never has a gradient; everything else learns.
    learned = (encoder["stages"][2], encoder["downsamples"][2], encoder["norms"][3], same["mixers"], same["decoder"])
    for part in learned:
        assert not any(jax.tree.leaves(part))
    # What does not learn has no place in the optimizer.
    held = sum(x.size for x in jax.tree.leaves(state.opt_state))
    assert held < 2.1 * sum(
        x.size for x, still in zip(jax.tree.leaves(weights.params), jax.tree.leaves(same), strict=True) if not still
    )


def a_step(model, layout):
    cfg = tiny.experiment(model, regions=(2, 4))
    structure, weights = take_apart(build_model(cfg.model.to_dict(), 0))
    optimizer = make_optimizer(cfg.train)
    step = make_train_step(make_recipe(cfg, structure, layout), optimizer, seed=0)
    return step, first_state(weights, optimizer, layout), tiny.batch(layout, GRID)


def test_gradients_of_an_encoder_in_bfloat16_are_summed_in_float32():
    encoder = tiny.RINGFORMER["encoder"] | dict(dtype="bfloat16")
    step, state, batch = a_step(tiny.RINGFORMER | dict(encoder=encoder), Layout.create(region=2))
    sums = re.findall(r"\S+ = psum\w*\[", str(jax.make_jaxpr(step)(state, batch)))
    assert len(sums) > 10
    assert not [one for one in sums if ":bf16[" in one]


def test_a_batch_with_more_pixels_than_can_be_counted_is_refused():
    step, state, batch = a_step(tiny.RINGFORMER, Layout.create(region=2))
    shape = (2, 8, 20000, 10000)
    for name, pixels in (("image", (*shape, 3)), ("label", shape), ("valid", shape)):
        batch[name] = jax.ShapeDtypeStruct(pixels, batch[name].dtype, sharding=batch[name].sharding)
    with pytest.raises(ConfigError, match=r"3,200,000,000 pixels: losses count up to 2,147,483,647\. Lower data"):
        jax.eval_shape(step, state, batch)


def test_layers_of_queries_are_supervised_in_training_and_not_asked_in_use():
    decoder = dict(name="segvit", channels=8, layers=1, heads=2)
    structure, weights = take_apart(build_model(tiny.RINGFORMER | dict(classes=5, decoder=decoder), 0))
    for graph, silent in ((structure.training, False), (structure.inference, True)):
        assert put_together(graph, weights, structure.constants).decoder.deterministic is silent
