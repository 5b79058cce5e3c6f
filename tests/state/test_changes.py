"""What a container has written is told; kept as a layer, it is seen in the next container as it was in the first."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from creche import (
    Container,
    CrecheError,
    Directory,
    FileError,
    HostView,
    Overlay,
    Security,
    Spec,
    UnsupportedError,
)
from creche.remove import remove_tree
from creche.state.layers import Change
from creche.wire import control
from needs import needs

pytestmark = needs("userns", "overlay")

WRITE = r"""
umask 022; echo new > /new; ln /new /second; mkdir -p /dir/below; mkfifo /dir/pipe; ln -s /etc/shadow /dir/link; rm /etc/one; echo more >> /etc/two
rm -r /etc/sub; mkdir /etc/sub; echo b > /etc/sub/b; truncate -s 1T /sparse; echo end >> /sparse; mkdir /shut; echo x > /shut/x; chmod 0 /shut/x /shut
chmod 700 /app; chmod 4711 /etc/two; touch -d 2001-02-03 /new; mv /etc/twin /etc/moved
python3 -c "import os; os.setxattr('/new', 'user.key', b'value'); os.setxattr('/dir', 'user.dir', b'x' * 3000)"
python3 -c "import socket; socket.socket(1).bind('/dir/socket')"
"""
#: Everything below the root as a guest sees it, but for what is mounted there.
SEE = r"""
import hashlib, os, stat
first = {}
for top, folders, files in os.walk("/"):
    folders[:] = sorted(name for name in folders if not os.path.ismount(os.path.join(top, name)))
    for name in sorted(files + folders) + ([""] if top == "/" else []):
        path = os.path.join(top, name); s = os.lstat(path); kind = stat.S_IFMT(s.st_mode)
        line = [path, oct(s.st_mode), s.st_uid, s.st_gid]
        if path != "/": line.append(s.st_mtime_ns if kind != stat.S_IFDIR else "")
        if kind == stat.S_IFLNK: line.append(os.readlink(path))
        if kind == stat.S_IFREG:
            line += [s.st_size, s.st_nlink, first.setdefault(s.st_ino, path) if s.st_nlink > 1 else ""]
            line.append(s.st_blocks < 100 or "not sparse")
            if s.st_size < 1000: line.append(hashlib.sha256(open(path, "rb").read()).hexdigest()[:9])
        if kind in (stat.S_IFREG, stat.S_IFDIR): line.append([(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))])
        print(*line)
"""
CAPABLE = Security(capabilities=["CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID"])


async def see(box: Container) -> list[str]:
    result = await box.run(["python3", "-c", SEE], check=True)
    return result.stdout.decode().splitlines()


async def write(box: Container, program: str = WRITE) -> None:
    result = await box.run(["sh", "-ec", program])
    assert result.exit.ok, result.stderr


EXPECTED = [
    Change("/app", "changed", "directory"),
    Change("/dir", "added", "directory"), Change("/dir/below", "added", "directory"), Change("/dir/link", "added", "link"),
    Change("/dir/pipe", "added", "fifo"), Change("/dir/socket", "added", "socket"),
    Change("/etc/moved", "added", "file"), Change("/etc/one", "deleted", "file"),
    Change("/etc/sub/b", "added", "file"), Change("/etc/sub/inner", "deleted", "file"),
    Change("/etc/twin", "deleted", "file"), Change("/etc/two", "changed", "file"),
    Change("/new", "added", "file"), Change("/second", "added", "file"),
    Change("/shut", "added", "directory"), Change("/shut/x", "added", "file"), Change("/sparse", "added", "file"),
]  # fmt: skip


async def test_the_changes_are_told(spec: Spec) -> None:
    async with Container(spec) as box:
        assert await box.changes() == []
        await write(box)
        assert await box.changes() == EXPECTED
        await box.reset()
        assert await box.changes() == []


async def test_the_changes_of_an_upper_of_ones_own_are_told(spec: Spec, image: Path, tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    async with Container(attrs.evolve(spec, rootfs=Overlay([image], tmp_path / "upper", tmp_path / "work"))) as box:
        await write(box)
        assert await box.changes() == EXPECTED
        await box.commit(tmp_path / "layer")
    async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / "layer", image]))) as other:
        await write(other, "test -e /new && test ! -e /etc/one")
        shutil.rmtree(tmp_path / "work", ignore_errors=True)


async def test_over_two_layers_each_name_is_looked_up_from_the_top(spec: Spec, image: Path, tmp_path: Path) -> None:
    async with Container(spec) as box:
        await write(box)
        await box.commit(tmp_path / "layer")
    async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / "layer", image]), security=CAPABLE)) as box:
        assert await box.changes() == []
        await write(box, "rm /new /etc/sub/b; echo 1 > /etc/one; echo 2 > /etc/sub/inner; rm -r /dir")
        assert await box.changes() == [
            Change("/dir", "deleted", "directory"), Change("/etc/one", "added", "file"), Change("/etc/sub/b", "deleted", "file"),
            Change("/etc/sub/inner", "added", "file"), Change("/new", "deleted", "file"),
        ]  # fmt: skip


async def test_a_layer_looks_the_same_in_the_next_container(spec: Spec, image: Path, tmp_path: Path) -> None:
    spec = attrs.evolve(spec, security=CAPABLE)
    async with Container(spec) as box:
        before = await see(box)
        await write(box)
        after = await see(box)
        assert after != before
        await box.commit(tmp_path / "layer")
        assert await see(box) == after
    async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / "layer", image]))) as other:
        assert await see(other) == after
        assert await other.changes() == []
    assert sorted(os.listdir(tmp_path)) == ["image", "layer"]


@needs("root")
async def test_owners_are_those_that_the_container_gave(spec: Spec, image: Path, tmp_path: Path) -> None:
    spec = attrs.evolve(spec, security=CAPABLE)
    async with Container(spec) as box:
        await write(box, "mkdir -p /d/e; echo > /d/f; ln -s x /d/l; mkfifo /d/p; chown -hR 12:34 /d; chown 7 /etc/two; chmod 6755 /d/f; chmod 1777 /d/e")
        seen = await see(box)
        await box.commit(tmp_path / "layer")
        assert Change("/etc/two", "changed", "file") in await box.changes()
    found = os.lstat(tmp_path / "layer" / "d" / "l")
    assert (found.st_uid, found.st_gid) == (12, 34)
    async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / "layer", image]))) as other:
        assert await see(other) == seen


@needs("subids", "user")
async def test_owners_of_an_ordinary_users_sub_ids_too(spec: Spec, image: Path, tmp_path: Path) -> None:
    spec = attrs.evolve(spec, security=CAPABLE, user="0:0", groups=[0])
    async with Container(spec) as box:
        await write(box, "mkdir /d; echo > /d/f; chown -R 12:34 /d; chmod 600 /d/f; ln -s x /d/l; chown -h 12 /d/l")
        seen = await see(box)
        await box.commit(tmp_path / "layer")
    async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / "layer", image]))) as other:
        assert await see(other) == seen
    await remove_tree(tmp_path / "layer")


@pytest.mark.parametrize("rootfs", [HostView(), Directory("/"), Overlay(["/"], readonly=True)])
async def test_a_root_without_an_upper_layer_is_refused(rootfs: Any, tmp_path: Path) -> None:
    box = Container(Spec(rootfs=rootfs))
    with pytest.raises(UnsupportedError, match="no upper layer"):
        await box.changes()
    with pytest.raises(UnsupportedError, match="no upper layer"):
        await box.commit(tmp_path / "layer")


async def test_what_does_not_run_has_no_layers(spec: Spec, tmp_path: Path) -> None:
    box = Container(spec)
    with pytest.raises(CrecheError, match="not been started"):
        await box.changes()


async def test_what_is_there_stays(spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    async with Container(spec) as box:
        for name in ("layer", "link"):
            with pytest.raises(FileError) as caught:
                await box.commit(tmp_path / name)
            assert caught.value.errno == errno.EEXIST
        with pytest.raises(FileError) as caught:
            await box.commit(tmp_path / "no" / "layer")
        assert caught.value.errno == errno.ENOENT
    assert sorted(os.listdir(tmp_path)) == ["image", "layer", "link"]


async def test_bounds_are_kept_and_a_commit_that_fails_leaves_nothing(spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Container(spec) as box:
        await write(box)
        for bounds in ({"max_bytes": 5}, {"max_files": 3}):
            with pytest.raises(FileError) as caught:
                await box.commit(tmp_path / "layer", **bounds)
            assert caught.value.errno == errno.EFBIG
            assert os.listdir(tmp_path) == ["image"]
        with pytest.raises(FileError) as caught:
            await box.changes(max_files=3)
        assert caught.value.errno == errno.EFBIG
        await box.commit(tmp_path / "layer", max_bytes=20_000, max_files=30)  # the sparse file counts for what is in it

        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.sendfile", full)
        with pytest.raises(FileError) as caught:
            await box.commit(tmp_path / "other")
        assert caught.value.errno == errno.ENOSPC
        assert sorted(os.listdir(tmp_path)) == ["image", "layer"]
    await anyio.to_thread.run_sync(os.chmod, tmp_path / "layer" / "shut", 0o700)


async def test_a_commit_that_is_cancelled_leaves_nothing(spec: Spec, tmp_path: Path) -> None:
    async with Container(spec) as box:
        await write(box, "for i in $(seq 200); do echo $i > /file$i; done")
        for moment in range(0, 60, 7):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(box.commit, tmp_path / "layer")
                    for _ in range(moment):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            assert os.listdir(tmp_path) == ["image"]
        await box.commit(tmp_path / "layer")
        assert len(os.listdir(tmp_path / "layer")) == 200


SWAP = "while true; do mv /a/real /a/kept; ln -s {target} /a/real; rm /a/real; mv /a/kept /a/real; done"


async def test_no_link_of_a_guests_leads_a_commit_astray(spec: Spec, tmp_path: Path) -> None:
    """A directory that is now and then a link to one of the host's: never followed, neither to read nor to write."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("the host's\n")
    async with Container(spec) as box:
        await write(box, "mkdir -p /a/real; echo mine > /a/real/file; ln -s / /top; ln -s ../../../../../../.. /up")
        layer = await box._ask_file("upper", os.O_DIRECTORY, verb=control.FILE_LAYER)
        async with box.open(["sh", "-c", SWAP.format(target=secret)]):
            astray = False
            while not astray:  # the control: who opens by path is led astray
                with contextlib.suppress(OSError):
                    astray = Path(f"/proc/self/fd/{layer}/a/real/file").read_text() == "the host's\n"
                await anyio.lowlevel.checkpoint()
            for attempt in range(40):
                with contextlib.suppress(FileError):
                    await box.commit(tmp_path / f"layer{attempt}")
                with contextlib.suppress(FileError):
                    await box.changes()
        os.close(layer)
    for folder in tmp_path.glob("layer*"):
        assert all(found.is_symlink() or found.name != "file" or found.read_text() == "mine\n" for found in folder.rglob("*"))
        assert os.readlink(folder / "top") == "/"
    assert os.listdir(secret) == ["file"]


async def test_deeper_than_can_be_walked_is_told(spec: Spec, tmp_path: Path) -> None:
    async with Container(spec) as box:
        await write(box, "cd /; for i in $(seq 120); do mkdir d; cd d; done")
        for work in (box.changes(), box.commit(tmp_path / "layer")):
            with pytest.raises(FileError) as caught:
                await work
            assert caught.value.errno == errno.ENAMETOOLONG
    assert os.listdir(tmp_path) == ["image"]

