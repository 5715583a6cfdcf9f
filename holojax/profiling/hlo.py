"""Compiled programs as text: which computation calls which, how often a loop runs, where an instruction comes from.

XLA has no public parser for HLO in Python. What is read here: computations, instructions with their operands, the loops
among them, and the stack frames that JAX leaves in the text. Written against the text of jax 0.10 and 0.12.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import PurePath

from holojax.errors import HoloJAXError

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ASSIGNMENT = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_HEADINGS = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_PACKAGE = PurePath(__file__).parents[1]
# What only hands a number on.
_TRANSPARENT = ("copy", "convert", "bitcast", "reshape")

Expression = tuple


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def called(self, attribute: str) -> tuple[str, ...]:
        """Return the names of the computations that an attribute such as `body` gives; () without it."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", _QUOTED.sub("", self.attributes))
        return tuple(re.findall(r"[\w.\-]+", found[1])) if found else ()

    @property
    def op_name(self) -> str:
        """JAX's name of the operation, such as `jit(f)/transpose(jvp())/ppermute`; "" where there is none."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order; `root` is the name of the one that is the result."""

    instructions: dict[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program: its computations, which of them runs first, and the tables of stack frames."""

    computations: dict[str, Computation]
    entry: str
    tables: dict[str, dict[int, str]]

    @classmethod
    def read(cls, text: str) -> Program:
        """Read HLO text as `jax.stages.Compiled.as_text()` gives it.

        Raises:
            HoloJAXError: it is no HLO text.
        """
        computations, tables, entry = {}, {}, None
        heading, current, instructions, root = None, None, {}, ""
        for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
            if current is not None:
                if line.startswith("}"):
                    computations[current] = Computation(instructions, root)
                    current = None
                elif start := _ASSIGNMENT.match(line):
                    instructions[start[2]] = _instruction(start[2], line[start.end() :])
                    root = start[2] if start[1] else root
            elif found := _COMPUTATION.match(line):
                current, instructions, root, heading = found[2], {}, "", None
                entry = found[2] if found[1] else entry
            elif line in _HEADINGS:
                heading = tables.setdefault(line, {})
            elif heading is not None and (found := re.match(r"(\d+) (.*)", line)):
                heading[int(found[1])] = found[2]
        if entry is None:
            raise HoloJAXError("Expected the text of a compiled program (HLO), found no ENTRY computation in it.")
        return cls(computations, entry, tables)

    def frames(self, instruction: Instruction) -> list[tuple[str, str]]:
        """Return file and function of every stack frame that led to an instruction, the innermost last."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.attributes)
        number, frames = int(found[1]) if found else 0, []
        while line := self.tables.get("StackFrames", {}).get(number):
            location = self.tables["FileLocations"][_field(line, "file_location_id")]
            file = self.tables["FileNames"][_field(location, "file_name_id")].strip('"')
            frames.append((file, self.tables["FunctionNames"][_field(location, "function_name_id")].strip('"')))
            number = _field(line, "parent_frame_id") - 1  # XLA writes it one too high
        return frames[::-1]

    def trips(self, computation: str, name: str) -> int | None:
        """Return how often the body of a `while` runs: as XLA says, else from its counter; None if it is not known."""
        loop = self.computations[computation].instructions[name]
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        (condition,), (body,) = loop.called("condition"), loop.called("body")
        test = self._expression(condition, self.computations[condition].root)
        match test:
            case ("compare", "LT", ("element", int(counter)), ("constant", int(stop))):
                pass
            case _:
                return None
        first = self._element(computation, loop.operands[0], counter)
        after = self._element(body, self.computations[body].root, counter)
        match first, after:
            case ("constant", int(start)), ("add", ("element", same), ("constant", int(step))) if same == counter:
                return max(math.ceil((stop - start) / step), 0) if step > 0 else None
        return None

    def _element(self, computation: str, name: str, index: int) -> Expression:
        """Return what stands at `index` of a tuple."""
        made = self.computations[computation].instructions[name]
        if made.opcode in _TRANSPARENT:
            return self._element(computation, made.operands[0], index)
        if made.opcode != "tuple":
            return ("unknown",)
        return self._expression(computation, made.operands[index])

    def _expression(self, computation: str, name: str, given: tuple[Expression, ...] | None = None) -> Expression:
        """Return an integer instruction as nested tuples, as far as counting loops needs it.

        `given` stands for the parameters of a computation that is called; without it an element of the one parameter,
        a loop's state, is ("element", number).
        """
        made = self.computations[computation].instructions[name]
        below = functools.partial(self._expression, computation, given=given)
        if made.opcode in _TRANSPARENT:
            return below(made.operands[0])
        if made.opcode == "constant" and re.fullmatch(r"-?\d+", made.operands[0]):
            return ("constant", int(made.operands[0]))
        if made.opcode == "parameter" and given is not None:
            return given[int(made.operands[0])]
        if made.opcode == "get-tuple-element" and given is None:
            source = self.computations[computation].instructions[made.operands[0]]
            if source.opcode == "parameter":
                return ("element", int(re.search(r"index=(\d+)", made.attributes)[1]))
        if made.opcode == "add":
            # A constant comes last, whichever side it was written on.
            return ("add", *sorted((below(x) for x in made.operands), key=lambda x: x[0] == "constant"))
        if made.opcode == "compare":
            direction = re.search(r"direction=(\w+)", made.attributes)[1]
            return ("compare", direction, *(below(x) for x in made.operands))
        for attribute in ("calls", "to_apply"):
            if made.opcode in ("fusion", "call") and (called := made.called(attribute)):
                arguments = tuple(below(x) for x in made.operands)
                return self._expression(called[0], self.computations[called[0]].root, arguments)
        return ("unknown",)


def describe_frames(frames: list[tuple[str, str]], depth: int = 4) -> str:
    """Name the functions of this package that led somewhere: the last one of each file, the last `depth` files.

    Where the package has no part in it, functions outside of installed packages are named. This room only looks on.
    """
    frames = [frame for frame in frames if not PurePath(frame[0]).is_relative_to(_PACKAGE / "profiling")]
    ours = [frame for frame in frames if PurePath(frame[0]).is_relative_to(_PACKAGE)]
    named: dict[str, str] = {}
    for file, function in ours or [frame for frame in frames if "site-packages" not in frame[0]]:
        plain = ".".join(part for part in function.split(".") if not part.startswith("<"))
        if plain:
            named.pop(file, None)  # so that the order is that of the innermost functions
            named[file] = plain.replace(".__call__", "")
    return " > ".join(list(named.values())[-depth:])


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.match(text, end)
    close = _closing(text, opcode.end() - 1)
    operands = tuple(x.split()[-1].lstrip("%") for x in split_top(text[opcode.end() : close]) if x.strip())
    return Instruction(name, text[:end], opcode[1], operands, text[close + 1 :])


def split_top(text: str) -> list[str]:
    """Split at the commas that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for index, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _closing(text: str, start: int) -> int:
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise HoloJAXError(f"Expected a closing parenthesis in {text[:80]!r}.")


def _field(text: str, name: str) -> int:
    return int(re.search(rf"{name}=(\d+)", text)[1])
