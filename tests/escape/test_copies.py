"""Family C: what a guest lays where the host fetches and puts files. The control of each is a naive copy by path."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from privileged.look import ROOT, inside

from creche import Bind, Container, Directory, FileError, HostView, Security, Spec
from needs import needs

pytestmark = needs("userns", "native", "busybox")
BAIT = b"a secret of the host's"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host's that nobody gave to the container."""
    path = tmp_path / "secret"
    path.write_bytes(BAIT)
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that host and guest share; whoever the guest is on the host may write there."""
    path = tmp_path / "work"
    path.mkdir()
    path.chmod(0o777)
    tmp_path.chmod(0o755)
    return path


def naive_get(root: Path, path: str) -> bytes:
    with open(f"{root}/{path}", "rb") as file:
        return file.read()


def naive_put(root: Path, path: str, content: bytes) -> None:
    with open(f"{root}/{path}", "wb") as file:
        file.write(content)


LINKS: dict[str, Callable[[Path, Path], str]] = {
    "C1 an absolute link": lambda work, secret: f"ln -s {secret} r; echo r",
    "C1 a climbing link": lambda work, secret: f"ln -s {'../' * 20}{str(secret).lstrip('/')} r; echo r",
    "C1 a link to a link": lambda work, secret: f"ln -s {secret} b; ln -s b r; echo r",
    "C3 a link in the parent's place": lambda work, secret: f"ln -s {secret.parent} d; echo d/secret",
    "C3 a climbing link in the parent's place": lambda work, secret: f"ln -s {'../' * 20}{str(secret.parent).lstrip('/')} d; echo d/secret",
    "C3 a link to the shared folder's parent": lambda work, secret: "ln -s .. d; echo d/secret",
}


@pytest.mark.parametrize("shape", LINKS)
def test_a_guests_link_leads_no_copy_out(work: Path, secret: Path, shape: str) -> None:
    async def body(box: Container) -> None:
        name = (await box.run(["sh", "-c", f"cd /w; {LINKS[shape](work, secret)}"], check=True)).stdout.decode().strip()
        assert naive_get(work, name) == BAIT, "the control: whoever follows it by path gets the host's file"
        for attempt in (lambda: box.get(f"/w/{name}"), lambda: box.put(f"/w/{name}", b"of the guest")):
            with pytest.raises(FileError):
                await attempt()
        assert secret.read_bytes() == BAIT
        naive_put(work, name, b"overwritten")
        assert secret.read_bytes() == b"overwritten", "the control of the way in"

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")]))


@pytest.mark.parametrize("target", ["/proc/self/root", "/proc/1/root", "/proc/self/cwd", "/proc/self/fd/0", "/dev/fd/1", "/proc/1/exe", "/proc/self/ns/user"])
def test_magic_links_are_not_followed(work: Path, target: str) -> None:
    """C1: the init opens what the host asks for, so "self" is the init there; its magic links would be its own."""

    async def body(box: Container) -> None:
        await box.run(["sh", "-c", f"cd /w; ln -s {target} r"], check=True)
        (work / "control").symlink_to("/proc/self/exe")
        assert naive_get(work, "control")[:4] == b"\x7fELF", "the control: by path it is followed"
        for path in ("/w/r", "/w/r/etc/passwd", f"{target}/etc/passwd", target):
            with pytest.raises(FileError):
                await box.get(path)
            with pytest.raises(FileError):
                await box.put(path, b"x")

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")]))


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/bin/of-the-guest", "/etc/passwd", "/of-the-guest", "/dev/null", "/dev/of-the-guest"])
@pytest.mark.parametrize("road", ["itself", "a link in the parent's place"])
def test_nothing_is_put_where_the_container_itself_cannot_write(path: str, road: str) -> None:
    """C2: the init has power that its guests have not; a guest's link must not borrow it."""

    async def body(box: Container) -> None:
        target = path
        if road != "itself":
            await box.run(["ln", "-s", os.path.dirname(path), "/tmp/d"], check=True)
            target = f"/tmp/d/{os.path.basename(path)}"
        with pytest.raises(FileError) as caught:
            await box.put(target, b"x")
        assert caught.value.errno in (errno.EROFS, errno.EACCES, errno.ENOENT, errno.EINVAL, errno.ELOOP, errno.EPERM)
        await box.put("/tmp/control", b"x")
        assert await box.get("/tmp/control") == b"x"

    inside(body, Spec(rootfs=HostView()))


SWAP = """
import os, sys
os.chdir("/w")
os.mkdir("real"); open("real/f", "w").write("of the guest")
os.symlink(sys.argv[1], "link"); os.rename("real", "d")
print("go", flush=True)
while True:
    os.rename("d", "real"); os.rename("link", "d")
    os.rename("d", "link"); os.rename("real", "d")
"""


def test_a_parent_swapped_for_a_link_meanwhile_leads_nowhere(work: Path, tmp_path: Path) -> None:
    """C3, B6: between look and open there is no moment, since both are the kernel's one walk."""
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "f").write_bytes(BAIT)

    async def body(box: Container) -> None:
        async with box.open(["python3", "-I", "-S", "-c", SWAP, str(outside)]) as swapper:
            assert swapper.stdout is not None
            await swapper.stdout.receive(16)
            got: set[bytes] = set()
            followed = 0
            tries = 0
            while tries < 400 or not got:  # on a busy machine the folder may be the link each time that we look
                tries += 1
                try:
                    got.add(await box.get("/w/d/f"))
                except FileError as error:
                    assert error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EAGAIN)
                try:
                    await box.put("/w/d/f", b"of the host")
                except FileError as error:
                    assert error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EAGAIN)
                with contextlib.suppress(OSError):
                    followed += naive_get(work, "d/f") == BAIT
            while not followed:  # the control: by path, some look meets the link
                with contextlib.suppress(OSError):
                    followed += naive_get(work, "d/f") == BAIT
        assert got <= {b"of the guest", b"of the host", b""} and got
        assert (outside / "f").read_bytes() == BAIT

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")]))


def test_a_file_that_grows_while_it_is_read_is_bounded(work: Path) -> None:
    """C5: and the loop goes on meanwhile."""
    grow = "import os\nf = os.open('/w/g', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\nos.write(f, b'x' * 65536)\nprint(flush=True)\nfor _ in range(2000): os.write(f, b'x' * 65536)\nimport time; time.sleep(100)"

    async def body(box: Container) -> None:
        async with box.open(["python3", "-I", "-S", "-c", grow]) as grower:
            assert grower.stdout is not None
            await grower.stdout.receive(1)
            while (work / "g").stat().st_size < 4 << 20:  # the control: there is more than the bound
                await anyio.sleep(0.001)
            with pytest.raises(FileError) as caught:
                await box.get("/w/g", max_bytes=1 << 20)
            assert caught.value.errno == errno.EFBIG

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")]))


def test_a_fifo_or_a_lease_holds_nobody_up(work: Path) -> None:
    """C4: the control is a plain open, which waits for a writer until the test lets it go."""
    lease = "import fcntl, os, time\nf = os.open('/w/leased', os.O_RDWR | os.O_CREAT)\nimport signal; signal.signal(signal.SIGIO, signal.SIG_IGN)\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\nprint(flush=True); time.sleep(100)"

    async def body(box: Container) -> None:
        await box.run(["mkfifo", "-m", "666", "/w/fifo"], check=True)
        with anyio.fail_after(20), pytest.raises(FileError):
            await box.put("/w/fifo", b"x")
        opened = threading.Event()
        waiter = threading.Thread(target=lambda: (naive_get(work, "fifo"), opened.set()), daemon=True)
        waiter.start()
        with anyio.fail_after(20):
            with pytest.raises(FileError):
                await box.get("/w/fifo")
            assert not opened.is_set(), "the control still waits"
            async with box.open(["python3", "-I", "-S", "-c", lease]) as holder:
                assert holder.stdout is not None
                await holder.stdout.receive(1)
                with pytest.raises(FileError) as caught:
                    await box.get("/w/leased")
                assert caught.value.errno == errno.EAGAIN
        with open(work / "fifo", "wb"):
            pass
        waiter.join(20)
        assert opened.is_set()

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")], security=Security(seccomp=None)))  # our filters let nobody take a lease


def test_a_hard_link_to_a_file_of_the_hosts_is_not_overwritten(work: Path, secret: Path) -> None:
    """C7: the control shows the link to be what it claims; protected_hardlinks would keep a stranger from making it."""
    os.link(secret, work / "r")
    (work / "r").chmod(0o666)

    async def body(box: Container) -> None:
        with pytest.raises(FileError) as caught:
            await box.put("/w/r", b"of the guest")
        assert caught.value.errno == errno.EMLINK and secret.read_bytes() == BAIT
        naive_put(work, "r", b"overwritten")
        assert secret.read_bytes() == b"overwritten"

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")]))


def test_what_is_put_has_the_mode_asked_for_and_no_more(work: Path) -> None:
    """C6: no setuid bit and no stranger's capability is left on a file that a guest had prepared."""

    async def body(box: Container) -> None:
        await box.run(["sh", "-c", "cp /bin/true /w/p; chmod 6755 /w/p"], check=True)
        assert (work / "p").stat().st_mode & 0o7777 == 0o6755, "the control"
        await box.put("/w/p", b"#!/bin/sh\n", mode=0o700)
        assert (work / "p").stat().st_mode & 0o7777 == 0o700

    inside(body, Spec(rootfs=HostView(), mounts=[Bind(work, "/w")]))


@pytest.mark.parametrize("name", ["etc", "tmp2", "proc-link"])
def test_an_images_links_lead_no_copy_out(image: Path, secret: Path, name: str) -> None:
    """C1 and B1 in an image: a folder of its root is a link to the host's."""
    if (image / name).exists():
        (image / name).rename(image / "old")
    (image / name).symlink_to("/proc/self/cwd" if name == "proc-link" else secret.parent)
    for path in (image, *image.parents[:1]):
        path.chmod(0o755)

    async def body(box: Container) -> Any:
        with pytest.raises(FileError):
            await box.get(f"/{name}/secret")
        with pytest.raises(FileError):
            await box.put(f"/{name}/made", b"x")
        if name != "proc-link":
            assert naive_get(image, f"{name}/secret") == BAIT
        assert not (secret.parent / "made").exists()

    spec = Spec(rootfs=Directory(image), user=None if ROOT else 0)
    inside(body, spec)
    shutil.rmtree(image / "old", ignore_errors=True)
