"""Hard pixels: their bound is an order statistic of all probabilities to the last bit, whoever holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax.losses import Ohem, ohem

CHANCES = st.floats(2.0**-100, 1.0, width=32) | st.sampled_from(
    [0.0, 0.5, np.nextafter(np.float32(0.5), 1).item(), 1.0]
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(CHANCES, min_size=1, max_size=40), st.integers(0, 50))
def test_two_histograms_find_the_value_of_a_rank(chances, keep):
    chances = np.array(chances, np.float32)
    bits = chances.view(np.int32)
    loss = Ohem(threshold=0.0, keep=keep)
    upper = np.bincount(bits >> 16, minlength=1 << 15).astype(np.int32)
    place, rank = loss.known(jnp.asarray(upper))
    lower = np.bincount(bits[bits >> 16 == int(place)] & 0xFFFF, minlength=1 << 16).astype(np.int32)
    assert 0 <= rank < lower.sum()
    (found,) = loss.known(jnp.asarray(upper), jnp.asarray(lower))
    assert found == np.sort(chances)[min(keep, len(chances) - 1)]


def test_the_histograms_are_those_of_the_label_s_probability():
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    labels = np.arange(50) % 4  # every fourth is ignored
    loss = Ohem(ignore=3, threshold=0.0, keep=7)
    upper = loss.sums(logits, labels)
    known = loss.known(upper)
    (found,) = loss.known(upper, loss.sums(logits, labels, None, *known))
    own = jax.nn.softmax(logits)[np.arange(50), np.minimum(labels, 2)][labels != 3]
    assert found == pytest.approx(np.sort(own)[7], rel=1e-6)


def test_the_threshold_or_the_number_kept_whichever_takes_more():
    chances = np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    logits, labels = np.log(np.stack([chances, 1 - chances], -1)), np.zeros(5, np.uint8)
    hardest = -np.log(chances)
    assert ohem(logits, labels, threshold=0.35, keep=1) == pytest.approx(hardest[:3].mean(), rel=1e-6)
    assert ohem(logits, labels, threshold=0.15, keep=2) == pytest.approx(hardest[:2].mean(), rel=1e-6)
    assert ohem(logits, labels, threshold=0.15, keep=2, average="all") == pytest.approx(hardest[:2].sum() / 5, rel=1e-6)
