"""What the compiled program answers is what the rules say, read one by one by a model that knows no program."""

from __future__ import annotations

import operator
import random

import pytest

from creche.errors import SpecError
from creche.plan.seccomp.arguments import is_int
from creche.plan.seccomp.compiler import LONGEST, compile_policy
from creche.plan.seccomp.default import default_policy
from creche.plan.seccomp.numbers import AUDIT, name_of, numbers
from creche.plan.seccomp.rules import INT, WORD, Action, Compare, Kind, Op, Policy, Rule, refuse
from creche.plan.seccomp.simulate import run
from creche.plan.seccomp.strict import strict_policy

HOLDS = {
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
}


def model(policy: Policy, arch: str, number: int, args: tuple[int, ...]) -> int:
    """The most severe answer among the rules that match; of equally severe ones the first."""
    name = name_of(number, arch)
    if name is None:
        return (refuse(38) if arch == "x86_64" and number >= 1 << 30 else policy.newer).code
    newest = max(numbers(arch).values()) if policy.newest is None else policy.newest
    rest = [policy.otherwise if number <= newest else policy.newer]
    found = []
    for rule in policy.rules:
        if name in rule.names and all(_holds(compare, name, args) for compare in rule.when):
            found.append(rule.action)
    return min(found or rest, key=lambda action: action.kind).code


def _holds(compare: Compare, name: str, args: tuple[int, ...]) -> bool:
    width = INT if is_int(name, compare.argument) else WORD
    given = args[compare.argument] & compare.mask & width
    return bool(HOLDS[compare.op](given, compare.value & width))


def _policy(dice: random.Random, names: list[str]) -> Policy:
    def word() -> int:
        few = [0, 1, 2, 5, INT, INT + 1, INT + 6, WORD]
        return dice.choice([dice.choice(few), dice.getrandbits(3), dice.getrandbits(64)])

    def compare() -> Compare:
        if dice.random() < 0.3:
            mask = word()
            return Compare(dice.randrange(6), Op.EQ, word() & mask, mask)
        return Compare(dice.randrange(3), dice.choice(list(Op)), word())

    def action() -> Action:
        kind = dice.choice(list(Kind))
        return Action(kind, dice.randrange(1, 100) if kind is Kind.ERRNO else 0)

    rules = [
        Rule(
            tuple(dice.sample(names, dice.randint(1, 6))),
            action(),
            tuple(compare() for _ in range(dice.choice([0, 1, 1, 2, 3]))),
        )
        for _ in range(dice.randint(1, 60))
    ]
    return Policy(tuple(rules), action(), action(), dice.choice([None, None, 100, 440]), action())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("seed", range(4))
def test_random_policies(arch: str, seed: int) -> None:
    """Contradicting and overlapping rules, several comparisons of one argument, every kind of answer."""
    dice = random.Random(f"{arch} {seed}")
    every = sorted(numbers(arch))
    for _ in range(25):
        names = dice.sample(every, 8)  # few, so that rules meet
        policy = _policy(dice, names)
        program = compile_policy(policy, arch)
        compared = [compare for rule in policy.rules for compare in rule.when] or [Compare(0, Op.EQ, 0)]
        for _ in range(200):
            number = numbers(arch)[dice.choice(names)] if dice.random() < 0.9 else dice.getrandbits(32)
            args = [dice.choice(compared).value + dice.randint(-1, 1) & WORD for _ in range(6)]
            if dice.random() < 0.5:
                args[dice.randrange(6)] ^= 1 << dice.randrange(64)
            got, wanted = (
                run(program, number, AUDIT[arch], tuple(args)),
                model(policy, arch, number, tuple(args)),
            )
            assert got == wanted, f"{name_of(number, arch)} {args}: {Action.of(got)} for {Action.of(wanted)}"
        assert run(program, 0, 0x40000003) == policy.foreign.code


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "policy", [default_policy(), strict_policy(), default_policy(frozenset({"CAP_SYS_ADMIN"}))]
)
def test_our_profiles_over_every_number(policy: Policy, arch: str) -> None:
    """Every number to beyond the tables, and the edges of the x32 range, with arguments that rules speak of."""
    program = compile_policy(policy, arch)
    values = sorted({compare.value for rule in policy.rules for compare in rule.when} | {3, 1 << 40, INT})
    dice = random.Random(arch)
    edges = [(1 << 30) - 1, 1 << 30, (1 << 30) + 41, (1 << 32) - 1]
    for number in [*range(700), *edges]:
        for _ in range(12):
            args = tuple(dice.choice(values) | dice.choice([0, 1 << 32]) for _ in range(6))
            assert run(program, number, AUDIT[arch], args) == model(policy, arch, number, args), (
                number,
                args,
            )


def test_far_jumps() -> None:
    """A leaf longer than a conditional jump reaches, in front of others: long jumps and repeated returns."""
    many = tuple(Rule(("getpid",), refuse(1 + at % 90), (Compare(0, Op.EQ, 7 * at),)) for at in range(400))
    rules = (
        *many,
        Rule(("read", "exit"), refuse(95)),
        *(Rule((name,), refuse(at)) for at, name in enumerate(numbers("x86_64"), 1) if at % 3),
    )
    policy = Policy(rules)
    program = compile_policy(policy, "x86_64")
    assert 1200 < len(program) // 8 < LONGEST
    for number in range(480):
        for args in [(0,) * 6, (7 * 399,) + (0,) * 5, (7 * 200,) + (0,) * 5, (7 << 32,) + (0,) * 5, (5,) * 6]:
            assert run(program, number, AUDIT["x86_64"], args) == model(policy, "x86_64", number, args)


def test_a_filter_that_the_kernel_would_not_take_is_an_error() -> None:
    """4096 instructions are BPF_MAXINSNS; a longer chain is refused here, with a sentence, and not by recursion."""
    many = tuple(Rule(("getpid",), refuse(2), (Compare(at % 6, Op.EQ, 3 * at),)) for at in range(3000))
    with pytest.raises(SpecError, match="at most 4096"):
        compile_policy(Policy(many), "x86_64")
