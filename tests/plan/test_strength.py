"""The ladder of strengths as a table: surroundings in, the rung and the weaker Spec out, or a refusal that says why."""

from __future__ import annotations

import errno
from typing import Any

import attrs
import pytest
from hypothesis import given
from plan.examples import HOST
from spec.strategies import specs

from creche.errors import SpecError, UnsupportedError
from creche.machine import Machine
from creche.plan import steps as st
from creche.plan.compile import Context, compile
from creche.plan.strength import weaken
from creche.spec import (
    Bind,
    Directory,
    IdMap,
    Landlock,
    Namespaces,
    SeccompRules,
    Security,
    Spec,
    Strength,
    Sysfs,
    Tmpfs,
)

USER = attrs.evolve(Machine.example(), landlock_abi=7)
FULL, NO_NETWORK, LANDLOCK = Strength

#: Surroundings, and the rungs that come of them where "full", "no-network-namespace", "landlock" is the least; None: a refusal.
TABLE: dict[str, tuple[dict[str, Any], tuple[Strength | None, ...]]] = {
    "nothing in the way": ({}, (FULL, FULL, FULL)),
    "no user namespaces": ({"max_user_namespaces": 0}, (FULL, None, LANDLOCK)),
    "for root alone": ({"unprivileged_userns_clone": 0}, (FULL, None, LANDLOCK)),
    "for root alone, as one": ({"unprivileged_userns_clone": 0, "capabilities": frozenset({"CAP_SYS_ADMIN"})}, (FULL, FULL, FULL)),
    "AppArmor": ({"apparmor_restrict_userns": 1, "apparmor_label": "unconfined"}, (FULL, None, LANDLOCK)),
    "AppArmor with a profile": ({"apparmor_restrict_userns": 1, "apparmor_label": "creche"}, (FULL, FULL, FULL)),
    "a chroot": ({"chrooted": True}, (FULL, None, LANDLOCK)),
    "a filter over clone3": ({"clone3_refused": errno.ENOSYS}, (FULL, None, LANDLOCK)),
    "a trial that was refused": ({"refusal": "mounts: EPERM"}, (FULL, None, LANDLOCK)),
    "no network namespaces": ({"max_net_namespaces": 0}, (FULL, NO_NETWORK, NO_NETWORK)),
    "a kernel without them": ({"namespaces": USER.namespaces - {"net"}}, (FULL, NO_NETWORK, NO_NETWORK)),
    "neither, and an old Landlock": ({"max_user_namespaces": 0, "landlock_abi": 5}, (FULL, None, None)),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("least", list(Strength))
def test_the_rung(name: str, least: Strength) -> None:
    machine, expected = attrs.evolve(USER, **TABLE[name][0]), TABLE[name][1][list(Strength).index(least)]
    spec = Spec(["true"], min_strength=least)
    if expected is None:
        with pytest.raises(UnsupportedError, match="min_strength") as caught:
            weaken(spec, machine, HOST)
        assert caught.value.hint
        return
    weaker, rung = weaken(spec, machine, HOST)
    assert rung is expected
    assert (weaker is spec) is (rung is FULL)
    compile(weaker, machine, Context(view=HOST))


def test_each_rung_promises_less_and_says_what() -> None:
    assert FULL.promises > NO_NETWORK.promises > LANDLOCK.promises > frozenset()


FORBIDDEN = attrs.evolve(USER, max_user_namespaces=0)


def landlocked(**fields: Any) -> Spec:
    spec, rung = weaken(Spec(["true"], min_strength="landlock", **fields), FORBIDDEN, HOST)
    assert rung is LANDLOCK
    return spec


def test_what_landlock_alone_is_told() -> None:
    spec = landlocked(mounts=[Bind("/srv/in", "/srv/in", readonly=True), Bind("/srv/out", "/srv/out", noexec=True)])
    rules = spec.security.landlock
    assert rules is not None and rules.scoped and not rules.best_effort
    assert {"/usr", "/etc/passwd", "/srv/in", "/srv/out", "/dev/null"} <= set(rules.read)
    assert "/srv/out" in rules.write and "/srv/in" not in rules.write and "/usr" not in rules.write
    assert set(rules.execute) == {"/usr", "/srv/in"}
    assert not spec.has_init and spec.rootfs is None and not any(attrs.astuple(spec.namespaces))
    plan = compile(spec, FORBIDDEN, Context(view=HOST))
    assert not plan.new and not plan.parent
    kinds = [type(step) for step in plan.command]
    assert kinds.index(st.NoNewPrivs) < kinds.index(st.LandlockRestrict) < kinds.index(st.Seccomp) < kinds.index(st.Exec)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"uid_map": [IdMap(0, 1000, 1)]}, "uid_map"),
        ({"hostname": "box"}, "hostname"),
        ({"sysctl": {"kernel.shmmax": "1"}}, "sysctl"),
        ({"tty": True}, "tty"),
        ({"rootfs": Directory("/srv")}, "rootfs"),
        ({"mounts": [Tmpfs("/x")]}, r"mounts\[0\]"),
        ({"mounts": [Bind("/a", "/b")]}, r"mounts\[0\]"),
        ({"namespaces": Namespaces(network="/proc/7/ns/net")}, "namespaces.network"),
        ({"security": Security(capabilities=["CAP_CHOWN"])}, "security.capabilities"),
        ({"security": Security(landlock=Landlock(read=["/usr"]))}, "security.landlock"),
        ({"security": Security(seccomp=None)}, "security.seccomp"),
        ({"security": Security(seccomp=SeccompRules(allow=["socket"]))}, "security.seccomp"),
        ({"security": Security(seccomp=SeccompRules(notify=["socket"]))}, "security.seccomp"),
        ({"security": Security(masked_paths=["/srv"])}, "security.masked_paths"),
        ({"security": Security(no_new_privs=False, seccomp=None)}, "security.no_new_privs"),
    ],
)
def test_what_can_not_be_had_on_that_rung_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^{field} on the rung 'landlock'"):
        landlocked(**fields)


def test_a_place_without_a_command_is_refused_there() -> None:
    with pytest.raises(UnsupportedError, match=r"^command on the rung"):
        weaken(Spec(min_strength="landlock"), FORBIDDEN, HOST)


def test_without_a_network_namespace_there_is_no_socket() -> None:
    machine = attrs.evolve(USER, max_net_namespaces=0)
    spec, _ = weaken(Spec(["true"], min_strength="no-network-namespace"), machine, HOST)
    assert spec.namespaces == Namespaces(network=False)
    assert isinstance(spec.security.seccomp, SeccompRules) and spec.security.seccomp.deny == ("socket",)
    asked, rung = weaken(Spec(["true"], min_strength="no-network-namespace", namespaces=Namespaces(network=False)), machine, HOST)
    assert rung is FULL and asked.security.seccomp == "default", "what the Spec itself shares with the host is no weakening"
    for fields in ({"mounts": [Sysfs()]}, {"sysctl": {"net.ipv4.ip_forward": "1"}}, {"security": Security(seccomp=None)}):
        with pytest.raises(UnsupportedError, match="on the rung 'no-network-namespace'"):
            weaken(Spec(["true"], min_strength="landlock", **fields), machine, HOST)


@given(specs())
def test_by_default_no_spec_is_ever_weakened(spec: Spec) -> None:
    for changes, _ in TABLE.values():
        assert weaken(spec, attrs.evolve(USER, **changes), HOST) == (spec, FULL)


@given(specs())
def test_any_spec_is_weakened_or_refused_by_a_typed_error(spec: Spec) -> None:
    for changes, _ in TABLE.values():
        try:
            weaker, rung = weaken(attrs.evolve(spec, min_strength="landlock"), attrs.evolve(USER, **changes), HOST)
        except (UnsupportedError, SpecError):
            continue
        assert rung is FULL or weaker.namespaces.network is False
