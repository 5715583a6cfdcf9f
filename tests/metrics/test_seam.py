"""Errors near seams and elsewhere: by hand, and where regions lie on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.borders import Exact
from holojax.errors import ConfigError
from holojax.metrics import grid_seams, region_seam_counts, seam_counts, summarize_seam
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import psum


def test_pixels_on_both_sides_of_a_seam_are_near():
    truth = np.zeros((6, 8), np.uint8)
    prediction = truth.copy()
    prediction[:, 3] = 1  # columns 3 and 4 are near the seam at 4
    prediction[0, 0] = 1
    truth[5, 3] = 255
    assert seam_counts(prediction, truth, [], [4], 1).tolist() == [[35, 1], [6, 5]]
    assert seam_counts(prediction, truth, [2], [4], 2)[1].sum() == 4 * 6 + 4 * 4 - 1
    assert seam_counts(prediction, truth, [], [], 1)[1].tolist() == [0, 0]


def test_the_seam_error_is_a_ratio_of_rates():
    figures = summarize_seam(np.array([[90, 10], [15, 5]]))
    assert figures == {"seam_error": 2.5, "error_near_seams": 0.25, "error_elsewhere": 0.1}
    assert np.isnan(summarize_seam(np.array([[90, 10], [0, 0]]))["seam_error"])
    assert np.isnan(summarize_seam(np.array([[90, 0], [5, 5]]))["seam_error"])


def test_seams_lie_where_regions_meet_inside_the_scene():
    assert grid_seams(RegionGrid(2, 3), 10, 10) == ([5], [4, 8])
    assert grid_seams(RegionGrid(4, 1), 9, 5) == ([3, 6], [])  # the fourth row of regions has no pixels
    assert grid_seams(RegionGrid(1, 2, multiple=8), 8, 16) == ([], [8])


@pytest.mark.parametrize(
    ("grid", "size", "data", "region"),
    [(RegionGrid(2, 4), (11, 30), 2, 4), (RegionGrid(4, 1), (9, 10), 1, 2), (RegionGrid(1, 1), (9, 10), 1, 1)],
)
def test_regions_on_devices_know_their_seams(grid, size, data, region):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (2, *size)).astype(np.uint8)
    prediction = rng.integers(0, 3, truth.shape).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    layout = Layout.create(data, region)

    def count(prediction, truth, valid):
        scenes = prediction.shape[0]
        prediction, truth, valid = (x.reshape(-1, *x.shape[2:]) for x in (prediction, truth, valid))
        borders = Exact(RegionShard(grid), scenes, valid)
        return psum(region_seam_counts(prediction, truth, 2, borders, valid), (DATA, REGION))

    sharded = jax.jit(layout.shard(count, in_specs=(P(DATA, REGION),) * 3, out_specs=P()))
    # Nothing but `valid` says where the padding is.
    counts = sharded(grid.split(prediction), grid.split(truth), grid.split(np.ones(truth.shape, bool), fill=False))
    assert np.array_equal(counts, seam_counts(prediction, truth, *grid_seams(grid, *size), 2))


def test_a_width_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least 1 pixel, found 0"):
        seam_counts(jnp.zeros((2, 2), int), jnp.zeros((2, 2), int), [1], [1], 0)
