"""Failures whose cause lies around us: exhausted, forbidden, too old. Tried in processes of their own, or on machines made up."""

from __future__ import annotations

import errno as e
import os
import subprocess
import sys
from typing import Any

import attrs
import pytest
from privileged.look import run

import creche
from creche import IdMap, Landlock, Limits, Namespaces, Overlay, Security, Spec, UnsupportedError
from creche.errors import SpecError
from creche.machine import Machine
from creche.plan.compile import Context, compile
from needs import needs

pytestmark = needs("userns", "native")

TELL = """
import anyio, creche, os, resource, sys
def tell(warm=False, **fields):
    if warm:
        anyio.run(lambda: creche.run(["true"]))
    def tried():
        try:
            anyio.run(lambda: creche.run(["true"], **fields))
        except creche.CrecheError as error:
            print(type(error).__name__, getattr(error, "field", None), getattr(error, "errno", None), error, sep="|")
        else:
            print("no error")
    return tried
"""


def told(code: str, *prefix: str) -> list[str]:
    """What a process of its own says of the error it got: class, field, errno, text."""
    done = subprocess.run([*prefix, sys.executable, "-c", TELL + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|", 3)


def test_descriptors_exhausted() -> None:
    kind, _, errno, text = told(
        "tried = tell(warm=True)\n"
        "anyio.run(anyio.sleep, 0)\n"
        "fds = [os.open('/dev/null', os.O_RDONLY)]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (fds[-1] + 12, 4096))\n"
        "tried()\n"
    )
    assert kind == "SpawnError" and int(errno) == e.EMFILE
    assert "EMFILE" in text and "RLIMIT_NOFILE (ulimit -n)" in text


@needs("user")
def test_too_many_processes() -> None:
    kind, _, errno, text = told("tried = tell()\nresource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\ntried()\n")
    assert kind == "SpawnError" and int(errno) == e.EAGAIN
    assert "EAGAIN" in text and "RLIMIT_NPROC" in text and "ulimit -u" in text


@pytest.mark.parametrize(("limit", "word"), [("max_user_namespaces", "user"), ("max_net_namespaces", "net")])
def test_namespaces_forbidden_by_a_sysctl(limit: str, word: str) -> None:
    """Set in a user namespace of the test's own, where it holds for that alone."""
    code = f"open('/proc/sys/user/{limit}', 'w').write('0')\ntell()()\n"
    kind, field, errno, text = told(code, "unshare", "--user", "--map-root-user")
    assert kind == "SpawnError" and int(errno) == e.ENOSPC and field.startswith("namespaces.")
    assert f"user.{limit}" in text and "sysctl" in text and word in text


def test_namespaces_forbidden_by_a_filter() -> None:
    """In a container with the default filter there are no containers, and the error says what is in the way."""
    program = TELL + "tell()()"
    result = run([sys.executable, "-c", program], rootfs=None, env={**os.environ})
    kind, field, errno, text = result.stdout.decode().strip().split("|", 3)
    assert (kind, field) == ("SpawnError", "namespaces.user") and int(errno) in (e.ENOSYS, e.EPERM)
    assert "seccomp" in text and "clone3" in text
    control = run([sys.executable, "-c", program], rootfs=None, env={**os.environ}, security=Security(seccomp=None))
    assert b"seccomp" not in control.stdout  # without the filter something else may be in the way, but not that


# ---- machines that we do not have ----

USER, ROOT = Machine.example(), Machine.example_root()
MANY: dict[str, Any] = {"uid_map": [IdMap(0, 1000, 1), IdMap(1, 100_000, 10)], "gid_map": [IdMap(0, 1000, 1), IdMap(1, 100_000, 10)]}
OLD = attrs.evolve(USER, kernel=(5, 10, 0), release="5.10.0-rhel")

MACHINES: dict[str, tuple[dict[str, Any], Machine, type[creche.CrecheError], tuple[str, ...]]] = {
    "old kernel": ({}, OLD, UnsupportedError, ("5.10.0-rhel", "5.14", "newer kernel")),
    "newuidmap missing": (MANY, attrs.evolve(USER, newuidmap=None, newgidmap=None), UnsupportedError, ("newgidmap", "apt-get install uidmap")),
    "newuidmap in vain": (MANY, attrs.evolve(USER, no_new_privs=True), UnsupportedError, ("/usr/bin/newgidmap", "no_new_privs", "NoNewPrivileges=no")),
    "no sub-ids for a user by name": ({"user": "ann"}, attrs.evolve(USER, subuid=(), subgid=()), SpecError, ("'ann'", "/etc/subuid", "usermod --add-subuids")),
    "no sub-ids for groups": ({"groups": [5]}, attrs.evolve(USER, subuid=(), subgid=()), SpecError, ("groups", "/etc/subgid")),
    "ids of others": ({"uid_map": [IdMap(0, 5, 1)]}, USER, SpecError, ("uid_map[0]", "/etc/subuid")),
    "no range is free": ({}, ROOT, UnsupportedError, ("range of ids", "/etc/subuid")),
    "no Landlock": ({"security": Security(landlock=Landlock(read=["/usr"]))}, attrs.evolve(USER, landlock_abi=0), UnsupportedError, ("Landlock", "lsm=landlock", "best_effort")),
    "Landlock without ports": ({"security": Security(landlock=Landlock(tcp_bind=[80]))}, attrs.evolve(USER, landlock_abi=3), UnsupportedError, ("TCP", "6.7", "best_effort")),
    "time namespace without an init": ({"init": False, "namespaces": Namespaces(time=True)}, attrs.evolve(USER, kernel=(6, 1, 0), release="6.1"), UnsupportedError, ("6.1", "init True")),
    "throw-away upper without a place": ({"rootfs": Overlay(["/a"])}, attrs.evolve(USER, kernel=(6, 1, 0)), UnsupportedError, ("6.6", "upper and a work")),
    "user namespace of root's": ({"namespaces": Namespaces(user=False)}, ROOT, SpecError, ("namespaces.user", "privileged=True")),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_what_a_machine_lacks_is_told(name: str) -> None:
    fields, machine, error, says = MACHINES[name]
    with pytest.raises(error) as caught:
        compile(Spec(["true"], **fields), machine, Context())
    for words in says:
        assert words in str(caught.value), str(caught.value)
    if isinstance(caught.value, UnsupportedError):
        assert caught.value.hint


@needs("user")
def test_limits_without_a_cgroup_of_ours_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRECHE_CGROUP", "/sys/fs/cgroup")
    with pytest.raises(creche.CrecheError):
        run(["true"], limits=Limits(memory="64M"))


def test_a_filter_around_us_has_a_listener_already() -> None:
    """The kernel allows one: what is asked for beside it is an error that says so, and all else works."""
    code = """
import ctypes
class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
allow = Program(1, bytes.fromhex("060000000000ff7f"))
assert libc.syscall({"x86_64": 317, "aarch64": 277}[os.uname().machine], 1, 8, ctypes.byref(allow)) > 2
anyio.run(lambda: creche.run(["true"], check=True))
tell(security=creche.Security(seccomp_report=True))()
"""
    kind, field, errno, text = told(code)
    assert (kind, field, int(errno)) == ("SpawnError", "security.seccomp", e.EBUSY)
    assert "no listener can be had" in text and "leave notify and seccomp_report out" in text
