"""Counts add up, over parts and devices, beyond 32 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from holojax.errors import ConfigError
from holojax.metrics import (
    Counts,
    boundary_counts,
    confusion_matrix,
    grid_seams,
    join_counts,
    seam_counts,
    split_counts,
    summarize,
)
from holojax.parallel import REGION, Layout, RegionGrid
from holojax.parallel.collectives import psum


def count(prediction, truth):
    seams = grid_seams(RegionGrid(2, 2), *truth.shape[1:])
    return Counts(
        confusion_matrix(prediction, truth, 3),
        boundary_counts(prediction, truth, 3, 2),
        seam_counts(prediction, truth, *seams, 2),
    )


def test_counts_of_scenes_add_up_to_those_of_all():
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 3, (2, 3, 12, 14)).astype(np.uint8)
    parts = sum(count(p[None], t[None]) for p, t in zip(prediction, truth, strict=True))
    whole = count(prediction, truth)
    assert all(np.array_equal(a, b) for a, b in zip(parts, whole, strict=True))
    assert {"miou", "mean_boundary_f1", "seam_error"} < whole.figures().keys()


@settings(max_examples=5, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 96), max_size=4), seed=st.integers(0, 9))
def test_pixels_may_be_split_anywhere(cuts, seed):
    prediction, truth = np.random.default_rng(seed).integers(0, 4, (2, 96)).astype(np.uint8)
    pieces = [np.split(x, sorted(cuts)) for x in (prediction, truth)]
    parts = sum(Counts(confusion_matrix(p, t, 3)) for p, t in zip(*pieces, strict=True))
    assert np.array_equal(parts.confusion, confusion_matrix(prediction, truth, 3))


def test_figures_of_what_is_not_counted_are_left_out():
    cm = np.eye(2, dtype=int)
    assert Counts(cm).figures().keys() == summarize(cm).keys()


def test_devices_add_up_beyond_32_bits():
    many = np.array([[2**31 - 1, 65535], [65536, 7]], np.int32)
    sharded = Layout.create(1, 8).shard(
        lambda x: psum(split_counts(Counts(x[0])), (REGION,)), in_specs=P(REGION), out_specs=P()
    )
    total = join_counts(jax.jit(sharded)(jnp.stack([many] * 8)))
    assert total.confusion.dtype == np.int64
    assert total.confusion.tolist() == (8 * many.astype(np.int64)).tolist()


def test_thousands_of_scenes_add_up_exactly():
    scene = join_counts(split_counts(Counts(jnp.full((2, 2), 163_840_001, jnp.int32))))
    total = sum([scene] * 5000)
    assert total.confusion.tolist() == [[819_200_005_000] * 2] * 2
    assert total.figures()["oa"] == 0.5


@pytest.mark.parametrize(
    "other", [Counts(np.eye(3, dtype=int)), Counts(np.eye(2, dtype=int), seam=np.eye(2, dtype=int))]
)
def test_counts_of_other_things_do_not_add_up(other):
    with pytest.raises(ConfigError, match="do not add up"):
        Counts(np.eye(2, dtype=int)) + other
