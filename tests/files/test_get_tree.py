"""get(to=): a directory comes out within its bounds, and nothing a guest puts in it reaches beyond."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat

import anyio
import pytest
from loop.helpers import BOUND, others, python, shell

from creche import Container, FileError, Spec, Tmpfs
from needs import needs

pytestmark = needs("native", "userns")


async def test_a_directory_with_its_modes(box, tmp_path):
    assert (await box.run(shell(
        "mkdir -p /tmp/out/sub/empty; cd /tmp/out; echo one > one; chmod 4777 one; head -c 200000 /dev/zero > sub/two; chmod 600 sub/two; chmod 500 sub"
    ))).ok  # fmt: skip
    assert await box.get("/tmp/out", to=tmp_path / "out") == []
    assert (tmp_path / "out" / "one").read_bytes() == b"one\n"
    assert (tmp_path / "out" / "sub" / "two").read_bytes() == bytes(200_000)
    assert os.listdir(tmp_path / "out" / "sub" / "empty") == []
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("one", "sub", "sub/two")}
    assert modes["one"] & 0o7022 == 0 and modes["one"] & 0o700 == 0o700  # no setuid bit, nobody else may write
    assert modes["sub"] == 0o700 and modes["sub/two"] == 0o600
    assert {(tmp_path / "out" / name).stat().st_uid for name in modes} == {os.geteuid()}


async def test_a_single_file(box, tmp_path, refused):
    await box.put("/tmp/file", b"x" * 100_000, mode=0o755)
    assert await box.get("/tmp/file", to=tmp_path / "file") == []
    assert (tmp_path / "file").read_bytes() == b"x" * 100_000 and os.access(tmp_path / "file", os.X_OK)
    with refused(errno.EEXIST):
        await box.get("/tmp/file", to=tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with refused(errno.EEXIST):
        await box.get("/tmp/file", to=tmp_path / "link")
    assert not (tmp_path / "absent").exists()


async def test_nothing_of_the_hosts_is_overwritten(box, tmp_path, refused):
    assert (await box.run(shell("mkdir -p /tmp/out/sub; echo theirs > /tmp/out/sub/file"))).ok
    (tmp_path / "aim").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "sub").symlink_to(tmp_path / "aim")
    with refused(errno.EEXIST):
        await box.get("/tmp/out", to=tmp_path / "to")
    assert os.listdir(tmp_path / "aim") == []
    (tmp_path / "to" / "sub").unlink()
    (tmp_path / "to" / "mine").write_text("mine")
    assert await box.get("/tmp/out", to=tmp_path / "to") == []
    assert (tmp_path / "to" / "mine").read_text() == "mine" and (tmp_path / "to" / "sub" / "file").read_text() == "theirs\n"


async def test_what_is_neither_is_left_out_and_told(box, tmp_path):
    make = "mkdir -p out/sub; cd out; mkfifo sub/fifo; ln -s /etc/passwd link; ln -s / root; ln -s loop loop; ln -s sub folder; echo x > file; ln file second"
    assert (await box.run(shell(f"cd /tmp; {make}"))).ok
    assert (await box.run(python("import socket; socket.socket(1).bind('/tmp/out/socket')"))).ok
    with anyio.fail_after(BOUND):
        left = await box.get("/tmp/out", to=tmp_path / "out")
    assert sorted(left) == ["folder", "link", "loop", "root", "socket", "sub/fifo"]
    assert sorted(os.listdir(tmp_path / "out")) == ["file", "second", "sub"]


async def test_devices_are_not_even_opened(box, tmp_path):
    with anyio.fail_after(BOUND):
        left = await box.get("/dev", to=tmp_path / "dev")
    assert {"null", "zero", "tty", "stdin"} <= set(left)
    assert not [name for _, _, files in os.walk(tmp_path / "dev") for name in files]


@pytest.fixture
async def shared(anyio_backend, tmp_path):
    """A container whose /work stands for a folder that guests of before have filled: links that lead out on the host."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    async with Container(Spec(mounts=[Tmpfs("/work", mode=0o777)])) as box:
        yield box, tmp_path


async def test_a_guests_link_to_a_path_of_the_hosts(shared):
    """C1: the host's file of that name is not read; who follows the link on the host reads it."""
    box, folder = shared
    assert (await box.run(shell(f"mkdir /work/out; ln -s {folder}/secret/file /work/out/file; ln -s {folder}/secret /work/out/folder"))).ok
    with pytest.raises(FileError, check=lambda error: error.errno == errno.ENOENT):
        await box.get("/work/out/file")
    with pytest.raises(FileError, check=lambda error: error.errno == errno.ENOENT):
        await box.get("/work/out/folder", to=folder / "taken")
    assert sorted(await box.get("/work/out", to=folder / "taken")) == ["file", "folder"]
    assert os.listdir(folder / "taken") == []
    (folder / "control").mkdir()
    text = (await box.run(["readlink", "/work/out/folder"])).stdout.decode().strip()
    (folder / "control" / "folder").symlink_to(text)
    shutil.copytree(folder / "control", folder / "followed")
    assert (folder / "followed" / "folder" / "file").read_text() == "secret"


async def test_a_guest_that_swaps_a_directory_for_a_link_meanwhile(box, tmp_path):
    """C3: a directory that becomes a link to /etc in the middle is left out; nothing of there comes out."""
    swap = python(
        "import os\nos.makedirs('/tmp/out/sub/deep')\nos.chdir('/tmp/out')\n"
        "for number in range(30): open(f'sub/{number}', 'w').write('x'), open(f'sub/deep/{number}', 'w').write('x')\n"
        "os.symlink('/etc', '/tmp/link')\nprint(flush=True)\n"
        "while True:\n  os.rename('sub', '/tmp/away'); os.rename('/tmp/link', 'sub')\n"
        "  os.rename('sub', '/tmp/link'); os.rename('/tmp/away', 'sub')"
    )
    found = set()
    async with box.open(swap) as process:
        await process.stdout.receive()
        for number in range(15):
            with contextlib.suppress(FileError):  # a copy may fail of it; what counts is what came out
                await box.get("/tmp/out", to=tmp_path / str(number))
            for _, folders, files in os.walk(tmp_path / str(number)):
                found |= {*folders, *files}
    assert found <= {"sub", "deep", *map(str, range(30))}


async def test_bounds_of_bytes(box, tmp_path, refused):
    assert (await box.run(shell("mkdir /tmp/out; cd /tmp/out; head -c 1000 /dev/zero > a; head -c 1000 /dev/zero > b"))).ok
    assert await box.get("/tmp/out", to=tmp_path / "fits", max_bytes=2000) == []
    with refused(errno.EFBIG):
        await box.get("/tmp/out", to=tmp_path / "over", max_bytes=1999)
    assert (await box.run(["truncate", "-s", "1T", "/tmp/out/sparse"])).ok
    with anyio.fail_after(BOUND), refused(errno.EFBIG):
        await box.get("/tmp/out", to=tmp_path / "sparse")
    with anyio.fail_after(BOUND), refused(errno.EFBIG):
        await box.get("/tmp/out/sparse", to=tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


async def test_a_file_that_grows_while_it_is_read(box, tmp_path, refused):
    grow = python(
        "import os\nos.mkdir('/tmp/out')\nf = open('/tmp/out/grows', 'wb', 0)\nprint(flush=True)\n"
        "while True:\n  f.write(bytes(65536))\n  if f.tell() > 30_000_000: f.truncate(0); f.seek(0)"
    )
    async with box.open(grow) as process:
        await process.stdout.receive()
        with anyio.fail_after(BOUND), refused(errno.EFBIG):
            for number in range(1000):
                await box.get("/tmp/out", to=tmp_path / str(number), max_bytes=1 << 20)
                shutil.rmtree(tmp_path / str(number))
    written = sum(path.stat().st_size for path in tmp_path.rglob("grows"))
    assert written <= (1 << 20) + 1


async def test_a_hundred_thousand_entries(anyio_backend, tmp_path, refused):
    async with Container(Spec(mounts=[Tmpfs("/many", inodes=200_000)])) as box:
        assert (await box.run(python("import os\nfor n in range(100_000): os.mkdir(f'/many/{n}') if n % 100 == 0 else os.symlink('x', f'/many/{n}')"))).ok
        async with others() as turns:
            names = await box.listdir("/many")
        assert len(names) == len(set(names)) == 100_000
        assert turns.taken > 100  # others had theirs
        with refused(errno.EFBIG):
            await box.listdir("/many", max_files=99_999)
        with refused(errno.EFBIG):
            await box.get("/many", to=tmp_path / "many")
        assert os.listdir(tmp_path / "many") == []


async def test_the_bound_of_names_counts_those_of_all_directories(box, tmp_path, refused):
    assert (await box.run(shell("mkdir -p /tmp/out/a /tmp/out/b; touch /tmp/out/a/1 /tmp/out/a/2 /tmp/out/b/3; ln -s x /tmp/out/b/4"))).ok
    assert await box.get("/tmp/out", to=tmp_path / "fits", max_files=6) == ["b/4"]
    with refused(errno.EFBIG):
        await box.get("/tmp/out", to=tmp_path / "over", max_files=5)


async def test_too_deep_for_our_descriptors(box, tmp_path, refused):
    assert (await box.run(python("import os\nos.makedirs('/tmp/' + 'd/' * 150)"))).ok
    with refused(errno.ENAMETOOLONG):
        await box.get("/tmp/d", to=tmp_path / "deep")


async def test_names_of_bytes_and_lines(box, tmp_path):
    names = (b"\xff\xfe", b"new\nline", b"-rf", b" ", b"\x1b]0;title\x07", b"..\\up")
    await box.run(python(f"import os\nos.mkdir('/tmp/out')\nfor name in {names!r}: open(b'/tmp/out/' + name, 'wb').write(name)"))
    assert await box.get("/tmp/out", to=tmp_path / "out") == []
    out = {os.fsencode(path.name): path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert out == {name: name for name in names}
    assert sorted(map(os.fsencode, await box.listdir("/tmp/out"))) == sorted(names)


async def test_cancelled_at_any_moment(box, tmp_path):
    assert (await box.run(shell("mkdir -p /tmp/out/a/b/c; for n in 1 2 3; do echo x > /tmp/out/a/b/c/$n; done"))).ok
    for number in range(30):
        with anyio.move_on_after(number / 5000):
            await box.get("/tmp/out", to=tmp_path / str(number))
    assert not box._answers and not box._asked
