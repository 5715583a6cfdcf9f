"""What devices send each other: every collective of a compiled program, its bytes, and how they compare with formulas.

Bytes are counted as XLA states them: the size of a collective's result on one device. An all-to-all counts the whole
block (one share of it stays at home), a collective-permute what arrives, also where nobody sends and zeros do.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from holojax.errors import HoloJAXError
from holojax.profiling.hlo import Instruction, Program, describe_frames, split_top

KINDS = (
    "all-to-all",
    "collective-permute",
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-broadcast",
    "ragged-all-to-all",
    "send",  # of a point-to-point pair; its recv is not counted once more
)
_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")

Traffic = Mapping[str, int | float]  # bytes on one device by kind


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a compiled program.

    Attributes:
        kind: one of `KINDS`, whether asynchronous or not.
        bytes: size of the result on one device, of one execution.
        shapes: of the result's arrays on one device, as `f32[2,16,8]`; several where XLA combined collectives.
        groups: the devices that exchange with each other; of a collective-permute the pairs (source, target).
        trips: how often the loops around it run it; None where the text does not tell.
        source: the functions that asked for it, outermost first; else JAX's name of the operation.
        backward: whether it belongs to a gradient.
        conditional: whether it runs only if a branch is taken.
    """

    kind: str
    bytes: int
    shapes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    trips: int | None
    source: str
    backward: bool
    conditional: bool


def traffic(f: Callable[..., Any], *args: Any) -> list[Collective]:
    """Compile `f` (jitted or not) for arguments, or for their `jax.ShapeDtypeStruct`s, and list its collectives.

    Nothing is run. Shapes without a sharding leave the placement to XLA. A persistent compilation cache may answer with
    a program whose `source`s are those of an earlier version of the code.
    """
    leaves, structure = jax.tree.flatten(args)
    # Flat, since what JAX reports of a compiled function's arguments may not fit into their own classes.
    flat = jax.jit(lambda *leaves: f(*jax.tree.unflatten(structure, leaves)))
    return collectives(flat.lower(*leaves).compile().as_text())


def collectives(text: str) -> list[Collective]:
    """List the collectives of a compiled program, given as HLO text, in the order in which it would run them.

    One in the body of a loop is listed once with the loop's `trips`, nested loops multiplied; an asynchronous pair is
    listed once. In a conditional those of all branches are listed.

    Raises:
        HoloJAXError: the text is no HLO, or says something in a way that is not known here.
    """
    program = Program.read(text)
    return list(_walk(program, program.entry, 1, False))


def totals(found: Iterable[Collective]) -> dict[str, int]:
    """Add up bytes times trips by kind: what one device receives when the program runs once.

    A conditional counts as if all its branches ran.

    Raises:
        HoloJAXError: a loop around a collective runs an unknown number of times.
    """
    sums: dict[str, int] = {}
    for one in found:
        if one.trips is None:
            raise HoloJAXError(
                f"A {one.kind} of {one.bytes} bytes ({one.source}) is in a loop whose number of trips the compiled "
                f"program does not tell. Use a loop of fixed length (lax.scan, lax.fori_loop with known bounds)."
            )
        sums[one.kind] = sums.get(one.kind, 0) + one.bytes * one.trips
    return sums


def differences(found: Traffic, stated: Traffic, tolerance: float = 0.01) -> list[str]:
    """Say where traffic is not what formulas state: a kind that is missing or not stated, or bytes beyond a fraction.

    Both are bytes by kind, zeros as good as absent. An empty list means that the contract holds.
    """
    lines = []
    for kind in sorted({*found, *stated}):
        is_there, should = found.get(kind, 0), stated.get(kind, 0)
        if abs(is_there - should) > tolerance * should:
            lines.append(f"{kind}: {is_there:,} bytes a device, stated {should:,}")
    return lines


def beside(found: Traffic, stated: Mapping[str, Traffic]) -> str:
    """Draw up bytes a device by kind: measured, stated by each formula, and what is left over."""
    lines = [["bytes a device", "measured", *stated, "rest"]]
    for kind in sorted({*found}.union(*stated.values())):
        parts = [formula.get(kind, 0) for formula in stated.values()]
        numbers = [found.get(kind, 0), *parts, found.get(kind, 0) - sum(parts)]
        lines.append([kind, *(f"{number:,}" for number in numbers)])
    return "\n".join(f"{first:<20}" + "".join(f"{cell:>18}" for cell in cells) for first, *cells in lines)


def table(found: Iterable[Collective], devices: int = 1, rows: int = 25) -> str:
    """Draw up the traffic as text: one line a kind and source, the heaviest first, then totals by kind.

    Bytes are those that one device receives when the program runs once; `devices` multiplies the totals to those of the
    whole mesh. All but the `rows` heaviest lines are put together. Loops of unknown length are marked and count once.
    """
    groups: dict[tuple, list[Collective]] = collections.defaultdict(list)
    for one in found:
        groups[one.kind, one.source, _notes(one)].append(one)
    lines, by_kind = [], collections.Counter()
    for (kind, source, notes), ones in groups.items():
        moved = sum(one.bytes * _trips(one) for one in ones)
        by_kind[kind] += moved
        lines.append((kind, sum(map(_trips, ones)), moved, source + (f" ({notes})" if notes else "")))
    lines.sort(key=lambda line: -line[2])
    if len(lines) > rows:
        rest = lines[rows - 1 :]
        kinds = ", ".join(sorted({line[0] for line in rest}))
        lines[rows - 1 :] = [("others", sum(x[1] for x in rest), sum(x[2] for x in rest), f"{len(rest)} more: {kinds}")]
    text = [f"{'kind':<20}{'calls':>8}{'bytes a device':>20}  source"]
    text += [f"{kind:<20}{calls:>8,}{moved:>20,}  {source}" for kind, calls, moved, source in lines]
    text += ["" if by_kind else "no collectives"]
    for kind, moved in by_kind.most_common():
        text.append(f"{'total ' + kind:<28}{moved:>20,}  ({devices * moved:,} on {devices} devices)")
    return "\n".join(text)


def _trips(one: Collective) -> int:
    return 1 if one.trips is None else one.trips


def _notes(one: Collective) -> str:
    combined = one.kind != "all-to-all" and len(one.shapes) > 1
    notes = {
        "backward": one.backward,
        "combined with others": combined,  # by XLA, which keeps the source of one of them
        "in a branch": one.conditional,
        "in a loop of unknown length": one.trips is None,
    }
    return ", ".join(note for note, holds in notes.items() if holds)


def _walk(program: Program, computation: str, trips: int | None, conditional: bool) -> Iterator[Collective]:
    for name, one in program.computations[computation].instructions.items():
        kind = one.opcode.removesuffix("-start")
        if kind in KINDS:
            yield _collective(program, one, kind, trips, conditional)
        elif one.opcode == "while":
            runs = program.trips(computation, name)
            known = None if trips is None or runs is None else trips * runs
            for body in one.called("body"):
                yield from _walk(program, body, known, conditional)
            # The condition is asked once more than the body runs.
            for body in one.called("condition"):
                yield from _walk(program, body, None if known is None else known + trips, conditional)
        elif one.opcode == "conditional":
            for attribute in ("branch_computations", "true_computation", "false_computation"):
                for branch in one.called(attribute):
                    yield from _walk(program, branch, trips, True)
        elif one.opcode not in ("async-update", "async-done"):  # which name once more what was started
            for attribute in ("calls", "called_computations", "to_apply"):
                for called in one.called(attribute):
                    yield from _walk(program, called, trips, conditional)


def _collective(program: Program, one: Instruction, kind: str, trips: int | None, conditional: bool) -> Collective:
    result = one.shape
    # What has been started holds its operands as well: (operands, result, ...); a reduction's is the result alone.
    if one.opcode.endswith("-start") and kind != "all-reduce":
        result = split_top(result.strip()[1:-1])[1]
    elif kind == "send":
        result = split_top(result.strip()[1:-1])[0]
    arrays = _ARRAY.findall(result)
    return Collective(
        kind=kind,
        bytes=sum(math.ceil(_bits(dtype) * math.prod(_numbers(extents)) / 8) for dtype, extents in arrays),
        shapes=tuple(f"{dtype}[{extents}]" for dtype, extents in arrays),
        groups=_groups(one),
        trips=trips,
        source=describe_frames(program.frames(one)) or one.op_name,
        backward="transpose(" in one.op_name,
        conditional=conditional,
    )


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.fullmatch(r"[suf](\d+)\w*", dtype)  # s32, u8, f32, f8e4m3fn, f4e2m1fn
    if not found:
        raise HoloJAXError(f"Unknown type of array in a collective: {dtype!r}.")
    return int(found[1])


def _groups(one: Instruction) -> tuple[tuple[int, ...], ...]:
    """Read replica groups in XLA's three ways of writing them, or source-target pairs."""
    found = re.search(r"\b(?:replica_groups|source_target_pairs)=(.*)", one.attributes)
    if not found:
        return ()
    text = found[1]
    if listed := re.match(r"\{((?:\{[\d,]*\},?)*)\}", text):
        return tuple(_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1]))
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, extents = _numbers(iota[1]), _numbers(iota[2])
        order = _numbers(iota[3]) if iota[3] else tuple(range(len(extents)))
        return _rows(np.arange(math.prod(extents)).reshape(extents).transpose(order).reshape(shape))
    if mesh := re.match(r"mesh\[([^\]]*)\] \{([^}]*)\}", text):
        extents = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'(?!:)", mesh[2])
        if len(axes) == mesh[2].count("'") // 2 and set(axes) <= set(extents):
            names = list(extents)
            rest = [names.index(axis) for axis in names if axis not in axes]
            order = rest + [names.index(axis) for axis in axes]
            size = math.prod(extents[axis] for axis in axes)
            return _rows(np.arange(math.prod(extents.values())).reshape(*extents.values()).transpose(order), size)
    raise HoloJAXError(f"Unknown way to write the devices of a collective: {text[:80]!r}.")


def _rows(devices: np.ndarray, size: int | None = None) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(x) for x in row) for row in devices.reshape(-1, size or devices.shape[-1]))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(",") if x)
