"""The profiles as tables: every call has its decision, and each decision its place."""

from __future__ import annotations

import errno

import pytest

from creche.plan.seccomp import Filter, compile_filter, verdict
from creche.plan.seccomp.default import ALLOWED, LOOKED_AT, OPENED_BY, REFUSED
from creche.plan.seccomp.numbers import ARCHES, numbers
from creche.plan.seccomp.rules import ALLOW, EPERM, NOSYS, refuse
from creche.plan.seccomp.strict import CLOSED
from creche.spec import Security
from creche.spec.security import CAPABILITIES

EVERY = sorted(set(numbers("x86_64")) | set(numbers("aarch64")))


def made(name: str, arch: str = "x86_64", *capabilities: str) -> Filter:
    found = compile_filter(name, arch=arch, capabilities=frozenset(capabilities), kernel=(6, 1))
    assert found is not None
    return found


def test_every_call_is_decided_once() -> None:
    """Allowed, opened by a capability, looked at, or refused: a new call in the tables asks for a decision."""
    decided = [
        *ALLOWED.split(),
        *{name for names in OPENED_BY.values() for name in names.split()} - {"clone", "unshare"},
        *LOOKED_AT.split(),
        *(name for names in REFUSED.values() for name in names.split()),
    ]
    assert sorted(decided) == EVERY


def test_the_order_of_the_tables() -> None:
    """Alphabetical, so that a name is found and a diff is short; capabilities are real ones."""
    for table in (ALLOWED, CLOSED, LOOKED_AT, *REFUSED.values(), *OPENED_BY.values()):
        assert table.split() == sorted(table.split())
    assert set(OPENED_BY) <= set(CAPABILITIES)
    assert set(CLOSED.split()) <= set(ALLOWED.split())


@pytest.mark.parametrize("arch", ARCHES)
def test_refused_means_refused_whatever_the_capabilities(arch: str) -> None:
    """Keyrings, io_uring and the like, with all capabilities there are."""
    filter = made("default", arch, *CAPABILITIES)
    for reason, names in REFUSED.items():
        for name in set(names.split()) & set(numbers(arch)):
            assert verdict(filter, name) == EPERM, reason


@pytest.mark.parametrize("arch", ARCHES)
def test_a_capability_opens_no_more_than_its_calls(arch: str) -> None:
    """With one capability exactly its own row is allowed that was not before (sockets are looked at apart)."""
    plain = made("default", arch)
    for capability in CAPABILITIES:
        filter = made("default", arch, capability)
        changed = {
            name
            for name in numbers(arch)
            if verdict(filter, name, (1 << 28, 0)) != verdict(plain, name, (1 << 28, 0))
        }
        assert changed == set(OPENED_BY.get(capability, "").split()) & set(numbers(arch))


@pytest.mark.parametrize("arch", ARCHES)
def test_strict_allows_less_than_default(arch: str) -> None:
    """Nothing that default refuses, whatever the arguments; and capabilities open nothing."""
    strict, default = made("strict", arch), made("default", arch)
    assert made("strict", arch, *CAPABILITIES).program == strict.program
    for name in numbers(arch):
        for args in [(0,), (1, 1), (0, 0x5401), (0, 0x5412), (0x10F00,), (0xFFFFFFFF,), (0x20000,), (30,)]:
            if verdict(strict, name, args) == ALLOW:
                assert verdict(default, name, args) == ALLOW, (name, args)


def test_strict_by_its_words() -> None:
    """Threads but no processes, no sockets, exec for the command itself, ioctl as on no terminal."""
    strict = made("strict")
    for name in (
        "fork",
        "vfork",
        "socket",
        "connect",
        "ptrace",
        "mount",
        "setuid",
        "unshare",
        "kcmp",
        "bpf",
    ):
        assert verdict(strict, name) == EPERM, name
    for name in (
        "read",
        "write",
        "openat",
        "mmap",
        "execve",
        "exit_group",
        "futex",
        "rseq",
        "getrandom",
        "tgkill",
    ):
        assert verdict(strict, name) == ALLOW, name
    assert (
        verdict(strict, "socketpair", (1, 1, 0)) == ALLOW
        and verdict(strict, "socketpair", (30, 1, 0)) == EPERM
    )
    assert (
        verdict(strict, "sendto", (3, 0, 0, 0, 1 << 32)) == EPERM and verdict(strict, "sendto", (3,)) == ALLOW
    )
    thread = 0x3D0F00  # what pthread_create passes
    assert verdict(strict, "clone", (thread,)) == ALLOW
    assert verdict(strict, "clone", (thread | 0x10000000,)) == EPERM
    assert verdict(strict, "clone", (0x11,)) == verdict(strict, "clone", (0x4111,)) == EPERM  # fork, vfork
    assert verdict(strict, "clone3") == NOSYS
    assert verdict(strict, "ioctl", (0, 0x5401)) == ALLOW
    assert verdict(strict, "ioctl", (0, 0x5412)) == EPERM
    assert verdict(strict, "ioctl", (0, 0x8913)) == refuse(errno.ENOTTY)


def test_a_socket_of_the_internet_by_its_type() -> None:
    """With protocol 0 the type alone would choose SCTP or DCCP (the kernel's inet_create)."""
    plain, raw, no_type = made("default"), made("default", "x86_64", "CAP_NET_RAW"), refuse(errno.ESOCKTNOSUPPORT)
    for family in (2, 10):
        for kind in (4, 5, 6, 10, 5 | 0o4000, 6 | 0o2000000, 5 | 1 << 32):
            assert verdict(plain, "socket", (family, kind, 0)) == no_type
            assert verdict(raw, "socket", (family, kind, 0)) == ALLOW
        for kind in (1, 2, 3, 1 | 0o2004000):
            assert verdict(plain, "socket", (family, kind, 0)) == ALLOW
    assert verdict(plain, "socket", (1, 5, 0)) == ALLOW


def test_ioctls_that_load_modules() -> None:
    plain, admin = made("default"), made("default", "x86_64", "CAP_NET_ADMIN")
    for code in (0x8940, 0x89A1, 0x8982, 0x8983 | 1 << 32):
        assert verdict(plain, "ioctl", (3, code)) == refuse(errno.ENOPKG)
        assert verdict(admin, "ioctl", (3, code)) == ALLOW


def test_a_child_of_ones_own_parent() -> None:
    """CLONE_PARENT, but for those who may have namespaces."""
    assert verdict(made("default"), "clone", (0x8011,)) == verdict(made("default"), "clone", (0x8011 | 1 << 40,)) == EPERM
    assert verdict(made("default", "x86_64", "CAP_SYS_ADMIN"), "clone", (0x8011,)) == ALLOW


def test_where_sockets_are_denied_so_are_pairs_that_can_be_addressed() -> None:
    from creche.spec import SeccompRules

    denied, spoken = (compile_filter(SeccompRules(deny=["socket"], allow=allow), arch="x86_64", kernel=(6, 1)) for allow in ([], ["socketpair"]))
    assert denied is not None and spoken is not None
    for kind in (2, 3, 2 | 0o2000000, 4, 2 | 1 << 32):
        assert verdict(denied, "socketpair", (1, kind, 0)) == EPERM
        assert verdict(spoken, "socketpair", (1, kind, 0)) == ALLOW
    for kind in (1, 5, 1 | 0o2004000):
        assert verdict(denied, "socketpair", (1, kind, 0)) == ALLOW


def test_seccomp_rules_change_calls_by_name() -> None:
    """What `allow` and `deny` name is decided by them alone; everything else stays as it was."""
    from creche.spec import SeccompRules

    rules = SeccompRules(allow=["keyctl", "socket", "unshare"], deny=["ptrace", "fork", "clone3"])
    filter = compile_filter(Security(seccomp=rules).seccomp, arch="x86_64", kernel=(6, 1))
    assert filter is not None
    assert (
        verdict(filter, "keyctl")
        == verdict(filter, "socket", (40,))
        == verdict(filter, "unshare", (1 << 28,))
        == ALLOW
    )
    assert verdict(filter, "ptrace") == verdict(filter, "fork") == EPERM
    assert verdict(filter, "clone3") == NOSYS  # so that threads still start
    default = made("default")
    for name in set(EVERY) & set(numbers("x86_64")) - {*rules.allow, *rules.deny}:
        assert verdict(filter, name, (1 << 28,)) == verdict(default, name, (1 << 28,))
    narrowed = compile_filter(SeccompRules(base="strict", deny=["execve"]), arch="aarch64", kernel=(6, 1))
    assert narrowed is not None and verdict(narrowed, "execve") == EPERM
