"""listdir() and remove(): of what is inside alone."""

from __future__ import annotations

import errno

import anyio
import pytest
from loop.helpers import BOUND, python, shell

from creche import FileError
from needs import needs

pytestmark = needs("native", "userns")


async def test_names(box, refused):
    assert (await box.run(shell("mkdir /tmp/d; cd /tmp/d; touch a; mkfifo b; ln -s / c; mkdir .d"))).ok
    assert sorted(await box.listdir("/tmp/d")) == [".d", "a", "b", "c"]
    assert "etc" in await box.listdir("/tmp/d/c") and "etc" in await box.listdir("/../..")
    for path, number in (("/tmp/d/a", errno.ENOTDIR), ("/absent", errno.ENOENT), ("/tmp/d/b", errno.ENOTDIR)):
        with refused(number):
            await box.listdir(path)


async def test_a_file_a_link_a_fifo(box, refused):
    assert (await box.run(shell("cd /tmp; touch a; mkfifo b; ln -s a c; ln -s /etc d"))).ok
    for name in "dcb":
        await box.remove(f"/tmp/{name}")
    assert await box.listdir("/tmp") == ["a"]
    await box.remove("/tmp/a")
    with refused(errno.ENOENT):
        await box.remove("/tmp/a")
    with refused(errno.EROFS, errno.EACCES):
        await box.remove("/usr/bin/env")
    for path in ("/", "/tmp/..", "/."):
        with refused(errno.EINVAL):
            await box.remove(path, recursive=True)


async def test_a_directory_only_when_asked(box, refused):
    assert (await box.run(shell("mkdir -p /tmp/d/e/f /tmp/keep; touch /tmp/d/e/x /tmp/keep/y; ln -s /tmp/keep /tmp/d/e/out; chmod 0 /tmp/d/e"))).ok
    with refused(errno.EISDIR):
        await box.remove("/tmp/d")
    await box.remove("/tmp/d", recursive=True)
    assert await box.listdir("/tmp") == ["keep"] and await box.listdir("/tmp/keep") == ["y"]


async def test_many_are_removed_in_rounds(box):
    assert (await box.run(python("import os\nos.mkdir('/tmp/d')\nfor n in range(9000): open(f'/tmp/d/{n}', 'w')"))).ok
    await box.remove("/tmp/d", recursive=True)
    assert await box.listdir("/tmp") == []


async def test_a_guest_that_swaps_a_directory_for_a_link_meanwhile(box):
    """What the link leads to stays: a link is removed itself."""
    swap = python(
        "import os\nos.chdir('/tmp')\nos.makedirs('keep/sub')\nopen('keep/sub/file', 'w')\nprint(flush=True)\n"
        "while True:\n  try:\n    os.makedirs('d/sub/sub'); os.rename('d/sub', 'd/away'); os.symlink('/tmp/keep', 'd/sub')\n  except OSError: pass\n"
    )
    async with box.open(swap) as process:
        await process.stdout.receive()
        for _ in range(50):
            try:
                await box.remove("/tmp/d", recursive=True)
            except FileError as error:
                assert error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.ELOOP, errno.ENOTDIR)
    assert await box.listdir("/tmp/keep/sub") == ["file"]


async def test_a_guest_that_fills_it_for_ever_ends_with_your_patience(box):
    fill = python("import os\nos.mkdir('/tmp/d')\nprint(flush=True)\nn = 0\nwhile True:\n  n += 1\n  try: open(f'/tmp/d/{n}', 'w').close()\n  except OSError: pass\n")
    async with box.open(fill) as process:
        await process.stdout.receive()
        with anyio.fail_after(BOUND):
            with anyio.move_on_after(0.2):
                try:
                    await box.remove("/tmp/d", recursive=True)
                except FileError as error:
                    assert error.errno == errno.ENOTEMPTY
    with pytest.raises(FileError):
        await box.listdir("/tmp/absent")
