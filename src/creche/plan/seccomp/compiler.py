"""From a Policy to the kernel's bytes: a search tree over call numbers, whose leaves look at arguments.

A straight list of 300 comparisons is walked by every call of the guest; a tree over ranges takes some ten steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ...errors import SpecError
from .arguments import is_int
from .numbers import audit_arch, numbers
from .program import ARCH, ARGUMENTS, EQUAL, GREATER, NOT_LESS, NUMBER, Graph
from .rules import INT, NOSYS, Action, Compare, Op, Policy

__all__ = ["HANDOVER", "LONGEST", "clauses", "compile_policy"]

LONGEST = 4096  # instructions: BPF_MAXINSNS
X32 = 0x40000000  # __X32_SYSCALL_BIT: the same kernel's calls under other numbers

# What the message by which a listener is handed over bears in arguments that sendmsg does not have (native/abi.h).
HANDOVER = (Compare(4, Op.EQ, 0x63726368), Compare(5, Op.EQ, 0x656C6973))

Clause: TypeAlias = tuple[tuple[Compare, ...], Action]
Show: TypeAlias = Callable[[str | None, Action], Action]

_OPPOSITE = {Op.NE: Op.EQ, Op.LT: Op.GE, Op.LE: Op.GT}


def clauses(policy: Policy, arch: str) -> dict[int, tuple[Clause, ...]]:
    """What is said about each known number: the first clause that matches holds, and the last one always matches."""
    table = numbers(arch)
    said: dict[int, list[Clause]] = {number: [] for number in table.values()}
    for rule in policy.rules:
        for name in rule.names:
            number = table.get(name)
            if number is not None:
                said[number].append((tuple(_narrowed(name, compare) for compare in rule.when), rule.action))
    newest = max(said) if policy.newest is None else policy.newest
    found: dict[int, tuple[Clause, ...]] = {}
    for number, stated in said.items():
        if len(stated) == 1 and not stated[0][0]:  # most of them: allowed, and no more is said
            found[number] = (stated[0],)
            continue
        ranked = sorted(stated, key=lambda clause: clause[1].kind)  # stable: of equals, the first stays first
        ranked.append(((), policy.otherwise if number <= newest else policy.newer))
        end = next(at for at, (when, _) in enumerate(ranked) if not when)
        found[number] = tuple(ranked[: end + 1])
    return found


def _narrowed(call: str, compare: Compare) -> Compare:
    """The comparison of what the kernel will look at: of an int, the lower half."""
    if not is_int(call, compare.argument):
        return compare
    return compare._replace(value=compare.value & INT, mask=compare.mask & INT)


def _compared(graph: Graph, compare: Compare, yes: int, no: int) -> int:
    """One comparison, of one word or of two."""
    if compare.op in _OPPOSITE:
        compare = compare._replace(op=_OPPOSITE[compare.op])
        yes, no = no, yes
    _, op, value, mask = compare
    low = ARGUMENTS + 8 * compare.argument  # little endian: the lower half comes first
    high = low + 4
    if op is Op.EQ:
        if value & ~mask:
            return no
        if mask & INT:
            yes = graph.load(low, graph.test(EQUAL, value & INT, yes, no), mask & INT)
        if mask >> 32:
            yes = graph.load(high, graph.test(EQUAL, value >> 32, yes, no), mask >> 32)
        return yes
    lower = graph.load(low, graph.test(GREATER if op is Op.GT else NOT_LESS, value & INT, yes, no))
    if mask <= INT:
        return lower
    same = graph.test(EQUAL, value >> 32, lower, no)
    return graph.load(high, graph.test(GREATER, value >> 32, yes, same))


def _leaf(graph: Graph, stated: tuple[Clause, ...], show: Callable[[Action], Action]) -> int:
    node = 0
    for when, action in reversed(stated):
        node = _where(graph, when, graph.answer(show(action).code), node)
    return node


def _where(graph: Graph, when: tuple[Compare, ...], yes: int, no: int) -> int:
    for compare in reversed(when):
        yes = _compared(graph, compare, yes, no)
    return yes


def _ranges(leaves: dict[int, int], newer: int, x32: int | None) -> tuple[list[int], list[int]]:
    """The line of all numbers, cut wherever the answer changes: where each piece starts, and its node."""
    starts: list[int] = []
    nodes: list[int] = []

    def append(start: int, node: int) -> None:
        if not nodes or nodes[-1] != node:
            starts.append(start)
            nodes.append(node)

    following = 0
    for number in sorted(leaves):
        if number > following:
            append(following, newer)
        append(number, leaves[number])
        following = number + 1
    append(following, newer)
    if x32 is not None:
        append(X32, x32)
    return starts, nodes


def _tree(graph: Graph, starts: list[int], nodes: list[int], low: int, high: int) -> int:
    """A search among the pieces from `low` to `high`."""
    if low == high:
        return nodes[low]
    middle = (low + high + 1) // 2
    right = _tree(graph, starts, nodes, middle, high)
    return graph.test(NOT_LESS, starts[middle], right, _tree(graph, starts, nodes, low, middle - 1))


def _as_it_is(call: str | None, action: Action) -> Action:
    return action


def compile_policy(policy: Policy, arch: str, show: Show = _as_it_is, *, handover: Action | None = None) -> bytes:
    """The program of a policy: an array of struct sock_filter.

    `show` says what is answered in place of the policy's own action for a call (None: one that no rule names), and
    `handover` what is answered to the message that hands a listener over, whatever the policy says.

    Raises:
        SpecError: it would be longer than the kernel takes.
    """
    names = {number: name for name, number in numbers(arch).items()}
    graph = Graph()
    said = clauses(policy, arch)
    if show is _as_it_is:  # then what is said is all that matters: most calls have a leaf in common
        same = {stated: _leaf(graph, stated, partial(show, None)) for stated in said.values()}
        leaves = {number: same[stated] for number, stated in said.items()}
    else:
        leaves = {number: _leaf(graph, stated, partial(show, names[number])) for number, stated in said.items()}
    if handover is not None:
        number = numbers(arch)["sendmsg"]
        leaves[number] = _where(graph, HANDOVER, graph.answer(handover.code), leaves[number])
    newer = graph.answer(show(None, policy.newer).code)
    x32 = graph.answer(show(None, NOSYS).code) if arch == "x86_64" else None
    starts, nodes = _ranges(leaves, newer, x32)
    tree = graph.load(NUMBER, _tree(graph, starts, nodes, 0, len(nodes) - 1))
    foreign = graph.answer(show(None, policy.foreign).code)
    program = graph.instructions(graph.load(ARCH, graph.test(EQUAL, audit_arch(arch), tree, foreign)))
    if len(program) > LONGEST * 8:
        raise SpecError(
            "security.seccomp", f"{len(program) // 8} instructions", f"at most {LONGEST} are taken"
        )
    return program
