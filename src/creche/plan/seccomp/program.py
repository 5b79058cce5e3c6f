"""A graph of tests and answers, and the classic BPF that it becomes.

The program is written backwards, from its returns up, because classic BPF jumps forward only: what a test leads to
is there before the test is. Equal parts are one node and written once. A conditional jump reaches 255 instructions;
for what lies farther a return is repeated, or a long jump stands in between.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["ARCH", "ARGUMENTS", "EQUAL", "GREATER", "NOT_LESS", "NUMBER", "Graph"]

# Offsets in struct seccomp_data.
NUMBER, ARCH, ARGUMENTS = 0, 4, 16

LOAD, AND, RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
ALWAYS, EQUAL, GREATER, NOT_LESS = 0x05, 0x15, 0x25, 0x35  # BPF_JMP with JA, JEQ, JGT, JGE (and K)
NEAR = 255
WORD = 0xFFFFFFFF


class Return(NamedTuple):
    """End with this answer."""

    code: int


class Load(NamedTuple):
    """Fetch the word at an offset, cut it down to a mask, go on."""

    offset: int
    mask: int
    then: int


class Test(NamedTuple):
    """Compare what was fetched last."""

    opcode: int
    value: int
    yes: int
    no: int


class Graph:
    """Nodes by number, each made after those it leads to."""

    def __init__(self) -> None:
        self._nodes: list[Return | Load | Test] = []
        self._places: dict[Return | Load | Test, int] = {}

    def _node(self, node: Return | Load | Test) -> int:
        place = self._places.setdefault(node, len(self._nodes))
        if place == len(self._nodes):
            self._nodes.append(node)
        return place

    def answer(self, code: int) -> int:
        """The node that ends with `code`."""
        return self._node(Return(code))

    def test(self, opcode: int, value: int, yes: int, no: int) -> int:
        """The node that compares what was fetched last with `value`."""
        return yes if yes == no else self._node(Test(opcode, value, yes, no))

    def load(self, offset: int, then: int, mask: int = WORD) -> int:
        """The node that fetches a word and goes on to `then`; what `then` leads to need not fetch it again."""
        node = self._nodes[then]
        if not isinstance(node, Test):
            return then  # it does not look at what would have been fetched
        yes, no = self._after(offset, mask, node.yes), self._after(offset, mask, node.no)
        return self._node(Load(offset, mask, self.test(node.opcode, node.value, yes, no)))

    def _after(self, offset: int, mask: int, place: int) -> int:
        node = self._nodes[place]
        return node.then if isinstance(node, Load) and node[:2] == (offset, mask) else place

    def _leads_to(self, place: int) -> tuple[int, ...]:
        node = self._nodes[place]
        if isinstance(node, Return):
            return ()
        return (node.then,) if isinstance(node, Load) else (node.no, node.yes)

    def instructions(self, root: int) -> bytes:
        """The program that begins at `root`: an array of struct sock_filter, for a little-endian machine."""
        writer = _Writer(self._nodes)
        waiting = [root]
        while waiting:
            if waiting[-1] in writer.written:
                waiting.pop()
            elif missing := [place for place in self._leads_to(waiting[-1]) if place not in writer.written]:
                waiting.extend(missing)
            else:
                writer.write(waiting.pop())
        return b"".join(struct.pack("<HBBI", *instruction) for instruction in reversed(writer.backwards))


class _Writer:
    """Writes from the last instruction to the first; places count from the end."""

    def __init__(self, nodes: list[Return | Load | Test]) -> None:
        self.nodes = nodes
        self.backwards: list[tuple[int, int, int, int]] = []
        self.written: dict[int, int] = {}

    def write(self, number: int) -> None:
        """Write one node; those it leads to are written."""
        node = self.nodes[number]
        if isinstance(node, Return):
            self._emit(RETURN, 0, 0, node.code)
        elif isinstance(node, Load):
            if distance := self._distance(self.written[node.then]):
                self._emit(ALWAYS, 0, 0, distance)
            if node.mask != WORD:
                self._emit(AND, 0, 0, node.mask)
            self._emit(LOAD, 0, 0, node.offset)
        else:
            no = self._near(node.no, NEAR - 1)  # bringing the other one near may push this one away by one
            yes = self._near(node.yes, NEAR)
            self._emit(node.opcode, self._distance(yes), self._distance(no), node.value)
        self.written[number] = len(self.backwards) - 1

    def _distance(self, place: int) -> int:
        """How far the next instruction to be written has to jump."""
        return len(self.backwards) - 1 - place

    def _near(self, number: int, reach: int) -> int:
        """A place which the next instruction reaches by a conditional jump, and which does what the node does."""
        place = self.written[number]
        distance = self._distance(place)
        if distance <= reach:
            return place
        node = self.nodes[number]
        if isinstance(node, Return):
            self._emit(RETURN, 0, 0, node.code)
            self.written[number] = len(self.backwards) - 1
        else:
            self._emit(ALWAYS, 0, 0, distance)
        return len(self.backwards) - 1

    def _emit(self, opcode: int, yes: int, no: int, value: int) -> None:
        self.backwards.append((opcode, yes, no, value))
