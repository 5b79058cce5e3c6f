"""put() and get(): files in and out of a container that may be anything but friendly."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import anyio
import pytest
from loop.helpers import BOUND, shell

from creche import Container, FileError, Spec, Tmpfs
from needs import needs

pytestmark = needs("native", "userns")


@pytest.fixture
async def box(anyio_backend):
    async with Container(Spec()) as box:
        yield box


def refused(number):
    return pytest.raises(FileError, check=lambda error: error.errno == number)


async def test_there_and_back(box):
    data = bytes(range(256)) * 1000
    await box.put("/tmp/file", data)
    assert await box.get("/tmp/file") == data
    assert (await box.run(["stat", "-c", "%a %u %s", "/tmp/file"])).stdout == b"644 0 256000\n"
    await box.put("/tmp/file", b"shorter", mode=0o755)
    assert await box.get("/tmp/file") == b"shorter"
    assert (await box.run(["stat", "-c", "%a", "/tmp/file"])).stdout == b"755\n"


async def test_a_file_of_the_hosts(box, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    await box.put("/tmp/file", tmp_path / "file")
    assert await box.get("/tmp/file") == b"x" * 3_000_000
    await box.put("/tmp/other", str(tmp_path / "file"))
    for path, number in ((tmp_path / "absent", errno.ENOENT), (tmp_path, errno.ENOTDIR)):
        with pytest.raises(FileError) as caught:
            await box.put("/tmp/file", path)
        assert caught.value.errno == number


async def test_a_fifo_of_the_hosts_does_not_hold_the_loop(box, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    with refused(errno.EINVAL):
        await box.put("/tmp/file", tmp_path / "fifo")


async def test_a_directory_is_told_as_one(box):
    with pytest.raises(FileError, match="to=") as caught:
        await box.get("/tmp")
    assert caught.value.errno == errno.EISDIR


async def test_what_is_not_there(box):
    with refused(errno.ENOENT):
        await box.get("/tmp/absent")
    with refused(errno.ENOENT):
        await box.put("/absent/file", b"")
    with refused(errno.EROFS):
        await box.put("/usr/file", b"")
    with pytest.raises(FileError):
        await box.get("/tmp")
    with pytest.raises(FileError):
        await box.put("/tmp", b"")


async def test_links_lead_nowhere_outside(box):
    """A guest's link to a path of the host's is followed inside the container's own root."""
    assert (await box.run(shell("cd /tmp; ln -s /etc/hostname a; ln -s ../../../../../../etc/passwd b; ln -s /proc/1/root/etc/passwd c"))).ok
    assert await box.get("/tmp/b") == (await box.run(["cat", "/etc/passwd"])).stdout
    with pytest.raises(FileError):
        await box.get("/tmp/c")  # a magic link
    for name in "abc":
        with refused(errno.ELOOP):
            await box.put(f"/tmp/{name}", b"x")


async def test_a_hard_link_is_not_written_through(box):
    assert (await box.run(shell("cd /tmp; echo x > one; ln one two"))).ok
    with refused(errno.EMLINK):
        await box.put("/tmp/two", b"y")
    assert await box.get("/tmp/one") == b"x\n"


@pytest.mark.parametrize("kind", ["mkfifo /tmp/odd", "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('/tmp/odd')\""])
async def test_what_is_no_file_holds_nobody(box, kind):
    assert (await box.run(shell(kind))).ok
    with anyio.fail_after(BOUND):
        with pytest.raises(FileError):
            await box.get("/tmp/odd")
        with pytest.raises(FileError):
            await box.put("/tmp/odd", b"x")


async def test_devices_are_no_files(box):
    with anyio.fail_after(BOUND):
        for path in ("/dev/zero", "/dev/null", "/dev/tty"):
            with pytest.raises(FileError):
                await box.get(path)


async def test_a_sparse_giant_is_refused_by_its_bound(box):
    assert (await box.run(["truncate", "-s", "50G", "/tmp/sparse"])).ok
    with refused(errno.EFBIG):
        await box.get("/tmp/sparse", max_bytes=1 << 20)
    assert (await box.run(["truncate", "-s", "1M", "/tmp/sparse"])).ok
    assert await box.get("/tmp/sparse", max_bytes=1 << 20) == bytes(1 << 20)


async def test_a_full_file_system_is_told():
    async with Container(Spec(mounts=[Tmpfs("/tmp/small", size="1M")])) as box:
        with refused(errno.ENOSPC):
            await box.put("/tmp/small/large", bytes(4 << 20))


async def test_many_at_once(box):
    async with anyio.create_task_group() as tasks:

        async def one(number):
            await box.put(f"/tmp/{number}", b"%d" % number)
            assert await box.get(f"/tmp/{number}") == b"%d" % number

        for number in range(50):
            tasks.start_soon(one, number)


async def test_cancelled_at_any_moment(box):
    await box.put("/tmp/file", b"x")
    for number in range(30):
        with anyio.move_on_after(number / 30000):
            await box.get("/tmp/file")
    assert await box.get("/tmp/file") == b"x"
    assert not box._answers and not box._asked


async def test_names_of_bytes_that_are_no_text(box):
    path = os.fsdecode(b"/tmp/\xff\xfe")
    await box.put(path, b"x")
    assert await box.get(path) == b"x"
