"""What kernels since 5.14 offer a guest, and calls that first filters forget: each refused, and each with its control."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from escape.boxes import Row, arguments, pair
from privileged.look import ROOT, python, run

from creche import IdMap, Namespaces, SeccompRules, Security
from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.guest]

ROWS = [
    *(Row(f"E1 the init's {kind} namespace by its pidfd", "EACCES EINVAL ENOTTY", "no init", lacks="EINVAL ENOTTY", also=("no filter",)) for kind in ("cgroup", "ipc", "mount", "network", "PID")),
    Row("E8 the process group of the init, by its pidfd", "ESRCH EINVAL", "no init", lacks="EINVAL ESRCH", also=("no filter",)),
    *(Row(f"A23 the {which} mount namespace of the machine", "EPERM ENOTTY", "outside, as root", lacks="ENOTTY ENOENT", also=("no filter",)) for which in ("next", "previous")),
    *(Row(name, "EPERM", "no filter", lacks="ENOSYS EPERM") for name in ("F8 io_uring_enter", "F8 io_uring_register")),
    *(Row(f"F9 {name}", "EPERM", "no filter", lacks="ENOSYS EOPNOTSUPP") for name in ("lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules")),
    Row("F9 quotactl_fd", "EPERM", "privileged", lacks="ENOSYS"),
    *(Row(f"F11 {name}", "EPERM", "no filter", lacks="ENOSYS") for name in ("process_madvise", "set_mempolicy_home_node", "get_mempolicy", "mbind")),
    *(Row(f"A14 {name}", "EPERM", "capable", lacks="ENOSYS") for name in ("open_tree_attr", "fsconfig", "fspick", "fsmount", "move_mount")),
    Row("F22 adjtimex", "EPERM", "privileged", lacks="EPERM"),
    Row("E5 prctl", "EPERM", "privileged", lacks="EPERM"),
    Row("I8 notify_on_release of a hierarchy of version 1", "EPERM", "privileged", lacks="ENODEV EINVAL EPERM"),  # EPERM: nobody has mounted one
    Row("I8 release_agent of a hierarchy of version 1", "EPERM", "privileged, in the host's cgroup namespace", lacks="ENODEV EINVAL ENOENT"),
]  # fmt: skip

test_is_held, test_control = pair("newer", ROWS)


# ---- F20: a call that is made without an instruction of one's own ----


@needs("x86_64")
@pytest.mark.skipif("CRECHE_GUEST" in os.environ, reason="what runs in a guest kernel that is a process calls the machine's own vsyscall page")
@pytest.mark.parametrize(("security", "answer"), [(Security(seccomp=SeccompRules(deny=["time"])), "second -1"), (Security(), "second ")], ids=["denied", "control: allowed"])
def test_f20_the_vsyscall_page_is_no_way_round_the_filter(security: Security, answer: str) -> None:
    result = run(arguments("newer", ["F20 the time by the vsyscall page"]), security=security)
    _, kind, what = json.loads(result.stdout.splitlines()[0])
    if what == "SIGSEGV":
        pytest.skip("this kernel has no vsyscall page (vsyscall=none): nobody calls by it")
    assert kind == "achieved" and what.startswith(answer) and (answer == "second -1") == (what == "second -1"), what


# ---- E8, G4: who is at the other end of a socket that a Spec passes ----

#: What comes of the pidfd of the other end (SO_PEERPIDFD): its signals, namespaces, descriptors, figures.
PEER = """
import ctypes, errno, fcntl, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
sock = socket.socket(fileno=int(sys.argv[1]))
try:
    pidfd = sock.getsockopt(socket.SOL_SOCKET, 77)
except OSError as error:
    raise SystemExit(print("no such option") or 0)
def info():
    record = bytearray(struct.pack("=Q", 1).ljust(64, b"\\0"))
    fcntl.ioctl(pidfd, 0xC0000000 | 64 << 16 | 0xFF << 8 | 11, record)
attacks = {
    "signal": lambda: call(424, pidfd, 0, 0, 0), "user": lambda: fcntl.ioctl(pidfd, 0xFF09, 0), "mount": lambda: fcntl.ioctl(pidfd, 0xFF03, 0),
    "descriptor": lambda: call(438, pidfd, 0, 0), "release": lambda: call(448, pidfd, 0), "info": info,
}
for name, attack in attacks.items():
    try:
        attack()
        print(name, "achieved")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
"""


@pytest.fixture
def passed() -> Iterator[int]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs.fileno()


def peer(fd: int, **fields: Any) -> dict[str, str]:
    told = python(PEER, str(fd), pass_fds=[fd], **fields).splitlines()
    if told == ["no such option"]:
        pytest.skip("this kernel has no SO_PEERPIDFD (Linux 6.5)")
    return dict(line.split() for line in told)


@pytest.mark.parametrize("security", [Security(), Security(seccomp=None)], ids=["default", "no filter"])
def test_e8_the_supervisor_behind_a_passed_socket_gives_nothing_away(passed: int, security: Security) -> None:
    told = peer(passed, security=security)
    assert told.pop("info") in ("EREMOTE", "ESRCH", "ENOTTY", "EINVAL")
    assert set(told) == {"signal", "user", "mount", "descriptor", "release"}
    assert set(told.values()) <= {"EINVAL", "EPERM", "EACCES", "ESRCH", "ENOTTY"}, told


def test_e8_control_in_its_own_pid_namespace_it_can_be_signalled(passed: int) -> None:
    """By a guest that is its own user outside."""
    as_we_are: dict[str, Any] = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]} if ROOT else {}
    assert peer(passed, namespaces=Namespaces(pid=False), **as_we_are)["signal"] == "achieved"
