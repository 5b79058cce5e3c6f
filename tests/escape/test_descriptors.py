"""Families G and H as far as no filter is what stops them: descriptors, terminals, IPC and the network."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, inside, python, run, sh

import creche
from creche import Bind, IdMap, Namespaces, Security, Spec
from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.guest]
NO_FILTER = Security(seccomp=None)
HOST_ROOT: dict[str, Any] = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]} if ROOT else {}
VERSION_6 = Path("/proc/net/if_inet6").exists()  # no guest's kernel has it
LIST_FDS = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')))"


@pytest.fixture
def leaked(tmp_path: Path) -> Iterator[list[int]]:
    """Descriptors that a library of the host left inheritable: a folder, a socket, a pipe, a memfd, at odd numbers."""
    fds = [os.open("/", os.O_RDONLY | os.O_DIRECTORY), socket.socket().detach(), os.memfd_create("creche-test-bait"), os.open("/etc/passwd", os.O_RDONLY)]
    high = os.dup2(fds[0], 177, inheritable=True)
    for fd in fds:
        os.set_inheritable(fd, True)
    yield [*fds, high]
    for fd in [*fds, high]:
        os.close(fd)


@pytest.mark.parametrize("init", [True, False])
def test_g1_only_what_the_spec_passes_is_there(leaked: list[int], init: bool) -> None:
    assert python(LIST_FDS, init=init) == "[0, 1, 2]"
    assert python(LIST_FDS, init=init, pass_fds=[leaked[1]]) == f"[0, 1, 2, {leaked[1]}]"


def test_g1_nor_in_joined_namespaces(leaked: list[int]) -> None:
    async def body(box: creche.Container) -> bytes:
        namespaces = Namespaces(user=f"/proc/{box.init_pid}/ns/user", uts=f"/proc/{box.init_pid}/ns/uts")
        return (await creche.run(["python3", "-I", "-c", LIST_FDS], namespaces=namespaces)).stdout

    assert inside(body, Spec()) == b"[0, 1, 2]\n"


def test_g2_nor_in_a_second_command_nor_in_the_init(leaked: list[int]) -> None:
    async def body(box: creche.Container) -> tuple[bytes, list[str]]:
        second = await box.run(["python3", "-I", "-c", LIST_FDS])
        try:
            names = [os.readlink(f"/proc/{box.init_pid}/fd/{n}") for n in os.listdir(f"/proc/{box.init_pid}/fd")]
        except PermissionError:  # it is undumpable, and we are not root
            names = []
        return second.stdout, names

    listed, names = inside(body, Spec(["sleep", "100"]))
    assert listed == b"[0, 1, 2]\n"
    allowed = ("socket:", "anon_inode:[pidfd]", "anon_inode:[signalfd]", "/run/creche/ids", f"/dev/shm/creche-{os.geteuid()}/ids", "pipe:", "/", "/pts", "/memfd:creche-init")
    assert [name for name in names if not name.startswith(allowed)] == []
    assert not any("creche-test-bait" in name or name == "/etc/passwd" for name in names)
    if ROOT:
        assert names


def test_g3_no_descriptor_of_a_log_is_reopened_for_writing(tmp_path: Path) -> None:
    """What is given as a file is given: documented. A pipe, which is the default, has no such thing behind it."""
    log = tmp_path / "log"
    log.write_text("before\n")
    reopen = "import os; fd = os.open('/proc/self/fd/1', os.O_WRONLY | os.O_TRUNC); os.write(fd, b'mine')"
    assert sh(["python3", "-I", "-c", reopen]) == "mine"
    with open(log, "a") as file:
        run(["python3", "-I", "-c", reopen], stdout=file, **HOST_ROOT)
    assert log.read_text() in ("mine", "before\n")  # the control: a file given for appending can be emptied by its owner


# ---- terminals ----

PUSH = """
import fcntl, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    print("pushed")
except OSError as error:
    print(error.errno)
try:
    open("/dev/tty"); print("has a terminal")
except OSError: print("has none")
"""


def test_g5_nothing_is_typed_into_the_terminal_of_who_started_it() -> None:
    """The terminal is stdin, but not the session's: the program is in one of its own, without one."""
    master, slave = os.openpty()
    try:
        result = run(["python3", "-I", "-c", PUSH], stdin=slave, security=NO_FILTER)
        os.set_blocking(master, False)
        answers = result.stdout.split(b"\n")
        assert answers[0] in (b"1", b"5") and answers[1] == b"has none", result.stderr
        with pytest.raises(BlockingIOError):
            os.read(master, 10)
    finally:
        os.close(master)
        os.close(slave)


def test_control_in_a_session_with_a_terminal_there_is_one() -> None:
    assert b"has a terminal" in run(["python3", "-I", "-c", PUSH], tty=True, security=NO_FILTER).stdout


def test_g6_the_hosts_terminals_are_not_there() -> None:
    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        assert run(["test", "-e", name]).exit.code == 1
        assert sh("ls /dev/pts") == "ptmx"
        got = sh("echo 'import os; print(os.ttyname(os.openpty()[1]))' | python3 -", security=NO_FILTER)
        assert got == "/dev/pts/0"
        shown = run(["test", "-e", name], mounts=[Bind("/dev", "/dev", readonly=True)])
        assert shown.exit.ok  # the control
    finally:
        os.close(master)
        os.close(slave)


# ---- IPC ----

libc = ctypes.CDLL(None, use_errno=True)
KEY = 0x63726563 ^ os.getpid()
FIND = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print("shm", libc.shmget({KEY}, 0, 0) >= 0, libc.semget({KEY}, 0, 0) >= 0, libc.msgget({KEY}, 0) >= 0)
print("file", os.path.exists("/dev/shm/creche-bait-{os.getpid()}"))
"""


@pytest.fixture
def bait() -> Iterator[None]:
    """System V objects with a known key, and a POSIX segment."""
    shm, sem, msg = libc.shmget(KEY, 4096, 0o1666), libc.semget(KEY, 1, 0o1666), libc.msgget(KEY, 0o1666)
    assert min(shm, sem, msg) >= 0
    path = Path(f"/dev/shm/creche-bait-{os.getpid()}")
    path.touch(mode=0o666)
    yield
    path.unlink()
    libc.shmctl(shm, 0, None)
    libc.semctl(sem, 0, 0)
    libc.msgctl(msg, 0, None)


def test_g11_ipc_objects_of_the_host_are_not_found(bait: None) -> None:
    assert python(FIND, security=NO_FILTER) == "shm False False False\nfile False"


def test_control_in_the_hosts_ipc_namespace_they_are(bait: None) -> None:
    mounts = [Bind("/dev/shm", "/dev/shm", readonly=True)]
    assert python(FIND, namespaces=Namespaces(ipc=False), mounts=mounts, security=NO_FILTER) == "shm True True True\nfile True"


# ---- sockets and the network ----

CONNECT = """
import errno, json, socket, sys
for family, kind, address in json.loads(sys.argv[1]):
    address = tuple(address) if isinstance(address, list) else address
    try:
        sock = socket.socket(getattr(socket, family), getattr(socket, kind))
        sock.settimeout(5)
        sock.connect(address)
        print("connected")
    except OSError as error:
        print(errno.errorcode[error.errno] if error.errno else error)
"""


def connect(targets: list[tuple[str, str, Any]], **fields: Any) -> list[str]:
    import json

    return sh(["python3", "-I", "-c", CONNECT, json.dumps(targets)], **fields).split("\n")


@pytest.fixture
def services() -> Iterator[list[tuple[str, str, Any]]]:
    """What a host has: listeners on both loopbacks, an abstract socket."""
    four, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    six = socket.create_server(("::1", 0), family=socket.AF_INET6) if VERSION_6 else None
    abstract.bind(f"\0creche-bait-{os.getpid()}")
    abstract.listen()
    port = four.getsockname()[1]
    yield [
        ("AF_INET", "SOCK_STREAM", ("127.0.0.1", port)),
        ("AF_INET", "SOCK_STREAM", ("0.0.0.0", port)),
        *([("AF_INET6", "SOCK_STREAM", ("::1", six.getsockname()[1]))] if six else []),
        ("AF_UNIX", "SOCK_STREAM", f"\0creche-bait-{os.getpid()}"),
    ]
    for server in filter(None, (four, six, abstract)):
        server.close()


def test_h1_h2_services_of_the_host_are_not_reached(services: list[tuple[str, str, Any]]) -> None:
    assert connect(services) == ["ECONNREFUSED"] * len(services)


def test_control_with_the_hosts_network_they_are(services: list[tuple[str, str, Any]]) -> None:
    assert connect(services, namespaces=Namespaces(network=False)) == ["connected"] * len(services)


OUTSIDE = [("AF_INET", "SOCK_DGRAM", (address, 53)) for address in ("169.254.169.254", "10.0.0.1", "192.0.2.1", "8.8.8.8", "255.255.255.255")]
OUTSIDE += [("AF_INET6", "SOCK_DGRAM", (address, 53)) for address in ("fd00:ec2::254", "2001:db8::1")]


def test_h3_there_is_no_way_out() -> None:
    assert set(connect(OUTSIDE)) <= {"ENETUNREACH", "EADDRNOTAVAIL", "EACCES", *(() if VERSION_6 else ("EAFNOSUPPORT",))}
    assert connect([("AF_INET", "SOCK_DGRAM", ("127.0.0.1", 53))]) == ["connected"]  # the control: where there is a route, a connect says so


def test_h7_the_hosts_devices_and_routes_are_not_seen() -> None:
    look = "import socket; print([name for _, name in socket.if_nameindex()]); print(len(open('/proc/net/route').readlines()), len(open('/proc/net/tcp').readlines()))"
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        names, counts = sh(["python3", "-I", "-c", look]).split("\n")
        assert "lo" in names and "eth" not in names and counts == "1 1"
        shared = sh(["python3", "-I", "-c", look], namespaces=Namespaces(network=False)).split("\n")
        assert shared[0] == str([name for _, name in socket.if_nameindex()]) and int(shared[1].split()[1]) > 1  # the control
    finally:
        listener.close()


LO_DOWN = """
import fcntl, socket, struct
sock = socket.socket()
try:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0))
    print("down")
except OSError as error: print(error.errno)
"""


def test_h6_its_own_network_is_not_its_to_configure() -> None:
    assert python(LO_DOWN, security=NO_FILTER) == "1"
    assert python(LO_DOWN, security=Security(seccomp=None, capabilities=["CAP_NET_ADMIN"])) == "down"  # the control


LOW_PORT = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 79)); print('bound')"


def test_h9_no_low_port_of_the_host() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 79:
        pytest.fail("this host gives low ports to everybody, so the test can't tell")
    shared = Namespaces(network=False)
    assert b"Permission denied" in run(["python3", "-I", "-c", LOW_PORT], namespaces=shared).stderr
    assert b"Permission denied" in run(["python3", "-I", "-c", LOW_PORT], namespaces=shared, **HOST_ROOT).stderr
    assert sh(["python3", "-I", "-c", LOW_PORT], security=Security(capabilities=["CAP_NET_BIND_SERVICE"])) == "bound"  # the control


def test_a13_a_services_socket_is_there_only_where_it_is_bound(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "service.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    path.chmod(0o666)
    server.listen()
    try:
        assert connect([("AF_UNIX", "SOCK_STREAM", str(path)), ("AF_UNIX", "SOCK_STREAM", "/run/docker.sock"), ("AF_UNIX", "SOCK_STREAM", "/run/dbus/system_bus_socket")]) == ["ENOENT"] * 3
        mounts = [Bind(tmp_path, "/s", readonly=True)]
        assert connect([("AF_UNIX", "SOCK_STREAM", "/s/service.sock")], mounts=mounts) == ["connected"]  # the control, and A12: read-only is no matter
    finally:
        server.close()
