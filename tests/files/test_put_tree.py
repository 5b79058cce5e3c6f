"""put() of a directory: what goes in, whose it is, and that neither side's links lead it astray."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import anyio
import pytest
from loop.helpers import BOUND, python, shell

from creche import Container, FileError, Spec, Tmpfs
from needs import needs

pytestmark = needs("native", "userns")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "run").write_text("#!/bin/sh\necho ran\n")
    (top / "run").chmod(0o755)
    (top / "sub" / "data").write_bytes(b"d" * 200_000)
    (top / "sub" / "data").chmod(0o600)
    (top / "sub").chmod(0o750)
    return top


async def test_a_directory_with_its_modes(box, tree):
    await box.put("/tmp/tree", tree)
    assert (await box.run(["/tmp/tree/run"])).stdout == b"ran\n"
    said = (await box.run(shell("cd /tmp/tree; stat -c '%n %a %u %s' run sub/data; stat -c '%n %a' sub sub/empty"))).stdout.decode()
    mode = f"{(tree / 'sub' / 'empty').stat().st_mode & 0o777:o}"
    assert said == f"run 755 0 19\nsub/data 600 0 200000\nsub 750\nsub/empty {mode}\n"
    await box.put("/tmp/tree", tree)  # again: over what is there
    assert sorted(await box.listdir("/tmp/tree")) == ["run", "sub"]


async def test_setuid_bits_stay_outside(box, tree):
    (tree / "run").chmod(0o6755)
    assert (tree / "run").stat().st_mode & 0o6000
    (tree / "sub").chmod(0o2755)
    await box.put("/tmp/tree", tree)
    assert (await box.run(["stat", "-c", "%a", "/tmp/tree/run", "/tmp/tree/sub"])).stdout == b"755\n755\n"


async def test_links_of_the_hosts_are_copied_not_followed(box, tree, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tree / "out").symlink_to(tmp_path / "secret")
    (tree / "folder").symlink_to(tmp_path)
    assert (tree / "out").read_text() == "secret"  # the control: who follows it reads it
    for _ in range(2):
        await box.put("/tmp/tree", tree)
        said = await box.run(["readlink", "/tmp/tree/out", "/tmp/tree/folder"])
        assert said.stdout == f"{tmp_path}/secret\n{tmp_path}\n".encode()
        assert not (await box.run(["cat", "/tmp/tree/out"])).ok


async def test_what_is_neither_file_nor_directory_is_refused(box, tree, refused):
    os.mkfifo(tree / "fifo")
    with anyio.fail_after(BOUND), refused(errno.EINVAL) as caught:
        await box.put("/tmp/tree", tree)
    assert caught.value.path == str(tree / "fifo")


async def test_parents_as_asked(box, tree, refused):
    with refused(errno.ENOENT):
        await box.put("/tmp/a/b/tree", tree)
    await box.put("/tmp/a/b/tree", tree, parents=True)
    await box.put("/tmp/a/c/d/file", b"x", parents=True)
    await box.put("/tmp/a/c/d/other", b"y", parents=True)
    assert sorted(await box.listdir("/tmp/a/c/d")) == ["file", "other"]
    assert (await box.run(["stat", "-c", "%a", "/tmp/a/c"])).stdout == b"755\n"
    with refused(errno.ENOTDIR):
        await box.put("/tmp/a/c/d/file/below", b"x", parents=True)
    with refused(errno.EROFS):
        await box.put("/usr/absent/file", b"x", parents=True)
    with pytest.raises(ValueError):
        await box.put("/tmp/tree", tree, mode=0o644)


@pytest.mark.parametrize("user", [1000, "1000:1000", None])
async def test_what_is_made_is_the_users(anyio_backend, tree, user):
    async with Container(Spec(user=user, mounts=[Tmpfs("/work", mode=0o777)])) as box:
        await box.put("/work/deep/tree", tree, parents=True)
        await box.put("/work/file", b"x", mode=0o600)
        owner = str(1000 if user else 0).encode()
        said = await box.run(shell("stat -c %u /work/deep /work/deep/tree /work/deep/tree/sub/data /work/file"))
        assert said.stdout.split() == [owner] * 4
        assert (await box.run(shell("echo y >> /work/file && rm -r /work/deep && cat /work/file"))).stdout == b"xy\n"


async def test_a_name_of_a_user_is_looked_up_inside(anyio_backend):
    async with Container(Spec(user="root")) as box:
        await box.put("/tmp/file", b"x")
        assert (await box.run(["stat", "-c", "%U", "/tmp/file"])).stdout == b"root\n"


async def test_a_guests_link_where_a_directory_should_be(box, tree):
    assert (await box.run(shell("mkdir /tmp/tree /tmp/aim; ln -s /tmp/aim /tmp/tree/sub; ln -s /tmp/aim /tmp/link"))).ok
    assert (await box.run(shell("echo x > /tmp/tree/sub/control; rm /tmp/aim/control"))).ok  # who follows it gets there
    for path in ("/tmp/tree", "/tmp/link"):
        with pytest.raises(FileError, check=lambda error: error.errno in (errno.ELOOP, errno.ENOTDIR)):
            await box.put(path, tree)
    assert await box.listdir("/tmp/aim") == []


async def test_a_guest_that_swaps_a_directory_for_a_link_meanwhile(box, tree):
    """C3: whatever the moment, what is copied lands in directories that were directories."""
    for number in range(30):
        (tree / "sub" / f"file{number}").write_text("x")
    swap = python(
        "import os\nos.chdir('/tmp')\nos.mkdir('aim')\nos.makedirs('tree/sub')\nos.symlink('/tmp/aim', 'tree/link')\nprint(flush=True)\n"
        "while True:\n  os.rename('tree/sub', 'tree/away'); os.rename('tree/link', 'tree/sub')\n"
        "  os.rename('tree/sub', 'tree/link'); os.rename('tree/away', 'tree/sub')"
    )
    async with box.open(swap) as process:
        await process.stdout.receive()
        for _ in range(15):
            try:
                await box.put("/tmp/tree", tree)
            except FileError as error:
                assert error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EEXIST)
    assert await box.listdir("/tmp/aim") == []


async def test_names_of_bytes_and_lines(box, tree):
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b" ", b"\xf0\x9f\x90\x8d"):
        (Path(os.fsdecode(os.fsencode(tree) + b"/" + name))).write_bytes(name)
    await box.put("/tmp/tree", tree)
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b" "):
        assert await box.get(os.fsdecode(b"/tmp/tree/" + name)) == name


async def test_a_full_file_system_is_told(anyio_backend, tree, refused):
    (tree / "large").write_bytes(bytes(4 << 20))
    async with Container(Spec(mounts=[Tmpfs("/small", size="1M")])) as box:
        with refused(errno.ENOSPC):
            await box.put("/small/tree", tree)


async def test_too_deep_for_our_descriptors(box, tmp_path, refused):
    (tmp_path / "/".join(["d"] * 150)).mkdir(parents=True)
    with refused(errno.ENAMETOOLONG):
        await box.put("/tmp/deep", tmp_path)


async def test_cancelled_at_any_moment(box, tree):
    for number in range(40):
        with anyio.move_on_after(number / 5000):
            await box.put("/tmp/tree", tree)
    assert not box._answers and not box._asked
