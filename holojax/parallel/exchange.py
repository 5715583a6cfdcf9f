"""The ways in which attention over a scene may go, what each of them sends, and which is the cheapest.

Plain arithmetic on shapes: nothing here touches an array. Bytes are those of one device. Every collective counts the
size of its result there, once a loop trip; so an all-to-all counts its whole block, of which 1/P stays at home.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax

from holojax.errors import LayoutError

EXCHANGES = ("all_to_all", "ring", "hybrid")
_ASKED = "as asked"
_ALONE = "one device, nothing travels"


@dataclasses.dataclass(frozen=True)
class Topology:
    """How the devices along the region axis are joined.

    Args:
        devices_per_node: consecutive devices that are joined by fast links; None: all of them.
        slowdown: how many times as long a byte takes from node to node as within one. 9 is an H100's 450 GB/s of NVLink
            against 50 GB/s of InfiniBand.
    """

    devices_per_node: int | None = None
    slowdown: int | float = 9.0

    def __post_init__(self) -> None:
        if (self.devices_per_node is not None and self.devices_per_node < 1) or self.slowdown <= 0:
            raise LayoutError(
                f"Topology: expected at least 1 device a node (None: all of them) and a slowdown above 0, found "
                f"devices_per_node={self.devices_per_node}, slowdown={self.slowdown}."
            )

    @classmethod
    def of_processes(cls) -> Topology:
        """Take every process of this run for a node; one process alone is one node."""
        return cls(jax.local_device_count() if jax.process_count() > 1 else None)

    def distant(self, a: int, b: int) -> bool:
        """Say whether devices `a` and `b` lie on different nodes."""
        return self.devices_per_node is not None and a // self.devices_per_node != b // self.devices_per_node


@dataclasses.dataclass(frozen=True)
class Held:
    """The tokens that one device holds before an exchange: `queries` [b n k d], `keys` and values [b m k d]."""

    queries: int  # n
    keys: int  # m
    heads: int  # k
    width: int = 64  # d
    itemsize: int = 4  # bytes of a number
    batch: int = 1  # b
    masked: bool = False  # a key mask, one byte a key, travels too
    regions: int = 1  # equal groups of these tokens, of account to hops alone

    def numbers(self, tokens: int) -> int:
        """Count the numbers of an array of this many tokens."""
        return self.batch * tokens * self.heads * self.width


class Bytes(NamedTuple):
    """What one device receives in the forward pass, and what the backward pass adds to that."""

    forward: int
    backward: int


NOTHING = Bytes(0, 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A way for attention to go: groups of devices trade tokens for heads, a ring joins the groups."""

    name: str  # "all_to_all" (one group), "ring" (groups of one device), "hybrid", or "hops"
    heads_parallel: int  # consecutive devices of a group
    trade: Bytes  # that one device receives by all-to-alls
    ring: Bytes  # by collective-permutes
    why: str

    @property
    def forward(self) -> int:
        """Bytes that one device receives in the forward pass."""
        return self.trade.forward + self.ring.forward

    @property
    def backward(self) -> int:
        """Bytes that the backward pass adds."""
        return self.trade.backward + self.ring.backward

    def describe(self) -> str:
        """Say in one line which way is taken and what it sends, and why where it is not the one that was preferred."""
        groups = f" in groups of {self.heads_parallel}" if self.name == "hybrid" else ""
        why = "" if self.why == _ASKED else f" ({self.why.partition(';')[0]})"
        return f"{self.name}{groups}, {self.forward / 1e6:,.1f} MB forward{why}"


def trade_bytes(held: Held, heads_parallel: int) -> Bytes:
    """Count the bytes of trading tokens for heads among P = `heads_parallel` devices, and back: all-to-alls.

    Forward: queries, keys, values and output, (2 n + 2 m) k d numbers, and the mask once for each of the P devices,
    P m bytes. Backward: the gradients of the same four arrays. Nothing if P = 1.
    """
    if heads_parallel == 1:
        return NOTHING
    arrays = 2 * (held.numbers(held.queries) + held.numbers(held.keys)) * held.itemsize
    mask = held.batch * held.keys * heads_parallel if held.masked else 0
    return Bytes(arrays + mask, arrays)


def ring_bytes(held: Held, devices: int, heads_parallel: int = 1) -> Bytes:
    """Count the bytes of the ring that joins G = `devices` / `heads_parallel` groups: collective-permutes.

    Keys and values make 2 m k d numbers on a device (of more tokens and fewer heads, where they were traded), their
    mask P m bytes. Forward: G - 1 times both. Backward: the same again, and G times the float32 gradients of keys and
    values, 2 m k d of 4 bytes, which go all the way home. The one hop of two groups is the same in both passes, and XLA
    sends it once for both. Nothing if G = 1.
    """
    groups = devices // heads_parallel
    numbers = 2 * held.numbers(held.keys)
    mask = held.batch * held.keys * heads_parallel if held.masked else 0
    forward = (groups - 1) * (numbers * held.itemsize + mask)
    again = forward if groups > 2 else 0
    return Bytes(forward, again + groups * numbers * 4 if groups > 1 else 0)


def hop_bytes(held: Held, devices: int) -> Bytes:
    """Count the bytes of `hop_attention`: collective-permutes.

    Of N = held.regions x devices regions one crosses each border between devices a hop. Forward: N - 1 times a region's
    keys, values and mask. Backward: the same again with their float32 gradients. On two devices both directions are
    the same, and XLA may find a hop that it need not send again. Nothing on one device.
    """
    if devices == 1:
        return NOTHING
    hops = held.regions * devices - 1
    numbers = 2 * held.numbers(held.keys) // held.regions
    mask = held.batch * held.keys // held.regions if held.masked else 0
    forward = hops * (numbers * held.itemsize + mask)
    return Bytes(forward, forward + hops * numbers * 4)


def legal_groups(heads: int, devices: int) -> list[int]:
    """List the values of heads_parallel that are possible: those that divide both heads and devices."""
    common = math.gcd(heads, devices)
    return [size for size in range(1, common + 1) if common % size == 0]


def check_group(caller: str, heads: int, devices: int, heads_parallel: int) -> None:
    """Raise a LayoutError that names the legal plans unless `heads_parallel` divides both heads and devices."""
    if heads_parallel >= 1 and devices % heads_parallel == 0 and heads % heads_parallel == 0:
        return
    if heads_parallel < 1 or devices % heads_parallel:
        problem = f"heads_parallel={heads_parallel} does not divide {devices} devices"
    else:
        problem = f"{heads} heads do not divide over {heads_parallel} devices"
    plans = ", ".join(f"{size} ({_name(size, devices)})" for size in legal_groups(heads, devices))
    raise LayoutError(f"{caller}: {problem}. Legal heads_parallel for {heads} heads on {devices} devices: {plans}.")


def choose_exchange(
    heads: int,
    tokens: int,
    devices: int,
    topology: Topology | None = None,
    *,
    keys: int | None = None,
    width: int = 64,
    itemsize: int = 4,
) -> Plan:
    """Choose the cheapest legal way for the attention of a scene's tokens.

    The cost of a plan is the sum of `trade_bytes` and `ring_bytes`, forward and backward, a byte between nodes counted
    `topology.slowdown` times. Not counted: that the ring's hops overlap with computing, and that devices of a node may
    share a link.

    Args:
        heads: attention heads k.
        tokens: queries of the whole scene; the devices share them evenly.
        devices: along the region axis.
        topology: how these are joined; None: all on one node.
        keys: keys of the whole scene, if pooled; None: as many as queries.
        width: d of a head.
        itemsize: bytes of a number.

    Raises:
        LayoutError: a number is below 1.
    """
    numbers = dict(heads=heads, tokens=tokens, devices=devices, keys=keys, width=width, itemsize=itemsize)
    wrong = [f"{name}={value}" for name, value in numbers.items() if value is not None and value < 1]
    if wrong:
        raise LayoutError(f"choose_exchange: expected numbers of at least 1, found {', '.join(wrong)}.")
    per_device = -(-tokens // devices)
    held = Held(per_device, per_device if keys is None else -(-keys // devices), heads, width, itemsize)
    return _cheapest(held, devices, topology or Topology(), legal_groups(heads, devices))


def legal_plan(preferred: str, held: Held, devices: int, topology: Topology | None = None) -> Plan:
    """Return the plan for the preferred exchange, or where heads and devices forbid it, the cheapest of the others.

    The result of attention is the same. "ring" is always possible, "hybrid" leaves the choice to the planner, and
    "all_to_all" needs the device count to divide the heads.

    Raises:
        LayoutError: `preferred` is no known exchange.
    """
    if preferred not in EXCHANGES:
        raise LayoutError(f"context.exchange: expected one of {', '.join(EXCHANGES)}, found {preferred!r}.")
    if devices == 1:
        return Plan(preferred, 1, NOTHING, NOTHING, _ALONE)
    topology, groups = topology or Topology(), legal_groups(held.heads, devices)
    if preferred == "ring":
        return _plan(held, devices, 1, _ASKED)
    if preferred == "all_to_all" and devices in groups:
        return _plan(held, devices, devices, _ASKED)
    plan = _cheapest(held, devices, topology, groups)
    if preferred == "hybrid":
        return plan
    why = f"{held.heads} heads do not divide over {devices} devices, same result; {plan.why}"
    return dataclasses.replace(plan, why=why)


def hop_plan(held: Held, devices: int) -> Plan:
    """Return the plan of `hop_attention`, the only one for it: the result depends on the order of the hops."""
    return Plan("hops", 1, NOTHING, hop_bytes(held, devices), _ASKED if devices > 1 else _ALONE)


def _cheapest(held: Held, devices: int, topology: Topology, groups: list[int]) -> Plan:
    costs = {size: _cost(held, devices, size, topology) for size in groups}
    best = min(groups, key=lambda size: (costs[size], -size))
    ranking = (f"{_name(size, devices)} ({size}) {costs[size] / 2**20:.3g}" for size in sorted(costs, key=costs.get))
    why = f"cheapest legal plan; MiB a device, forward and backward, weighted by link: {', '.join(ranking)}"
    return _plan(held, devices, best, why)


def _cost(held: Held, devices: int, size: int, topology: Topology) -> float:
    """Weigh the bytes of the device that has the longest ways."""

    def distant_share(device: int) -> float:
        first = device // size * size
        return sum(topology.distant(device, first + other) for other in range(size)) / size

    extra = topology.slowdown - 1
    trade = sum(trade_bytes(held, size)) * (1 + extra * max(distant_share(d) for d in range(devices)))
    # A ring is as fast as its slowest link.
    far = any(topology.distant(d, (d + size) % devices) for d in range(devices))
    return trade + sum(ring_bytes(held, devices, size)) * (topology.slowdown if far else 1)


def _plan(held: Held, devices: int, size: int, why: str) -> Plan:
    return Plan(_name(size, devices), size, trade_bytes(held, size), ring_bytes(held, devices, size), why)


def _name(size: int, devices: int) -> str:
    return "all_to_all" if size == devices else "ring" if size == 1 else "hybrid"
