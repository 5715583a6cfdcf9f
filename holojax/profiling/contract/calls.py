"""What encoder and decoder ask of exact borders, noted while a model is traced, and what each call may send."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax

from holojax.borders import Borders, Exact
from holojax.errors import HoloJAXError
from holojax.models.base import SceneModel
from holojax.parallel import Layout
from holojax.parallel.exchange import Held, legal_plan, ring_bytes, trade_bytes
from holojax.parallel.regions import RegionGrid
from holojax.profiling.contract import borders as contract
from holojax.profiling.contract.collectives import Shape, add, attention, halo, ring_sum, roll
from holojax.profiling.programs import forward

# Bytes by kind, by what is sent: None for what a call has for itself, a name for what other calls may send too.
Stated = dict[Any, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a method of `Exact` on one device: arguments by name, arrays as their shapes."""

    method: str
    arguments: dict[str, Any]
    grid: RegionGrid
    scenes: int
    devices: int
    masked: bool  # whether some pixels may be invalid
    identity: int  # the same for calls that are given the same array first

    def block(self, name: str = "x") -> Shape:
        """Return the shape of a map with its scenes and regions apart, [b r h w c]."""
        n, *rest = self.arguments[name].shape
        return (self.scenes, n // self.scenes, *rest)

    def itemsize(self, name: str = "x") -> int:
        """Return the bytes of a number of an argument."""
        return self.arguments[name].dtype.itemsize


def borders(model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int = 1) -> dict[str, int]:
    """What encoder and decoder of a model send through exact borders in the forward for scenes of `size` pixels.

    The model is traced, and the formulas of all calls are added up, what is the same in several of them once, since
    XLA sends it once. A call whose result nobody reads is left out by the compiler, but counted here; one in a
    loop is counted once. Isolated borders send nothing.

    Raises:
        HoloJAXError: a method without a formula is called.
    """
    parts: dict[Any, dict[str, int]] = {}
    for number, call in enumerate(border_calls(model, layout, size, scenes)):
        for content, part in stated(call).items():
            parts[number if content is None else content] = part
    return add(*parts.values())


def border_calls(model: SceneModel, layout: Layout, size: tuple[int, int], scenes: int = 1) -> list[Call]:
    """List what encoder and decoder of a model ask of exact borders in the forward; arguments as `borders`."""
    if model.border != "exact":
        return []
    calls: list[Call] = []
    f, shapes = forward(model, layout, size, scenes, watch=lambda inner: _Watched(inner, calls.append))
    jax.eval_shape(f, *shapes)
    return calls


def stated(call: Call) -> Stated:
    """What one call may send in the forward, by content: None for what is its own, a name for what it may share."""
    if call.method not in _STATED:
        raise HoloJAXError(f"No formula says what Exact.{call.method} sends: give it one in {__name__}.")
    return _STATED[call.method](call, **{name: x for name, x in call.arguments.items() if not _is_array(x)})


def _nothing(call: Call, **_: Any) -> Stated:
    return {}


def _extents(call: Call, height: int, width: int) -> Stated:
    """The extent of each scene in maps of this size is the same whoever asks for it."""
    return {("extents", height, width): contract.extents(call.scenes)} if call.masked else {}


def _map_pooled(call: Call, bins: int, **_: Any) -> Stated:
    sums = contract.map_pooled(call.block(), bins, 0, masked=False)
    edges = _edges(call, call.block()[2:4]) if call.arguments["kernel"] is not None else {}
    return {None: add(sums, edges), **_extents(call, *call.block()[2:4])}


def _resize_conv(call: Call, size: tuple[int, int]) -> Stated:
    return {**_resize(call, size), None: _edges(call, size)}


def _edges(call: Call, size: tuple[int, int]) -> dict[str, int]:
    """What is sent before a map of this size meets the call's kernel."""
    rows, cols, channels, _ = call.arguments["kernel"].shape
    block = (*call.block()[:2], *size, channels)
    return halo(block, (rows // 2, rows // 2, cols // 2, cols // 2), call.grid, itemsize=call.itemsize())


def _resize(call: Call, size: tuple[int, int], method: str = "bilinear", **_: Any) -> Stated:
    """A map that is enlarged to several sizes sends its edge once."""
    if method == "nearest":
        return {}
    grown = tuple(to > of for to, of in zip(size, call.block()[2:4], strict=True))
    sent = contract.resize(call.block(), size, call.grid, itemsize=call.itemsize())
    return {("edge", call.identity, *grown): sent}


def _attend(call: Call, **_: Any) -> Stated:
    """The mask of tokens is the same in all blocks that work at one size."""
    (_, r, n, heads, width), m = call.block("q"), call.block("k")[2]
    masked = call.arguments["kv_mask"] is not None
    held = Held(r * n, r * m, heads, width, call.itemsize("q"), call.scenes, masked)
    plan = legal_plan("hybrid", held, call.devices)
    plain = dataclasses.replace(held, masked=False)
    size = plan.heads_parallel
    bare = dataclasses.replace(plan, trade=trade_bytes(plain, size), ring=ring_bytes(plain, call.devices, size))
    own, all_of_it = attention(bare), attention(plan)
    return {None: own, ("mask", m, size): {kind: all_of_it[kind] - own[kind] for kind in all_of_it}}


def _selective_scan(call: Call, lines: str, reverse: tuple[bool, ...]) -> dict[str, int]:
    """One formula a direction; what is scanned has steps before lines."""
    b, r, steps, count, d = call.block("u")
    h, w = (count, steps) if lines == "rows" else (steps, count)
    states = call.arguments["a"].shape[-1]
    return add(*len(reverse) * [contract.selective_scan((b, r, h, w, d), states, lines, call.grid)])


def _own(formula: Callable[..., dict[str, int]]) -> Callable[..., Stated]:
    return lambda call, **given: {None: formula(call, **given)}


# A formula for every method; arguments that are no arrays are handed on by their names.
_STATED: dict[str, Callable[..., Stated]] = {
    **dict.fromkeys(
        ("hide", "places", "key_mask", "valid_tokens", "extent", "surroundings", "per_surrounding", "per_region"),
        _nothing,
    ),
    "pad": _own(lambda call, **widths: halo(call.block(), tuple(widths.values()), call.grid, itemsize=call.itemsize())),
    "roll": _own(lambda call, rows, cols: roll(call.block(), rows, cols, call.grid, itemsize=call.itemsize())),
    "map_windows": _own(
        lambda call, size, shift, **_: contract.map_windows(
            call.block(), size, shift, call.grid, itemsize=call.itemsize()
        )
    ),
    "map_pooled": _map_pooled,
    "resize": _resize,
    "resize_conv": _resize_conv,
    "row_blocks": _resize,
    "spread": lambda call, height, width, **_: _extents(call, height, width),
    "sum": _own(lambda call: contract.sums(call.block())),
    "mean": _own(lambda call: contract.means(call.block())),
    "max": _own(lambda call: contract.maxima(call.block(), itemsize=call.itemsize())),
    "norm": _own(lambda call: contract.sums(call.block())),
    "moments": _own(lambda call: contract.moments(call.block()[-1])),
    "scan": _own(lambda call, axis, **_: contract.scan(call.block("a"), axis, call.grid, itemsize=call.itemsize("a"))),
    "selective_scan": _own(_selective_scan),
    "sample": _own(lambda call: ring_sum(call.block(), call.devices, itemsize=call.itemsize())),
    "deform": _own(lambda call: ring_sum(call.block(), call.devices, itemsize=call.itemsize())),
    "attend": _attend,
    "cross_attend": lambda call, **_: {
        None: contract.cross_attend(call.arguments["q"].shape, masked=_is_array(call.arguments["mask"]))
    },
    "add_regions": _own(lambda call: contract.per_scene((call.scenes, *call.arguments["x"].shape[1:]))),
    "span": lambda call, height, width: _extents(call, height, width),
}


class _Watched(Borders):
    """Do what exact borders do, and tell of every call of theirs."""

    def __init__(self, inner: Exact, tell: Callable[[Call], None]) -> None:
        self.inner, self.axes, self.tell = inner, inner.axes, tell
        self.seen: list[Any] = []  # kept alive, so that no two arrays have one identity


def _watched(name: str) -> Callable[..., Any]:
    signature = inspect.signature(getattr(Borders, name))

    def method(self: _Watched, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = {key: _shape(x) for key, x in bound.arguments.items() if key != "self"}
        inner, first = self.inner, next((x for x in bound.args[1:] if isinstance(x, jax.Array)), None)
        self.seen.append(first)
        devices = jax.lax.axis_size(inner.shard.axis)
        masked = inner.valid is not None
        self.tell(Call(name, arguments, inner.shard.grid, inner.scenes, devices, masked, id(first)))
        return getattr(inner, name)(*args, **kwargs)

    return method


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x


for _name, _ in inspect.getmembers(Borders, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(_Watched, _name, _watched(_name))
_Watched.__abstractmethods__ = frozenset()
