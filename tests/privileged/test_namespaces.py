"""Namespaces: new ones, the caller's own, and joined ones; what is set in them, and what stays as it was outside."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, inside, python, run, sh

import creche
from creche import IdMap, Namespaces, Security, SpawnError, Spec, SpecError, UnsupportedError
from needs import needs

pytestmark = needs("userns", "native")

KINDS = {"user": "user", "mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "time": "time"}
LIST = "for n in user mnt pid net ipc uts cgroup time; do echo $n $(readlink /proc/self/ns/$n); done"
HOST_ROOT: dict[str, Any] = {"uid_map": [IdMap(0, os.geteuid(), 1)], "gid_map": [IdMap(0, os.getegid(), 1)]}


def of(text: str) -> dict[str, str]:
    return {line.split()[0]: line.split()[1] for line in text.splitlines()}


def mine() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in KINDS.values() if os.path.exists(f"/proc/self/ns/{name}")}


# ---- new ones ----


def test_all_but_time_are_new_by_default() -> None:
    inner, outer = of(sh(LIST)), mine()
    assert {name for name in inner if inner[name] != outer[name]} == set(KINDS.values()) - {"time"}


@needs("timens")
def test_all_of_them_at_once() -> None:
    inner, outer = of(sh(LIST, namespaces=Namespaces(time=True))), mine()
    assert {name for name in inner if inner[name] != outer[name]} == set(KINDS.values())


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "mount"])
@pytest.mark.parametrize("init", [True, False])
def test_each_may_be_the_callers_own(kind: str, init: bool) -> None:
    namespaces = Namespaces(**{kind: False})
    fields = {"rootfs": None} if kind in ("mount", "pid") else {}
    inner, outer = of(sh(LIST, namespaces=namespaces, init=init, **fields)), mine()
    assert {name for name in inner if inner[name] == outer[name]} == {KINDS[kind], "time"}


def test_a_shared_pid_namespace_with_the_default_view() -> None:
    got = sh("readlink /proc/self/ns/pid; echo $$", namespaces=Namespaces(pid=False)).split()
    assert got[0] == os.readlink("/proc/self/ns/pid") and int(got[1]) > 2


@needs("root")
@pytest.mark.parametrize("init", [True, False])
def test_without_a_user_namespace_root_must_say_that_it_is_meant(init: bool) -> None:
    with pytest.raises(SpecError, match="privileged=True") as caught:
        run(["true"], namespaces=Namespaces(user=False))
    assert caught.value.field == "namespaces.user"
    got = sh("id -u; cat /proc/self/uid_map", namespaces=Namespaces(user=False), security=Security(privileged=True), init=init)
    assert got.split() == ["0", "0", "0", "4294967295"]


@needs("user")
def test_without_a_user_namespace_an_ordinary_user_can_make_none() -> None:
    with pytest.raises(UnsupportedError, match="user namespace"):
        run(["true"], namespaces=Namespaces(user=False))


def test_no_namespaces_at_all_is_a_process_like_any_other() -> None:
    none = Namespaces(user=False, mount=False, pid=False, network=False, ipc=False, uts=False, cgroup=False)
    security = Security(privileged=True) if ROOT else Security()
    inner = of(sh(LIST, namespaces=none, rootfs=None, security=security))
    assert inner == mine()


def test_without_an_init_the_command_is_process_1() -> None:
    assert sh("echo $$; ls -d /proc/[0-9]* | head -n 1", init=False).split() == ["1", "/proc/1"]
    assert sh("echo $$") == "2"


# ---- what is set in them ----


def test_host_and_domain_name() -> None:
    before = os.uname().nodename
    assert sh("hostname; cat /proc/sys/kernel/domainname", hostname="box.example", domainname="example.org") == "box.example\nexample.org"
    assert sh("hostname; cat /proc/sys/kernel/domainname", name="my-box") == "my-box\n(none)"
    assert os.uname().nodename == before


def test_loopback_is_up_and_alone() -> None:
    code = """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        six = socket.create_server(("::1", 0), family=socket.AF_INET6)
        socket.create_connection(six.getsockname()[:2])
        print([name for _, name in socket.if_nameindex()])
    """
    assert python(code) in ("['lo']", "['lo', 'tunl0', 'sit0']")


@needs("timens")
@pytest.mark.parametrize("offsets", [{"monotonic": 1000, "boottime": 2000}, {"monotonic": 86400.25}, {"boottime": -0.5}])
@pytest.mark.parametrize("init", [True, False])
def test_clocks_with_an_offset(offsets: dict[str, float], init: bool) -> None:
    text = python("print(open('/proc/self/timens_offsets').read())", namespaces=Namespaces(time=True), time_offsets=offsets, init=init)
    found = {words[0]: int(words[1]) + int(words[2]) / 1e9 for words in map(str.split, text.splitlines()) if words}
    assert found == {"monotonic": offsets.get("monotonic", 0), "boottime": offsets.get("boottime", 0)}


def test_sysctls_of_its_own_namespaces() -> None:
    wanted = {"net.ipv4.ip_unprivileged_port_start": 7, "kernel.msgmax": "4096", "fs.mqueue.msg_max": 11}
    paths = ["/proc/sys/" + name.replace(".", "/") for name in wanted]
    outside = [Path(path).read_text() for path in paths]
    assert sh(["cat", *paths], sysctl=wanted).split() == ["7", "4096", "11"]
    assert [Path(path).read_text() for path in paths] == outside


def test_a_command_in_its_own_cgroup_namespace_sees_its_root() -> None:
    assert all(line.split(":", 2)[2] == "/" for line in sh("cat /proc/self/cgroup").splitlines())


# ---- joined ones ----


@pytest.fixture
def host_box() -> Iterator[int]:
    """The pid of a process in namespaces of its own, in which we may join: its user is ours."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--ipc", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", "hostname joined; echo $$; exec sleep 600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    yield child
    os.kill(child, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_join_the_namespaces_of_another_process(host_box: int, by: str, init: bool) -> None:
    kinds = ["user", "network", "ipc", "uts"]
    paths = {kind: f"/proc/{host_box}/ns/{KINDS[kind]}" for kind in kinds}
    opened = {kind: os.open(path, os.O_RDONLY) for kind, path in paths.items()} if by == "descriptor" else {}
    try:
        inner = of(sh(LIST, namespaces=Namespaces(**{**paths, **opened}), init=init))
    finally:
        for fd in opened.values():
            os.close(fd)
    assert {kind: inner[KINDS[kind]] for kind in kinds} == {kind: os.readlink(path) for kind, path in paths.items()}
    outer = mine()
    assert all(inner[name] != outer[name] for name in ("mnt", "pid", "user"))


def test_join_a_pid_namespace(host_box: int) -> None:
    namespaces = Namespaces(user=f"/proc/{host_box}/ns/user", pid=f"/proc/{host_box}/ns/pid", mount=f"/proc/{host_box}/ns/mnt")
    got = sh("readlink /proc/self/ns/pid; kill -0 1 && echo there; echo $$", namespaces=namespaces, rootfs=None).split()
    assert got[0] == os.readlink(f"/proc/{host_box}/ns/pid") and got[1] == "there" and int(got[2]) > 1


def test_join_the_namespaces_of_a_container() -> None:
    async def body(box: creche.Container) -> tuple[bytes, str]:
        pid = box.init_pid
        namespaces = Namespaces(user=f"/proc/{pid}/ns/user", network=f"/proc/{pid}/ns/net", uts=f"/proc/{pid}/ns/uts")
        result = await creche.run(["sh", "-c", "hostname; readlink /proc/self/ns/net"], namespaces=namespaces)
        return result.stdout, os.readlink(f"/proc/{pid}/ns/net")

    out, net = inside(body, Spec(hostname="first"))
    assert out.split() == [b"first", net.encode()]


@needs("root")
def test_root_joins_a_network_namespace_of_the_hosts(host_box: int) -> None:
    path = f"/proc/{host_box}/ns/net"
    assert sh("readlink /proc/self/ns/net", namespaces=Namespaces(network=path)) == os.readlink(path)


@needs("user")
def test_a_namespace_that_is_not_ours_to_join_is_an_error(host_box: int) -> None:
    with pytest.raises(SpawnError, match=r"namespaces\.network") as caught:
        run(["true"], namespaces=Namespaces(network=f"/proc/{host_box}/ns/net"))
    assert caught.value.field == "namespaces.network" and caught.value.hint


@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_a_namespace_of_the_wrong_kind(by: str) -> None:
    """H8; the control is every join above, by the same means."""
    path: str | int = "/proc/self/ns/uts"
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(SpecError, match="of the kind 'uts'") as caught:
            run(["true"], namespaces=Namespaces(network=path if by == "path" else fd))
    finally:
        os.close(fd)
    assert caught.value.field == "namespaces.network"


@pytest.mark.parametrize("value", ["/etc/passwd", "/proc/1/ns/none", "/dev/null", 999])
def test_what_is_no_namespace(value: str | int) -> None:
    with pytest.raises((SpecError, SpawnError)) as caught:
        run(["true"], namespaces=Namespaces(ipc=value))
    assert caught.value.field == "namespaces.ipc" and str(value) in str(caught.value)


def test_a_descriptor_of_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises((SpecError, SpawnError)):
        run(["true"], namespaces=Namespaces(ipc=str(tmp_path / "fifo")))


# ---- what stays as it was ----

prctl = ctypes.CDLL(None).prctl


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"init": False},
        {"user": 3},
        {"init": False, "user": 3},
        {"namespaces": Namespaces(time=True)},
        {"namespaces": Namespaces(pid=False)},
        {"rootfs": None, "namespaces": Namespaces(mount=False, pid=False)},
        {"security": Security(capabilities=["CAP_CHOWN"])},
        {"join": True},
        {"join": True, "init": False},
        {"tty": True},
        {"command": ["/no/such"]},
        {"cwd": "/no/such"},
    ],
    ids=lambda fields: " ".join(fields) or "default",
)
def test_the_supervisor_stays_dumpable(fields: dict[str, Any], host_box: int) -> None:
    """Dumpable belongs to the memory, which the first child shares: lost, an ordinary user's next spawn could not write its maps."""
    fields = dict(fields)
    command = fields.pop("command", ["true"])
    if fields.pop("join", False):
        fields["namespaces"] = Namespaces(**{kind: f"/proc/{host_box}/ns/{KINDS[kind]}" for kind in ("user", "uts")})
    before = prctl(3, 0, 0, 0, 0), Path("/proc/self/status").read_text(), os.stat("/proc/self/status").st_uid
    try:
        assert run(command, **fields).exit.ok
    except SpawnError as error:
        assert error.field in ("command", "cwd")
    after = prctl(3, 0, 0, 0, 0), Path("/proc/self/status").read_text(), os.stat("/proc/self/status").st_uid
    assert (before[0], before[2]) == (after[0], after[2]) == (1, os.geteuid())
    kept = re.compile(r"^(Cap\w+|Uid|Gid|Groups|NoNewPrivs|Seccomp|Sig(?!Q)\w+|Umask):.*", re.M)
    assert [m[0] for m in kept.finditer(before[1])] == [m[0] for m in kept.finditer(after[1])]


def test_the_hosts_mounts_and_their_propagation_stay_as_they_are(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    for fields in ({}, {"init": False}, {"rootfs": None}, {"mounts": [creche.Bind(tmp_path, "/a"), creche.Tmpfs("/a/b"), creche.Tmpfs("/c")]}, {"command": ["/no/such"]}):
        fields = dict(fields)
        try:
            run(fields.pop("command", ["true"]), **fields)
        except SpawnError:
            pass
        assert Path("/proc/self/mountinfo").read_text() == before


@needs("root")
def test_a_mount_in_a_container_does_not_appear_on_a_shared_host(tmp_path: Path) -> None:
    """A21, in a mount namespace of its own, made shared: there a mount that propagates would be seen. With its control."""
    (tmp_path / "d").mkdir()
    program = f"""
import ctypes, os, anyio, creche
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0
assert libc.mount(None, b"/", None, 0x100000 | 0x4000, None) == 0  # MS_SHARED | MS_REC
def count(): return open("/proc/self/mountinfo").read().count("\\n")
before = count()
anyio.run(lambda: creche.run(["true"], rootfs=None, mounts=[creche.Tmpfs({str(tmp_path / "d")!r})], uid_map=[creche.IdMap(0, 0, 1)], gid_map=[creche.IdMap(0, 0, 1)]))
anyio.run(lambda: creche.run(["true"]))
assert count() == before, open("/proc/self/mountinfo").read()
assert "shared:" in open("/proc/self/mountinfo").read().splitlines()[0]
pid = os.fork()
if not pid:
    os._exit(libc.mount(b"none", {str(tmp_path / "d")!r}.encode(), b"tmpfs", 0, None))
assert os.waitpid(pid, 0)[1] == 0
pid = os.fork()
if not pid:
    libc.unshare(0x20000)
    os._exit(libc.mount(b"none", {str(tmp_path / "d")!r}.encode(), b"tmpfs", 0, None))
assert os.waitpid(pid, 0)[1] == 0
print(count() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2  # the control: a mount made in a namespace that was left shared is seen


def test_the_umask_and_the_working_directory_stay_as_they_are() -> None:
    before = os.getcwd(), os.umask(0o022)
    os.umask(before[1])
    sh("umask", umask=0o077)
    after = os.umask(0o022)
    os.umask(after)
    assert (os.getcwd(), after) == before
