"""open_file(): a file inside as a stream, in bounded pieces, and never anything that is no file."""

from __future__ import annotations

import errno
import os

import anyio
import anyio.abc
import pytest
from loop.helpers import BOUND, python, shell

from creche import Container, CrecheError, FileError, Spec, SpecError
from needs import needs

pytestmark = needs("native", "userns")


async def test_there_and_back_in_pieces(box):
    async with box.open_file("/tmp/file", "wb", perm=0o640) as file:
        assert isinstance(file, anyio.abc.ByteSendStream)
        await file.send(b"a" * 3_000_000)
        await file.send(b"")
        await file.send(b"end")
    assert (await box.run(["stat", "-c", "%a %s", "/tmp/file"])).stdout == b"640 3000003\n"
    async with box.open_file("/tmp/file") as file:
        assert isinstance(file, anyio.abc.ByteReceiveStream)
        assert await file.receive(4) == b"aaaa"
        parts = [part async for part in file]
    assert b"".join(parts) == b"a" * 2_999_996 + b"end" and max(map(len, parts)) <= 1 << 16
    with pytest.raises(anyio.ClosedResourceError):
        await file.receive()


async def test_large_pieces_go_through_a_thread(box):
    await box.put("/tmp/file", bytes(5_000_000))
    async with box.open_file("/tmp/file", "rb") as file:
        assert len(await file.receive(5_000_000)) == 5_000_000
        with pytest.raises(anyio.EndOfStream):
            await file.receive()


async def test_ways_to_write(box, refused):
    async with box.open_file("/tmp/file", "xb") as file:
        await file.send(b"one")
    with refused(errno.EEXIST):
        async with box.open_file("/tmp/file", "xb"):
            pass
    async with box.open_file("/tmp/file", "ab") as file:
        await file.send(b" two")
    assert await box.get("/tmp/file") == b"one two"
    async with box.open_file("/tmp/file", "wb") as file:
        await file.send(b"3")
    assert await box.get("/tmp/file") == b"3"


async def test_other_modes_are_refused(box):
    for mode in ("r", "w", "rb+", "r+b", ""):
        with pytest.raises(SpecError, match="mode"):
            async with box.open_file("/tmp/file", mode):
                pass


async def test_a_bound(box, refused):
    assert (await box.run(["truncate", "-s", "1T", "/tmp/sparse"])).ok
    read = 0
    with refused(errno.EFBIG):
        async with box.open_file("/tmp/sparse", max_bytes=100_000) as file:
            async for part in file:
                read += len(part)
    assert read <= 100_000
    await box.put("/tmp/file", b"x" * 10)
    async with box.open_file("/tmp/file", max_bytes=10) as file:
        assert b"".join([part async for part in file]) == b"x" * 10


async def test_a_file_that_grows_for_ever_keeps_nobody(box, refused):
    grow = python("f = open('/tmp/grows', 'wb', 0)\nprint(flush=True)\nwhile True: f.write(bytes(4096)); f.tell() > 30_000_000 and f.seek(0)")
    async with box.open(grow) as process:
        await process.stdout.receive()
        with anyio.fail_after(BOUND), refused(errno.EFBIG):
            while True:
                async with box.open_file("/tmp/grows", max_bytes=1 << 20) as file:
                    async for _ in file:
                        pass


@pytest.mark.parametrize("kind", ["mkfifo /tmp/odd", "python3 -c \"import socket; socket.socket(1).bind('/tmp/odd')\"", "mkdir /tmp/odd", "ln -s /dev/zero /tmp/odd"])
async def test_what_is_no_file(box, kind):
    assert (await box.run(shell(kind))).ok
    with anyio.fail_after(BOUND):
        for mode in ("rb", "wb", "ab"):
            with pytest.raises(FileError):
                async with box.open_file("/tmp/odd", mode):
                    pass


async def test_a_link_is_not_written_through(box, refused):
    assert (await box.run(shell("cd /tmp; echo x > aim; ln -s aim link; ln aim second"))).ok
    with refused(errno.ELOOP):
        async with box.open_file("/tmp/link", "wb"):
            pass
    with refused(errno.EMLINK):
        async with box.open_file("/tmp/second", "ab"):
            pass
    async with box.open_file("/tmp/link") as file:
        assert await file.receive() == b"x\n"


async def test_paths_that_are_none(box, refused):
    with refused(errno.EINVAL):
        await box.get("/etc/passwd\0.png")
    with refused(errno.ENAMETOOLONG):
        await box.get("/tmp/" + "x" * 5000)
    for path in ("/", "", "/tmp/..", "/tmp/."):
        with refused(errno.EINVAL):
            await box.put(path, b"x")


async def test_it_stays_open_when_the_container_has_ended(anyio_backend):
    async with Container(Spec()) as box:
        await box.put("/tmp/file", b"kept")
        async with box.open_file("/tmp/file") as file:
            box.kill()
            await box.wait()
            assert await file.receive() == b"kept"
        with pytest.raises(CrecheError):
            await box.get("/tmp/file")


async def test_closed_while_a_thread_reads(box):
    """The number of the descriptor is nobody else's until the thread is done with it."""
    await box.put("/tmp/file", bytes(8 << 20))
    async with box.open_file("/tmp/file") as file, anyio.create_task_group() as tasks:
        tasks.start_soon(file.receive, 8 << 20)
        while not file._busy:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(anyio.BusyResourceError):
            await file.receive(1)
        fd = file.fileno()
        await file.aclose()
        assert file.fileno() == -1
    with pytest.raises(OSError):
        os.fstat(fd)


async def test_cancelled_at_any_moment(box):
    await box.put("/tmp/file", bytes(1 << 20))
    for number in range(40):
        with anyio.move_on_after(number / 10000):
            async with box.open_file("/tmp/file") as file:
                await file.receive(1 << 20)
    assert not box._answers and not box._asked
