"""RegionGrid and the neighbour primitive against plain slicing of the whole scene."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from holojax.errors import LayoutError
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.collectives import from_neighbour, from_region, halo

GRIDS = st.builds(RegionGrid, st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    grid=GRIDS,
    height=st.integers(4, 23),
    width=st.integers(4, 23),
    multiple=st.integers(1, 5),
    banded=st.booleans(),
)
def test_stitch_undoes_split(grid, height, width, multiple, banded):
    scene = np.arange(2 * height * width * 2).reshape(2, height, width, 2)
    scene = scene if banded else scene[..., 0]
    stack = grid.split(scene, multiple=multiple, fill=-1)
    assert stack.shape[1] == grid.count
    assert stack.shape[2] % multiple == stack.shape[3] % multiple == 0
    np.testing.assert_array_equal(grid.stitch(stack, height, width), scene)
    assert (stack == -1).sum() == stack.size - scene.size, "padding is the fill value and nothing else"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(grid=GRIDS, height=st.integers(4, 23), width=st.integers(4, 23))
def test_windows_are_the_regions_of_split(grid, height, width):
    scene = np.arange(1, height * width + 1).reshape(1, height, width)
    stack = grid.split(scene)
    for index in range(grid.count):
        top, left, h, w = grid.window(index, height, width)
        np.testing.assert_array_equal(stack[0, index, :h, :w], scene[0, top : top + h, left : left + w])
        assert stack[0, index].sum() == scene[0, top : top + h, left : left + w].sum()


def test_isolated_regions_pad_less_than_a_pixel_a_region():
    assert RegionGrid(4, 2).region_size(9, 9) == (3, 5)
    assert RegionGrid.of_power(3) == RegionGrid(2, 4)


def test_a_scene_smaller_than_the_grid_is_refused():
    with pytest.raises(LayoutError, match="smaller than the 4 x 2 region grid"):
        RegionGrid(4, 2).split(np.zeros((1, 3, 8)))


def test_layouts_that_do_not_fit_say_what_would():
    with pytest.raises(LayoutError, match=r"needs 16 devices.*found 8"):
        Layout.create(data=2, region=8)
    with pytest.raises(LayoutError, match=r"Use one of \[1, 2, 3, 6\] devices"):
        Layout.create(region=4).regions_per_device(6)
    assert Layout.create().region == len(jax.devices())
    assert Layout.fitting(6).region == 6
    assert Layout.fitting(9).region == 3


def test_describe_says_which_devices_hold_what():
    layout = Layout.create(data=2, region=4)
    assert layout.describe() == "8 cpu device(s): data 2 x region 4"
    assert layout.describe(8) == f"{layout.describe()}; 8 regions, 2 a device"


def _on_regions(layout, f, x):
    return jax.jit(layout.shard(f, in_specs=P(DATA, REGION), out_specs=P(DATA, REGION)))(x)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("wrap", [False, True])
def test_from_region_is_a_shift_of_the_region_axis(devices, wrap):
    shard = RegionShard(RegionGrid(2, 4))
    x = jnp.arange(1.0, 17.0).reshape(2, 8, 1)
    for offset in (-9, -3, -1, 0, 1, 2, 5, 8):
        moved = _on_regions(Layout.create(region=devices), lambda x, o=offset: from_region(x, o, shard, wrap=wrap), x)
        expected = jnp.roll(x, -offset, axis=1)
        if not wrap:
            source = jnp.arange(8) + offset
            expected = jnp.where(((source >= 0) & (source < 8))[None, :, None], expected, 0)
        np.testing.assert_array_equal(moved, expected, err_msg=f"offset {offset}")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    grid=st.sampled_from([(1, 1), (1, 2), (2, 2), (2, 4), (4, 2), (8, 1)]),
    devices=st.sampled_from([1, 2, 4, 8]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    widths=st.tuples(*[st.integers(0, 5)] * 4),
)
def test_halo_is_a_window_of_the_zero_padded_scene(grid, devices, size, widths):
    grid = RegionGrid(*grid)
    layout = Layout.create(region=min(devices, grid.count))
    (h, w), (top, bottom, left, right) = size, widths
    scene = np.random.default_rng(0).normal(size=(1, grid.rows * h, grid.cols * w, 2)).astype(np.float32)
    found = _on_regions(layout, lambda x: halo(x, *widths, RegionShard(grid)), grid.split(scene))
    padded = np.pad(scene, ((0, 0), (top, bottom), (left, right), (0, 0)))
    for index in range(grid.count):
        i, j = index // grid.cols * h, index % grid.cols * w
        np.testing.assert_array_equal(found[0, index], padded[0, i : i + h + top + bottom, j : j + w + left + right])


def test_neighbours_beyond_a_row_of_the_grid_are_zero_and_gradients_return_to_their_region():
    grid, layout = RegionGrid(2, 2), Layout.create(region=4)
    x = jnp.arange(1.0, 5.0).reshape(1, 4, 1)

    def right(x):
        return _on_regions(layout, lambda x: from_neighbour(x, 0, 1, RegionShard(grid)), x)

    np.testing.assert_array_equal(right(x)[0, :, 0], [2, 0, 4, 0])
    weights = jnp.array([1.0, 10, 100, 1000]).reshape(1, 4, 1)
    np.testing.assert_array_equal(jax.grad(lambda x: (right(x) * weights).sum())(x)[0, :, 0], [0, 1, 0, 100])
