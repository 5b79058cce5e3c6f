"""Family B: images that attack whoever mounts them. A folder of the host is the bait; each attack has a naive victim as control."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from privileged.look import ROOT, run, sh

import creche
from creche import Bind, Directory, File, IdMap, Overlay, SpawnError, SpecError, Sysfs, Tmpfs
from creche.machine import probe
from needs import needs

pytestmark = [needs("userns", "native", "busybox"), pytest.mark.guest]
many_ids = needs() if ROOT else needs("subids", "newuidmap")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the host that no container was given, with a secret in it."""
    folder = tmp_path / "victim"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    (folder / "secret").write_text("s3cret")
    return folder


def untouched(victim: Path) -> bool:
    return os.listdir(victim) == ["secret"] and (victim / "secret").read_text() == "s3cret" and victim.stat().st_mode & 0o7777 == 0o777


def tried(image: Path, **fields: Any) -> str:
    """What a start came to: what it printed, or the name of a SpawnError's errno. Any other error is one of the test's."""
    try:
        return sh(fields.pop("script", "echo started"), rootfs=Directory(image), **fields)
    except SpawnError as error:
        assert error.errno and error.field
        return os.strerror(error.errno)


LINKS = {
    "absolute": lambda victim: str(victim),
    "upwards": lambda victim: "../" * 30 + str(victim).lstrip("/"),
    "by proc": lambda victim: f"/proc/self/root{victim}",
    "by proc of 1": lambda victim: f"/proc/1/root{victim}",
    "by a cwd": lambda victim: "/proc/self/cwd/" + "../" * 20 + str(victim).lstrip("/"),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("what", ["parent of a directory", "parent of a file", "directory", "file", "symlink"])
def test_b1_b2_b5_a_link_in_a_targets_path_leads_nowhere_outside(image: Path, victim: Path, kind: str, what: str) -> None:
    (image / "link").symlink_to(LINKS[kind](victim))
    mounts = {
        "parent of a directory": [Tmpfs("/link/made")],
        "parent of a file": [File("/link/made", b"x")],
        "directory": [Tmpfs("/link")],
        "file": [File("/link", b"x")],
        "symlink": [creche.Symlink("/x", "/link/made")],
    }[what]
    tried(image, mounts=mounts, script="ls /link > /dev/null; echo x > /link/more; echo y > /link/made/more; true")
    assert untouched(victim)


@pytest.mark.parametrize("kind", ["absolute", "upwards"])
def test_control_a_naive_mounter_makes_its_target_on_the_host(image: Path, victim: Path, kind: str) -> None:
    (image / "link").symlink_to(LINKS[kind](victim))
    os.makedirs(str(image) + "/link/made")
    assert not untouched(victim)


@pytest.mark.parametrize("name", ["dev", "tmp", "dev/shm", "etc"])
def test_b3_a_folder_that_we_fill_is_a_link_to_the_host(image: Path, victim: Path, name: str) -> None:
    """Nodes, links and tmpfs are made at their places inside, or not at all; the terminal too."""
    folder = image / name
    if folder.exists():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink()
        folder.rmdir()
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(victim)
    tried(image, tty=name == "dev", stdin=None)
    tried(image, mounts=[File("/etc/hosts", b"x"), Tmpfs("/tmp/x")], script="echo x > /dev/null; echo y > /dev/shm/y; echo z > /tmp/z; true")
    assert untouched(victim)


def test_control_nodes_made_by_path_land_on_the_host(image: Path, victim: Path) -> None:
    (image / "dev").rmdir()
    (image / "dev").symlink_to(victim)
    Path(str(image) + "/dev/null").touch()
    assert not untouched(victim)


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("kind", ["link outside", "link inside", "file"])
def test_b4_b9_proc_and_sys_must_be_directories(image: Path, victim: Path, name: str, kind: str) -> None:
    path = image / name
    if path.exists():
        path.rmdir()
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to(victim if kind == "link outside" else "/srv")
    with pytest.raises(SpawnError) as caught:
        run(["/bin/true"], rootfs=Directory(image), mounts=[Sysfs()])
    assert f"'/{name}'" in str(caught.value) and untouched(victim)


@contextmanager
def swapping(one: Path, two: Path) -> Iterator[list[int]]:
    """Exchanges two names as fast as it can, in a thread."""
    libc, stop, count = ctypes.CDLL(None), threading.Event(), [0]

    def race() -> None:
        while not stop.is_set():
            libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(two), 2)  # RENAME_EXCHANGE
            count[0] += 1

    thread = threading.Thread(target=race)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_b6_a_name_that_is_swapped_during_the_mounts(image: Path, victim: Path) -> None:
    """A neighbour with the same folder exchanges a directory and a link while we mount: all lands on what was opened."""
    (image / "place").mkdir()
    (image / "link").symlink_to(victim)
    outcomes = set()
    with swapping(image / "place", image / "link") as swaps:
        for index in range(60):
            mounts = [File("/place/f", b"mine"), Tmpfs("/place/d"), File(f"/place/new/{index}", b"")]
            outcomes.add(tried(image, mounts=mounts))
    assert swaps[0] > 1000 and outcomes
    assert untouched(victim)


@pytest.mark.slow
def test_control_a_check_by_path_loses_that_race(image: Path, victim: Path) -> None:
    (image / "place").mkdir()
    (image / "link").symlink_to(victim)
    with swapping(image / "place", image / "link"):
        for _ in range(200_000):
            if not os.path.islink(image / "place"):
                Path(image / "place/made").touch()
            if not untouched(victim):
                break
    assert not untouched(victim)


def test_b7_the_images_null_is_never_a_masks_source(image: Path) -> None:
    (image / "dev/null").symlink_to("/proc/sys/kernel/hostname")
    got = sh("cat /proc/keys /proc/interrupts; echo x > /proc/keys; stat -c %t:%T /dev/null; cat /proc/sys/kernel/hostname", rootfs=Directory(image), hostname="kept")
    assert got == "1:3\nkept"


@pytest.mark.parametrize("name", ["console", "pts", "ptmx", "tty"])
def test_b8_a_terminal_is_not_opened_by_a_path_of_the_image(image: Path, victim: Path, name: str) -> None:
    (image / "dev" / name).symlink_to(victim / "secret")
    result = run("readlink /proc/self/fd/1; echo typed", rootfs=Directory(image), tty=True)
    assert b"/dev/pts/0" in result.stdout and b"typed" in result.stdout
    assert untouched(victim)


@pytest.mark.parametrize("link", ["/proc/self/fd/{}", "/proc/self/fd/{}/..", "/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/dev/fd/{}"])
def test_b10_a_working_directory_that_is_a_magic_link(image: Path, victim: Path, link: str) -> None:
    for number in range(12):
        path = image / f"cwd{number}"
        path.symlink_to(link.format(number))
        try:
            where = sh("pwd; ls", rootfs=Directory(image), cwd=f"/cwd{number}")
        except SpawnError as error:
            assert error.field == "cwd"
        else:
            assert "secret" not in where and where.startswith("/\n")


def test_control_a_descriptor_of_a_folder_that_was_passed_leads_outside(image: Path, victim: Path) -> None:
    """So it must never be leaked: what the Spec passes, it passes."""
    fd = os.open(victim.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert sh(f"cd /proc/self/fd/{fd}/victim && cat secret", rootfs=Directory(image), pass_fds=[fd], **_as_caller()) == "s3cret"
    finally:
        os.close(fd)


def _as_caller() -> dict[str, Any]:
    return {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]} if ROOT else {}


# ---- accounts ----


def _with(image: Path, passwd: bytes | None, group: bytes = b"root:x:0:\n") -> dict[str, Any]:
    if passwd is not None:
        (image / "etc/passwd").write_bytes(passwd)
    (image / "etc/group").write_bytes(group)
    return {"rootfs": Directory(image) if ROOT else Overlay([image])}


@many_ids
def test_b11_a_giant_passwd_is_bounded(image: Path) -> None:
    fields = _with(image, b"ann:x:7:7::/:\n" * 200_000)
    with pytest.raises((SpecError, creche.FileError)):
        run(["/bin/true"], user="ann", **fields)


@many_ids
@pytest.mark.parametrize("kind", ["fifo", "directory", "link outside", "device"])
def test_b11_a_passwd_that_is_no_file(image: Path, victim: Path, kind: str) -> None:
    path = image / "etc/passwd"
    path.unlink()
    (victim / "secret").write_text("ann:x:7:8::/:\n")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(victim / "secret" if kind == "link outside" else "/dev/zero")
    with pytest.raises((SpecError, creche.FileError)):
        run(["/bin/true"], user="ann", **_with(image, None))


@many_ids
def test_b11_root_for_every_name_is_the_containers_root_alone(image: Path) -> None:
    fields = _with(image, b"ann:x:0:0::/:\nann:x:7:7::/:\n")
    assert sh("id -u; cat /proc/self/uid_map", user="ann", **fields).split()[:2] == ["0", "0"]
    assert b"denied" in run("cat /etc/shadow /proc/1/environ", user="ann", **fields).stderr or ROOT


@many_ids
@pytest.mark.parametrize(("line", "why"), [(b"ann:x:-1:0::/:", "negative"), (b"ann:x:4294967295:0::/:", "no id"), (b"ann:x:99999999999:0::/:", "too large"), (b"ann:x:7", "short"), (b"ann:x:7:x::/:", "no gid"), (b"ann:x:\xd9\xa3:7::/:", "digits of another script")])
def test_b11_a_line_that_is_none(image: Path, line: bytes, why: str) -> None:
    with pytest.raises(SpecError):
        run(["/bin/true"], user="ann", **_with(image, line + b"\n"))


@many_ids
def test_b12_a_number_is_a_uid_and_never_a_name(image: Path) -> None:
    fields = _with(image, b"1:x:0:0::/:\n", b"1:x:0:\nroot:x:0:1\n")
    if not ROOT:
        machine = probe()
        fields |= {"uid_map": [IdMap(0, os.geteuid(), 1), IdMap(1, machine.subuid[0][0], 9)], "gid_map": [IdMap(0, os.getegid(), 1), IdMap(1, machine.subgid[0][0], 9)]}
    assert sh("id -u; id -g; id -G", user="1", **fields).split() == ["1", "1", "1"]


@needs("root")
def test_b13_nothing_of_the_image_is_loaded_by_the_init(image: Path) -> None:
    (image / "etc/ld.so.preload").write_text("/lib/evil.so\n")
    (image / "etc/nsswitch.conf").write_text("passwd: evil\n")

    async def main() -> str:
        async with creche.Container(creche.Spec(rootfs=Directory(image), user="ann")) as box:
            await box.run(["true"], check=True)
            return Path(f"/proc/{box.init_pid}/maps").read_text()

    files = {line.split()[5] for line in anyio.run(main).splitlines() if len(line.split()) > 5}
    assert files  # or there was nothing to see
    assert [name for name in files if ".so" in name or name.startswith(("/lib", "/usr", "/etc", str(image)))] == []


def test_b14_cycles_long_paths_and_newlines(image: Path) -> None:
    (image / "a").symlink_to("/b")
    (image / "b").symlink_to("/a")
    for index in range(45):
        (image / f"l{index}").symlink_to(f"/l{index + 1}")
    for target in ("/a/x", "/l0/x"):
        with pytest.raises(SpawnError) as caught:
            run(["/bin/true"], rootfs=Directory(image), mounts=[Tmpfs(target)])
        assert caught.value.field == "mounts[0].target"
    for target in ("/" + "x/" * 2100, "/" + "x" * 300):
        with pytest.raises(SpecError):
            Tmpfs(target)
    deep = "/" + "/".join(["x" * 200] * 20)
    assert sh("echo ok", rootfs=Directory(image), mounts=[Tmpfs(deep)]) == "ok"
    assert sh(["ls", "/new\nline"], rootfs=Directory(image), mounts=[File("/new\nline/f", b"")]) == "f"
    with pytest.raises(SpawnError) as caught:
        run(["/bin/true"], rootfs=Directory(image), mounts=[Bind("/no/such\nthing", "/x", readonly=True)])
    assert "\n" not in str(caught.value)
