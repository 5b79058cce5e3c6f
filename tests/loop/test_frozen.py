"""A container at a standstill still ends at once: killed, timed out, cancelled, left."""

from __future__ import annotations

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, supervisor

from creche import Container, Limits, Reason, Spec
from creche.cgroups import Group
from needs import needs

pytestmark = needs("native", "userns", "limits")


def frozen_soon(**fields):
    return Container(Spec(SLEEPER, limits=Limits(pids=50), **fields))


async def test_left():
    with anyio.fail_after(BOUND):
        async with frozen_soon() as box:
            await box.freeze()
    assert box.exit.reason is Reason.KILLED


async def test_killed():
    async with frozen_soon() as box:
        await box.freeze()
        box.kill()
        with anyio.fail_after(BOUND):
            assert (await box).reason is Reason.KILLED


async def test_a_freeze_that_is_cancelled_is_taken_back(monkeypatch):
    async with frozen_soon() as box:
        with monkeypatch.context() as slow, anyio.CancelScope() as scope:
            slow.setattr(Group, "frozen", property(lambda self: False))  # as long as we look
            scope.cancel()
            await box.freeze()
        assert scope.cancelled_caught
        with anyio.fail_after(BOUND):
            assert (await box.run(["echo", "x"])).stdout == b"x\n"


async def test_a_command_that_stands_still_before_its_exec_is_given_up():
    """It enters the frozen cgroup on its way; its time, a cancellation, and the end of the block end it there."""
    async with frozen_soon() as box:
        await box.freeze()
        with anyio.fail_after(BOUND):
            assert (await box.run(SLEEPER, timeout=0.1)).exit.reason is Reason.TIMEOUT
            with anyio.move_on_after(0.1) as scope:
                await box.run(SLEEPER)
            assert scope.cancelled_caught and set(box._processes) == {1}
            await box.thaw()
            assert (await box.run(["echo", "x"])).stdout == b"x\n"


async def test_a_supervisor_that_leaves_while_many_start():
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks, frozen_soon() as box:
            await box.freeze()
            for _ in range(5):
                tasks.start_soon(box.run, SLEEPER)
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()


VERSION_1 = """
import anyio
from creche import Container, Limits, Spec
async def main():
    for kill in (False, True):
        async with Container(Spec(["sleep", "1000"], limits=Limits(pids=50))) as box:
            await box.freeze()
            if kill:
                box.kill()
                print((await box).reason.name, flush=True)
        print(box.exit.reason.name, flush=True)
anyio.run(main)
"""


@pytest.mark.slow
@needs("place-v1")
def test_in_version_1_where_the_frozen_do_not_die(monkeypatch):
    monkeypatch.setenv("CRECHE_CGROUP", "v1")
    with supervisor(VERSION_1) as process:
        assert process.stdout.read() == "KILLED\nKILLED\nKILLED\n"
