"""The learning rate follows its schedule, and weight decay spares what is no weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax import config
from holojax.models import build_model
from holojax.training.optimizer import decayed, learning_rate, make_optimizer
from holojax.training.state import take_apart
from tests.training import tiny


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("poly", [0, 0.5, 1, 0.5, 0]), ("cosine", [0, 0.5, 1, 0.5, 0]), ("constant", [0, 0.5, 1, 1, 1])],
)
def test_the_rate_grows_and_then_falls_to_the_end(schedule, expected):
    train = config.experiment(train=dict(steps=30, warmup=10, learning_rate=1.0, schedule=schedule)).train
    rate = learning_rate(train)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 5, 10, 20, 30)], expected, atol=1e-6)


def test_without_warmup_the_first_step_has_the_highest_rate():
    rate = learning_rate(config.experiment(train=dict(steps=10, learning_rate=1.0)).train)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 5, 9)], [1, 0.5, 0.1], atol=1e-6)


def test_only_weights_of_linear_maps_decay():
    for model in (tiny.REST, tiny.RINGFORMER | {"encoder": tiny.RINGFORMER["encoder"] | {"pos": "learned"}}):
        _, weights = take_apart(build_model(model | dict(classes=5)))
        marks = jax.tree_util.tree_leaves_with_path(decayed(weights.params))
        decide = {jax.tree_util.keystr(path, simple=True, separator="."): mark for path, mark in marks}
        assert all(mark == name.endswith("kernel") for name, mark in decide.items()), decide


def test_clipping_bounds_the_gradient():
    train = config.experiment(train=dict(clip=1.0, weight_decay=0.0, learning_rate=1.0)).train
    params = {"kernel": jnp.zeros((2, 2))}
    state = make_optimizer(train).init(params)
    huge = {"kernel": jnp.full((2, 2), 1e6)}
    _, state = make_optimizer(train).update(huge, state, params)
    first_moment = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2, 2))
    np.testing.assert_allclose(jnp.linalg.norm(first_moment), 0.1, rtol=1e-5)
