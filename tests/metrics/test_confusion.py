"""Confusion matrices count exactly and add up; ratios follow their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.errors import LabelError
from holojax.metrics import confusion, confusion_matrix, summarize
from holojax.parallel import DATA, REGION, Layout
from holojax.parallel.collectives import psum


def two_maps(seed=0, shape=(3, 8, 9), classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes, shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.2] = 255
    return prediction, truth


def test_rows_are_truth_and_columns_prediction():
    cm = confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 1]), 2)
    assert cm.tolist() == [[0, 2], [1, 0]]
    assert jnp.issubdtype(cm.dtype, jnp.integer)


def test_it_equals_a_count_by_hand_inside_jit_and_out():
    prediction, truth = two_maps()
    expected = np.zeros((4, 4), int)
    for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
        if t != 255:
            expected[t, p] += 1
    assert np.array_equal(confusion_matrix(prediction, truth, 4), expected)
    assert np.array_equal(jax.jit(lambda p, t: confusion_matrix(p, t, 4))(prediction, truth), expected)


def test_parts_add_up():
    prediction, truth = two_maps()
    parts = sum(confusion_matrix(p, t, 4) for p, t in zip(prediction, truth, strict=True))
    assert np.array_equal(parts, confusion_matrix(prediction, truth, 4))


@pytest.mark.parametrize("pixels", [0, 1, confusion.BLOCK - 1, confusion.BLOCK, 2 * confusion.BLOCK + 77])
def test_every_pixel_is_counted_once_whatever_their_number(pixels):
    prediction, truth = two_maps(shape=(pixels,))
    counted = truth != 255
    expected = np.bincount(truth[counted].astype(int) * 4 + prediction[counted], minlength=16).reshape(4, 4)
    assert np.array_equal(confusion_matrix(prediction, truth, 4), expected)


@pytest.mark.parametrize(("data", "region"), [(1, 2), (2, 4)])
def test_devices_add_up(data, region):
    prediction, truth = two_maps(shape=(2, 4, 5, 7))
    layout = Layout.create(data, region)

    def count(prediction, truth):
        return psum(confusion_matrix(prediction, truth, 4), (DATA, REGION))

    sharded = jax.jit(layout.shard(count, in_specs=(P(DATA, REGION),) * 2, out_specs=P()))
    assert np.array_equal(sharded(prediction, truth), confusion_matrix(prediction, truth, 4))


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"\(2, 3\) and \(3, 2\)"),
        (np.zeros(3, np.float32), np.zeros(3, np.uint8), "map of integers, found float32"),
        (np.zeros(3, np.uint8), np.zeros(3, np.float64), "labels of integers, found float64"),
        (*[np.broadcast_to(np.uint8(0), (2**16, 2**15))] * 2, "2147483648 pixels"),
    ],
)
def test_maps_that_cannot_be_counted_are_refused(prediction, truth, message):
    with pytest.raises(LabelError, match=message):
        confusion_matrix(prediction, truth, 2)


def test_what_is_no_class_is_not_counted_as_another_class():
    cm = confusion_matrix(np.array([9, 0, 1, 1]), np.array([0, 7, 0, 255]), 2)
    assert cm.tolist() == [[0, 1], [0, 0]]


def test_an_ignored_class_is_not_counted():
    assert confusion_matrix(np.array([0, 1]), np.array([0, 1]), 2, ignore=0).tolist() == [[0, 0], [0, 1]]


def test_counts_are_exact_beyond_what_float32_counts():
    pixels = 2**24 + 5
    cm = confusion_matrix(jnp.zeros(pixels, jnp.uint8), jnp.zeros(pixels, jnp.uint8), 2)
    assert int(cm[0, 0]) == pixels


def test_figures_follow_their_definitions():
    cm = np.array([[50, 10, 0], [5, 25, 0], [0, 0, 0]])
    figures = summarize(cm)
    np.testing.assert_allclose(figures["iou"], [50 / 65, 25 / 40, np.nan])
    np.testing.assert_allclose(figures["recall"], [50 / 60, 25 / 30, np.nan])
    np.testing.assert_allclose(figures["accuracy"], figures["recall"])
    np.testing.assert_allclose(figures["precision"], [50 / 55, 25 / 35, np.nan])
    np.testing.assert_allclose(figures["f1"], [100 / 115, 50 / 65, np.nan])
    assert figures["miou"] == pytest.approx((50 / 65 + 25 / 40) / 2)
    assert figures["oa"] == pytest.approx(75 / 90)
    assert figures["fwiou"] == pytest.approx((60 * 50 / 65 + 30 * 25 / 40) / 90)
    assert figures["macc"] == pytest.approx((50 / 60 + 25 / 30) / 2)
    assert figures["mf1"] == pytest.approx((100 / 115 + 50 / 65) / 2)
    chance = (60 * 55 + 30 * 35) / 90**2
    assert figures["kappa"] == pytest.approx((75 / 90 - chance) / (1 - chance))


def test_a_class_that_is_only_predicted_has_no_overlap_and_no_recall():
    figures = summarize(np.array([[3, 1], [0, 0]]))
    assert figures["iou"][1] == 0
    assert figures["f1"][1] == 0
    assert np.isnan(figures["recall"][1])


def test_an_empty_matrix_has_no_figures():
    figures = summarize(np.zeros((2, 2), int))
    assert all(np.isnan(figures[name]) for name in ("miou", "fwiou", "oa", "macc", "mf1", "kappa"))


def test_large_matrices_are_summed_beyond_32_bits():
    figures = summarize(np.array([[2_000_000_000, 0], [0, 2_000_000_000]], np.int32))
    assert figures["oa"] == 1
    assert figures["kappa"] == 1
