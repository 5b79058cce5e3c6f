"""Every Spec on every machine: compiled it is a Plan that keeps its promises, or a typed error; and it travels whole."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as hy
from plan.examples import EXAMPLES, HOST, plan
from plan.model import Broken, check
from spec.strategies import specs
from wire.decoder import decoded

from creche.errors import SpecError, UnsupportedError
from creche.hostview import HostListing
from creche.machine import Extent, Machine
from creche.plan import compile as compiling
from creche.plan import steps as st
from creche.plan.compile import Context
from creche.plan.render import as_dict, as_text
from creche.spec import Bind, IdMap, Spec
from creche.wire.encode import encode


@hy.composite
def machines(draw: hy.DrawFn) -> Machine:
    """Machines with and without all that a Plan looks at."""
    base = draw(hy.sampled_from([Machine.example(), Machine.example_root()]))
    kernel = draw(hy.sampled_from([(6, 8, 0), (7, 0, 0), (6, 15, 0), (6, 13, 0), (6, 6, 0), (6, 3, 0), (6, 1, 0), (5, 14, 0), (5, 10, 0)]))
    changes = draw(
        hy.fixed_dictionaries(
            {},
            optional={
                "landlock_abi": hy.sampled_from([None, 0, 1, 2, 3, 4, 5, 6]),
                "subuid": hy.just(()),
                "newuidmap": hy.none(),
                "no_new_privs": hy.just(True),
                "uid_map": hy.just((Extent(0, 1000, 1),)),
                "gid_map": hy.just((Extent(0, 1000, 1), Extent(1, 100_000, 65536))),
                "setgroups_denied": hy.just(True),
                "arch": hy.sampled_from(["x86_64", "aarch64"]),
            },
        )
    )
    return attrs.evolve(base, kernel=kernel, release=".".join(map(str, kernel)), **changes)


hosts = hy.sampled_from([HOST, HostListing()])


@given(specs(), machines(), hosts)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_plan_or_a_typed_error(spec: Spec, machine: Machine, host: HostListing) -> None:
    try:
        compiled = plan(spec, machine, host)
    except SpecError as error:
        assert error.field and error.wish and str(error)
        return
    except UnsupportedError as error:
        assert error.what and str(error)
        return
    check(compiled, spec)
    assert as_text(compiled) and as_dict(compiled)
    view = compiled.view
    for steps in (compiled.parent, compiled.setup, compiled.command, *((view.parent, view.setup) if view else ())):
        assert decoded(encode(steps)) == [attrs.evolve(step, blame="", a=step.a % 2**64) for step in steps]


@given(hy.lists(specs(), min_size=2, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_what_is_remembered_of_other_specs_changes_no_plan(many: list[Spec]) -> None:
    def told(spec: Spec) -> object:
        try:
            return plan(spec, Machine.example_root(), HOST)
        except (SpecError, UnsupportedError) as error:
            return str(error)

    for spec in many:
        remembered = told(spec)
        compiling._confined.clear()
        compiling._setups.clear()
        compiling._kinds = ()
        assert told(spec) == remembered
        for other in many:
            told(other)


@pytest.mark.parametrize(
    ("fields", "around"),
    [
        ({}, {"base": 0x7100_0000}), ({"command": ["/bin/false", "x"]}, {}), ({"env": {"PATH": "/opt"}}, {}), ({"inherit_env": ["TOKEN"]}, {}),
        ({"inherit_env": ["TOKEN"]}, {"caller": {"TOKEN": "other"}}), ({"command": None}, {}), ({"user": 5}, {}), ({"stdin": "null"}, {}), ({"hostname": "x"}, {}),
        ({}, {"shared": False}), ({}, {"held": False}), ({}, {"command_cgroups": 1}), ({}, {"rlimits": (("core", (1, 1)), ("nofile", (9, 9)))}),
        ({"mounts": [Bind("/srv", "/srv"), Bind("/a", "/a", uid_map=[IdMap(0, 0, 9)], gid_map=[IdMap(0, 0, 9)])]}, {"base": 0x7100_0000}),
    ],
)  # fmt: skip
def test_another_of_a_kind_is_as_if_it_were_the_first(fields: dict[str, Any], around: dict[str, Any]) -> None:
    """Compiled after one that differs from it in little, and alone: the same Plan, with its own ids, words and variables."""
    machine = attrs.evolve(Machine.example_root(), kernel=(6, 15, 0), release="6.15.0")
    first = Spec(["true"], mounts=[Bind("/srv", "/srv")])
    before = Context(view=HOST, base=0x7000_0000, caller={"TOKEN": "s3cret"}, held=True, shared=True)
    spec, context = attrs.evolve(first, **fields), attrs.evolve(before, **around)

    def told() -> tuple[object, ...]:
        compiled = compiling.compile(spec, machine, context)
        return as_dict(compiled), compiled.who, compiled.at_once, compiled.ambient, compiled.listens, compiled.descriptors, encode(compiled.command)

    compiling._kinds = ()
    alone = told()
    compiling._kinds = ()
    compiling.compile(first, machine, before)
    assert [told(), told()] == [alone, alone]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_keep_their_promises(name: str) -> None:
    spec, machine = EXAMPLES[name]
    check(plan(spec, machine), spec)


def swapped(steps: tuple[st.Step, ...], first: type[st.Step], second: type[st.Step]) -> tuple[st.Step, ...]:
    """The steps with the last of `first` moved behind the last of `second`."""
    index = max(i for i, step in enumerate(steps) if isinstance(step, first))
    moved, rest = steps[index], [*steps[:index], *steps[index + 1 :]]
    at = max(i for i, step in enumerate(rest) if isinstance(step, second)) + 1
    return (*rest[:at], moved, *rest[at:])


SETUP_FAULTS = [(st.Attach, st.Pivot), (st.Propagation, st.Identity), (st.OpenTree, st.Identity), (st.Stage, st.Root), (st.Mask, st.Pivot), (st.Pivot, st.Seccomp), (st.Identity, st.Root)]
COMMAND_FAULTS = [(st.NoNewPrivs, st.Seccomp), (st.Capabilities, st.Chdir), (st.Chdir, st.Seccomp), (st.User, st.Capabilities), (st.Signals, st.Seccomp), (st.Seccomp, st.Exec)]


@pytest.mark.parametrize(("part", "first", "second"), [*[("setup", *pair) for pair in SETUP_FAULTS], *[("command", *pair) for pair in COMMAND_FAULTS]])
def test_control_the_model_sees_a_plan_in_another_order(part: str, first: type[st.Step], second: type[st.Step]) -> None:
    spec, machine = EXAMPLES["true-user"]
    compiled = plan(spec, machine)
    broken = attrs.evolve(compiled, **{part: swapped(getattr(compiled, part), first, second)})
    with pytest.raises(Broken):
        check(broken, spec)


def test_control_the_model_misses_groups_that_stay() -> None:
    spec, machine = EXAMPLES["true-root"]
    compiled = plan(spec, machine)
    broken = attrs.evolve(compiled, setup=tuple(step for step in compiled.setup if not isinstance(step, st.Groups)))
    with pytest.raises(Broken):
        check(broken, spec)


@pytest.mark.parametrize("gone", [st.Propagation, st.Pivot, st.NoNewPrivs, st.Seccomp, st.Capabilities, st.User, st.Signals, st.Root])
def test_control_the_model_misses_a_step_that_is_gone(gone: type[st.Step]) -> None:
    spec, machine = EXAMPLES["true-user"]
    compiled = plan(spec, machine)
    changed = {part: tuple(step for step in getattr(compiled, part) if not isinstance(step, gone)) for part in ("setup", "command")}
    with pytest.raises(Broken):
        check(attrs.evolve(compiled, **changed), spec)
