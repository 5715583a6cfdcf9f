"""No hidden communication: what compiled programs send is what the formulas state, forward and backward."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard, collectives
from holojax.profiling import differences, totals, traffic
from holojax.profiling.contract import collectives as contract

PLACE = P(DATA, REGION)
few = settings(max_examples=8, deadline=None, derandomize=True)
# The richest first, for the first example is drawn from the front.
grids = st.sampled_from([(2, 4), (4, 2), (3, 2), (2, 2), (1, 4), (4, 1), (1, 1)])


@st.composite
def meshes(draw):
    """A region grid, and a layout whose devices divide it."""
    grid = RegionGrid(*draw(grids))
    devices = draw(st.sampled_from([n for n in (8, 6, 4, 3, 2, 1) if grid.count % n == 0]))
    data = draw(st.sampled_from([n for n in (1, 2) if n * devices <= 8]))
    return grid, Layout.create(data=data, region=devices)


def sent(f, layout, *shapes, out_specs=PLACE):
    """Count what f sends for stacks of these shapes, float32 [b r ...], and what its gradient adds to that."""
    stacks = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout.scenes) for shape in shapes]
    sharded = layout.shard(f, in_specs=(PLACE,) * len(shapes), out_specs=out_specs)
    gradient = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(layout.mesh, out_specs)),
        jax.eval_shape(sharded, *stacks),
    )

    def both(gradient, *x):
        out, pull = jax.vjp(sharded, *x)
        return out, pull(gradient)

    forward, total = totals(traffic(sharded, *stacks)), totals(traffic(both, gradient, *stacks))
    return forward, {kind: total[kind] - forward.get(kind, 0) for kind in total}


def block_of(shape, layout):
    return (shape[0] // layout.data, shape[1] // layout.region, *shape[2:])


def check(f, layout, shapes, stated, backward=None):
    """What f and its gradient send is what is stated; backward as much as forward unless said otherwise."""
    forward, added = sent(f, layout, *shapes)
    assert differences(forward, stated) == []
    assert differences(added, stated if backward is None else backward) == []


@few
@given(meshes(), st.integers(-9, 9), st.booleans())
def test_a_region_s_value_arrives_in_one_block(mesh, offset, wrap):
    grid, layout = mesh
    shape = (2, grid.count, 3, 5)
    check(
        lambda x: collectives.from_region(x, offset, RegionShard(grid), wrap=wrap),
        layout,
        [shape],
        contract.from_region(block_of(shape, layout), offset, layout.region, wrap=wrap),
    )


@few
@given(meshes(), st.integers(-2, 2), st.integers(-2, 2))
def test_neighbours_send_one_block(mesh, rows, cols):
    grid, layout = mesh
    shape = (2, grid.count, 3, 5)
    check(
        lambda x: collectives.from_neighbour(x, rows, cols, RegionShard(grid)),
        layout,
        [shape],
        contract.from_neighbour(block_of(shape, layout), rows, cols, grid),
    )


@few
@given(meshes(), st.tuples(*[st.sampled_from([2, 7, 3, 4, 0, 1, 5, 6])] * 4))
def test_a_halo_is_its_strips(mesh, widths):
    grid, layout = mesh
    shape = (2, grid.count, 3, 5, 2)
    check(
        lambda x: collectives.halo(x, *widths, RegionShard(grid)),
        layout,
        [shape],
        contract.halo(block_of(shape, layout), widths, grid),
    )


def test_the_halo_of_a_convolution_is_as_large_as_on_paper():
    # 2 x 4 regions of 32 x 32 places and 64 channels, halo 3: 3 rows of 32 up and down, 3 columns of 38 left and right.
    assert contract.halo((1, 1, 32, 32, 64), (3, 3, 3, 3), RegionGrid(2, 4)) == {
        "collective-permute": 4 * 64 * 2 * 3 * (32 + 38)
    }


@few
@given(meshes(), st.integers(-9, 9), st.integers(-9, 9))
def test_a_roll_is_one_block_of_rows_and_one_of_columns(mesh, rows, cols):
    grid, layout = mesh
    assume(grid.rows > 1 or grid.cols == 1)  # where a row is the whole ring, XLA may send once what is sent twice
    shape = (2, grid.count, 3, 5, 2)
    check(
        lambda x: collectives.roll(x, rows, cols, RegionShard(grid)),
        layout,
        [shape],
        contract.roll(block_of(shape, layout), rows, cols, grid),
    )


@few
@given(meshes(), st.sampled_from(["rows", "cols"]), st.booleans())
def test_a_recurrence_across_regions_sends_edges_in_a_logarithm_of_rounds(mesh, along, reverse):
    grid, layout = mesh
    shape = (2, grid.count, 1, 5)
    check(
        lambda a, b: collectives.entering_state(a, b, along, RegionShard(grid), reverse=reverse),
        layout,
        [shape, shape],
        contract.entering_state(block_of(shape, layout), along, grid),
    )


# With two devices the one hop back is the one forward, and XLA sends it once.
@pytest.mark.parametrize("devices", [1, 4, 8])
def test_what_travels_round_the_ring_passes_every_device_once(devices):
    layout, shape = Layout.create(region=devices), (1, 8, 3)

    def f(stay, travel):
        return collectives.ring_sum(lambda stay, travel, _: stay * travel**2, REGION, stay, travel)

    block = block_of(shape, layout)
    stated, backward = (contract.ring_sum(block, devices, backward=back) for back in (False, True))
    check(f, layout, [shape, shape], stated, backward)


def test_sums_are_one_all_reduce_and_their_gradient_sends_nothing():
    layout = Layout.create(data=2, region=4)

    def f(x, y):
        return collectives.psum((x, y[..., 0]), (DATA, REGION))

    forward, backward = sent(f, layout, (2, 4, 3, 5), (2, 4, 2, 7), out_specs=P())
    stated = contract.psum((1, 1, 3, 5), (1, 1, 2))
    assert stated == {"all-reduce": 4 * (15 + 2)}
    assert differences(forward, stated) == []
    assert differences(backward, {}) == []


def test_parameters_are_summed_once_in_the_backward_pass():
    layout = Layout.create(data=2, region=4)
    scale = jax.ShapeDtypeStruct((5, 7), jnp.float32, sharding=layout.replicated)
    x = jax.ShapeDtypeStruct((2, 4, 3, 5), jnp.float32, sharding=layout.scenes)

    def f(scale, x):
        return collectives.psum((jnp.sin(x @ scale) ** 2).sum(), (DATA, REGION))

    loss = layout.shard(f, in_specs=(P(), PLACE), out_specs=P())
    assert totals(traffic(loss, scale, x)) == contract.psum(())
    assert totals(traffic(jax.grad(loss), scale, x)) == contract.psum((5, 7))
