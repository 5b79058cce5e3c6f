"""What may not be done: names of capabilities and calls, profiles of other runtimes, paths and labels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from spec.refusals import refused

from creche.spec import Landlock, SeccompRules, Security
from creche.spec.security import CAPABILITIES

PROFILE: dict[str, Any] = {  # in the shape of Docker's own
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {
            "names": ["read", "write"],
            "action": "SCMP_ACT_ALLOW",
            "args": [],
            "comment": "",
            "includes": {},
            "excludes": {},
        },
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"]},
        },
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 38,
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
    ],
}


def test_the_defaults_are_for_strangers() -> None:
    default = Security()
    assert (default.capabilities, default.seccomp, default.no_new_privs, default.privileged) == (
        (),
        "default",
        True,
        False,
    )
    assert (
        default.masked_paths
        is default.readonly_paths
        is default.landlock
        is default.apparmor
        is default.selinux
        is None
    )


def test_capabilities_have_one_spelling() -> None:
    given = ["CAP_KILL", "net_bind_service", "Cap_Chown"]
    assert Security(capabilities=given).capabilities == ("CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN")
    assert len(CAPABILITIES) == 41 and len(set(CAPABILITIES)) == 41  # CAP_LAST_CAP is 40


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"capabilities": ["CAP_NET_BIND"]}, "security.capabilities[0]"),
        ({"capabilities": ["ALL"]}, "security.capabilities[0]"),
        ({"capabilities": ["CAP_KILL", "kill"]}, "security.capabilities[1]"),
        ({"capabilities": "CAP_KILL"}, "security.capabilities"),
        ({"capabilities": [5]}, "security.capabilities[0]"),
        ({"seccomp": "defualt"}, "security.seccomp"),
        ({"seccomp": False}, "security.seccomp"),
        ({"seccomp": {}}, "security.seccomp.defaultAction"),
        ({"no_new_privs": 0}, "security.no_new_privs"),
        ({"privileged": "no"}, "security.privileged"),
        ({"masked_paths": ["/"]}, "security.masked_paths[0]"),
        ({"masked_paths": ["/a/../b"]}, "security.masked_paths[0]"),
        ({"readonly_paths": "/proc/sys"}, "security.readonly_paths"),
        ({"landlock": True}, "security.landlock"),
        ({"apparmor": ""}, "security.apparmor"),
        ({"apparmor": "a\nb"}, "security.apparmor"),
        ({"selinux": 5}, "security.selinux"),
    ],
)
def test_nonsense_is_refused(given: dict[str, Any], field: str) -> None:
    refused(lambda: Security(**given), field)


def test_a_slip_of_the_pen_is_guessed() -> None:
    assert (
        "CAP_NET_BIND_SERVICE"
        in refused(lambda: Security(capabilities=["net_bind_servce"]), "security.capabilities[0]").wish
    )
    assert "'default'" in refused(lambda: Security(seccomp="defualt"), "security.seccomp").wish


def test_rules_name_calls_once() -> None:
    assert SeccompRules(allow=["ptrace"], deny=("mount",)).deny == ("mount",)
    refused(lambda: SeccompRules(allow=["a"], deny=["b", "a"]), "security.seccomp.deny", "choose one")
    refused(lambda: SeccompRules(allow=["a", "a"]), "security.seccomp.allow[1]")
    refused(lambda: SeccompRules(allow="ptrace"), "security.seccomp.allow")
    refused(lambda: SeccompRules(allow=["a b"]), "security.seccomp.allow[0]")
    refused(lambda: SeccompRules(base="none"), "security.seccomp.base")


def test_landlock_takes_paths_and_ports() -> None:
    rules = Landlock(read=["/", "/usr/"], tcp_bind=[], tcp_connect=[443])
    assert rules.read == ("/", "/usr") and rules.tcp_bind == () and rules.tcp_connect == (443,)
    assert Landlock().tcp_bind is None and not Landlock().best_effort
    refused(lambda: Landlock(read=["usr"]), "security.landlock.read[0]")
    refused(lambda: Landlock(tcp_connect=[65536]), "security.landlock.tcp_connect[0]")
    refused(lambda: Landlock(tcp_connect=["443"]), "security.landlock.tcp_connect[0]")
    refused(lambda: Landlock(best_effort=None), "security.landlock.best_effort")


def test_a_profile_is_taken_as_a_copy() -> None:
    given = copy.deepcopy(PROFILE)
    security = Security(seccomp=given)
    assert security.seccomp == PROFILE
    given["syscalls"].clear()
    assert security.seccomp == PROFILE
    assert Security(seccomp=security.seccomp).seccomp == PROFILE


def _changed(path: str, value: Any) -> dict[str, Any]:
    """PROFILE with one place changed: ``syscalls.2.args.0.op``."""
    result = copy.deepcopy(PROFILE)
    at: Any = result
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("defaultAction", "SCMP_ACT_ALOW", "defaultAction"),
        ("defaultAction", None, "defaultAction"),
        ("defaultErrnoRet", 4096, "defaultErrnoRet"),
        ("defaultErrnoRet", "1", "defaultErrnoRet"),
        ("listenerPath", "/run/x", "listenerPath"),
        ("sysalls", [], "sysalls"),
        ("syscalls", {}, "syscalls"),
        ("syscalls.0", [], None),
        ("syscalls.0.names", [], "syscalls[0].names"),
        ("syscalls.0.names", "read", "syscalls[0].names"),
        ("syscalls.0.names", ["re ad"], "syscalls[0].names[0]"),
        ("syscalls.0.name", "open", "syscalls[0].names"),
        ("syscalls.0.action", "ALLOW", "syscalls[0].action"),
        ("syscalls.0.errnoRet", 1, "syscalls[0].errnoRet"),
        ("syscalls.0.arguments", [], "syscalls[0].arguments"),
        ("syscalls.0.args", [{}], "syscalls[0].args[0].index"),
        ("syscalls.2.args.0.index", 6, "syscalls[2].args[0].index"),
        ("syscalls.2.args.0.op", "==", "syscalls[2].args[0].op"),
        ("syscalls.2.args.0.value", -1, "syscalls[2].args[0].value"),
        ("syscalls.2.args.0.value", 2**64, "syscalls[2].args[0].value"),
        ("syscalls.2.args.0.value", 1.0, "syscalls[2].args[0].value"),
        ("syscalls.2.excludes.capabilities", [], "syscalls[2].excludes.capabilities"),
        ("syscalls.1.includes.minKernel", "new", "syscalls[1].includes.minKernel"),
    ],
)
def test_a_profile_with_a_slip_is_refused_at_its_place(path: str, value: Any, field: str | None) -> None:
    """Read loosely, each of these would be a filter other than the one that was written."""
    if field is None:
        changed = PROFILE | {"syscalls": [[]]}
        refused(lambda: Security(seccomp=changed), "security.seccomp.syscalls[0]")
        return
    refused(lambda: Security(seccomp=_changed(path, value)), f"security.seccomp.{field}")


def test_a_profile_decides_a_call_once() -> None:
    twice = [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["read"], "action": "SCMP_ACT_ERRNO"}]
    refused(
        lambda: Security(seccomp={"defaultAction": "SCMP_ACT_ERRNO", "syscalls": twice}),
        "security.seccomp.syscalls[1].names",
        "otherwise",
    )


def test_a_giant_profile_is_refused() -> None:
    rules = [{"names": [f"call{n}"], "action": "SCMP_ACT_ALLOW", "comment": "x" * 4000} for n in range(300)]
    refused(
        lambda: Security(seccomp={"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}),
        "security.seccomp",
        "MiB",
    )
    many = [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}] * 10_001
    refused(
        lambda: Security(seccomp={"defaultAction": "SCMP_ACT_ERRNO", "syscalls": many}),
        "security.seccomp.syscalls",
    )
