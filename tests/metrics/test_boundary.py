"""Boundary counts equal a dense twin's, and do not depend on regions and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from holojax.borders import Exact
from holojax.errors import ConfigError
from holojax.metrics import boundary, boundary_counts, summarize_boundary
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum

SQUARE = np.ones((3, 3), bool)


def scenes(shape=(2, 30, 41), classes=4, seed=0):
    """Blobs, a map that is nearly right, and places that do not count."""
    rng = np.random.default_rng(seed)
    truth = ndimage.zoom(rng.integers(0, classes, (shape[0], 5, 6)), (1, shape[1] / 5, shape[2] / 6), order=0)
    prediction = np.where(rng.random(shape) < 0.05, rng.integers(0, classes, shape), np.roll(truth, (1, 2), (1, 2)))
    truth[rng.random(shape) < 0.02] = 255
    valid = rng.random(shape) < 0.98
    valid[:, :3, :7] = False
    return prediction.astype(np.uint8), truth.astype(np.uint8), valid


def twin(prediction, truth, valid, classes, width):
    """Count with binary morphology, class by class and scene by scene."""
    out = np.zeros((7, classes), int)

    def grown(mask, reach):
        return ndimage.binary_dilation(mask, SQUARE, iterations=reach)

    for p, t, v in zip(prediction, truth, valid, strict=True):
        exists = v & (t != 255)
        for c in range(classes):
            bands, contours = [], []
            for x in (p, t):
                mine, others = exists & (x == c), exists & (x != c)
                bands.append(mine & grown(others, width))
                contours.append(mine & grown(others, 1))
            out[:, c] += [
                bands[0].sum(),
                bands[1].sum(),
                (bands[0] & bands[1]).sum(),
                contours[0].sum(),
                (contours[0] & grown(contours[1], width)).sum(),
                contours[1].sum(),
                (contours[1] & grown(contours[0], width)).sum(),
            ]
    return out


@pytest.mark.parametrize(("classes", "width", "rows"), [(4, 1, 30), (4, 3, 128), (40, 2, 13)])
def test_counts_are_those_of_binary_morphology(classes, width, rows, monkeypatch):
    monkeypatch.setattr(boundary, "_ROWS", rows)
    prediction, truth, valid = scenes(classes=classes)
    counts = boundary_counts(prediction, truth, classes, width, jnp.asarray(valid))
    expected = twin(prediction, truth, valid, classes, width)
    assert np.array_equal(counts, expected)
    assert expected.sum(1).min() > 0


@pytest.mark.parametrize(("rows", "cols", "data", "region"), [(2, 2, 1, 4), (3, 4, 2, 2), (10, 1, 1, 5)])
def test_counts_do_not_depend_on_regions_and_devices(rows, cols, data, region):
    prediction, truth, valid = scenes()
    grid, layout = RegionGrid(rows, cols), Layout.create(data, region)

    def count(prediction, truth, valid):
        local = prediction.shape[0]
        prediction, truth, valid = (x.reshape(-1, *x.shape[2:]) for x in (prediction, truth, valid))
        borders = Exact(RegionShard(grid), local, valid)
        return psum(boundary_counts(prediction, truth, 4, 4, valid, borders), (DATA, REGION))

    sharded = jax.jit(layout.shard(count, in_specs=(P(DATA, REGION),) * 3, out_specs=P()))
    counts = sharded(grid.split(prediction), grid.split(truth, fill=255), grid.split(valid, fill=False))
    assert np.array_equal(counts, boundary_counts(prediction, truth, 4, 4, jnp.asarray(valid)))


def test_a_contour_that_is_off_by_the_width_is_found_and_one_pixel_more_is_not():
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[:, 5:15, 5:15] = 1
    near, far = (summarize_boundary(boundary_counts(np.roll(truth, shift, 2), truth, 2, 2)) for shift in (2, 3))
    assert near["boundary_f1"].tolist() == [1, 1]
    # Of the 36 pixels of either contour, the 10 of the outer upright side are out of reach, and 4 of the inner one's
    # middle: the others lie near the horizontal sides.
    np.testing.assert_allclose(far["boundary_f1"][1], (36 - 14) / 36)


def test_bands_that_are_one_row_off_share_one_of_their_rows():
    truth = np.zeros((1, 20, 8), np.uint8)
    truth[:, 10:] = 1
    prediction = np.zeros_like(truth)
    prediction[:, 11:] = 1
    figures = summarize_boundary(boundary_counts(prediction, truth, 2, 2))
    np.testing.assert_allclose(figures["boundary_iou"], [1 / 3, 1 / 3])  # rows 8, 9 and 9, 10; 10, 11 and 11, 12


def test_a_class_without_boundary_has_no_figures_and_is_left_out():
    truth = np.zeros((1, 6, 6), np.uint8)
    truth[:, :, 3:] = 2
    figures = summarize_boundary(boundary_counts(np.zeros_like(truth), truth, 4, 1))
    assert np.array_equal(figures["boundary_f1"], [0, np.nan, 0, np.nan], equal_nan=True)
    assert np.array_equal(figures["boundary_iou"], [0, np.nan, 0, np.nan], equal_nan=True)
    assert figures["mean_boundary_f1"] == figures["mean_boundary_iou"] == 0
    nothing = summarize_boundary(boundary_counts(truth * 0, truth * 0, 4, 1))
    assert np.isnan(nothing["mean_boundary_f1"])


def test_ignored_pixels_and_the_edge_of_the_scene_are_no_boundary():
    truth = np.zeros((1, 6, 6), np.uint8)
    truth[:, 2:4] = 255
    assert not boundary_counts(truth * 0, truth, 2, 2).any()


def test_a_width_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least 1 pixel, found 0"):
        boundary_counts(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int), 2, 0)
