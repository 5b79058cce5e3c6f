"""Two hundred commands live in one container, each with what is its own; a signal goes to one of them or to all."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, python, shell

from creche import Container, CrecheError, Limits, Process, Reason, Spec
from creche.machine import probe
from needs import needs

pytestmark = needs("native", "userns")
TELL = "read word; echo $word $N $PWD $(umask) $(ulimit -n) $(id -u):$(id -g) $(nice) >&2; read word; exit $N"


@pytest.mark.slow
async def test_two_hundred_at_once_each_with_its_own() -> None:
    """Streams, directory, variables, umask, limits, priority, and where ids are ours to give a user."""
    many = probe().may_map_ids
    async with Container(Spec()) as box, contextlib.AsyncExitStack() as stack:
        await box.run(shell("cd /tmp; for n in $(seq 0 199); do mkdir -m 777 $n; done"), check=True)
        processes = []
        for n in range(200):
            fields: dict[str, Any] = {"user": f"{1000 + n}:{3000 + n}"} if many else {}
            command = box.open(shell(TELL), env={"N": str(n)}, cwd=f"/tmp/{n}", umask=n % 8, rlimits={"nofile": 100 + n}, nice=n % 20, **fields)
            processes.append(await stack.enter_async_context(command))
        assert len({process.pid for process in processes}) == 200
        with anyio.fail_after(BOUND):
            for n, process in reversed([*enumerate(processes)]):
                assert process.stdin is not None and process.stderr is not None and process.exit is None
                await process.stdin.send(b"word%d\n" % n)
                who = f"{1000 + n}:{3000 + n}" if many else "0:0"
                told = b""
                while not told.endswith(b"\n"):
                    told += await process.stderr.receive()
                assert told.decode() == f"word{n} {n} /tmp/{n} {n % 8:04o} {100 + n} {who} {n % 20}\n"
            for process in processes:
                assert process.stdin is not None
                await process.stdin.aclose()
            for n, process in enumerate(processes):
                assert await process.wait() == n
                assert process.exit is not None
                assert process.exit.reason is Reason.EXITED
                assert process.exit.usage.wall > 0 and process.exit.usage.memory_peak


@pytest.mark.slow
async def test_two_hundred_terminals() -> None:
    async with Container(Spec()) as box, contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(box.open(shell("tty; stty size; read word; echo $word"), tty=(24, 40 + n))) for n in range(200)]
        names = set()
        with anyio.fail_after(BOUND):
            for n, process in enumerate(processes):
                assert process.stdin is not None and process.stdout is not None
                await process.stdin.send(b"word%d\n" % n)
                told = b""
                with contextlib.suppress(anyio.EndOfStream):
                    while True:
                        told += await process.stdout.receive()
                lines = told.split()
                names.add(lines[0] if lines[0].startswith(b"/dev/pts/") else lines[1])  # the echo of the word may come first
                assert b"24 %d" % (40 + n) in told and told.count(b"word%d" % n) == 2
        assert len(names) == 200 and all(name.startswith(b"/dev/pts/") for name in names)


#: Blocked from the beginning, so that none comes in a moment in which nobody waits.
WAITS = "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGUSR1]); print('up', flush=True); s.sigwait([s.SIGUSR1]); raise SystemExit(7)"


async def up(stack: contextlib.AsyncExitStack, box: Container) -> Process:
    process = await stack.enter_async_context(box.open(python(WAITS)))
    assert process.stdout is not None
    assert await process.stdout.receive() == b"up\n"
    return process


async def test_a_signal_goes_to_one_or_to_all() -> None:
    async with Container(Spec()) as box, contextlib.AsyncExitStack() as stack:
        await box.run(shell("setsid sleep 12345 >/dev/null 2>&1 &"))
        processes = [await up(stack, box) for _ in range(5)]
        processes[2].send_signal(signal.SIGUSR1)
        with anyio.fail_after(BOUND):
            assert await processes[2].wait() == 7
        assert [process.exit is None for process in processes] == [True, True, False, True, True]  # the control: those go on
        box.send_signal(signal.SIGUSR1, all=True)
        with anyio.fail_after(BOUND):
            for process in processes:
                assert await process.wait() == 7
            while (await box.run(shell("cat /proc/[0-9]*/comm | grep sleep"))).ok:  # what a command left behind heard it, too
                await anyio.sleep(0.01)
        assert box.exit is None and (await box.run(["true"])).ok


async def test_a_signal_to_all_beside_a_main_command() -> None:
    async with Container(Spec(python(WAITS))) as box, contextlib.AsyncExitStack() as stack:
        assert box.stdout is not None
        assert await box.stdout.receive() == b"up\n"
        other = await up(stack, box)
        box.send_signal(signal.SIGUSR1, all=True)
        with anyio.fail_after(BOUND):
            assert (await box).code == 7
            assert await other.wait() in (7, -9)  # the end of the main command is its own


async def test_a_signal_that_would_go_nowhere_is_refused() -> None:
    async with Container(Spec()) as box:
        with pytest.raises(CrecheError, match="all=True"):
            box.send_signal(signal.SIGTERM)
        for wrong in (0, 1000):
            with pytest.raises(ValueError, match="is not a signal: give a number"):
                box.send_signal(wrong, all=True)
        assert box.init_pid
        os.kill(box.init_pid, signal.SIGSTOP)
        try:
            with pytest.raises(CrecheError, match="busy"):
                for _ in range(100_000):
                    box.send_signal(signal.SIGCONT, all=True)
        finally:
            os.kill(box.init_pid, signal.SIGCONT)
        assert (await box.run(["true"])).ok
        box.kill()
        await box.wait()
        box.send_signal(signal.SIGTERM, all=True)
    box.send_signal(signal.SIGTERM)
    box.send_signal(signal.SIGTERM, all=True)


async def test_without_an_init_there_is_no_signal_to_all() -> None:
    async with Container(Spec(SLEEPER, init=False)) as box:
        with pytest.raises(CrecheError, match="no init"):
            box.send_signal(signal.SIGTERM, all=True)
        assert box.exit is None


@needs("limits")
async def test_a_command_has_limits_of_its_own_and_its_end_by_them_is_its_own() -> None:
    eat = ["python3", "-S", "-c", "x = bytearray(200 << 20); print(len(x))"]
    async with Container(Spec(limits=Limits(memory="512M", pids=400))) as box, box.open(["cat"]) as other:
        assert (await box.run(eat)).ok  # the control: the container's own limits allow it
        small = await box.run(eat, limits=Limits(memory="32M"))
        assert small.exit.reason is Reason.OOM and small.exit.oom_kills
        assert other.exit is None and other.stdin is not None and other.stdout is not None
        await other.stdin.send(b"alive\n")
        assert await other.stdout.receive() == b"alive\n"
        forks = shell("for i in $(seq 30); do sleep 5 & done; wait")
        few = await box.run(forks, limits=Limits(pids=10), timeout=20)  # it gives up by itself
        assert b"fork" in few.stderr.lower()
        assert b"fork" not in (await box.run(forks, timeout=0.5)).stderr.lower()
