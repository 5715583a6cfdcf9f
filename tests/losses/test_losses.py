"""Losses equal their definitions, count the right pixels, and add up over parts of a scene."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax import config, losses
from holojax.errors import ConfigError
from holojax.losses import CrossEntropy, Dice, cross_entropy, dice


def a_scene(seed=0, shape=(2, 5, 7), classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.3] = 255
    return rng.normal(size=(*shape, classes)).astype(np.float32), labels


def by_hand(logits, labels):
    logits = logits.astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    keep = labels != 255
    return scores[keep], labels[keep].astype(int)


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, labels = a_scene()
    scores, truth = by_hand(logits, labels)
    expected = -scores[np.arange(len(truth)), truth].mean()
    assert cross_entropy(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_over_all_pixels_counts_the_ignored_ones_too():
    logits, labels = a_scene()
    share = (labels != 255).mean()
    expected = float(cross_entropy(logits, labels)) * share
    assert cross_entropy(logits, labels, average="all") == pytest.approx(expected, rel=1e-6)


def test_class_weights_and_smoothing_mean_what_torch_means():
    logits, labels = a_scene()
    scores, truth = by_hand(logits, labels)
    weights, smoothing = np.array([1.0, 2.0, 0.5, 3.0]), 0.1
    own = -(scores[np.arange(len(truth)), truth] * weights[truth]).sum()
    spread = -(scores * weights).sum() / len(weights)
    expected = ((1 - smoothing) * own + smoothing * spread) / weights[truth].sum()
    found = cross_entropy(logits, labels, class_weights=tuple(weights), smoothing=smoothing)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("squared", [True, False])
def test_dice_is_its_formula_over_all_classes(squared):
    logits, labels = a_scene()
    labels[labels == 3] = 255  # an absent class counts
    scores, truth = by_hand(logits, labels)
    p, y = np.exp(scores), np.eye(4)[truth]
    total = (p**2 + y**2 if squared else p + y).sum(0)
    expected = 1 - np.mean((2 * (p * y).sum(0) + 1e-5) / (total + 1e-5))
    assert dice(logits, labels, squared=squared) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(), CrossEntropy(average="all", class_weights=(1.0, 2.0, 3.0, 4.0), smoothing=0.2), Dice()],
)
def test_parts_of_a_scene_add_up(loss):
    logits, labels = a_scene(shape=(2, 6, 8))
    whole = loss.value(loss.sums(logits, labels))
    parts = [loss.sums(logits[:, :, i : i + 4], labels[:, :, i : i + 4]) for i in (0, 4)]
    assert loss.value(jax.tree.map(jnp.add, *parts)) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(average="all"), Dice()])
def test_invalid_pixels_change_nothing_not_even_the_gradient(loss):
    logits, labels = a_scene(shape=(1, 4, 6))
    padded = np.pad(logits, ((0, 0), (0, 2), (0, 1), (0, 0)), constant_values=7)
    padded_labels = np.pad(labels, ((0, 0), (0, 2), (0, 1)))
    valid = np.pad(np.ones(labels.shape, bool), ((0, 0), (0, 2), (0, 1)))
    whole, gradient = jax.value_and_grad(lambda x: loss.value(loss.sums(x, labels)))(jnp.asarray(logits))
    same, wide = jax.value_and_grad(lambda x: loss.value(loss.sums(x, padded_labels, valid)))(jnp.asarray(padded))
    assert same == pytest.approx(float(whole), rel=1e-6)
    np.testing.assert_allclose(wide[:, :4, :6], gradient, atol=1e-7)
    assert not np.any(np.asarray(wide)[~valid])


def test_a_scene_without_labels_costs_nothing():
    logits, labels = a_scene()
    labels[:] = 255
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, labels))(jnp.asarray(logits))
    assert value == 0
    assert not gradient.any()


def test_a_label_beyond_the_classes_is_never_silent():
    logits, labels = a_scene()
    labels[0, 0, 0] = 9
    assert np.isnan(cross_entropy(logits, labels))


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels = a_scene()
    low = jnp.asarray(logits).astype(jnp.bfloat16)
    for loss in (cross_entropy, dice):
        assert loss(low, labels).dtype == jnp.float32
        assert loss(low, labels) == pytest.approx(float(loss(low.astype(jnp.float32), labels)), rel=1e-6)


def test_pixels_are_counted_exactly_beyond_what_float32_counts():
    pixels = 2**24 + 3
    sums = Dice().sums(jnp.zeros((pixels, 1), jnp.bfloat16), jnp.zeros(pixels, jnp.uint8))
    assert int(sums.labels[0]) == pixels
    weight = CrossEntropy().sums(jnp.zeros((pixels, 1), jnp.bfloat16), jnp.zeros(pixels, jnp.uint8)).weight
    assert int(weight) == pixels


def test_bad_settings_are_refused():
    logits, labels = a_scene()
    with pytest.raises(ConfigError, match="average is 'valid' or 'all', found 'mean'"):
        cross_entropy(logits, labels, average="mean")
    with pytest.raises(ConfigError, match="one number for each of 4 classes, found 2"):
        cross_entropy(logits, labels, class_weights=(1.0, 2.0))


def test_the_schema_knows_every_loss():
    assert tuple(losses.LOSSES) == config.LOSSES
