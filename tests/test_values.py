"""The methods that values share say what attrs would have written for each class."""

from __future__ import annotations

import copy
import pickle

import attrs
import pytest

from creche import Bind, Exit, HostView, Limits, Spec, Tmpfs, Usage
from creche.machine import Extent
from creche.plan.steps import Hostname, NoNewPrivs
from creche.values import Value


@attrs.frozen(eq=False, repr=False)
class Ours(Value):
    a: int
    b: tuple[int, ...] = ()
    hidden: int = attrs.field(default=0, repr=False)
    apart: int = attrs.field(default=0, eq=False)
    secret: str = attrs.field(default="x", repr=lambda value: "***")
    sign: int = attrs.field(default=0, eq=abs)


@attrs.frozen
class Theirs:
    a: int
    b: tuple[int, ...] = ()
    hidden: int = attrs.field(default=0, repr=False)
    apart: int = attrs.field(default=0, eq=False)
    secret: str = attrs.field(default="x", repr=lambda value: "***")
    sign: int = attrs.field(default=0, eq=abs)


CASES = [(1,), (1, (2,)), (1, (), 3), (1, (), 0, 4), (1, (), 0, 0, "y"), (1, (), 0, 0, "x", 5), (1, (), 0, 0, "x", -5)]


@pytest.mark.parametrize("one", CASES)
@pytest.mark.parametrize("other", CASES)
def test_what_is_equal_is_what_attrs_would_call_so(one, other):
    assert (Ours(*one) == Ours(*other)) is (Theirs(*one) == Theirs(*other))
    assert (Ours(*one) != Ours(*other)) is (Theirs(*one) != Theirs(*other))
    assert (hash(Ours(*one)) == hash(Ours(*other))) is (hash(Theirs(*one)) == hash(Theirs(*other)))


@pytest.mark.parametrize("case", CASES)
def test_the_repr_is_the_one_attrs_would_write(case):
    assert repr(Ours(*case)) == repr(Theirs(*case)).replace("Theirs", "Ours")


def test_other_classes_with_the_same_fields_are_others():
    assert NoNewPrivs() != Hostname()
    assert Hostname(text="a") == Hostname(text=b"a")
    assert Extent(0, 0, 1) != (0, 0, 1)
    assert HostView() == HostView() and hash(HostView()) == hash(HostView())


@pytest.mark.parametrize(
    "value",
    [
        Spec(["true"], limits=Limits(memory="1G"), mounts=[Bind("/usr", "/usr"), Tmpfs("/x")]),
        Exit(0, usage=Usage(user=1.0)),
        HostView(),
        Extent(0, 1, 2),
    ],
)
def test_a_copy_equals_its_original(value):
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == value
    assert attrs.evolve(value) == value and repr(attrs.evolve(value)) == repr(value)


def test_what_a_value_holds_stays_as_it_is():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Ours(1).a = 2  # type: ignore[misc]
