"""Several attempts from one state: none sees another, one is kept, and of the others nothing is left."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from state.conftest import sh

from creche import (
    Container,
    CrecheError,
    FileError,
    Overlay,
    Reason,
    Security,
    Spec,
    SpecError,
    Tmpfs,
    UnsupportedError,
)
from creche.state.branching import Branches
from creche.state.layers import Change
from needs import needs

pytestmark = needs("userns", "overlay", "kernel>=6.7")


@pytest.fixture
def spec(spec: Spec, image: Path) -> Spec:
    return attrs.evolve(spec, rootfs=Overlay([image], history=True))


async def test_each_begins_from_the_state_and_one_is_kept(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo state > /app/state; rm /etc/one; echo tmp > /tmp/mine")
        async with box.branches(3) as branches:
            for number, branch in enumerate(branches):
                assert await sh(branch, "cat /app/state /tmp/mine; ls /etc") == b"state\ntmp\nlink\nsub\ntwin\ntwo\n"
                await sh(branch, f"echo {number} >> /app/state; echo > /{number}; rm /etc/two; ps -e >/dev/null 2>&1 || true")
            for number, branch in enumerate(branches):
                assert [change.path for change in await branch.changes()] == [f"/{number}", "/app/state", "/etc/two"]
                assert await branch.get("/app/state") == b"state\n%d\n" % number
            assert await box.get("/app/state") == b"state\n"
            await branches.keep(1)
            assert branches.kept == 1
            assert all(branch.exit is not None for branch in branches)
            assert await sh(box, "cat /app/state; ls /1 /etc/") == b"state\n1\n/1\n\n/etc/:\nlink\nsub\ntwin\n"
        assert await box.changes() == [
            Change("/1", "added", "file"), Change("/app/state", "added", "file"), Change("/etc/one", "deleted", "file"),
            Change("/etc/two", "deleted", "file"), Change("/tmp/mine", "added", "file"),
        ]  # fmt: skip


async def test_what_a_kept_branch_ran_is_in_the_history_and_can_be_undone(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo 1 > /1")
        await sh(box, "echo gone > /gone")
        await box.undo()
        async with box.branches(2) as branches:
            await sh(branches[1], "echo 2 > /2")
            await sh(branches[1], "echo 3 > /3")
            await sh(branches[1], "echo 4 > /4")
            await branches[1].undo()
            assert [layer.number for layer in branches[1].history] == [1, 2, 3]
            await branches.keep(branches[1])
        assert [(layer.number, layer.command[-1]) for layer in box.history] == [(1, "echo 1 > /1"), (2, "echo 2 > /2"), (3, "echo 3 > /3")]
        assert box.position == 3
        assert await box.diff(3) == [Change("/3", "added", "file")]
        await sh(box, "echo 5 > /5; ls")
        for n in (3, 1, 4, 2, 0):
            await box.at(n)
            assert [name for name in sorted(await box.listdir("/")) if name.isdecimal()] == ["1", "2", "3", "5"][:n]
        await sh(box, "true")  # and with the history the files are gone
        assert box._trees == set()


async def test_what_was_put_belongs_to_the_state(spec: Spec) -> None:
    async with Container(spec) as box:
        await box.put("/put", b"before")
        async with box.branches(2) as branches:
            await branches[0].put("/new", b"in the branch")
            assert [await branch.get("/put") for branch in branches] == [b"before", b"before"]
            await branches.keep(0)
        assert (box.history, await box.get("/new"), await box.get("/put")) == ((), b"in the branch", b"before")
        await sh(box, "echo > /one")
        assert await box.diff(1) == [Change("/new", "added", "file"), Change("/one", "added", "file"), Change("/put", "added", "file")]
        await box.undo()
        assert not {"new", "put", "one"} & set(await box.listdir("/"))


async def test_where_none_is_kept_it_is_as_it_was(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo 1 > /1")
        await box.put("/put", b"x")
        for _ in range(3):
            async with box.branches(2) as branches:
                await sh(branches[0], "rm -r /etc /1 /put")
        assert branches.kept is None
        assert sorted(await box.listdir("/etc")) == ["link", "one", "sub", "twin", "two"]
        assert await box.get("/put") == b"x"
        assert (len(box.history), box.position) == (1, 1)
        with pytest.raises(ValueError, match="quits"):
            async with box.branches(2):
                raise ValueError("quits")
        assert await sh(box, "cat /1 /put") == b"1\nx"


async def test_a_branch_that_did_nothing_may_be_kept(spec: Spec) -> None:
    async with Container(spec) as box:
        for _ in range(2):
            async with box.branches(1) as branches:
                await branches.keep(0)
        assert (await box.changes(), box.history) == ([], ())
        await sh(box, "true")


async def test_branches_of_branches(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo 0 > /0")
        for turn in ("a", "b"):
            async with box.branches(2) as branches:
                await sh(branches[0], f"echo > /{turn}1")
                async with branches[0].branches(2) as inner:
                    await sh(inner[0], f"rm /{turn}1")
                    await sh(inner[1], f"echo > /{turn}2")
                    async with inner[1].branches(1) as innermost:
                        await sh(innermost[0], f"echo > /{turn}3; ls /; rm /0; echo 0 > /0")
                        assert [change.path for change in await innermost[0].changes()] == ["/0", f"/{turn}3"]
                        await innermost.keep(0)
                    await inner.keep(1)
                assert [change.path for change in await branches[0].changes()] == ["/0", f"/{turn}1", f"/{turn}2", f"/{turn}3"]
                await sh(branches[0], f"echo > /{turn}4")
                await branches.keep(0)
        assert len(box.history) == 9
        assert {f"{turn}{number}" for turn in "ab" for number in range(1, 5)} < set(await box.listdir("/"))
        await box.at(5)
        assert set("0") | {f"a{number}" for number in range(1, 5)} == {name for name in await box.listdir("/") if name[0] in "0ab" and len(name) < 3}


async def test_nothing_runs_in_the_container_while_they_are_open(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "setsid sleep 1000 >/dev/null 2>&1 & echo > /1")
        async with box.branches(1) as branches:
            for work in (
                lambda: box.run(["true"]), lambda: box.at(0), box.undo, box.reset, lambda: box.put("/x", b""), lambda: box.remove("/1"),
                lambda: box.branches(1).__aenter__(), lambda: box.open_file("/x", "wb").__aenter__(), box.audit,
            ):  # fmt: skip
                with pytest.raises(CrecheError, match=r"branches are open|nothing runs"):
                    await work()
            assert await box.get("/1") == b"\n"
            assert [change.path for change in await box.changes()] == ["/1"]
            await branches.keep(0)
            await sh(box, "echo > /2")
            await box.put("/3", b"")
        async with box.open(["sleep", "1000"]):
            with pytest.raises(CrecheError, match="a command is running"):
                await box.branches(1).__aenter__()
        async with box.open_file("/file", "wb") as file:
            await file.send(b"x")
            with pytest.raises(CrecheError, match="is being written"):
                await box.branches(1).__aenter__()
        async with box.branches(1) as branches:
            assert await branches[0].get("/file") == b"x"


async def test_a_choice_that_is_none_is_refused(spec: Spec, image: Path) -> None:
    async with Container(spec) as box:
        for wrong in (0, -1, True, "2", 1000):
            with pytest.raises(SpecError):
                await box.branches(wrong).__aenter__()  # type: ignore[arg-type]
        async with box.branches(2) as branches:
            assert isinstance(branches, Branches)
            assert (len(branches), branches[0] in branches, box in branches) == (2, True, False)
            wrongs: list[Any] = [2, -1, True, box, "0", None]
            for choice in wrongs:
                with pytest.raises(SpecError):
                    await branches.keep(choice)
            await branches.keep(0)
            with pytest.raises(CrecheError, match="any more: one is"):
                await branches.keep(1)
        async with box.branches(1) as later:
            pass
        with pytest.raises(CrecheError, match="block was left"):
            await later.keep(0)
        async with box.branches(1) as other:
            with pytest.raises(CrecheError, match="any more"):
                await later.keep(0)
            assert other.kept is None
    async with Container(attrs.evolve(spec, rootfs=Overlay([image]))) as plain:
        with pytest.raises(UnsupportedError, match="history=True"):
            await plain.branches(2).__aenter__()
    with pytest.raises(CrecheError, match="not been started"):
        await Container(spec).branches(2).__aenter__()


async def test_processes_of_branches_are_gone_and_those_of_the_kept_one_are_killed(spec: Spec) -> None:
    async with Container(spec) as box, box.branches(2) as branches:
        async with branches[0].open(["sleep", "1000"]) as one, branches[1].open(["sh", "-c", "echo > /up; exec sleep 1000"]) as two:
            while "up" not in await branches[1].listdir("/"):
                await anyio.sleep(0.01)
            inits = [branch.init_pid for branch in branches]
            await branches.keep(1)
            for process in (one, two):
                assert process.exit is not None
                assert process.exit.reason is Reason.KILLED
        for pid in inits:
            assert pid
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert "up" in await box.listdir("/")
        assert await sh(box, "cat /proc/[0-9]*/comm | grep -c sleep || true") == b"0\n"


async def test_a_branch_sees_nothing_of_another(spec: Spec) -> None:
    plant = "echo x > /mine; echo x > /tmp/mine; echo x > /dev/shm/mine; ipcmk -Q >/dev/null; setsid sleep 12345 >/dev/null 2>&1 & "
    look = "ls / /tmp /dev/shm | grep mine || true; tail -n +2 /proc/sysvipc/msg; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 1234[5]' || true"
    async with Container(spec) as box, box.branches(2) as branches:
        await sh(branches[0], plant)
        assert (await sh(branches[0], "ls / /tmp | grep -c mine")).split() == [b"2"]  # the control: where it was planted it is seen
        assert await sh(branches[1], look) == b""
        namespaces = [os.readlink(f"/proc/{branch.init_pid}/ns/{name}") for branch in (box, *branches) for name in ("user", "pid", "mnt", "net", "ipc", "uts")]
        assert len(set(namespaces)) == len(namespaces)


async def test_what_is_mounted_beside_the_root_is_each_ones_own(spec: Spec) -> None:
    spec = attrs.evolve(spec, mounts=[*spec.mounts, Tmpfs("/data")])
    async with Container(spec) as box:
        await sh(box, "echo box > /data/mine")
        async with box.branches(1) as branches:
            assert await branches[0].listdir("/data") == []
            await sh(branches[0], "echo branch > /data/mine")
            await branches.keep(0)
        assert await box.get("/data/mine") == b"box\n"


async def test_a_branch_may_be_reset_and_begins_again(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo state > /state; rm /etc/one")
        async with box.branches(1) as branches:
            branch = branches[0]
            for _ in range(3):
                await sh(branch, "echo more >> /state; echo > /etc/one; echo > /new")
                await branch.reset()
                assert (await branch.changes(), await branch.get("/state"), branch.history) == ([], b"state\n", ())
                assert "one" not in await branch.listdir("/etc")
            await sh(branch, "echo again >> /state")
            await branches.keep(0)
        assert await box.get("/state") == b"state\nagain\n"
        await box.reset()
        assert (await box.changes(), box.history, box._trees) == ([], (), set())
        await sh(box, "cat /etc/one")


async def test_a_commit_of_a_branch_is_the_whole_state(spec: Spec, image: Path, tmp_path: Path) -> None:
    async with Container(spec) as box:
        await sh(box, "echo 1 > /1; ln /1 /same; rm /etc/one")
        async with box.branches(2) as branches:
            await sh(branches[1], "echo 2 > /2; rm -r /etc/sub; mkdir /etc/sub")
            await branches[1].commit(tmp_path / "branch")
            await branches.keep(1)
        await box.commit(tmp_path / "box")
    for layer in ("branch", "box"):
        async with Container(attrs.evolve(spec, rootfs=Overlay([tmp_path / layer, image]))) as other:
            assert await sh(other, "cat /1 /2; stat -c %h /same; ls /etc /etc/sub") == b"1\n2\n2\n/etc:\nlink\nsub\ntwin\ntwo\n\n/etc/sub:\n"


async def test_a_dead_branch_can_not_be_kept_and_the_others_can(spec: Spec) -> None:
    async with Container(spec) as box:
        async with box.branches(2) as branches:
            await sh(branches[1], "echo > /1")
            branches[0].kill()
            await branches[0].wait()
            with pytest.raises(CrecheError, match="ended"):
                await branches.keep(0)
            assert branches.kept is None
            await branches.keep(1)
        assert "1" in await box.listdir("/")


async def test_a_branch_outlives_its_container_and_can_not_be_kept_then(spec: Spec) -> None:
    async with Container(spec) as box:
        await sh(box, "echo state > /state")
        async with box.branches(1) as branches:
            box.kill()
            await box.wait()
            await sh(branches[0], "echo more >> /state; cat /state")
            with pytest.raises(CrecheError, match="ended"):
                await branches.keep(0)
        assert branches[0].exit is not None


async def test_bytes_are_bounded_for_all_layers_together(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch may write what its container has left, so that no number of kept ones is more than one container may have."""
    monkeypatch.setattr("creche.starting.UPPER_SIZE", 16 << 20)  # to be filled in less time
    async with Container(spec) as box:
        await sh(box, "head -c 9M /dev/zero > /big")
        async with box.branches(1) as branches:
            result = await branches[0].run(["sh", "-c", "head -c 9M /dev/zero > /more"])
            assert b"No space left" in result.stderr
            await branches[0].undo()
            await sh(branches[0], "head -c 3M /dev/zero > /more")
            await branches.keep(0)
        async with box.branches(1) as branches:
            assert b"No space left" in (await branches[0].run(["sh", "-c", "head -c 5M /dev/zero > /last"])).stderr
        await box.at(0)
        await sh(box, "true")
        async with box.branches(1) as branches:
            await sh(branches[0], "head -c 9M /dev/zero > /more")  # the control: there is room where nothing is kept


async def test_a_keep_for_which_there_is_no_room_changes_nothing(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.starting.UPPER_SIZE", 8 << 20)  # to be filled in less time
    fill = "mkdir /full; cd /full; python3 -c 'import itertools\nfor n in itertools.count(): open(str(n), \"x\")' 2>/dev/null || true; ls | wc -l"
    async with Container(spec) as box:
        assert int(await sh(box, fill)) > 1000
        async with box.branches(1) as branches:
            await sh(branches[0], "rm /full/1; echo > /new")
            with pytest.raises(FileError) as caught:
                await branches.keep(0)
            assert caught.value.errno == errno.ENOSPC
            assert (branches.kept, "new" in await box.listdir("/"), await branches[0].get("/new")) == (None, False, b"\n")


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_a_keep_that_is_cancelled_is_done_or_not(spec: Spec, moment: int) -> None:
    async with Container(spec) as box:
        await sh(box, "echo > /before")
        async with box.branches(2) as branches:
            await sh(branches[1], "echo > /after")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(branches.keep, 1)
                    for _ in range(moment):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            kept = branches.kept == 1
            assert ("after" in await box.listdir("/")) is kept
            assert (len(box.history), box.position) == (1 + kept, 1 + kept)
            if not kept:
                await branches.keep(1)
        assert await sh(box, "ls / | grep -e before -e after") == b"after\nbefore\n"


@pytest.mark.parametrize("moment", [0, 1, 2, 5, 10, 20, 40, 80])
async def test_branches_whose_start_is_cancelled_leave_nothing(spec: Spec, moment: int) -> None:
    async with Container(spec) as box:
        await sh(box, "echo > /1")
        with anyio.CancelScope() as scope:

            async def attempt() -> None:
                async with box.branches(3):
                    await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(attempt)
                for _ in range(moment):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert box._branches is None
        await sh(box, "cat /1; echo > /2")


async def test_a_branch_that_fails_to_start_takes_the_others_along(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Container._start
    begun: list[Container] = []

    async def third(self: Container) -> None:
        begun.append(self)
        if len(begun) == 4:
            raise CrecheError("no more")
        await start(self)

    monkeypatch.setattr(Container, "_start", third)
    async with Container(spec) as box:
        with pytest.raises(CrecheError, match="no more"):
            await box.branches(3).__aenter__()
        assert all(branch.exit is not None for branch in begun[1:3])
        await sh(box, "true")


async def test_the_death_of_a_container_in_the_middle_of_a_keep_is_told(spec: Spec) -> None:
    async with Container(spec) as box:
        async with box.branches(1) as branches:
            await sh(branches[0], "echo > /1")
            assert box.init_pid
            os.kill(box.init_pid, signal.SIGSTOP)
            async with anyio.create_task_group() as tasks:

                async def keep() -> None:
                    with pytest.raises(CrecheError):
                        await branches.keep(0)

                tasks.start_soon(keep)
                await anyio.wait_all_tasks_blocked()
                os.kill(box.init_pid, signal.SIGKILL)
            assert branches.kept is None
        await box.wait()


@needs("root")
async def test_a_range_of_ids_is_held_as_long_as_a_branch_lives(spec: Spec) -> None:
    async with contextlib.AsyncExitStack() as stack:
        box = await stack.enter_async_context(Container(spec))
        branches = await stack.enter_async_context(box.branches(1))
        assert box._range
        assert (box._range.base, box._range.count) == (branches[0]._range.base, branches[0]._range.count)  # type: ignore[union-attr]
        box.kill()
        await box.wait()
        box._range.close()
        taken = []
        for _ in range(4):  # the next ones get others, round the clock
            other = await stack.enter_async_context(Container(spec))
            assert other._range
            taken.append(other._range.base)
        assert branches[0]._range
        assert branches[0]._range.base not in taken


async def test_owners_modes_and_attributes_are_those_that_the_branch_gave(spec: Spec) -> None:
    program = r"""
import os
os.makedirs("/d/e"); open("/d/f", "w").write("f"); os.link("/d/f", "/d/g"); os.mkfifo("/d/p"); os.symlink("x", "/d/l")
os.setxattr("/d/f", "user.key", b"value"); os.chmod("/d/f", 0o4711); os.chmod("/d/e", 0); os.utime("/d/f", (1, 2))
"""
    look = r"""
import os
for name in sorted(os.listdir("/d")):
    s = os.lstat("/d/" + name); print(name, oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, s.st_mtime_ns if name == "f" else "")
print(os.getxattr("/d/f", "user.key"), os.readlink("/d/l"), os.path.samefile("/d/f", "/d/g"))
"""
    spec = attrs.evolve(spec, security=Security(capabilities=["CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID"]))
    async with Container(spec) as box:
        async with box.branches(1) as branches:
            await branches[0].run(["python3", "-c", program], check=True)
            seen = (await branches[0].run(["python3", "-c", look], check=True)).stdout
            await branches.keep(0)
        assert (await box.run(["python3", "-c", look], check=True)).stdout == seen
