"""Each command's writes are a layer: told, taken back, gone to; one command at a time, and nothing of what was undone comes back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import attrs
import pytest
from state.conftest import sh

from creche import (
    Bind,
    Container,
    CrecheError,
    Overlay,
    Reason,
    Security,
    Spec,
    SpecError,
    Symlink,
    Sysfs,
    Tmpfs,
    UnsupportedError,
)
from creche.machine import Machine
from creche.plan.renewal import check_history
from creche.state.layers import Change
from creche.state.undoing import merged
from creche.wire import control
from needs import needs

pytestmark = needs("userns", "overlay", "kernel>=6.7")


@pytest.fixture
def spec(spec: Spec, image: Path) -> Spec:
    return attrs.evolve(spec, rootfs=Overlay([image], history=True))


async def test_each_command_has_a_layer(spec: Spec) -> None:
    async with Container(spec) as box:
        assert (box.history, box.position) == ((), 0)
        await sh(box, "echo 1 > /one; rm /etc/one")
        await sh(box, "echo 2 >> /one; echo 2 > /tmp/two")
        await box.put("/put", b"by us")
        await sh(box, "rm /one; echo 3 > /etc/one")
        assert [layer.number for layer in box.history] == [1, 2, 3]
        assert box.history[2].command == ("sh", "-ec", "rm /one; echo 3 > /etc/one")
        assert await box.diff(1) == [Change("/etc/one", "deleted", "file"), Change("/one", "added", "file")]
        assert await box.diff(2) == [Change("/one", "changed", "file"), Change("/put", "added", "file"), Change("/tmp/two", "added", "file")]
        assert await box.diff(3) == [Change("/etc/one", "added", "file"), Change("/one", "deleted", "file")]
        assert await box.changes() == [Change("/etc/one", "changed", "file"), Change("/put", "added", "file"), Change("/tmp/two", "added", "file")]


async def test_it_goes_back_and_forth(spec: Spec) -> None:
    async with Container(spec) as box:
        for number in range(1, 6):
            await sh(box, f"echo {number} >> /numbers; echo > /tmp/{number}")
        for n in (2, 5, 0, 1, 4, 4, 3):
            await box.at(n)
            assert box.position == n
            assert sorted(await box.listdir("/tmp")) == [str(number) for number in range(1, n + 1)]
            assert (await box.get("/numbers") if n else b"") == b"".join(b"%d\n" % number for number in range(1, n + 1))
        assert len(box.history) == 5
        await box.undo()
        assert await sh(box, "echo x >> /numbers; cat /numbers") == b"1\n2\nx\n"
        assert [layer.number for layer in box.history] == [1, 2, 3]  # what was undone is forgotten
        assert sorted(await box.listdir("/tmp")) == ["1", "2"]
        await box.at(0)
        with pytest.raises(CrecheError, match="nothing is left to undo"):
            await box.undo()
        assert await box.changes() == []
        place = await box._ask_file(".", os.O_RDONLY | os.O_DIRECTORY, verb=control.FILE_LAYER)
        layers = os.listdir(place)
        os.close(place)
        assert len([name for name in layers if name.startswith("u")]) <= 5  # and so are its files


async def test_what_is_mounted_is_the_same_everywhere_and_what_is_not_of_the_root_goes_on(spec: Spec) -> None:
    spec = attrs.evolve(spec, mounts=[*spec.mounts, Tmpfs("/data"), Symlink("/usr", "/app/link")])
    look = "cut -d' ' -f5- /proc/self/mountinfo | grep -v overlay | sed 's/master:[0-9]*//' | sort; ls /dev /app; hostname; ulimit -n"
    async with Container(spec) as box:
        before = await sh(box, look)
        await sh(box, "echo mine > /data/mine; echo mine > /dev/shm/mine")
        for n in (0, 1, 2):
            await box.at(n)
            assert (await box.get("/data/mine"), await box.get("/dev/shm/mine")) == (b"mine\n", b"mine\n")
            assert await sh(box, look) == before
            await sh(box, "true")


async def test_a_merge_of_changes_is_as_one_command_had_made_them() -> None:
    def change(path: str, kind: str, type: str = "file") -> Change:
        return Change(path, kind, type)  # type: ignore[arg-type]

    assert merged([[change("/a", "added")], [change("/a", "deleted")]]) == []
    assert merged([[change("/a", "deleted")], [change("/a", "added", "link")]]) == [change("/a", "changed", "link")]
    assert merged([[change("/a", "changed")], [change("/a", "deleted")]]) == [change("/a", "deleted")]
    assert merged([[change("/a", "added")], [change("/a", "changed")]]) == [change("/a", "added")]
    assert merged([[change("/d", "added", "directory"), change("/d/x", "added")], [change("/d", "deleted", "directory")]]) == []


async def test_a_commit_has_all_of_its_layers_in_one(spec: Spec, image: Path, tmp_path: Path) -> None:
    look = "find / -xdev -not -path '/proc*' | sort | xargs ls -ld --time-style=+ | sed 's/  */ /g' | cut -d' ' -f1,3-4,6-; cat /etc/sub/* /f"
    async with Container(spec) as box:
        await sh(box, "rm -r /etc/sub; echo f > /f; mkdir -p /d/e; echo > /d/e/f")
        await sh(box, "mkdir /etc/sub; echo b > /etc/sub/b; rm -r /d; echo > /d")
        await sh(box, "ln /f /g; rm /d; mkdir /d; rm /etc/two")
        await box.commit(tmp_path / "layer")
        seen = await sh(box, look)
    async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / "layer", image], history=True))) as other:
        assert await sh(other, look) == seen
        assert await other.changes() == []


async def test_one_command_at_a_time_and_what_it_leaves_is_killed_by_the_next(spec: Spec) -> None:
    async with Container(spec) as box:
        async with box.open(["sleep", "1000"]) as process:
            for work in (box.run(["true"]), box.at(0), box.undo()):
                with pytest.raises(CrecheError, match="one at a time"):
                    await work
            assert process.exit is None
        assert process.exit is not None and process.exit.reason is Reason.KILLED
        await sh(box, "setsid sh -c 'while sleep 0.01; do echo x >> /left; done' >/dev/null 2>&1 &")
        assert await sh(box, "cat /proc/[0-9]*/comm | grep -c sleep || true") == b"0\n"
        size = len(await box.get("/left")) if "left" in await box.listdir("/") else 0
        await anyio.sleep(0.05)
        assert (len(await box.get("/left")) if size else 0) == size
        with pytest.raises(CrecheError):
            await box.run(["/nothing"])
        await sh(box, "true")


async def test_a_number_that_the_history_does_not_have_is_refused(spec: Spec, image: Path) -> None:
    async with Container(spec) as box:
        await sh(box, "true")
        for wrong in (-1, 2, True, "1", None):
            with pytest.raises(SpecError):
                await box.at(wrong)  # type: ignore[arg-type]
        for wrong in (0, 2):
            with pytest.raises(SpecError):
                await box.diff(wrong)
    async with Container(attrs.evolve(spec, rootfs=Overlay([image]))) as other:
        assert other.history == ()
        for work in (other.undo(), other.at(0), other.diff(1)):
            with pytest.raises(UnsupportedError, match="history=True"):
                await work


async def test_a_reset_forgets_it(spec: Spec) -> None:
    async with Container(spec) as box:
        for number in range(3):
            await sh(box, f"echo > /{number}")
        await box.undo()
        await box.reset()
        assert (box.history, box.position) == ((), 0)
        assert await box.changes() == []
        await sh(box, "echo > /again")
        assert await box.diff(1) == [Change("/again", "added", "file")]
        await box.undo()
        assert "again" not in await box.listdir("/")


async def test_sixty_layers_and_more(spec: Spec) -> None:
    async with Container(spec) as box:
        for number in range(64):
            await sh(box, f"echo {number} > /{number}; echo {number} > /last")
        for n in (1, 60, 10, 64):
            await box.at(n)
            assert await box.get("/last") == b"%d\n" % (n - 1)


async def test_a_command_that_leaves_no_room_can_be_undone(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither bytes nor inodes: what an overlay makes to be mounted has its place all the same."""
    fill = r"""
import itertools, os
os.mkdir("/full")
try:
    for number in itertools.count(): open(f"/full/{number}", "x")
except OSError as error: print(error.errno, number > 1000)
"""
    monkeypatch.setattr("creche.starting.UPPER_SIZE", 8 << 20)  # to be filled in less time
    async with Container(spec) as box:
        await sh(box, "echo > /1")
        assert b"No space left" in (await box.run(["sh", "-c", "head -c 9M /dev/zero > /file"])).stderr
        told = await box.run(["python3", "-c", fill])
        assert told.stdout.split() == [b"28", b"True"], told
        for _ in range(4):
            result = await box.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do > /again$i; done"])
            assert b"No space left" in result.stderr
        await box.at(1)
        await sh(box, "echo 2 > /2; for i in $(seq 100); do > /again$i; done; head -c 6M /dev/zero > /new")


async def test_a_step_that_is_cancelled_is_finished(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo > /one")
        assert box.init_pid
        os.kill(box.init_pid, signal.SIGSTOP)  # or it might be over before we look
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(box.undo)
                while not box._resetting:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
                os.kill(box.init_pid, signal.SIGCONT)
        names = await box.listdir("/")
        assert ("one" in names) is (box.position == 1)
        await sh(box, "echo > /two")


def test_what_could_not_move_to_another_root_is_refused(image: Path) -> None:
    root = Overlay([image], history=True)
    for spec in (Spec(rootfs=root, mounts=[Tmpfs("/a/b")]), Spec(rootfs=root, devices=["/dev/fuse"])):
        with pytest.raises(UnsupportedError):
            check_history(spec, Machine.example())
    with pytest.raises(UnsupportedError, match=r"6\.7"):
        check_history(Spec(rootfs=root), attrs.evolve(Machine.example(), kernel=(6, 6, 0)))
    for fields in ({"target": "/x"}, {"readonly": True}, {"upper": "/u", "work": "/w"}):
        with pytest.raises(SpecError, match="history"):
            Overlay([image], history=True, **fields)


SHOWN = [Bind("/proc", "/p", readonly=True), Bind("/sys", "/t", readonly=True), Sysfs("/s")]
LOOK = "for p in /p /proc; do grep -q . $p/interrupts 2>/dev/null && echo $p; done; for s in /s /t; do ls $s/firmware/* >/dev/null 2>&1 && echo $s; done; true"


async def test_what_is_covered_is_covered_in_every_layer(spec: Spec) -> None:
    """Binds are mounted anew in each root: with their covers (D5)."""
    async with Container(attrs.evolve(spec, mounts=[*spec.mounts, *SHOWN])) as box:
        for n in (0, 0, 1, 0):
            await box.at(n)
            assert await sh(box, LOOK + "; echo >> /one") == b""
    bare = Security(masked_paths=(), readonly_paths=())
    async with Container(attrs.evolve(spec, mounts=[*spec.mounts, *SHOWN], security=bare)) as box:
        for _ in range(2):
            assert (await sh(box, LOOK)).split() == [
                b"/p",
                b"/proc",
                *([b"/s", b"/t"] if os.listdir("/sys/firmware") else []),
            ]  # the control


async def test_paths_that_a_spec_covers_itself_are_so_in_every_layer(spec: Spec) -> None:
    security = Security(masked_paths=["/proc/interrupts", "/sys/firmware"], readonly_paths=())
    mounts = [*spec.mounts, Bind("/proc", "/proc", readonly=True), Sysfs()]
    look = "grep -q . /proc/interrupts && echo seen; ls /sys/firmware; grep -q . /proc/cpuinfo && echo there"
    async with Container(attrs.evolve(spec, mounts=mounts, security=security)) as box:
        for _ in range(2):
            assert await sh(box, look) == b"there\n"
