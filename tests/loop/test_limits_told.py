"""What a limit does to a container, as its supervisor is told: the reason, the limit, the events, the figures; and limits that change."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import anyio
import pytest
from loop.helpers import BOUND, all_descriptors

import creche
from creche import Container, CrecheError, Limits, Reason, Spec, SpecError, UnsupportedError
from needs import needs

pytestmark = needs("native", "userns", "limits")
PYTHON = ["python3", "-I", "-S", "-c"]
MEMORY = Limits(memory="32M", swap=0, pids=50)
BOMB = [*PYTHON, "x = bytearray(128 << 20)"]
#: Loses a child to the OOM killer, or (the control) to its own SIGKILL, says how, and goes on.
LOSES = "import os, signal, sys, time\nif not os.fork():\n    {}\n    os._exit(0)\nprint(os.wait()[1], flush=True)\n{}"
OOM, OWN = "x = bytearray(128 << 20)", "os.kill(os.getpid(), 9)"


async def test_an_oom_names_its_limit_and_what_to_do() -> None:
    result = await creche.run([*PYTHON, "import sys; print('so far', file=sys.stderr, flush=True); x = bytearray(128 << 20)"], limits=MEMORY)
    exit = result.exit
    assert (exit.reason, exit.signal, exit.limit, exit.oom_kills) == (Reason.OOM, 9, "limits.memory", 1)
    assert exit.detail["limit_value"] == 32 << 20
    assert "give it more than limits.memory of 32M" in exit.explain() and "so far" in exit.explain()


async def test_an_oom_is_told_with_the_limit_in_force_and_not_with_that_of_the_spec() -> None:
    async with Container(Spec([*PYTHON, "input(); x = bytearray(128 << 20)"], limits=Limits(memory="1G", swap=0))) as box:
        await box.update(Limits(memory="32M"))
        assert box.stdin is not None
        await box.stdin.send(b"\n")
        exit = await box
    assert (exit.reason, exit.detail["limit_value"]) == (Reason.OOM, 32 << 20)


async def test_a_commands_own_limit_is_the_one_that_is_named() -> None:
    async with Container(Spec(limits=Limits(memory="1G", swap=0))) as box:
        exit = (await box.run(BOMB, limits=Limits(memory="24M"))).exit
    assert (exit.reason, exit.limit, exit.detail["limit_value"]) == (Reason.OOM, "limits.memory", 24 << 20)


async def test_our_own_sigkill_is_no_oom_even_after_a_childs() -> None:
    for kill in (False, True):
        ending = "time.sleep(1000)" if kill else OOM
        async with Container(Spec([*PYTHON, LOSES.format(OOM, ending)], limits=MEMORY)) as box:
            assert box.stdout is not None
            assert await box.stdout.receive() == b"9\n"
            if kill:
                box.send_signal(signal.SIGKILL)
            exit = await box
        assert (exit.reason, exit.signal) == ((Reason.SIGNALED if kill else Reason.OOM), 9)  # the control: the kernel's own
        assert exit.oom_kills == (1 if kill else 2)


@pytest.mark.parametrize(("child", "reason"), [(OOM, Reason.OOM), (OWN, Reason.TIMEOUT)], ids=["oom", "control"])
@pytest.mark.parametrize("place", [False, True], ids=["whole", "in a place"])
async def test_a_timeout_of_what_lost_a_process_for_memory_is_an_oom(child: str, reason: Reason, place: bool) -> None:
    """It may wait for it in vain; whose death was no OOM's, is late and nothing else. Killed as a time-out does it, once the child is dead."""
    command = [*PYTHON, LOSES.format(child, "time.sleep(1000)")]
    async with contextlib.AsyncExitStack() as stack:
        box = await stack.enter_async_context(Container(Spec(None if place else command, limits=MEMORY)))
        running = await stack.enter_async_context(box.open(command)) if place else box
        assert running.stdout is not None and await running.stdout.receive() == b"9\n"
        if isinstance(running, Container):
            running._kill(Reason.TIMEOUT, limit="timeout")
        else:
            running.limit = "timeout"
            running._kill(Reason.TIMEOUT)
        await running.wait()
        exit = running.exit
    assert exit is not None and (exit.reason, exit.signal) == (reason, 9)
    assert exit.limit == ("limits.memory" if child == OOM else "timeout")


async def test_a_childs_oom_is_an_event_and_the_command_goes_on() -> None:
    async with Container(Spec([*PYTHON, LOSES.format(OOM, "input()")], limits=MEMORY)) as box:
        with anyio.fail_after(BOUND):
            async with contextlib.aclosing(box.events()) as events:
                async for event in events:
                    if event.kind == "oom_kill":
                        break
        assert (event.count, event.total, event.limit) == (1, 1, "limits.memory")
        assert box.stdin is not None
        await box.stdin.send(b"\n")
        exit = await box
    assert (exit.reason, exit.oom_kills) == (Reason.EXITED, 1) and exit.ok


async def test_events_end_with_the_container_and_tell_its_last() -> None:
    """Also of what came with the end itself; without an OOM there is none to tell."""
    for command, kills in ((BOMB, ["oom_kill"]), (["true"], [])):
        async with Container(Spec([*PYTHON, "input(); import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", *command], limits=MEMORY)) as box:
            told: list[str] = []

            async def listen(box: Container = box, told: list[str] = told) -> None:
                async for event in box.events():
                    told.append(event.kind)

            with anyio.fail_after(BOUND):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(listen)
                    await anyio.wait_all_tasks_blocked()
                    assert box.stdin is not None
                    await box.stdin.send(b"\n")
            assert [kind for kind in told if kind == "oom_kill"] == kills


async def test_a_limit_changes_in_a_running_container_and_not_at_all_where_a_part_is_refused() -> None:
    async with Container(Spec([*PYTHON, "input(); x = bytearray(96 << 20); print('held', flush=True); input()"], limits=MEMORY)) as box:
        with pytest.raises((UnsupportedError, CrecheError)):
            await box.update(Limits(memory="24M", hugetlb={"4MB": 4 << 20}))
        await box.update(Limits(memory="256M"))
        assert box.stdin is not None and box.stdout is not None
        await box.stdin.send(b"\n")
        assert await box.stdout.receive() == b"held\n"
        memory = (await box.stats()).memory
        assert memory is not None and memory.limit == 256 << 20 and (memory.current or 0) > 96 << 20


async def test_what_ended_badly_for_want_of_processes_says_so() -> None:
    """The control has as many as it wants, and ends as badly."""
    for limit, said in ((3, True), (50, False)):
        exit = (await creche.run(["sh", "-c", "for i in 1 2 3 4 5; do sleep 0 & done; wait; exit 2"], limits=Limits(pids=limit))).exit
        assert exit.code == 2, exit
        assert ("limits.pids refused it a process" in exit.explain()) is said


@pytest.mark.parametrize("nonsense", ["64M", None, {"memory": "64M"}], ids=["text", "none", "a table"])
async def test_what_are_no_limits_changes_nothing_and_is_told(nonsense: Any) -> None:
    async with Container(Spec(limits=MEMORY)) as box:
        with pytest.raises(SpecError, match=r"give Limits, such as Limits\(memory=") as caught:
            await box.update(nonsense)
        assert caught.value.field == "limits"
        await box.update(Limits(memory="48M"))  # the control
        memory = (await box.stats()).memory
        assert memory is not None and memory.limit == 48 << 20


async def test_figures_by_the_container_and_by_process_and_as_they_change() -> None:
    async with Container(Spec(["sh", "-c", "sleep 1000 & sleep 1000 & echo; read _"], limits=MEMORY)) as box:
        assert box.stdin is not None and box.stdout is not None
        await box.stdout.receive()
        names: list[str] = []
        with anyio.fail_after(BOUND):
            while sorted(names) != ["sh", "sleep", "sleep"]:
                names = [process.name for process in await box.processes()]
                await anyio.sleep(0.01)
            assert box.pid in [process.pid for process in await box.processes()]
            looks = 0
            async for stats in box.watch(0.01):  # it ends with the container
                looks += 1
                assert stats.cpu is not None and stats.memory is not None and (stats.memory.current or 0) > 0
                if looks == 1:
                    assert stats.pids == 3
                    await box.stdin.send(b"\n")
        assert looks > 0 and box.exit is not None and box.exit.ok


#: What a mixture of ends is told as: an OOM, its own SIGKILL, the status that a shell gives for it, and a good end.
ENDS = [
    ("x = bytearray(64 << 20)", Reason.OOM, 1),
    ("import os; os.kill(os.getpid(), 9)", Reason.SIGNALED, 0),
    ("raise SystemExit(137)", Reason.EXITED, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, pytest.param(900, marks=pytest.mark.long)])
async def test_ooms_in_parallel_none_missed_and_none_invented(count: int) -> None:
    gate, told = anyio.Semaphore(300), []

    async def one(number: int) -> None:
        program, reason, kills = ENDS[number % 3]
        async with gate:
            exit = (await creche.run([*PYTHON, program], limits=Limits(memory="24M", swap=0, pids=10))).exit
        told.append((exit.reason, exit.oom_kills) == (reason, kills))
        assert told[-1], exit

    with all_descriptors(), anyio.fail_after(60 + 3 * count):  # seconds; a guest kernel on a busy machine takes two for each
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, number)
    assert told == [True] * count
