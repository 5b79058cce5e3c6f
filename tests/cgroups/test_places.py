"""Finding a place: what /proc says is read right, what is missing is named, and a bad D-Bus holds nobody up."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from jeepney import MessageType
from jeepney.low_level import HeaderFields, Message, Parser

from creche.cgroups import choose, find_place, find_place_async, reset, room, systemd
from creche.cgroups.applying import cpulist
from creche.cgroups.dbus import connected
from creche.cgroups.hierarchy import Hierarchy, Standing, memberships, standings
from creche.cgroups.place import Place
from creche.errors import CgroupError, UnsupportedError
from creche.machine import Machine
from creche.spec import Limits

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/my\\040blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
MEMBER = """\
5:memory:/a/b
4:blkio:/
3:cpu,cpuacct:/user
1:name=systemd:/
0::/x (deleted)
"""


def test_our_place_in_each_hierarchy_is_read() -> None:
    found = {s.point: (s.version, s.own, s.readonly) for s in standings(HYBRID, MEMBER)}
    assert found == {
        "/sys/fs/cgroup/cpu,cpuacct": (1, "/sys/fs/cgroup/cpu,cpuacct/user", False),
        "/sys/fs/cgroup/memory": (1, "/sys/fs/cgroup/memory/a/b", True),
        "/sys/fs/cgroup/my blkio": (1, "/sys/fs/cgroup/my blkio", False),
        "/sys/fs/cgroup/unified": (2, "/sys/fs/cgroup/unified/x", False),
    }


@pytest.mark.parametrize(
    ("root", "path", "own"),
    [
        ("/", "/", "/c"),
        ("/", "/a/b", "/c/a/b"),
        ("/docker/1", "/docker/1", "/c"),
        ("/docker/1", "/docker/1/x", "/c/x"),
        ("/docker/1", "/docker/12", None),
        ("/docker/1", "/", None),
        ("/..", "/", None),
        ("/", "/../other", None),
    ],
)
def test_a_mount_may_show_a_part_only(root: str, path: str, own: str | None) -> None:
    """A container's bind mount of its own cgroup, and a cgroup namespace that ends below us."""
    line = f"41 31 0:38 {root} /c rw - cgroup2 cgroup2 rw\n"
    assert [s.own for s in standings(line, f"0::{path}\n")] == [own]


def test_a_colon_in_a_cgroups_name_is_no_field() -> None:
    assert memberships("0::/a:b\n3:cpu:/x:y:z\n") == {"": "/a:b", "cpu": "/x:y:z"}


def test_lists_of_processors() -> None:
    assert cpulist("0-2,5\n") == {0, 1, 2, 5}
    assert cpulist("\n") == set()


@pytest.fixture
def proc(tmp_path: Path) -> Callable[[str, str], Place]:
    """What a made-up /proc/self gives, systemd apart."""

    def make(mountinfo: str, cgroup: str, asked: str | None = None) -> Place:
        (tmp_path / "mountinfo").write_text(mountinfo)
        (tmp_path / "cgroup").write_text(cgroup)
        place = choose.here(asked, str(tmp_path))
        return place if place.usable else choose.older(place, asked, str(tmp_path))

    return make


EVERYTHING = Limits(
    memory="1M",
    swap=0,
    cpus=1,
    cpu_weight=5,
    pids=4,
    io={"/": {"rbps": "1M"}},
    io_weight=10,
    cpuset="0",
    cpuset_mems="0",
    hugetlb={"2MB": "4M"},
)


@pytest.mark.parametrize("asks", ["scope", "none"])
async def test_systemd_is_asked_before_version_1_is_taken(monkeypatch: pytest.MonkeyPatch, asks: str) -> None:
    """A machine of version 2 may have some version 1 hierarchy mounted, too."""
    scope = Place("systemd", (Hierarchy(2, "/scope", frozenset({"memory"}), "/"),))
    old = Place("v1", (Hierarchy(1, "/old", frozenset({"memory"}), "/"),))

    async def ask(near: Place, **_: object) -> Place:
        return scope if asks == "scope" else near

    monkeypatch.setattr(choose, "_found", {})
    monkeypatch.setattr(choose, "here", lambda asked: Place("none"))
    monkeypatch.setattr(choose, "_systemd", ask)
    monkeypatch.setattr(choose, "older", lambda near, asked: old)
    assert await find_place_async({}) is (scope if asks == "scope" else old)


async def test_systemd_is_not_asked_where_its_scopes_have_no_controllers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb misc\n")
    standing = Standing(2, str(tmp_path), str(tmp_path), frozenset(), False)
    monkeypatch.setattr(choose, "_found", {})
    monkeypatch.setattr(choose, "_standings", lambda proc: [standing])
    monkeypatch.setattr(systemd, "absent", lambda environ: None)
    monkeypatch.setattr(systemd, "delegates", None)  # to ask would be a TypeError
    place = await find_place_async({})
    assert not place.usable and any("no controllers here" in reason for reason in place.reasons)


@pytest.mark.parametrize(("controllers", "worth"), [("memory", True), ("freezer", False)])
def test_a_version_1_hierarchy_without_anything_to_limit_is_no_place(
    proc: Callable[..., Place], tmp_path: Path, controllers: str, worth: bool
) -> None:
    point = tmp_path / "one"
    point.mkdir()
    mount, member = f"41 31 0:38 / {point} rw - cgroup cgroup rw,{controllers}\n", f"3:{controllers}:/\n"
    assert proc(mount, member).usable is worth
    assert proc(mount, member, "v1").usable  # unless it is asked for


@pytest.mark.parametrize("mounts", ["", HYBRID], ids=["nothing mounted", "nothing there"])
def test_nowhere_says_what_is_missing_and_what_would_give_it(proc: Callable[..., Place], mounts: str) -> None:
    place = proc(mounts, "0::/nowhere\n3:cpu,cpuacct:/nowhere\n5:memory:/nowhere\n4:blkio:/nowhere\n")
    assert (place.kind, place.usable) == ("none", False)
    for field in ("memory", "cpus", "pids", "io", "cpuset", "hugetlb"):
        with pytest.raises(UnsupportedError, match=rf"limits\.{field}: no cgroup can be made here") as caught:
            place.create("x", Limits(**{field: getattr(EVERYTHING, field)}))
        assert caught.value.hint
    if not mounts:
        assert "mount -t cgroup2" in str(caught.value)


def test_no_limits_need_no_place(proc: Callable[..., Place]) -> None:
    proc("", "").require(Limits())


def test_a_read_only_file_system_is_told(proc: Callable[..., Place], tmp_path: Path) -> None:
    point = tmp_path / "ro"
    point.mkdir()
    place = proc(f"41 31 0:38 / {point} ro - cgroup2 cgroup2 rw\n", "0::/\n")
    assert any("mounted read-only" in reason for reason in place.reasons)


def test_a_container_is_given_its_own_remedy(proc: Callable[..., Place], tmp_path: Path) -> None:
    """The root of a cgroup namespace has a cgroup.events; the real root has none."""
    point = tmp_path / "own"
    point.mkdir()
    (point / "cgroup.events").write_text("populated 1\n")
    place = proc(f"41 31 0:38 / {point} ro - cgroup2 cgroup2 rw\n", "0::/\n")
    assert place.hint is not None and "docker run" in place.hint


def test_an_engine_around_us_is_told_its_own_flags(proc: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the doctor tells them: in Docker on version 1 each hierarchy is there, and read-only."""
    point = tmp_path / "ro"
    point.mkdir()
    mounts = f"41 31 0:38 / {point} ro - cgroup cgroup rw,memory\n"
    for engine, words in (("docker", "docker run --security-opt writable-cgroups=true"), ("podman", "podman run --security-opt unmask=ALL")):
        monkeypatch.setattr(choose, "probe", lambda engine=engine: attrs.evolve(Machine.example(), engine=engine))
        place = proc(mounts, "1:memory:/\n")
        assert place.hint is not None and words in place.hint
        assert any("is read-only" in reason for reason in place.reasons)


@pytest.mark.parametrize(
    ("kind", "below", "controller", "said"),
    [
        ("systemd", "user@1000.service/app.slice", "cpuset", "systemctl edit user@.service"),
        ("delegated", "user@1000.service/app.slice/run.scope", "io", "systemctl restart user@1000"),
        ("delegated", "user@1000.service/app.slice", "hugetlb", "echo +hugetlb"),  # which systemd does not know
        ("delegated", "user@1001.service/app.slice", "io", "echo +io"),
        ("v2", "creche", "io", "echo +io"),
        ("systemd", "user@1000.service/app.slice", "rdma", "a kernel with the rdma controller"),
        ("v2", "creche", "rdma", "a kernel with the rdma controller"),
        ("container", "", "rdma", "the engine must give rdma"),
    ],
)
def test_the_remedy_for_a_controller_fits_the_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, below: str, controller: str, said: str) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    if kind == "container":  # the root of a cgroup namespace: what the kernel has cannot be seen from there
        (tmp_path / "cgroup.events").write_text("populated 1\n")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    place = Place(kind, (Hierarchy(2, f"{tmp_path}/{below}", frozenset({"memory"}), str(tmp_path)),))
    assert said in (place.lacks(controller, "field").hint or "")


def test_a_word_that_is_no_place_is_refused() -> None:
    for word in ("nonsense", "/tmp", "/nowhere", ""):
        with pytest.raises(CgroupError, match="CRECHE_CGROUP"):
            find_place({"CRECHE_CGROUP": word})


def test_the_directory_may_be_named(place: Place) -> None:
    two = [hierarchy for hierarchy in place.hierarchies if hierarchy.version == 2]
    for hierarchy in two:
        named = find_place({"CRECHE_CGROUP": hierarchy.folder})
        assert named.hierarchies[0].folder == hierarchy.folder
        assert named.controllers() == hierarchy.controllers
        box = named.create("x", Limits())
        assert box.unified is not None and box.unified.startswith(hierarchy.folder)
        box.remove()


def test_none_may_be_asked_for() -> None:
    place = find_place({"CRECHE_CGROUP": "none"})
    with pytest.raises(UnsupportedError, match="CRECHE_CGROUP is 'none'"):
        place.create("x", Limits(pids=4))


async def test_the_place_is_found_on_every_loop() -> None:
    reset()
    found = await find_place_async()
    assert found is await find_place_async()
    assert found is find_place()


# A bus that is not well: each a server that says one thing.

OK = b"OK 1234deadbeef\r\n"


def silent(peer: socket.socket) -> None:
    while peer.recv(4096):
        continue


def dies_at_once(peer: socket.socket) -> None:
    peer.close()


def dies_after_hello(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.sendall(OK)
    peer.recv(4096)
    peer.close()


def refuses(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.sendall(b"REJECTED DBUS_COOKIE_SHA1\r\n")
    peer.recv(4096)


def speaks_http(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 40)
    peer.recv(4096)


def garbage(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.sendall(OK)
    peer.recv(4096)
    peer.sendall(os.urandom(64) * 64)
    peer.recv(4096)


def endless(peer: socket.socket) -> None:
    """A header that promises 100 MB, and keeps the promise."""
    peer.recv(4096)
    peer.sendall(OK)
    peer.recv(4096)
    peer.sendall(b"l\x02\x01\x01" + struct.pack("<III", 100 << 20, 1, 0))
    while True:
        peer.sendall(bytes(1 << 16))


def conversation(*bodies: tuple[str, tuple[object, ...]]) -> Callable[[socket.socket], None]:
    """A bus that answers each call with the next of *bodies*, and then sends nothing more."""

    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(OK)
        parser, answers = Parser(), iter(bodies)
        data = peer.recv(4096).removeprefix(b"BEGIN\r\n")
        serial = 0
        while True:
            for call in parser.feed(data):
                signature, body = next(answers, ("", ()))
                serial += 1
                peer.sendall(reply(call, signature, body, serial))
            data = peer.recv(4096)
            if not data:
                return

    return serve


def reply(call: Message, signature: str, body: tuple[object, ...], serial: int) -> bytes:
    from jeepney.low_level import Endianness, Header

    kind = MessageType.error if signature == "!" else MessageType.method_return
    fields: dict[HeaderFields, object] = {HeaderFields.reply_serial: call.header.serial}
    if signature == "!":
        fields[HeaderFields.error_name] = body[0]
        signature, body = "s", body[1:]
    if signature:
        fields[HeaderFields.signature] = signature
    return Message(Header(Endianness.little, kind, 0, 1, -1, -1, fields), body).serialise(serial)


HELLO = ("s", (":1.7",))
DENIED = ("!", ("org.freedesktop.DBus.Error.AccessDenied", "no"))
UNKNOWN = ("!", ("org.freedesktop.DBus.Error.ServiceUnknown", "no systemd1 here"))


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """A server at a socket, whose path is given back."""
    path = str(tmp_path / "bus")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    threads: list[threading.Thread] = []

    def begin(serve: Callable[[socket.socket], None]) -> str:
        def run() -> None:
            peer, _ = server.accept()
            with peer:
                try:
                    serve(peer)
                except OSError:
                    return

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return path

    yield begin
    for thread in threads:
        thread.join()
    server.close()


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (silent, "did not answer within"),
        (dies_at_once, "closed the connection|cannot be reached"),
        (dies_after_hello, "closed the connection|cannot be reached"),
        (refuses, "does not let us in"),
        (speaks_http, "does not let us in"),
        (garbage, "nonsense|did not answer|more than|closed the connection"),
        (endless, "more than 1048576 bytes"),
        (conversation(HELLO, ("", ()), DENIED), "refuses a scope.*Delegate=yes to the unit"),
        (conversation(HELLO, ("", ()), UNKNOWN), "no systemd1 here"),
        (conversation(HELLO, ("", ()), ("u", (5,))), "nonsense"),
        (conversation(HELLO, ("", ()), ("", ())), "nonsense"),
        (conversation(HELLO, ("", ()), ("o", ("/job/1",))), "did not answer within"),
    ],
    ids=[
        *("silent", "dies at once", "dies later", "refuses", "speaks HTTP", "garbage", "endless"),
        *("denied", "no systemd", "a number for a job", "nothing for a job", "a job without end"),
    ],
)
async def test_a_bus_that_is_not_well_is_an_error_in_bounded_time(
    bus: Callable[..., str], serve: Callable[[socket.socket], None], said: str
) -> None:
    with pytest.raises(CgroupError, match=said) as caught:
        await systemd.start_scope(bus(serve), "x.scope", os.getpid(), seconds=0.5 if "did not answer" in said else 20)
    assert caught.value.path is not None


async def test_what_systemd_says_is_not_believed_before_the_kernel_says_so(bus: Callable[..., str]) -> None:
    """Also where another task of ours has asked already, and systemd knows the scope."""
    exists = ("!", ("org.freedesktop.systemd1.UnitExists", "was already loaded"))
    address = f"unix:path={bus(conversation(HELLO, ('', ()), exists))}"
    with pytest.raises(CgroupError, match="this process is not in it"):
        await systemd.enter_scope({"DBUS_SESSION_BUS_ADDRESS": address, "DBUS_SYSTEM_BUS_ADDRESS": address})


async def test_a_bus_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="cannot be reached"):
        async with connected(str(tmp_path / "none")):
            pass


def test_a_bus_address_that_makes_no_sense() -> None:
    names = {"DBUS_SESSION_BUS_ADDRESS": "tcp:host=x", "DBUS_SYSTEM_BUS_ADDRESS": "tcp:host=x"}
    with pytest.raises(CgroupError, match="BUS_ADDRESS"):
        systemd.bus_path(names)


@pytest.mark.parametrize("when", ["never", "before", "meanwhile"])
def test_nobody_elses_process_is_moved_to_make_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str) -> None:
    """In a cgroup of our own, which must be empty to have children with controllers; ours are moved, as the control shows."""
    ours, stranger = os.getpid(), 1
    inside = {ours} | ({stranger} if when == "before" else set())
    moved: list[str] = []

    def write(path: str, pid: str) -> None:
        moved.append(pid)
        inside.discard(int(pid))
        if when == "meanwhile":
            inside.add(stranger)

    for name, text in (("procs", ""), ("subtree_control", ""), ("controllers", "memory pids"), ("events", "populated 1")):
        (tmp_path / f"cgroup.{name}").write_text(text)
    monkeypatch.setattr(room.files, "pids", lambda folder: tuple(inside))
    monkeypatch.setattr(room.files, "write", write)
    found = room.below(Standing(2, str(tmp_path.parent), str(tmp_path), frozenset(), False), told=str(tmp_path))
    assert (found.folder is not None) is (when == "never")
    assert moved == ([] if when == "before" else [str(ours)])
    assert when == "never" or "not ours to move (1)" in found.reasons[0]
