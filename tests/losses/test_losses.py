"""Losses equal their definitions, count the right pixels, and add up over parts of a scene."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax import config, losses
from holojax.errors import ConfigError
from holojax.losses import build_losses, cross_entropy, dice
from holojax.losses.common import evaluate
from tests.losses.every import ALL, KINDS, a_scene, patches


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


def in_parts(loss, parts):
    """Evaluate a loss of (logits, labels, valid) whose sums are added up over parts."""
    totals = ()
    for _ in range(loss.rounds):
        known = loss.known(*totals) if totals else ()
        sums = [loss.sums(*part, *known) for part in parts]
        totals += (functools.reduce(functools.partial(jax.tree.map, jnp.add), sums),)
    return loss.value(*totals)


@jax.jit
def run(logits, labels, valid):
    """Return value and gradient of all losses; one shape for all tests, for it is compiled for seconds."""
    return {
        name: jax.value_and_grad(lambda x, loss=loss: evaluate(loss, x, labels, valid))(logits)
        for name, loss in ALL.items()
    }


def a_batch(seed=0):
    logits, labels = patches(seed, shape=(2, 7, 11))
    return logits, labels.astype(np.int32), np.ones(labels.shape, bool)


@jax.jit
def values_in_two(logits, labels, first):
    parts = [(logits, labels, first), (logits, labels, ~first)]
    return {name: in_parts(loss, parts) for name, loss in KINDS.items()}


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_sums_add_up_over_any_partition_of_the_pixels(seed, share):
    logits, labels, valid = a_batch(seed)
    found = values_in_two(logits, labels, np.random.default_rng(seed).random(labels.shape) < share)
    whole = run(logits, labels, valid)
    for name, value in found.items():
        assert value == pytest.approx(float(whole[name][0]), rel=2e-6), name


def test_what_invalid_pixels_hold_changes_nothing_not_even_the_gradient():
    logits, labels, valid = a_batch()
    valid[:, 5:], valid[:, :, 9:], valid[:, 3, 4] = False, False, False
    junk, wrong = np.where(valid[..., None], logits, np.nan), np.where(valid, labels, 9)
    whole, found = run(logits, np.where(valid, labels, 255), valid), run(junk, wrong, valid)
    for name, (value, gradient) in found.items():
        np.testing.assert_array_equal(value, whole[name][0], err_msg=name)
        np.testing.assert_array_equal(gradient, whole[name][1], err_msg=name)
        assert np.abs(gradient).max() > 0, name
        assert not np.any(np.asarray(gradient)[~valid]), name


@pytest.mark.parametrize("why", ["ignored", "invalid"])
def test_a_batch_without_labels_costs_nothing(why):
    logits, labels, valid = a_batch()
    if why == "ignored":
        labels[:] = 255
    else:
        valid[:] = False
    for name, (value, gradient) in run(logits, labels, valid).items():
        assert value == 0, name
        assert not np.any(gradient), name


@pytest.mark.parametrize("label", [9, -1])
def test_a_label_beyond_the_classes_is_never_silent(label):
    logits, labels, valid = a_batch()
    labels[0, 0, 0] = label
    for name, (value, _) in run(logits, labels, valid).items():
        assert np.isnan(value), name


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels, valid = a_batch()
    low = jnp.asarray(logits).astype(jnp.bfloat16)
    of_kinds = KINDS | {"boundary": losses.Boundary()}
    found = jax.jit(lambda x: {name: evaluate(loss, x, labels, valid) for name, loss in of_kinds.items()})(low)
    expected = run(low.astype(jnp.float32), labels, valid)
    for name, value in found.items():
        assert value.dtype == jnp.float32, name
        assert value == pytest.approx(float(expected[name][0]), rel=1e-6), name


def test_pixels_are_counted_exactly_beyond_what_float32_counts():
    pixels = 2**24 + 3
    logits, labels = jnp.zeros((pixels, 1), jnp.bfloat16), jnp.zeros(pixels, jnp.uint8)

    @jax.jit
    def counts(logits, labels):
        return {
            "weight": losses.CrossEntropy().sums(logits, labels).weight,
            "pixels": losses.CrossEntropy().sums(logits, labels).pixels,
            "dice": losses.Dice().sums(logits, labels).labels[0],
            "focal": losses.Focal().sums(logits, labels).labelled,
            "ohem": losses.Ohem().sums(logits, labels).sum(),
            "lovasz": losses.Lovasz().sums(logits, labels).foreground.sum(),
        }

    assert {name: int(x) for name, x in counts(logits, labels).items()} == dict.fromkeys(counts(logits, labels), pixels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.CrossEntropy(average="mean"), "cross_entropy: average is 'valid' or 'all', found 'mean'"),
        (lambda: losses.SoftDice(classes="some"), "soft_dice: classes is 'present' or 'all', found 'some'"),
        (lambda: losses.Focal(gamma=-1.0), "focal: gamma is a number of at least 0, found -1.0"),
        (lambda: losses.Focal(form="hinge"), "focal: form is 'softmax' or 'sigmoid', found 'hinge'"),
        (lambda: losses.Tversky(beta=-0.5), "tversky: beta is a number of at least 0"),
        (lambda: losses.Lovasz(classes="some"), "lovasz: classes is 'present' or 'all'"),
        (lambda: losses.Ohem(threshold=1.5), "ohem: threshold is a probability, found 1.5"),
        (lambda: losses.Boundary(inner=2), "boundary: inner is an odd number of pixels, found 2"),
        (lambda: cross_entropy(*a_scene(), class_weights=(1.0, 2.0)), "one number for each of 4 classes, found 2"),
        (lambda: losses.CrossEntropy(smoothing=2.0), "cross_entropy: smoothing is a share from 0 to 1, found 2.0"),
        *[
            (lambda make=make, table=table: make(class_weights=table), f"{name}: class_weights is None, or one number")
            for name, make in (("cross_entropy", losses.CrossEntropy), ("focal", losses.Focal), ("ohem", losses.Ohem))
            for table in ((1.0, -1.0), (1.0, float("nan")), (0.0, 0.0), ())
        ],
        *[
            (lambda key=key, value=value: losses.SetLoss(**{key: value}), f"set: {key} is a .*, found {value}")
            for key, values in {
                "no_object": (-1.0, float("nan")),
                "class_weight": (-3.0, float("inf")),
                "mask_weight": (-1.0,),
                "dice_weight": (-1.0,),
                "oversample": (float("inf"), 0.5),
                "importance": (1.5,),
                "points": (0,),
            }.items()
            for value in values
        ],
        *[
            (lambda make=make, key=key: make(**{key: float("inf")}), f"{key} is a number .*, found inf")
            for make, key in (
                (losses.Focal, "gamma"),
                (losses.Tversky, "alpha"),
                (losses.Tversky, "eps"),
                (losses.Dice, "eps"),
                (losses.SoftDice, "eps"),
            )
        ],
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_schema_knows_every_loss():
    assert tuple(losses.LOSSES) == config.LOSSES
    assert set(config.TRAIN["losses"]) < set(config.LOSSES)


@pytest.mark.parametrize("kind", ["ConfigDict", "dict"])
def test_losses_are_built_from_a_configuration(kind):
    train = dict(
        loss=(("ce", 1.0), ("focal", 0.5), ("ohem", 2.0), ("tversky", 1.0), ("lovasz", 1.0)),
        average="all",
        class_weights=(1.0, 3.0),
        smoothing=0.1,
        losses=dict(focal=dict(gamma=3.0), ohem=dict(keep=7), tversky=dict(alpha=0.4, beta=0.6)),
    )
    whole = dict(model=dict(classes=2), train=train)
    made = config.experiment(**whole).train if kind == "ConfigDict" else config.complete(whole)["train"]
    assert build_losses(made) == (
        ("ce", losses.CrossEntropy(average="all", class_weights=(1.0, 3.0), smoothing=0.1), 1.0),
        ("focal", losses.Focal(gamma=3.0, average="all", class_weights=(1.0, 3.0)), 0.5),
        ("ohem", losses.Ohem(keep=7, class_weights=(1.0, 3.0)), 2.0),
        ("tversky", losses.Tversky(alpha=0.4, beta=0.6), 1.0),
        ("lovasz", losses.Lovasz(), 1.0),
    )


def test_all_losses_build_with_the_defaults():
    """What the schema says is what the losses say."""
    names = [name for name in losses.LOSSES if name != "cross_entropy"]  # which is ce
    train = dict(loss=tuple((name, 1.0) for name in names))
    train = config.complete(dict(model=dict(decoder=dict(name="mask2former")), train=train))["train"]
    for name, loss, weight in build_losses(train):
        assert (loss, weight) == (losses.LOSSES[name](), 1.0)
        assert loss.reads in ("pixels", "map", "queries")
