"""Task.cancel of asyncio, which knows no scopes: what `asyncio.timeout`, `wait_for`, its TaskGroup and Ctrl-C do, once or again and again."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop
from loop.helpers import BOUND, SLEEPER, Suspending, alive, below
from loop.test_cancelling import USES

from creche import Container, JobQueue, Pool, Reason, Spec, Supervisor
from creche.supervisor import ChildSpec
from needs import needs

pytestmark = [needs("native", "userns"), pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])]

MORE = 4  # cancellations after the first, at the awaits that follow


def cancel_from(number):
    """Cancels the running task at its await of this number, and at some that follow."""

    def now(count):
        if number <= count <= number + MORE:
            asyncio.current_task().cancel()

    return now


async def everywhere(use):
    """Runs `use()` in a task that is cancelled from its first await on, from its second, … until it ends before that comes."""
    mine = below(os.getpid())
    for number in range(1, 100):
        driven = Suspending(use(), cancel_from(number))

        async def task(driven=driven):
            await driven

        made = asyncio.ensure_future(task())
        done, _ = await asyncio.wait([made], timeout=BOUND)
        assert done, f"cancelled from await {number} on: it never ended"
        if driven.count < number:
            made.result()
            assert number > 1, "the count of awaits is wrong: nothing was tried"
            return
        if not made.cancelled() and made.exception() is not None:
            raise made.exception()
        assert below(os.getpid()) <= mine, f"cancelled from await {number} on: something lives on"
    raise AssertionError("it never ended")


@pytest.mark.parametrize("name", USES)
def test_from_every_await_on(run, name):
    run(everywhere(USES[name]))


async def a_pool():
    async with Pool(Spec(), size=2) as pool:
        while pool.statistics().ready < 2:
            await asyncio.sleep(0.001)


async def a_supervisor():
    async with Supervisor([ChildSpec("one", Spec(SLEEPER))]) as sup:
        await sup.wait_ready()


@pytest.mark.parametrize("use", [a_pool, a_supervisor])
def test_what_holds_containers_leaves_none(run, use):
    async def main():
        mine = below(os.getpid())
        for after in (0.0, 0.02, 0.1):
            task = asyncio.ensure_future(use())
            await asyncio.sleep(after)
            for _ in range(MORE):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([task], timeout=BOUND)
            assert task.done() and below(os.getpid()) <= mine

    run(main())


def test_a_timeout_of_asyncio_while_the_block_is_left(run):
    async def main():
        async with asyncio.timeout(None) as limit:
            box = Container(Spec(SLEEPER))
            try:
                async with box:
                    pid = box.pid
                    limit.reschedule(0)  # it has come already: the first await is interrupted
            finally:
                assert not alive(pid) and box.exit.reason is Reason.KILLED

    with pytest.raises(TimeoutError):
        run(main())


def test_the_place_outlives_a_command_whose_task_was_cancelled_again_and_again(run):
    async def main():
        async with Container(Spec()) as box:
            before = below(box.init_pid)

            async def opened():
                async with box.open(SLEEPER):
                    await asyncio.sleep(0)

            for use in (lambda: box.run(SLEEPER, timeout=0.01), opened):
                await everywhere(use)
            assert below(box.init_pid) <= before and set(box._processes) == {1}
            assert (await box.run(["true"])).ok

    run(main())


def test_a_queue_whose_user_was_cancelled_goes_on(run, tmp_path):
    """The thread that writes for a cancelled task writes for others, too: they hear of it when it is in the file, and not before."""

    async def main():
        async with JobQueue(tmp_path / "jobs.db", workers=1) as queue:
            for turns in range(24):
                tasks = [asyncio.ensure_future(queue.submit(["true"])) for _ in range(4)]
                for _ in range(turns % 8):
                    await asyncio.sleep(0)
                tasks[0].cancel()
                await asyncio.wait(tasks)
                assert [task.result().id > 0 for task in tasks[1:]] == [True] * 3

    run(main())
