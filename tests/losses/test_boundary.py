"""What makes an outline, and what does not."""

import jax
import numpy as np
import pytest

from holojax.losses import Boundary, boundary

LOSS = Boundary()


def certain(labels, classes=2):
    return (60 * np.eye(classes)[np.minimum(labels, classes - 1)]).astype(np.float32)


def halves(split=4, width=8):
    """Make a map of two classes that meet between columns split - 1 and split."""
    return np.broadcast_to((np.arange(width) >= split).astype(np.uint8), (1, 6, width)).copy()


@jax.jit
def sums(logits, labels):
    return LOSS.sums(logits, labels)


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


@pytest.mark.parametrize("hole", [255, "invalid"])
def test_the_rim_of_a_hole_is_no_outline(hole):
    """Even where another class begins behind it."""
    labels = halves()
    labels[:, :, 3:5] = 255
    truth = halves()
    if hole == 255:
        found = sums(certain(halves()), labels)
    else:
        found = jax.jit(LOSS.sums)(certain(halves()), truth, labels != 255)
    np.testing.assert_array_equal(found.labelled, [0, 0])
    np.testing.assert_array_equal(found.predicted, [0, 0])
    assert LOSS.value(found) == 0


def test_classes_without_an_outline_are_left_out():
    labels = halves()
    shifted = certain(halves(6))
    with_third = np.concatenate([shifted, np.full_like(shifted[..., :1], -60)], -1)
    assert boundary(with_third, labels) == pytest.approx(float(boundary(shifted, labels)), abs=1e-6)
    assert boundary(certain(halves()), np.zeros_like(labels)) == 0  # one class everywhere
