"""A pool's containers through what befalls them: a guest's OOM, cancellation at each await, a close, a storm, the supervisor's death."""

from __future__ import annotations

import os
import signal

import anyio
import pytest
from loop.helpers import SLEEPER, alive, below, cancelled_at, supervisor, wait_for
from loop.test_killed import adopting

from creche import Limits, Pool, Reason, Spec
from needs import needs

pytestmark = needs("userns")


@needs("limits")
async def test_a_guest_that_runs_out_of_memory_is_the_end_of_nobody_else() -> None:
    bomb = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    async with Pool(Spec(limits=Limits(memory="64M")), size=2, maximum=2, reuse="reset") as pool:
        async with pool.acquire() as other, other.open(SLEEPER) as neighbour:
            result = await pool.run(["python3", "-S", "-c", bomb], timeout=60)
            assert result.exit.reason is Reason.OOM
            assert (await pool.run(["true"])).exit.oom_kills == 0  # the next guest of that container, with figures of its own
            assert neighbour.exit is None


async def test_cancelled_at_every_await_of_a_lease_and_its_return() -> None:
    async with Pool(Spec(), size=1, maximum=1, reuse="reset") as pool:

        async def use() -> None:
            async with pool.acquire() as box:
                await box.run(["true"])

        for number in range(1, 200):
            with anyio.fail_after(20), anyio.CancelScope() as scope:
                driven = cancelled_at(use(), number, scope)
                await driven
            figures = pool.statistics()
            assert (figures.leased, figures.waiting) == (0, 0), f"cancelled at await {number}"
            assert (await pool.run(["echo", "well"])).stdout == b"well\n"
            if driven.count < number:
                assert number > 2, "nothing was tried"
                return
        raise AssertionError("it never ended")


async def test_a_pool_that_closes_while_one_is_leased_leaves_nothing() -> None:
    mine = below(os.getpid())
    pool = Pool(Spec(), size=1, maximum=2, reuse="reset")
    leased, closed = anyio.Event(), anyio.Event()

    async def use() -> None:
        async with pool.acquire():
            leased.set()
            await closed.wait()

    async with anyio.create_task_group() as tasks:
        async with pool:
            tasks.start_soon(use)
            await leased.wait()
        closed.set()
    assert below(os.getpid()) <= mine


@pytest.mark.slow
async def test_a_storm_of_guests_of_whom_some_die_and_some_are_cancelled() -> None:
    seen = 0
    async with Pool(Spec(), size=2, maximum=4, reuse="reset") as pool:

        async def guest(number: int) -> None:
            nonlocal seen
            with anyio.move_on_after(0.02 if number % 5 == 1 else None):
                async with pool.acquire() as box:
                    assert await box.listdir("/tmp") == []
                    await box.put("/tmp/mine", b"secret")
                    if number % 5 == 2:
                        box.kill()
                    elif number % 5 == 3:
                        await box.run(["sh", "-c", "kill -9 $$"])
                    else:
                        assert (await box.run(["cat", "/tmp/mine"])).stdout == b"secret"
                    seen += 1

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(guest, number)
        figures = pool.statistics()
        assert figures.leased == figures.waiting == 0
        assert seen >= 48 and figures.served >= seen


SERVICE = """
import sys, anyio
from creche import Pool, Spec
async def use(pool, up):
    async with pool.acquire() as box, box.open(["sleep", "1000"]):
        up.set()
        await anyio.sleep(1000)
async def main():
    async with Pool(Spec(), size=3, reuse="reset") as pool, anyio.create_task_group() as tasks:
        for _ in range(4):
            up = anyio.Event()
            tasks.start_soon(use, pool, up)
            await up.wait()
        print("up", flush=True)
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kill_9_of_the_supervisor_ends_the_ready_and_the_leased(backend: str) -> None:
    with adopting(), supervisor(SERVICE, backend) as process:
        assert process.stdout.readline() == "up\n"
        inside = below(process.pid)
        assert len(inside) >= 4 + 4
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not any(alive(pid) for pid in inside), "the end of all containers")
