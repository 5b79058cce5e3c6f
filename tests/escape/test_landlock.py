"""F19: what a Spec's Landlock leaves and takes, beside its mounts: files one by one, ports, and those outside of its domain."""

from __future__ import annotations

import os
from typing import Any

import pytest
from privileged.look import python

from creche import Landlock, Namespaces, Security
from needs import needs

pytestmark = needs("userns", "native", "landlock")
PROGRAMS = {"execute": ["/usr"], "read": ["/etc/passwd", "/dev/urandom"]}
TRIED = """
import os, signal, socket, sys
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"
def bound():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 80 + 1000))
def server():
    # here inside: taking a port is left to it
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock
def tcp(protocol=0):
    with server() as there, socket.socket(proto=protocol) as sock:
        sock.connect(there.getsockname())
def multipath():
    tcp(262)  # IPPROTO_MPTCP, which falls back to TCP
def first_message():
    with server() as there, socket.socket() as sock:
        sock.sendto(b"x", 0x20000000, there.getsockname())  # MSG_FASTOPEN
def first_messages():
    with server() as there, socket.socket() as sock:
        sock.sendmsg([b"x"], [], 0x20000000, there.getsockname())
def multipath_bound():
    with socket.socket(proto=262) as sock:
        sock.bind(("127.0.0.1", 80 + 1000))
print(*map(tried, {
    "files": [lambda: open("/etc/passwd").close(), lambda: open("/etc/group").close(), lambda: os.listdir("/etc"), lambda: open("/tmp/x", "w").close()],
    "ports": [bound], "tcp": [tcp, multipath, first_message, first_messages], "multipath": [multipath_bound], "signals": [lambda: os.kill(int(sys.argv[2]), 0)],
}[sys.argv[1]]))
"""


def tried(what: str, *arguments: str, rules: dict[str, Any] | None, seccomp: str | None = "default", **fields: Any) -> str:
    landlock = None if rules is None else Landlock(**PROGRAMS | rules)
    return python(TRIED, what, *arguments, security=Security(landlock=landlock, seccomp=seccomp), **fields)


def test_f19_a_file_may_be_named_by_itself() -> None:
    assert tried("files", rules={}) == "done PermissionError PermissionError PermissionError"
    assert tried("files", rules={"write": ["/tmp", "/dev/null"]}) == "done PermissionError PermissionError done"
    assert tried("files", rules=None) == "done done done done", "the control"


def test_f19_ports() -> None:
    assert tried("ports", rules={"tcp_bind": ()}) == "PermissionError"
    assert tried("ports", rules={"tcp_bind": (1080,)}) == "done"
    assert tried("ports", rules={}) == "done", "the control"


@pytest.mark.parametrize("seccomp", ["default", None], ids=["default", "no filter"])
def test_f19_what_speaks_tcp_and_is_none_to_landlock(seccomp: str | None) -> None:
    """Multipath TCP, and connections by a first message (TCP Fast Open), which it is not asked about."""
    first, *others = tried("tcp", rules={"tcp_connect": ()}, seccomp=seccomp).split()
    assert first == "PermissionError" and set(others) == {"OSError"}
    assert tried("multipath", rules={"tcp_bind": ()}, seccomp=seccomp) == "OSError"


def test_f19_control_where_landlock_has_no_ports_to_hold_they_connect() -> None:
    first, multipath, *by_message = tried("tcp", rules={}).split()
    assert first == "done" and set(by_message) == {"done"}
    if multipath != "done":
        pytest.skip("this kernel has no Multipath TCP: its part proves nothing here")
    assert tried("multipath", rules={}) == "done"


@needs("user")
@pytest.mark.parametrize(("rules", "answer"), [({"scoped": True}, "PermissionError"), ({}, "done")])
def test_f19_signals_to_those_outside(rules: dict[str, Any], answer: str) -> None:
    """In the host's PID namespace, where the test itself is in sight. Control: without scopes it can be signalled."""
    assert tried("signals", str(os.getpid()), rules=rules, namespaces=Namespaces(pid=False)) == answer
