"""limits.cpu_time: it ends whoever has used it up, whether anybody waits for that or not, and nobody else."""

from __future__ import annotations

import os
import threading

import anyio
import pytest
from loop.helpers import BOUND, until, wait_for

import creche
from creche import Container, Exit, Limits, Reason, Spec, SpecError
from creche.process import is_dead
from needs import needs

pytestmark = needs("native", "userns", "limits")
PYTHON = ["python3", "-I", "-S", "-c"]
SPINS = [*PYTHON, "print('on', flush=True)\nwhile True: pass"]
#: Uses up so many seconds of processor time.
USES = "import time\nwhile time.process_time() < {}: pass"


def watchers() -> int:
    """Threads that look at processor time."""
    return sum(thread.name == "creche-cpu-time" for thread in threading.enumerate())


def is_spent(exit: Exit | None, limit: float) -> bool:
    return exit is not None and (exit.reason, exit.limit, exit.detail["limit_value"]) == (Reason.TIMEOUT, "limits.cpu_time", limit)


async def test_processor_time_ends_it_and_waiting_does_not() -> None:
    limits = Limits(cpu_time=1)
    spent = (await creche.run([*PYTHON, "while True: pass"], limits=limits, timeout=BOUND)).exit
    assert (spent.reason, spent.limit, spent.detail["limit_value"]) == (Reason.TIMEOUT, "limits.cpu_time", 1)
    assert spent.usage.cpu >= 1
    assert (await creche.run(["sleep", "1.5"], limits=limits, timeout=BOUND)).exit.ok  # the control


async def test_processor_time_is_everybodys_in_it() -> None:
    program = "import os\nfor _ in range(3): os.fork()\nwhile sum(os.times()[:2]) < 0.2: pass\nos.wait() if os.getpid() == 1 else None"
    exit = (await creche.run([*PYTHON, program + "\nimport time; time.sleep(1000)"], limits=Limits(cpu_time=0.8), timeout=BOUND)).exit
    assert (exit.reason, exit.limit) == (Reason.TIMEOUT, "limits.cpu_time")  # eight of 0.2 each; one alone has less than the limit


async def test_processor_time_of_a_place_is_told_with_its_limit() -> None:
    async with Container(Spec(limits=Limits(cpu_time=0.2))) as box:
        async with box.open([*PYTHON, "while True: pass"]):
            with anyio.fail_after(BOUND):
                exit = await box
    assert (exit.reason, exit.limit, exit.detail["limit_value"]) == (Reason.TIMEOUT, "limits.cpu_time", 0.2)


async def test_a_changed_processor_time_is_in_force_for_whoever_waits_already() -> None:
    """Shortened while its end is waited for; the control is the same container before, which has an hour."""
    async with Container(Spec([*PYTHON, "while True: pass"], limits=Limits(cpu_time=3600))) as box, anyio.create_task_group() as tasks:
        tasks.start_soon(box.wait)
        with anyio.move_on_after(0.5):
            await box.wait()
        assert box.exit is None
        await box.update(Limits(cpu_time=0.1))
        with anyio.fail_after(BOUND):
            exit = await box
    assert (exit.reason, exit.detail["limit_value"]) == (Reason.TIMEOUT, 0.1)


async def test_it_ends_one_for_which_nobody_waits_while_the_loop_is_busy() -> None:
    """Two run on and nobody awaits anything; the control is the one that has an hour."""
    async with (
        Container(Spec(SPINS, limits=Limits(cpu_time=0.2))) as box,
        Container(Spec(SPINS, limits=Limits(cpu_time=3600))) as other,
    ):
        wait_for(lambda: is_dead(box.pidfd), "the end of its processor time")
        assert not is_dead(other.pidfd)
        assert is_spent(await box, 0.2)


async def test_it_ends_one_of_which_only_the_output_is_read() -> None:
    async with Container(Spec(SPINS, limits=Limits(cpu_time=0.2))) as box:
        assert box.stdout is not None
        with anyio.fail_after(BOUND):
            async for _ in box.stdout.lines():
                pass
            await until(lambda: box.exit is not None)
        assert is_spent(box.exit, 0.2)


async def test_a_new_limit_is_in_force_though_nobody_waits() -> None:
    """For a container that had one, and for one that had none."""
    for before in (Limits(cpu_time=3600), Limits(pids=50)):
        async with Container(Spec(limits=before)) as box, box.open(SPINS) as running:
            assert running.stdout is not None
            assert await running.stdout.receive() == b"on\n"
            assert not is_dead(box.pidfd)
            await box.update(Limits(cpu_time=0.1))
            await until(lambda: is_dead(box.pidfd), "the end of its processor time")
            assert is_spent(await box, 0.1)


async def test_after_a_reset_it_is_counted_anew() -> None:
    async with Container(Spec(limits=Limits(cpu_time=1))) as box:
        assert (await box.run([*PYTHON, USES.format(0.2)], timeout=BOUND)).exit.ok
        before = (await box.stats()).cpu
        await box.reset()
        after = (await box.stats()).cpu
        assert before is not None and after is not None and before.total >= 0.2 > after.total
        async with box.open(SPINS):
            await until(lambda: is_dead(box.pidfd), "the end of its processor time")
        assert is_spent(await box, 1)


async def test_what_lost_a_process_for_memory_before_it_is_an_oom() -> None:
    """As with any time-out of ours: the command may turn round for want of it. The control is a child that killed itself."""
    for child, reason in (("x = bytearray(128 << 20)", Reason.OOM), ("os.kill(os.getpid(), 9)", Reason.TIMEOUT)):
        program = f"import os\nif not os.fork():\n    {child}\n    os._exit(0)\nprint(os.wait()[1], flush=True)\nwhile True: pass"
        async with Container(Spec([*PYTHON, program], limits=Limits(memory="32M", swap=0, cpu_time=3600))) as box:
            assert box.stdout is not None and await box.stdout.receive() == b"9\n"
            await box.update(Limits(cpu_time=0.01))
            with anyio.fail_after(BOUND):
                assert (await box).reason is reason


async def test_a_command_has_none_of_its_own() -> None:
    """What it leaves behind would run on uncounted, so it is refused, and not passed over."""
    async with Container(Spec(limits=Limits(pids=50))) as box:
        with pytest.raises(SpecError, match=r"limits\.cpu_time") as caught:
            await box.run(["true"], limits=Limits(cpu_time=1))
        assert caught.value.field == "limits.cpu_time"
        assert (await box.run(["true"], limits=Limits(memory="64M"))).exit.ok  # the control


async def test_one_thread_looks_at_all_and_is_gone_with_the_last() -> None:
    assert not watchers()
    async with Container(Spec(limits=Limits(cpu_time=5))), Container(Spec(limits=Limits(cpu_time=5))):
        assert watchers() == 1
        async with Container(Spec(limits=Limits(pids=50))):  # the control: it asks for none
            assert watchers() == 1
    await until(lambda: not watchers(), "the thread's end")


async def test_a_fork_of_the_host_program_can_leave_its_block() -> None:
    """There is no such thread in a fork, and what it held when the fork was made it holds for ever there."""
    async with Container(Spec(SPINS, limits=Limits(cpu_time=3600))) as box:
        for _ in range(20):
            pid = os.fork()
            if not pid:
                box._release()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert box.exit is None
