"""Attacks of the catalogue that no table holds: nested remounts, ids that come again, the order of a start, terminals, the clock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, inside, python, run, sh

import creche
from creche import Bind, Container, IdMap, Limits, Namespaces, Reason, Security, Spec
from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.guest]
NO_FILTER = Security(seccomp=None)
HOST_ROOT: dict[str, Any] = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]} if ROOT else {}
CAPABLE = Security(seccomp=None, capabilities=["CAP_SYS_ADMIN"])

# ---- A2: a read-only bind, from namespaces nested inside ----

REMOUNT = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result < 0:
        raise SystemExit(print(errno.errorcode[ctypes.get_errno()]) or 0)
admin = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")), 16) >> 21 & 1
call(libc.unshare(0x20000 | (0 if admin else 0x10000000)))
call(libc.mount(None, b"/shown", None, 0x20 | 0x1000, None))  # MS_REMOUNT | MS_BIND, and no MS_RDONLY
open("/shown/made", "w").close()
print("written to")
"""


@pytest.mark.parametrize(("security", "answer"), [(Security(), "EPERM"), (NO_FILTER, "EPERM"), (CAPABLE, "written to")], ids=["default", "no filter", "control: with power over the mount"])
def test_a2_a_read_only_bind_is_not_made_writable_in_nested_namespaces(tmp_path: Path, security: Security, answer: str) -> None:
    """By the filter; and without it by the kernel, to which a mount of a more powerful namespace is locked."""
    for folder in (tmp_path, tmp_path / "shown"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    assert python(REMOUNT, mounts=[Bind(tmp_path / "shown", "/shown", readonly=True)], security=security) == answer
    assert (tmp_path / "shown/made").exists() is (answer == "written to")


# ---- A12: doors to services of the host that a read-only mount leaves open ----

DOORS = """
import json, os, stat
kinds, found = {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR}, []
for folder, below, names in os.walk("/"):
    below[:] = [name for name in below if (folder, name) not in (("/", "proc"), ("/", "dev"))]
    found += [path for name in names if stat.S_IFMT(os.lstat(path := os.path.join(folder, name)).st_mode) in kinds]
print(json.dumps(found))
"""


@pytest.mark.skipif("CRECHE_GUEST" in os.environ, reason="each folder that is looked into there holds a descriptor of the guest kernel's own process, for good: hostfs")
def test_a12_there_is_no_socket_fifo_or_device_to_be_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.mkfifo(tmp_path / "door", 0o666)
    (tmp_path / "door").chmod(0o666)
    assert json.loads(python(DOORS)) == []
    shown = [Bind(tmp_path, "/shown", readonly=True)]
    assert json.loads(python(DOORS, mounts=shown)) == ["/shown/door"], "the control"
    assert python("import os; print(os.open('/shown/door', os.O_RDWR) > 0)", mounts=shown) == "True", "and read-only is no matter"


# ---- E12: a number that is another's meanwhile ----

#: As root of a PID namespace of its own, where a process may be given the number of one that is gone (clone3's set_tid).
AGAIN = """
import ctypes, os, signal, struct, sys
import anyio, creche
libc = ctypes.CDLL(None, use_errno=True)
def born_as(pid):
    number = ctypes.c_int(pid)
    record = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1, 0)
    child = libc.syscall(435, ctypes.create_string_buffer(record), len(record))
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True: signal.pause()
    assert child == pid, (child, ctypes.get_errno())
async def main():
    async with creche.Container(creche.Spec(["sleep", "0"])) as box:
        pid = box.pid
        await box
        born_as(pid)
        box.terminate()
        box.kill()
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the stranger was signalled"
    os.kill(pid, signal.SIGTERM)  # the control: by its number it is
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    print("as it should be")
anyio.run(main)
"""


def test_e12_who_has_the_number_of_a_dead_command_is_not_signalled() -> None:
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run([*alone, sys.executable, "-c", AGAIN], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "as it should be\n", done.stderr


# ---- F16: nothing of the guest's runs before the last Step ----

STATE = "import re; s = open('/proc/self/status').read(); print(*(re.search(name + r':\\s+(\\w+)', s)[1] for name in ('NoNewPrivs', 'Seccomp', 'CapBnd', 'CapEff')))"


def test_f16_the_interpreter_of_a_script_is_confined() -> None:
    """It is the first program of the guest's that runs."""
    script = creche.File("/script", f"#!/usr/bin/env -S python3 -c {json.dumps(STATE)}\n".encode(), mode=0o755)
    assert sh(["/script"], mounts=[script]) == "1 2 0000000000000000 0000000000000000"
    control = sh(["/script"], mounts=[script], security=Security(seccomp=None, no_new_privs=False, capabilities=["CAP_CHOWN"]))
    assert control.split()[0] == "0" and control.split()[2] != "0" * 16


@pytest.mark.parametrize(("cwd", "made"), [("/no/such/folder", False), ("/shown", True)], ids=["a Step fails", "control: none fails"])
def test_f16_where_a_step_fails_nothing_of_the_guests_has_run(tmp_path: Path, cwd: str, made: bool) -> None:
    for folder in (tmp_path, tmp_path / "shown"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    try:
        run(["touch", "/shown/made"], cwd=cwd, mounts=[Bind(tmp_path / "shown", "/shown")])
    except creche.SpawnError as error:
        assert error.field == "cwd"
    assert (tmp_path / "shown/made").exists() is made


# ---- G4: friends outside, who wait for a guest's descriptors ----

LISTEN = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(chr(0) + sys.argv[1])
sock.listen()
print("listening", flush=True)
friend, _ = sock.accept()
socket.send_fds(friend, [b"x"], [os.open("/etc/passwd", os.O_RDONLY)])
"""


def _met(name: str, **fields: Any) -> bool:
    async def body(box: Container) -> bool:
        assert box.stdout is not None
        assert await box.stdout.receive() == b"listening\n"
        with socket.socket(socket.AF_UNIX) as friend:
            if friend.connect_ex(f"\0{name}"):
                return False
            _, fds, _, _ = socket.recv_fds(friend, 1, 1)
        os.close(fds[0])
        return True

    met: bool = inside(body, Spec(["python3", "-I", "-c", LISTEN, name], **fields))
    return met


def test_g4_no_friend_outside_is_given_descriptors() -> None:
    name = f"creche-friend-{os.getpid()}"
    assert not _met(name)
    assert _met(name, namespaces=Namespaces(network=False)), "the control"


# ---- G7: a terminal of its own reaches no other ----

OTHERS = """
import errno, fcntl, os, signal, struct, sys, termios
def tried(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
host, group = sys.argv[1], int(sys.argv[2])
size = struct.pack("HHHH", 11, 22, 0, 0)
def resize():
    fd = os.open(host, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)
print(tried(resize), tried(lambda: os.killpg(group, 0)), tried(lambda: os.tcsetpgrp(0, group)), tried(lambda: fcntl.ioctl(0, termios.TIOCSWINSZ, size)), os.get_terminal_size(0).columns)
"""


def test_g7_a_guest_with_a_terminal_has_that_one_alone() -> None:
    *others, (master, slave) = [os.openpty() for _ in range(4)]  # the last one's number is none that the guest's own could have
    group = subprocess.Popen(["sleep", "1000"], start_new_session=True)  # nor is its, which is not among the first few of the machine
    try:
        argv = ["python3", "-I", "-c", OTHERS]
        before = os.get_terminal_size(master)
        told = run([*argv, os.ttyname(slave), str(group.pid)], tty=True).stdout.split()
        assert told[0] == b"ENOENT" and told[1:3] == [b"ESRCH", b"ESRCH"] and told[3:] == [b"done", b"22"], "the last two are its own"
        assert os.get_terminal_size(master) == before
        shown = Bind(os.ttyname(slave), "/tmp/shown", readonly=True, nodev=False)
        assert run([*argv, "/tmp/shown", "1"], tty=True, mounts=[shown], **HOST_ROOT).stdout.startswith(b"done"), "the control"
        assert os.get_terminal_size(master).columns == 22
    finally:
        group.kill()
        group.wait()
        for fd in (master, slave, *(fd for pair in others for fd in pair)):
            os.close(fd)


# ---- I4: memory of the kernel's own ----

KERNELS = {
    "tables of pages": "import mmap, time\nsize = 96 << 30\nm = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)\nfor at in range(0, size, 2 << 20): m[at]",
    "buffers of sockets": "import socket\npairs = []\nfor _ in range(1500):\n    one, other = socket.socketpair(type=socket.SOCK_DGRAM)\n    pairs.append((one, other)); one.setblocking(False)\n    try:\n        while True: one.send(bytes(65536))\n    except OSError: pass",
}


@needs("limits")
@pytest.mark.parametrize("hog", KERNELS)
def test_i4_memory_of_the_kernel_by(hog: str) -> None:
    """It is charged to the guest like its own."""
    argv = ["python3", "-I", "-S", "-c", KERNELS[hog]]
    result = run(argv, limits=Limits(memory="48M", swap=0, pids=50), rlimits={"nofile": 4000}, timeout=120)
    assert not result.exit.ok and (result.exit.reason is Reason.OOM or result.exit.oom_kills)
    assert run(argv, limits=Limits(memory="600M", pids=50), rlimits={"nofile": 4000}, timeout=120).exit.ok, "the control: with more it ends well"


# ---- I12: the clock ----

STUBBORN = {
    "sleeps": "import time; time.sleep(1000)",
    "is deaf": "import signal, time\nfor number in range(1, 32):\n    try: signal.signal(number, signal.SIG_IGN)\n    except OSError: pass\ntime.sleep(1000)",
    "has stopped itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "forks": "import os, time\nwhile True:\n    if not os.fork(): os.setsid(); time.sleep(1000)\n    time.sleep(0.05)",
    "sets timers of its own": "import signal, time\nsignal.signal(14, lambda *_: None); signal.setitimer(0, 0.001, 0.001)\nwhile True: time.sleep(1)",
}


@pytest.mark.parametrize("how", STUBBORN)
def test_i12_who(how: str) -> None:
    """Is dead when the time is over, with all that it made: its pipe's other end is nobody's."""
    ours, theirs = os.pipe()
    try:
        exit = run(["python3", "-I", "-S", "-c", STUBBORN[how]], timeout=0.7, pass_fds=[theirs]).exit
        assert (exit.reason, exit.limit, exit.signal) == (Reason.TIMEOUT, "timeout", signal.SIGKILL)
    finally:
        os.close(theirs)
    assert os.read(ours, 1) == b""
    os.close(ours)
    assert run(["sleep", "0.1"], timeout=60).exit.reason is Reason.EXITED, "the control"
