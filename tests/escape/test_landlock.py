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
print(*map(tried, {
    "files": [lambda: open("/etc/passwd").close(), lambda: open("/etc/group").close(), lambda: os.listdir("/etc"), lambda: open("/tmp/x", "w").close()],
    "ports": [bound], "signals": [lambda: os.kill(int(sys.argv[2]), 0)],
}[sys.argv[1]]))
"""


def tried(what: str, *arguments: str, rules: dict[str, Any] | None, **fields: Any) -> str:
    return python(TRIED, what, *arguments, security=Security(landlock=None if rules is None else Landlock(**PROGRAMS | rules)), **fields)


def test_f19_a_file_may_be_named_by_itself() -> None:
    assert tried("files", rules={}) == "done PermissionError PermissionError PermissionError"
    assert tried("files", rules={"write": ["/tmp", "/dev/null"]}) == "done PermissionError PermissionError done"
    assert tried("files", rules=None) == "done done done done", "the control"


def test_f19_ports() -> None:
    assert tried("ports", rules={"tcp_bind": ()}) == "PermissionError"
    assert tried("ports", rules={"tcp_bind": (1080,)}) == "done"
    assert tried("ports", rules={}) == "done", "the control"


@needs("user")
@pytest.mark.parametrize(("rules", "answer"), [({"scoped": True}, "PermissionError"), ({}, "done")])
def test_f19_signals_to_those_outside(rules: dict[str, Any], answer: str) -> None:
    """In the host's PID namespace, where the test itself is in sight. Control: without scopes it can be signalled."""
    assert tried("signals", str(os.getpid()), rules=rules, namespaces=Namespaces(pid=False)) == answer
