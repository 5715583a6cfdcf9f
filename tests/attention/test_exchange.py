"""Attention across devices against dense attention on one: values, gradients, masks, any device count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from holojax.attention import (
    all_to_all_attention,
    hop_attention,
    hybrid_attention,
    ring_attention,
    scene_attention,
)
from holojax.errors import ConfigError, LayoutError
from holojax.parallel import DATA, REGION, Layout
from holojax.parallel.exchange import EXCHANGES
from tests.ops.test_attention import check_hidden_rubbish, dense

TOKENS, HEADS = 40, 8


def draw(masked, tokens=TOKENS, heads=HEADS):
    keys = jax.random.split(jax.random.key(1), 5)
    q, k, v, weights = (jax.random.normal(key, (2, tokens, heads, 4)) for key in keys[:4])
    mask = jax.random.bernoulli(keys[4], 0.6, (2, tokens)) if masked else None
    return q, k, v, mask, weights


def on_devices(attention, data, region, masked):
    layout, place = Layout.create(data=data, region=region), P(DATA, REGION)

    def body(q, k, v, *mask):
        return attention(q, k, v, axis_name=REGION, kv_mask=mask[0] if mask else None)

    return jax.jit(layout.shard(body, in_specs=(place,) * (4 if masked else 3), out_specs=place))


def value_and_gradients(f, q, k, v, weights):
    def loss(*x):
        out = f(*x)
        return (out * weights).sum(), out

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


def check_equal(f, twin, q, k, v, mask, weights):
    masks = () if mask is None else (mask,)
    gradients, found = value_and_gradients(lambda *x: f(*x, *masks), q, k, v, weights)
    twins, expected = value_and_gradients(lambda *x: twin(*x, mask), q, k, v, weights)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for name, a, b in zip("qkv", gradients, twins, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, np.abs(b).max()), err_msg=f"gradient of {name}")


def dense_output(*x):
    return dense(*x)[0]


HYBRID = {size: functools.partial(hybrid_attention, heads_parallel=size) for size in (1, 2, 4, 8)}
RING = functools.partial(ring_attention, block=4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("attention", "data", "region"),
    [
        *[(f, *mesh) for f in (all_to_all_attention, RING) for mesh in ((1, 1), (1, 2), (2, 4), (1, 8))],
        *[(HYBRID[size], *mesh) for size, *mesh in ((1, 1, 1), (2, 2, 4), (2, 1, 8), (4, 1, 8), (8, 1, 8))],
    ],
)
def test_equal_to_dense_attention_on_any_mesh(attention, data, region, masked):
    check_equal(on_devices(attention, data, region, masked), dense_output, *draw(masked))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    heads=st.integers(1, 8),
    devices=st.integers(1, 8),
    exchange=st.sampled_from(EXCHANGES),
    keys=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_any_number_of_heads_goes_with_any_number_of_devices(heads, devices, exchange, keys, seed):
    """More queries than keys too, and masks that hide all keys of a scene."""
    random = np.random.default_rng(seed)
    q, weights = (jnp.asarray(random.normal(size=(2, 5 * devices, heads, 4)), jnp.float32) for _ in range(2))
    k, v = (jnp.asarray(random.normal(size=(2, keys * devices, heads, 4)), jnp.float32) for _ in range(2))
    mask = jnp.asarray(random.random((2, keys * devices)) < 0.6).at[1].set(seed % 3 > 0)
    f = on_devices(functools.partial(scene_attention, exchange=exchange), 1, devices, True)
    check_equal(f, dense_output, q, k, v, mask, weights)


@pytest.mark.parametrize("attention", [all_to_all_attention, ring_attention, HYBRID[2]])
def test_a_device_whose_keys_are_all_masked_adds_nothing(attention):
    q, k, v, _, weights = draw(False)
    mask = jnp.ones((2, TOKENS), bool).at[:, :10].set(False).at[1].set(False)
    f = on_devices(attention, 1, 4, True)
    check_equal(f, dense_output, q, k, v, mask, weights)
    assert not np.any(f(q, k, v, mask)[1]), "the scene whose keys are all masked"


@pytest.mark.parametrize("attention", [all_to_all_attention, ring_attention, HYBRID[2], hop_attention])
def test_nan_and_infinity_behind_the_mask_stay_there(attention):
    q, k, v, mask, weights = draw(True)
    f, mask = on_devices(attention, 1, 4, True), mask.at[1].set(False)
    check_hidden_rubbish(lambda *x: f(*x, mask), q, k, v, mask, weights)


@pytest.mark.parametrize(
    ("spec_q", "spec_kv", "spec_mask"),
    [
        (P(DATA, REGION), P(DATA, REGION), P(None, REGION)),  # one mask for all scenes
        (P(DATA, REGION), P(DATA), P(DATA)),  # the same keys on all devices
        (P(), P(), P()),
    ],
)
@pytest.mark.parametrize("attention", [RING, HYBRID[2], hop_attention])
def test_arrays_that_are_the_same_on_several_devices_are_taken_too(attention, spec_q, spec_kv, spec_mask):
    """Each device's block counts as its own: dense attention over as many copies."""
    data, region = 2, 4
    specs = (spec_q, spec_kv, spec_kv, spec_mask)
    scenes, place = spec_q[0] if spec_q else None, P(spec_q[0] if spec_q else None, REGION)
    arrays = draw(True, tokens=16)[:4]
    arrays = [x if spec[:1] == (DATA,) else x[:1] for x, spec in zip(arrays, specs, strict=True)]
    layout = Layout.create(data=data, region=region)

    def body(q, k, v, mask):
        return attention(q, k, v, axis_name=REGION, kv_mask=mask)

    f = layout.shard(body, in_specs=specs, out_specs=place)

    def copies(x, spec):
        x = x if spec[1:] == (REGION,) else jnp.tile(x, (1, region, *[1] * (x.ndim - 2)))
        return jnp.broadcast_to(x, (data if scenes else 1, *x.shape[1:]))

    def twin(*x):
        q, k, v, mask = map(copies, x, specs)
        return hops_one_by_one(q, k, v, mask, region) if attention is hop_attention else dense_output(q, k, v, mask)

    *qkv, mask = arrays
    weights = jax.random.normal(jax.random.key(5), jax.eval_shape(f, *arrays).shape)
    check_equal(f, twin, *qkv, mask, weights)


@pytest.mark.parametrize("attention", [all_to_all_attention, ring_attention, HYBRID[2], hop_attention])
def test_bfloat16_comes_back_as_bfloat16(attention):
    q, k, v, mask, weights = draw(True)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    f = on_devices(attention, 1, 4, True)
    gradients, found = value_and_gradients(lambda *x: f(*x, mask), *half, weights.astype(jnp.bfloat16))
    twins, expected = value_and_gradients(lambda *x: f(*x, mask), q, k, v, weights)
    for a, b in zip((found, *gradients), (expected, *twins), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.04 * np.abs(b).max())


def test_scene_attention_goes_another_way_where_heads_do_not_divide():
    q, k, v, mask, weights = draw(True, heads=3)
    f = on_devices(scene_attention, 1, 4, True)
    check_equal(f, dense_output, q, k, v, mask, weights)
    assert "all-to-all" not in f.lower(q, k, v, mask).compile().as_text()


def test_what_does_not_fit_is_named_with_what_would():
    def refused(attention, error, message, *arrays, devices=4):
        with pytest.raises(error, match=message):
            on_devices(attention, 1, devices, len(arrays) == 4)(*arrays)

    q, k, v, mask, _ = draw(True, heads=6)
    legal = r"Legal heads_parallel for 6 heads on 4 devices: 1 \(ring\), 2 \(hybrid\)\."
    refused(all_to_all_attention, LayoutError, f"6 heads do not divide over 4 devices. {legal}", q, k, v)
    refused(HYBRID[4], LayoutError, f"6 heads do not divide over 4 devices. {legal}", q, k, v)
    for size in (0, 3):
        uneven = functools.partial(hybrid_attention, heads_parallel=size)
        refused(uneven, LayoutError, f"heads_parallel={size} does not divide 4 devices. {legal}", q, k, v)
    for attention in (all_to_all_attention, ring_attention, HYBRID[2], hop_attention, scene_attention):
        refused(attention, ConfigError, "floating-point inputs, found int32", q.astype(int), k, v, devices=2)
        refused(attention, ConfigError, r"\[b m\] = \(2, 20\), found \(2, 19\)", q, k, v, mask[:, :38], devices=2)
        refused(attention, ConfigError, "expected bool .*found float32", q, k, v, mask.astype(jnp.float32), devices=2)
        refused(attention, ConfigError, "at least one query, key", q, k[:, :0], v[:, :0], devices=2)
    for block in (0, -1):
        ring = functools.partial(ring_attention, block=block)
        refused(ring, ConfigError, f"a block of at least 1 token, found block={block}", q, k, v)
    wrong = functools.partial(scene_attention, exchange="rings")
    refused(wrong, LayoutError, "expected one of all_to_all, ring, hybrid, found 'rings'", q, k, v)


def hops_one_by_one(q, k, v, mask, regions):
    """CDCR as its paper states it, region by region, on one device."""
    cut = [x.reshape(len(x), regions, -1, *x.shape[2:]) for x in (q, k, v)]
    masks = jnp.ones(k.shape[:2], bool) if mask is None else mask
    masks = masks.reshape(len(masks), regions, -1)
    out = []
    for i in range(regions):
        mine = cut[0][:, i]
        for t in range(regions - 1):
            source = (i - 1 - t) % regions
            mine = mine + dense(mine, cut[1][:, source], cut[2][:, source], masks[:, source])[0]
        out.append(mine)
    return jnp.concatenate(out, axis=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("devices", "regions"), [(1, 1), (1, 2), (2, 1), (1, 4), (2, 2), (2, 4), (8, 1)])
def test_hops_follow_the_paper_whatever_the_number_of_devices(devices, regions, masked):
    q, k, v, mask, weights = draw(masked)
    f = on_devices(functools.partial(hop_attention, regions=regions), 1, devices, masked)
    twin = functools.partial(hops_one_by_one, regions=devices * regions)
    check_equal(f, twin, q, k, v, mask, weights)


def test_one_region_hears_nobody():
    q, k, v, _, _ = draw(False)
    np.testing.assert_array_equal(on_devices(hop_attention, 1, 1, False)(q, k, v), q)


def test_groups_that_do_not_divide_are_named():
    q, k, v, _, _ = draw(False)
    with pytest.raises(ConfigError, match="40 queries and 40 keys do not divide into regions=3"):
        on_devices(functools.partial(hop_attention, regions=3), 1, 1, False)(q, k, v)
