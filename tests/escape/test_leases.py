"""Leases (fcntl(2), F_SETLEASE): whoever owns a file that others open as well could let them wait, read-only or not."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

import creche
from creche import Bind, Container, File, IdMap, Security, Spec, sharing
from needs import needs

pytestmark = needs("userns", "native")

TAKE = """
import errno, fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("taken", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
sys.stdin.read()
"""
NO_FILTER = Security(seccomp=None)


def has_to_wait(path: Path) -> bool:
    """Whether an open of it would: with O_NONBLOCK it is refused instead (fcntl(2))."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return True
    return False


async def taken(path: str, after: creche.Spec) -> tuple[str, bool]:
    """What a guest is told who asks for a lease, and whether a second container's open of the same path would wait."""
    async with Container(after) as box, box.open(["python3", "-I", "-S", "-c", TAKE, path]) as process:
        assert process.stdout is not None
        told = (await process.stdout.receive()).decode().strip()
        look = "import os, sys; os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)"
        other = await creche.run(["python3", "-I", "-S", "-c", look, path], security=NO_FILTER)
        assert other.exit.ok or b"BlockingIOError" in other.stderr, other
        return told, not other.exit.ok


@pytest.mark.parametrize(("seccomp", "told"), [("default", "EPERM"), ("strict", "EPERM"), (None, "taken")])
def test_the_host_does_not_wait_to_open_what_is_bound_read_only(tmp_path: Path, seccomp: str | None, told: str) -> None:
    """Without a filter, which is the control, it does: where the guest is the file's owner."""
    mine = tmp_path / "mine"
    mine.write_text("text")
    same = (IdMap(0, os.geteuid(), 1),)

    async def main() -> None:
        spec = Spec(mounts=[Bind(mine, "/mine", readonly=True)], security=Security(seccomp=seccomp), uid_map=same, gid_map=(IdMap(0, os.getegid(), 1),))
        async with Container(spec) as box, box.open(["python3", "-I", "-S", "-c", TAKE, "/mine"]) as process:
            assert process.stdout is not None
            assert (await process.stdout.receive()).decode().strip() == told
            assert has_to_wait(mine) is (told == "taken")

    anyio.run(main)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/hosts", "/dev/null"])
def test_what_containers_share_is_nobodys(path: str) -> None:
    """Whatever the filter: no other container waits to read it. A lease on a device is none (fcntl(2): regular files)."""
    sharing.worth()
    told, waits = anyio.run(taken, path, Spec(security=NO_FILTER))
    assert told in ("EACCES", "EINVAL") and not waits


def test_what_is_the_containers_own_it_may_take_alone() -> None:
    """The control: of an /etc of its own, which nobody else sees."""
    told, waits = anyio.run(taken, "/etc/hosts", Spec(security=NO_FILTER, mounts=[File("/etc/mine", b"")]))
    assert told == "taken" and not waits


def test_with_the_capability_the_filter_lets_them_pass(tmp_path: Path) -> None:
    """As Docker's does: the kernel still asks who owns the file."""
    spec = Spec(["python3", "-I", "-S", "-c", TAKE, "/mine"], mounts=[File("/mine", b"")], security=Security(capabilities=["CAP_LEASE"]), stdin="null")
    assert anyio.run(lambda: creche.run(spec)).stdout == b"taken\n"
