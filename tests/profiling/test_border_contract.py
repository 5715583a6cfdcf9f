"""Exact borders send what their formulas state: every method, forward and backward, on any grid and mesh."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from holojax.borders import Exact
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from holojax.parallel.exchange import Held, legal_plan
from holojax.profiling.contract import borders as contract
from holojax.profiling.contract.collectives import attention, halo, ring_sum, roll
from tests.profiling.test_contract import block_of, check, few, meshes

SCENES, H, W, C = 2, 4, 6, 3
pixels = st.sampled_from([True, False])  # whether some pixels are not valid


def check_method(mesh, masked, method, stated, backward=None):
    """Compare what method(borders, maps [n h w c]), which gives maps, sends with what is stated."""
    grid, layout = mesh

    def f(x, *marks):
        b, r = x.shape[:2]
        valid = (marks[0] > 0).reshape(b * r, *marks[0].shape[2:]) if marks else None
        borders = Exact(RegionShard(grid), b, valid=valid, axes=(DATA, REGION))
        y = method(borders, x.reshape(b * r, *x.shape[2:]))
        return y.reshape(b, r, *y.shape[1:])

    # Maps, and where pixels may be invalid their marks at twice the resolution.
    shapes = [(SCENES, grid.count, H, W, C), (SCENES, grid.count, 2 * H, 2 * W)]
    check(f, layout, shapes[: 1 + masked], stated, backward)


def blocks(mesh):
    return block_of((SCENES, mesh[0].count, H, W, C), mesh[1])


@few
@given(meshes(), pixels, st.tuples(*[st.sampled_from([3, 7, 2, 4, 0, 1, 5, 6])] * 4))
def test_pad_sends_a_halo(mesh, masked, widths):
    check_method(mesh, masked, lambda borders, x: borders.pad(x, *widths), halo(blocks(mesh), widths, mesh[0]))


@few
@given(meshes(), pixels, st.integers(-7, 7), st.integers(-7, 7))
def test_roll_sends_what_it_rolls(mesh, masked, rows, cols):
    assume(mesh[0].rows > 1 or mesh[0].cols == 1)  # where a row is the whole ring, XLA may send once what is sent twice
    check_method(mesh, masked, lambda borders, x: borders.roll(x, rows, cols), roll(blocks(mesh), rows, cols, mesh[0]))


@few
@given(meshes(), pixels, st.sampled_from([5, 3, 2, 4, 1]), st.booleans())
def test_windows_send_what_completes_them(mesh, masked, size, shifted):
    shift = size // 2 if shifted else 0

    def mean_of_windows(x, allowed):
        weights = jnp.ones_like(x[:, None, :, 0]) if allowed is None else allowed.astype(x.dtype)
        return x + jnp.einsum("mqs,msc->mc", weights, x)[:, None]

    stated = contract.map_windows(blocks(mesh), size, shift, mesh[0])
    check_method(mesh, masked, lambda borders, x: borders.map_windows(mean_of_windows, x, size, shift), stated)


@few
@given(meshes(), pixels, st.sampled_from([(8, 12), (8, 3), (2, 12), (2, 3), (4, 6)]))
def test_resizing_sends_one_row_where_the_map_grows(mesh, masked, size):
    stated = contract.resize(blocks(mesh), size, mesh[0])
    check_method(mesh, masked, lambda borders, x: borders.resize(x, size), stated)


def test_resizing_to_the_nearest_sends_nothing():
    mesh = RegionGrid(2, 4), Layout.create(region=8)
    check_method(mesh, True, lambda borders, x: borders.resize(x, (8, 3), "nearest"), {})


@few
@given(meshes(), pixels, st.integers(1, 3))
def test_pooling_sums_bins(mesh, masked, bins):
    assume(mesh[1].region > 1)
    weights = jnp.ones((C, 5))
    block = blocks(mesh)
    check_method(
        mesh,
        masked,
        lambda borders, x: borders.map_pooled(lambda x, _: jnp.sin(x @ weights), x, bins),
        contract.map_pooled(block, bins, 5, masked=masked),
        contract.map_pooled(block, bins, 5, masked=masked, backward=True),
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "norm", "max"])
def test_statistics_send_a_few_numbers_a_channel(name, masked):
    mesh = RegionGrid(2, 4), Layout.create(data=2, region=4)
    block = blocks(mesh)
    formula = {"sum": contract.sums, "norm": contract.sums, "mean": contract.means, "max": contract.maxima}[name]
    backward = formula(block) if formula is contract.sums else formula(block, backward=True)
    check_method(mesh, masked, lambda borders, x: x * getattr(borders, name)(x), formula(block), backward)


@pytest.mark.parametrize("masked", [False, True])
def test_batch_statistics_send_their_moments(masked):
    mesh = RegionGrid(2, 4), Layout.create(data=2, region=4)

    def normalized(borders, x):
        mean, variance, _ = borders.moments(x)
        return (x - mean) / jnp.sqrt(variance + 1)

    check_method(mesh, masked, normalized, contract.moments(C), contract.moments(C, backward=True))


@few
@given(meshes(), pixels, st.sampled_from(["rows", "cols"]), st.booleans())
def test_a_scan_sends_edges(mesh, masked, axis, reverse):
    check_method(
        mesh,
        masked,
        lambda borders, x: borders.scan(jax.nn.sigmoid(x), jnp.sin(x), axis, reverse),
        contract.scan(blocks(mesh), axis, mesh[0]),
    )


@settings(few, max_examples=3)
@given(meshes(), pixels, st.sampled_from(["rows", "cols"]), st.booleans())
def test_a_selective_scan_sends_states_of_the_size_of_an_edge(mesh, masked, lines, reverse):
    states = 2

    def scan(borders, x):
        x = x.swapaxes(1, 2) if lines == "rows" else x
        steps, reads = jax.nn.sigmoid(x)[None], jnp.cos(x[None, ..., :states])
        y = borders.selective_scan(x, steps, -jnp.ones((1, C, states)), reads, 2 * reads, lines, (reverse,))
        return y.swapaxes(1, 2) if lines == "rows" else y

    check_method(mesh, masked, scan, contract.selective_scan(blocks(mesh), states, lines, mesh[0]))


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_sampling_sends_the_map_once_round(devices):
    mesh = RegionGrid(2, 4), Layout.create(region=devices)

    def shifted(borders, x):
        places = jnp.moveaxis(jnp.indices(x.shape[1:3], jnp.float32), 0, -1).reshape(1, -1, 2)
        return borders.sample(x, places + x.reshape(len(x), -1, C)[..., :2]).reshape(x.shape)

    stated, backward = (ring_sum(blocks(mesh), devices, backward=back) for back in (False, True))
    check_method(mesh, True, shifted, stated, backward)


# Not with two groups of devices: their one hop back is the one forward, and XLA sends it once.
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("devices", "heads"), [(1, 3), (4, 4), (4, 3), (8, 2)])
def test_attention_sends_what_its_exchange_states(devices, heads, masked):
    mesh = RegionGrid(2, 4), Layout.create(region=devices)
    b, r, h, w, c = blocks(mesh)

    def attend(borders, x):
        tokens = jnp.repeat(x.reshape(len(x), h * w, 1, c), heads, axis=2)
        out = borders.attend(tokens, jnp.sin(tokens), jnp.cos(tokens), borders.key_mask(h, w))
        return out.reshape(len(x), h, w, heads * c)

    plan = legal_plan("hybrid", Held(r * h * w, r * h * w, heads, c, batch=b, masked=masked), devices)
    stated, backward = (attention(plan, backward=back) for back in (False, True))
    check_method(mesh, masked, attend, stated, backward)
