"""The planner: legal plans, the cheapest of them, and why."""

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holojax.attention import Topology, choose_exchange
from holojax.errors import LayoutError
from holojax.parallel.exchange import Held, legal_groups, legal_plan, ring_bytes, trade_bytes

SIZES = dict(heads=st.integers(1, 12), devices=st.integers(1, 16), queries=st.integers(1, 64), keys=st.integers(1, 64))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(**SIZES, itemsize=st.sampled_from([2, 4]))
def test_the_plan_is_legal_and_none_sends_less(heads, devices, queries, keys, itemsize):
    plan = choose_exchange(heads, queries * devices, devices, keys=keys * devices, itemsize=itemsize)
    held = Held(queries, keys, heads, itemsize=itemsize)
    costs = {n: sum(trade_bytes(held, n)) + sum(ring_bytes(held, devices, n)) for n in legal_groups(heads, devices)}
    assert heads % plan.heads_parallel == devices % plan.heads_parallel == 0
    assert plan.forward + plan.backward == costs[plan.heads_parallel] == min(costs.values())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(**SIZES)
def test_the_preferred_exchange_is_taken_where_it_can_be(heads, devices, queries, keys):
    held = Held(queries, keys, heads)
    assert legal_plan("ring", held, devices).heads_parallel == 1
    plan = legal_plan("all_to_all", held, devices)
    if heads % devices == 0:
        assert (plan.name, plan.heads_parallel) == ("all_to_all", devices)
    else:
        assert plan.heads_parallel == legal_plan("hybrid", held, devices).heads_parallel
        assert plan.why.startswith(f"{heads} heads do not divide over {devices} devices")


def test_many_devices_trade_heads_and_few_keys_go_round():
    assert choose_exchange(8, 4096, 8).name == "all_to_all"
    assert choose_exchange(4, 4096, 8).heads_parallel == 4
    assert choose_exchange(3, 4096, 8).name == "ring"
    assert choose_exchange(8, 4096, 8, keys=4096 // 49).name == "ring"
    assert choose_exchange(8, 4096, 2).name == "ring", "one hop for both passes"
    assert choose_exchange(8, 4096, 4).name == "all_to_all"


def test_slow_links_between_nodes_keep_trades_inside_them():
    few_keys = dict(heads=8, tokens=4096, devices=8, keys=512)
    assert choose_exchange(**few_keys).name == "all_to_all"
    plan = choose_exchange(**few_keys, topology=Topology(devices_per_node=4))
    assert (plan.name, plan.heads_parallel) == ("hybrid", 4)
    assert plan.why.startswith("cheapest legal plan")
    assert "all_to_all (8)" in plan.why


def test_every_process_is_a_node(monkeypatch):
    assert Topology.of_processes() == Topology()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    topology = Topology.of_processes()
    assert topology.distant(3, 4)
    assert not topology.distant(4, 7)


def test_one_device_sends_nothing():
    plan = legal_plan("ring", Held(16, 16, 3), 1)
    assert (plan.name, plan.forward, plan.backward) == ("ring", 0, 0)


def test_an_unknown_exchange_is_refused():
    with pytest.raises(LayoutError, match=r"context.exchange: expected one of all_to_all, ring, hybrid, found 'mesh'"):
        legal_plan("mesh", Held(1, 1, 1), 2)


def test_numbers_below_one_are_named():
    with pytest.raises(LayoutError, match=r"choose_exchange: .*found devices=0, keys=-1"):
        choose_exchange(8, 64, 0, keys=-1)
    with pytest.raises(LayoutError, match="found devices_per_node=0"):
        Topology(devices_per_node=0)
