"""Lovász-softmax by a histogram stays within its bound of the sort, in the value and in what it teaches."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax.losses import Lovasz, lovasz_softmax
from holojax.losses.common import evaluate
from tests.losses.every import a_scene

SHAPE = (2, 20, 23)


@jax.jit
def both(logits, labels):
    """Return values and gradients of the sort and of 2^16 bins; values with 16 bins, and with the absent classes."""
    learnt = [lambda x: lovasz_softmax(x, labels), lambda x: evaluate(Lovasz(), x, labels)]
    coarse = evaluate(Lovasz(bins=16), logits, labels)
    of_all = lovasz_softmax(logits, labels, classes="all"), evaluate(Lovasz(classes="all"), logits, labels)
    return *[jax.value_and_grad(loss)(logits) for loss in learnt], coarse, *of_all


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 30.0]), st.booleans())
def test_within_the_bound(seed, sharpness, absent):
    logits, labels = a_scene(seed, SHAPE)
    labels[(labels == 2) & absent] = 255
    exact, fine, coarse, exact_all, fine_all = both((sharpness * logits).astype(np.float32), labels)
    rounding = 1e-6
    assert abs(float(fine[0]) - float(exact[0])) <= 2**-16 + rounding
    assert abs(float(coarse) - float(exact[0])) <= 1 / 16 + rounding
    assert abs(float(fine_all) - float(exact_all)) <= 2**-16 + rounding
    assert (abs(float(exact_all) - float(exact[0])) > 1e-4) == absent


def test_gradients_are_those_of_the_sort():
    """But for the few pixels that share a bin."""
    exact, fine, *_ = both(*a_scene(3, SHAPE))
    difference = np.abs(np.asarray(fine[1]) - np.asarray(exact[1]))
    assert np.median(difference) < 1e-7
    assert difference.mean() < 0.05 * np.abs(exact[1]).mean()


def test_a_perfect_map_costs_nothing_and_a_wrong_one_everything():
    labels = np.arange(12, dtype=np.uint8) % 3
    right = (40 * np.eye(3)[labels]).astype(np.float32)
    run = jax.jit(lambda logits: (lovasz_softmax(logits, labels), evaluate(Lovasz(), logits, labels)))
    np.testing.assert_allclose(run(right), 0, atol=1e-6)
    np.testing.assert_allclose(run(np.roll(right, 1, -1)), 1, atol=1e-6)
