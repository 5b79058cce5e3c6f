"""Waiting: by many, again, cancelled in between; it ends with the process, whoever holds its pipes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, alive, shell, until

import creche
from creche import Container, CrecheError, Reason, Spec
from needs import needs

pytestmark = needs("native", "userns")


async def test_many_tasks_wait_for_one_end():
    exits = []
    async with Container(Spec(shell("read x; exit 7"))) as box:

        async def wait():
            exits.append(await box.wait())

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not exits
            await box.stdin.send(b"\n")
    assert len(exits) == 50 and {exit.code for exit in exits} == {7}
    assert all(exit is exits[0] for exit in exits)


async def test_waiting_again_and_after_the_block_gives_the_same():
    async with Container(Spec(shell("exit 4"))) as box:
        first = await box.wait()
        assert await box is first and await box.wait() is first
        assert box.exit is first and box.returncode == 4
    assert await box.wait() is first and box.exit is first


async def test_a_cancelled_wait_leaves_the_container_alone():
    async with Container(Spec(shell("read x; exit 5"))) as box:
        for seconds in (0, 0.01, 0.05):
            with anyio.move_on_after(seconds) as scope:
                await box.wait()
            assert scope.cancelled_caught and box.exit is None
        await box.stdin.send(b"\n")
        assert (await box).code == 5


async def test_the_one_who_reads_for_all_may_be_cancelled():
    """Whichever of the waiters is cancelled, the others hear of the end."""
    for victim in range(3):
        exits = []
        async with Container(Spec(shell("read x; exit 7"))) as box, anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(3)]

            async def wait(scope, box=box, exits=exits):
                with scope:
                    exits.append((await box.wait()).code)

            for scope in scopes:
                tasks.start_soon(wait, scope)
            await anyio.wait_all_tasks_blocked()
            scopes[victim].cancel()
            await anyio.wait_all_tasks_blocked()
            await box.stdin.send(b"\n")
            with anyio.fail_after(BOUND):
                await box
        assert exits == [7, 7]


async def test_a_message_that_another_task_reads_wakes_all():
    """`exit` and `kill` look at the socket by themselves; whoever waits for what they find there must hear of it."""
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:
        with anyio.fail_after(BOUND):
            for _ in range(20):
                async with box.open(shell("read x")) as process:
                    tasks.start_soon(_poll, process)
                    await process.stdin.send(b"\n")
                    assert await process.wait() == 0


async def _poll(process):
    while process.exit is None:
        await anyio.lowlevel.checkpoint()


async def test_an_end_that_nobody_waits_for_is_told_too():
    async with Container(Spec(shell("read x; exit 9"))) as box:
        assert box.exit is None and box.returncode is None
        await box.stdin.aclose()
        await until(lambda: box.returncode is not None, "the return code")
        assert box.exit.code == 9
        assert (await box.wait()).code == 9


async def test_of_a_command_too():
    async with Container(Spec()) as box, box.open(shell("exit 9")) as process:
        await until(lambda: process.returncode is not None)
        assert process.returncode == 9 and await process.wait() == 9


async def test_a_grandchild_that_holds_stdout_does_not_keep_the_main_command_waiting():
    async with Container(Spec(shell("sleep 1000 & echo x; exit 3"))) as box:
        with anyio.fail_after(BOUND):
            assert (await box).code == 3
        assert await box.stdout.receive() == b"x\n"


async def test_nor_a_command_in_a_live_container():
    async with Container(Spec()) as box:
        with anyio.fail_after(BOUND):
            async with box.open(shell("sleep 1000 & echo $!; exit 3")) as process:
                assert await process.wait() == 3
                daemon = int(await process.stdout.receive())
            assert (await box.run(["kill", "-0", str(daemon)])).ok  # what it left lives on
            result = await box.run(shell("sleep 1000 & echo x; exit 3"))
            assert (result.returncode, result.stdout) == (3, b"x\n")


async def test_await_alone_starts_waits_and_cleans_up():
    exit = await Container(Spec(shell("cat; exit 6")))
    assert (exit.code, exit.reason) == (6, Reason.EXITED)


async def test_await_alone_is_not_held_by_output_that_nobody_reads():
    with anyio.fail_after(BOUND):
        assert (await Container(Spec(["head", "-c", "5000000", "/dev/zero"]))).ok


async def test_await_alone_cancelled():
    with anyio.move_on_after(0.1) as scope:
        await Container(Spec(SLEEPER))
    assert scope.cancelled_caught


async def test_a_place_waits_until_it_is_killed():
    async with Container(Spec()) as box:
        with anyio.move_on_after(0.1) as scope:
            await box.wait()
        assert scope.cancelled_caught
        box.kill()
        exit = await box
        assert exit.reason is Reason.KILLED and exit.returncode == -signal.SIGKILL


async def test_before_the_start_there_is_nothing_to_wait_for():
    box = Container(Spec(SLEEPER))
    with pytest.raises(CrecheError, match="not been started"):
        await box.wait()
    assert (box.exit, box.returncode, box.pid, box.pidfd, box.stdin, box.stdout) == (None, None, 0, -1, None, None)
    box.kill()
    box.terminate()
    box.send_signal(signal.SIGTERM)
    with pytest.raises(CrecheError):
        await box.run(["true"])
    with pytest.raises(CrecheError):
        await box.get("/etc/passwd")
    with pytest.raises(CrecheError):
        box.resize(10, 10)


async def test_a_container_is_used_once():
    box = Container(Spec(SLEEPER))
    async with box:
        with pytest.raises(CrecheError, match="can't start now"):
            async with box:
                pass
        assert alive(box.pid)
    with pytest.raises(CrecheError, match="used once"):
        async with box:
            pass
    with pytest.raises(CrecheError):
        await box.run(["true"])
    with pytest.raises(CrecheError):
        await box.put("/tmp/x", b"")


async def test_two_tasks_enter_the_same():
    box = Container(Spec(SLEEPER))
    refused = []

    async def enter():
        try:
            async with box:
                await anyio.sleep(0.05)
        except CrecheError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
    assert len(refused) == 1


async def test_the_pids_are_the_hosts():
    async with Container(Spec(SLEEPER)) as box:
        assert alive(box.pid) and alive(box.init_pid) and box.pid != box.init_pid
        assert f"Pid:\t{box.pid}" in Path(f"/proc/self/fdinfo/{box.pidfd}").read_text()
        async with box.open(SLEEPER) as process:
            assert process.pid not in (box.pid, box.init_pid) and alive(process.pid)
            assert Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert not alive(box.init_pid or 0)
    async with Container(Spec()) as box:
        assert box.pid == box.init_pid and alive(box.pid)
    async with Container(Spec(SLEEPER, init=False)) as box:
        assert box.init_pid is None and alive(box.pid)


async def test_waiters_hear_of_the_end_of_the_block():
    """Somebody else leaves the block while tasks wait for the container and for a command in it."""
    heard = []

    async def wait(thing):
        heard.append(await thing.wait())

    async with anyio.create_task_group() as tasks, Container(Spec(SLEEPER)) as box, box.open(SLEEPER) as process:
        tasks.start_soon(wait, box)
        tasks.start_soon(wait, process)
        await anyio.wait_all_tasks_blocked()
    assert len(heard) == 2 and -signal.SIGKILL in heard


async def test_the_host_may_ignore_its_children():
    """SIGCHLD ignored: the kernel reaps the host's children by itself. The init still tells how its commands ended."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with Container(Spec(shell("exit 3"))) as box:
            assert (await box).code == 3
        async with Container(Spec(SLEEPER)) as box:
            box.kill()
            assert (await box).reason is Reason.KILLED
        async with Container(Spec(shell("exit 3"), init=False)) as box:  # only a parent hears of its status
            exit = await box
            assert exit.reason is Reason.LOST and "SIGCHLD" in exit.explain() and "init died" not in exit.explain()
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_host_that_waits_for_any_child_takes_a_status_at_most():
    async with Container(Spec(shell("exit 3"))) as box, Container(Spec(SLEEPER, init=False)) as bare:
        os.kill(bare.pid, signal.SIGKILL)
        with anyio.fail_after(BOUND):
            stolen = 0
            while stolen < 2:
                stolen += os.waitpid(-1, os.WNOHANG)[0] > 0
                await anyio.sleep(0.005)
            assert (await box).code == 3  # the init had told it
            lost = await bare
            assert lost.reason is Reason.LOST and "took its status" in lost.explain()


async def test_children_of_the_host_are_left_alone():
    done = subprocess.Popen(["true"])
    await creche.run(["true"])
    async with await anyio.open_process(["sh", "-c", "exit 5"]) as own:
        async with Container(Spec(["true"])) as box:
            await box
        assert await own.wait() == 5
    assert done.wait() == 0
