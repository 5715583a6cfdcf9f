"""What makes an outline, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holojax.losses import Boundary

LOSS = Boundary()


def certain(labels, classes=2):
    return (60 * np.eye(classes)[np.minimum(labels, classes - 1)]).astype(np.float32)


def halves(split=4, width=8):
    """Make a map of two classes that meet between columns split - 1 and split."""
    return np.broadcast_to((np.arange(width) >= split).astype(np.uint8), (1, 6, width)).copy()


sums = jax.jit(LOSS.sums)


def test_the_outline_is_one_pixel_on_each_side_and_the_edge_of_the_scene_is_none():
    labels = halves()
    found = sums(certain(labels), labels)
    # An outline lies inside its class: max-pool(1 - y) - (1 - y).
    np.testing.assert_array_equal(found.labelled, [6, 6])
    np.testing.assert_allclose(found.predicted, [6, 6], rtol=1e-6)
    assert LOSS.value(found) == pytest.approx(0, abs=1e-6)


def test_outlines_may_be_off_by_the_width():
    near, far = (LOSS.value(sums(certain(halves(split, 9)), halves(4, 9))) for split in (6, 8))
    assert near == pytest.approx(0, abs=1e-6)  # 2 pixels: within 5 // 2
    assert far == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("hole", ["ignored", "invalid"])
def test_the_rim_of_a_hole_is_no_outline(hole):
    """Even where another class begins behind it."""
    labels, valid = halves(), np.ones((1, 6, 8), bool)
    if hole == "ignored":
        labels[:, :, 3:5] = 255
    else:
        valid[:, :, 3:5] = False
    found = sums(certain(halves()), labels, valid)
    np.testing.assert_array_equal(found.labelled, [0, 0])
    np.testing.assert_array_equal(found.predicted, [0, 0])
    assert LOSS.value(found) == 0


def test_classes_without_an_outline_are_left_out():
    labels = halves()
    two = sums(certain(labels), labels)
    two = two._replace(precise=two.precise / 3)
    three = jax.tree.map(lambda x: jnp.append(x, 0), two)
    more = three._replace(predicted=three.predicted.at[2].set(9))
    assert LOSS.value(two) == LOSS.value(three) == LOSS.value(more) > 0
    assert LOSS.value(sums(certain(halves()), np.zeros_like(labels))) == 0  # one class everywhere
