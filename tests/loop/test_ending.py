"""How containers and commands end, and what their Exit calls it: the table of reasons."""

from __future__ import annotations

import math
import os
import select
import signal

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, alive, below, python, shell, until

import creche
from creche import Container, CrecheError, Namespaces, Reason, Spec, SpecError
from creche import container as container_module
from creche.lifecycle import State
from creche.process import is_dead
from needs import needs

pytestmark = needs("native", "userns")

STUBBORN = shell("trap '' TERM INT HUP; echo ready; while :; do sleep 1000; done")


def told(box):
    """Whether it is dead, and the init's word of it lies there unread: that comes a moment after the death."""
    return not alive(box.pid) and bool(select.select([box._channel._socket], [], [], 0)[0])


async def ready(stream):
    assert await stream.receive() == b"ready\n"


@pytest.mark.parametrize("init", [True, False])
async def test_kill(init):
    async with Container(Spec(SLEEPER, init=init)) as box:
        box.kill()
        exit = await box
        assert (exit.reason, exit.code, exit.signal, exit.returncode) == (Reason.KILLED, None, 9, -9)
        assert "kill()" in exit.explain()


async def test_kill_ends_every_process_in_it():
    async with Container(Spec(shell("setsid sleep 1000 & (setsid sleep 1000 &) ; sleep 1000 & echo ready; sleep 1000"))) as box:
        await ready(box.stdout)
        inside = below(box.init_pid)
        assert len(inside) >= 4
        box.kill()
        await box
        assert not any(alive(pid) for pid in inside)


@pytest.mark.parametrize("init", [True, False])
async def test_terminate(init):
    async with Container(Spec(SLEEPER, init=init, namespaces=Namespaces(pid=init))) as box:
        box.terminate()
        exit = await box
        assert (exit.reason, exit.signal) == (Reason.SIGNALED, signal.SIGTERM)


async def test_terminate_that_is_obeyed_in_its_own_way():
    async with Container(Spec(shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"))) as box:
        await ready(box.stdout)
        box.terminate()
        exit = await box
        assert (exit.reason, exit.code) == (Reason.EXITED, 5)


@pytest.mark.parametrize("init", [True, False])
async def test_terminate_past_its_grace_is_a_kill(init):
    async with Container(Spec(STUBBORN, init=init)) as box:
        await ready(box.stdout)
        box.terminate(grace=0.1)
        with anyio.fail_after(BOUND):
            exit = await box
        assert (exit.reason, exit.signal) == (Reason.KILLED, 9)
        assert "grace" in exit.explain()


@pytest.mark.parametrize("init", [True, False])
async def test_terminate_while_others_wait_already(init):
    async with Container(Spec(STUBBORN, init=init)) as box, anyio.create_task_group() as tasks:
        await ready(box.stdout)
        tasks.start_soon(box.wait)
        tasks.start_soon(box.wait)
        await anyio.wait_all_tasks_blocked()
        box.terminate(grace=0.05)
        with anyio.fail_after(BOUND):
            assert (await box).reason is Reason.KILLED


async def test_a_command_has_its_own_grace():
    async with Container(Spec()) as box, box.open(STUBBORN) as stubborn, box.open(SLEEPER) as other:
        await ready(stubborn.stdout)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stubborn.wait)
            await anyio.wait_all_tasks_blocked()
            stubborn.terminate(grace=0.05)
        assert stubborn.exit.reason is Reason.KILLED
        assert other.exit is None and box.exit is None


async def test_terminating_a_place_kills_it():
    async with Container(Spec()) as box:
        box.terminate()
        assert (await box).reason is Reason.KILLED


@pytest.mark.parametrize("init", [True, False])
async def test_leaving_the_block_kills_what_runs(init):
    async with Container(Spec(SLEEPER, init=init)) as box:
        pid = box.pid
    assert box.exit.reason is Reason.KILLED and not alive(pid)
    assert "end of its block" in box.exit.explain()


async def test_leaving_the_block_of_a_command_kills_it_and_nothing_else():
    async with Container(Spec(SLEEPER)) as box:
        async with box.open(shell("sleep 1000 & echo $!; sleep 1000")) as process:
            daemon = (await process.stdout.receive()).decode().strip()
        assert process.exit.reason is Reason.KILLED and process.returncode == -9
        assert box.exit is None
        assert (await box.run(["kill", "-0", daemon])).ok


async def test_an_exception_in_the_block_goes_on_once_all_is_dead():
    class Ours(Exception):
        pass

    with pytest.raises(Ours):
        async with Container(Spec(SLEEPER)) as box:
            pid = box.pid
            raise Ours
    assert not alive(pid)


async def test_ended_before_we_acted_is_exited():
    async with Container(Spec(shell("exit 3"))) as box:
        await until(lambda: told(box), "its end, dead and told")
        box.kill()
        assert (await box).reason is Reason.EXITED
    async with Container(Spec(shell("exit 3"), init=False)) as box:
        await box
        box.kill()
        box.terminate()
        box.send_signal(signal.SIGTERM)
        assert box.exit.code == 3


async def test_leaving_the_block_after_an_end_is_that_end():
    async with Container(Spec(shell("exit 3"))) as box:
        await until(lambda: told(box), "its end, dead and told")
    assert (box.exit.reason, box.exit.code) == (Reason.EXITED, 3)


async def test_nothing_happens_to_the_ended():
    async with Container(Spec()) as box:
        async with box.open(["true"]) as process:
            assert await process.wait() == 0
            process.kill()
            process.terminate()
            process.send_signal(signal.SIGTERM)
            assert process.exit.ok
        process.kill()
        process.terminate()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ValueError):
            process.send_signal(1000)


@pytest.mark.parametrize("number", [0, -1, 65, 1000, 10**30, "TERM", "SIGTERM", 15.0, None])
async def test_an_unknown_signal_is_a_value_error(number):
    async with Container(Spec(SLEEPER)) as box, box.open(SLEEPER) as process:
        with pytest.raises(ValueError):
            box.send_signal(number)
        with pytest.raises(ValueError):
            process.send_signal(number)
    async with Container(Spec()) as box:
        with pytest.raises(ValueError):
            box.send_signal(number)
    with pytest.raises(ValueError):
        box.send_signal(number)


async def test_signals_reach_the_main_command():
    async with Container(Spec(shell("trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done"))) as box:
        await ready(box.stdout)
        box.send_signal(signal.SIGUSR1)
        assert await box.stdout.receive() == b"usr1\n"
        box.send_signal(int(signal.SIGINT))
        exit = await box
        assert (exit.reason, exit.signal) == (Reason.SIGNALED, signal.SIGINT)


async def test_a_real_time_signal():
    async with Container(Spec(SLEEPER)) as box:
        box.send_signal(signal.SIGRTMIN + 3)
        assert (await box).signal == signal.SIGRTMIN + 3


async def test_stopped_is_not_ended():
    async with Container(Spec(SLEEPER)) as box:
        box.send_signal(signal.SIGSTOP)
        with anyio.move_on_after(0.1) as scope:
            await box.wait()
        assert scope.cancelled_caught and box.exit is None
        box.send_signal(signal.SIGCONT)
        box.terminate()
        assert (await box).signal == signal.SIGTERM


async def test_killed_from_outside_is_signaled():
    async with Container(Spec(SLEEPER)) as box:
        os.kill(box.pid, signal.SIGKILL)
        exit = await box
        assert (exit.reason, exit.signal) == (Reason.SIGNALED, 9)


async def test_an_init_that_dies_of_something_else_is_lost():
    async with Container(Spec(SLEEPER)) as box, box.open(SLEEPER) as process:
        os.kill(box.init_pid, signal.SIGKILL)
        with anyio.fail_after(BOUND):
            exit = await box
            assert (exit.reason, exit.code, exit.returncode) == (Reason.LOST, None, -9)
            assert await process.wait() == -9 and process.exit.reason is Reason.LOST
        with pytest.raises(CrecheError):
            await box.run(["true"])
        with pytest.raises(CrecheError):
            await box.get("/etc/passwd")


async def test_a_lost_place():
    async with Container(Spec()) as box:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.wait)
            await anyio.wait_all_tasks_blocked()
            os.kill(box.init_pid, signal.SIGKILL)
        assert box.exit.reason is Reason.LOST


async def test_a_lost_container_wakes_everybody():
    """Waiters, readers, whoever starts a command or reads a file."""
    async with Container(Spec(SLEEPER)) as box:
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(box.wait)
                tasks.start_soon(_ends, box.stdout.receive)
                for _ in range(5):
                    tasks.start_soon(_lost, box)
                await anyio.sleep(0.02)
                os.kill(box.init_pid, signal.SIGKILL)


async def _ends(receive):
    with pytest.raises(anyio.EndOfStream):
        await receive()


async def _lost(box):
    try:
        while True:
            result = await box.run(["true"])
            if result.exit.reason is Reason.LOST:
                return
            assert result.ok
    except CrecheError:
        return


async def test_the_programs_own_seccomp_death_is_told():
    """The default filter answers with errors; `strict` kills. What dies of SIGSYS died of its filter."""
    result = await creche.run(python("import os; os.kill(os.getpid(), 31)"))
    assert result.exit.reason is Reason.SECCOMP


async def test_core_dumps_count_as_their_signal():
    result = await creche.run(shell("kill -SEGV $$"))
    assert (result.exit.reason, result.exit.signal) == (Reason.SIGNALED, signal.SIGSEGV)
    assert (await creche.run(shell("kill -SEGV $$"), init=False, namespaces=Namespaces(pid=False))).exit.signal == signal.SIGSEGV


@pytest.mark.parametrize("code", [0, 1, 127, 128, 137, 255])
async def test_statuses_are_what_they_are(code):
    exit = (await creche.run(shell(f"exit {code}"))).exit
    assert (exit.code, exit.signal, exit.reason) == (code, None, Reason.EXITED)


async def test_closing_has_a_deadline(monkeypatch):
    """What does not die (a process that hangs in the kernel) is told, and everything of ours is let go."""
    async with anyio.create_task_group():
        box = Container(Spec(SLEEPER))
        await box.__aenter__()
        pidfd = os.dup(box._pidfd)
        monkeypatch.setattr(container_module, "CLOSING", 0.1)
        monkeypatch.setattr(Container, "_strike", lambda self: None)
        with pytest.raises(CrecheError, match="hangs"):
            await box.__aexit__(None, None, None)
        monkeypatch.undo()
        await anyio.wait_readable(pidfd)  # its socket has ended, so the init did too
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | 0x40000000)
        os.close(pidfd)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (lambda box: box.kill(), Reason.KILLED),
        (lambda box: box.terminate(), Reason.SIGNALED),
        (lambda box: box.send_signal(signal.SIGUSR1), Reason.SIGNALED),
        (lambda box: box.send_signal(signal.SIGUSR1, all=True), Reason.SIGNALED),
    ],
    ids=["kill", "terminate", "send_signal", "all"],
)
async def test_an_order_that_comes_while_it_starts_is_kept(order, reason):
    ends = []

    async def start(box):
        async with box:
            ends.append(await box)

    with anyio.fail_after(BOUND):
        while True:
            box = Container(Spec(SLEEPER))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(start, box)
                while box._state is State.NEW:
                    await anyio.lowlevel.checkpoint()
                came_in_time = box._state is State.STARTING
                order(box)
            if came_in_time:  # else it had started before this task's next turn: once more
                break
    assert ends[-1].reason is reason


@pytest.mark.parametrize("grace", ["x", None, True, -1, math.nan])
async def test_a_grace_that_is_none_is_refused_before_anything_is_sent(grace):
    async with Container(Spec(SLEEPER)) as box:
        with pytest.raises(SpecError, match="grace"):
            box.terminate(grace)
        assert (await box.run(["true"])).ok and box.exit is None


@pytest.mark.parametrize("init", [True, False])
async def test_a_grace_ends_though_nobody_waits(init):
    """The loop runs, and that is all; the control is the same with a grace that has no end."""
    async with Container(Spec(STUBBORN, init=init)) as box, Container(Spec(STUBBORN, init=init)) as other:
        await ready(box.stdout)
        await ready(other.stdout)
        box.terminate(grace=0.1)
        other.terminate(grace=math.inf)
        await until(lambda: is_dead(box.pidfd), "the end of the grace")
        assert not is_dead(other.pidfd)
        exit = await box
        assert (exit.reason, exit.signal) == (Reason.KILLED, 9) and "grace" in exit.explain()


async def test_a_commands_grace_ends_though_nobody_waits():
    async with Container(Spec()) as box, box.open(STUBBORN) as stubborn, box.open(STUBBORN) as other:
        await ready(stubborn.stdout)
        await ready(other.stdout)
        stubborn.terminate(grace=0.1)
        await until(lambda: stubborn.exit is not None, "the end of the grace")
        assert stubborn.exit.reason is Reason.KILLED and "grace" in stubborn.exit.explain()
        assert other.exit is None and box.exit is None


async def test_a_grace_holds_while_only_the_output_is_read():
    async with Container(Spec(STUBBORN)) as box:
        await ready(box.stdout)
        box.terminate(grace=0.1)
        with anyio.fail_after(BOUND):
            async for _ in box.stdout.lines():
                pass
        assert (await box).reason is Reason.KILLED


async def test_whoever_obeys_within_the_grace_is_not_killed_later():
    """Nor is what was terminated kept alive by the clock, or the loop kept from its end."""
    async with Container(Spec(shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"))) as box:
        await ready(box.stdout)
        box.terminate(grace=3600)
        assert (await box).code == 5
        assert box._main._timer is None and box._main._grace_ends is None


def test_a_grace_outlives_no_loop():
    """A container that is left with an hour of grace: the run ends at once, and so does all that was in it."""

    async def leave():
        async with Container(Spec(STUBBORN)) as box:
            await ready(box.stdout)
            box.terminate(grace=3600)
            return box

    for backend, options in (("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})):
        box = anyio.run(leave, backend=backend, backend_options=options)
        assert box.exit.reason is Reason.KILLED
