"""Every operation across borders against the same on the whole scene: values and gradients, any grid and mesh."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P

from holojax.borders import Exact
from holojax.errors import ConfigError, LayoutError
from holojax.ops import windows
from holojax.ops.resize import pool, resize
from holojax.ops.sample import bilinear_sample
from holojax.ops.scan import linear_scan
from holojax.ops.selective_scan import selective_scan
from holojax.parallel import DATA, REGION, Layout, RegionGrid, RegionShard
from tests.ops.test_attention import dense

CHANNELS = 4
GRIDS = [(1, 1), (1, 2), (3, 1), (2, 2), (2, 4), (4, 2)]
PROPERTY = settings(max_examples=4, deadline=None, derandomize=True)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def convolve(x, size, stride=1):
    kernel = (random(size, size, CHANNELS, 3, seed=size) / size).astype(x.dtype)
    return lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def padded(x, size, shift):
    """Whole windows of a scene, the first of which reaches out of it where they are shifted."""
    _, h, w, _ = x.shape
    first = size - shift if shift else 0
    marked = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
    return jnp.pad(marked, ((0, 0), (first, -(first + h) % size), (first, -(first + w) % size), (0, 0))), first


def mix_window(tokens, allowed):
    """Stand in for window attention: any token counts by its place, as long as it is allowed."""
    t = tokens.shape[1]
    if allowed is not None:
        tokens = jnp.where(allowed.swapaxes(1, 2), tokens, 0)
    return jnp.einsum("qs,msc->mqc", random(t, t, seed=7), tokens)


def dense_windows(x, size, shift):
    marked, first = padded(x, size, shift)
    cut = windows.cut_windows(marked, size)
    y = mix_window(cut[..., :-1], cut[..., -1:].swapaxes(1, 2) > 0)
    y = windows.merge_windows(y, size, *marked.shape[1:3])
    return y[:, first : first + x.shape[1], first : first + x.shape[2]]


def attend(attention, x, kv_mask=None):
    tokens = x.reshape(x.shape[0], -1, 2, x.shape[-1] // 2)
    y = attention(tokens, jnp.sin(tokens), jnp.cos(tokens), kv_mask)
    return y.reshape(x.shape)


def decays(x):
    return 0.5 + 0.5 * jax.nn.sigmoid(x)


def turn(x, lines):
    """Put steps before lines: what is scanned row after row has its axes swapped."""
    return x.swapaxes(1, 2) if lines == "rows" else x


def selective(scan, x, lines, reverse):
    """Scan with two states a channel; steps are short, so that much of a state arrives at the other end."""
    x = turn(x, lines)
    k = jnp.arange(1, len(reverse) + 1)[:, None, None, None, None]
    b, c, rates = jnp.cos(k * x[..., :2]), jnp.sin(k * x[..., 2:4]), random(len(reverse), x.shape[-1], 2, seed=5)
    return turn(scan(x, 0.2 * jax.nn.sigmoid(k * x), -jnp.exp(rates), b, c, reverse=reverse), lines)


def expand(f):
    """Make a map of one number per channel, so that it is compared like the others."""
    return lambda x: jnp.broadcast_to(f(x, (1, 2), keepdims=True), x.shape) * jnp.cos(x)


# name: (with borders [n h w c], on a whole scene [1 H W c], side of a region must be a multiple of)
METHODS = {
    "convolution 5x5": (
        lambda e, x: convolve(e.pad(x, 2, 2, 2, 2), 5),
        lambda x: convolve(jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), 5),
        1,
    ),
    "convolution of even side": (
        lambda e, x: convolve(e.pad(x, 1, 2, 2, 1), 4),
        lambda x: convolve(jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0))), 4),
        1,
    ),
    "convolution of stride 2": (
        lambda e, x: convolve(e.pad(x, 1, 0, 1, 0), 3, 2),
        lambda x: convolve(jnp.pad(x, ((0, 0), (1, x.shape[1] % 2), (1, x.shape[2] % 2), (0, 0))), 3, 2),
        2,
    ),
    "windows": (lambda e, x: e.map_windows(mix_window, x, 3, 0), lambda x: dense_windows(x, 3, 0), 1),
    "shifted windows": (lambda e, x: e.map_windows(mix_window, x, 4, 1), lambda x: dense_windows(x, 4, 1), 1),
    "attend": (
        lambda e, x: attend(e.attend, x, e.key_mask(*x.shape[1:3])),
        lambda x: attend(lambda *y: dense(*y)[0], x),
        1,
    ),
    "enlarge": (
        lambda e, x: e.resize(x, (3 * x.shape[1], 2 * x.shape[2])),
        lambda x: resize(x, (3 * x.shape[1], 2 * x.shape[2])),
        1,
    ),
    "halve": (
        lambda e, x: e.resize(x, (x.shape[1] // 2, x.shape[2])),
        lambda x: resize(
            jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)), "edge"), (-(-x.shape[1] // 2), x.shape[2])
        ),
        2,
    ),
    "nearest": (
        lambda e, x: e.resize(x, (2 * x.shape[1], 3 * x.shape[2]), "nearest"),
        lambda x: resize(x, (2 * x.shape[1], 3 * x.shape[2]), "nearest"),
        1,
    ),
    "pool": (
        lambda e, x: e.map_pooled(lambda y, _: jnp.sin(y), x, 3),
        lambda x: resize(jnp.sin(pool(x, 3)), x.shape[1:3]),
        1,
    ),
    "sum": (lambda e, x: e.sum(x) * jnp.cos(x), expand(jnp.sum), 1),
    "mean": (lambda e, x: e.mean(x) * jnp.cos(x), expand(jnp.mean), 1),
    "max": (lambda e, x: e.max(x) * jnp.cos(x), expand(jnp.max), 1),
    "norm": (
        lambda e, x: e.norm(x) * jnp.cos(x),
        expand(lambda x, axes, keepdims: jnp.sqrt((x * x).sum(axes, keepdims=keepdims))),
        1,
    ),
    "scan down": (lambda e, x: e.scan(decays(x), x, "rows"), lambda x: linear_scan(decays(x), x, 1), 1),
    "scan up": (lambda e, x: e.scan(decays(x), x, "rows", True), lambda x: linear_scan(decays(x), x, 1, True), 1),
    "scan right": (lambda e, x: e.scan(decays(x), x, "cols"), lambda x: linear_scan(decays(x), x, 2), 1),
    "scan left": (lambda e, x: e.scan(decays(x), x, "cols", True), lambda x: linear_scan(decays(x), x, 2, True), 1),
    "selective scan of rows": (
        lambda e, x: selective(partial(e.selective_scan, lines="rows"), x, "rows", (False,)),
        lambda x: selective(selective_scan, x, "rows", (False,)),
        1,
    ),
    "selective scan of columns back": (
        lambda e, x: selective(partial(e.selective_scan, lines="cols"), x, "cols", (True,)),
        lambda x: selective(selective_scan, x, "cols", (True,)),
        1,
    ),
    "sample": (lambda e, x: sampled(e, x), lambda x: dense_sampled(x), 1),
    "table": (
        lambda e, x: x + e.spread(random(5, 4, CHANNELS, seed=3), *x.shape[1:3]),
        lambda x: x + resize(random(1, 5, 4, CHANNELS, seed=3), x.shape[1:3], "bicubic"),
        1,
    ),
}


def dense_halved(x):
    """Halve the rows; a row without a partner stays as it is."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)), "edge")
    return resize(x, (x.shape[1] // 2, x.shape[2]))


def complete(x, size):
    """Extend a map with zeros at the bottom and right."""
    return jnp.pad(x, ((0, 0), (0, size[0] - x.shape[1]), (0, size[1] - x.shape[2]), (0, 0)))


def wander(x, rows, cols):
    """Positions relative to each place, which depend on the map and lead over all the scene and out of it."""
    reach = 4 * x[..., :2]
    return jnp.stack([rows, cols], -1) + reach


def sampled(e, x):
    n, h, w, _ = x.shape
    rows, cols = jnp.meshgrid(jnp.arange(h, dtype=jnp.float32), jnp.arange(w, dtype=jnp.float32), indexing="ij")
    return e.sample(x, wander(x, rows, cols).reshape(n, h * w, 2)).reshape(x.shape)


def dense_sampled(x):
    _, h, w, _ = x.shape
    rows, cols = jnp.meshgrid(jnp.arange(h, dtype=jnp.float32), jnp.arange(w, dtype=jnp.float32), indexing="ij")
    return bilinear_sample(x, wander(x, rows, cols).reshape(1, h * w, 2)).reshape(x.shape)


def across(method, grid, devices, valid, data=1):
    """Turn a function of borders and maps into one of stacks of regions [b r h w c], on a mesh."""
    layout, place = Layout.create(data=data, region=devices), P(DATA, REGION)

    def body(x, valid):
        b, r = x.shape[:2]
        borders = Exact(
            shard=RegionShard(grid), scenes=b, valid=valid.reshape(-1, *valid.shape[2:]), axes=(DATA, REGION)
        )
        y = method(borders, x.reshape(-1, *x.shape[2:]))
        return y.reshape(b, r, *y.shape[1:])

    sharded = layout.shard(body, in_specs=(place, place), out_specs=place)
    cut = jax.device_put(grid.split(np.asarray(valid)), layout.scenes)
    return lambda x: sharded(x, cut)


def stitched(grid, stack):
    return grid.stitch(np.asarray(stack), stack.shape[2] * grid.rows, stack.shape[3] * grid.cols)


def on_regions(method, grid, devices, valid, x):
    """Run a method on whole scenes, cut and stitched on the host."""
    y = jax.jit(across(method, grid, devices, valid))(grid.split(np.asarray(x)))
    return stitched(grid, y)


def value_and_gradient(f, x, weight):
    """Return f(x), 0 where the weight is, and the gradient of the weighted sum."""

    def loss(x):
        y = jnp.where(weight != 0, f(x), 0)
        return (y * weight).sum(), y

    (_, y), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    return y, grad


def on_regions_with_gradient(method, grid, devices, valid, x, weight, data=1):
    """`value_and_gradient` of whole scenes, cut and stitched on the host."""
    f = across(method, grid, devices, valid, data)
    pair = value_and_gradient(f, *(grid.split(np.asarray(part)) for part in (x, weight)))
    return tuple(stitched(grid, part) for part in pair)


def weights(mask, channels):
    """Weigh the places of a mask [b H W] differently, the others by 0."""
    weight = np.cos(np.arange(mask.size * channels, dtype=np.float32)).reshape(*mask.shape, channels)
    return np.where(mask[..., None], weight, np.float32(0))


def close(found, expected, relative, what):
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=relative * scale, rtol=0, err_msg=what)


@pytest.mark.parametrize("name", METHODS)
@PROPERTY
@given(
    grid=st.sampled_from(GRIDS),
    devices=st.sampled_from([1, 2, 4, 8]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    data=st.sampled_from([2, 1]),
    missing=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_a_cut_scene_gives_what_the_whole_one_gives(name, grid, devices, size, data, missing):
    method, twin, multiple = METHODS[name]
    grid = RegionGrid(*grid)
    devices = math.gcd(devices, grid.count)
    data = min(data, 8 // devices)
    h, w = (s * multiple for s in size)
    canvas = (grid.rows * h, grid.cols * w)
    # Two scenes: one fills the canvas, the other ends before it; beyond its end lies rubbish.
    ends = [canvas, tuple(max(full - less, 1) for full, less in zip(canvas, missing, strict=True))]
    x = random(2, *canvas, CHANNELS)
    valid = np.zeros((2, *canvas), bool)
    for i, (rows, cols) in enumerate(ends):
        valid[i, :rows, :cols] = True

    twins = [jax.eval_shape(twin, x[i : i + 1, :rows, :cols]) for i, (rows, cols) in enumerate(ends)]
    mask = np.zeros((2, *twins[0].shape[1:3]), bool)
    for i, part in enumerate(twins):
        mask[i, : part.shape[1], : part.shape[2]] = True
    weight = weights(mask, twins[0].shape[-1])

    def whole(x):
        parts = (twin(x[i : i + 1, :rows, :cols]) for i, (rows, cols) in enumerate(ends))
        return jnp.concatenate([complete(part, mask.shape[1:]) for part in parts])

    found, grad = on_regions_with_gradient(method, grid, devices, valid, x, weight, data)
    expected, expected_grad = value_and_gradient(whole, x, weight)
    close(found, expected, 2e-6, "values")
    close(grad, expected_grad, 1e-5, "gradient")


@pytest.mark.parametrize("name", METHODS)
@settings(PROPERTY, max_examples=2)
@given(grid=st.sampled_from(GRIDS[1:]), size=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99))
def test_holes_in_a_scene_are_invisible_and_alike_on_any_grid(name, grid, size, seed):
    method, _, multiple = METHODS[name]
    grid = RegionGrid(*grid)
    canvas = grid.rows * size[0] * multiple, grid.cols * size[1] * multiple
    valid = np.random.default_rng(seed).random((1, *canvas)) > 0.3
    x = random(1, *canvas, CHANNELS, seed=seed)

    # A place of the result counts if any of the pixels that it stands for is valid.
    shape = jax.eval_shape(across(method, RegionGrid(1, 1), 1, valid), x[:, None]).shape[2:]
    mask = valid
    for axis, extent in ((1, shape[0]), (2, shape[1])):
        if extent >= mask.shape[axis]:
            mask = mask.repeat(extent // mask.shape[axis], axis)
        else:
            mask = mask.reshape(*mask.shape[:axis], extent, -1, *mask.shape[axis + 1 :]).any(axis + 1)
    weight = weights(mask, shape[-1])

    expected, expected_grad = on_regions_with_gradient(method, RegionGrid(1, 1), 1, valid, x, weight)
    found, grad = on_regions_with_gradient(method, grid, grid.count, valid, x, weight)
    close(found, expected, 4e-6, "values")
    close(grad, expected_grad, 1e-5, "gradient")
    np.testing.assert_array_equal(grad[~valid], 0)
    rubbish = jnp.where(valid[..., None], x, 100.0)
    again, _ = on_regions_with_gradient(method, grid, grid.count, valid, rubbish, weight)
    np.testing.assert_array_equal(again, found)


def taps(extent, of):
    """Bilinear weights [extent, of] of places in a map of `of` places, beyond which nothing lies."""
    source = (np.arange(extent) + 0.5) * of / extent - 0.5
    weight = np.zeros((extent, of))
    for i, place in enumerate(np.floor(source).astype(int)):
        for j, share in ((place, place + 1 - source[i]), (place + 1, source[i] - place)):
            if 0 <= j < of:
                weight[i, j] += share
    return weight


def mean_of_valid(rows, cols, x, valid):
    """Average valid places with these weights; zero where there are none. All in NumPy, [H W c] and [H W]."""
    total = np.einsum("ih,jw,hwc->ijc", rows, cols, np.where(valid[..., None], x, 0))
    weight = np.einsum("ih,jw,hw->ij", rows, cols, valid)[..., None]
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-9)


def resized_by_hand(x, valid, size):
    return mean_of_valid(taps(size[0], x.shape[0]), taps(size[1], x.shape[1]), x, valid)


def pooled_by_hand(x, valid, bins):
    """Pool the valid extent, take the sine, resize to that extent; places beyond it do not count."""
    extent = [np.flatnonzero(valid.any(1 - axis)).max() + 1 for axis in (0, 1)]
    member = [
        np.array([[i * e // bins <= p < -(-(i + 1) * e // bins) for p in range(n)] for i in range(bins)], float)
        for e, n in zip(extent, x.shape, strict=False)
    ]
    filled = np.einsum("ih,jw,hw->ij", *member, valid) > 0
    spread = resized_by_hand(np.sin(mean_of_valid(*member, x, valid)), filled, extent)
    return complete(spread[None], x.shape)[0]


def scanned_by_hand(x, valid, axis, reverse):
    x, valid = (np.moveaxis(y, axis, 0)[:: -1 if reverse else 1] for y in (x, valid))
    state, states = np.zeros_like(x[0]), []
    for row, there in zip(x, valid, strict=True):
        state = np.where(there[..., None], (0.5 + 0.5 / (1 + np.exp(-row))) * state + row, state)
        states.append(state)
    return np.moveaxis(np.stack(states)[:: -1 if reverse else 1], 0, axis)


BY_HAND = {
    "enlarge": lambda x, valid: resized_by_hand(x, valid, (3 * x.shape[0], 2 * x.shape[1])),
    "halve": lambda x, valid: resized_by_hand(x, valid, (x.shape[0] // 2, x.shape[1])),
    "pool": lambda x, valid: pooled_by_hand(x, valid, 3),
    "scan down": lambda x, valid: scanned_by_hand(x, valid, 0, False),
    "scan left": lambda x, valid: scanned_by_hand(x, valid, 1, True),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_scenes_with_holes_give_what_numpy_gives(name):
    grid, x = RegionGrid(2, 4), random(2, 8, 12, CHANNELS)
    valid = np.random.default_rng(1).random((2, 8, 12)) > 0.4
    valid[0, :5, 2:8] = valid[1, :, 7:] = False  # a hole wider than a region; a scene that ends early
    found = on_regions(METHODS[name][0], grid, 4, valid, x)
    for i in range(2):
        expected = BY_HAND[name](np.asarray(x[i], np.float64), valid[i])
        # Where a map keeps its size, its valid places count.
        counts = valid[i][..., None] if expected.shape[:2] == valid[i].shape else True
        np.testing.assert_allclose(np.where(counts, found[i] - expected, 0), 0, atol=5e-6)


def test_half_precision_gives_what_the_whole_scene_gives():
    """All methods in one program: none may round a coordinate, a count or a sum to bfloat16."""
    grid, x = RegionGrid(2, 4), random(1, 8, 16, CHANNELS).astype(jnp.bfloat16)
    layout, place = Layout.create(region=4), P(DATA, REGION)

    def body(x):
        borders = Exact(RegionShard(grid), 1, axes=(DATA, REGION))
        return [method(borders, x.reshape(-1, *x.shape[2:]))[None] for method, _, _ in METHODS.values()]

    found = jax.jit(layout.shard(body, in_specs=place, out_specs=place))(grid.split(x))
    twins = jax.jit(lambda x: [twin(x) for _, twin, _ in METHODS.values()])(x.astype(jnp.float32))
    for name, a, b in zip(METHODS, found, twins, strict=True):
        close(stitched(grid, a).astype(np.float32), b, 0.03, name)


def test_samples_far_from_the_corner_are_read_where_they_are():
    """Region 7 begins at column 1680, where bfloat16 counts in eights."""
    grid, w = RegionGrid(1, 8), 240
    x = random(1, 2, 8 * w, 1).astype(jnp.bfloat16)

    def to_the_right(e, x):
        rows, cols = jnp.meshgrid(jnp.arange(2), jnp.arange(w) + 3, indexing="ij")
        places = jnp.stack([rows, cols], -1).reshape(1, -1, 2).astype(jnp.bfloat16)  # exact: all below 256
        return e.sample(x, jnp.tile(places, (len(x), 1, 1))).reshape(x.shape)

    found = on_regions(to_the_right, grid, 4, np.ones(x.shape[:3], bool), x)
    expected = jnp.pad(x, ((0, 0), (0, 0), (0, 3), (0, 0)))[:, :, 3:]
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(jnp.float32))


@PROPERTY
@given(
    grid=st.sampled_from(GRIDS),
    devices=st.sampled_from([1, 2, 4, 8]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    distance=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
)
def test_rolling_the_canvas(grid, devices, size, distance):
    grid = RegionGrid(*grid)
    x = random(2, grid.rows * size[0], grid.cols * size[1], 2)
    valid = np.ones(x.shape[:3], bool)
    found = on_regions(lambda e, x: e.roll(x, *distance), grid, math.gcd(devices, grid.count), valid, x)
    np.testing.assert_array_equal(found, jnp.roll(x, distance, (1, 2)))


@pytest.mark.parametrize(("grid", "devices"), [((1, 1), 1), ((2, 2), 2), ((4, 2), 8)])
def test_enlarging_by_no_whole_factor(grid, devices):
    grid = RegionGrid(*grid)
    x = random(1, 4 * grid.rows, 3 * grid.cols, 2)
    found = on_regions(lambda e, x: e.resize(x, (7, 5)), grid, devices, np.ones(x.shape[:3], bool), x)
    np.testing.assert_allclose(found, resize(x, (7 * grid.rows, 5 * grid.cols)), atol=2e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_batch_statistics_leave_padding_out(devices):
    grid, x = RegionGrid(4, 2), random(2, 12, 8, 3) + 3
    valid = np.zeros((2, 12, 8), bool)
    valid[0, :7], valid[1, :, :5] = True, True
    # A map of half the resolution: its places are valid if any of their pixels is.
    wide, mask = np.repeat(np.repeat(valid, 2, 1), 2, 2), valid
    wide[0, 13] = False  # the second pixel row of the last valid row

    layout, place = Layout.create(region=devices), P(DATA, REGION)

    def body(x, valid):
        borders = Exact(
            shard=RegionShard(grid), scenes=2, valid=valid.reshape(-1, *valid.shape[2:]), axes=(DATA, REGION)
        )
        return borders.moments(x.reshape(-1, *x.shape[2:]))

    sharded = jax.jit(layout.shard(body, in_specs=(place, place), out_specs=P()))
    mean, variance, count = sharded(grid.split(x), grid.split(wide))
    kept = np.asarray(x)[mask]
    assert int(count) == len(kept)
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, kept.var(0), rtol=1e-5)


def test_maxima_that_several_places_share_share_their_gradient():
    grid, x = RegionGrid(2, 2), jnp.zeros((1, 4, 4, 1)).at[0, 0, 0].set(2).at[0, 3, 3].set(2)
    f = across(lambda e, x: e.max(x), grid, 4, np.ones((1, 4, 4), bool))
    grad = stitched(grid, jax.jit(jax.grad(lambda x: f(x).sum()))(grid.split(x)))[0, ..., 0]
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[3, 3] = 2  # four regions have the scene's maximum
    np.testing.assert_allclose(grad, expected, rtol=1e-6)


def test_a_token_without_a_place_counts_once_in_a_scene():
    grid, x = RegionGrid(2, 4), random(2, 6, 8, 4)
    valid = np.ones((2, 6, 8), bool)
    valid[1, 4:] = False

    def method(e, x):
        extra = jnp.full((x.shape[0], 1, 2, 2), 0.7)
        tokens = jnp.concatenate([extra, x.reshape(x.shape[0], -1, 2, 2)], 1)
        y = e.attend(tokens, tokens, tokens, e.key_mask(*x.shape[1:3], 1))
        return y[:, 1:].reshape(x.shape) + y[:, :1].reshape(-1, 1, 1, 4)

    found = on_regions(method, grid, 4, valid, x)
    for i, rows in enumerate((6, 4)):
        tokens = jnp.concatenate([jnp.full((1, 1, 2, 2), 0.7), x[i : i + 1, :rows].reshape(1, -1, 2, 2)], 1)
        y = dense(tokens, tokens, tokens, None)[0]
        expected = y[:, 1:].reshape(1, rows, 8, 4) + y[:, :1].reshape(1, 1, 1, 4)
        np.testing.assert_allclose(found[i : i + 1, :rows], expected, atol=2e-6)


@pytest.mark.parametrize("size", [(3, 3), (8, 4), (6, 1)])
def test_a_place_is_valid_if_it_covers_any_valid_pixel_whatever_its_size(size):
    valid = np.random.default_rng(0).random((1, 4, 8)) < 0.3
    expected = np.zeros((1, size[0], 2 * size[1]), bool)  # two regions of 4 x 4 pixels
    for row, col in np.ndindex(*expected.shape[1:]):
        rows, cols = (
            slice(place * 4 // extent, -(-(place + 1) * 4 // extent))
            for place, extent in zip((row, col), size, strict=True)
        )
        expected[0, row, col] = valid[0, rows, cols].any()
    x = random(1, 4, 8, 1)
    found = on_regions(lambda e, x: e.valid_tokens(*size)[..., None].astype(jnp.float32), RegionGrid(1, 2), 2, valid, x)
    np.testing.assert_array_equal(np.asarray(found)[..., 0] > 0, expected)


def test_what_cannot_be_is_refused():
    grid, x = RegionGrid(1, 2), random(1, 4, 8, 2)

    def run(method):
        return on_regions(method, grid, 2, np.ones((1, 4, 8), bool), x)

    with pytest.raises(ConfigError, match="bilinear or nearest, found 'bicubic'"):
        run(lambda e, x: e.resize(x, (8, 8), "bicubic"))
    with pytest.raises(ConfigError, match="unknown axis 'depth'; known: rows, cols"):
        run(lambda e, x: e.scan(x, x, "depth"))
    with pytest.raises(ConfigError, match="unknown lines 'depth'; known: rows, cols"):
        run(lambda e, x: e.selective_scan(x, x[None], -jnp.ones((1, 2, 2)), x[None], x[None], "depth"))
    with pytest.raises(ConfigError, match="at least 0, found top=0, bottom=-1"):
        run(lambda e, x: e.pad(x, 0, -1, 0, 0))
    with pytest.raises(ConfigError, match="expected a floating-point map, found int32"):
        run(lambda e, x: e.max(x.astype(jnp.int32)))
    with pytest.raises(LayoutError, match="scenes=3 with 1 regions each on this device: expected 3 maps, found 1"):
        run(lambda e, x: dataclasses.replace(e, scenes=3, valid=None).mean(x))


def test_regions_that_do_not_spread_over_the_devices_are_refused():
    layout, place = Layout.create(region=4), P(DATA, REGION)

    def body(x):
        return Exact(RegionShard(RegionGrid(3, 1)), scenes=1).pad(x[:, 0], 1, 1, 1, 1)[:, None]

    with pytest.raises(LayoutError, match="3 x 1 regions cannot be spread evenly over 4 devices"):
        layout.shard(body, in_specs=place, out_specs=place)(random(1, 4, 2, 2, 1))
