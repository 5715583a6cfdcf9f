"""Attention across devices against dense attention on one: values, gradients, masks, any device count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from holojax.attention import all_to_all_attention, hop_attention, ring_attention, scene_attention
from holojax.errors import ConfigError, LayoutError
from holojax.parallel import DATA, REGION, Layout
from tests.ops.test_attention import dense

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


def check_equal(f, twin, q, k, v, mask, weights):
    masks = () if mask is None else (mask,)
    found, pullback = jax.vjp(jax.jit(lambda *x: f(*x, *masks)), q, k, v)
    expected, pullback_twin = jax.vjp(lambda *x: twin(*x, mask), q, k, v)
    np.testing.assert_allclose(found, expected, atol=5e-6)
    for name, a, b in zip("qkv", pullback(weights), pullback_twin(weights), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=f"gradient of {name}")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("data", "region"), [(1, 1), (1, 2), (2, 4), (1, 8)])
@pytest.mark.parametrize(
    "attention",
    [all_to_all_attention, functools.partial(ring_attention, block=4)],
    ids=["all_to_all", "ring"],
)
def test_equal_to_dense_attention_on_any_mesh(attention, data, region, masked):
    q, k, v, mask, weights = draw(masked)
    check_equal(on_devices(attention, data, region, masked), lambda *x: dense(*x)[0], q, k, v, mask, weights)


def test_a_device_whose_keys_are_all_masked_adds_nothing():
    q, k, v, _, weights = draw(False)
    mask = jnp.ones((2, TOKENS), bool).at[:, :10].set(False).at[1].set(False)
    for attention in (all_to_all_attention, ring_attention):
        check_equal(on_devices(attention, 1, 4, True), lambda *x: dense(*x)[0], q, k, v, mask, weights)


def test_scene_attention_takes_the_ring_where_heads_do_not_divide():
    q, k, v, mask, weights = draw(True, heads=3)
    with pytest.raises(LayoutError, match=r"3 heads do not divide over 4 devices.*4 devices: 1 \(ring\)"):
        on_devices(all_to_all_attention, 1, 4, True)(q, k, v, mask)
    check_equal(on_devices(scene_attention, 1, 4, True), lambda *x: dense(*x)[0], q, k, v, mask, weights)


def hops_one_by_one(q, k, v, mask, regions):
    """CDCR as its paper states it, region by region, on one device."""
    cut = [x.reshape(2, regions, -1, *x.shape[2:]) for x in (q, k, v)]
    masks = jnp.ones(k.shape[:2], bool) if mask is None else mask
    masks = masks.reshape(2, regions, -1)
    out = []
    for i in range(regions):
        mine = cut[0][:, i]
        for t in range(regions - 1):
            source = (i - 1 - t) % regions
            mine = mine + dense(mine, cut[1][:, source], cut[2][:, source], masks[:, source])[0]
        out.append(mine)
    return jnp.concatenate(out, axis=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("devices", "regions"), [(1, 1), (1, 4), (2, 2), (4, 1), (2, 4), (8, 1)])
def test_hops_follow_the_paper_whatever_the_number_of_devices(devices, regions, masked):
    q, k, v, mask, weights = draw(masked)
    f = on_devices(functools.partial(hop_attention, regions=regions), 1, devices, masked)
    twin = functools.partial(hops_one_by_one, regions=devices * regions)
    found, expected = f(q, k, v, *(() if mask is None else (mask,))), twin(q, k, v, mask)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    check = (lambda *x: f(*x)) if mask is None else (lambda *x: f(*x, mask))
    gradients = jax.grad(lambda *x: (check(*x) * weights).sum(), argnums=(0, 1, 2))(q, k, v)
    twins = jax.grad(lambda *x: (twin(*x, mask) * weights).sum(), argnums=(0, 1, 2))(q, k, v)
    for a, b in zip(gradients, twins, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, np.abs(b).max()))


def test_one_region_hears_nobody():
    q, k, v, _, _ = draw(False)
    np.testing.assert_array_equal(on_devices(hop_attention, 1, 1, False)(q, k, v), q)


def test_groups_that_do_not_divide_are_named():
    q, k, v, _, _ = draw(False)
    with pytest.raises(ConfigError, match="40 queries and 40 keys do not divide into regions=3"):
        on_devices(functools.partial(hop_attention, regions=3), 1, 1, False)(q, k, v)
