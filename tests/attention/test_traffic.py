"""The communication contract: exactly these kinds of collectives, and the bytes that the formulas state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from holojax.attention import all_to_all_attention, hop_attention, hybrid_attention, ring_attention
from holojax.parallel import DATA, REGION, Layout
from holojax.parallel.exchange import Bytes, Held, hop_bytes, ring_bytes, trade_bytes
from holojax.profiling.traffic import totals, traffic

HEADS, WIDTH = 8, 4


def compiled_traffic(attention, held, data, region, gradient):
    """Bytes on one device by kind, of the output and with `gradient` of all three gradients too."""
    layout, place = Layout.create(data=data, region=region), P(DATA, REGION)

    def shape(tokens, *rest, dtype):
        return jax.ShapeDtypeStruct((held.batch * data, tokens * region, *rest), dtype, sharding=layout.scenes)

    float_type = {2: jnp.bfloat16, 4: jnp.float32}[held.itemsize]
    arrays = [shape(n, HEADS, WIDTH, dtype=float_type) for n in (held.queries, held.keys, held.keys)]
    masks = [shape(held.keys, dtype=bool)] * held.masked

    def block(q, k, v, *mask):
        return attention(q, k, v, axis_name=REGION, kv_mask=mask[0] if mask else None)

    f = layout.shard(block, in_specs=(place,) * (3 + held.masked), out_specs=place)
    if not gradient:
        return totals(traffic(jax.jit(f), *arrays, *masks))

    def pull_back(out_grad, q, k, v, *mask):
        out, pullback = jax.vjp(lambda *x: f(*x, *mask), q, k, v)
        return out, pullback(out_grad)

    return totals(traffic(jax.jit(pull_back), arrays[0], *arrays, *masks))


def check(attention, held, mesh, **expected):
    """Compare kinds and bytes; `expected` holds `Bytes` by kind, underscores for hyphens."""
    for gradient in (False, True):
        found = compiled_traffic(attention, held, *mesh, gradient)
        wanted = {kind.replace("_", "-"): b.forward + gradient * b.backward for kind, b in expected.items()}
        assert {kind for kind, size in found.items() if size} == {kind for kind, size in wanted.items() if size}
        for kind, size in wanted.items():
            assert found.get(kind, 0) == pytest.approx(size, rel=0.01), f"{kind}, gradient={gradient}"


HELD = [
    Held(48, 48, HEADS, WIDTH, itemsize=4, batch=1, masked=False),
    Held(48, 12, HEADS, WIDTH, itemsize=4, batch=2, masked=True),
]


@pytest.mark.parametrize("held", HELD, ids=["plain", "pooled_masked"])
@pytest.mark.parametrize("mesh", [(1, 8), (2, 4), (1, 1)])
def test_all_to_all_sends_all_to_alls_alone(held, mesh):
    check(all_to_all_attention, held, mesh, all_to_all=trade_bytes(held, mesh[1]))


@pytest.mark.parametrize("held", HELD, ids=["plain", "pooled_masked"])
@pytest.mark.parametrize("mesh", [(1, 8), (2, 4), (1, 2), (1, 1)])
def test_the_ring_sends_collective_permutes_alone(held, mesh):
    check(ring_attention, held, mesh, collective_permute=ring_bytes(held, mesh[1]))


@pytest.mark.parametrize("held", HELD, ids=["plain", "pooled_masked"])
@pytest.mark.parametrize(("size", "mesh"), [(2, (1, 8)), (4, (1, 8)), (2, (2, 4))])
def test_the_hybrid_sends_both(held, size, mesh):
    attention = functools.partial(hybrid_attention, heads_parallel=size)
    ring = ring_bytes(held, mesh[1], size)
    check(attention, held, mesh, all_to_all=trade_bytes(held, size), collective_permute=ring)


@pytest.mark.parametrize("held", HELD, ids=["plain", "pooled_masked"])
@pytest.mark.parametrize(("regions", "mesh"), [(1, (1, 8)), (2, (1, 4)), (3, (2, 4)), (4, (1, 1))])
def test_hops_send_one_region_across_each_border_a_hop(held, regions, mesh):
    attention = functools.partial(hop_attention, regions=regions)
    check(attention, held, mesh, collective_permute=hop_bytes(dataclasses.replace(held, regions=regions), mesh[1]))


def test_formulas_by_hand():
    """Four devices; 10 queries and 5 keys each, 2 heads of 3, bfloat16, masked."""
    held = Held(10, 5, heads=2, width=3, itemsize=2, masked=True)
    assert trade_bytes(held, 2) == Bytes((10 + 5 + 5 + 10) * 6 * 2 + 2 * 5, (10 + 5 + 5 + 10) * 6 * 2)
    assert ring_bytes(held, 4) == Bytes(3 * (60 * 2 + 5), 3 * (60 * 2 + 5) + 4 * 60 * 4)
    assert ring_bytes(held, 4, 2) == Bytes(60 * 2 + 10, 2 * 60 * 4)
    assert hop_bytes(held, 4) == Bytes(3 * (60 * 2 + 5), 3 * (60 * 2 + 5) + 3 * 60 * 4)
    five = dataclasses.replace(held, regions=5)
    assert hop_bytes(five, 4) == Bytes(19 * (12 * 2 + 1), 19 * (12 * 2 + 1) + 19 * 12 * 4)
    assert ring_bytes(held, 4, 4) == ring_bytes(held, 1) == hop_bytes(held, 1) == trade_bytes(held, 1) == Bytes(0, 0)
