"""The reader of compiled programs, on programs whose traffic is known by hand."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from holojax.errors import HoloJAXError
from holojax.parallel import DATA, REGION, Layout
from holojax.profiling import collectives, differences, table, totals, traffic

ROWS, DEVICES = 6, 4
BLOCK = ROWS * 8 * 4  # bytes of a device's block of X
PLACE = P(DATA, REGION)
X = jax.ShapeDtypeStruct((2, DEVICES, ROWS, 8), jnp.float32)
ROUND = tuple((d, (d + 1) % DEVICES) for d in range(DEVICES))
# The mesh is 2 x 4: a group of devices along `region`, in each row of it.
ALONG_REGION = ((0, 1, 2, 3), (4, 5, 6, 7))


def shard(f, out_specs=PLACE):
    layout = Layout.create(data=2, region=DEVICES)
    return jax.jit(layout.shard(f, in_specs=PLACE, out_specs=out_specs))


def send_on(x):
    return lax.ppermute(x, REGION, ROUND)


def summed(x):
    return lax.pcast(lax.psum(x, REGION), REGION, to="varying")


def gathered(x):
    return lax.all_gather(x, REGION, axis=3, tiled=True)


def scattered(x):
    return lax.psum_scatter(x, REGION, scatter_dimension=3, tiled=True)


def traded(x):
    return lax.all_to_all(x, REGION, split_axis=3, concat_axis=1, tiled=True)


@pytest.mark.parametrize(
    ("f", "kind", "size", "groups"),
    [
        (summed, "all-reduce", BLOCK, ALONG_REGION),
        (gathered, "all-gather", DEVICES * BLOCK, ALONG_REGION),
        (scattered, "reduce-scatter", BLOCK // DEVICES, ALONG_REGION),
        (traded, "all-to-all", BLOCK, ALONG_REGION),
        (send_on, "collective-permute", BLOCK, (*ROUND, *((a + 4, b + 4) for a, b in ROUND))),
    ],
)
def test_each_kind_is_read_with_its_bytes_devices_and_source(f, kind, size, groups):
    (one,) = traffic(shard(f), X)
    assert (one.kind, one.bytes, one.trips) == (kind, size, 1)
    assert one.groups == groups
    assert one.source.endswith(f.__name__)
    assert not one.backward
    assert not one.conditional


def test_loops_multiply():
    def nested(x):
        inner = lambda x, _: (send_on(x), None)  # noqa: E731
        outer = lambda x, _: (2 * lax.scan(inner, x, None, length=3)[0], None)  # noqa: E731
        return lax.scan(outer, x, None, length=2)[0]

    found = traffic(shard(lambda x: lax.fori_loop(0, 5, lambda _, x: 0.1 * summed(x), nested(x))), X)
    assert [(one.kind, one.trips) for one in found] == [("collective-permute", 6), ("all-reduce", 5)]
    assert totals(found) == {"collective-permute": 6 * BLOCK, "all-reduce": 5 * BLOCK}


def test_a_loop_whose_length_xla_does_not_state_is_counted_by_its_counter():
    f = shard(lambda x: lax.fori_loop(3, 14, lambda _, x: send_on(x), x))
    text = re.sub(r'"known_trip_count":\{"n":"11"\}', "", f.lower(X).compile().as_text())
    assert [one.trips for one in collectives(text)] == [11]


def test_a_loop_of_unknown_length_is_refused_and_marked():
    def until_large(x):
        return lax.while_loop(lambda x: lax.pmax(x.max(), (DATA, REGION)) < 3, lambda x: 1.1 * send_on(x), x)

    found = traffic(shard(until_large), X)
    assert {one.kind: one.trips for one in found} == {"collective-permute": None, "all-reduce": None}
    with pytest.raises(HoloJAXError, match=r"collective-permute of 192 bytes .*send_on.* does not tell"):
        totals(found)
    assert "in a loop of unknown length" in table(found)


def test_a_counter_with_a_second_condition_is_no_length():
    text = (pathlib.Path(__file__).parent / "gpu.hlo").read_text()
    assert next(one.trips for one in collectives(text)) == 7
    text = text.replace("ROOT %compare", "ROOT %and = pred[] and(%compare, %stop)\n  %compare")
    assert next(one.trips for one in collectives(text)) is None


def test_arrays_that_xla_combines_are_all_counted():
    def many(x):
        return lax.psum([x * i for i in range(7)] + [x[..., 0], x.sum()], (DATA, REGION))

    found = traffic(shard(many, out_specs=P()), X)
    assert totals(found) == {"all-reduce": 7 * BLOCK + ROWS * 4 + 4}
    assert sum(len(one.shapes) for one in found) == 9


def test_a_branch_counts_as_if_it_were_taken():
    f = shard(lambda x: lax.cond(x.sum() > 0, send_on, lambda x: 2 * x, x))
    (one,) = traffic(f, X)
    assert one.conditional
    assert totals([one]) == {"collective-permute": BLOCK}
    assert "send_on (in a branch)" in table([one])


def test_what_belongs_to_a_gradient_is_told_apart():
    f = shard(lambda x: send_on(jnp.sin(x)))
    found = traffic(jax.grad(lambda x: (f(x) ** 2).sum()), X)
    assert sorted((one.kind, one.backward) for one in found if one.kind != "all-reduce") == [
        ("collective-permute", False),
        ("collective-permute", True),
    ]
    assert "send_on (backward)" in table(found)


def test_no_collective_is_no_traffic():
    assert traffic(lambda x: x + 1, X) == []
    assert totals([]) == {}
    assert "no collectives" in table([])


def test_the_text_for_gpus_is_read_too():
    # Kept by hand, in the manner of XLA's GPU compiler: asynchronous pairs, combined arrays, all ways to write groups.
    found = collectives((pathlib.Path(__file__).parent / "gpu.hlo").read_text())
    block = 2 * 128 * 8 * 64 * 2
    permute, gather, reduce, trade, wrapped, send = found
    assert (permute.kind, permute.bytes, permute.trips) == ("collective-permute", block, 7)
    assert (permute.groups, permute.source) == (ROUND, "jit(f)/while/body/ppermute")
    assert (gather.kind, gather.bytes, gather.shapes) == ("all-gather", 64 * 2 + 16 * 4, ("bf16[64]", "f32[16]"))
    assert gather.groups == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert (reduce.kind, reduce.bytes, reduce.groups) == ("all-reduce", 8 * 2 + 24, (tuple(range(8)),))
    assert (trade.kind, trade.bytes, trade.groups) == ("all-to-all", block, ((0, 4), (1, 5), (2, 6), (3, 7)))
    assert (wrapped.kind, wrapped.bytes, wrapped.groups) == ("all-to-all", block, ALONG_REGION)
    assert (send.kind, send.bytes) == ("send", 400)
    assert totals(found)["all-to-all"] == 2 * block


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("f8e4m3fn", "q7", "Unknown type of array in a collective: 'q7'"),
        ("replica_groups=mesh[", "replica_groups=ring[", "Unknown way to write the devices"),
        ("{'data'}", "{'data':(1)2}", "Unknown way to write the devices"),
        ("ENTRY ", "", "no ENTRY"),
    ],
)
def test_what_is_not_understood_is_an_error(before, after, message):
    text = (pathlib.Path(__file__).parent / "gpu.hlo").read_text()
    with pytest.raises(HoloJAXError, match=message):
        collectives(text.replace(before, after))


def test_differences_name_kinds_and_bytes():
    stated = {"all-to-all": 1000, "all-reduce": 0}
    assert differences({"all-to-all": 1009}, stated) == []
    assert differences({"all-to-all": 1011}, stated) == ["all-to-all: 1,011 bytes a device, stated 1,000"]
    assert differences({"all-to-all": 1000, "all-gather": 1}, stated) == ["all-gather: 1 bytes a device, stated 0"]
    assert differences({}, stated) == ["all-to-all: 0 bytes a device, stated 1,000"]


def test_the_table_is_no_longer_than_asked_for_and_its_totals_are_whole():
    def step(scale, x):
        return lax.ppermute(x * scale, REGION, ROUND)

    sends = [functools.partial(step, scale) for scale in (2, 3, 4)]
    found = traffic(shard(lambda x: sends[2](sends[1](sends[0](summed(traded(x))[:, :1])))), X)
    lines = table(found, devices=8, rows=2).splitlines()
    assert len(lines) == 1 + 2 + 1 + 3
    assert any(line.startswith("others") and "2 more" in line for line in lines)
    assert f"{8 * BLOCK:,} on 8 devices" in lines[-1] or f"{8 * BLOCK:,} on 8 devices" in lines[-2]
